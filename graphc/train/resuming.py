"""Checkpoints that a run goes on from, to the same bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphc import checkpoint, random
from graphc.errors import StateError

__all__ = ["Checkpoint"]


class Checkpoint:
    """A file that ``fit`` writes after every so many epochs, and goes on from.

    Its roots are the model, the optimizer, whatever else a step writes; the default generator of
    random numbers is among them. The file is replaced as a whole, after an epoch: an interruption,
    Ctrl-C or worse, leaves the last one. ``fit(..., checkpoint=c, resume=True)`` puts everything
    back, the order of coming batches (where they count epochs, as those of ``graphc.data``) and the
    best epoch so far included, and trains on as if nothing had happened: the same bits as without
    interruption.

    >>> import graphc as gc
    >>> Checkpoint("run.safetensors", every=5, net=gc.nn.Linear(2, 1)).every
    5
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1, **roots: Any) -> None:
        if every < 1:
            raise ValueError(f"Checkpoint: every is at least 1 epoch, not {every}")
        if not roots:
            raise ValueError("Checkpoint: name what to save: Checkpoint(path, net=net, opt=opt)")
        taken = sorted({"graphc_rng", "graphc_best"} & set(roots))
        if taken:
            raise ValueError(f"Checkpoint: {', '.join(taken)} is a name of fit's own")
        self.path, self.every, self.roots = Path(path), every, roots

    def write(self, epoch: int, batches: Iterable[Any], watched: Mapping[str, Any]) -> None:
        """After ``epoch`` (counted from 1), where it is due."""
        if epoch % self.every:
            return
        meta = {
            "epoch": epoch,
            "next_order": getattr(batches, "epoch", None),
            "best": watched["value"],
            "waited": watched["waited"],
        }
        kept = {"graphc_best": _Kept(watched["kept"])} if watched["kept"] else {}
        rng = {"graphc_rng": random.default}
        checkpoint.save(self.path, meta=meta, **self.roots, **rng, **kept)

    def read(self, batches: Iterable[Any], keep: int) -> dict[str, Any] | None:
        """Put everything back: {"epoch", "value", "waited", "kept"}, or None where no file is."""
        if not self.path.exists():
            return None
        kept = _Kept([])
        wanted = {"graphc_best": kept} if keep else {}
        try:
            meta = checkpoint.restore(self.path, **self.roots, graphc_rng=random.default, **wanted)
        except StateError:
            if not keep:
                raise
            # no epoch was the best when it was written
            meta = checkpoint.restore(self.path, **self.roots, graphc_rng=random.default)
        if meta["next_order"] is not None:
            batches.epoch = meta["next_order"]  # type: ignore[attr-defined]
        found = {"epoch": meta["epoch"], "value": meta["best"], "waited": meta["waited"]}
        return found | {"kept": kept.states}


class _Kept:
    """The states of the best epoch, as arrays ``0.name``, ``1.name``... in a checkpoint."""

    def __init__(self, states: list[Mapping[str, Any]]) -> None:
        self.states = [dict(state) for state in states]

    def state_dict(self) -> dict[str, Any]:
        return {
            f"{place}.{name}": np.asarray(array)
            for place, state in enumerate(self.states)
            for name, array in state.items()
        }

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        parts: dict[int, dict[str, Any]] = {}
        for full, array in d.items():
            place, _, name = full.partition(".")
            parts.setdefault(int(place), {})[name] = array

        def commit() -> None:
            self.states = [parts[place] for place in sorted(parts)]

        return commit
