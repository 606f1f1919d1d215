"""Pooling: the largest or the mean element of each sliding window.

Both are formulas over ``windows``, so their derivatives gather: an element adds up what the windows
that hold it hand back. Nothing is scattered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.graph import Value, apply
from graphc.op import composite, function
from graphc.ops.lifting import full, lift_one, who
from graphc.ops.movement import pad
from graphc.ops.products import per_axis, windows
from graphc.source import here
from graphc.types import DType, Extent, int64

__all__ = ["avg_pool", "max_pool"]


@function
@composite
def max_pool(
    x: object,
    size: int | Sequence[int],
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Value:
    """The largest element of each window over the last ``len(size)`` axes; NaN if there is one.

    ``stride`` defaults to ``size``; ``padding`` (at most half of ``size``) adds elements that are
    never the largest. ``ceil_mode`` keeps a last window that reaches beyond the end. With w the
    windows and i the place of the first largest element of each::

        out = sum over p of where(p == i, w[.., p], 0)

    so that of equal elements the first one has the derivative, as in PyTorch.

    >>> max_pool([[1.0, 5.0, 2.0, 7.0]], 2).shape
    (1, 2)
    """
    value = lift_one("max_pool", x)
    sizes, steps, rims, gaps = _geometry("max_pool", value, size, stride, padding, dilation)
    rank = len(sizes)
    ends = _ends(value.shape[-rank:], sizes, steps, rims, gaps, ceil_mode)
    framed = _framed(value, rims, ends, _least(value.dtype))
    seen = windows(framed, sizes, steps, gaps)
    leading, offsets = _split(seen, rank)
    first = apply("reduce", seen, monoid="argmax", axes=offsets)
    first = apply("broadcast", first, shape=seen.shape, axes=leading)
    chosen = apply("where", _place(seen, offsets) == first, seen, full(seen.shape, 0, seen.dtype))
    return apply("reduce", chosen, monoid="sum", axes=offsets)


@function
@composite
def avg_pool(
    x: object,
    size: int | Sequence[int],
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The mean of each window over the last ``len(size)`` axes: its sum over its count.

    ``stride`` defaults to ``size``; ``padding`` (at most half of ``size``) adds zeros, which count
    as elements unless ``count_include_pad`` is False. ``ceil_mode`` keeps a last window that
    reaches beyond the end; what lies out there never counts. ``divisor_override`` takes the place
    of the count. As PyTorch's.

    >>> avg_pool([[1.0, 5.0, 2.0, 8.0]], 2).shape
    (1, 2)
    """
    value = lift_one("avg_pool", x)
    if not value.dtype.is_float:
        raise ShapeError(f"{who('avg_pool')}: takes floating elements, got {value.type}", here())
    if divisor_override == 0:
        raise ValueError("avg_pool: divisor_override must not be 0")
    sizes, steps, rims, gaps = _geometry("avg_pool", value, size, stride, padding, 1)
    rank = len(sizes)
    space = value.shape[-rank:]
    ends = _ends(space, sizes, steps, rims, gaps, ceil_mode)
    total = _window_sums(_framed(value, rims, ends, 0), sizes, steps)
    if divisor_override is not None:
        return total / divisor_override
    if ends == rims and (count_include_pad or not any(rims)):
        return total / math.prod(sizes)
    # the same sums over ones: how many elements of each window count
    ones = full(space, 1, value.dtype)
    if count_include_pad:
        beyond = tuple(end - rim for end, rim in zip(ends, rims, strict=True))
        framed = _framed(_framed(ones, rims, rims, 1), (0,) * rank, beyond, 0)
    else:
        framed = _framed(ones, rims, ends, 0)
    counts = _window_sums(framed, sizes, steps)
    last = tuple(range(total.ndim - rank, total.ndim))
    return total / apply("broadcast", counts, shape=total.shape, axes=last)


def _window_sums(x: Value, sizes: Sequence[int], steps: Sequence[int]) -> Value:
    seen = windows(x, sizes, steps)
    return apply("reduce", seen, monoid="sum", axes=_split(seen, len(sizes))[1])


def _split(seen: Value, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of windows: which window, and which place inside of it."""
    every = tuple(range(seen.ndim))
    return every[:-rank], every[-rank:]


def _place(seen: Value, offsets: Sequence[int]) -> Value:
    """int64, of the windows' shape: the row-major number of an element inside of its window."""
    number = full(seen.shape, 0, int64)
    for place in offsets:
        along = apply("iota", shape=seen.shape, axis=place, dtype=int64)
        number = number * seen.shape[place] + along
    return number


# ---- where windows lie


def _geometry(
    name: str, x: Value, size: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Sizes, strides, paddings and dilations, one for each axis that is pooled, checked."""
    rank = len(size) if isinstance(size, (tuple, list)) else 1
    if x.ndim < rank:
        raise ShapeError(f"{who(name)}: {x.type} has no {rank} axes to pool over", here())
    sizes = per_axis(name, "size", size, rank)
    steps = sizes if stride is None else per_axis(name, "stride", stride, rank)
    rims = per_axis(name, "padding", padding, rank)
    gaps = per_axis(name, "dilation", dilation, rank)
    if not all(n > 0 for n in (*sizes, *steps, *gaps)):
        raise ShapeError(f"{who(name)}: size, stride and dilation must be at least 1", here())
    if any(2 * rim > size for rim, size in zip(rims, sizes, strict=True)):
        raise ShapeError(
            f"{who(name)}: padding {rims} is more than half of the window {sizes}: "
            "some windows would hold nothing else",
            here(),
        )
    return sizes, steps, rims, gaps


def _ends(
    space: Sequence[Extent],
    sizes: Sequence[int],
    steps: Sequence[int],
    rims: Sequence[int],
    gaps: Sequence[int],
    ceil_mode: bool,
) -> tuple[int, ...]:
    """How far beyond the end of each axis windows may reach."""
    if not ceil_mode:
        return tuple(rims)
    ends = []
    for extent, size, step, rim, gap in zip(space, sizes, steps, rims, gaps, strict=True):
        if not isinstance(extent, int):
            raise ShapeError(f"{who('pool')}: ceil_mode needs known extents, got {extent}", here())
        span = gap * (size - 1) + 1
        count = -(-(extent + 2 * rim - span) // step) + 1
        if (count - 1) * step >= extent + rim:  # a window starts inside, or in the low padding
            count -= 1
        ends.append(max((count - 1) * step + span - extent - rim, rim))
    return tuple(ends)


def _framed(x: Value, low: Sequence[int], high: Sequence[int], value: float) -> Value:
    """x with ``value`` around its last axes."""
    rest = [(0, 0)] * (x.ndim - len(low))
    return pad(x, [*rest, *zip(low, high, strict=True)], value)


def _least(dtype: DType) -> float:
    if dtype.is_float:
        return -math.inf
    return 0 if dtype.kind == "b" else int(np.iinfo(dtype.numpy).min)
