"""Reading at run-time positions: gather.

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
from graphc.types import Extent, TensorType, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


def check_range(name: str, indices: Array, extent: int) -> None:
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


def surely_inside(indices: Value, extent: Extent) -> bool:
    """Whether the indices are known and in range, or an order of as many elements."""
    node = indices.node
    if node.op == "argsort":
        return indices.shape[-1] == extent
    if node.op not in ("constant", "full") or not isinstance(extent, int):
        return False
    array = np.asarray(
        node.attrs["data"].array if node.op == "constant" else node.attrs["value"]
    )
    return bool(((array >= 0) & (array < extent)).all())


def bounded(place: Term, extent: Extent) -> Term:
    """``place``, which is in 0, ..., extent - 1, so that its bounds show."""
    if isinstance(place, AxisIndex):
        return place
    last = build.apply("-", build.size(extent), build.const(1))
    return build.apply("max", build.apply("min", place, last), build.const(0))


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


def gathered_shape(types: Types, attrs: Attrs) -> tuple[Extent, ...]:
    x, indices, axis, batch = _gather_parts(types, attrs)
    return (*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :])


def _gather_type(types: Types, attrs: Attrs) -> Types:
    return (TensorType(types[0].dtype, gathered_shape(types, attrs)),)


def positions(shape: tuple[int, ...], indices: Array, axis: int, batch: int) -> tuple[Any, ...]:
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
    check_range("gather", indices, x.shape[axis])
    if 0 in types[0].shape:
        return (np.zeros(int_shape(types[0]), x.dtype),)
    return (np.asarray(x[positions(x.shape, indices, axis, batch)]),)


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
    if surely_inside(node.inputs[1], extent):
        place = bounded(build.cast(term, int64), extent)
    else:
        place = checked_index(ctx, term, extent, "gather")
    return inputs[0]((*before, place, *after))


AT = {"axis": 0, "batch_dims": 0}
_BATCHED = {"axis": 1, "batch_dims": 1}
GATHER_SAMPLES: tuple[tuple[tuple[int, ...], Any, dict[str, int]], ...] = (
    ((5, 3), [0, 4, 2, 4], AT),
    ((5, 3), [[1, 1], [0, 3]], AT),
    ((2, 5, 3), [1, 0, 4], {"axis": 1, "batch_dims": 0}),
    ((2, 5), [[1, 0, 4], [2, 2, 2]], _BATCHED),
    ((5, 2), 3, AT),
    ((5,), np.zeros((0,), np.int64), AT),
)


def _gather_samples() -> tuple[Sample, ...]:
    made = []
    for shape, indices, attrs in GATHER_SAMPLES:
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
            ErrorSample((tensor((5,)), tensor((2,))), AT, DTypeError, "integers"),
            ErrorSample((tensor((5,)), tensor((2,), int64)), _BATCHED, ShapeError, "do not fit"),
            ErrorSample((tensor((3, 5)), tensor((2, 2), int64)), _BATCHED, ShapeError, "differ"),
        ),
        batch=_gather_batch,
    )
)
