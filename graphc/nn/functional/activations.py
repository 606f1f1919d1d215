"""Activations that look at one element at a time, as formulas. Names are PyTorch's.

At a kink the derivative is PyTorch's: that of the branch which the comparison names. An expression
that would overflow on the other branch sees a zero there, so that its derivative is no NaN.
"""

from __future__ import annotations

import math

from graphc import ops, random
from graphc.dsl import by_mode
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.op import composite
from graphc.ops.lifting import lift_one
from graphc.source import here

__all__ = [
    "celu",
    "elu",
    "gelu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "logsigmoid",
    "mish",
    "prelu",
    "relu6",
    "rrelu",
    "selu",
    "silu",
    "softplus",
    "softshrink",
    "softsign",
    "tanhshrink",
    "threshold",
]

#: of selu, such that mean 0 and variance 1 are a fixed point (Klambauer et al. 2017)
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


# ---- the family of relu


@composite
def leaky_relu(x: object, negative_slope: float = 0.01) -> Value:
    """x where x > 0, else ``negative_slope x`` (Maas, Hannun, Ng 2013).

    >>> leaky_relu([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("leaky_relu", x)
    return ops.where(value > 0, value, value * negative_slope)


@composite
def prelu(x: object, weight: Value) -> Value:
    """x where x > 0, else ``weight x``: a slope that is learned (He et al. 2015).

    ``weight`` is [1], or [C], one for each channel: axis 1 of x (axis 0 of an x with one axis).

    >>> import graphc as gc
    >>> prelu(gc.observed("x", (4, 3, 8)), gc.parameter(3)).shape
    (4, 3, 8)
    """
    value = lift_one("prelu", x)
    channel = min(value.ndim - 1, 1)
    wanted: tuple[object, ...] = (1,) if channel < 0 else (1, value.shape[channel])
    if weight.ndim != 1 or weight.shape[0] not in wanted:
        raise ShapeError(
            f"prelu: weight is {weight.type}; of x {value.type} it has 1 element, or one for each "
            "channel (axis 1)",
            here(),
        )
    slope = ops.reshape(weight, (-1, *(1,) * (value.ndim - 1 - max(channel, 0))))
    slope = slope if value.ndim else slope[0]
    return ops.where(value > 0, value, value * slope)


@composite
def rrelu(x: object, lower: float = 1.0 / 8.0, upper: float = 1.0 / 3.0) -> Value:
    """x where x > 0, else ``a x``: in mode train a is drawn for each element, uniform between
    ``lower`` and ``upper``; in mode eval it is their mean (Xu et al. 2015).

    >>> rrelu([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("rrelu", x)
    if not 0.0 <= lower <= upper <= 1.0:
        raise ValueError(f"rrelu: need 0 <= lower <= upper <= 1, got {lower} and {upper}")
    drawn = random.uniform(value.shape, lower, upper, dtype=value.dtype)
    mean = ops.full_like(value, (lower + upper) / 2.0)
    slope = by_mode(train=drawn, eval=mean)
    return ops.where(value > 0, value, value * slope)


@composite
def relu6(x: object) -> Value:
    """min(max(x, 0), 6) (Krizhevsky 2010).

    >>> relu6([-1.0, 7.0]).shape
    (2,)
    """
    return _clamped(lift_one("relu6", x), 0.0, 6.0)


@composite
def elu(x: object, alpha: float = 1.0) -> Value:
    """x where x > 0, else ``alpha (exp(x) - 1)`` (Clevert, Unterthiner, Hochreiter 2016).

    >>> elu([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("elu", x)
    return ops.where(value > 0, value, alpha * ops.expm1(_negative(value)))


@composite
def celu(x: object, alpha: float = 1.0) -> Value:
    """x where x > 0, else ``alpha (exp(x / alpha) - 1)``, smooth for every alpha (Barron 2017).

    >>> celu([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("celu", x)
    if alpha == 0.0:
        raise ValueError("celu: alpha must not be 0")
    return ops.where(value > 0, value, alpha * ops.expm1(_negative(value) / alpha))


@composite
def selu(x: object) -> Value:
    """``1.0507 x`` where x > 0, else ``1.0507 * 1.6733 (exp(x) - 1)``: layers of it normalize
    themselves (Klambauer et al. 2017).

    >>> selu([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("selu", x)
    below = (_SELU_SCALE * _SELU_ALPHA) * ops.expm1(_negative(value))
    return ops.where(value > 0, _SELU_SCALE * value, below)


@composite
def threshold(x: object, threshold: float, value: float) -> Value:
    """x where x > ``threshold``, else ``value``.

    >>> threshold([-1.0, 1.0], 0.5, 0.0).shape
    (2,)
    """
    given = lift_one("threshold", x)
    return ops.where(given <= threshold, value, given)  # so NaN stays


# ---- x times a gate


@composite
def gelu(x: object, approximate: str = "none") -> Value:
    """x times the standard normal's distribution function at x (Hendrycks, Gimpel 2016).

    ``approximate="tanh"`` is ``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``.

    >>> gelu([-1.0, 1.0]).shape
    (2,)
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
    """x times sigmoid(x), also called swish (Elfwing, Uchibe, Doya 2018).

    >>> silu([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("silu", x)
    return value * ops.sigmoid(value)


@composite
def mish(x: object) -> Value:
    """x times tanh(softplus(x)) (Misra 2020).

    >>> mish([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("mish", x)
    return value * ops.tanh(softplus(value))


@composite
def hardswish(x: object) -> Value:
    """x times relu6(x + 3) / 6 (Howard et al., "Searching for MobileNetV3", 2019).

    >>> hardswish([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("hardswish", x)
    return value * _clamped(value + 3.0, 0.0, 6.0) / 6.0


# ---- those that saturate


@composite
def hardtanh(x: object, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    """x, kept within ``min_val`` and ``max_val`` (Collobert 2004).

    >>> hardtanh([-2.0, 0.5]).shape
    (2,)
    """
    value = lift_one("hardtanh", x)
    if not min_val < max_val:
        raise ValueError(f"hardtanh: need min_val < max_val, got {min_val} and {max_val}")
    return _clamped(value, min_val, max_val)


@composite
def hardsigmoid(x: object) -> Value:
    """relu6(x + 3) / 6 (Courbariaux, Bengio, David 2015; the slope is MobileNetV3's).

    >>> hardsigmoid([-1.0, 1.0]).shape
    (2,)
    """
    return _clamped(lift_one("hardsigmoid", x) + 3.0, 0.0, 6.0) / 6.0


@composite
def softsign(x: object) -> Value:
    """x / (1 + |x|) (Turian, Bergstra, Bengio 2009).

    >>> softsign([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("softsign", x)
    return value / (1.0 + ops.abs(value))


@composite
def softplus(x: object, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """``log(1 + exp(beta x)) / beta``, and x itself where ``beta x > threshold`` (Dugas 2001).

    >>> softplus([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("softplus", x)
    if beta == 0.0:
        raise ValueError("softplus: beta must not be 0")
    scaled = value if beta == 1.0 else value * beta
    linear = scaled > threshold
    soft = ops.log1p(ops.exp(ops.where(linear, 0.0, scaled)))
    return ops.where(linear, value, soft if beta == 1.0 else soft / beta)


@composite
def logsigmoid(x: object) -> Value:
    """log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|)), without overflow.

    >>> logsigmoid([-1.0, 1.0]).shape
    (2,)
    """
    return log_of_sigmoid(lift_one("logsigmoid", x))


# ---- shrinkage


@composite
def tanhshrink(x: object) -> Value:
    """x - tanh(x).

    >>> tanhshrink([-1.0, 1.0]).shape
    (2,)
    """
    value = lift_one("tanhshrink", x)
    return value - ops.tanh(value)


@composite
def softshrink(x: object, lambd: float = 0.5) -> Value:
    """x moved towards 0 by ``lambd``, 0 where |x| <= ``lambd``: what minimizes
    ``(y - x)^2 / 2 + lambd |y|``.

    >>> softshrink([-1.0, 0.25]).shape
    (2,)
    """
    value = lift_one("softshrink", x)
    _not_negative("softshrink", lambd)
    moved = ops.where(value < 0, value + lambd, value - lambd)
    return ops.where((value <= lambd) & (value >= -lambd), 0.0, moved)  # so NaN stays


@composite
def hardshrink(x: object, lambd: float = 0.5) -> Value:
    """x where |x| > ``lambd``, else 0.

    >>> hardshrink([-1.0, 0.25]).shape
    (2,)
    """
    value = lift_one("hardshrink", x)
    return ops.where((value <= lambd) & (value >= -lambd), 0.0, value)  # so NaN stays


# ---- pieces


def log_of_sigmoid(value: Value) -> Value:
    """log(sigmoid(value)), inside of another composite.

    |x| is ``x * side``, whose derivative is right at 0 too, to any order.
    """
    negative = value < 0
    side = ops.where(negative, -1.0, 1.0).astype(value.dtype)
    return ops.where(negative, value, 0.0) - ops.log1p(ops.exp(-(value * side)))


def _negative(value: Value) -> Value:
    """x where it is not above 0, else 0: the other branch never overflows."""
    return ops.where(value > 0, 0.0, value)


def _clamped(value: Value, low: float, high: float) -> Value:
    """x within low and high; NaN stays; at the bounds the derivative is 0."""
    return ops.where(value <= low, low, ops.where(value >= high, high, value))


def _not_negative(name: str, lambd: float) -> None:
    if lambd < 0.0:
        raise ValueError(f"{name}: lambd must be >= 0, got {lambd}")
