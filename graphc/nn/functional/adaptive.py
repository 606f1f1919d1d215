"""Pooling to a given size, by powers, with places, and back. Names are PyTorch's.

x is [N, C, *space] or, of one sample, [C, *space]. Bin i of ``adaptive`` pooling covers elements
floor(i L / O) to ceil((i + 1) L / O) - 1 of an axis: the bins may overlap, and differ in size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc import ops
from graphc.errors import ShapeError
from graphc.graph import Value, apply
from graphc.op import composite
from graphc.ops.lifting import constant, lift_one
from graphc.ops.pooling import avg_pool
from graphc.ops.products import per_axis
from graphc.ops.sizes import product
from graphc.source import here
from graphc.types import int64

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool_indices",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
]

#: an int for all axes, or one for each; None keeps an axis
Sizes = int | Sequence[int | None] | None


def adaptive_avg_pool1d(x: object, output_size: Sizes) -> Value:
    """The mean of each of ``output_size`` bins of the last axis."""
    return _adaptive("adaptive_avg_pool1d", 1, x, output_size, adaptive_average)


def adaptive_avg_pool2d(x: object, output_size: Sizes) -> Value:
    """The mean of each bin of the last two axes; an extent None stays as it is.

    >>> import graphc as gc
    >>> adaptive_avg_pool2d(gc.observed("x", (2, 3, 7, 5)), (3, None)).shape
    (2, 3, 3, 5)
    """
    return _adaptive("adaptive_avg_pool2d", 2, x, output_size, adaptive_average)


def adaptive_avg_pool3d(x: object, output_size: Sizes) -> Value:
    """The mean of each bin of the last three axes."""
    return _adaptive("adaptive_avg_pool3d", 3, x, output_size, adaptive_average)


def adaptive_max_pool1d(x: object, output_size: Sizes, return_indices: bool = False) -> Any:
    """The largest of each of ``output_size`` bins of the last axis; see ``adaptive_max_pool2d``."""
    return _adaptive_max("adaptive_max_pool1d", 1, x, output_size, return_indices)


def adaptive_max_pool2d(x: object, output_size: Sizes, return_indices: bool = False) -> Any:
    """The largest of each bin of the last two axes; an extent None stays as it is.

    With ``return_indices`` a pair: the maxima, and int64 where in the image (row-major over the
    pooled axes) the first of each bin is, of the same shape.

    >>> import graphc as gc
    >>> x = gc.observed("x", (2, 3, 7, 5))
    >>> adaptive_max_pool2d(x, 1).shape
    (2, 3, 1, 1)
    >>> maxima, places = adaptive_max_pool2d(x, (3, None), return_indices=True)
    >>> places.shape, places.dtype
    ((2, 3, 3, 5), gc.int64)
    """
    return _adaptive_max("adaptive_max_pool2d", 2, x, output_size, return_indices)


def adaptive_max_pool3d(x: object, output_size: Sizes, return_indices: bool = False) -> Any:
    """The largest of each bin of the last three axes; see ``adaptive_max_pool2d``."""
    return _adaptive_max("adaptive_max_pool3d", 3, x, output_size, return_indices)


@composite
def adaptive_average(value: Value, sizes: Sequence[int]) -> Value:
    """The means of bins of the last axes, one axis after the other; where the size divides the
    extent, pooling.

    Elements beside a bin are left out, not multiplied by 0: an infinity stays in its own bins.
    """
    for i, size in enumerate(sizes):
        axis = value.ndim - len(sizes) + i
        extent = _known(value, axis)
        if extent % size == 0:
            parts = (*value.shape[:axis], size, extent // size, *value.shape[axis + 1 :])
            value = ops.mean(ops.reshape(value, parts), axis + 1)
            continue
        counts = np.array([high - low for low, high in _bins(extent, size)])
        inside = np.arange(counts.max()) < counts[:, None]
        tail = (1,) * (value.ndim - 1 - axis)
        mask = constant(inside.reshape(*inside.shape, *tail))
        total = ops.sum(ops.where(mask, _in_bins(value, axis, size), 0), axis + 1)
        value = total / constant(counts.reshape(-1, *tail).astype(np.float64), value.dtype)
    return value


@composite
def adaptive_maximum(value: Value, sizes: Sequence[int]) -> Value:
    """The maxima of bins of the last axes, one axis after the other; of equals the first.

    The last axis goes first: so the first of equals is the first in row-major order.
    """
    for axis, size in _from_the_last(value, sizes):
        value = _pick(value, _first_of_bins(value, axis, size), axis, size)
    return value


@composite
def adaptive_maximum_places(value: Value, sizes: Sequence[int]) -> Value:
    """int64: where in the image, row-major over its last axes, ``adaptive_maximum`` found each."""
    space = [_known(value, value.ndim - len(sizes) + i) for i in range(len(sizes))]
    numbers = ops.reshape(ops.arange(math.prod(space)), space)
    places = ops.broadcast_to(numbers, value.shape)
    for axis, size in _from_the_last(value, sizes):
        first = _first_of_bins(value, axis, size)
        value, places = _pick(value, first, axis, size), _pick(places, first, axis, size)
    return places


def _from_the_last(value: Value, sizes: Sequence[int]) -> list[tuple[int, int]]:
    begin = value.ndim - len(sizes)
    return [(begin + i, size) for i, size in reversed(list(enumerate(sizes)))]


def _first_of_bins(value: Value, axis: int, size: int) -> Value:
    """bool, the shape of ``_in_bins``: true at the first maximum of each bin."""
    seen = _in_bins(value, axis, size)
    first = ops.expand_dims(ops.argmax(seen, axis + 1), axis + 1)
    return apply("iota", shape=seen.shape, axis=axis + 1, dtype=int64) == first


def _pick(value: Value, chosen: Value, axis: int, size: int) -> Value:
    """The one chosen element of each bin along ``axis``."""
    return ops.sum(ops.where(chosen, _in_bins(value, axis, size), 0), axis + 1)


def _in_bins(value: Value, axis: int, size: int) -> Value:
    """[.., L, ..] -> [.., size, widest, ..]: each bin's elements, its last one repeated."""
    bins = _bins(_known(value, axis), size)
    widest = max(high - low for low, high in bins)
    places = [[min(low + k, high - 1) for k in range(widest)] for low, high in bins]
    return apply("gather", value, constant(np.array(places)), axis=axis, batch_dims=0)


