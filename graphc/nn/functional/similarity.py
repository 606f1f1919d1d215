"""Distances, similarities, and the losses that compare two or three vectors. Names are PyTorch's.

Vectors lie along the last axis, of ``cosine_similarity`` and ``normalize`` along ``dim``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphc import ops
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn.functional.classification import cross_entropy
from graphc.nn.functional.pieces import at_least, known_reduction, pair, reduced
from graphc.op import composite
from graphc.ops.lifting import lift_one, normalize_axis
from graphc.source import here

__all__ = [
    "cosine_embedding_loss",
    "cosine_similarity",
    "hinge_embedding_loss",
    "info_nce_loss",
    "margin_ranking_loss",
    "normalize",
    "pairwise_distance",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]

Distance = Callable[[Value, Value], Value]


# ---- distances


@composite
def pairwise_distance(
    x1: object, x2: object, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Value:
    """``(sum |x1 - x2 + eps|^p)^(1 / p)`` along the last axis: [N, D] and [N, D] to [N].

    ``p=inf`` is the largest. ``eps`` keeps the derivative finite where both are equal.

    >>> pairwise_distance([[1.0, 2.0]], [[3.0, 4.0]]).shape
    (1,)
    """
    difference = lift_one("pairwise_distance", x1) - lift_one("pairwise_distance", x2) + eps
    return _norm("pairwise_distance", difference, p, difference.ndim - 1, keepdim)


@composite
def cosine_similarity(x1: object, x2: object, dim: int = 1, eps: float = 1e-8) -> Value:
    """``x1 . x2 / (max(|x1|, eps) max(|x2|, eps))`` along ``dim``, which falls away.

    >>> cosine_similarity([[1.0, 2.0]], [[3.0, 4.0]]).shape
    (1,)
    """
    a, b = lift_one("cosine_similarity", x1), lift_one("cosine_similarity", x2)
    axis = normalize_axis("cosine_similarity", dim, max(a.ndim, b.ndim)) - max(a.ndim, b.ndim)
    return ops.sum(_unit(a, 2.0, axis, eps) * _unit(b, 2.0, axis, eps), axis)


@composite
def normalize(x: object, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Value:
    """``x / max(|x|_p, eps)`` along ``dim``.

    >>> normalize([[3.0, 4.0]]).shape
    (1, 2)
    """
    value = lift_one("normalize", x)
    return _unit(value, p, normalize_axis("normalize", dim, value.ndim), eps)


# ---- pairs


@composite
def hinge_embedding_loss(
    x: object, target: object, margin: float = 1.0, reduction: str = "mean"
) -> Value:
    """A distance x where the target is 1 (alike), ``max(0, margin - x)`` where it is -1.

    Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", 2006.

    >>> hinge_embedding_loss([0.5, 3.0], [1.0, -1.0]).shape
    ()
    """
    value, wanted = pair("hinge_embedding_loss", x, target)
    apart = ops.where(wanted != 1, at_least(margin - value, 0.0), 0.0)
    return reduced(apart + ops.where(wanted != -1, value, 0.0), reduction)


@composite
def margin_ranking_loss(
    x1: object, x2: object, target: object, margin: float = 0.0, reduction: str = "mean"
) -> Value:
    """``max(0, margin - t (x1 - x2))``: t = 1 where x1 should be the larger, else -1.

    >>> margin_ranking_loss([0.5, 3.0], [1.0, 1.0], [1.0, -1.0]).shape
    ()
    """
    first, second = pair("margin_ranking_loss", x1, x2)
    first, wanted = pair("margin_ranking_loss", first, target)
    return reduced(at_least(margin - wanted * (first - second), 0.0), reduction)


@composite
def cosine_embedding_loss(
    x1: object, x2: object, target: object, margin: float = 0.0, reduction: str = "mean"
) -> Value:
    """``1 - cos(x1, x2)`` where the target is 1, ``max(0, cos(x1, x2) - margin)`` where it is -1.

    x1 and x2 are [N, D] or [D], the target [N] or []. Both squared norms count 1e-12 more.

    >>> cosine_embedding_loss([[1.0, 2.0]], [[3.0, 4.0]], [1.0]).shape
    ()
    """
    a, b = pair("cosine_embedding_loss", x1, x2)
    wanted = lift_one("cosine_embedding_loss", target)
    if a.ndim not in (1, 2) or wanted.shape != a.shape[:-1]:
        raise ShapeError(
            f"cosine_embedding_loss: x1 {a.type} is [N, D] with a target [N], or [D] with []; got "
            f"target {wanted.type}",
            here(),
        )
    if not -1.0 <= margin <= 1.0:
        raise ValueError(f"cosine_embedding_loss: margin must be in [-1, 1], got {margin}")
    squares = (ops.sum(a * a, -1) + 1e-12) * (ops.sum(b * b, -1) + 1e-12)
    cosine = ops.sum(a * b, -1) / ops.sqrt(squares)
    alike = ops.where(wanted == 1, 1.0 - cosine, 0.0)
    apart = ops.where(wanted == -1, at_least(cosine - margin, 0.0), 0.0)
    return reduced(alike + apart, reduction)


# ---- triplets


@composite
def triplet_margin_loss(
    anchor: object,
    positive: object,
    negative: object,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Value:
    """``max(0, margin + d(anchor, positive) - d(anchor, negative))`` of ``pairwise_distance`` d.

    ``swap`` takes d(positive, negative) where that is smaller. Balntas et al. 2016.

    >>> triplet_margin_loss([[1.0, 2.0]], [[3.0, 4.0]], [[0.0, 1.0]]).shape
    ()
    """

    def distance(a: Value, b: Value) -> Value:
        return pairwise_distance(a, b, p, eps)

    given = anchor, positive, negative
    return _triplet("triplet_margin_loss", *given, distance, margin, swap, reduction)


@composite
def triplet_margin_with_distance_loss(
    anchor: object,
    positive: object,
    negative: object,
    *,
    distance_function: Distance | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Value:
    """``triplet_margin_loss`` with any distance of two Values; ``pairwise_distance`` unless said.

    >>> triplet_margin_with_distance_loss([[1.0, 2.0]], [[3.0, 4.0]], [[0.0, 1.0]]).shape
    ()
    """
    name, distance = "triplet_margin_with_distance_loss", distance_function or pairwise_distance
    return _triplet(name, anchor, positive, negative, distance, margin, swap, reduction)


def _triplet(
    name: str,
    anchor: object,
    positive: object,
    negative: object,
    distance: Distance,
    margin: float,
    swap: bool,
    reduction: str,
) -> Value:
    if not margin > 0.0:
        raise ValueError(f"{name}: margin must be > 0, got {margin}")
    center, near = pair(name, anchor, positive)
    _, far = pair(name, anchor, negative)
    apart = distance(center, far)
    if swap:
        apart = ops.minimum(apart, distance(near, far))
    return reduced(at_least(margin + distance(center, near) - apart, 0.0), reduction)


# ---- contrast


@composite
def info_nce_loss(
    query: object,
    key: object,
    temperature: float | Value = 0.07,
    symmetric: bool = False,
    reduction: str = "mean",
) -> Value:
    """Cross-entropy of each query with its own key among all keys of the batch.

    With unit vectors q and k of query and key, both [N, D]::

        loss[i] = -log(exp(q[i] . k[i] / T) / sum over j of exp(q[i] . k[j] / T))

    ``symmetric`` takes the mean with queries and keys exchanged, as CLIP does (Radford et al.
    2021); ``temperature`` T is a number or a scalar Value. Van den Oord, Li, Vinyals 2018.

    >>> import graphc as gc
    >>> info_nce_loss(gc.observed("q", (8, 16)), gc.observed("k", (8, 16))).shape
    ()
    """
    known_reduction(reduction)
    a, b = pair("info_nce_loss", query, key)
    if a.ndim != 2:
        raise ShapeError(f"info_nce_loss: query and key are [N, D], got {a.type}", here())
    if isinstance(temperature, (int, float)) and not temperature > 0.0:
        raise ValueError(f"info_nce_loss: temperature must be > 0, got {temperature}")
    logits = normalize(a) @ normalize(b).T / temperature
    own = ops.arange(a.shape[0])
    loss = cross_entropy(logits, own, reduction=reduction)
    if not symmetric:
        return loss
    return 0.5 * (loss + cross_entropy(logits.T, own, reduction=reduction))


# ---- pieces


def _unit(value: Value, p: float, axis: int, eps: float) -> Value:
    return value / _norm("normalize", value, p, axis, keepdims=True, eps=eps)


def _norm(
    name: str, value: Value, p: float, axis: int, keepdims: bool, eps: float = 0.0
) -> Value:
    """The p-norm, at least ``eps``: kept so before the root, whose derivative at 0 is infinite."""
    if not p > 0.0:
        raise ValueError(f"{name}: p must be > 0, got {p}")
    size = ops.abs(value)
    if p == math.inf:
        return at_least(ops.max(size, axis, keepdims), eps)
    if p == 1.0:
        return at_least(ops.sum(size, axis, keepdims), eps)
    if p == 2.0:
        return ops.sqrt(at_least(ops.sum(value * value, axis, keepdims), eps * eps))
    # in units of the largest, whose power neither overflows nor vanishes
    largest = ops.stop_gradient(ops.max(size, axis, keepdims=True))
    unit = ops.where((largest > 0.0) & (largest < math.inf), largest, 1.0)
    total = ops.sum((size / unit) ** p, axis, keepdims=True)
    some = total > 0.0
    root = ops.where(some, ops.where(some, total, 1.0) ** (1.0 / p), 0.0) * unit
    root = ops.where(total == total, root, total)  # NaN stays
    return at_least(root if keepdims else ops.squeeze(root, axis), eps)
