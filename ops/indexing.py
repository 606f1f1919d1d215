"""``x[...]`` and ``x.at[...]``, take, slices that start at values.

Integers, slices, None and ``...`` are movement; an integer Value slices where it says at run time;
integer arrays gather. Negative indices count from the end, as NumPy's. A boolean mask would have a
shape that depends on data, and is refused with what to write instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from graphc.errors import ShapeError
from graphc.graph import Value, apply
from graphc.op import function
from graphc.ops.arithmetic import where
from graphc.ops.cut import dilate
from graphc.ops.lifting import (
    broadcast_shapes,
    broadcast_to,
    constant,
    full,
    lift,
    lift_one,
    normalize_axis,
    who,
)
from graphc.ops.movement import flip, moveaxis, permute_dims, reshape, squeeze
from graphc.ops.sizes import product, surely_greater
from graphc.records import dataclass
from graphc.source import here
from graphc.types import Extent, Size, int64

__all__ = [
    "dynamic_slice",
    "dynamic_update",
    "getitem",
    "put",
    "take",
    "take_along_axis",
]


def refuse(message: str) -> NoReturn:
    raise ShapeError(message, here())


# ---- what an index says


@dataclass(frozen=True)
class _Range:
    """start, start + step, ... : ``count`` of them; a negative step is a flipped positive one."""

    start: Extent
    stop: Extent
    step: int
    flipped: bool


@dataclass(frozen=True)
class _Place:
    """One position, known now (int, Size) or at run time (a scalar Value)."""

    at: Extent | Value


@dataclass(frozen=True)
class _Many:
    """The positions in an integer tensor."""

    at: Value


@dataclass(frozen=True)
class _NewAxis:
    """An axis of extent 1 that x does not have."""


_Item = _Range | _Place | _Many | _NewAxis


def _written_out(x: Value, index: object) -> list[object]:
    """An index with one entry for every axis of x, and None for new ones."""
    given = list(index) if isinstance(index, tuple) else [index]
    used = sum(1 for i in given if i is not None and i is not Ellipsis)
    dots = [k for k, i in enumerate(given) if i is Ellipsis]
    if len(dots) > 1:
        refuse(f"{who('index')}: only one ... in an index")
    if used > x.ndim:
        refuse(f"{who('index')}: {used} indices for {x.type}")
    fill = [slice(None)] * (x.ndim - used)
    place = dots[0] if dots else len(given)
    return [*given[:place], *fill, *given[place + 1 :]]


def _items(x: Value, index: object) -> list[_Item]:
    """One item for every axis of x, and the new axes between them."""
    found: list[_Item] = []
    axis = 0
    for item in _written_out(x, index):
        if item is None:
            found.append(_NewAxis())
            continue
        found.append(_item(x, axis, item))
        axis += 1
    return found


def _item(x: Value, axis: int, item: object) -> _Item:
    extent = x.shape[axis]
    if isinstance(item, slice):
        return _range(x, axis, item)
    if isinstance(item, (bool, np.bool_)):
        refuse(f"{who('index')}: a bool is no index")
    if isinstance(item, (int, np.integer)):
        return _Place(_wrapped(x, axis, int(item)))
    if isinstance(item, Size):
        if surely_greater(item + 1, extent):
            refuse(f"{who('index')}: {item} is outside axis {axis} of {x.type}")
        return _Place(item)
    value = lift_one("index", item)
    if value.dtype.kind == "b":
        refuse(
            f"{who('index')}: a boolean mask on {x.type} would give a shape that depends on data: "
            "weight instead, (v * mask).sum() / mask.sum(), or choose with gc.ops.where(mask, v, 0)"
        )
    if not value.dtype.is_integer:
        refuse(f"{who('index')}: {value.type} is no index; it must be of integers")
    value = _from_start(value, extent)
    return _Place(value) if value.ndim == 0 else _Many(value)


def _wrapped(x: Value, axis: int, position: int) -> Extent:
    extent = x.shape[axis]
    at = extent + position if position < 0 else position
    outside = surely_greater(at + 1, extent) or surely_greater(0, at)
    if outside:
        refuse(f"{who('index')}: {position} is outside axis {axis} of {x.type}")
    return at


def _from_start(indices: Value, extent: Extent) -> Value:
    """Negative indices counted from the start, as int64."""
    if indices.node.op == "constant" and isinstance(extent, int):
        array = indices.node.attrs["data"].array.astype(np.int64)
        return constant(np.where(array < 0, array + extent, array), int64)
    wide = indices if indices.dtype == int64 else apply("cast", indices, dtype=int64)
    if indices.dtype.kind == "u" or indices.node.op == "iota":
        return wide
    return where(wide < 0, wide + extent, wide)


def _range(x: Value, axis: int, item: slice) -> _Range:
    extent = x.shape[axis]
    step = 1 if item.step is None else item.step
    bounds = (item.start, item.stop)
    if not isinstance(step, int) or any(isinstance(b, Value) for b in bounds):
        refuse(
            f"{who('index')}: a slice's bounds are ints or Dims; "
            "for a start known at run time use gc.ops.dynamic_slice(x, starts, shape)"
        )
    if step == 0:
        refuse(f"{who('index')}: a slice's step is not 0")
    if isinstance(extent, int) and all(
        b is None or isinstance(b, (int, np.integer)) for b in bounds
    ):
        return _literal_range(range(extent)[item])
    if step < 0 and bounds != (None, None):
        refuse(f"{who('index')}: a backward slice of a Dim takes no bounds")
    start = _bound(item.start, extent, 0)
    stop = _bound(item.stop, extent, extent)
    if step < 0:  # n - 1, n - 1 - k, ...: forward they begin at (n - 1) % k
        return _Range((extent - 1) % -step, stop, -step, True)
    return _Range(start, stop, step, False)


def _literal_range(places: range) -> _Range:
    if len(places) == 0:
        return _Range(0, 0, 1, False)
    low, high = min(places[0], places[-1]), max(places[0], places[-1])
    return _Range(low, high + 1, abs(places.step), places.step < 0)


def _bound(given: Any, extent: Extent, default: Extent) -> Extent:
    if given is None:
        return default
    if isinstance(given, (int, np.integer)):
        return extent + int(given) if given < 0 else int(given)
    if isinstance(given, Size):
        return given
    refuse(f"{who('index')}: a slice's bound is an int or a Dim, got {given!r}")


# ---- reading


@function
def getitem(x: object, index: object) -> Value:
    """x[index].

    >>> getitem([[1.0, 2.0], [3.0, 4.0]], (0, slice(None, None, -1))).shape
    (2,)
    """
    value = lift_one("index", x)
    items = _items(value, index)
    real: list[_Item] = [i for i in items if not isinstance(i, _NewAxis)]
    value = _slice_statically(value, real)
    value = _slice_at_values(value, real)
    many = [axis for axis, item in enumerate(real) if isinstance(item, _Many)]
    if many and any(isinstance(i, _NewAxis) for i in items):
        refuse(f"{who('index')}: None and integer arrays in one index: use expand_dims after")
    if not many:
        return _finish(value, items)
    return _gather_many(value, real, many)


def _slice_statically(x: Value, items: Sequence[_Item]) -> Value:
    starts: list[Extent] = []
    stops: list[Extent] = []
    steps: list[int] = []
    flips = []
    for axis, item in enumerate(items):
        start, stop, step = 0, x.shape[axis], 1
        if isinstance(item, _Range):
            start, stop, step = item.start, item.stop, item.step  # type: ignore[assignment]
            if item.flipped:
                flips.append(axis)
        elif isinstance(item, _Place) and not isinstance(item.at, Value):
            start, stop = item.at, item.at + 1  # type: ignore[assignment]
        starts.append(start)
        stops.append(stop)
        steps.append(step)
    if (starts, stops, steps) != ([0] * x.ndim, list(x.shape), [1] * x.ndim):
        x = apply("slice", x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))
    return flip(x, tuple(flips)) if flips else x


def _slice_at_values(x: Value, items: Sequence[_Item]) -> Value:
    if not any(isinstance(i, _Place) and isinstance(i.at, Value) for i in items):
        return x
    starts, shape = [], list(x.shape)
    for axis, item in enumerate(items):
        if isinstance(item, _Place) and isinstance(item.at, Value):
            starts.append(item.at)
            shape[axis] = 1
        else:
            starts.append(full((), 0, int64))
    return apply("dynamic_slice", x, *starts, shape=tuple(shape))


def _finish(x: Value, items: Sequence[_Item]) -> Value:
    """Drop the axes of single positions, insert the new ones."""
    extents = iter(x.shape)
    shape: list[Extent] = []
    for item in items:
        if isinstance(item, _NewAxis):
            shape.append(1)
            continue
        extent = next(extents)
        if not isinstance(item, _Place):
            shape.append(extent)
    return reshape(x, tuple(shape))


def _gather_many(x: Value, items: Sequence[_Item], many: Sequence[int]) -> Value:
    """Gather along one axis; several index arrays are broadcast and their axes merged into one."""
    single = tuple(a for a, i in enumerate(items) if isinstance(i, _Place))
    if single:
        x = squeeze(x, single)
        many = [a - sum(s < a for s in single) for a in many]
    arrays = [i.at for i in items if isinstance(i, _Many)]
    together = list(many) == list(range(many[0], many[0] + len(many))) and not _apart(items)
    if len(arrays) > 1:
        x, arrays = _merge_axes(x, many, arrays)
        axis = many[0] if together else 0
        x = moveaxis(x, 0, axis)
    else:
        axis = many[0]
    out = apply("gather", x, arrays[0], axis=axis, batch_dims=0)
    if together or (len(many) == 1 and not _apart(items)):
        return out
    if axis == 0:
        return out
    count = arrays[0].ndim  # NumPy puts the result of separated arrays first
    return moveaxis(out, tuple(range(axis, axis + count)), tuple(range(count)))


def _apart(items: Sequence[_Item]) -> bool:
    """Whether a slice stands between advanced indices (positions count as such beside arrays)."""
    advanced = [a for a, i in enumerate(items) if isinstance(i, (_Many, _Place))]
    return advanced != list(range(advanced[0], advanced[0] + len(advanced)))


def _merge_axes(
    x: Value, axes: Sequence[int], arrays: Sequence[Value]
) -> tuple[Value, list[Value]]:
    """x with ``axes`` merged into its first, and the index arrays as one into that; out of range
    stays so.
    """
    x = moveaxis(x, tuple(axes), tuple(range(len(axes))))
    extents = x.shape[: len(axes)]
    shape = broadcast_shapes("index", arrays)
    flat: Value | None = None
    valid: Value | None = None
    for array, extent in zip(arrays, extents, strict=True):
        place = broadcast_to(array, shape)
        inside = (place >= 0) & (place < extent)
        flat = place if flat is None else flat * extent + place
        valid = inside if valid is None else valid & inside
    assert flat is not None
    merged = reshape(x, (product(extents), *x.shape[len(axes) :]))
    return merged, [where(valid, flat, -1)]


@function
def take(x: object, indices: object, axis: int | None = None) -> Value:
    """The elements of x at ``indices`` along ``axis`` (None: of x flattened)."""
    value = lift_one("take", x)
    if axis is None:
        value, axis = reshape(value, (-1,)), 0
    place = normalize_axis("take", axis, value.ndim)
    return getitem(value, (*(slice(None),) * place, lift_one("take", indices)))


@function
def take_along_axis(x: object, indices: object, axis: int = -1) -> Value:
    """x[..., indices[..., j, ...], ...] along ``axis``: all other axes of both belong together.

    >>> take_along_axis([[1.0, 2.0], [3.0, 4.0]], [[1], [0]], 1).shape
    (2, 1)
    """
    value, places = lift_one("take_along_axis", x), lift_one("take_along_axis", indices)
    place = normalize_axis("take_along_axis", axis, value.ndim)
    if places.ndim != value.ndim:
        refuse(f"{who('take_along_axis')}: {value.type} and {places.type} differ in rank")
    places = _from_start(places, value.shape[place])
    last = value.ndim - 1
    moved, at = moveaxis(value, place, last), moveaxis(places, place, last)
    out = apply("gather", moved, at, axis=last, batch_dims=last)
    return moveaxis(out, last, place)


@function
def dynamic_slice(x: object, starts: Sequence[object], shape: Sequence[Extent]) -> Value:
    """The window of ``shape`` that begins at ``starts`` (ints or integer scalars, one an axis)."""
    value = lift_one("dynamic_slice", x)
    return apply("dynamic_slice", value, *_scalars(starts), shape=tuple(shape))


@function
def dynamic_update(x: object, new: object, starts: Sequence[object]) -> Value:
    """x with ``new`` written in at ``starts``."""
    value = lift_one("dynamic_update", x)
    patch = lift_one("dynamic_update", new)
    if patch.dtype != value.dtype:
        patch = apply("cast", patch, dtype=value.dtype)
    return apply("dynamic_update", value, patch, *_scalars(starts))


def _scalars(starts: Sequence[object]) -> list[Value]:
    values = [lift_one("start", s) for s in starts]
    return [v if v.dtype == int64 else apply("cast", v, dtype=int64) for v in values]


# ---- writing: x.at[index].set(new)


@function
def put(x: object, index: object, new: object, *, mode: str = "set") -> Value:
    """x with the elements x[index] replaced (set), added to, or bounded by (max, min) ``new``."""
    value = lift_one("at", x)
    items = _items(value, index)
    if any(isinstance(i, _NewAxis) for i in items):
        refuse(f"{who('at')}: None has no place in an index that is written to")
    if any(isinstance(i, _Many) for i in items):
        whole = all(isinstance(i, _Many) or _is_whole(value, a, i) for a, i in enumerate(items))
        if not whole:
            return _put_into_part(value, _written_out(value, index), items, new, mode)
        return _put_many(value, items, new, mode)
    if mode != "set":
        old = getitem(value, index)
        new = _merge(mode, old, new)
    target = _region_shape(items)
    patch = _fitting(new, tuple(e for e, kept in target if kept), value)
    patch = reshape(patch, tuple(e for e, _ in target))
    return _write(value, items, patch)


def _merge(mode: str, old: Value, new: object) -> Value:
    a, b = lift("at", old, new)
    return apply({"add": "+", "max": "max", "min": "min"}[mode], a, b)


def _region_shape(items: Sequence[_Item]) -> list[tuple[Extent, bool]]:
    """The written region's extents, and whether NumPy keeps the axis."""
    found: list[tuple[Extent, bool]] = []
    for item in items:
        if isinstance(item, _Range):
            span = item.stop - item.start
            found.append((span if item.step == 1 else (span + item.step - 1) // item.step, True))
        else:
            found.append((1, False))
    return found


def _fitting(new: object, shape: tuple[Extent, ...], like: Value) -> Value:
    """``new`` in the dtype of ``like``, broadcast to ``shape``."""
    _, patch = lift("at", full((), 0, like.dtype), new)
    if patch.dtype != like.dtype:
        refuse(f"{who('at')}: {patch.dtype} into {like.type}: convert with .astype")
    while patch.ndim > len(shape) and patch.shape[0] == 1:
        patch = squeeze(patch, 0)
    return broadcast_to(patch, shape)


def _write(x: Value, items: Sequence[_Item], patch: Value) -> Value:
    flips = tuple(a for a, i in enumerate(items) if isinstance(i, _Range) and i.flipped)
    patch = flip(patch, flips) if flips else patch
    if patch.shape == x.shape:
        return patch
    if any(isinstance(i, _Range) and i.step > 1 for i in items):
        return _write_strided(x, items, patch)
    starts = [_first(i) for i in items]
    return apply("dynamic_update", x, patch, *_scalars(starts))


def _first(item: _Item) -> object:
    if isinstance(item, _Range):
        return item.start
    assert isinstance(item, _Place)
    return item.at


def _write_strided(x: Value, items: Sequence[_Item], patch: Value) -> Value:
    """Spread the patch and a mask to x's shape, then choose."""
    if any(isinstance(_first(i), Value) for i in items):
        refuse(f"{who('at')}: a step and a run-time position in one index")
    spread = _spread(patch, x, items)
    mask = _spread(full(patch.shape, 1, patch.dtype), x, items)
    return where(mask != 0, spread, x)


def _spread(patch: Value, x: Value, items: Sequence[_Item]) -> Value:
    low, high = [], []
    for axis, item in enumerate(items):
        step = item.step if isinstance(item, _Range) else 1
        if step > 1:
            patch = dilate(patch, axis, step)
        first = _first(item)
        assert isinstance(first, (int, Size))
        room = x.shape[axis] - first
        if surely_greater(patch.shape[axis], room):
            patch = getitem(patch, (*(slice(None),) * axis, slice(0, room)))
        low.append(first)
        high.append(room - patch.shape[axis])
    return apply("pad", patch, low=tuple(low), high=tuple(high), value=0)


def _is_whole(x: Value, axis: int, item: _Item) -> bool:
    """Whether an item takes all of an axis in order."""
    if not isinstance(item, _Range) or item.flipped:
        return False
    return (item.start, item.step) == (0, 1) and item.stop == x.shape[axis]


def _put_into_part(
    x: Value, index: Sequence[object], items: Sequence[_Item], new: object, mode: str
) -> Value:
    """Index arrays beside ranges and positions: write into the part that these cut out, and the
    part into x.

        x.at[ids, 2:5].add(new)  ->  x.at[:, 2:5].set(x[:, 2:5].at[ids].add(new))
    """
    chosen = [a for a, i in enumerate(items) if isinstance(i, (_Many, _Place))]
    if chosen != list(range(chosen[0], chosen[-1] + 1)) and any(
        isinstance(i, _Place) for i in items
    ):
        refuse(f"{who('at')}: a position must stand next to the index arrays, without : between")
    every = slice(None)
    cut = [every if isinstance(i, _Many) else g for g, i in zip(index, items, strict=True)]
    inside = [
        g if isinstance(i, _Many) else every
        for g, i in zip(index, items, strict=True)
        if not isinstance(i, _Place)
    ]
    part = put(getitem(x, tuple(cut)), tuple(inside), new, mode=mode)
    return put(x, tuple(cut), part)


def _put_many(x: Value, items: Sequence[_Item], new: object, mode: str) -> Value:
    """Scatter along the axis (or the merged axes) of the index arrays; the others are whole."""
    many = [a for a, i in enumerate(items) if isinstance(i, _Many)]
    arrays = [i.at for i in items if isinstance(i, _Many)]
    rest = [a for a in range(x.ndim) if a not in many]
    if len(many) == 1:
        axis, places, target = many[0], arrays[0], x
    else:
        target, (places,) = _merge_axes(x, many, arrays)
        axis = 0
        if rest and many[0] < rest[-1] and many[0] > 0:
            refuse(f"{who('at')}: several index arrays must stand first")
    shape = (*target.shape[:axis], *places.shape, *target.shape[axis + 1 :])
    patch = _fitting(new, shape, x)
    out = apply("scatter", target, places, patch, axis=axis, batch_dims=0, mode=mode)
    if len(many) == 1:
        return out
    order = [*many, *rest]
    parted = reshape(out, tuple(x.shape[a] for a in order))
    return permute_dims(parted, tuple(order.index(a) for a in range(x.ndim)))