def _bins(extent: int, size: int) -> list[tuple[int, int]]:
    return [(i * extent // size, -(-(i + 1) * extent // size)) for i in range(size)]


def _known(value: Value, axis: int) -> int:
    extent = value.shape[axis]
    if not isinstance(extent, int):
        raise ShapeError(f"adaptive pooling needs known extents, got {value.type}", here())
    return extent


def _adaptive_max(
    name: str, rank: int, x: object, output_size: Sizes, return_indices: bool
) -> Any:
    pooled = _adaptive(name, rank, x, output_size, adaptive_maximum)
    if not return_indices:
        return pooled
    return pooled, _adaptive(name, rank, x, output_size, adaptive_maximum_places)


def _adaptive(name: str, rank: int, x: object, output_size: Sizes, pool: Any) -> Value:
    value = _image(name, rank, x)
    given = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * rank
    if len(given) != rank or not all(s is None or (isinstance(s, int) and s > 0) for s in given):
        raise ShapeError(
            f"{name}: output_size is an int > 0 or {rank} of them (None keeps an axis), got "
            f"{output_size!r}",
            here(),
        )
    space = value.shape[-rank:]
    sizes = [n if s is None else s for s, n in zip(given, space, strict=True)]
    pooled: Value = pool(value, sizes)
    return pooled


def _image(name: str, rank: int, x: object) -> Value:
    value = lift_one(name, x)
    if value.ndim not in (rank + 1, rank + 2):
        raise ShapeError(
            f"{name}: x is {value.type}, it must have {rank + 2} axes, or of one sample {rank + 1}",
            here(),
        )
    return value


# ---- powers


def lp_pool1d(
    x: object, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Value:
    """``(sum x^p)^(1/p)`` over each window of the last axis, p being ``norm_type``."""
    return _power_pool("lp_pool1d", 1, x, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    x: object, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Value:
    """``(sum x^p)^(1/p)`` over each window of the last two axes: p = 1 is the sum, large p the
    maximum.

    >>> import graphc as gc
    >>> lp_pool2d(gc.observed("x", (2, 3, 8, 8)), 2, 2).shape
    (2, 3, 4, 4)
    """
    return _power_pool("lp_pool2d", 2, x, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    x: object, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Value:
    """``(sum x^p)^(1/p)`` over each window of the last three axes."""
    return _power_pool("lp_pool3d", 3, x, norm_type, kernel_size, stride, ceil_mode)


@composite
def _power_pool(
    name: str, rank: int, x: object, p: float, size: Any, stride: Any, ceil_mode: bool
) -> Value:
    value = _image(name, rank, x)
    if p == 0:
        raise ValueError(f"{name}: norm_type must not be 0")
    sizes = per_axis(name, "kernel_size", size, rank)
    powers = value * value if p == 2 else value if p == 1 else value ** float(p)
    mean = avg_pool(powers, sizes, stride, 0, ceil_mode)
    total = ops.sign(mean) * ops.relu(ops.abs(mean)) * float(math.prod(sizes))
    return total if p == 1 else ops.sqrt(total) if p == 2 else total ** (1.0 / p)


# ---- places of maxima, and back


@composite
def max_pool_indices(
    x: object,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    *,
    rank: int,
) -> Value:
    """int64: where in the image (row-major over its ``rank`` axes) the first maximum of each window
    is. What ``return_indices=True`` gives beside the maxima.

    >>> import graphc as gc
    >>> max_pool_indices(gc.observed("x", (2, 3, 8, 8)), 2, rank=2).shape
    (2, 3, 4, 4)
    """
    value = _image("max_pool_indices", rank, x)
    space = [_known(value, value.ndim - rank + i) for i in range(rank)]
    numbers = ops.reshape(ops.arange(math.prod(space)), space)
    sizes = per_axis("max_pool", "kernel_size", kernel_size, rank)
    steps = sizes if stride is None else per_axis("max_pool", "stride", stride, rank)
    rims = per_axis("max_pool", "padding", padding, rank)
    gaps = per_axis("max_pool", "dilation", dilation, rank)
    pooled = ops.max_pool(value, sizes, steps, rims, gaps, ceil_mode)  # checks; its shape
    count = [_known(pooled, pooled.ndim - rank + i) for i in range(rank)]
    reach = [
        (n - 1) * s + g * (k - 1) + 1
        for n, s, g, k in zip(count, steps, gaps, sizes, strict=True)
    ]
    ends = [max(r - n - rim, 0) for r, n, rim in zip(reach, space, rims, strict=True)]
    frame = list(zip(rims, ends, strict=True))
    around = [(0, 0)] * (value.ndim - rank)
    seen = ops.windows(ops.pad(value, [*around, *frame], -math.inf), sizes, steps, gaps)
    where = ops.windows(ops.pad(numbers, frame), sizes, steps, gaps)
    keep = tuple(slice(0, n) for n in count)
    seen, where = seen[(..., *keep, *(slice(None),) * rank)], where[keep]
    shape = (*seen.shape[:-rank], product(sizes))
    best = ops.argmax(ops.reshape(seen, shape), -1)
    if any(rims):  # where all is -inf, the border must not be the first
        first = constant(_first_inside(count, sizes, steps, rims, gaps))
        best = ops.where(pooled == -math.inf, ops.broadcast_to(first, best.shape), best)
    best = ops.expand_dims(best, -1)
    places = ops.broadcast_to(ops.reshape(where, (*count, product(sizes))), shape)
    chosen = apply("gather", places, best, axis=places.ndim - 1, batch_dims=places.ndim - 1)
    return chosen[..., 0]


def _first_inside(
    count: Sequence[int],
    sizes: Sequence[int],
    steps: Sequence[int],
    rims: Sequence[int],
    gaps: Sequence[int],
) -> NDArray[np.int64]:
    """[*count]: the number, row-major, of each window's first place that is in the image."""
    first = np.zeros((), np.int64)
    for n, size, step, rim, gap in zip(count, sizes, steps, rims, gaps, strict=True):
        outside = np.maximum(rim - step * np.arange(n), 0)
        first = first[..., None] * size + -(-outside // gap)
    return first


def max_unpool1d(
    x: object, indices: object, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Value:
    """The inverse of max pooling over the last axis, as far as there is one."""
    return _unpooled("max_unpool1d", 1, x, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    x: object, indices: object, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Value:
    """Zeros, and each element of x at its index: what the maxima were pooled from, roughly.

    The image has ``(extent - 1) stride - 2 padding + kernel_size`` along each axis, or
    ``output_size``. An index outside of it fails the call. Zeiler, Fergus 2014.

    >>> import graphc as gc
    >>> x, i = gc.observed("x", (2, 3, 4, 4)), gc.observed("i", (2, 3, 4, 4), gc.int64)
    >>> max_unpool2d(x, i, 2).shape
    (2, 3, 8, 8)
    """
    return _unpooled("max_unpool2d", 2, x, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    x: object, indices: object, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Value:
    """The inverse of max pooling over the last three axes, as far as there is one."""
    return _unpooled("max_unpool3d", 3, x, indices, kernel_size, stride, padding, output_size)


@composite
def _unpooled(
    name: str, rank: int, x: object, indices: object, size: Any, stride: Any, rim: Any, wanted: Any
) -> Value:
    value, places = _image(name, rank, x), lift_one(name, indices)
    if places.shape != value.shape or places.dtype.kind not in "iu":
        raise ShapeError(
            f"{name}: indices are {places.type}; of x {value.type} they are integers of its shape",
            here(),
        )
    sizes = per_axis(name, "kernel_size", size, rank)
    steps = sizes if stride is None else per_axis(name, "stride", stride, rank)
    rims = per_axis(name, "padding", rim, rank)
    usual = [
        (n - 1) * s - 2 * r + k
        for n, s, r, k in zip(value.shape[-rank:], steps, rims, sizes, strict=True)
    ]
    space = usual if wanted is None else list(wanted)[-rank:]
    near = zip(space, usual, steps, strict=True)
    if len(space) != rank or any(abs(n - u) >= s for n, u, s in near):
        raise ShapeError(
            f"{name}: output_size {wanted} is not within a stride of {tuple(usual)}", here()
        )
    lead = value.shape[:-rank]
    rows, count = product(lead), product(value.shape[-rank:])
    flat = ops.reshape(value, (rows, count))
    at = ops.reshape(places.astype(int64), (rows, count))
    image = ops.zeros((rows, product(space)), value.dtype)
    number = ops.broadcast_to(ops.expand_dims(ops.arange(rows), 1), (rows, count))
    return ops.reshape(image.at[number, at].set(flat), (*lead, *space))
