"""Writing at run-time positions: scatter, and how it runs in time linear in its data.

::

    scatter(x, ids, values)          few ids: every element of x looks for the values that go to it
      -> start, order = group(ids)   else those for element g are at order[start[g]:start[g + 1]]
         scatter_grouped(x, start, order, values)

An element reduces over its window in the order of the values, so a sum has the same bits on every
run; no two threads write to one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.graph import Node, Value, apply, apply_all
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
    register,
    single,
    tensor,
)
from graphc.ops.index import (
    AT,
    GATHER_SAMPLES,
    bounded,
    check_range,
    checked_index,
    gathered_shape,
    positions,
    surely_inside,
)
from graphc.ops.lifting import full, who
from graphc.ops.shape import flat_index
from graphc.ops.sizes import product, surely_greater
from graphc.types import Extent, TensorType, float32, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]

SCATTER_MODES = ("set", "add", "max", "min")
#: comparisons of all elements with all ids that are worth no grouping: a launch or two
_FEW_COMPARISONS = 1 << 12
#: ids a row that are looked for in any case
_FEW_IDS = 4


# ---- scatter


def _scatter_type(types: Types, attrs: Attrs) -> Types:
    x, indices, values = types
    if attrs["mode"] not in SCATTER_MODES:
        raise ShapeError(f"{who('scatter')}: no mode {attrs['mode']!r}; one of {SCATTER_MODES}")
    wanted = TensorType(x.dtype, gathered_shape((x, indices), attrs))
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
    check_range("scatter", indices, x.shape[axis])
    wide = np.float32 if x.dtype.itemsize == 2 else x.dtype
    out = x.astype(wide)
    if values.size:
        at = positions(x.shape, indices, axis, batch)
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
    """Every element looks for the values that go to it."""
    x, indices, _ = node.inputs
    axis, batch, mode = node.attrs["axis"], node.attrs["batch_dims"], node.attrs["mode"]
    inner = indices.shape[batch:]
    fresh = [ctx.axis(extent, "e") for extent in inner]
    over = [a.axis for a in fresh if isinstance(a, AxisIndex)]
    term = inputs[1]((*index[:batch], *fresh))
    place = build.cast(term, int64)
    if not surely_inside(indices, x.shape[axis]):
        place = checked_index(ctx, term, x.shape[axis], "scatter")
    mine = build.apply("==", place, index[axis])
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
        for shape, indices, attrs in GATHER_SAMPLES:
            array = np.asarray(indices, np.int64)
            types = (tensor(shape), tensor(array.shape, int64))
            values = TensorType(float32, gathered_shape(types, attrs))
            made.append(Sample((*types, values), {**attrs, "mode": mode}, arrays={1: array}))
    return tuple(made)


def _scatter_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    at = {"axis": node.attrs["axis"] + 1, "batch_dims": node.attrs["batch_dims"] + 1}
    return (apply("scatter", *lanes.all(inputs), **{**node.attrs, **at}),)


def _scatter_expand(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    """Group the ids once, unless there are so few that looking for them is cheaper."""
    x, indices, values = inputs
    axis, batch = node.attrs["axis"], node.attrs["batch_dims"]
    length, comparisons = product(indices.shape[batch:]), product(indices.shape[batch:])
    for extent in x.shape:
        comparisons = comparisons * extent
    few = isinstance(comparisons, int) and comparisons <= _FEW_COMPARISONS
    if few or not surely_greater(length, 0) or (isinstance(length, int) and length <= _FEW_IDS):
        return None
    ids = indices if indices.dtype == int64 else apply("cast", indices, dtype=int64)
    ids = apply("reshape", ids, shape=(*ids.shape[:batch], length))
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
    flat = apply("reshape", values, shape=shape)
    start, order = apply_all("group", ids, count=x.shape[axis])
    proved = surely_inside(indices, x.shape[axis])
    return (apply("scatter_grouped", x, start, order, flat, **node.attrs, proved=proved),)


_ADD = {**AT, "mode": "add"}
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
                {**AT, "mode": "mul"},
                ShapeError,
                "no mode",
            ),
        ),
        batch=_scatter_batch,
        expand=_scatter_expand,
    )
)


# ---- scatter of grouped ids


def _grouped_type(types: Types, attrs: Attrs) -> Types:
    x, start, order, values = types
    axis, batch = attrs["axis"], attrs["batch_dims"]
    if not 0 <= batch <= axis < x.ndim or values.ndim != x.ndim:
        raise ShapeError(f"{who('scatter_grouped')}: axis {axis} does not fit {x} and {values}")
    lead, length = x.shape[:batch], values.shape[axis]
    wanted = (
        TensorType(int64, (*lead, x.shape[axis] + 1)),
        TensorType(int64, (*lead, length)),
        TensorType(x.dtype, (*x.shape[:axis], length, *x.shape[axis + 1 :])),
    )
    if (start, order, values) != wanted:
        raise ShapeError(
            f"{who('scatter_grouped')}: into {x}: {start}, {order}, {values} are not "
            + ", ".join(map(str, wanted))
        )
    return (x,)


def _grouped_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    x, start, order, values = arrays
    lead = order.shape[:-1]
    ids = np.full(order.shape, -1, np.int64)
    for row in np.ndindex(lead):
        counts = np.diff(start[row])
        ids[row][order[row][: start[row][-1]]] = np.repeat(np.arange(len(counts)), counts)
    return _scatter_reference([x, ids, values], attrs, types)


def _grouped_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    """Each element reduces its window of the order; set takes the last place of it."""
    x, _, order, _ = node.inputs
    axis, batch, mode = node.attrs["axis"], node.attrs["batch_dims"], node.attrs["mode"]
    lead, own, length = index[:batch], index[axis], order.shape[-1]
    groups = build.size(x.shape[axis])
    if not node.attrs["proved"]:
        inside = build.apply("==", inputs[1]((*lead, groups)), build.size(length))
        last = x.shape[axis] - 1
        ctx.check(inside, f"scatter: an index is outside 0..{last}")
    low = inputs[1]((*lead, own))
    high = inputs[1]((*lead, build.apply("+", own, build.const(1))))
    old = inputs[0](index)

    def value(place: Term) -> Term:
        at = bounded(inputs[2]((*lead, bounded(place, length))), length)
        return inputs[3]((*index[:axis], at, *index[axis + 1 :]))

    if mode == "set":
        last_of = value(build.apply("-", high, build.const(1)))
        return build.apply("where", build.apply("<", low, high), last_of, old)
    place = ctx.axis(length, "e")
    over = [place.axis] if isinstance(place, AxisIndex) else []
    window = build.apply("and", build.apply("<=", low, place), build.apply("<", place, high))
    monoid = "sum" if mode == "add" else mode
    total = build.cast(build.reduce(monoid, [value(place)], over, where=window)[0], x.dtype)
    return build.apply("+" if mode == "add" else mode, old, total)


def _grouped_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    at = {"axis": node.attrs["axis"] + 1, "batch_dims": node.attrs["batch_dims"] + 1}
    return (apply("scatter_grouped", *lanes.all(inputs), **{**node.attrs, **at}),)


def _grouped(mode: str, shape: tuple[int, ...], axis: int, batch: int, length: int) -> Sample:
    """Random groups, some of them empty."""
    generator = np.random.default_rng(len(shape) + length)
    ids = generator.integers(0, shape[axis], (*shape[:batch], length))
    order = np.argsort(ids, -1, kind="stable")
    counts = (ids[..., None] == np.arange(shape[axis])).sum(-2).cumsum(-1)
    start = np.concatenate([np.zeros((*shape[:batch], 1), np.int64), counts], -1)
    values = (*shape[:axis], length, *shape[axis + 1 :])
    types = (tensor(shape), tensor(start.shape, int64), tensor(order.shape, int64), tensor(values))
    attrs = {"axis": axis, "batch_dims": batch, "mode": mode, "proved": False}
    return Sample(types, attrs, arrays={1: start, 2: order}, differentiable=False)


_GROUPED = {**AT, "mode": "add", "proved": True}
register(
    Op(
        "scatter_grouped",
        "scatter where ``group`` has put the places of equal indices side by side: the values for "
        "element g are those at order[start[g]:start[g + 1]]. ``proved``: all indices are inside.",
        _grouped_type,
        _grouped_reference,
        lower=single(_grouped_lower),
        samples=(
            *(
                _grouped(mode, *sample)
                for mode in SCATTER_MODES
                for sample in (
                    ((5, 3), 0, 0, 7),
                    ((2, 5, 3), 1, 0, 9),
                    ((2, 5), 1, 1, 6),
                    ((9,), 0, 0, 4),
                    ((1,), 0, 0, 1),
                )
            ),
        ),
        error_samples=(
            ErrorSample(
                (tensor((5,)), tensor((6,), int64), tensor((2,), int64), tensor((3,))),
                _GROUPED,
                ShapeError,
                "are not",
            ),
            ErrorSample(
                (tensor((5,)), tensor((5,), int64), tensor((3,), int64), tensor((3,))),
                _GROUPED,
                ShapeError,
                "are not",
            ),
            ErrorSample(
                (tensor((5,)), tensor((6,), int64), tensor((3,), int64), tensor((3, 2))),
                _GROUPED,
                ShapeError,
                "does not fit",
            ),
        ),
        batch=_grouped_batch,
        cuts="scatter becomes it after differentiation",
    )
)
