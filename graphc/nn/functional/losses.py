"""Losses element by element: what a prediction misses its target by. Names are PyTorch's.

``reduction`` is "mean", "sum" or "none" (the elements).
"""

from __future__ import annotations

import math

from graphc import ops
from graphc.custom import custom_gradient
from graphc.dsl import stop_gradient
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn.functional.activations import log_of_sigmoid
from graphc.nn.functional.pieces import at_least, mean_over_batch, pair, reduced, weighed
from graphc.op import composite
from graphc.ops.lifting import lift_one
from graphc.source import here

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
]


# ---- distances


@composite
def mse_loss(
    x: object, target: object, reduction: str = "mean", weight: object = None
) -> Value:
    """``(x - target)^2``; with ``weight`` of x's shape "mean" is the weighted mean.

    >>> mse_loss([1.0, 2.0], [1.0, 4.0]).shape
    ()
    """
    value, wanted = pair("mse_loss", x, target)
    difference = value - wanted
    return weighed("mse_loss", difference * difference, weight, reduction)


@composite
def l1_loss(x: object, target: object, reduction: str = "mean", weight: object = None) -> Value:
    """``|x - target|``; with ``weight`` of x's shape "mean" is the weighted mean.

    >>> l1_loss([1.0, 2.0], [1.0, 4.0]).shape
    ()
    """
    value, wanted = pair("l1_loss", x, target)
    return weighed("l1_loss", ops.abs(value - wanted), weight, reduction)


@composite
def smooth_l1_loss(
    x: object, target: object, reduction: str = "mean", beta: float = 1.0
) -> Value:
    """With d = x - target: ``d^2 / (2 beta)`` where ``|d| < beta``, else ``|d| - beta / 2``.

    Girshick, "Fast R-CNN", 2015. ``beta=0`` is ``l1_loss``.

    >>> smooth_l1_loss([1.0, 2.0], [1.0, 4.0]).shape
    ()
    """
    value, wanted = pair("smooth_l1_loss", x, target)
    if beta < 0.0:
        raise ValueError(f"smooth_l1_loss: beta must be >= 0, got {beta}")
    difference = value - wanted
    size = ops.abs(difference)
    if beta == 0.0:
        return reduced(size, reduction)
    close = size < beta
    inner = ops.where(close, difference, 0.0)  # whose square does not overflow far out
    return reduced(ops.where(close, (0.5 / beta) * (inner * inner), size - 0.5 * beta), reduction)


@composite
def huber_loss(
    x: object,
    target: object,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: object = None,
) -> Value:
    """With d = x - target: ``d^2 / 2`` where ``|d| <= delta``, else ``delta (|d| - delta / 2)``.

    Huber, "Robust Estimation of a Location Parameter", 1964.

    >>> huber_loss([1.0, 2.0], [1.0, 4.0]).shape
    ()
    """
    value, wanted = pair("huber_loss", x, target)
    if not delta > 0.0:
        raise ValueError(f"huber_loss: delta must be > 0, got {delta}")
    difference = value - wanted
    size = ops.abs(difference)
    close = size <= delta
    inner = ops.where(close, difference, 0.0)  # whose square does not overflow far out
    loss = ops.where(close, 0.5 * (inner * inner), delta * (size - 0.5 * delta))
    return weighed("huber_loss", loss, weight, reduction)


# ---- two classes


@composite
def binary_cross_entropy(
    x: object, target: object, weight: object = None, reduction: str = "mean"
) -> Value:
    """``-(t log x + (1 - t) log(1 - x))`` of probabilities x; logarithms count as at least -100.

    ``weight`` multiplies the elements. The slope is ``(x - t) / max(x (1 - x), 1e-12)``: a wrong
    answer that is quite sure still learns, a right one stays. An x outside of [0, 1] makes NaN,
    whose place ``compile(..., check="nan")`` tells.

    >>> binary_cross_entropy([0.5, 0.9], [0.0, 1.0]).shape
    ()
    """
    value, wanted = pair("binary_cross_entropy", x, target)
    loss = _cross_entropy(value, ops.broadcast_to(wanted, value.shape))
    return reduced(_scaled("binary_cross_entropy", loss, weight), reduction)


@composite
def binary_cross_entropy_with_logits(
    x: object,
    target: object,
    weight: object = None,
    reduction: str = "mean",
    pos_weight: object = None,
) -> Value:
    """``-(q t log sigmoid(x) + (1 - t) log(1 - sigmoid(x)))``, without overflow.

    ``pos_weight`` q weighs the positive targets, ``weight`` the elements; both broadcast to x.

    >>> binary_cross_entropy_with_logits([0.5, 9.0], [0.0, 1.0]).shape
    ()
    """
    name = "binary_cross_entropy_with_logits"
    value, wanted = pair(name, x, target)
    log_p = log_of_sigmoid(value)  # and log(1 - sigmoid(x)) = log_p - x
    positive = wanted if pos_weight is None else _scaled(name, wanted, pos_weight)
    loss = (1.0 - wanted) * (value - log_p) - positive * log_p
    return reduced(_scaled(name, loss, weight), reduction)


