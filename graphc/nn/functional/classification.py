"""Losses of classes: cross-entropy, likelihoods and margins, one or several labels each.

A label is looked up in 0..C-1, which checks it; a comparison instead of a gather of the logits
keeps loss and gradient in one pass over them.
"""

from __future__ import annotations

from typing import Any

from graphc import ops
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply
from graphc.nn.functional.activations import log_of_sigmoid
from graphc.nn.functional.pieces import known_reduction, pair, reduced
from graphc.op import composite
from graphc.ops.creation import full
from graphc.ops.lifting import lift_one
from graphc.source import here
from graphc.types import Extent, int64

__all__ = [
    "cross_entropy",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
]


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
    axis = _class_axis("cross_entropy", logits, wanted, probabilities=True)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    classes = logits.shape[axis]
    by_class = _along("cross_entropy", weight, axis, logits)
    shifted, log_total = _shifted(logits, axis)
    if wanted.dtype.is_float:
        if label_smoothing:
            wanted = wanted * (1.0 - label_smoothing) + _share(label_smoothing, classes, logits)
        weighted = wanted if by_class is None else wanted * by_class
        loss = ops.sum(weighted, axis) * log_total - ops.sum(weighted * shifted, axis)
        return reduced(loss, reduction)
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
    return _over_labels(ops.where(keep, loss, 0.0), counts, reduction)


