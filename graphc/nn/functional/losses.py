"""Losses: what compares a prediction with a target."""

from __future__ import annotations

from typing import Any

from graphc import ops
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply
from graphc.op import composite
from graphc.ops.creation import full
from graphc.ops.lifting import lift_one
from graphc.source import here
from graphc.types import Extent, int64

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "mse_loss"]


def _reduced(loss: Value, reduction: str) -> Value:
    if reduction == "none":
        return loss
    if reduction == "sum":
        return ops.sum(loss)
    if reduction == "mean":
        return ops.mean(loss)
    raise ValueError(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}")


def _same_shape(name: str, x: Value, target: Value) -> None:
    if x.shape != target.shape and target.shape != ():
        raise ShapeError(
            f"{name}: input is {x.type}, target {target.type}: the shapes must agree "
            "(a silent broadcast here is nearly always a mistake); reshape one",
            here(),
        )


@composite
def mse_loss(x: object, target: object, reduction: str = "mean") -> Value:
    """``(x - target)^2``, its mean, sum or (``"none"``) elements."""
    value, wanted = lift_one("mse_loss", x), lift_one("mse_loss", target)
    _same_shape("mse_loss", value, wanted)
    difference = value - target
    return _reduced(difference * difference, reduction)


@composite
def binary_cross_entropy_with_logits(x: object, target: object, reduction: str = "mean") -> Value:
    """``-(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x)))``, without overflow."""
    value = lift_one("binary_cross_entropy_with_logits", x)
    wanted = lift_one("binary_cross_entropy_with_logits", target)
    _same_shape("binary_cross_entropy_with_logits", value, wanted)
    loss = ops.maximum(value, 0.0) - value * target + ops.log1p(ops.exp(-ops.abs(value)))
    return _reduced(loss, reduction)


@composite
def cross_entropy(
    x: object,
    target: object,
    weight: Value | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Value:
    """Cross-entropy of logits with class labels or class probabilities.

    ``x`` is [N, C] (or [C], or [N, C, ...]); ``target`` holds integers of shape [N] (or [], or
    [N, ...]), or floating probabilities of x's shape. With z = x - max(x)::

        loss = log(sum(exp(z))) - z[label]

    A label equal to ``ignore_index`` counts for nothing; any other outside of 0..C-1 fails the
    call. ``weight`` [C] weighs the classes; ``"mean"`` divides by the sum of the weights that
    count. ``label_smoothing`` s mixes in ``s / C`` of every class (Szegedy et al. 2016).

    >>> import graphc as gc
    >>> cross_entropy(gc.observed("x", (8, 10)), gc.observed("y", (8,), gc.int64)).shape
    ()
    """
    logits, wanted = lift_one("cross_entropy", x), lift_one("cross_entropy", target)
    axis = _class_axis(logits, wanted)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    classes = logits.shape[axis]
    by_class = None if weight is None else _along(weight, axis, logits)
    shifted, log_total = _shifted(logits, axis)
    if wanted.dtype.is_float:
        if label_smoothing:
            wanted = wanted * (1.0 - label_smoothing) + _share(label_smoothing, classes, logits)
        weighted = wanted if by_class is None else wanted * by_class
        loss = ops.sum(weighted, axis) * log_total - ops.sum(weighted * shifted, axis)
        return _reduced(loss, reduction)
    keep = wanted != ignore_index
    hit = _hit(wanted, keep, axis, classes, logits)
    loss = log_total - ops.sum(ops.where(hit, shifted, 0.0), axis)
    counts = keep.astype(logits.dtype)
    if by_class is not None:
        chosen = ops.sum(ops.where(hit, by_class, 0.0), axis)
        loss, counts = loss * chosen, counts * chosen
    if label_smoothing:
        log_p = shifted - ops.expand_dims(log_total, axis)
        every = ops.sum(log_p if by_class is None else log_p * by_class, axis)
        share = _share(label_smoothing, classes, logits)
        loss = (1.0 - label_smoothing) * loss - share * every
    loss = ops.where(keep, loss, 0.0)
    if reduction != "mean":
        return _reduced(loss, reduction)
    return ops.sum(loss) / ops.sum(counts)


def _share(label_smoothing: float, classes: Extent, logits: Value) -> Value:
    """What label smoothing gives to each class."""
    return label_smoothing / full((), classes, logits.dtype)


def _class_axis(logits: Value, target: Value) -> int:
    """The axis of the classes, the shapes checked."""
    if logits.ndim == 0 or not logits.dtype.is_float:
        raise ShapeError(f"cross_entropy: logits are [N, C], floating; got {logits.type}", here())
    axis = 0 if logits.ndim == 1 else 1
    labels = tuple(e for i, e in enumerate(logits.shape) if i != axis)
    expected = logits.shape if target.dtype.is_float else labels
    if target.dtype.kind == "b":
        raise DTypeError("cross_entropy: labels are integers, got bool", here())
    if target.shape != expected:
        what = "probabilities" if target.dtype.is_float else "labels"
        raise ShapeError(
            f"cross_entropy: logits {logits.type} take {what} of shape {expected}, "
            f"got {target.type}",
            here(),
        )
    return axis


def _shifted(logits: Value, axis: int) -> tuple[Value, Value]:
    """z = logits - max, and log(sum(exp(z))) without the axis.

    The maximum is a constant to derivatives: its own cancel out.
    """
    shifted = logits - ops.stop_gradient(ops.max(logits, axis, keepdims=True))
    return shifted, ops.log(ops.sum(ops.exp(shifted), axis))


def _hit(target: Value, keep: Value, axis: int, classes: Extent, logits: Value) -> Value:
    """bool, of the logits' shape: whether the class is the label. Checks the labels' range.

    The label is looked up in 0..C-1, which checks it; a comparison instead of a gather of the
    logits keeps loss and gradient in one pass over them.
    """
    known = ops.where(keep, target, 0).astype(int64)
    label = apply("gather", ops.arange(classes), known, axis=0, batch_dims=0)
    index = apply("iota", shape=logits.shape, axis=axis, dtype=int64)
    return index == ops.expand_dims(label, axis)


def _along(weight: Value, axis: int, logits: Value) -> Value:
    """A vector over the classes, laid along their axis."""
    if weight.shape != (logits.shape[axis],):
        raise ShapeError(
            f"cross_entropy: weight is {weight.type}, one for each of {logits.shape[axis]} classes",
            here(),
        )
    shape: list[Any] = [1] * logits.ndim
    shape[axis] = weight.shape[0]
    return ops.broadcast_to(ops.reshape(weight, tuple(shape)), logits.shape)
