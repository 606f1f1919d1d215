"""The training loop: epochs of steps, a measure after each, stopping when it no longer improves.

::

    for each epoch:  step(*batch) for each batch  ->  means of its outputs
                     evaluate(...)                ->  the monitored measure  ->  best so far?
                     callbacks(epoch)             ->  True stops
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from operator import length_hint
from typing import Any, Protocol

from graphc import tree
from graphc.checkpoint import save as save_checkpoint
from graphc.executable import Executable
from graphc.records import dataclass
from graphc.train.measuring import Means, as_arguments, evaluate
from graphc.train.progress import Progress
from graphc.train.resuming import Checkpoint

__all__ = ["Epoch", "History", "fit"]


class Restorable(Protocol):
    """What has a state to go back to: a Module, an optimizer."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. ``number`` counts from 1; ``seconds`` are of its steps alone."""

    number: int
    steps: int
    seconds: float
    training: Any  # means of the step's outputs, structured like them; NaN where it has none
    measures: Any  # of ``evaluate``, or None
    best: bool  # the monitored measure is the best so far


@dataclass(frozen=True)
class History:
    """Every epoch of a run."""

    epochs: tuple[Epoch, ...]
    stopped_early: bool = False

    @property
    def best(self) -> Epoch:
        """The last epoch that improved the monitored measure; without one, the last epoch."""
        if not self.epochs:
            raise ValueError("this run had no epoch of its own: it was complete when resumed")
        improved = [epoch for epoch in self.epochs if epoch.best]
        return improved[-1] if improved else self.epochs[-1]

    @property
    def seconds_per_step(self) -> float:
        """The median epoch's; the first one compiles."""
        each = sorted(e.seconds / e.steps for e in self.epochs if e.steps)
        return each[len(each) // 2] if each else math.nan


Callback = Callable[[Epoch], "bool | None"]


@dataclass
class _Monitor:
    """Follows one measure: whether it improved, and how many epochs ago."""

    name: str | None
    larger_is_better: bool
    keep: Sequence[Restorable]
    value: float | None = None
    waited: int = 0
    kept: list[Any] = field(default_factory=list)

    def improved(self, measures: Any) -> bool:
        new = _measure(measures, self.name)
        sign = 1 if self.larger_is_better else -1
        # NaN is never better, and anything is better than nothing
        better = not math.isnan(new) and (self.value is None or sign * new > sign * self.value)
        self.waited = 0 if better else self.waited + 1
        if better:
            self.value = new
            self.kept = [thing.state_dict() for thing in self.keep]
        return better

    def restore(self) -> None:
        for thing, state in zip(self.keep, self.kept, strict=False):
            thing.load_state_dict(state)


def fit(
    step: Callable[..., Any],
    batches: Iterable[Any],
    *,
    epochs: int,
    evaluate: tuple[Callable[..., Any], Iterable[Any]] | None = None,
    monitor: str | None = None,
    larger_is_better: bool = False,
    patience: int | None = None,
    keep_best: Sequence[Restorable] = (),
    save: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> History:
    """Call ``step`` on every batch, ``epochs`` times; returns what each epoch gave.

    ``batches`` is iterated anew each epoch (``graphc.data.batches`` reshuffles then).
    ``evaluate=(executable, batches)`` measures after each epoch; ``monitor`` names the entry of
    its outputs that is watched (needed where there are several), the smaller the better unless
    ``larger_is_better``. After ``patience`` epochs without improvement training stops.
    ``keep_best`` (modules, optimizers) get back their state of the best epoch at the end.
    ``save={"path": "best", "net": net, "opt": opt}`` writes these by ``graphc.save`` after each
    epoch that is the best so far (without ``evaluate``, after each), its number as ``meta``.
    ``checkpoint`` writes all that the run needs to go on; with ``resume`` it goes on from there,
    where the file exists, to the same bits (see ``Checkpoint``); the history has the new epochs.
    ``callbacks`` see each ``Epoch``; one that returns True ends the run. ``progress`` draws a bar.

    A batch of another size, as a partial last one is, is another binding of a default ``Dim``: one
    more program is compiled in the first epoch, once, and a line above the bar says so. With
    ``Dim(..., specialize=False)`` one program serves all sizes; ``data.batches(...,
    drop_last=True)`` leaves that batch out.

    >>> losses = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    >>> test = lambda rows: next(losses), [([0.0],)]
    >>> run = fit(sum, [([1.0, 2.0],)], epochs=9, evaluate=test, patience=2, progress=False)
    >>> len(run.epochs), run.best.number, run.stopped_early
    (4, 2, True)
    """
    _check_arguments(epochs, evaluate, monitor, patience, keep_best)
    tested = () if evaluate is None else evaluate[1]
    for what, given in (("batches", batches), ("the batches of evaluate", tested)):
        if epochs > 1 and isinstance(given, Iterator):
            raise ValueError(
                f"fit: {what} are a {type(given).__name__}, which gives its items once, and there "
                f"are {epochs} epochs: give something that can be iterated anew, as data.batches"
            )
    keep = _saver(save)
    watch = _Monitor(monitor, larger_is_better, keep_best)
    done: list[Epoch] = []
    before = _resumed(checkpoint, resume, batches, watch)
    stopped = patience is not None and watch.waited >= patience
    sizes = _Sizes(step)
    with Progress(epochs, _length(batches), shown=progress) as bar:
        while before + len(done) < epochs and not stopped:
            number = before + len(done) + 1
            epoch = _run_epoch(number, step, batches, evaluate, watch, bar, sizes)
            done.append(epoch)
            if epoch.best or evaluate is None:
                keep(epoch)
            if checkpoint is not None:
                checkpoint.write(epoch.number, batches, vars(watch))
            bar.epoch_done(epoch.training, epoch.measures, epoch.best)
            # every callback sees the epoch, so no short circuit
            asked = [callback(epoch) is True for callback in callbacks]
            stopped = any(asked) or (patience is not None and watch.waited >= patience)
    watch.restore()
    return History(tuple(done), stopped_early=stopped and before + len(done) < epochs)


def _resumed(
    checkpoint: Checkpoint | None, resume: bool, batches: Iterable[Any], watch: _Monitor
) -> int:
    """How many epochs were done before, everything as it was after them."""
    if resume and checkpoint is None:
        raise ValueError("fit: resume=True needs checkpoint=Checkpoint(path, net=net, opt=opt)")
    found = checkpoint.read(batches, len(watch.keep)) if checkpoint and resume else None
    if found is None:
        return 0
    watch.value, watch.waited, watch.kept = found["value"], found["waited"], found["kept"]
    return int(found["epoch"])


def _run_epoch(
    number: int,
    step: Callable[..., Any],
    batches: Iterable[Any],
    test: tuple[Callable[..., Any], Iterable[Any]] | None,
    watch: _Monitor,
    bar: Progress,
    sizes: _Sizes,
) -> Epoch:
    means = Means("fit")
    steps, seconds = 0, 0.0
    for batch in batches:
        arguments = as_arguments(batch)
        start = time.perf_counter()
        outputs = step(*arguments)
        taken = time.perf_counter() - start
        seconds += taken
        sizes.called(len(arguments[0]), taken, bar)
        means.add(outputs, len(arguments[0]))
        steps += 1
        bar.advance()
    measures = None if test is None else evaluate(*test)
    best = test is not None and watch.improved(measures)
    return Epoch(number, steps, seconds, means.result(), measures, best)


class _Sizes:
    """Says where a step was compiled once more, for a batch of another size."""

    def __init__(self, step: object) -> None:
        self.step = step if isinstance(step, Executable) else None
        self.rows: set[int] = set()
        self.programs = self._count()

    def called(self, rows: int, seconds: float, bar: Progress) -> None:
        """After a call with ``rows`` rows."""
        if self.step is None or rows in self.rows:
            return
        first = not self.rows
        self.rows.add(rows)
        before, self.programs = self.programs, self._count()
        if first or self.programs == before:
            return
        bar.say(
            f"{self.step.name}: compiled once more, for a batch of {rows} rows ({seconds:.1f} s); "
            "Dim(..., specialize=False) or batches(..., drop_last=True) saves it"
        )

    def _count(self) -> int:
        return 0 if self.step is None else len(self.step.compiled_sizes)


def _saver(save: Mapping[str, Any] | None) -> Callable[[Epoch], None]:
    """What writes the checkpoint of an epoch."""
    if save is None:
        return lambda epoch: None
    roots = dict(save)
    path = roots.pop("path", None)
    if path is None or not roots:
        raise ValueError('fit: save names a file and what to write: {"path": "best", "net": net}')
    return lambda epoch: save_checkpoint(path, meta={"epoch": epoch.number}, **roots)


def _check_arguments(
    epochs: int,
    test: object,
    monitor: str | None,
    patience: int | None,
    keep_best: Sequence[Restorable],
) -> None:
    if epochs < 1:
        raise ValueError(f"fit: epochs must be at least 1, not {epochs}")
    if patience is not None and patience < 1:
        raise ValueError(f"fit: patience must be at least 1 epoch, not {patience}")
    if test is None and (monitor is not None or patience is not None or keep_best):
        raise ValueError(
            "fit: monitor, patience and keep_best need evaluate=(executable, batches) to watch"
        )


def _measure(measures: Any, name: str | None) -> float:
    """The monitored scalar among the outputs of ``evaluate``."""
    if name is None:
        values = tree.leaves(measures)
        if len(values) != 1:
            raise ValueError(
                f"fit: evaluate gives {len(values)} measures, so say which one to watch: monitor="
            )
        return float(values[0])
    if not isinstance(measures, dict) or name not in measures:
        names = list(measures) if isinstance(measures, dict) else type(measures).__name__
        raise ValueError(f"fit: monitor={name!r} is not among the measures of evaluate: {names}")
    return float(measures[name])


def _length(batches: Iterable[Any]) -> int | None:
    """How many there are; None where it is not known, as of a generator that a thread reads."""
    known = length_hint(batches, -1)
    return None if known < 0 else known