@composite
def soft_margin_loss(x: object, target: object, reduction: str = "mean") -> Value:
    """``log(1 + exp(-t x))`` of targets t = -1 or 1, without overflow.

    >>> soft_margin_loss([0.5, 9.0], [-1.0, 1.0]).shape
    ()
    """
    value, wanted = pair("soft_margin_loss", x, target)
    return reduced(-log_of_sigmoid(wanted * value), reduction)


# ---- distributions


@composite
def kl_div(
    x: object, target: object, reduction: str = "mean", log_target: bool = False
) -> Value:
    """``t (log t - x)`` of log-probabilities x; with ``log_target`` the target is log t.

    ``reduction="batchmean"``, the sum over the batch's size, is the divergence of Kullback and
    Leibler (1951). Where t is 0, so is the loss.

    >>> kl_div([[-1.0, -0.5]], [[0.5, 0.5]], reduction="batchmean").shape
    ()
    """
    value, wanted = pair("kl_div", x, target)
    if log_target:
        return mean_over_batch(ops.exp(wanted) * (wanted - value), reduction)
    some = wanted > 0.0
    entropy = ops.where(some, wanted * ops.log(ops.where(some, wanted, 1.0)), 0.0)
    return mean_over_batch(entropy - wanted * value, reduction)


@composite
def gaussian_nll_loss(
    x: object,
    target: object,
    var: object,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Value:
    """``(log var + (x - t)^2 / var) / 2``: t's likelihood under a normal distribution around x.

    ``var`` has x's shape, or the last axis left out or 1, or is a scalar; it counts as at least
    ``eps``, which its derivative does not see. ``full`` adds ``log(2 pi) / 2``. Nix, Weigend 1994.

    >>> gaussian_nll_loss([1.0, 2.0], [1.0, 4.0], [1.0, 0.5]).shape
    ()
    """
    value, wanted = pair("gaussian_nll_loss", x, target)
    spread = lift_one("gaussian_nll_loss", var)
    if spread.ndim and spread.shape == value.shape[:-1]:
        spread = ops.expand_dims(spread, -1)
    if spread.ndim and spread.shape not in (value.shape, (*value.shape[:-1], 1)):
        raise ShapeError(
            f"gaussian_nll_loss: var is {spread.type}; of x {value.type} it has the shape, or "
            "1 or no last axis",
            here(),
        )
    if not eps > 0.0:
        raise ValueError(f"gaussian_nll_loss: eps must be > 0, got {eps}")
    spread = spread + stop_gradient(ops.maximum(spread, eps) - spread)
    difference = value - wanted
    loss = 0.5 * (ops.log(spread) + difference * difference / spread)
    return reduced(loss + 0.5 * math.log(2.0 * math.pi) if full else loss, reduction)


@composite
def poisson_nll_loss(
    x: object,
    target: object,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Value:
    """``exp(x) - t x`` for counts t of expected number exp(x); without ``log_input`` of expected
    number x: ``x - t log(x + eps)``.

    ``full`` adds Stirling's ``t log t - t + log(2 pi t) / 2`` where t > 1.

    >>> poisson_nll_loss([1.0, 2.0], [1.0, 4.0]).shape
    ()
    """
    value, wanted = pair("poisson_nll_loss", x, target)
    expected, log_of_it = (ops.exp(value), value) if log_input else (value, ops.log(value + eps))
    loss = expected - wanted * log_of_it
    if full:
        many = wanted > 1.0
        safe = ops.where(many, wanted, 1.0)
        stirling = wanted * ops.log(safe) - wanted + 0.5 * ops.log(2.0 * math.pi * safe)
        loss = loss + ops.where(many, stirling, 0.0)
    return reduced(loss, reduction)


@custom_gradient
def _cross_entropy(x: Value, target: Value) -> Value:
    """Of two classes, logarithms at least -100."""
    log_of_one, log_of_zero = _logarithms(x)
    return -(target * log_of_one + (1.0 - target) * log_of_zero)


@_cross_entropy.backward
def _(inputs: tuple[Value, Value], loss: Value, cotangent: Value) -> tuple[Value, Value]:
    x, target = inputs
    log_of_one, log_of_zero = _logarithms(x)
    spread = ops.where((x >= 0.0) & (x <= 1.0), ops.maximum(x * (1.0 - x), 1e-12), math.nan)
    return cotangent * (x - target) / spread, cotangent * (log_of_zero - log_of_one)


def _logarithms(p: Value) -> tuple[Value, Value]:
    """log p and log(1 - p), at least -100."""
    return at_least(ops.log(p), -100.0), at_least(ops.log1p(-p), -100.0)


def _scaled(name: str, loss: Value, weight: object) -> Value:
    """``loss`` times a weight that broadcasts to it."""
    if weight is None:
        return loss
    factors = lift_one(name, weight)
    scaled = loss * factors
    if scaled.shape != loss.shape:
        raise ShapeError(
            f"{name}: a weight {factors.type} does not broadcast to {loss.type}", here()
        )
    return scaled
