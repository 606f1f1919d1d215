"""Indexing at run-time positions: gather, scatter, and slices that start where a value says.

An index outside of its axis is an error of the call (the lowering makes a ``check``), never memory
read or written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, RuntimeCheckError, ShapeError
from graphc.graph import Node, Value, apply
from graphc.kernel import build
from graphc.kernel.terms import AxisIndex, Term
from graphc.op import (
    Array,
    Cotangents,
    ErrorSample,
    Index,
    Inputs,
    Lanes,
    LowerContext,
    Op,
    Sample,
    Transform,
    int_shape,
    register,
    single,
    tensor,
)
from graphc.ops.lifting import full, who
from graphc.ops.shape import flat_index
from graphc.types import Extent, TensorType, float32, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]

SCATTER_MODES = ("set", "add", "max", "min")


def _check_range(name: str, indices: Array, extent: int) -> None:
    bad = (indices < 0) | (indices >= extent)
    if bad.any():
        raise RuntimeCheckError(f"{name}: index {indices[bad].flat[0]} is outside 0..{extent - 1}")


def checked_index(ctx: LowerContext, term: Term, extent: Extent, name: str) -> Term:
    """``term`` as int64, with a check that it lies in 0..extent-1."""
    place = build.cast(term, int64)
    low = build.apply(">=", place, build.const(0))
    high = build.apply("<", place, build.size(extent))
    ctx.check(build.apply("and", low, high), f"{name}: an index is outside 0..{extent - 1}")
    return place


# ---- gather


def _gather_parts(types: Types, attrs: Attrs) -> tuple[TensorType, TensorType, int, int]:
    x, indices = types[:2]
    axis, batch = attrs["axis"], attrs["batch_dims"]
    if not indices.dtype.is_integer:
        raise DTypeError(f"{who('gather')}: the indices are {indices.dtype}, they must be integers")
    if not 0 <= batch <= axis < x.ndim or batch > indices.ndim:
        raise ShapeError(f"{who('gather')}: axis {axis} and {batch} batch axes do not fit {x}")
    if x.shape[:batch] != indices.shape[:batch]:
        raise ShapeError(f"{who('gather')}: {x} and {indices} differ in their {batch} batch axes")
    return x, indices, axis, batch


def _gathered_shape(types: Types, attrs: Attrs) -> tuple[Extent, ...]:
    x, indices, axis, batch = _gather_parts(types, attrs)
    return (*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :])


def _gather_type(types: Types, attrs: Attrs) -> Types:
    return (TensorType(types[0].dtype, _gathered_shape(types, attrs)),)


def _positions(shape: tuple[int, ...], indices: Array, axis: int, batch: int) -> tuple[Any, ...]:
    """The index arrays that read (or write) x at what a gather (or scatter) means."""
    inner = indices.shape[batch:]
    rank = axis + len(inner) + len(shape) - axis - 1
    grids: list[Array] = []
    for i, extent in enumerate(shape):
        if i == axis:
            place = indices.reshape(
                (
                    *indices.shape[:batch],
                    *(1,) * (axis - batch),
                    *inner,
                    *(1,) * (len(shape) - axis - 1),
                )
            )
            grids.append(place.astype(np.int64))
            continue
        at = i if i < axis else i - 1 + len(inner)
        grids.append(np.arange(extent).reshape([-1 if k == at else 1 for k in range(rank)]))
    return tuple(np.broadcast_arrays(*grids))


def _gather_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    x, indices = arrays
    axis, batch = attrs["axis"], attrs["batch_dims"]
    _check_range("gather", indices, x.shape[axis])
    if 0 in types[0].shape:
        return (np.zeros(int_shape(types[0]), x.dtype),)
    return (np.asarray(x[_positions(x.shape, indices, axis, batch)]),)


def _gather_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    g = cotangents[0]
    if g is None:
        return (None, None)
    x, indices = node.inputs
    zeros = full(x.shape, 0, x.dtype)
    return apply("scatter", zeros, indices, g, mode="add", **node.attrs), None


def _gather_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    t = tangents[0]
    return (None if t is None else apply("gather", t, node.inputs[1], **node.attrs),)


def _split_places(node: Node, index: Index) -> tuple[Index, Index, Index]:
    """The part of a gathered index before the axis, along the indices, and after."""
    axis, batch = node.attrs["axis"], node.attrs["batch_dims"]
    inner = node.inputs[1].ndim - batch
    return index[:axis], index[axis : axis + inner], index[axis + inner :]


def _gather_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    before, along, after = _split_places(node, index)
    term = inputs[1]((*before[: node.attrs["batch_dims"]], *along))
    extent = node.inputs[0].shape[node.attrs["axis"]]
    place = checked_index(ctx, term, extent, "gather")
    return inputs[0]((*before, place, *after))


_AT = {"axis": 0, "batch_dims": 0}
_BATCHED = {"axis": 1, "batch_dims": 1}
_GATHERS: tuple[tuple[tuple[int, ...], Any, dict[str, int]], ...] = (
    ((5, 3), [0, 4, 2, 4], _AT),
    ((5, 3), [[1, 1], [0, 3]], _AT),
    ((2, 5, 3), [1, 0, 4], {"axis": 1, "batch_dims": 0}),
    ((2, 5), [[1, 0, 4], [2, 2, 2]], _BATCHED),
    ((5, 2), 3, _AT),
    ((5,), np.zeros((0,), np.int64), _AT),
)


def _gather_samples() -> tuple[Sample, ...]:
    made = []
    for shape, indices, attrs in _GATHERS:
        array = np.asarray(indices, np.int64)
        types = (tensor(shape), tensor(array.shape, int64))
        made.append(Sample(types, attrs, arrays={1: array}))
    return tuple(made)


def _gather_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    axis, batch = node.attrs["axis"], node.attrs["batch_dims"]
    if batch or all(lanes.batched):
        at = {"axis": axis + 1, "batch_dims": batch + 1}
        return (apply("gather", *lanes.all(inputs), **at),)
    if lanes.batched[0]:
        return (apply("gather", *inputs, axis=axis + 1, batch_dims=0),)
    found = apply("gather", *inputs, **node.attrs)  # the lanes stand where the axis was
    order = (axis, *(i for i in range(found.ndim) if i != axis))
    return (apply("permute", found, order=order),)



register(
    Op(
        "gather",
        "Elements of x at ``indices`` along ``axis``; the first ``batch_dims`` axes of both belong "
        "together.",
        _gather_type,
        _gather_reference,
        _gather_vjp,
        _gather_jvp,
        single(_gather_lower),
        _gather_samples(),
        (
            ErrorSample((tensor((5,)), tensor((2,))), _AT, DTypeError, "integers"),
            ErrorSample((tensor((5,)), tensor((2,), int64)), _BATCHED, ShapeError, "do not fit"),
            ErrorSample((tensor((3, 5)), tensor((2, 2), int64)), _BATCHED, ShapeError, "differ"),
        ),
        batch=_gather_batch,
    )
)


# ---- scatter


def _scatter_type(types: Types, attrs: Attrs) -> Types:
    x, indices, values = types
    if attrs["mode"] not in SCATTER_MODES:
        raise ShapeError(f"{who('scatter')}: no mode {attrs['mode']!r}; one of {SCATTER_MODES}")
    wanted = TensorType(x.dtype, _gathered_shape((x, indices), attrs))
    if values != wanted:
        raise ShapeError(
            f"{who('scatter')}: into {x} at {indices}: the values are {values}, not {wanted}"
        )
    if x.dtype.kind == "b" and attrs["mode"] != "set":
        raise DTypeError(f"{who('scatter')}: {attrs['mode']} of bools")
    return (x,)


def _scatter_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    x, indices, values = arrays
    axis, batch, mode = attrs["axis"], attrs["batch_dims"], attrs["mode"]
    _check_range("scatter", indices, x.shape[axis])
    wide = np.float32 if x.dtype.itemsize == 2 else x.dtype
    out = x.astype(wide)
    if values.size:
        at = _positions(x.shape, indices, axis, batch)
        if mode == "set":
            _set_in_order(out, at, values)
        else:
            ufunc = {"add": np.add, "max": np.maximum, "min": np.minimum}[mode]
            ufunc.at(out, at, values.astype(wide))
    return (out.astype(x.dtype),)


def _set_in_order(out: Array, at: tuple[Array, ...], values: Array) -> None:
    """The last of equal indices wins."""
    for place in np.ndindex(values.shape):
        out[tuple(a[place] for a in at)] = values[place]


def _same_place(node: Node) -> dict[str, int]:
    return {"axis": node.attrs["axis"], "batch_dims": node.attrs["batch_dims"]}


def _scatter_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    g = cotangents[0]
    if g is None:
        return (None, None, None)
    _, indices, values = node.inputs
    at, mode = _same_place(node), node.attrs["mode"]
    if mode == "add":
        return g, None, apply("gather", g, indices, **at)
    if mode == "set":
        cleared = apply("scatter", g, indices, full(values.shape, 0, g.dtype), mode="set", **at)
        return cleared, None, apply("gather", g, indices, **at) * _last_of_equals(node)
    of_x, of_values, count = _winners(node)
    shared = g / count
    return shared * of_x, None, apply("gather", shared, indices, **at) * of_values


def _scatter_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    tx, _, tv = tangents
    if tx is None and tv is None:
        return (None,)
    x, indices, values = node.inputs
    tx = full(x.shape, 0, x.dtype) if tx is None else tx
    tv = full(values.shape, 0, values.dtype) if tv is None else tv
    at, mode = _same_place(node), node.attrs["mode"]
    if mode in ("add", "set"):
        return (apply("scatter", tx, indices, tv, mode=mode, **at),)
    of_x, of_values, count = _winners(node)
    total = apply("scatter", tx * of_x, indices, tv * of_values, mode="add", **at)
    return (total / count,)


def _last_of_equals(node: Node) -> Value:
    """1 for the values that remain, 0 for those that a later one with the same index replaced."""
    x, indices, values = node.inputs
    at = _same_place(node)
    order: Value | None = None
    for i in range(values.ndim):
        place = apply("iota", shape=values.shape, axis=i, dtype=int64)
        order = place if order is None else order * values.shape[i] + place
    if order is None:
        return full((), 1, values.dtype)
    last = apply("scatter", full(x.shape, -1, int64), indices, order, mode="max", **at)
    kept = apply("==", apply("gather", last, indices, **at), order)
    return apply("cast", kept, dtype=values.dtype)


def _winners(node: Node) -> tuple[Value, Value, Value]:
    """Which elements equal the result, and how many do: they share its derivative evenly."""
    x, indices, values = node.inputs
    out, at = node.outputs[0], _same_place(node)
    of_x = apply("cast", apply("==", x, out), dtype=x.dtype)
    best = apply("gather", out, indices, **at)
    of_values = apply("cast", apply("==", values, best), dtype=x.dtype)
    count = apply("scatter", of_x, indices, of_values, mode="add", **at)
    # count is 0 only where the result is NaN
    return of_x, of_values, apply("max", count, full(count.shape, 1, count.dtype))


def _scatter_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    """Every element looks for the values that go to it: correct for duplicates and in any order of
    execution.
    """
    x, indices, _ = node.inputs
    axis, batch, mode = node.attrs["axis"], node.attrs["batch_dims"], node.attrs["mode"]
    inner = indices.shape[batch:]
    fresh = [ctx.axis(extent, "e") for extent in inner]
    over = [a.axis for a in fresh if isinstance(a, AxisIndex)]
    term = inputs[1]((*index[:batch], *fresh))
    mine = build.apply("==", checked_index(ctx, term, x.shape[axis], "scatter"), index[axis])
    at = (*index[:axis], *fresh, *index[axis + 1 :])
    old = inputs[0](index)
    if not over:
        return _combine(mode, mine, old, inputs[2](at))
    if mode == "set":
        place = flat_index(fresh, inner)
        last = build.reduce("max", [build.apply("where", mine, place, build.const(-1))], over)[0]
        found = build.apply(">=", last, build.const(0))
        split = _split_flat(last, inner)
        moved = (*index[:axis], *split, *index[axis + 1 :])
        new = ctx.masked(inputs[2], moved, found, build.const(0, x.dtype))
        return build.apply("where", found, new, old)
    monoid = "sum" if mode == "add" else mode
    total = build.cast(build.reduce(monoid, [inputs[2](at)], over, where=mine)[0], x.dtype)
    return build.apply("+" if mode == "add" else mode, old, total)


def _combine(mode: str, mine: Term, old: Term, new: Term) -> Term:
    merged = new if mode == "set" else build.apply("+" if mode == "add" else mode, old, new)
    return build.apply("where", mine, merged, old)


def _split_flat(flat: Term, extents: Sequence[Extent]) -> list[Term]:
    """The index of row-major position ``flat``; -1 stays out of range nowhere: floor division keeps
    it at the edge.
    """
    terms: list[Term] = []
    rest = flat
    for extent in reversed(extents[1:]):
        terms.append(build.apply("%", rest, build.size(extent)))
        rest = build.apply("//", rest, build.size(extent))
    return [rest, *reversed(terms)]


def _scatter_samples() -> tuple[Sample, ...]:
    made = []
    for mode in SCATTER_MODES:
        for shape, indices, attrs in _GATHERS:
            array = np.asarray(indices, np.int64)
            types = (tensor(shape), tensor(array.shape, int64))
            values = TensorType(float32, _gathered_shape(types, attrs))
            made.append(Sample((*types, values), {**attrs, "mode": mode}, arrays={1: array}))
    return tuple(made)


_ADD = {**_AT, "mode": "add"}
def _scatter_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    at = {"axis": node.attrs["axis"] + 1, "batch_dims": node.attrs["batch_dims"] + 1}
    return (apply("scatter", *lanes.all(inputs), **{**node.attrs, **at}),)



register(
    Op(
        "scatter",
        "x with ``values`` written, added, or bounded in at ``indices`` along ``axis``: what "
        "gather would read. Of equal indices set keeps the last in row-major order.",
        _scatter_type,
        _scatter_reference,
        _scatter_vjp,
        _scatter_jvp,
        single(_scatter_lower),
        _scatter_samples(),
        (
            ErrorSample(
                (tensor((5,)), tensor((2,), int64), tensor((3,))), _ADD, ShapeError, "not f32"
            ),
            ErrorSample(
                (tensor((5,)), tensor((2,), int64), tensor((2,))),
                {**_AT, "mode": "mul"},
                ShapeError,
                "no mode",
            ),
        ),
        batch=_scatter_batch,
    )
)
