"""Functions of layers and losses without state, by the names of ``torch.nn.functional``.

Each is a composite: made of primitive ops, and drawn, printed and exported as one block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphc import ops, random
from graphc.dsl import by_mode
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply
from graphc.op import composite
from graphc.ops import log_softmax, relu, sigmoid, softmax, tanh
from graphc.ops.creation import full
from graphc.ops.lifting import lift_one
from graphc.source import here
from graphc.types import Extent, int64

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dropout",
    "gelu",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "mse_loss",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]


# ---- activations


@composite
def leaky_relu(x: object, negative_slope: float = 0.01) -> Value:
    """x where it is positive, else ``negative_slope * x``."""
    value = lift_one("leaky_relu", x)
    return ops.where(value > 0, value, value * negative_slope)


@composite
def gelu(x: object, approximate: str = "none") -> Value:
    """x times the standard normal's distribution function at x (Hendrycks, Gimpel 2016).

    ``approximate="tanh"`` is ``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``.
    """
    value = lift_one("gelu", x)
    if approximate == "tanh":
        inner = math.sqrt(2.0 / math.pi) * (value + 0.044715 * (value * value * value))
        return 0.5 * value * (1.0 + ops.tanh(inner))
    if approximate != "none":
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return 0.5 * value * (1.0 + ops.erf(value * math.sqrt(0.5)))


@composite
def silu(x: object) -> Value:
    """x times sigmoid(x), also called swish (Elfwing, Uchibe, Doya 2018)."""
    value = lift_one("silu", x)
    return value * ops.sigmoid(value)


@composite
def softplus(x: object) -> Value:
    """log(1 + exp(x)), without overflow."""
    value = lift_one("softplus", x)
    return ops.maximum(value, 0.0) + ops.log1p(ops.exp(-ops.abs(value)))


# ---- layers


@composite
def dropout(x: object, p: float = 0.5) -> Value:
    """In mode train ``x / (1 - p)`` where a draw is at least ``p``, else 0; in mode eval x."""
    value = lift_one("dropout", x)
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
def layer_norm(
    x: object,
    normalized_shape: int | Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axes.

    Ba, Kiros, Hinton, "Layer Normalization", 2016. The variance is the biased one.
    """
    value = lift_one("layer_norm", x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if value.ndim < len(shape) or value.shape[value.ndim - len(shape) :] != shape:
        raise ShapeError(f"layer_norm: x is {value.type}, its last axes must be {shape}", here())
    axes = tuple(range(-len(shape), 0))
    centered = value - ops.mean(value, axes, keepdims=True)
    variance = ops.mean(centered * centered, axes, keepdims=True)
    out = centered * ops.rsqrt(variance + eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


# ---- losses


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
