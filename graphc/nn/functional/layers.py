"""Linear maps, embedding and dropout, given their weights."""

from __future__ import annotations

from graphc import ops, random
from graphc.dsl import by_mode, stop_gradient
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply
from graphc.op import composite
from graphc.ops.lifting import lift_one
from graphc.source import here

__all__ = ["dropout", "embedding", "linear"]


@composite
def dropout(x: object, p: float = 0.5) -> Value:
    """In mode train ``x / (1 - p)`` where a draw is at least ``p``, else 0; in mode eval x."""
    value = lift_one("dropout", x)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p is a probability in [0, 1], not {p}")
    if p == 0.0:
        return value
    scale = 0.0 if p == 1.0 else 1.0 / (1.0 - p)
    kept = ops.where(random.uniform(value.shape) >= p, value * scale, 0.0)
    chosen: Value = by_mode(train=kept, eval=value)
    return chosen


@composite
def linear(x: object, weight: Value, bias: Value | None = None) -> Value:
    """``x @ weight.T + bias``: x [..., in], weight [out, in], bias [out]; the result [..., out].

    Raises ShapeError where the last axis of x is not ``in``.
    """
    value = lift_one("linear", x)
    if value.ndim == 0 or value.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"linear: x is {value.type}, its last axis must be in_features, {weight.shape[1]} "
            f"(weight {weight.type}); reshape x, or make the layer fit",
            here(),
        )
    product = value @ weight.T
    return product if bias is None else product + bias


@composite
def embedding(ids: object, weight: Value, padding_idx: int | None = None) -> Value:
    """``weight[ids]``: ids [...], integers, weight [count, dim]; the result is [..., dim].

    An id outside of 0..count-1 fails the call. Row ``padding_idx`` is read but never learns.
    """
    places = lift_one("embedding", ids)
    if places.dtype.kind not in "iu":
        raise DTypeError(f"embedding: ids are integers, got {places.type}", here())
    if weight.ndim != 2:
        raise ShapeError(f"embedding: weight is [count, dim], got {weight.type}", here())
    rows = apply("gather", weight, places, axis=0, batch_dims=0)
    if padding_idx is None:
        return rows
    count = weight.shape[0]
    if not isinstance(count, int) or not -count <= padding_idx < count:
        raise ShapeError(f"embedding: padding_idx {padding_idx} is no row of {weight.type}", here())
    padding = ops.expand_dims(places == padding_idx % count, -1)
    return ops.where(padding, stop_gradient(rows), rows)
