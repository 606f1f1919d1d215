"""Measures: of a batch, as a Value; of a data set, as means over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from graphc import tree
from graphc.graph import Value
from graphc.operators import call
from graphc.types import float32

__all__ = ["Means", "accuracy", "as_arguments", "evaluate"]


def accuracy(logits: Value, labels: Value) -> Value:
    """The share of rows whose largest logit stands at the label; a float32 scalar.

    ``logits`` are ``[..., classes]``, ``labels`` integers ``[...]``. Of equal logits the first one
    counts, as in NumPy's argmax. Not differentiable.
    """
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


def as_arguments(batch: Any) -> tuple[Any, ...]:
    """A batch as arguments of a call: tuples and lists are unpacked, one array is the argument."""
    arguments = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if not arguments or np.ndim(arguments[0]) == 0:
        raise ValueError("a batch is a tuple of arrays whose first one has rows (axis 0)")
    return arguments
