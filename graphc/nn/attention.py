"""Attention with several heads: PyTorch's MultiheadAttention, and grouped queries."""

from __future__ import annotations

import math
from typing import Any

from graphc import ops
from graphc.dsl import parameter
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.embeddings import RotaryPositions
from graphc.nn.layers import Linear
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import float32

__all__ = ["GroupedQueryAttention", "MultiheadAttention"]


class MultiheadAttention(Module):
    """Heads that attend in ``embed_dim / num_heads`` dimensions each, side by side::

        head_h = softmax(W_q,h query (W_k,h key)^T / sqrt(d)) W_v,h value
        out    = out_proj(concat(head_0, head_1, ...))

    query [L, N, E], key [S, N, kdim], value [S, N, vdim] to out [L, N, E] and weights [N, L, S];
    ``batch_first``: [N, L, E] and so on; one sequence: [L, E]. Weights are laid out as PyTorch's:
    ``in_proj_weight`` [3E, E] holds W_q, W_k, W_v (three parameters where kdim or vdim differ).

    Masks are PyTorch's too: in bool ones **True means ignored** (the other way round than in
    ``functional.scaled_dot_product_attention``); floating ones are added. Vaswani et al. 2017.

    >>> import graphc as gc
    >>> layer = MultiheadAttention(8, 2, batch_first=True)
    >>> x = gc.observed("x", (3, 5, 8))
    >>> [v.shape for v in layer(x, x, x)]
    [(3, 5, 8), (3, 5, 5)]
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        dtype: object = float32,
    ) -> None:
        _check_heads("MultiheadAttention", embed_dim, num_heads, dropout)
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        sizes = (embed_dim, embed_dim if kdim is None else kdim, vdim or embed_dim)
        draw = init.xavier_uniform
        if set(sizes) == {embed_dim}:
            self.in_proj_weight = parameter((3 * embed_dim, embed_dim), dtype, init=draw)
        else:
            self.q_proj_weight = parameter((embed_dim, sizes[0]), dtype, init=draw)
            self.k_proj_weight = parameter((embed_dim, sizes[1]), dtype, init=draw)
            self.v_proj_weight = parameter((embed_dim, sizes[2]), dtype, init=draw)
        self.in_proj_bias = parameter((3 * embed_dim,), dtype) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype)
        if self.out_proj.bias is not None:
            self.out_proj.bias = parameter((embed_dim,), dtype)
        extra = (1, 1, embed_dim)
        draw = init.xavier_normal
        self.bias_k = parameter(extra, dtype, init=draw) if add_bias_kv else None
        self.bias_v = parameter(extra, dtype, init=draw) if add_bias_kv else None

    def forward(
        self,
        query: Value,
        key: Value,
        value: Value,
        key_padding_mask: Value | None = None,
        need_weights: bool = True,
        attn_mask: Value | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Value, Value | None]:
        """(out, weights); weights are the heads' mean [N, L, S], or with
        ``average_attn_weights=False`` [N, heads, L, S], and None without ``need_weights``.

        ``key_padding_mask`` [N, S] hides keys, ``attn_mask`` [L, S] or [N * heads, L, S] hides
        pairs; ``is_causal`` hides what comes later, with or without a mask.
        """
        single = query.ndim == 2
        flows = self._batches_first(query, key, value)
        q, k, v = self._projected(*flows)
        k, v, padded = self._with_extra_keys(k, v)
        by_head = [self._split_heads(x) for x in (q, k, v)]
        if self.add_zero_attn:
            by_head[1:] = [_padded_keys(x) for x in by_head[1:]]
            padded += 1
        masks = self._masks(q, key_padding_mask, attn_mask, single, padded)
        mask = _joined_mask(masks, q.dtype)
        weights = functional.attention_weights(by_head[0], by_head[1], mask, is_causal)
        weights = functional.dropout(weights, self.dropout)
        mixed = ops.swapaxes(weights @ by_head[2], 1, 2)
        out = self.out_proj(ops.reshape(mixed, q.shape))
        shown = None
        if need_weights:
            shown = ops.mean(weights, 1) if average_attn_weights else weights
        if single:
            return ops.squeeze(out, 0), None if shown is None else ops.squeeze(shown, 0)
        return (out if self.batch_first else ops.swapaxes(out, 0, 1)), shown

    def _batches_first(self, *flows: Value) -> tuple[Value, ...]:
        """query, key and value as [N, L, E]."""
        ranks = {flow.ndim for flow in flows}
        if len(ranks) > 1 or not ranks <= {2, 3}:
            listed = ", ".join(str(flow.type) for flow in flows)
            raise ShapeError(
                f"{self._own_name}: query, key and value have three axes each, or two: {listed}",
                here(),
            )
        if ranks == {2}:
            return tuple(ops.expand_dims(flow, 0) for flow in flows)
        return flows if self.batch_first else tuple(ops.swapaxes(flow, 0, 1) for flow in flows)

    def _projected(self, *flows: Value) -> tuple[Value, ...]:
        """The inputs of all heads side by side: three of [N, L, E]."""
        size, bias = self.embed_dim, self.in_proj_bias
        if hasattr(self, "in_proj_weight"):
            thirds = [slice(i * size, (i + 1) * size) for i in range(3)]
            weights = [self.in_proj_weight[third] for third in thirds]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = [None if bias is None else bias[i * size : (i + 1) * size] for i in range(3)]
        return tuple(map(functional.linear, flows, weights, biases))

    def _with_extra_keys(self, k: Value, v: Value) -> tuple[Value, Value, int]:
        """Behind the keys and values one that is learned, and how many were added."""
        if self.bias_k is None or self.bias_v is None:
            return k, v, 0
        shape = (k.shape[0], 1, self.embed_dim)
        extra = [ops.broadcast_to(bias, shape) for bias in (self.bias_k, self.bias_v)]
        return ops.concat([k, extra[0]], 1), ops.concat([v, extra[1]], 1), 1

    def _split_heads(self, x: Value) -> Value:
        """[N, L, E] -> [N, heads, L, E / heads]."""
        width = self.embed_dim // self.num_heads
        return ops.swapaxes(ops.reshape(x, (*x.shape[:2], self.num_heads, width)), 1, 2)

    def _masks(
        self, q: Value, padding: Value | None, pairs: Value | None, single: bool, more: int
    ) -> list[Value]:
        """The masks as [N, heads, L, S], sizes of 1 to be broadcast, keys that were added seen."""
        rows, heads = q.shape[0], self.num_heads
        found = []
        if padding is not None:
            padding = ops.expand_dims(padding, 0) if single else padding
            if padding.ndim != 2 or padding.shape[0] != rows:
                raise ShapeError(
                    f"{self._own_name}: key_padding_mask is {padding.type}, it must be [N, S]",
                    here(),
                )
            found.append(ops.expand_dims(padding, (1, 2)))
        if pairs is not None:
            by_head = pairs.ndim == 3 and pairs.shape[0] == rows * heads
            if not (pairs.ndim == 2 or by_head) or pairs.shape[-2] != q.shape[1]:
                raise ShapeError(
                    f"{self._own_name}: attn_mask is {pairs.type}, it must be [L, S] or "
                    f"[N * heads, L, S] with L = {q.shape[1]}",
                    here(),
                )
            shape = (rows, heads, *pairs.shape[1:]) if by_head else (1, 1, *pairs.shape)
            found.append(ops.reshape(pairs, shape))
        return [_padded_mask(mask, more) for mask in found]

    def _describe(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}"


def _padded_keys(x: Value) -> Value:
    """[N, heads, S, d] with a key (or value) of zeros behind."""
    return ops.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0)))


def _padded_mask(mask: Value, more: int) -> Value:
    if not more:
        return mask
    seen = ops.zeros((*mask.shape[:-1], more), mask.dtype)
    return ops.concat([mask, seen], -1)


def _joined_mask(masks: list[Value], dtype: Any) -> Value | None:
    """PyTorch's masks (True: ignored, floats are added) as one of ours (True: takes part)."""
    for mask in masks:
        if mask.dtype.kind != "b" and not mask.dtype.is_float:
            raise DTypeError(
                f"attention: a mask is {mask.type}, it must be bool or floating", here()
            )
    if not masks:
        return None
    if all(mask.dtype.kind == "b" for mask in masks):
        hidden = masks[0] if len(masks) == 1 else masks[0] | masks[1]
        return ~hidden
    floats = [
        ops.where(mask, -math.inf, 0.0).astype(dtype) if mask.dtype.kind == "b" else mask
        for mask in masks
    ]
    return floats[0] if len(floats) == 1 else floats[0] + floats[1]


