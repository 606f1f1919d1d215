"""Functions that move elements: reshape, join, cut, repeat, reorder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply
from graphc.op import function
from graphc.ops.lifting import (
    broadcast_shapes,
    full,
    join,
    lift_one,
    normalize_axes,
    normalize_axis,
    who,
)
from graphc.ops.lifting import broadcast_to as expand
from graphc.ops.sizes import exact_quotient, product
from graphc.source import here
from graphc.types import Extent, Shape, Size, bool_, int64

__all__ = [
    "broadcast_arrays",
    "broadcast_to",
    "concat",
    "diagonal",
    "expand_dims",
    "flip",
    "matrix_transpose",
    "moveaxis",
    "pad",
    "permute_dims",
    "repeat",
    "reshape",
    "roll",
    "split",
    "squeeze",
    "stack",
    "swapaxes",
    "tile",
    "tril",
    "triu",
    "unstack",
]


@function
def reshape(x: object, *shape: Any) -> Value:
    """The elements of x in row-major order, in another shape; one extent may be -1.

    >>> reshape([[1.0, 2.0], [3.0, 4.0]], (-1,)).shape
    (4,)
    """
    value = lift_one("reshape", x)
    items = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    wanted = tuple(int(e) if isinstance(e, np.integer) else e for e in items)
    for extent in wanted:
        if not isinstance(extent, (int, Size)):
            raise ShapeError(
                f"{who('reshape')}: an extent is an int or a Dim, got {extent!r}", here()
            )
    unknown = [i for i, e in enumerate(wanted) if isinstance(e, int) and e == -1]
    if len(unknown) > 1:
        raise ShapeError(f"{who('reshape')}: only one extent may be -1 in {list(wanted)}", here())
    if unknown:
        known = product([e for i, e in enumerate(wanted) if i != unknown[0]])
        rest = exact_quotient(value.size, known)
        if rest is None:
            raise ShapeError(
                f"{who('reshape')}: {value.type} has {value.size} elements, "
                f"{known} do not divide them for {list(wanted)}",
                here(),
            )
        wanted = (*wanted[: unknown[0]], rest, *wanted[unknown[0] + 1 :])
    return value if wanted == value.shape else apply("reshape", value, shape=wanted)


@function
def permute_dims(x: object, axes: Any = None) -> Value:
    """The axes of x in the order ``axes``; without, reversed."""
    value = lift_one("permute_dims", x)
    given = range(value.ndim)[::-1] if axes is None else axes
    order = tuple(normalize_axis("permute_dims", a, value.ndim) for a in given)
    return value if order == tuple(range(value.ndim)) else apply("permute", value, order=order)


@function
def swapaxes(x: object, first: int, second: int) -> Value:
    """x with two axes exchanged."""
    value = lift_one("swapaxes", x)
    order = list(range(value.ndim))
    a = normalize_axis("swapaxes", first, value.ndim)
    b = normalize_axis("swapaxes", second, value.ndim)
    order[a], order[b] = b, a
    return permute_dims(value, tuple(order))


@function
def moveaxis(x: object, source: Any, destination: Any) -> Value:
    """x with axes moved from ``source`` to ``destination``; the others keep their order."""
    value = lift_one("moveaxis", x)
    sources = source if isinstance(source, (tuple, list)) else (source,)
    targets = destination if isinstance(destination, (tuple, list)) else (destination,)
    moved = [normalize_axis("moveaxis", a, value.ndim) for a in sources]
    places = [normalize_axis("moveaxis", a, value.ndim) for a in targets]
    if len(set(moved)) < len(moved) or len(set(places)) < len(places) or len(moved) != len(places):
        raise ShapeError(f"{who('moveaxis')}: cannot move {source} to {destination}", here())
    order = [i for i in range(value.ndim) if i not in moved]
    for place, axis in sorted(zip(places, moved, strict=True)):
        order.insert(place, axis)
    return permute_dims(value, tuple(order))


@function
def expand_dims(x: object, axis: Any) -> Value:
    """x with axes of extent 1 inserted, at places of the result."""
    value = lift_one("expand_dims", x)
    items = axis if isinstance(axis, (tuple, list)) else (axis,)
    rank = value.ndim + len(items)
    places = {normalize_axis("expand_dims", a, rank) for a in items}
    rest = iter(value.shape)
    shape = tuple(1 if i in places else next(rest) for i in range(rank))
    return apply("reshape", value, shape=shape) if items else value


@function
def squeeze(x: object, axis: Any = None) -> Value:
    """x without the named axes, which must have extent 1; by default without all such."""
    value = lift_one("squeeze", x)
    ones = tuple(i for i, e in enumerate(value.shape) if e == 1)
    axes = ones if axis is None else normalize_axes("squeeze", axis, value.ndim)
    for a in axes:
        if a not in ones:
            raise ShapeError(f"{who('squeeze')}: axis {a} of {value.type} is not 1", here())
    shape = tuple(e for i, e in enumerate(value.shape) if i not in axes)
    return apply("reshape", value, shape=shape) if axes else value


@function
def broadcast_to(x: object, shape: Any) -> Value:
    """x repeated to ``shape``, by NumPy's rule."""
    return expand(lift_one("broadcast_to", x), tuple(shape))


