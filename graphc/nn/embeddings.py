"""Bags of embeddings, and positions: sinusoidal, learned, rotary."""

from __future__ import annotations

import functools

from graphc import ops
from graphc.dsl import parameter
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.layers import Embedding
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import float32

__all__ = ["EmbeddingBag", "LearnedPositions", "RotaryPositions", "SinusoidalPositions"]


class EmbeddingBag(Embedding):
    """Sum, mean or maximum of the embeddings in each bag of ids; see ``functional.embedding_bag``.

    ``weight`` [num_embeddings, embedding_dim] starts standard normal, row ``padding_idx`` at zero.

    >>> import graphc as gc
    >>> ids, offsets = gc.observed("ids", (9,), gc.int64), gc.observed("offsets", (4,), gc.int64)
    >>> EmbeddingBag(10, 3)(ids, offsets).shape
    (4, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        *,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        dtype: object = float32,
    ) -> None:
        options = max_norm, norm_type, scale_grad_by_freq, sparse
        super().__init__(num_embeddings, embedding_dim, padding_idx, *options, dtype=dtype)
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"EmbeddingBag: mode is 'sum', 'mean' or 'max', not {mode!r}")
        if scale_grad_by_freq and mode == "max":
            raise ValueError("EmbeddingBag: scale_grad_by_freq goes with mode 'sum' or 'mean'")
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(
        self,
        input: Value,
        offsets: Value | None = None,
        per_sample_weights: Value | None = None,
    ) -> Value:
        """input [bags, size], or [n] with offsets [bags] -> [bags, embedding_dim]."""
        return functional.embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def _describe(self) -> str:
        return f"{super()._describe()}, mode={self.mode!r}"


class SinusoidalPositions(Module):
    """``x + functional.sinusoidal_positions``: x [..., T, dim], T along ``axis`` (Vaswani 2017).

    ``start`` is the first position, an int or an int64 scalar: decoding goes on from there.

    >>> import graphc as gc
    >>> SinusoidalPositions()(gc.observed("x", (2, 5, 8))).shape
    (2, 5, 8)
    """

    def __init__(self, base: float = 10000.0, axis: int = -2) -> None:
        self.base, self.axis = base, axis

    def forward(self, x: Value, start: int | Value = 0) -> Value:
        """The same shape."""
        axis, size = _positions_axis(self._own_name, x, self.axis), x.shape[-1]
        if not isinstance(size, int):
            raise ShapeError(f"{self._own_name}: the last axis of {x.type} must be known", here())
        places = ops.arange(x.shape[axis]) + start
        table = functional.sinusoidal_positions(places, size, self.base, x.dtype)
        return x + _beside(table, x, axis)


class LearnedPositions(Module):
    """``x + weight[position]``: x [..., T, dim], T along ``axis`` and at most ``max_len``.

    ``weight`` [max_len, dim] starts normal with deviation ``std``. A position beyond it fails the
    call. Gehring et al., "Convolutional Sequence to Sequence Learning", 2017; GPT's ``wpe``.

    >>> import graphc as gc
    >>> LearnedPositions(10, 8)(gc.observed("x", (2, 5, 8))).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        max_len: int,
        dim: int,
        std: float = 0.02,
        axis: int = -2,
        *,
        dtype: object = float32,
    ) -> None:
        self.max_len, self.axis = max_len, axis
        draw = functools.partial(init.normal, std=std)
        self.weight = parameter((max_len, dim), dtype, init=draw)

    def forward(self, x: Value, start: int | Value = 0) -> Value:
        """The same shape."""
        axis = _positions_axis(self._own_name, x, self.axis)
        steps = x.shape[axis]
        if isinstance(steps, int) and isinstance(start, int):
            if start < 0 or start + steps > self.max_len:
                raise ShapeError(
                    f"{self._own_name}: positions {start} to {start + steps - 1} of {x.type}, "
                    f"there are {self.max_len}",
                    here(),
                )
            return x + _beside(self.weight[start : start + steps], x, axis)
        return x + _beside(functional.embedding(ops.arange(steps) + start, self.weight), x, axis)

    def _describe(self) -> str:
        return f"{self.max_len}, {self.weight.shape[1]}"


class RotaryPositions(Module):
    """Turns queries and keys [..., T, d] by their position; see ``functional.rotary_positions``.

    >>> import graphc as gc
    >>> RotaryPositions()(gc.observed("q", (2, 4, 5, 8))).shape
    (2, 4, 5, 8)
    """

    def __init__(self, base: float = 10000.0, interleaved: bool = False) -> None:
        self.base, self.interleaved = base, interleaved

    def forward(self, x: Value, start: int | Value = 0) -> Value:
        """The same shape."""
        places = ops.arange(x.shape[-2]) + start
        return functional.rotary_positions(x, places, self.base, self.interleaved)


def _positions_axis(name: str, x: Value, axis: int) -> int:
    place = axis + x.ndim if axis < 0 else axis
    if not 0 <= place < x.ndim - 1:
        raise ShapeError(f"{name}: {x.type} has no axis {axis} before its features", here())
    return place


def _beside(table: Value, x: Value, axis: int) -> Value:
    """[T, dim] laid along ``axis`` and the last axis of x."""
    inner = tuple(range(1, x.ndim - axis - 1))
    return ops.broadcast_to(ops.expand_dims(table, inner) if inner else table, x.shape)
