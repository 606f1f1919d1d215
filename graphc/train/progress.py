"""A progress bar for training: steps of all epochs, the last measures, time left."""

from __future__ import annotations

import re
from types import TracebackType
from typing import TYPE_CHECKING, Any

from graphc import tree

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Progress", "describe"]


class Progress:
    """A bar over the steps of ``epochs``; a context.

    Where the output is no terminal, rich prints the bar once, at the end.
    """

    def __init__(self, epochs: int, steps_per_epoch: int | None, *, shown: bool = True) -> None:
        self.epochs = epochs
        self.epoch = 0
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        if shown:
            self._bar, self._task = _make_bar(epochs, steps_per_epoch)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    def say(self, line: str) -> None:
        """Print a line above the bar; nothing where no bar is shown."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)

    def epoch_done(self, training: Any, measures: Any, best: bool) -> None:
        """Show the means of an epoch, and a star where it is the best so far."""
        self.epoch += 1
        if self._bar is None or self._task is None:
            return
        shown = describe("train", training) + describe("test", measures) + (" *" if best else "")
        self._bar.update(
            self._task, description=f"epoch {self.epoch}/{self.epochs}", measures=shown
        )


def describe(label: str, means: Any) -> str:
    """Means on one line.

    >>> describe("test", {"loss": 0.12345, "accuracy": 0.975}), describe("train", 2.0)
    (' test loss 0.1235 accuracy 0.9750', ' train 2.0000')
    """
    values, form = tree.flatten(means)
    if not values:
        return ""
    names = [re.sub(r"[\[\]'.]+", ".", path).strip(".") for path in form.paths()]
    parts = [f"{name} {value:.4f}".strip() for name, value in zip(names, values, strict=True)]
    return f" {label} " + " ".join(parts)


def _make_bar(epochs: int, steps_per_epoch: int | None) -> tuple[RichProgress, TaskID]:
    from rich import progress as rich_progress  # heavy, and only a shown bar needs it

    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(bar_width=16),
        rich_progress.TaskProgressColumn(),
        rich_progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        rich_progress.TextColumn("{task.fields[measures]}"),
    )
    total = None if steps_per_epoch is None else epochs * steps_per_epoch
    return bar, bar.add_task(f"epoch 1/{epochs}", total=total, measures="")
