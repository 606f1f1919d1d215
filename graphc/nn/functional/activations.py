"""Activations: elementwise functions and softmax."""

from __future__ import annotations

import math

from graphc import ops
from graphc.graph import Value
from graphc.op import composite
from graphc.ops.lifting import lift_one

__all__ = ["gelu", "leaky_relu", "silu", "softplus"]


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
