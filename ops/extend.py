"""Borders that continue a tensor: edge, reflect, symmetric, wrap.

::

    x = a b c d      edge       a a|a b c d|d d      symmetric  b a|a b c d|d c
                     reflect    c b|a b c d|c b      wrap       c d|a b c d|a b
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
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
from graphc.ops.lifting import normalize_axis, who
from graphc.ops.sizes import surely_greater
from graphc.types import Extent, TensorType, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]

EXTEND_MODES = ("edge", "reflect", "symmetric", "wrap")


def _extend_type(types: Types, attrs: Attrs) -> Types:
    x, axis, mode = types[0], attrs["axis"], attrs["mode"]
    low, high = attrs["low"], attrs["high"]
    if mode not in EXTEND_MODES:
        raise ShapeError(f"{who('pad')}: no mode {mode!r}; one of {', '.join(EXTEND_MODES)}")
    if normalize_axis("pad", axis, x.ndim) != axis:
        raise ShapeError(f"{who('pad')}: axis {axis} must count from the left")
    if surely_greater(0, low) or surely_greater(0, high):
        raise ShapeError(f"{who('pad')}: negative widths, {low} and {high}")
    extent = x.shape[axis]
    most = extent - 1 if mode == "reflect" else extent
    wide = mode != "edge" and (surely_greater(low, most) or surely_greater(high, most))
    if wide or not surely_greater(extent, 0):
        raise ShapeError(
            f"{who('pad')}: {mode} by {low} and {high} around axis {axis} of {x}: "
            f"at most {most} elements can be repeated"
        )
    shape = (*x.shape[:axis], low + extent + high, *x.shape[axis + 1 :])
    return (TensorType(x.dtype, shape),)


def _extend_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    widths = [(0, 0)] * arrays[0].ndim
    widths[attrs["axis"]] = (attrs["low"], attrs["high"])
    return (np.pad(arrays[0], widths, mode=attrs["mode"]),)


def _part(g: Value, axis: int, begin: Extent, end: Extent) -> Value:
    starts = tuple(begin if i == axis else 0 for i in range(g.ndim))
    stops = tuple(end if i == axis else e for i, e in enumerate(g.shape))
    return apply("slice", g, starts=starts, stops=stops, steps=(1,) * g.ndim)


def _extend_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    """The border's cotangents are folded back onto the elements that it repeats."""
    g = cotangents[0]
    if g is None:
        return (None,)
    axis, mode = node.attrs["axis"], node.attrs["mode"]
    low, high, extent = node.attrs["low"], node.attrs["high"], node.inputs[0].shape[axis]
    before, after = _part(g, axis, 0, low), _part(g, axis, low + extent, low + extent + high)
    # where the two borders come from: their first places in x
    starts: dict[str, tuple[Extent, Extent]] = {
        "edge": (0, extent - 1),
        "reflect": (1, extent - 1 - high),
        "symmetric": (0, extent - high),
        "wrap": (extent - low, 0),
    }
    total = _part(g, axis, low, low + extent)
    for border, start in zip((before, after), starts[mode], strict=True):
        if mode == "edge":
            kept = tuple(1 if i == axis else e for i, e in enumerate(g.shape))
            border = apply("reduce", border, monoid="sum", axes=(axis,))
            border = apply("reshape", border, shape=kept)
        elif mode != "wrap":
            border = apply("flip", border, axes=(axis,))
        total = total + _placed(border, axis, start, extent)
    return (total,)


def _placed(part: Value, axis: int, start: Extent, extent: Extent) -> Value:
    """``part`` from ``start`` on along an axis of ``extent``, zeros around it."""
    low = tuple(start if i == axis else 0 for i in range(part.ndim))
    rest = extent - start - part.shape[axis]
    high = tuple(rest if i == axis else 0 for i in range(part.ndim))
    return apply("pad", part, low=low, high=high, value=0)


def _extend_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    t = tangents[0]
    return (None if t is None else apply("extend", t, **node.attrs),)


def _extend_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    axis, mode, low = node.attrs["axis"], node.attrs["mode"], node.attrs["low"]
    extent = build.size(node.inputs[0].shape[axis])
    last = build.apply("-", extent, build.const(1))
    place = build.apply("-", index[axis], build.size(low))
    if mode == "wrap":
        place = build.apply("%", place, extent)
    elif mode == "reflect":
        place = build.apply("abs", place)
        place = build.apply("-", last, build.apply("abs", build.apply("-", last, place)))
    elif mode == "symmetric":
        place = build.apply("max", place, build.apply("-", build.const(-1), place))
        mirrored = build.apply("-", build.apply("+", extent, last), place)
        place = build.apply("min", place, mirrored)
    # inside in any case; the bounds are for the proof, and what edge means
    place = build.apply("max", build.apply("min", place, last), build.const(0))
    return inputs[0]((*index[:axis], place, *index[axis + 1 :]))


def _extend_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    return (apply("extend", *inputs, **{**node.attrs, "axis": node.attrs["axis"] + 1}),)


def _attrs(mode: str, low: int, high: int, axis: int = 0) -> dict[str, Any]:
    return {"mode": mode, "low": low, "high": high, "axis": axis}


register(
    Op(
        "extend",
        "x with ``low`` and ``high`` more elements around ``axis``, taken from x itself: edge, "
        "reflect, symmetric or wrap.",
        _extend_type,
        _extend_reference,
        _extend_vjp,
        _extend_jvp,
        single(_extend_lower),
        tuple(
            Sample((tensor(shape, dtype),), _attrs(mode, low, high, axis))
            for mode in EXTEND_MODES
            for shape, axis, low, high, dtype in (
                ((5,), 0, 2, 3, tensor().dtype),
                ((3, 4, 2), 1, 3, 0, tensor().dtype),
                ((0, 4), 1, 1, 1, tensor().dtype),
                ((6,), 0, 5, 5, int64),
                ((1,), 0, 0, 0, int64),
            )
        ),
        (
            ErrorSample((tensor((4,)),), _attrs("mirror", 1, 1), ShapeError, "no mode"),
            ErrorSample((tensor((4,)),), _attrs("edge", -1, 1), ShapeError, "negative"),
            ErrorSample((tensor((4,)),), _attrs("reflect", 0, 4), ShapeError, "at most 3"),
            ErrorSample((tensor((4,)),), _attrs("wrap", 5, 0), ShapeError, "at most 4"),
            ErrorSample((tensor((0,)),), _attrs("edge", 1, 0), ShapeError, "at most 0"),
            ErrorSample((tensor((4,)),), _attrs("edge", 1, 0, -1), ShapeError, "from the left"),
        ),
        batch=_extend_batch,
    )
)
