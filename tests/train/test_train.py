"""fit and evaluate on plain callables: weighting, monitoring, stopping, restoring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.data import balanced, batches, bootstrap, prefetch, split
from graphc.train import Boosting, Epoch, accuracy, confusion_matrix, evaluate, fit
from graphc.train.progress import describe

ROWS = np.arange(10, dtype=np.float32)


class Counter:
    """Something with a state: a stand-in for a module."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


def scripted(values: list[float]) -> Any:
    """An executable whose calls give ``values`` in turn, and the one batch it is called on."""
    rest = iter(values)
    return (lambda x: {"loss": next(rest), "other": 0.0}), [np.zeros(4)]


# ---- evaluate


def test_means_are_weighted_by_rows() -> None:
    means = evaluate(lambda x: {"mean": x.mean()}, batches(ROWS, 4))
    assert means == {"mean": pytest.approx(ROWS.mean())}


class Pair(NamedTuple):
    first: Any
    second: Any


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda v: v, 4.5),
        (lambda v: (v, {"twice": 2 * v}), (4.5, {"twice": 9.0})),
        (lambda v: Pair(v, [v]), Pair(4.5, [4.5])),
    ],
)
def test_results_have_the_structure_of_the_outputs(wrap: Any, expected: Any) -> None:
    result = evaluate(lambda x: wrap(x.mean()), batches(ROWS, 3))
    assert type(result) is type(expected)
    assert result == pytest.approx(expected) if isinstance(expected, float) else result == expected


def test_evaluate_refuses_what_it_cannot_average() -> None:
    with pytest.raises(ValueError, match=r"\['h'\] has shape \(3,\).*reduce it"):
        evaluate(lambda x: {"h": x}, batches(ROWS, 3))
    with pytest.raises(ValueError, match="no batch"):
        evaluate(lambda x: x.mean(), [])
    with pytest.raises(ValueError, match="rows"):
        evaluate(lambda x: x, [np.float32(1)])


def test_one_array_is_a_batch_of_one_argument() -> None:
    assert evaluate(lambda x: x.sum() / len(x), [ROWS]) == pytest.approx(4.5)


# ---- fit


def test_each_epoch_runs_every_batch_and_averages() -> None:
    seen: list[int] = []

    def step(x: Any) -> Any:
        seen.append(len(x))
        return x.mean()

    run = fit(step, batches(ROWS, 4), epochs=3, progress=False)
    assert seen == [4, 4, 2] * 3
    assert [e.training for e in run.epochs] == [pytest.approx(4.5)] * 3
    assert [(e.number, e.steps, e.best, e.measures) for e in run.epochs] == [
        (n, 3, False, None) for n in (1, 2, 3)
    ]
    assert run.best is run.epochs[-1]
    assert not run.stopped_early
    assert run.seconds_per_step > 0


def test_a_step_without_outputs() -> None:
    run = fit(lambda x: None, batches(ROWS, 4), epochs=1, progress=False)
    assert run.epochs[0].training is None


def test_early_stopping_restores_the_best_epoch() -> None:
    counter = Counter()

    def step(x: Any) -> float:
        counter.value += 1
        return 0.0

    run = fit(
        step,
        [np.zeros(4)],
        epochs=50,
        evaluate=scripted([5, 3, 4, 2, 2, 3, 9, 9]),
        monitor="loss",
        patience=3,
        keep_best=[counter],
        progress=False,
    )
    assert [e.best for e in run.epochs] == [True, True, False, True, False, False, False]
    assert run.best.number == 4
    assert run.stopped_early
    assert counter.value == 4


def test_larger_is_better_and_nan_never_is() -> None:
    run = fit(
        lambda x: 0.0,
        [np.zeros(1)],
        epochs=4,
        evaluate=scripted([math.nan, 1, 2, math.nan]),
        monitor="loss",
        larger_is_better=True,
        progress=False,
    )
    assert [e.best for e in run.epochs] == [False, True, True, False]


def test_no_improvement_at_all_restores_nothing() -> None:
    counter = Counter()
    counter.value = 7
    fit(
        lambda x: 0.0,
        [np.zeros(1)],
        epochs=2,
        evaluate=scripted([math.nan, math.nan]),
        monitor="loss",
        keep_best=[counter],
        progress=False,
    )
    assert counter.value == 7


