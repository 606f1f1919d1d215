"""A run that was interrupted goes on to the same bits."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import data, nn, optim
from graphc.train import Checkpoint, fit

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 4)).astype(np.float32)
Y = rng.integers(0, 3, 24)


class Run:
    """A net with dropout, momentum and shuffled batches: much that could be forgotten."""

    def __init__(self, seed: int, path: Path, *, ahead: bool = False) -> None:
        gc.manual_seed(seed)
        x, y = gc.observed("x", (gc.Dim("B"), 4)), gc.observed("y", (gc.Dim("B"),), gc.int64)
        self.net = nn.Linear(4, 8) >> nn.BatchNorm1d(8) >> nn.Dropout(0.3) >> nn.Linear(8, 3)
        loss = nn.CrossEntropyLoss()(self.net(x), y)
        self.opt = optim.Adam(lr=0.01)
        self.step = gc.compile([x, y], loss, self.opt.minimize(loss))
        self.test = gc.compile([x, y], loss)
        plain = data.batches(X, Y, 8, shuffle=True, seed=5)
        self.batches: Any = data.prefetch(plain) if ahead else plain
        self.checkpoint = Checkpoint(path, net=self.net, opt=self.opt)
        self.calls = 0

    def fit(self, epochs: int = 5, stop_at: int | None = None, **options: Any) -> Any:
        """Train; Ctrl-C comes in the middle of step ``stop_at``."""

        def step(x: Any, y: Any) -> Any:
            self.calls += 1
            if self.calls == stop_at:
                signal.raise_signal(signal.SIGINT)
            return self.step(x, y)

        evaluate = self.test, data.batches(X, Y, 24)
        return fit(step, self.batches, epochs=epochs, evaluate=evaluate, keep_best=[self.net],
                   checkpoint=self.checkpoint, progress=False, **options)  # fmt: skip

    def held(self) -> dict[str, Any]:
        rng_state = {f"rng.{n}": a for n, a in gc.random.default.state_dict().items()}
        return {**self.net.state_dict(), **self.opt.state_dict(), **rng_state}


@pytest.fixture(autouse=True)
def _randomness() -> Any:
    yield
    gc.manual_seed(0)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_run_that_ctrl_c_stopped_goes_on_to_the_same_bits(tmp_path: Path, ahead: bool) -> None:
    whole = Run(1, tmp_path / "whole", ahead=ahead)
    history = whole.fit()
    first = Run(1, tmp_path / "parts", ahead=ahead)
    with pytest.raises(KeyboardInterrupt):
        first.fit(stop_at=8)  # three steps an epoch: in the third
    for stop, seed in ((2, 7), (None, 8)):  # two epochs are done: stopped again in the next one
        again = Run(seed, tmp_path / "parts", ahead=ahead)
        assert (again.net.state_dict()["0.weight"] != whole.net.state_dict()["0.weight"]).any()
        if stop is not None:
            with pytest.raises(KeyboardInterrupt):
                again.fit(stop_at=stop, resume=True)
            continue
        rest = again.fit(resume=True)
    assert [e.number for e in rest.epochs] == [3, 4, 5]
    for ours, theirs in zip(rest.epochs, history.epochs[2:], strict=True):
        assert (ours.training, ours.measures, ours.best) == (
            theirs.training, theirs.measures, theirs.best)  # fmt: skip
    wanted = whole.held()
    for name, array in again.held().items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)


def test_the_best_epoch_is_remembered(tmp_path: Path) -> None:
    """The best one came before the interruption: it is what is given back."""

    def run(losses: list[float], **options: Any) -> tuple[Any, Any]:
        counter = gc.state(np.zeros(1))
        holder = nn.Module()
        holder.count = counter
        left = iter(losses)

        def step(x: Any) -> float:
            counter.set(counter.numpy() + 1)
            return 0.0

        history = fit(step, [np.zeros(2)], evaluate=(lambda x: next(left), [np.zeros(2)]),
                      keep_best=[holder], progress=False, patience=3,
                      checkpoint=Checkpoint(tmp_path / "c", holder=holder), **options)  # fmt: skip
        return history, float(counter.numpy()[0])

    history, count = run([3.0, 1.0, 2.0], epochs=3)
    assert count == 2
    history, count = run([2.0, 2.0, 2.0], epochs=9, resume=True)
    assert [e.best for e in history.epochs] == [False, False]
    assert history.stopped_early
    assert count == 2
    history, _ = run([], epochs=9, resume=True)  # patience was at its end already
    assert not history.epochs
    with pytest.raises(ValueError, match="complete when resumed"):
        _ = history.best


def test_every_so_many_epochs(tmp_path: Path) -> None:
    path = tmp_path / "c"
    weight = gc.parameter(np.ones(2))
    point = Checkpoint(path, every=2, weight=weight)
    step = lambda x: weight.set(weight.numpy() * 2)  # noqa: E731
    fit(step, [np.zeros(1)], epochs=3, checkpoint=point, progress=False)
    assert weight.numpy().tolist() == [8, 8]
    history = fit(step, [np.zeros(1)], epochs=4, checkpoint=point, resume=True, progress=False)
    assert [e.number for e in history.epochs] == [3, 4]
    assert weight.numpy().tolist() == [16, 16]
    fresh = Checkpoint(tmp_path / "none", weight=weight)
    fit(step, [np.zeros(1)], epochs=1, checkpoint=fresh, resume=True, progress=False)
    assert weight.numpy().tolist() == [32, 32]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every is at least 1"):
        Checkpoint(tmp_path / "c", every=0, net=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="name what to save"):
        Checkpoint(tmp_path / "c")
    with pytest.raises(ValueError, match="graphc_rng is a name of fit's own"):
        Checkpoint(tmp_path / "c", graphc_rng=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="resume=True needs checkpoint"):
        fit(lambda x: 0.0, [np.zeros(1)], epochs=1, resume=True)
    weight = gc.parameter(np.ones(2))
    fit(lambda x: 0.0, [np.zeros(1)], epochs=1, checkpoint=Checkpoint(tmp_path / "c", w=weight),
        progress=False)  # fmt: skip
    other = Checkpoint(tmp_path / "c", w=gc.parameter(np.ones(3)))
    with pytest.raises(gc.GraphcError):
        fit(lambda x: 0.0, [np.zeros(1)], epochs=2, checkpoint=other, resume=True, progress=False)


def test_no_epoch_was_the_best_yet(tmp_path: Path) -> None:
    """NaN is never the best: the checkpoint has none, and going on from it asks for none."""
    holder = nn.Linear(1, 1)
    point = Checkpoint(tmp_path / "c", holder=holder)
    for epochs, resume in ((1, False), (2, True)):
        history = fit(lambda x: 0.0, [np.zeros(1)], epochs=epochs, keep_best=[holder],
                      evaluate=(lambda x: float("nan"), [np.zeros(1)]), checkpoint=point,
                      resume=resume, progress=False)  # fmt: skip
    assert [(e.number, e.best) for e in history.epochs] == [(2, False)]
    other = Checkpoint(tmp_path / "c", holder=nn.Linear(2, 2))
    with pytest.raises(gc.GraphcError):
        fit(lambda x: 0.0, [np.zeros(1)], epochs=3, checkpoint=other, resume=True, progress=False,
            evaluate=(lambda x: 0.0, [np.zeros(1)]), keep_best=[other.roots["holder"]])  # fmt: skip
