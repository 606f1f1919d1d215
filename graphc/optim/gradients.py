"""What happens to gradients between ``grad`` and the optimizer: clipping and accumulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from numpy.typing import NDArray

from graphc import ops, tree
from graphc.dsl import StateValue, state_value_of
from graphc.errors import StateError
from graphc.graph import Value
from graphc.source import here
from graphc.state import StateCell, prepare_cells
from graphc.types import TensorType, float32, int64
from graphc.updates import Updates

__all__ = ["Accumulate", "clip_by_global_norm", "clip_by_value", "global_norm", "penalty"]


def global_norm(gradients: Any) -> Value:
    """The Euclidean norm of all leaves together, a scalar (float16 and bfloat16 sum as float32)."""
    values = tree.leaves(gradients)
    if not values:
        raise StateError("global_norm: the structure has no leaves", here())
    squares = [ops.sum(ops.square(_wide(value))) for value in values]
    return ops.sqrt(reduce(ops.add, squares))


def clip_by_global_norm(gradients: Any, max_norm: float) -> Any:
    """All leaves times ``min(1, max_norm / (norm + 1e-6))``, with their common Euclidean norm.

    As ``torch.nn.utils.clip_grad_norm_`` (Pascanu, Mikolov, Bengio 2013).

    >>> import graphc as gc
    >>> g = gc.observed("g", (3,))
    >>> clip_by_global_norm([g], 1.0)[0].type
    f32[3]
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_by_global_norm: expected a number >= 0, got {max_norm}")
    norm = global_norm(gradients)
    scale = ops.minimum(max_norm / (norm + 1e-6), 1.0)
    return tree.map(lambda g: g * scale.astype(g.dtype), gradients)


def clip_by_value(gradients: Any, clip: float) -> Any:
    """Every element kept within -clip and clip."""
    if not clip >= 0:
        raise ValueError(f"clip_by_value: expected a number >= 0, got {clip}")
    return tree.map(lambda g: ops.clip(g, -clip, clip), gradients)


def penalty(parameters: Any, l1: float = 0.0, l2: float = 0.0) -> Value:
    """``l1 sum |p| + l2 / 2 sum p^2`` over all leaves, a scalar to add to a cost.

    L2 through the gradient is the optimizers' ``weight_decay``, and AdamW's another thing. L1 draws
    weights to 0 (Tibshirani 1996).

    >>> import graphc as gc
    >>> penalty(gc.nn.Linear(2, 2).parameters("weight"), l1=1e-4).shape
    ()
    """
    if l1 < 0.0 or l2 < 0.0:
        raise ValueError(f"penalty: l1 and l2 must be >= 0, got {l1} and {l2}")
    terms = [ops.zeros((), float32)]
    for value in tree.leaves(parameters):
        if l1:
            terms.append(l1 * ops.sum(ops.abs(value)))
        if l2:
            terms.append((0.5 * l2) * ops.sum(ops.square(value)))
    return reduce(ops.add, terms[1:] or terms)


def _wide(value: Value) -> Value:
    return value.astype(float32) if value.dtype.itemsize < 4 else value


class Accumulate:
    """Sums of gradients over several calls, and their mean: large batches in small pieces.

    >>> import graphc as gc
    >>> w = gc.parameter((2,))
    >>> acc = Accumulate(gc.grad((w * w).sum(), [w]))
    >>> len(acc.add()), acc.mean()[0].type
    (2, f32[2])
    """

    def __init__(self, gradients: Any) -> None:
        self._gradients, self._form = tree.flatten(gradients)
        self._sums = [
            state_value_of(StateCell(f"sum{i}", gradient.type, source=here()))
            for i, gradient in enumerate(self._gradients)
        ]
        self._count = state_value_of(StateCell("count", TensorType(int64, ()), source=here()))

    def add(self) -> Updates:
        """One more batch: sums and count go up."""
        pairs = zip(self._sums, self._gradients, strict=True)
        new: dict[Value, object] = {total: total + gradient for total, gradient in pairs}
        return Updates({**new, self._count: self._count + 1}, trains=True)

    def mean(self) -> Any:
        """The sums divided by the count, like the gradients (NaN before the first ``add``)."""
        return self._form.build([s / self._count.astype(s.dtype) for s in self._sums])

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of the sums and the count."""
        return {name: cell.numpy() for name, cell in self._cells().items()}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave, all or, on an error, nothing."""
        self.prepare_loading(d)()

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        """Check ``d`` and load nothing yet: the call that does."""
        return prepare_cells("Accumulate.load_state_dict", self._cells(), d)

    def _cells(self) -> dict[str, StateCell]:
        return {held.cell.name: held.cell for held in (*self._sums, self._count)}

    def zero(self) -> Updates:
        """Start again."""
        held: list[StateValue] = [*self._sums, self._count]
        return Updates({s: ops.zeros(s.shape, s.dtype) for s in held}, trains=True)
