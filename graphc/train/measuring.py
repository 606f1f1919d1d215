"""Measures: of a batch, as a Value; of a data set, as means over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc import tree
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.operators import call
from graphc.source import here
from graphc.types import float32

__all__ = ["Means", "accuracy", "as_arguments", "confusion_matrix", "evaluate", "f1_score"]


def accuracy(logits: Value, labels: Value) -> Value:
    """The share of rows whose largest logit stands at the label; a float32 scalar.

    ``logits`` are ``[..., classes]``, ``labels`` integers ``[...]``. Of equal logits the first one
    counts, as in NumPy's argmax. Not differentiable.
    """
    if labels.shape != logits.shape[:-1] or labels.dtype.kind not in "iu":
        raise ShapeError(
            f"accuracy: logits {logits.type} take integer labels of shape {logits.shape[:-1]}, got "
            f"{labels.type}",
            here(),
        )
    return (call("argmax", logits, axis=-1) == labels).astype(float32).mean()


class Means:
    """Running means of structures of scalars, each weighted by a batch's rows.

    >>> means = Means("test")
    >>> means.add({"loss": np.float32(1)}, rows=3); means.add({"loss": np.float32(5)}, rows=1)
    >>> means.result()
    {'loss': 2.0}
    """

    def __init__(self, who: str) -> None:
        self.who = who
        self.rows = 0
        self._form: tree.Structure | None = None
        self._sums: list[float] = []

    def add(self, outputs: Any, rows: int) -> None:
        """Count ``outputs`` of a batch of ``rows``."""
        values, form = tree.flatten(outputs)
        if rows == 0:
            return  # a mean over nothing, NaN
        if self._form is None:
            self._form, self._sums = form, [0.0] * len(values)
        for place, value in enumerate(values):
            if np.ndim(value):
                name = form.paths()[place] or "the output"
                raise ValueError(
                    f"{self.who}: {name} has shape {np.shape(value)}; means over batches are of "
                    "scalars: reduce it in the graph, with .mean() say"
                )
            self._sums[place] += float(value) * rows
        self.rows += rows

    def result(self) -> Any:
        """The means so far, a structure of floats like the outputs."""
        if self._form is None:
            raise ValueError(f"{self.who}: there was no batch")
        return self._form.build([total / self.rows for total in self._sums])


def evaluate(executable: Callable[..., Any], batches: Iterable[Any]) -> Any:
    """Means of the executable's scalar outputs over ``batches``, weighted by their rows.

    A batch is a tuple of arguments, or one array; its rows are the length of the first argument.
    So means of means are right where the last batch is smaller. The result is a structure of
    floats like the outputs. Raises ValueError for outputs that are not scalars and for no batches.

    >>> evaluate(lambda x: {"mean": x.mean()}, [np.array([1.0, 3.0]), np.array([8.0])])
    {'mean': 4.0}
    """
    means = Means("evaluate")
    for batch in batches:
        arguments = as_arguments(batch)
        means.add(executable(*arguments), len(arguments[0]))
    return means.result()


def confusion_matrix(
    predict: Callable[..., Any], batches: Iterable[Any], classes: int
) -> NDArray[np.int64]:
    """How often class i (row) was taken for class j (column): counts [classes, classes].

    A batch is (inputs..., labels); ``predict(*inputs)`` gives logits [n, classes] or classes [n].
    Raises ValueError for labels or predictions outside of 0..classes-1.

    >>> guess = lambda x: np.array([0, 1, 1])
    >>> confusion_matrix(guess, [(np.zeros(3), np.array([0, 0, 1]))], 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.zeros((classes, classes), np.int64)
    for batch in batches:
        *inputs, labels = as_arguments(batch)
        made = np.asarray(predict(*inputs))
        chosen = made.argmax(axis=-1) if made.ndim > np.ndim(labels) else made
        if chosen.shape != np.shape(labels):
            raise ValueError(
                f"confusion_matrix: predictions of shape {made.shape} for labels of shape "
                f"{np.shape(labels)}"
            )
        for what, given in (("labels", labels), ("predictions", chosen)):
            if np.size(given) and not 0 <= np.min(given) <= np.max(given) < classes:
                raise ValueError(f"confusion_matrix: {what} are not all in 0..{classes - 1}")
        np.add.at(counts, (np.asarray(labels), chosen), 1)
    return counts


def f1_score(confusion: ArrayLike, average: str | None = "macro") -> Any:
    """``2 precision recall / (precision + recall)`` of each class of a confusion matrix.

    ``average`` is "macro" (the classes' mean), "micro" (of all counts: the accuracy), "weighted"
    (by the classes' rows) or None (all of them). A class that neither occurs nor is predicted has
    0, as in scikit-learn.

    >>> f1_score([[1, 1], [0, 1]], None).round(3).tolist()
    [0.667, 0.667]
    """
    counts = np.asarray(confusion, np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"f1_score: a confusion matrix is square, got shape {counts.shape}")
    if average not in ("macro", "micro", "weighted", None):
        raise ValueError(f"f1_score: average is macro, micro, weighted or None, not {average!r}")
    hits, rows = np.diag(counts), counts.sum(axis=1)
    if average == "micro":
        return float(hits.sum() / max(counts.sum(), 1.0))
    each = 2 * hits / np.maximum(rows + counts.sum(axis=0), 1.0)
    if average is None:
        return each
    return float(each.mean() if average == "macro" else (each * rows).sum() / max(rows.sum(), 1.0))


def as_arguments(batch: Any) -> tuple[Any, ...]:
    """A batch as arguments of a call: tuples and lists are unpacked, one array is the argument."""
    arguments = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if not arguments or np.ndim(arguments[0]) == 0:
        raise ValueError("a batch is a tuple of arrays whose first one has rows (axis 0)")
    return arguments
