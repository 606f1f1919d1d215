"""Layers: affine maps, embeddings, dropout. Names and layouts are PyTorch's."""

from __future__ import annotations

import functools
import math
from typing import Any

from numpy.typing import NDArray

from graphc.dsl import parameter
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.module import Module
from graphc.ops import reshape
from graphc.ops.lifting import normalize_axis
from graphc.ops.sizes import product
from graphc.philox import Key
from graphc.source import here
from graphc.types import DType, float32

__all__ = ["Dropout", "Embedding", "Flatten", "Identity", "Linear"]


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


class Identity(Module):
    """``y = x``: what stands where a layer may be left out. Arguments are taken and not used, as
    PyTorch's are.

    >>> import graphc as gc
    >>> x = gc.observed("x", (4, 3))
    >>> Identity(54, unused=0.1)(x) is x
    True
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def forward(self, x: Value) -> Value:
        """x itself."""
        return x


class Embedding(Module):
    """A table of vectors: ids [...] to ``weight[ids]`` [..., embedding_dim].

    ``weight`` [num_embeddings, embedding_dim] starts standard normal. Row ``padding_idx`` starts
    at zero and has no derivative. An id outside of the table fails the call. In mode train, rows
    that are read and whose norm of order ``norm_type`` exceeds ``max_norm`` are shortened to it, in
    ``weight`` itself; in mode eval they are read so, and nothing is written. With
    ``scale_grad_by_freq`` a row learns by the mean over its ids, not their sum. See
    ``functional.embedding``.

    >>> import graphc as gc
    >>> Embedding(10, 3)(gc.observed("ids", (4, 5), gc.int64)).shape
    (4, 5, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        dtype: object = float32,
    ) -> None:
        functional.layers.check_embedding(type(self).__name__, max_norm, sparse)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx {padding_idx} is not among {num_embeddings}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        draw = functools.partial(_normal_rows, zero_row=self.padding_idx)
        self.weight = parameter((num_embeddings, embedding_dim), dtype, init=draw)

    def forward(self, ids: Value) -> Value:
        """ids [...] -> [..., embedding_dim]."""
        options = self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq
        return functional.embedding(ids, self.weight, *options)

    def _describe(self) -> str:
        options = {
            "padding_idx": (self.padding_idx, None),
            "max_norm": (self.max_norm, None),
            "norm_type": (self.norm_type, 2.0),
            "scale_grad_by_freq": (self.scale_grad_by_freq, False),
        }
        given = [f", {name}={v}" for name, (v, usual) in options.items() if v != usual]
        return f"{self.num_embeddings}, {self.embedding_dim}{''.join(given)}"


def _normal_rows(
    shape: tuple[int, ...], dtype: DType, key: Key, *, zero_row: int | None
) -> NDArray[Any]:
    drawn = init.normal(shape, dtype, key)
    if zero_row is not None:
        drawn[zero_row] = 0
    return drawn


class Flatten(Module):
    """The axes from ``start_dim`` to ``end_dim`` as one, in row-major order.

    >>> import graphc as gc
    >>> Flatten()(gc.observed("x", (2, 3, 4, 5))).shape
    (2, 60)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Value) -> Value:
        """[..., a, b, c, ...] -> [..., a b c, ...]."""
        start = normalize_axis("flatten", self.start_dim, x.ndim)
        end = normalize_axis("flatten", self.end_dim, x.ndim) + 1
        if end <= start:
            raise ShapeError(
                f"Flatten: axes {self.start_dim} to {self.end_dim} of {x.type} are none", here()
            )
        return reshape(x, (*x.shape[:start], product(x.shape[start:end]), *x.shape[end:]))

    def _describe(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


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
