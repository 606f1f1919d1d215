"""Linear maps, embedding and dropout, given their weights."""

from __future__ import annotations

from graphc import ops, random
from graphc.dsl import attach_updates, by_mode, stop_gradient
from graphc.errors import DTypeError, ShapeError
from graphc.graph import STATES, Value, apply
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
def embedding(
    ids: object,
    weight: Value,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    """``weight[ids]``: ids [...], integers, weight [count, dim]; the result is [..., dim].

    An id outside of 0..count-1 fails the call. Row ``padding_idx`` is read but never learns. With
    ``scale_grad_by_freq`` a row's derivative is divided by how often its id is among the ids.

    A row whose norm of order ``norm_type`` exceeds ``max_norm`` is read as ``row max_norm /
    (norm + 1e-7)``, its derivative being that of the row it becomes. Where ``weight`` is a
    parameter or state, mode train writes the shortened rows into it (an attached update; an
    optimizer steps from there), mode eval writes nothing; a computed weight has no memory to
    write to. ``sparse=True`` is refused: gradients are dense arrays.

    >>> import graphc as gc
    >>> table = gc.parameter((10, 3))
    >>> embedding(gc.observed("ids", (4, 5), gc.int64), table, max_norm=1.0).shape
    (4, 5, 3)
    """
    places = lift_one("embedding", ids)
    check_embedding("embedding", max_norm, sparse)
    if places.dtype.kind not in "iu":
        raise DTypeError(f"embedding: ids are integers, got {places.type}", here())
    if weight.ndim != 2:
        raise ShapeError(f"embedding: weight is [count, dim], got {weight.type}", here())
    count = weight.shape[0]
    rows = apply("gather", weight, places, axis=0, batch_dims=0)
    value, learns = rows, None
    if scale_grad_by_freq:
        times = ops.take(ops.bincount(ops.reshape(places, (-1,)), count), places, 0)
        learns = ops.expand_dims(1.0 / times.astype(rows.dtype), -1)
    if padding_idx is not None:
        if not isinstance(count, int) or not -count <= padding_idx < count:
            raise ShapeError(
                f"embedding: padding_idx {padding_idx} is no row of {weight.type}", here()
            )
        padding = ops.expand_dims(places == padding_idx % count, -1)
        value = ops.where(padding, stop_gradient(rows), rows)
    if learns is not None:
        value = stop_gradient(value) + learns * (value - stop_gradient(value))
    if max_norm is None:
        return value
    short = _shortened(rows, max_norm, norm_type)
    return _kept(_with_slope(short, value), weight, places, _with_slope(short, rows))


def check_embedding(name: str, max_norm: float | None, sparse: bool) -> None:
    """Refuse what no embedding can do."""
    if sparse:
        raise ValueError(
            f"{name}: sparse=True asks for sparse gradients, and graphc's are dense arrays: leave "
            "it out (the compiled gradient is one scatter, optimizers step all rows)"
        )
    if max_norm is not None and not max_norm >= 0.0:
        raise ValueError(f"{name}: max_norm must be >= 0, got {max_norm}")


def _shortened(rows: Value, max_norm: float, norm_type: float) -> Value:
    """Rows of at most this norm, constants to every derivative."""
    fixed = stop_gradient(rows)
    norm = ops.norm(fixed, -1, keepdims=True, ord=norm_type)
    short: Value = fixed * ops.where(norm > max_norm, max_norm / (norm + 1e-7), 1.0)
    return short


def _with_slope(numbers: Value, of: Value) -> Value:
    """These very numbers, with the derivative of another value."""
    value: Value = numbers + (of - stop_gradient(of))
    return value


def _kept(read: Value, weight: Value, places: Value, rows: Value) -> Value:
    """``read``; in mode train ``rows`` are written into the table, where that has a memory.

    They have the slope of the rows that they replace, since a loop carries the table along.
    """
    if weight.node.op not in STATES:
        return read
    written = {weight: weight.at[places].set(rows)}
    chosen: Value = by_mode(train=attach_updates(read, written), eval=read)
    return chosen