class GroupedQueryAttention(Module):
    """Self-attention in which groups of query heads share a key and a value head::

        out = o_proj(concat over h of softmax(q_h k_g(h)^T / sqrt(d)) v_g(h)),  g(h) = h // group

    x [N, L, E] -> [N, L, E]. ``num_kv_heads`` 1 is multi-query attention, ``num_heads`` plain
    attention. ``rotary`` (a ``RotaryPositions``) turns queries and keys by their place. Parameters
    ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``, as in LLaMA's files. Ainslie et al., "GQA:
    Training Generalized Multi-Query Transformer Models", 2023.

    >>> import graphc as gc
    >>> GroupedQueryAttention(16, 4, 2)(gc.observed("x", (3, 5, 16)), is_causal=True).shape
    (3, 5, 16)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
        rotary: RotaryPositions | None = None,
        *,
        dtype: object = float32,
    ) -> None:
        _check_heads("GroupedQueryAttention", embed_dim, num_heads, dropout)
        shared = num_heads if num_kv_heads is None else num_kv_heads
        if shared < 1 or num_heads % shared:
            raise ValueError(
                f"GroupedQueryAttention: {shared} key heads do not divide {num_heads} query heads"
            )
        self.num_heads, self.num_kv_heads, self.dropout = num_heads, shared, dropout
        self.head_dim = embed_dim // num_heads
        self.rotary = rotary
        width = shared * self.head_dim
        self.q_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype)
        self.k_proj = Linear(embed_dim, width, bias, dtype=dtype)
        self.v_proj = Linear(embed_dim, width, bias, dtype=dtype)
        self.o_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype)

    def forward(self, x: Value, attn_mask: Value | None = None, is_causal: bool = False) -> Value:
        """x [N, L, E]; ``attn_mask`` as of ``scaled_dot_product_attention`` -> [N, L, E]."""
        if x.ndim != 3:
            raise ShapeError(f"{self._own_name}: x is {x.type}, it must be [N, L, E]", here())
        q = self._heads(self.q_proj(x), self.num_heads)
        k = self._heads(self.k_proj(x), self.num_kv_heads)
        v = self._heads(self.v_proj(x), self.num_kv_heads)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask, self.dropout, is_causal, enable_gqa=True
        )
        joined = ops.reshape(ops.swapaxes(mixed, 1, 2), x.shape)
        out: Value = self.o_proj(joined)
        return out

    def _heads(self, x: Value, count: int) -> Value:
        return ops.swapaxes(ops.reshape(x, (*x.shape[:2], count, self.head_dim)), 1, 2)


def _check_heads(name: str, embed_dim: int, num_heads: int, dropout: float) -> None:
    if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
        raise ValueError(f"{name}: {num_heads} heads do not divide embed_dim {embed_dim}")
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"{name}: dropout is a probability in [0, 1], not {dropout}")
