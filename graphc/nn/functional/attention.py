"""Scaled dot-product attention, and the masks that it understands."""

from __future__ import annotations

import math

from graphc import ops
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply
from graphc.nn.functional.layers import dropout
from graphc.op import composite
from graphc.ops.lifting import broadcast_shapes
from graphc.source import here
from graphc.types import Extent, int64

__all__ = ["attention_weights", "causal_mask", "scaled_dot_product_attention"]


@composite
def scaled_dot_product_attention(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """``softmax(query key^T / sqrt(E) + mask) value``: each of L queries reads S values.

    query [..., L, E], key [..., S, E], value [..., S, V] -> [..., L, V]. ``attn_mask``, broadcast
    to [..., L, S], is bool (True: takes part) or floating (added). ``is_causal`` lets query i see
    keys 0..i. ``scale`` stands for 1 / sqrt(E). ``enable_gqa``: query has a multiple of the heads
    (axis -3) of key and value, and neighbours share one. A query that sees no key reads 0.
    ``dropout_p`` drops weights in mode train. Vaswani et al., "Attention Is All You Need", 2017;
    grouped queries: Ainslie et al., "GQA", 2023.

    >>> import graphc as gc
    >>> q, k = gc.observed("q", (2, 4, 5, 8)), gc.observed("k", (2, 4, 7, 8))
    >>> scaled_dot_product_attention(q, k, k).shape
    (2, 4, 5, 8)
    """
    if enable_gqa:
        key, value = _for_each_query_head(query, key), _for_each_query_head(query, value)
    _check("scaled_dot_product_attention", query, key, value)
    weights = attention_weights(query, key, attn_mask, is_causal, scale)
    return dropout(weights, dropout_p) @ value


@composite
def attention_weights(
    query: Value,
    key: Value,
    attn_mask: Value | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Value:
    """The weights of ``scaled_dot_product_attention``: [..., L, S], rows that sum to 1 (or are 0
    where a query sees no key).
    """
    size = query.shape[-1]
    if scale is None:
        scale = 1.0 / math.sqrt(size) if isinstance(size, int) and size else 1.0
    scores = (query * scale) @ ops.swapaxes(key, -1, -2)
    seen = causal_mask(scores.shape[-2], scores.shape[-1]) if is_causal else None
    if attn_mask is None:
        scores = scores if seen is None else ops.where(seen, scores, -math.inf)
        return ops.softmax(scores, -1)
    broadcast_shapes("attention: mask and scores", [attn_mask, scores])
    if attn_mask.dtype.is_float:
        scores = scores + attn_mask
    elif attn_mask.dtype.kind == "b":
        seen = attn_mask if seen is None else attn_mask & seen
    else:
        raise DTypeError(
            f"attention: the mask is {attn_mask.type}, it must be bool or floating", here()
        )
    if seen is not None:
        scores = ops.where(seen, scores, -math.inf)
    blind = ops.max(scores, -1, keepdims=True) == -math.inf
    return ops.where(blind, 0.0, ops.softmax(ops.where(blind, 0.0, scores), -1))


@composite
def causal_mask(queries: Extent, keys: Extent) -> Value:
    """bool [queries, keys]: query i sees keys 0, ..., i.

    >>> causal_mask(2, 3).type
    bool[2,3]
    """
    shape = (queries, keys)
    row = apply("iota", shape=shape, axis=0, dtype=int64)
    column = apply("iota", shape=shape, axis=1, dtype=int64)
    return column <= row


def _for_each_query_head(query: Value, shared: Value) -> Value:
    """Keys or values [..., H', S, E] repeated for the H query heads of [..., H, L, E]."""
    if query.ndim < 3 or shared.ndim < 3:
        raise ShapeError(f"grouped queries: {query.type} and {shared.type} have no heads", here())
    heads, groups = query.shape[-3], shared.shape[-3]
    if not isinstance(heads, int) or not isinstance(groups, int) or heads % groups:
        raise ShapeError(
            f"grouped queries: {groups} key heads do not divide {heads} query heads", here()
        )
    return shared if heads == groups else ops.repeat(shared, heads // groups, axis=-3)


def _check(name: str, query: Value, key: Value, value: Value) -> None:
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise ShapeError(f"{name}: query, key and value have two axes or more", here())
    if query.shape[-1] != key.shape[-1]:
        raise ShapeError(
            f"{name}: query {query.type} and key {key.type} differ in their last axis", here()
        )
    if key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            f"{name}: key {key.type} and value {value.type} differ in length (axis -2)", here()
        )