@function
def broadcast_arrays(*arrays: object) -> list[Value]:
    """All inputs in the shape they broadcast to."""
    values = [lift_one("broadcast_arrays", a) for a in arrays]
    shape = broadcast_shapes("broadcast_arrays", values)
    return [expand(v, shape) for v in values]


@function
def flip(x: object, axis: Any = None) -> Value:
    """x with the order of its elements reversed along ``axis`` (all axes)."""
    value = lift_one("flip", x)
    axes = normalize_axes("flip", axis, value.ndim)
    return apply("flip", value, axes=axes) if axes else value


@function
def concat(arrays: Sequence[object], axis: int | None = 0) -> Value:
    """Join along an existing axis; ``axis=None`` flattens first.

    >>> concat([[1.0], [2.0, 3.0]]).shape
    (3,)
    """
    if isinstance(arrays, Value):
        raise ShapeError(f"{who('concat')}: takes a list of values", here())
    values = _same_dtype("concat", arrays)
    if axis is None:
        values, axis = [reshape(v, (-1,)) for v in values], 0
    axis = normalize_axis("concat", axis, values[0].ndim)
    return values[0] if len(values) == 1 else apply("concat", *values, axis=axis)


def _same_dtype(name: str, arrays: Sequence[object]) -> list[Value]:
    values = [lift_one(name, a) for a in arrays]
    if not values:
        raise ShapeError(f"{who(name)}: nothing to join", here())
    dtype = values[0].dtype
    for value in values[1:]:
        joined = join(dtype, value.dtype)
        if joined is None:
            raise DTypeError(f"{who(name)}: {dtype} and {value.dtype}: cast one of them", here())
        dtype = joined
    return [v if v.dtype == dtype else apply("cast", v, dtype=dtype) for v in values]


@function
def stack(arrays: Sequence[object], axis: int = 0) -> Value:
    """Join along a new axis."""
    values = _same_dtype("stack", arrays)
    place = normalize_axis("stack", axis, values[0].ndim + 1)
    return concat([expand_dims(v, place) for v in values], place)


@function
def unstack(x: object, axis: int = 0) -> tuple[Value, ...]:
    """The slices of x along an axis of literal extent."""
    value = moveaxis(x, axis, 0)
    return tuple(value)


@function
def split(x: object, sections: Any, axis: int = 0) -> list[Value]:
    """Cut along ``axis``: into that many equal parts, or before the given indices, as np.split."""
    value = lift_one("split", x)
    place = normalize_axis("split", axis, value.ndim)
    extent = value.shape[place]
    if isinstance(sections, int):
        part = exact_quotient(extent, sections)
        if part is None:
            raise ShapeError(f"{who('split')}: {extent} is not {sections} equal parts", here())
        bounds: list[Extent] = [part * i for i in range(sections + 1)]
    else:
        bounds = [0, *sections, extent]
    return [_cut(value, place, a, b) for a, b in itertools.pairwise(bounds)]


def _cut(value: Value, axis: int, begin: Extent, end: Extent) -> Value:
    starts = tuple(begin if i == axis else 0 for i in range(value.ndim))
    stops = tuple(end if i == axis else e for i, e in enumerate(value.shape))
    return apply("slice", value, starts=starts, stops=stops, steps=(1,) * value.ndim)


#: PyTorch's names of modes
_PAD_MODES = {"replicate": "edge", "circular": "wrap"}


@function
def pad(x: object, widths: Any, value: float = 0, *, mode: str = "constant") -> Value:
    """x with a border; ``widths``: (low, high) for every axis, one pair for all, or an int.

    ``mode`` is "constant" (the border is ``value``), "edge" or "replicate" (the outermost element),
    "reflect" (mirrored at it), "symmetric" (mirrored behind it), "wrap" or "circular" (the other
    end).

    >>> pad([1.0, 2.0, 3.0], (2, 1), mode="reflect").shape
    (6,)
    """
    data = lift_one("pad", x)
    pairs = _width_pairs(widths, data.ndim)
    if mode != "constant":
        for axis, (before, after) in enumerate(pairs):
            if (before, after) != (0, 0):
                chosen = _PAD_MODES.get(mode, mode)
                data = apply("extend", data, axis=axis, low=before, high=after, mode=chosen)
        return data
    low, high = tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
    if all(w == 0 for w in (*low, *high)):
        return data
    return apply("pad", data, low=low, high=high, value=value)


