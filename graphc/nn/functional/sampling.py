"""Images of other sizes: interpolation, shuffled pixels, patches as columns and back, borders.

x is [N, C, *space]. Sizes are known when the graph is made: places and weights are constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc import ops
from graphc.autodiff import vjp
from graphc.errors import ShapeError
from graphc.graph import Value, apply
from graphc.nn.functional.adaptive import adaptive_average
from graphc.op import composite
from graphc.ops.lifting import constant, lift_one
from graphc.ops.products import per_axis
from graphc.source import here

__all__ = [
    "channel_shuffle",
    "fold",
    "interpolate",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "unfold",
]

Array = NDArray[Any]
#: the modes that may be smoothed, with half of their kernel's width
_ALIASING = {"bilinear": 1.0, "bicubic": 2.0}
_MODES = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}


# ---- interpolation


@composite
def interpolate(
    x: object,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    """x [N, C, *space] at another size, given outright or by factors: floor(extent * factor).

    Output place j of an axis lies at u = (j + 1/2) r - 1/2 of the input, r = 1 / factor (or in /
    out, where the size is given or ``recompute_scale_factor``); with ``align_corners`` at
    j (in - 1) / (out - 1), so that first and last elements stay. Along each axis in turn:

    - "nearest": element floor(j r); "nearest-exact": floor((j + 1/2) r)
    - "linear", "bilinear", "trilinear" (1, 2, 3 axes): between the two neighbours of u
    - "bicubic" (2 axes): Keys's cubic with a = -3/4 through four neighbours (Keys 1981)
    - "area": the mean of what the place covers, ``adaptive_avg_pool``

    ``antialias`` (with "bilinear" and "bicubic") stretches the kernel by r where r > 1, so that a
    smaller image sees every element, as PIL's does: sum over i of k((i + 1/2 - c) / max(r, 1)) x_i
    over the sum of the k, c = (j + 1/2) r, the cubic's a being -1/2.

    >>> import graphc as gc
    >>> interpolate(gc.observed("x", (1, 3, 4, 6)), scale_factor=2, mode="bilinear").shape
    (1, 3, 8, 12)
    """
    value = lift_one("interpolate", x)
    space = _known_space(value, mode, align_corners)
    if antialias and mode not in _ALIASING:
        raise ValueError(
            f"interpolate: antialias goes with mode {' or '.join(_ALIASING)}, not {mode!r}"
        )
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give size or scale_factor, one of them")
    if size is not None:
        sizes, factors = per_axis("interpolate", "size", size, len(space)), None
    else:
        given = _factors(scale_factor, len(space))
        sizes = tuple(math.floor(n * f) for n, f in zip(space, given, strict=True))
        factors = None if recompute_scale_factor else given
    if any(n < 1 for n in sizes):
        raise ShapeError(f"interpolate: {value.type} to {sizes}: no size may be below 1", here())
    if mode == "area":
        return adaptive_average(value, sizes)
    for i, wanted in enumerate(sizes):
        rate = space[i] / wanted if factors is None else 1.0 / factors[i]
        if antialias:
            rate = _between_corners(space[i], wanted) if align_corners else rate
            value = _smoothed(value, 2 + i, space[i], wanted, rate, mode)
        else:
            value = _resized(value, 2 + i, space[i], wanted, rate, mode, bool(align_corners))
    return value


def _known_space(value: Value, mode: str, align_corners: bool | None) -> tuple[int, ...]:
    """The sizes of the image, all checked."""
    known = ("nearest", "nearest-exact", "area", *_MODES)
    if mode not in known:
        raise ValueError(f"interpolate: mode is one of {', '.join(known)}, not {mode!r}")
    if align_corners is not None and mode not in _MODES:
        raise ValueError(f"interpolate: align_corners goes with {', '.join(_MODES)}, not {mode}")
    rank = _MODES.get(mode, value.ndim - 2)
    if value.ndim != rank + 2 or not 1 <= rank <= 3:
        raise ShapeError(f"interpolate: {mode} takes [N, C, {rank} axes], got {value.type}", here())
    space = tuple(n for n in value.shape[2:] if isinstance(n, int))
    if len(space) != rank:
        raise ShapeError(
            f"interpolate: {value.type}: the sizes of the image must be ints: places and weights "
            "are computed when the graph is made",
            here(),
        )
    return space


def _factors(given: Any, rank: int) -> tuple[float, ...]:
    factors = tuple(given) if isinstance(given, (tuple, list)) else (given,) * rank
    if len(factors) != rank or not all(f > 0 for f in factors):
        raise ValueError(f"interpolate: scale_factor is {rank} numbers > 0 (or one), got {given}")
    return factors


def _resized(
    value: Value, axis: int, extent: int, size: int, rate: float, mode: str, corners: bool
) -> Value:
    """One axis: the sum over neighbours of constant weights times elements at constant places."""
    j, last = np.arange(size), extent - 1
    if mode.startswith("nearest"):
        at = np.floor((j + 0.5 if mode == "nearest-exact" else j) * rate)
        return _taken(value, np.minimum(at.astype(np.int64), last), axis)
    place = (j + 0.5) * rate - 0.5
    if corners:
        place = j * _between_corners(extent, size)
    offsets: tuple[int, ...] = (0, 1)
    if mode == "bicubic":
        low = np.floor(place)
        offsets = (-1, 0, 1, 2)
        weights = [_keys(place - low - offset) for offset in offsets]
    else:
        place = np.maximum(place, 0.0)
        low = np.minimum(np.floor(place), last)
        weights = [1.0 - (place - low), place - low]
    shape = (-1, *(1,) * (value.ndim - 1 - axis))
    total: Value | None = None
    for offset, weight in zip(offsets, weights, strict=True):
        at = np.clip(low + offset, 0, last).astype(np.int64)
        term = _taken(value, at, axis) * constant(weight.reshape(shape), value.dtype)
        total = term if total is None else total + term
    assert total is not None
    return total


def _between_corners(extent: int, size: int) -> float:
    """The step from place to place where the corners stay."""
    return (extent - 1) / (size - 1) if size > 1 else 0.0


def _smoothed(value: Value, axis: int, extent: int, size: int, rate: float, mode: str) -> Value:
    """One axis: the mean of what the stretched kernel covers, by constant weights."""
    stretch = max(rate, 1.0)
    center, reach = (np.arange(size) + 0.5) * rate, _ALIASING[mode] * stretch
    # an element counts whose middle is within the reach
    low = np.maximum(np.floor(center - reach + 0.5), 0.0)
    high = np.minimum(np.floor(center + reach + 0.5), extent)
    places = low[:, None] + np.arange(int((high - low).max()))
    distance = (places + 0.5 - center[:, None]) / stretch
    kernel = _keys(distance, -0.5) if mode == "bicubic" else np.maximum(1 - np.abs(distance), 0.0)
    weights = np.where(places < high[:, None], kernel, 0.0)
    weights /= weights.sum(1, keepdims=True)
    seen = _taken(value, np.minimum(places, extent - 1).astype(np.int64), axis)
    shape = (*weights.shape, *(1,) * (value.ndim - 1 - axis))
    return ops.sum(seen * constant(weights.reshape(shape), value.dtype), axis + 1)


def _keys(d: Array, a: float = -0.75) -> Array:
    """Keys's cubic kernel, in PyTorch a = -3/4."""
    t = np.abs(d)
    near = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    far = ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
    kernel: Array = np.where(t <= 1.0, near, np.where(t < 2.0, far, 0.0))
    return kernel