@composite
def nll_loss(
    x: object,
    target: object,
    weight: Value | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Value:
    """``-x[label]`` of log-probabilities x [N, C] (or [C], or [N, C, ...]) and integer labels.

    ``weight``, ``ignore_index`` and the mean are those of ``cross_entropy``, which is this of
    ``log_softmax``.

    >>> import graphc as gc
    >>> nll_loss(gc.observed("x", (8, 10)), gc.observed("y", (8,), gc.int64)).shape
    ()
    """
    log_p, wanted = lift_one("nll_loss", x), lift_one("nll_loss", target)
    axis = _class_axis("nll_loss", log_p, wanted)
    by_class = _along("nll_loss", weight, axis, log_p)
    keep = wanted != ignore_index
    hit = _hit(wanted, keep, axis, log_p.shape[axis], log_p)
    counts = keep.astype(log_p.dtype)
    loss = -ops.sum(ops.where(hit, log_p, 0.0), axis)
    if by_class is not None:
        chosen = ops.sum(ops.where(hit, by_class, 0.0), axis)
        loss, counts = loss * chosen, counts * chosen
    return _over_labels(ops.where(keep, loss, 0.0), counts, reduction)


@composite
def multi_margin_loss(
    x: object,
    target: object,
    p: int = 1,
    margin: float = 1.0,
    weight: Value | None = None,
    reduction: str = "mean",
) -> Value:
    """``sum over i != label of max(0, margin - x[label] + x[i])^p / C`` of scores x [N, C] or [C].

    ``p`` is 1 or 2; ``weight`` [C] weighs by the label's class. Crammer, Singer 2001.

    >>> import graphc as gc
    >>> multi_margin_loss(gc.observed("x", (8, 10)), gc.observed("y", (8,), gc.int64)).shape
    ()
    """
    scores, wanted = lift_one("multi_margin_loss", x), lift_one("multi_margin_loss", target)
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: p is 1 or 2, got {p}")
    if scores.ndim > 2:
        raise ShapeError(f"multi_margin_loss: x is {scores.type}, not [N, C] or [C]", here())
    axis = _class_axis("multi_margin_loss", scores, wanted)
    by_class = _along("multi_margin_loss", weight, axis, scores)
    hit = _hit(wanted, ops.ones_like(wanted) > 0, axis, scores.shape[axis], scores)
    right = ops.sum(ops.where(hit, scores, 0.0), axis, keepdims=True)
    missed = ops.where(hit, 0.0, ops.relu(margin - right + scores))
    loss = ops.mean(missed if p == 1 else missed * missed, axis)
    if by_class is not None:
        loss = loss * ops.sum(ops.where(hit, by_class, 0.0), axis)
    return reduced(loss, reduction)


@composite
def multilabel_margin_loss(x: object, target: object, reduction: str = "mean") -> Value:
    """``sum over labels j, others i of max(0, 1 - x[j] + x[i]) / C`` of scores x [N, C] or [C].

    ``target`` has x's shape: the labels of a sample come first, a -1 ends them. Every label is
    compared with every class, C^2 numbers a sample.

    >>> import graphc as gc
    >>> multilabel_margin_loss(gc.observed("x", (8, 5)), gc.observed("y", (8, 5), gc.int64)).shape
    ()
    """
    scores, wanted = pair("multilabel_margin_loss", x, target)
    if scores.ndim not in (1, 2) or wanted.shape != scores.shape or wanted.dtype.kind not in "iu":
        raise ShapeError(
            f"multilabel_margin_loss: x is {scores.type}, target {wanted.type}: both are [N, C] or "
            "[C], the target of integers",
            here(),
        )
    ended = ops.cumulative_sum((wanted < 0).astype(int64), axis=-1) > 0
    known = ops.where(ended, 0, wanted).astype(int64)
    classes = ops.arange(scores.shape[-1])
    label = apply("gather", classes, known, axis=0, batch_dims=0)  # checks the range
    is_label = (ops.expand_dims(label, -1) == classes) & ~ops.expand_dims(ended, -1)
    of_label = ops.sum(ops.where(is_label, ops.expand_dims(scores, -2), 0.0), -1, keepdims=True)
    other = ~ops.any(is_label, axis=-2, keepdims=True) & ~ops.expand_dims(ended, -1)
    missed = ops.relu(1.0 - of_label + ops.expand_dims(scores, -2))
    count = full((), 1, scores.dtype) * scores.shape[-1]
    return reduced(ops.sum(ops.where(other, missed, 0.0), (-2, -1)) / count, reduction)


@composite
def multilabel_soft_margin_loss(
    x: object, target: object, weight: Value | None = None, reduction: str = "mean"
) -> Value:
    """``-(t log sigmoid(x) + (1 - t) log sigmoid(-x))``, the mean over the classes, the last axis.

    ``weight`` [C] weighs the classes.

    >>> multilabel_soft_margin_loss([[0.5, 9.0]], [[0.0, 1.0]]).shape
    ()
    """
    value, wanted = pair("multilabel_soft_margin_loss", x, target)
    log_p = log_of_sigmoid(value)
    loss = (1.0 - wanted) * (value - log_p) - wanted * log_p
    by_class = _along("multilabel_soft_margin_loss", weight, value.ndim - 1, value)
    return reduced(ops.mean(loss if by_class is None else loss * by_class, -1), reduction)


# ---- pieces


def _over_labels(loss: Value, counts: Value, reduction: str) -> Value:
    """"mean" divides by what counts, so that ignored labels take no part."""
    if known_reduction(reduction) != "mean":
        return reduced(loss, reduction)
    return ops.sum(loss) / ops.sum(counts)


def _share(label_smoothing: float, classes: Extent, logits: Value) -> Value:
    """What label smoothing gives to each class."""
    return label_smoothing / full((), classes, logits.dtype)


def _class_axis(name: str, x: Value, target: Value, *, probabilities: bool = False) -> int:
    """The axis of the classes, the shapes checked."""
    if x.ndim == 0 or not x.dtype.is_float:
        raise ShapeError(f"{name}: logits are [N, C], floating; got {x.type}", here())
    axis = 0 if x.ndim == 1 else 1
    labels = tuple(e for i, e in enumerate(x.shape) if i != axis)
    if target.dtype.kind == "b" or (target.dtype.is_float and not probabilities):
        raise DTypeError(f"{name}: labels are integers, got {target.dtype.name}", here())
    expected = x.shape if target.dtype.is_float else labels
    if target.shape != expected:
        what = "probabilities" if target.dtype.is_float else "labels"
        raise ShapeError(
            f"{name}: logits {x.type} take {what} of shape {expected}, got {target.type}", here()
        )
    return axis


def _shifted(logits: Value, axis: int) -> tuple[Value, Value]:
    """z = logits - max, and log(sum(exp(z))) without the axis.

    The maximum is a constant to derivatives: its own cancel out.
    """
    shifted = logits - ops.stop_gradient(ops.max(logits, axis, keepdims=True))
    return shifted, ops.log(ops.sum(ops.exp(shifted), axis))


def _hit(target: Value, keep: Value, axis: int, classes: Extent, logits: Value) -> Value:
    """bool, of the logits' shape: whether the class is the label. Checks the labels' range."""
    known = ops.where(keep, target, 0).astype(int64)
    label = apply("gather", ops.arange(classes), known, axis=0, batch_dims=0)
    index = apply("iota", shape=logits.shape, axis=axis, dtype=int64)
    return index == ops.expand_dims(label, axis)


def _along(name: str, weight: Value | None, axis: int, x: Value) -> Value | None:
    """A vector over the classes, laid along their axis."""
    if weight is None:
        return None
    factors = lift_one(name, weight)
    if factors.shape != (x.shape[axis],):
        raise ShapeError(
            f"{name}: weight is {factors.type}, one for each of {x.shape[axis]} classes", here()
        )
    shape: list[Any] = [1] * x.ndim
    shape[axis] = factors.shape[0]
    return ops.broadcast_to(ops.reshape(factors, tuple(shape)), x.shape)