def _width_pairs(widths: Any, rank: int) -> list[tuple[Extent, Extent]]:
    if isinstance(widths, (int, Size)):
        return [(widths, widths)] * rank
    items = list(widths)
    if len(items) == 2 and all(isinstance(w, (int, Size)) for w in items):
        return [(items[0], items[1])] * rank
    if len(items) != rank:
        raise ShapeError(f"{who('pad')}: {len(items)} width pairs for {rank} axes", here())
    return [(low, high) for low, high in items]


@function
def roll(x: object, shift: int, axis: int | None = None) -> Value:
    """The elements moved by ``shift`` along ``axis``, those that leave coming back at the other
    end.
    """
    value = lift_one("roll", x)
    if axis is None:
        return reshape(roll(reshape(value, (-1,)), shift, 0), value.shape)
    place = normalize_axis("roll", axis, value.ndim)
    extent = value.shape[place]
    if isinstance(extent, int):
        shift = shift % extent if extent else 0
    if shift == 0:
        return value
    cut = extent - shift if shift > 0 else -shift
    return concat([_cut(value, place, cut, extent), _cut(value, place, 0, cut)], place)


@function
def tile(x: object, repetitions: Any) -> Value:
    """x repeated along every axis, as np.tile."""
    value = lift_one("tile", x)
    times = list(repetitions) if isinstance(repetitions, (tuple, list)) else [repetitions]
    rank = max(len(times), value.ndim)
    times = [1] * (rank - len(times)) + times
    shape = (1,) * (rank - value.ndim) + value.shape
    spread: Shape = tuple(itertools.chain.from_iterable(zip(times, shape, strict=True)))
    axes = tuple(range(2 * (rank - value.ndim) + 1, 2 * rank, 2))
    out = apply("broadcast", value, shape=spread, axes=axes)
    return reshape(out, tuple(t * e for t, e in zip(times, shape, strict=True)))


@function
def repeat(x: object, repeats: int, axis: int | None = None) -> Value:
    """Every element ``repeats`` times in a row, along ``axis`` (None: flattened)."""
    value = lift_one("repeat", x)
    if axis is None:
        value, axis = reshape(value, (-1,)), 0
    place = normalize_axis("repeat", axis, value.ndim)
    shape = (*value.shape[: place + 1], repeats, *value.shape[place + 1 :])
    axes = tuple(i for i in range(len(shape)) if i != place + 1)
    out = apply("broadcast", value, shape=shape, axes=axes)
    return reshape(
        out, (*value.shape[:place], value.shape[place] * repeats, *value.shape[place + 1 :])
    )


@function
def tril(x: object, k: int = 0) -> Value:
    """x with the elements above diagonal k zeroed."""
    return _triangle(lift_one("tril", x), k, "<=")


@function
def triu(x: object, k: int = 0) -> Value:
    """x with the elements below diagonal k zeroed."""
    return _triangle(lift_one("triu", x), k, ">=")


@function
def matrix_transpose(x: object) -> Value:
    """x with its last two axes exchanged."""
    return swapaxes(x, -1, -2)


@function
def diagonal(x: object, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Value:
    """The elements [..., i, i + offset] of two axes of literal extents, as a new last axis.

    >>> diagonal([[1.0, 2.0], [3.0, 4.0]]).shape
    (2,)
    """
    value = moveaxis(x, (axis1, axis2), (-2, -1))
    rows, columns = value.shape[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise ShapeError(f"{who('diagonal')}: {value.type}: its axes must be literal", here())
    count = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    start = offset if offset >= 0 else -offset * columns
    flat = reshape(value, (*value.shape[:-2], rows * columns))
    last = flat.ndim - 1
    stop = start + (count - 1) * (columns + 1) + 1 if count else 0
    starts = (0,) * last + (start if count else 0,)
    steps = (1,) * last + (columns + 1,)
    return apply("slice", flat, starts=starts, stops=(*flat.shape[:-1], stop), steps=steps)


def _triangle(value: Value, k: int, keeps: str) -> Value:
    shape = value.shape
    rows = apply("iota", shape=shape, axis=value.ndim - 2, dtype=int64)
    columns = apply("iota", shape=shape, axis=value.ndim - 1, dtype=int64)
    zero = full(shape, False if value.dtype == bool_ else 0, value.dtype)
    return apply("where", apply(keeps, columns - rows, full(shape, k, int64)), value, zero)