def _taken(value: Value, places: Array, axis: int) -> Value:
    return apply("gather", value, constant(places), axis=axis, batch_dims=0)


# ---- pixels and channels


@composite
def pixel_shuffle(x: object, upscale_factor: int) -> Value:
    """[.., C r^2, H, W] to [.., C, H r, W r]: channel c r^2 + i r + j goes to pixel (i, j) of its
    square.

    Shi et al., "Real-Time Single Image and Video Super-Resolution", 2016.

    >>> import graphc as gc
    >>> pixel_shuffle(gc.observed("x", (2, 12, 4, 5)), 2).shape
    (2, 3, 8, 10)
    """
    value, r = lift_one("pixel_shuffle", x), upscale_factor
    if value.ndim < 3 or r < 1 or value.shape[-3] % (r * r) != 0:
        raise ShapeError(
            f"pixel_shuffle: x is {value.type}, it must be [.., C {r}^2, H, W]", here()
        )
    *rest, channels, height, width = value.shape
    parts = ops.reshape(value, (*rest, channels // (r * r), r, r, height, width))
    n = len(rest)
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    woven = ops.permute_dims(parts, order)
    return ops.reshape(woven, (*rest, channels // (r * r), height * r, width * r))


@composite
def pixel_unshuffle(x: object, downscale_factor: int) -> Value:
    """[.., C, H r, W r] to [.., C r^2, H, W]: the inverse of ``pixel_shuffle``.

    >>> import graphc as gc
    >>> pixel_unshuffle(gc.observed("x", (2, 3, 8, 10)), 2).shape
    (2, 12, 4, 5)
    """
    value, r = lift_one("pixel_unshuffle", x), downscale_factor
    if value.ndim < 3 or r < 1 or value.shape[-1] % r != 0 or value.shape[-2] % r != 0:
        raise ShapeError(
            f"pixel_unshuffle: x is {value.type}, it must be [.., C, H {r}, W {r}]", here()
        )
    *rest, channels, height, width = value.shape
    parts = ops.reshape(value, (*rest, channels, height // r, r, width // r, r))
    n = len(rest)
    woven = ops.permute_dims(parts, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return ops.reshape(woven, (*rest, channels * r * r, height // r, width // r))


@composite
def channel_shuffle(x: object, groups: int) -> Value:
    """[N, C, *space] with channel a C / g + b at place b g + a (Zhang et al., "ShuffleNet", 2018).

    >>> import graphc as gc
    >>> channel_shuffle(gc.observed("x", (2, 6, 4)), 3).shape
    (2, 6, 4)
    """
    value = lift_one("channel_shuffle", x)
    if value.ndim < 2 or groups < 1 or value.shape[1] % groups != 0:
        raise ShapeError(
            f"channel_shuffle: {groups} groups do not divide axis 1 of {value.type}", here()
        )
    batch, channels, *space = value.shape
    parts = ops.reshape(value, (batch, groups, channels // groups, *space))
    return ops.reshape(ops.swapaxes(parts, 1, 2), value.shape)


# ---- patches


@composite
def unfold(
    x: object, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Value:
    """Patches as columns: [N, C, H, W] to [N, C k k, L], one column for each place of the window.

    >>> import graphc as gc
    >>> unfold(gc.observed("x", (2, 3, 5, 6)), 3, padding=1).shape
    (2, 27, 30)
    """
    value = lift_one("unfold", x)
    if value.ndim not in (3, 4):
        raise ShapeError(f"unfold: x is {value.type}, not [N, C, H, W] or [C, H, W]", here())
    batch = value if value.ndim == 4 else value[None]
    sizes = per_axis("unfold", "kernel_size", kernel_size, 2)
    rims = per_axis("unfold", "padding", padding, 2)
    framed = ops.pad(batch, [(0, 0), (0, 0), *((r, r) for r in rims)])
    seen = ops.windows(framed, sizes, _pair("stride", stride), _pair("dilation", dilation))
    columns = ops.permute_dims(seen, (0, 1, 4, 5, 2, 3))
    n, channels, *patch, rows, across = columns.shape
    flat = ops.reshape(columns, (n, channels * patch[0] * patch[1], rows * across))
    return flat if value.ndim == 4 else flat[0]


@composite
def fold(
    x: object,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Value:
    """Columns back to patches that add up where they overlap: [N, C k k, L] to [N, C, H, W].

    The transpose of ``unfold``, and made as such: the cotangent of its image.

    >>> import graphc as gc
    >>> fold(gc.observed("x", (2, 27, 30)), (5, 6), 3, padding=1).shape
    (2, 3, 5, 6)
    """
    value = lift_one("fold", x)
    height, width = per_axis("fold", "output_size", output_size, 2)
    sizes = per_axis("fold", "kernel_size", kernel_size, 2)
    each = sizes[0] * sizes[1]
    if value.ndim not in (2, 3) or each < 1 or value.shape[-2] % each != 0:
        raise ShapeError(f"fold: x is {value.type}, not [N, C {each}, L] or [C {each}, L]", here())
    image = ops.zeros((*value.shape[:-2], value.shape[-2] // each, height, width), value.dtype)
    columns = unfold(image, sizes, dilation, padding, stride)
    if columns.shape != value.shape:
        raise ShapeError(
            f"fold: an image of {height} x {width} has {columns.shape[-1]} places of this window, "
            f"x {value.type} has {value.shape[-1]} columns",
            here(),
        )
    folded: Value = vjp(columns, image, value)
    return folded


def _pair(what: str, given: Any) -> tuple[int, ...]:
    return per_axis("unfold", what, given, 2)


# ---- borders


@composite
def pad(x: object, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    """x with a border: ``pad`` is (low, high) of the last axis, then of the one before, and so on.

    ``mode`` is "constant" (of ``value``), "reflect", "replicate" or "circular"; a negative width
    cuts off.

    >>> import graphc as gc
    >>> pad(gc.observed("x", (2, 3, 5)), (1, 2)).shape
    (2, 3, 8)
    """
    given = lift_one("pad", x)
    widths = [int(w) for w in pad]
    if len(widths) % 2 or len(widths) > 2 * given.ndim:
        raise ShapeError(
            f"pad: {widths} are (low, high) pairs from the last axis on, at most {given.ndim} "
            f"of {given.type}",
            here(),
        )
    known = ("constant", "reflect", "replicate", "circular")
    if mode not in known:
        raise ValueError(f"pad: mode is one of {', '.join(known)}, not {mode!r}")
    if value is not None and mode != "constant":
        raise ValueError(f"pad: value goes with mode 'constant', not {mode!r}")
    pairs = [(0, 0)] * given.ndim
    for i in range(len(widths) // 2):
        pairs[given.ndim - 1 - i] = (widths[2 * i], widths[2 * i + 1])
    wider = [(max(low, 0), max(high, 0)) for low, high in pairs]
    border = 0.0 if value is None else value
    if mode in ("constant", "circular"):
        return ops.pad(_cut(given, pairs), wider, border, mode=mode)
    # reflected and repeated is what the whole has there, before anything is cut off
    return _cut(ops.pad(given, wider, border, mode=mode), pairs)


def _cut(x: Value, pairs: Sequence[tuple[int, int]]) -> Value:
    """x without what negative widths cut off."""
    for axis, (low, high) in enumerate(pairs):
        if low >= 0 and high >= 0:
            continue
        left = x.shape[axis] - max(-low, 0) - max(-high, 0)
        if isinstance(left, int) and left < 0:
            raise ShapeError(
                f"pad: {[low, high]} cut off more than axis {axis} of {x.type} has", here()
            )
        cut = slice(max(-low, 0), x.shape[axis] - max(-high, 0))
        x = x[(*(slice(None),) * axis, cut)]
    return x
