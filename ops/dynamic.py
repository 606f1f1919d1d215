"""Slices that start where a value says, at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, RuntimeCheckError, ShapeError
from graphc.graph import Node, Value, apply
from graphc.kernel import build
from graphc.kernel.terms import Term
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
from graphc.ops.index import checked_index
from graphc.ops.lifting import full, who
from graphc.types import Extent, TensorType, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


# ---- dynamic_slice, dynamic_update


def _check_starts(name: str, starts: Types, rank: int) -> None:
    if len(starts) != rank:
        raise ShapeError(f"{who(name)}: {rank} axes need {rank} starts, got {len(starts)}")
    for start in starts:
        if start.shape or not start.dtype.is_integer:
            raise ShapeError(f"{who(name)}: a start must be an integer scalar, got {start}")


def _dynamic_slice_type(types: Types, attrs: Attrs) -> Types:
    x, shape = types[0], attrs["shape"]
    _check_starts("dynamic_slice", types[1:], x.ndim)
    _check_window("dynamic_slice", x, shape)
    return (TensorType(x.dtype, shape),)


def _check_window(name: str, x: TensorType, shape: Any) -> None:
    fits = len(shape) == x.ndim and not any(
        isinstance(w, int) and isinstance(e, int) and w > e
        for w, e in zip(shape, x.shape, strict=True)
    )
    if not fits:
        raise ShapeError(f"{who(name)}: a window of {list(shape)} does not fit into {x}")


def _window(
    starts: Sequence[Array], shape: Sequence[int], extents: Sequence[int]
) -> tuple[slice, ...]:
    found = []
    for start, size, extent in zip(starts, shape, extents, strict=True):
        first = int(start)
        if not 0 <= first <= extent - size:
            raise RuntimeCheckError(f"start {first} is outside 0..{extent - size}")
        found.append(slice(first, first + size))
    return tuple(found)


def _dynamic_slice_reference(
    arrays: Sequence[Array], attrs: Attrs, types: Types
) -> Sequence[Array]:
    return (arrays[0][_window(arrays[1:], attrs["shape"], arrays[0].shape)].copy(),)


def _dynamic_slice_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    g, (x, *starts) = cotangents[0], node.inputs
    if g is None:
        return (None,) * len(node.inputs)
    back = apply("dynamic_update", full(x.shape, 0, x.dtype), g, *starts)
    return (back, *(None,) * len(starts))


def _dynamic_slice_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    t = tangents[0]
    return (None if t is None else apply("dynamic_slice", t, *node.inputs[1:], **node.attrs),)


def _starts(
    ctx: LowerContext, node: Node, terms: Sequence[Term], window: Sequence[Extent], name: str
) -> list[Term]:
    """The starts as int64, checked to keep the window inside; a window as wide as its axis starts
    at 0.
    """
    found = []
    for term, size, extent in zip(terms, window, node.inputs[0].shape, strict=True):
        room = extent - size
        found.append(checked_index(ctx, term, room + 1, name))
    return found


def _dynamic_slice_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    terms = [x(()) for x in inputs[1:]]
    starts = _starts(ctx, node, terms, node.attrs["shape"], "dynamic_slice")
    pairs = zip(starts, index, strict=True)
    return inputs[0](tuple(_shift(s, i) for s, i in pairs))


def _shift(start: Term, index: Term) -> Term:
    return build.apply("+", start, index)


_DYNAMIC = {"shape": (2, 3)}
_STARTS = {1: np.asarray(1), 2: np.asarray(0)}
def _dynamic_slice_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """With the same start in all lanes a window of them all; else elements are gathered along one
    axis after the other.
    """
    x, *starts = inputs
    shape = node.attrs["shape"]
    if not any(lanes.batched[1:]):
        start = full((), 0, starts[0].dtype if starts else int64)
        return (apply("dynamic_slice", x, start, *starts, shape=(lanes.size, *shape)),)
    x, *starts = lanes.all(inputs)
    for axis, (start, extent) in enumerate(zip(starts, shape, strict=True)):
        place = _window_places(_wide(start), extent, lanes.size)
        x = apply("gather", x, place, axis=axis + 1, batch_dims=1)
    return (x,)


def _wide(start: Value) -> Value:
    return start if start.dtype == int64 else apply("cast", start, dtype=int64)


def _window_places(start: Value, extent: Extent, lanes: Extent) -> Value:
    """[lanes, extent]: start, start + 1, ... in each lane."""
    shape = (lanes, extent)
    first = apply("broadcast", start, shape=shape, axes=(0,))
    return apply("+", first, apply("iota", shape=shape, axis=1, dtype=int64))



register(
    Op(
        "dynamic_slice",
        "dynamic_slice(x, *starts): the window of ``shape`` that begins at the starts, which must "
        "keep it inside.",
        _dynamic_slice_type,
        _dynamic_slice_reference,
        _dynamic_slice_vjp,
        _dynamic_slice_jvp,
        single(_dynamic_slice_lower),
        (
            Sample(
                (tensor((4, 3)), tensor((), int64), tensor((), int64)), _DYNAMIC, arrays=_STARTS
            ),
            Sample((tensor(()),), {"shape": ()}),
        ),
        (
            ErrorSample((tensor((4, 3)), tensor((), int64)), _DYNAMIC, ShapeError, "need 2 starts"),
            ErrorSample((tensor((4,)), tensor(())), {"shape": (2,)}, ShapeError, "integer scalar"),
            ErrorSample(
                (tensor((4,)), tensor((), int64)), {"shape": (5,)}, ShapeError, "does not fit"
            ),
        ),
        batch=_dynamic_slice_batch,
    )
)


def _dynamic_update_type(types: Types, attrs: Attrs) -> Types:
    x, value = types[:2]
    _check_starts("dynamic_update", types[2:], x.ndim)
    _check_window("dynamic_update", x, value.shape)
    if x.dtype != value.dtype:
        raise DTypeError(f"{who('dynamic_update')}: {value} into {x}: cast first")
    return (x,)


def _dynamic_update_reference(
    arrays: Sequence[Array], attrs: Attrs, types: Types
) -> Sequence[Array]:
    x, value, *starts = arrays
    out = x.copy()
    out[_window(starts, value.shape, x.shape)] = value
    return (out,)


def _dynamic_update_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    g, (_, value, *starts) = cotangents[0], node.inputs
    if g is None:
        return (None,) * len(node.inputs)
    cleared = apply("dynamic_update", g, full(value.shape, 0, g.dtype), *starts)
    taken = apply("dynamic_slice", g, *starts, shape=value.shape)
    return (cleared, taken, *(None,) * len(starts))


def _dynamic_update_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    x, value, *starts = node.inputs
    tx, tv = tangents[:2]
    if tx is None and tv is None:
        return (None,)
    tx = full(x.shape, 0, x.dtype) if tx is None else tx
    tv = full(value.shape, 0, value.dtype) if tv is None else tv
    return (apply("dynamic_update", tx, tv, *starts),)


def _dynamic_update_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    value = node.inputs[1]
    terms = [x(()) for x in inputs[2:]]
    starts = _starts(ctx, node, terms, value.shape, "dynamic_update")
    moved = tuple(build.apply("-", i, s) for i, s in zip(index, starts, strict=True))
    inside: Term | None = None
    for term, size, extent in zip(moved, value.shape, node.inputs[0].shape, strict=True):
        if size != extent:
            low = build.apply(">=", term, build.const(0))
            inside = build.conjunction(inside, low, build.apply("<", term, build.size(size)))
    whole = tuple(
        i if size == extent else m
        for i, m, size, extent in zip(index, moved, value.shape, node.inputs[0].shape, strict=True)
    )
    if inside is None:
        return inputs[1](whole)
    new = ctx.masked(inputs[1], whole, inside, build.const(0, value.dtype))
    return build.apply("where", inside, new, inputs[0](index))


def _dynamic_update_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """With the same start in all lanes one window of them all. Else each element of x looks for the
    element of the window that replaces it, along one axis after the other.
    """
    x, value, *starts = inputs
    if not any(lanes.batched[2:]):
        start = full((), 0, starts[0].dtype if starts else int64)
        pairs = zip((x, value), lanes.batched, strict=False)
        both = [v if has else lanes.spread(v) for v, has in pairs]
        return (apply("dynamic_update", *both, start, *starts),)
    x, value, *starts = lanes.all(inputs)
    if 0 in value.shape:
        return (x,)
    inside: Value | None = None
    for axis, (start, size) in enumerate(zip(starts, node.inputs[1].shape, strict=True), 1):
        shape = (lanes.size, x.shape[axis])
        start = _checked_start(_wide(start), x.shape[axis] - size + 1)
        first = apply("broadcast", start, shape=shape, axes=(0,))
        place = apply("-", apply("iota", shape=shape, axis=1, dtype=int64), first)
        ends = [apply("size", extent=n) for n in (0, size - 1)]
        low, high = (apply("broadcast", n, shape=shape, axes=()) for n in ends)
        held = apply("max", apply("min", place, high), low)
        here = apply("broadcast", apply("==", held, place), shape=x.shape, axes=(0, axis))
        inside = here if inside is None else apply("and", inside, here)
        value = apply("gather", value, held, axis=axis, batch_dims=1)
    assert inside is not None  # a start has lanes, so there is an axis
    return (apply("where", inside, value, x),)


def _checked_start(start: Value, room: Extent) -> Value:
    """``start``, looked up in 0..room-1, which checks it."""
    places = apply("iota", shape=(room,), axis=0, dtype=int64)
    return apply("gather", places, start, axis=0, batch_dims=0)



register(
    Op(
        "dynamic_update",
        "dynamic_update(x, value, *starts): x with ``value`` written where dynamic_slice reads.",
        _dynamic_update_type,
        _dynamic_update_reference,
        _dynamic_update_vjp,
        _dynamic_update_jvp,
        single(_dynamic_update_lower),
        (
            Sample(
                (tensor((4, 3)), tensor((2, 3)), tensor((), int64), tensor((), int64)),
                arrays={2: np.asarray(2), 3: np.asarray(0)},
            ),
            Sample((tensor(()), tensor(()))),
        ),
        (
            ErrorSample(
                (tensor((4,)), tensor((5,)), tensor((), int64)), {}, ShapeError, "does not fit"
            ),
            ErrorSample(
                (tensor((4,)), tensor((2,), int64), tensor((), int64)), {}, DTypeError, "cast"
            ),
        ),
        batch=_dynamic_update_batch,
    )
)