def test_callbacks_see_epochs_and_may_stop() -> None:
    seen: list[int] = []

    def first(epoch: Epoch) -> bool:
        seen.append(epoch.number)
        return epoch.number == 2

    run = fit(
        lambda x: 0.0,
        [np.zeros(1)],
        epochs=9,
        callbacks=[first, lambda e: seen.append(-e.number)],
        progress=False,
    )
    assert seen == [1, -1, 2, -2]
    assert run.stopped_early


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 1, "patience": 2}, "need evaluate"),
        ({"epochs": 1, "keep_best": [Counter()]}, "need evaluate"),
        ({"epochs": 1, "evaluate": scripted([1]), "patience": 0}, "patience must be"),
        ({"epochs": 1, "evaluate": scripted([1])}, "2 measures, so say which"),
        ({"epochs": 1, "evaluate": scripted([1]), "monitor": "acc"}, r"\['loss', 'other'\]"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(lambda x: 0.0, [np.zeros(1)], progress=False, **options)


def test_the_bar_shows_epochs_and_measures(capsys: pytest.CaptureFixture[str]) -> None:
    fit(
        lambda x: x.mean(),
        batches(ROWS, 5),
        epochs=2,
        evaluate=scripted([0.25, 0.125]),
        monitor="loss",
    )
    out = capsys.readouterr().out
    assert "epoch 2/2" in out
    assert "100%" in out
    assert "0.1250" in out


@pytest.mark.parametrize("specialize", [True, False])
def test_a_partial_batch_compiles_once_more_and_says_so(
    specialize: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    x = gc.observed("x", (gc.Dim("B", specialize=specialize),))
    w = gc.parameter((), init=nn.init.ones)
    cost = ((w * x) ** 2).mean()
    step = gc.compile([x], cost, {w: 0.9 * w}, name="step")
    fit(step, batches(ROWS, 4), epochs=3)
    said = capsys.readouterr().out.replace("\n", " ")
    assert said.count("step: compiled once more, for a batch of 2 rows") == specialize
    assert said.count("compiled once more") == specialize, "not for whole batches, nor again"
    assert ("specialize=False" in said) == specialize
    assert step.compiled_sizes == (({"B": 4}, {"B": 2}) if specialize else ({},))
    fit(step, batches(ROWS, 4), epochs=1)
    fit(step, batches(ROWS, 4, drop_last=True), epochs=1, progress=False)
    assert "once more" not in capsys.readouterr().out, "both sizes are known"


def test_an_error_in_a_step_closes_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    def step(x: Any) -> Any:
        raise KeyError("mine")

    def endless() -> Iterator[Any]:
        while True:
            yield np.zeros(1)

    with pytest.raises(KeyError, match="mine"):
        fit(step, endless(), epochs=1)


def test_describe() -> None:
    assert describe("train", (1.0, {"a": 2.0})) == " train 0 1.0000 1.a 2.0000"
    assert describe("train", None) == ""


def test_batches_without_rows_count_nothing() -> None:
    assert evaluate(lambda x: x.sum() / len(x) if len(x) else math.nan, batches(ROWS, 4)) == 4.5
    empty = [ROWS[:0], ROWS, ROWS[:0]]
    assert evaluate(lambda x: x.sum() / len(x) if len(x) else math.nan, empty) == 4.5
    with pytest.raises(ValueError, match="no batch"):
        evaluate(lambda x: 1.0, [ROWS[:0]])


def test_what_gives_its_items_once_is_refused() -> None:
    once = (row for row in [ROWS])
    with pytest.raises(ValueError, match=r"batches are a generator, .* and there are 2 epochs"):
        fit(np.mean, once, epochs=2, progress=False)
    with pytest.raises(ValueError, match="the batches of evaluate are a generator"):
        fit(np.mean, [ROWS], epochs=2, evaluate=(np.mean, once), progress=False)
    assert fit(np.mean, once, epochs=1, progress=False).epochs[0].training == 4.5


def test_a_thread_reads_what_has_no_length() -> None:
    class Endless:
        def __iter__(self) -> Iterator[Any]:
            yield from (ROWS, ROWS)

    assert fit(np.mean, prefetch(Endless()), epochs=2).epochs[1].steps == 2


def test_labels_of_another_shape_are_refused() -> None:
    logits = gc.observed("logits", (5, 3))
    for labels in (
        gc.observed("labels", (5, 1), gc.int64),  # would be compared with all the others
        gc.observed("labels", (5,)),
    ):
        with pytest.raises(gc.ShapeError, match=r"accuracy: logits .* take integer labels"):
            accuracy(logits, labels)
    with pytest.raises(ValueError, match=r"predictions of shape \(1, 3\) for labels of shape"):
        confusion_matrix(lambda x: np.zeros((1, 3)), [(ROWS, np.zeros(10, int))], 3)


def test_no_rows_and_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="split: there are no rows"):
        split(ROWS[:0])
    with pytest.raises(ValueError, match="fractions are positive"):
        split(ROWS, fractions=(0.5, math.nan))
    with pytest.raises(ValueError, match="bootstrap: there are no rows"):
        bootstrap(ROWS[:0])
    with pytest.raises(ValueError, match="balanced: there are no rows"):
        balanced(ROWS[:0], 2, labels=[])


def test_votes_for_classes_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="classes from 0 on"):
        Boosting([0, 1, -1])
    boosting = Boosting([0, 1, 1, 0])
    boosting.add([0, 1, 1, 1])
    for wrong in ([0, 1, 1, -1], [0, 1, 1, 2]):
        with pytest.raises(ValueError, match=r"not all in 0\.\.1"):
            boosting.vote([wrong])
