"""What losses share: reductions, shapes that must agree, and derivatives at kinks as PyTorch's."""

from __future__ import annotations

from graphc import ops
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.ops.lifting import lift_one
from graphc.source import here

REDUCTIONS = ("mean", "sum", "none")


def known_reduction(reduction: str, *, more: tuple[str, ...] = ()) -> str:
    """``reduction``, refused where it is none."""
    known = (*REDUCTIONS, *more)
    if reduction not in known:
        listed = ", ".join(map(repr, known))
        raise ValueError(f"reduction is one of {listed}, not {reduction!r}")
    return reduction


def reduced(loss: Value, reduction: str) -> Value:
    """The mean, the sum or the elements themselves."""
    known_reduction(reduction)
    if reduction == "none":
        return loss
    return ops.sum(loss) if reduction == "sum" else ops.mean(loss)


def weighed(name: str, loss: Value, weight: object, reduction: str) -> Value:
    """``loss`` times ``weight`` of its shape; ``"mean"`` divides by the sum of the weights."""
    if weight is None:
        return reduced(loss, reduction)
    factors = lift_one(name, weight)
    if factors.shape != loss.shape:
        raise ShapeError(
            f"{name}: weight is {factors.type}, one for each element of {loss.type}", here()
        )
    if reduction == "mean":
        return ops.sum(loss * factors) / ops.sum(factors)
    return reduced(loss * factors, reduction)


def pair(name: str, x: object, target: object) -> tuple[Value, Value]:
    """Input and target as Values of one shape (a scalar target goes with any input)."""
    value, wanted = lift_one(name, x), lift_one(name, target)
    if not isinstance(target, Value) and wanted.shape == () and value.dtype.is_float:
        wanted = wanted.astype(value.dtype)  # a number takes the type of what it goes with
    if value.shape != wanted.shape and wanted.shape != ():
        raise ShapeError(
            f"{name}: input is {value.type}, target {wanted.type}: the shapes must agree "
            "(a silent broadcast here is nearly always a mistake); reshape one",
            here(),
        )
    return value, wanted


def at_least(value: Value, low: float) -> Value:
    """value where it is not below ``low``, else ``low``; at ``low`` itself it has a derivative."""
    return ops.where(value < low, low, value)


def mean_over_batch(loss: Value, reduction: str) -> Value:
    """As ``reduced``, and "batchmean": the sum divided by the first extent."""
    known_reduction(reduction, more=("batchmean",))
    if reduction != "batchmean":
        return reduced(loss, reduction)
    if loss.ndim == 0:
        raise ShapeError("reduction 'batchmean' needs a first axis, the batch", here())
    rest = tuple(range(1, loss.ndim))
    return ops.mean(ops.sum(loss, rest) if rest else loss)
