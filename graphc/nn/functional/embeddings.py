"""Bags of embeddings, and what tells a transformer where things stand."""

from __future__ import annotations

import math

import numpy as np

from graphc import ops
from graphc.dsl import constant
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value
from graphc.nn.functional.layers import check_embedding, embedding
from graphc.op import composite
from graphc.ops.lifting import lift_one
from graphc.source import here
from graphc.types import Extent, float32, int64

__all__ = ["embedding_bag", "rotary_positions", "sinusoidal_positions"]


@composite
def embedding_bag(
    input: Value,
    weight: Value,
    offsets: Value | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Value:
    """The sum, mean or maximum of the embeddings in each bag: [bags, dim].

    ``input`` holds ids: [bags, size], or [n] with ``offsets`` [bags], where bag b is
    input[offsets[b] : offsets[b + 1]] (with ``include_last_offset`` the last offset ends the last
    bag). An empty bag is 0. ``per_sample_weights``, shaped like input, weigh a sum. Ids equal to
    ``padding_idx`` do not count. The other options are ``embedding``'s, and ``max_norm`` shortens
    rows of the table as it does there; frequencies do not scale the slopes of a maximum.

    >>> import graphc as gc
    >>> ids, weight = gc.observed("ids", (4, 3), gc.int64), gc.observed("weight", (10, 2))
    >>> embedding_bag(ids, weight).shape
    (4, 2)
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: mode is 'sum', 'mean' or 'max', not {mode!r}")
    if scale_grad_by_freq and mode == "max":
        raise ValueError("embedding_bag: scale_grad_by_freq goes with mode 'sum' or 'mean'")
    if per_sample_weights is not None and mode != "sum":
        raise ValueError(f"embedding_bag: per_sample_weights go with mode 'sum', not {mode!r}")
    if per_sample_weights is not None and per_sample_weights.shape != input.shape:
        raise ShapeError(
            f"embedding_bag: per_sample_weights is {per_sample_weights.type}, input {input.type}",
            here(),
        )
    flat, bag_of, bags = _bags(input, offsets, include_last_offset)
    check_embedding("embedding_bag", max_norm, sparse)
    rows = embedding(flat, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    counts = ops.ones(flat.shape, rows.dtype)
    if padding_idx is not None:
        counts = (flat != padding_idx % _count(weight)).astype(rows.dtype)
    if per_sample_weights is not None:
        counts = counts * ops.reshape(per_sample_weights, flat.shape)
    each = ops.expand_dims(counts, -1)
    if mode == "max":
        present = ops.where(each > 0, rows, -math.inf)
        largest = ops.segment_max(present, bag_of, bags)
        return ops.where(largest == -math.inf, 0.0, largest)
    total = ops.segment_sum(rows * each, bag_of, bags)
    if mode == "sum":
        return total
    members = ops.expand_dims(ops.segment_sum(counts, bag_of, bags), -1)
    return total / ops.maximum(members, 1.0)


def _count(weight: Value) -> int:
    count = weight.shape[0]
    assert isinstance(count, int)  # embedding has seen to it
    return count


def _bags(
    input: Value, offsets: Value | None, include_last: bool
) -> tuple[Value, Value, Extent]:
    """The ids as [n], the bag of each, and how many bags there are."""
    if input.ndim == 2:
        if offsets is not None:
            raise ShapeError("embedding_bag: input [bags, size] takes no offsets", here())
        bags = input.shape[0]
        bag_of = ops.broadcast_to(ops.expand_dims(ops.arange(bags), -1), input.shape)
        return ops.reshape(input, (-1,)), ops.reshape(bag_of, (-1,)), bags
    if input.ndim != 1 or offsets is None or offsets.ndim != 1:
        given = "none" if offsets is None else str(offsets.type)
        raise ShapeError(
            f"embedding_bag: input is [bags, size], or [n] with offsets [bags]; got {input.type}, "
            f"offsets {given}",
            here(),
        )
    if offsets.dtype.kind not in "iu":
        raise DTypeError(f"embedding_bag: offsets are integers, got {offsets.type}", here())
    starts = offsets[:-1] if include_last else offsets
    # an id stands in the last bag that starts at or before it
    begun = ops.segment_sum(ops.ones(starts.shape, int64), starts, input.shape[0] + 1)
    return input, ops.cumulative_sum(begun[:-1]) - 1, starts.shape[0]


# ---- positions


@composite
def sinusoidal_positions(
    positions: Value, dim: int, base: float = 10000.0, dtype: object = float32
) -> Value:
    """``sin(p / base^(2i/dim))`` at 2i and ``cos`` of the same at 2i + 1: [...] to [..., dim].

    Vaswani et al., "Attention Is All You Need", 2017.

    >>> import graphc as gc
    >>> sinusoidal_positions(gc.ops.arange(5), 8).shape
    (5, 8)
    """
    angles = _angles("sinusoidal_positions", positions, dim, base, dtype)
    both = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)
    return ops.reshape(both, (*both.shape[:-2], dim))


@composite
def rotary_positions(
    x: Value, positions: Value | None = None, base: float = 10000.0, interleaved: bool = False
) -> Value:
    """Each pair of features of x [..., T, d] turned by an angle that grows with its position::

        (a, b) -> (a cos t - b sin t, a sin t + b cos t),    t = p / base^(2i/d)

    so that dot products of queries and keys depend on the distance. Pair i is (i, i + d/2), as in
    LLaMA's files, or with ``interleaved`` (2i, 2i + 1), as in the paper. ``positions`` [T] or
    [..., T] are 0, ..., T - 1 unless given. Su et al., "RoFormer", 2021.

    >>> import graphc as gc
    >>> rotary_positions(gc.observed("q", (2, 4, 5, 8))).shape
    (2, 4, 5, 8)
    """
    if x.ndim < 2:
        raise ShapeError(f"rotary_positions: x is {x.type}, it must be [..., T, d]", here())
    size = x.shape[-1]
    if not isinstance(size, int):
        raise ShapeError(f"rotary_positions: the last axis of {x.type} must be known", here())
    places = ops.arange(x.shape[-2]) if positions is None else positions
    angles = _angles("rotary_positions", places, size, base, x.dtype)
    sine, cosine = ops.sin(angles), ops.cos(angles)
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        turned = ops.stack([a * cosine - b * sine, a * sine + b * cosine], axis=-1)
        return ops.reshape(turned, x.shape)
    a, b = x[..., : size // 2], x[..., size // 2 :]
    return ops.concat([a * cosine - b * sine, a * sine + b * cosine], axis=-1)


def _angles(name: str, positions: object, dim: int, base: float, dtype: object) -> Value:
    """p / base^(2i/dim): [...] to [..., dim / 2]."""
    if dim < 2 or dim % 2:
        raise ShapeError(f"{name}: the features come in pairs, {dim} of them do not", here())
    rates = base ** (-np.arange(0, dim, 2) / dim)
    places = lift_one(name, positions).astype(dtype)
    return ops.expand_dims(places, -1) * constant(rates, dtype)
