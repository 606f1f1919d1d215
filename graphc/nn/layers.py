"""Layers: affine maps, activations, layer norm. Names and layouts are PyTorch's."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from graphc.dsl import parameter
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.module import Module
from graphc.types import float32

__all__ = [
    "GELU",
    "Dropout",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]


class Linear(Module):
    """``y = x weight^T + bias``: x [..., in_features] to y [..., out_features].

    ``weight`` [out, in] and ``bias`` [out] start uniform within 1 / sqrt(in_features), as
    PyTorch's (He et al. 2015 with slope sqrt(5)).

    >>> import graphc as gc
    >>> layer = Linear(3, 2)
    >>> layer, layer(gc.observed("x", (4, 3))).shape
    (Linear(in_features=3, out_features=2, bias=True), (4, 2))
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: object = float32
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        draw_weight = functools.partial(init.kaiming_uniform, a=math.sqrt(5.0))
        self.weight = parameter((out_features, in_features), dtype, init=draw_weight)
        bound = 1.0 / math.sqrt(in_features) if in_features else 0.0
        draw_bias = functools.partial(init.uniform, low=-bound, high=bound)
        self.bias = parameter((out_features,), dtype, init=draw_bias) if bias else None

    def forward(self, x: Value) -> Value:
        """x [..., in_features] -> [..., out_features]."""
        return functional.linear(x, self.weight, self.bias)

    def _describe(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class LayerNorm(Module):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axes (Ba et al. 2016)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: object = float32,
    ) -> None:
        single = isinstance(normalized_shape, int)
        self.normalized_shape: tuple[int, ...] = (
            (normalized_shape,) if single else tuple(normalized_shape)  # type: ignore
        )
        self.eps = eps
        affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = parameter(shape, dtype, init=init.ones) if affine else None
        self.bias = parameter(shape, dtype) if affine and bias else None

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def _describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class Dropout(Module):
    """In mode train each element is zero with probability ``p``, the others are times 1 / (1 - p).

    In mode eval the identity. Srivastava et al., "Dropout", 2014.

    >>> import graphc as gc
    >>> Dropout(0.1)(gc.observed("x", (2, 3))).type
    f32[2,3]
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: p must be in [0, 1], got {p}")
        self.p = p

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.dropout(x, self.p)

    def _describe(self) -> str:
        return f"p={self.p}"


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.relu(x)


class LeakyReLU(Module):
    """x where positive, else ``negative_slope * x``."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.leaky_relu(x, self.negative_slope)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.sigmoid(x)


class GELU(Module):
    """x times the normal distribution function at x; ``approximate`` "none" or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.gelu(x, self.approximate)


class SiLU(Module):
    """x times sigmoid(x)."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.silu(x)


class Softmax(Module):
    """exp(x) normalized to sum 1 along ``dim``."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.softmax(x, self.dim)
