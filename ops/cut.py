"""Movement that leaves elements out or puts them side by side: slice, pad, concat."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from graphc.errors import DTypeError, ShapeError
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
    int_shape,
    register,
    single,
    tensor,
)
from graphc.ops.lifting import (
    full,
    normalize_axis,
    who,
)
from graphc.ops.sizes import surely_greater
from graphc.types import Extent, Shape, TensorType, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


# ---- slice


def slice_extent(start: Extent, stop: Extent, step: int) -> Extent:
    """How many indices start, start + step, ... lie before stop."""
    span = stop - start
    return span if step == 1 else (span + (step - 1)) // step


def _slice_type(types: Types, attrs: Attrs) -> Types:
    starts, stops, steps = attrs["starts"], attrs["stops"], attrs["steps"]
    if not len(starts) == len(stops) == len(steps) == types[0].ndim:
        raise ShapeError(f"{who('slice')}: {types[0]} needs a start, stop and step for every axis")
    shape: list[Extent] = []
    for axis, extent in enumerate(types[0].shape):
        start, stop, step = starts[axis], stops[axis], steps[axis]
        if not isinstance(step, int) or step < 1:
            raise ShapeError(f"{who('slice')}: axis {axis}: the step must be positive, got {step}")
        ordered = [(0, start), (start, stop), (stop, extent)]
        if any(surely_greater(a, b) for a, b in ordered):
            raise ShapeError(
                f"{who('slice')}: axis {axis}: {start}:{stop} is not inside 0:{extent} "
                f"of {types[0]}"
            )
        shape.append(slice_extent(start, stop, step))
    return (TensorType(types[0].dtype, tuple(shape)),)


def _slice_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    ranges = zip(attrs["starts"], attrs["stops"], attrs["steps"], strict=True)
    return (arrays[0][tuple(slice(*r) for r in ranges)].copy(),)


def _slice_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    """Put the elements back, with zeros between and around them."""
    g = cotangents[0]
    if g is None:
        return (None,)
    starts, steps = node.attrs["starts"], node.attrs["steps"]
    for axis, step in enumerate(steps):
        if step > 1:
            g = dilate(g, axis, step)
    extents = node.inputs[0].shape
    high = tuple(e - s - d for e, s, d in zip(extents, starts, g.shape, strict=True))
    if any(isinstance(h, int) and h < 0 for h in high):  # the last gap reaches beyond the end
        kept = tuple(
            d + h if isinstance(h, int) and h < 0 else d for d, h in zip(g.shape, high, strict=True)
        )
        g = apply("slice", g, starts=(0,) * g.ndim, stops=kept, steps=(1,) * g.ndim)
        high = tuple(0 if isinstance(h, int) and h < 0 else h for h in high)
    return (apply("pad", g, low=starts, high=high, value=0),)


def dilate(g: Value, axis: int, step: int) -> Value:
    """step - 1 zeros after every element along ``axis``: extent n becomes n * step.

    a b  ->  a 0 b 0
    """
    shape, n = g.shape, g.shape[axis]
    g = apply("reshape", g, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))
    low, high = (0,) * g.ndim, tuple(step - 1 if i == axis + 1 else 0 for i in range(g.ndim))
    g = apply("pad", g, low=low, high=high, value=0)
    return apply("reshape", g, shape=(*shape[:axis], n * step, *shape[axis + 1 :]))


def _slice_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    return (None if tangents[0] is None else apply("slice", tangents[0], **node.attrs),)


def _slice_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    starts, steps = node.attrs["starts"], node.attrs["steps"]
    moved = []
    for term, start, step in zip(index, starts, steps, strict=True):
        scaled = term if step == 1 else build.apply("*", term, build.const(step))
        zero = isinstance(start, int) and start == 0
        moved.append(scaled if zero else build.apply("+", scaled, build.size(start)))
    return inputs[0](tuple(moved))


def _slice_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    starts, stops, steps = (node.attrs[k] for k in ("starts", "stops", "steps"))
    attrs = {"starts": (0, *starts), "stops": (lanes.size, *stops), "steps": (1, *steps)}
    return (apply("slice", inputs[0], **attrs),)



register(
    Op(
        "slice",
        "Elements starts[i], starts[i] + steps[i], ... before stops[i] along every axis i; "
        "steps are positive.",
        _slice_type,
        _slice_reference,
        _slice_vjp,
        _slice_jvp,
        single(_slice_lower),
        (
            Sample((tensor((7, 5)),), {"starts": (1, 0), "stops": (6, 5), "steps": (2, 1)}),
            Sample((tensor((9,)),), {"starts": (2,), "stops": (9,), "steps": (4,)}),
            Sample((tensor((8,)),), {"starts": (1,), "stops": (8,), "steps": (3,)}),
            Sample((tensor((4,)),), {"starts": (2,), "stops": (2,), "steps": (1,)}),
            Sample((tensor((4, 2), int64),), {"starts": (0, 1), "stops": (4, 2), "steps": (3, 1)}),
        ),
        (
            ErrorSample(
                (tensor((4,)),),
                {"starts": (0,), "stops": (5,), "steps": (1,)},
                ShapeError,
                "not inside",
            ),
            ErrorSample(
                (tensor((4,)),),
                {"starts": (0,), "stops": (4,), "steps": (0,)},
                ShapeError,
                "positive",
            ),
        ),
        batch=_slice_batch,
    )
)


# ---- pad


def _pad_type(types: Types, attrs: Attrs) -> Types:
    low, high = attrs["low"], attrs["high"]
    if not len(low) == len(high) == types[0].ndim:
        raise ShapeError(f"{who('pad')}: {types[0]} needs a low and a high width for every axis")
    for width in (*low, *high):
        if isinstance(width, int) and width < 0:
            raise ShapeError(f"{who('pad')}: negative width {width}; slice instead")
    shape = tuple(a + e + b for a, e, b in zip(low, types[0].shape, high, strict=True))
    return (TensorType(types[0].dtype, shape),)


def _pad_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    widths = list(zip(attrs["low"], attrs["high"], strict=True))
    out = np.full(int_shape(types[0]), attrs["value"], arrays[0].dtype)
    inner = tuple(slice(a, a + e) for (a, _), e in zip(widths, arrays[0].shape, strict=True))
    out[inner] = arrays[0]
    return (out,)


def _pad_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    g = cotangents[0]
    if g is None:
        return (None,)
    low, extents = node.attrs["low"], node.inputs[0].shape
    stops = tuple(a + e for a, e in zip(low, extents, strict=True))
    return (apply("slice", g, starts=low, stops=stops, steps=(1,) * g.ndim),)


def _pad_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    if tangents[0] is None:
        return (None,)
    return (apply("pad", tangents[0], **{**node.attrs, "value": 0}),)


def _pad_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    x = node.inputs[0]
    moved, pred = [], None
    for axis, term in enumerate(index):
        low, high = node.attrs["low"][axis], node.attrs["high"][axis]
        shifted = term if low == 0 else build.apply("-", term, build.size(low))
        moved.append(shifted)
        below = None if low == 0 else build.apply(">=", shifted, build.const(0))
        above = None if high == 0 else build.apply("<", shifted, build.size(x.shape[axis]))
        pred = build.conjunction(pred, below, above)
    if pred is None:
        return inputs[0](tuple(moved))
    return ctx.masked(inputs[0], tuple(moved), pred, build.const(node.attrs["value"], x.dtype))


def _pad_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    widths = {"low": (0, *node.attrs["low"]), "high": (0, *node.attrs["high"])}
    return (apply("pad", inputs[0], **{**node.attrs, **widths}),)



register(
    Op(
        "pad",
        "low[i] copies of ``value`` before and high[i] after every axis i.",
        _pad_type,
        _pad_reference,
        _pad_vjp,
        _pad_jvp,
        single(_pad_lower),
        (
            Sample((tensor((3, 4)),), {"low": (1, 0), "high": (2, 1), "value": 0.5}),
            Sample(
                (tensor((0,)),),
                {"low": (1,), "high": (1,), "value": float("-inf")},
                differentiable=False,
            ),
            Sample((tensor(()),), {"low": (), "high": (), "value": 0.0}),
            Sample((tensor((2,), int64),), {"low": (0,), "high": (3,), "value": -1}),
        ),
        (
            ErrorSample(
                (tensor((3,)),), {"low": (-1,), "high": (0,), "value": 0}, ShapeError, "negative"
            ),
        ),
        batch=_pad_batch,
    )
)


# ---- concat


def _concat_type(types: Types, attrs: Attrs) -> Types:
    axis = attrs["axis"]
    if not types:
        raise ShapeError(f"{who('concat')}: nothing to join")
    normalize_axis("concat", axis, types[0].ndim)
    total: Extent = 0
    for type in types:
        if type.dtype != types[0].dtype:
            raise DTypeError(f"{who('concat')}: {type.dtype} and {types[0].dtype}: cast first")
        if _without(type.shape, axis) != _without(types[0].shape, axis):
            raise ShapeError(f"{who('concat')}: {types[0]} and {type} differ off axis {axis}")
        total = total + type.shape[axis]
    shape = (*types[0].shape[:axis], total, *types[0].shape[axis + 1 :])
    return (TensorType(types[0].dtype, shape),)


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _offsets(node: Node) -> list[Extent]:
    """Where each input begins along the joined axis, and where the last ends."""
    axis = node.attrs["axis"]
    return list(itertools.accumulate((v.shape[axis] for v in node.inputs), initial=cast(Extent, 0)))


def _concat_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    g = cotangents[0]
    if g is None:
        return (None,) * len(node.inputs)
    axis, offsets = node.attrs["axis"], _offsets(node)
    parts = []
    for begin, end in itertools.pairwise(offsets):
        starts = tuple(begin if i == axis else 0 for i in range(g.ndim))
        stops = tuple(end if i == axis else e for i, e in enumerate(g.shape))
        parts.append(apply("slice", g, starts=starts, stops=stops, steps=(1,) * g.ndim))
    return tuple(parts)


def _concat_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    if all(t is None for t in tangents):
        return (None,)
    filled = [
        full(v.shape, 0, v.dtype) if t is None else t
        for v, t in zip(node.inputs, tangents, strict=True)
    ]
    return (apply("concat", *filled, axis=node.attrs["axis"]),)


def _concat_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    axis, offsets = node.attrs["axis"], _offsets(node)
    place, result = index[axis], None
    zero = build.const(0, node.outputs[0].dtype)
    for i in reversed(range(len(inputs))):
        begin, end = build.size(offsets[i]), build.size(offsets[i + 1])
        moved = place if i == 0 else build.apply("-", place, begin)
        at = (*index[:axis], moved, *index[axis + 1 :])
        low = None if i == 0 else build.apply(">=", place, begin)
        high = None if i == len(inputs) - 1 else build.apply("<", place, end)
        inside = build.conjunction(low, high)
        part = inputs[i](at) if inside is None else ctx.masked(inputs[i], at, inside, zero)
        before_end = high if high is not None else inside
        result = part if result is None else build.apply("where", _known(before_end), part, result)
    assert result is not None
    return result


def _known(pred: Term | None) -> Term:
    assert pred is not None
    return pred


def _concat_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    axis = normalize_axis("concat", node.attrs["axis"], node.outputs[0].ndim)
    return (apply("concat", *lanes.all(inputs), axis=axis + 1),)



register(
    Op(
        "concat",
        "The inputs one after another along ``axis``.",
        _concat_type,
        lambda arrays, attrs, types: (np.concatenate(arrays, attrs["axis"]),),
        _concat_vjp,
        _concat_jvp,
        single(_concat_lower),
        (
            Sample((tensor((2, 3)), tensor((2, 1)), tensor((2, 4))), {"axis": 1}),
            Sample((tensor((0,)), tensor((3,))), {"axis": 0}),
            Sample((tensor((2,), int64),), {"axis": 0}),
        ),
        (
            ErrorSample((tensor((2, 3)), tensor((3, 3))), {"axis": 1}, ShapeError, "differ off"),
            ErrorSample((tensor((2,)), tensor((2,), int64)), {"axis": 0}, DTypeError, "cast"),
            ErrorSample((), {"axis": 0}, ShapeError, "nothing"),
        ),
        batch=_concat_batch,
    )
)
