"""Sums by segment, sorting, the k largest."""

from __future__ import annotations

import numpy as np

from graphc.graph import Value, apply
from graphc.op import function
from graphc.ops.arithmetic import where
from graphc.ops.indexing import refuse, take_along_axis
from graphc.ops.lifting import (
    full,
    lift_one,
    normalize_axis,
    who,
)
from graphc.ops.movement import expand_dims, moveaxis, reshape
from graphc.ops.sizes import surely_greater
from graphc.types import Extent, int64

__all__ = [
    "argsort",
    "segment_max",
    "segment_mean",
    "segment_min",
    "segment_sum",
    "sort",
    "top_k",
]


def _segment(name: str, x: object, ids: object, count: Extent, mode: str, start: float) -> Value:
    values, places = lift_one(name, x), lift_one(name, ids)
    if places.ndim != 1 or values.ndim < 1:
        refuse(
            f"{who(name)}: takes values [n, ...] and ids [n], got {values.type} and {places.type}"
        )
    if not values.dtype.is_float and start in (float("inf"), float("-inf")):
        limits = np.iinfo(values.dtype.numpy)
        start = limits.max if start > 0 else limits.min
    empty = full((count, *values.shape[1:]), start, values.dtype)
    return apply("scatter", empty, places, values, axis=0, batch_dims=0, mode=mode)


@function
def segment_sum(x: object, ids: object, count: Extent) -> Value:
    """out[i] = the sum of x[j] with ids[j] == i, for i < count; 0 where there is none.

    >>> segment_sum([1.0, 2.0, 3.0], [0, 2, 0], 3).shape
    (3,)
    """
    return _segment("segment_sum", x, ids, count, "add", 0)


@function
def segment_max(x: object, ids: object, count: Extent) -> Value:
    """out[i] = the maximum of x[j] with ids[j] == i; -inf where there is none."""
    return _segment("segment_max", x, ids, count, "max", float("-inf"))


@function
def segment_min(x: object, ids: object, count: Extent) -> Value:
    """out[i] = the minimum of x[j] with ids[j] == i; inf where there is none."""
    return _segment("segment_min", x, ids, count, "min", float("inf"))


@function
def segment_mean(x: object, ids: object, count: Extent) -> Value:
    """out[i] = the mean of x[j] with ids[j] == i; 0 where there is none."""
    values = lift_one("segment_mean", x)
    total = segment_sum(values, ids, count)
    ones = full(values.shape[:1], 1, values.dtype)
    members = segment_sum(ones, ids, count)
    members = apply("max", members, full(members.shape, 1, members.dtype))
    return total / expand_dims(members, tuple(range(1, total.ndim)))


@function
def argsort(x: object, axis: int = -1, descending: bool = False) -> Value:
    """The indices that sort x along ``axis``; equal elements keep their order, NaN comes last.

    Every element counts those before it: n * n comparisons, meant for up to some thousands.

    >>> argsort([3.0, 1.0, 2.0]).shape
    (3,)
    """
    value = apply("stop_gradient", lift_one("argsort", x))
    place = normalize_axis("argsort", axis, value.ndim)
    moved = moveaxis(value, place, -1)
    last, extent = moved.ndim - 1, moved.shape[-1]
    shape = (*moved.shape, extent)
    mine = apply("broadcast", moved, shape=shape, axes=tuple(range(last + 1)))
    other = apply("broadcast", moved, shape=shape, axes=(*range(last), last + 1))
    position = apply("iota", shape=shape, axis=last, dtype=int64)
    before = apply("iota", shape=shape, axis=last + 1, dtype=int64) < position
    ahead, same = (other > mine) if descending else (other < mine), other == mine
    if value.dtype.is_float:
        lost, mine_lost = apply("isnan", other), apply("isnan", mine)
        ahead, same = ahead | (mine_lost & ~lost), same | (mine_lost & lost)
    counted = apply("cast", ahead | (same & before), dtype=int64)
    rank = apply("reduce", counted, monoid="sum", axes=(last + 1,))
    # the element of rank r stands at place r: the inverse of the permutation ``rank``
    empty = full(rank.shape, 0, int64)
    places = apply("iota", shape=rank.shape, axis=last, dtype=int64)
    at = {"axis": last, "batch_dims": last, "mode": "set"}
    return moveaxis(apply("scatter", empty, rank, places, **at), -1, place)


@function
def sort(x: object, axis: int = -1, descending: bool = False) -> Value:
    """x sorted along ``axis``, NaN last; meant for up to some thousands (see argsort)."""
    value = lift_one("sort", x)
    return take_along_axis(value, argsort(value, axis, descending), axis)


@function
def top_k(x: object, k: int) -> tuple[Value, Value]:
    """The k largest along the last axis, largest first, and their indices; of equals the first.

    Made of k argmax: meant for small k.

    >>> [v.shape for v in top_k([[1.0, 3.0, 2.0]], 2)]
    [(1, 2), (1, 2)]
    """
    value = lift_one("top_k", x)
    extent = value.shape[-1] if value.ndim else 0
    if not isinstance(k, int) or k < 1 or surely_greater(k, extent):
        refuse(f"{who('top_k')}: k = {k} of {value.type}")
    last = value.ndim - 1
    column = apply("iota", shape=value.shape, axis=last, dtype=int64)
    low = float("-inf") if value.dtype.is_float else int(np.iinfo(value.dtype.numpy).min)
    left, found = apply("stop_gradient", value), []
    for _ in range(k):
        best = apply("reduce", left, monoid="argmax", axes=(last,))
        best = reshape(best, (*value.shape[:-1], 1))
        found.append(best)
        left = where(column == best, low, left)
    places = found[0] if k == 1 else apply("concat", *found, axis=last)
    values = apply("gather", value, places, axis=last, batch_dims=last)
    return values, places
