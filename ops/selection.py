"""Sums by segment, sorting, the k largest."""

from __future__ import annotations

import numpy as np

from graphc.graph import Value, apply
from graphc.op import function
from graphc.ops.indexing import refuse
from graphc.ops.lifting import (
    full,
    lift_one,
    normalize_axis,
    who,
)
from graphc.ops.movement import expand_dims, moveaxis
from graphc.types import Extent

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

    >>> argsort([3.0, 1.0, 2.0]).shape
    (3,)
    """
    value = lift_one("argsort", x)
    place = normalize_axis("argsort", axis, value.ndim)
    moved = moveaxis(value, place, -1)
    return moveaxis(apply("argsort", moved, descending=bool(descending)), -1, place)


@function
def sort(x: object, axis: int = -1, descending: bool = False) -> Value:
    """x sorted along ``axis``: stable, NaN last.

    >>> sort([3.0, 1.0, 2.0]).shape
    (3,)
    """
    value = lift_one("sort", x)
    place = normalize_axis("sort", axis, value.ndim)
    moved = moveaxis(value, place, -1)
    order = apply("argsort", moved, descending=bool(descending))
    return moveaxis(_at_places(moved, order), -1, place)


@function
def top_k(x: object, k: int, axis: int = -1) -> tuple[Value, Value]:
    """The k largest along ``axis``, largest first, and their indices; of equals the first comes
    first, NaN last.

    >>> [v.shape for v in top_k([[1.0, 3.0, 2.0]], 2)]
    [(1, 2), (1, 2)]
    """
    value = lift_one("top_k", x)
    place = normalize_axis("top_k", axis, value.ndim)
    moved = moveaxis(value, place, -1)
    order = apply("top_k", moved, k=k)
    return moveaxis(_at_places(moved, order), -1, place), moveaxis(order, -1, place)


def _at_places(x: Value, places: Value) -> Value:
    """x at places along the last axis, all other axes together."""
    return apply("gather", x, places, axis=x.ndim - 1, batch_dims=x.ndim - 1)
