"""Reductions over axes, scans along one, and the functions made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, KernelError, ShapeError
from graphc.graph import Node, Value, apply
from graphc.kernel import build
from graphc.kernel.monoids import accumulator
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
from graphc.ops.lifting import full, normalize_axes, normalize_axis, who
from graphc.ops.shape import flat_index
from graphc.ops.sizes import product
from graphc.types import DType, Extent, Shape, TensorType, bool_, float32, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]

MONOIDS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")
_NEEDS_ELEMENTS = ("max", "min", "argmax", "argmin")


# ---- reduce


def remove_axes(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(e for i, e in enumerate(shape) if i not in axes)


def _reduce_type(types: Types, attrs: Attrs) -> Types:
    monoid, axes, x = attrs["monoid"], attrs["axes"], types[0]
    if monoid not in MONOIDS:
        raise ShapeError(f"{who('reduce')}: no monoid {monoid!r}; one of {', '.join(MONOIDS)}")
    if tuple(axes) != normalize_axes(monoid, axes, x.ndim):
        raise ShapeError(f"{who(monoid)}: axes {axes} must be sorted, each once")
    logical = monoid in ("any", "all")
    if logical != (x.dtype.kind == "b"):
        raise DTypeError(f"{who(monoid)}: {x} must be {'bool' if logical else 'numbers'}")
    if monoid in _NEEDS_ELEMENTS and any(x.shape[a] == 0 for a in axes):
        raise ShapeError(f"{who(monoid)}: {x} has no element along axes {axes}")
    dtype = int64 if monoid.startswith("arg") else x.dtype
    return (TensorType(dtype, remove_axes(x.shape, axes)),)


def _reduce_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    x, axes, monoid = arrays[0], attrs["axes"], attrs["monoid"]
    if monoid.startswith("arg"):
        kept = [i for i in range(x.ndim) if i not in axes]
        extents = [x.shape[i] for i in kept]
        together = math.prod(x.shape[i] for i in axes)  # not -1: a kept extent may be 0
        flat = x.transpose(*kept, *axes).reshape(*extents, together)
        return (getattr(np, monoid)(flat, axis=-1).astype(np.int64),)
    if monoid in ("sum", "prod"):
        wide = accumulator(types[0].dtype).numpy
        return (getattr(np, monoid)(x, axis=axes, dtype=wide).astype(x.dtype),)
    return (np.asarray(getattr(np, monoid)(x, axis=axes), x.dtype),)


def spread(reduced: Value, shape: Shape, axes: tuple[int, ...]) -> Value:
    """A reduction's result repeated along the axes it was taken over."""
    kept = tuple(i for i in range(len(shape)) if i not in axes)
    return apply("broadcast", reduced, shape=shape, axes=kept) if axes else reduced


def _reduce_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    g, x = cotangents[0], node.inputs[0]
    monoid, axes = node.attrs["monoid"], node.attrs["axes"]
    if g is None or monoid not in ("sum", "prod", "max", "min"):
        return (None,)
    g = spread(g, x.shape, axes)
    if monoid == "sum":
        return (g,)
    if monoid == "prod":
        return (g * _product_of_others(x, axes),)
    return (g * _share_of_winners(node),)


def _reduce_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    t, x = tangents[0], node.inputs[0]
    monoid, axes = node.attrs["monoid"], node.attrs["axes"]
    if t is None or monoid not in ("sum", "prod", "max", "min"):
        return (None,)
    if monoid == "prod":
        t = t * _product_of_others(x, axes)
    elif monoid != "sum":
        t = t * _share_of_winners(node)
    return (apply("reduce", t, monoid="sum", axes=axes),)


def _share_of_winners(node: Node) -> Value:
    """1 / (number of equal winners) where x is the maximum (minimum), else 0, as torch.amax."""
    x, out, axes = node.inputs[0], node.outputs[0], node.attrs["axes"]
    wins = apply("cast", apply("==", x, spread(out, x.shape, axes)), dtype=x.dtype)
    count = apply("reduce", wins, monoid="sum", axes=axes)
    return wins / spread(count, x.shape, axes)


def _product_of_others(x: Value, axes: tuple[int, ...]) -> Value:
    """For every element the product of all others along ``axes``: exact with zeros among them."""
    kept = tuple(i for i in range(x.ndim) if i not in axes)
    order = (*kept, *axes)
    moved = apply("permute", x, order=order)
    count = product([x.shape[a] for a in axes])
    flat = apply("reshape", moved, shape=(*(x.shape[i] for i in kept), count))
    along = {"monoid": "prod", "axis": len(kept), "exclusive": True}
    before = apply("cumulate", flat, reverse=False, **along)
    after = apply("cumulate", flat, reverse=True, **along)
    others = apply("reshape", before * after, shape=moved.shape)
    return apply("permute", others, order=tuple(order.index(i) for i in range(x.ndim)))


def _fresh(ctx: LowerContext, extent: Extent, hint: str) -> AxisIndex:
    axis = ctx.axis(extent, hint)
    assert isinstance(axis, AxisIndex)
    return axis


def _reduce_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    shape, axes, monoid = node.inputs[0].shape, node.attrs["axes"], node.attrs["monoid"]
    fresh = {a: _fresh(ctx, shape[a], "ijklmnpq"[i % 8]) for i, a in enumerate(axes)}
    rest = iter(index)
    element = inputs[0](tuple(fresh[i] if i in fresh else next(rest) for i in range(len(shape))))
    over = [a.axis for a in fresh.values()]
    out = node.outputs[0].dtype
    if monoid.startswith("arg"):
        place = flat_index(list(fresh.values()), [shape[a] for a in axes])
        return build.reduce(monoid, [element, place], over)[1]
    named = {"any": "max", "all": "min"}.get(monoid, monoid)
    return build.cast(build.reduce(named, [element], over)[0], out)


def _reduce_samples() -> tuple[Sample, ...]:
    made = []
    for monoid in MONOIDS:
        dtype = bool_ if monoid in ("any", "all") else float32
        for shape, axes in (((3, 4), (1,)), ((2, 3, 4), (0, 2)), ((5,), (0,)), ((1, 1), (0, 1))):
            made.append(Sample((tensor(shape, dtype),), {"monoid": monoid, "axes": axes}))
        if monoid not in _NEEDS_ELEMENTS:
            made.append(Sample((tensor((0, 2), dtype),), {"monoid": monoid, "axes": (0,)}))
        if dtype == float32:
            attrs = {"monoid": monoid, "axes": (1,)}
            made.append(Sample((tensor((4, 3), int64),), attrs))
            made.append(Sample((tensor((4, 9)),), attrs, special=True, differentiable=False))
    return tuple(made)


def _reduce_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    axes = tuple(a + 1 for a in node.attrs["axes"])
    return (apply("reduce", inputs[0], **{**node.attrs, "axes": axes}),)



register(
    Op(
        "reduce",
        "Combine all elements along ``axes`` by ``monoid``; sums of short floats are kept in f32. "
        "argmax and argmin give the row-major position along the axes, the first of equals; "
        "NaN wins.",
        _reduce_type,
        _reduce_reference,
        _reduce_vjp,
        _reduce_jvp,
        single(_reduce_lower),
        _reduce_samples(),
        (
            ErrorSample((tensor((2,)),), {"monoid": "sum", "axes": (1,)}, ShapeError, "range"),
            ErrorSample((tensor((2,)),), {"monoid": "any", "axes": (0,)}, DTypeError, "bool"),
            ErrorSample((tensor((0,)),), {"monoid": "max", "axes": (0,)}, ShapeError, "no element"),
            ErrorSample((tensor((2,)),), {"monoid": "mean", "axes": (0,)}, ShapeError, "no monoid"),
        ),
        batch=_reduce_batch,
    )
)


# ---- cumulate: scans of a monoid along one axis


def _cumulate_type(types: Types, attrs: Attrs) -> Types:
    monoid, x = attrs["monoid"], types[0]
    if monoid not in ("sum", "prod", "max", "min", "linear"):
        raise ShapeError(f"{who('cumulate')}: no running {monoid!r}")
    if len(types) != (2 if monoid == "linear" else 1) or any(t != x for t in types):
        raise ShapeError(f"{who('cumulate')}: {monoid} of {', '.join(map(str, types))}")
    if x.dtype.kind == "b" or (monoid == "linear" and not x.dtype.is_float):
        kind = "floats" if monoid == "linear" else "numbers"
        raise DTypeError(f"{who('cumulate')}: {monoid} of {x}: it must be {kind}")
    if normalize_axis("cumulate", attrs["axis"], x.ndim) != attrs["axis"]:
        raise ShapeError(f"{who('cumulate')}: axis {attrs['axis']} must count from the left")
    return (x,)


def _cumulate_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    monoid, wide = attrs["monoid"], accumulator(types[0].dtype).numpy
    wide = wide if monoid in ("sum", "prod", "linear") else types[0].dtype.numpy
    moved = [np.moveaxis(a.astype(wide), attrs["axis"], 0) for a in arrays]
    if attrs["reverse"]:
        moved = [a[::-1] for a in moved]
    state = np.full(moved[0].shape[1:], _identity(monoid, types[0].dtype), wide)
    out = np.empty_like(moved[0])
    for i in range(len(out)):
        before = state
        state = _step(monoid, state, [a[i] for a in moved])
        out[i] = before if attrs["exclusive"] else state
    out = out[::-1] if attrs["reverse"] else out
    return (np.moveaxis(out, 0, attrs["axis"]).astype(arrays[0].dtype),)


def _step(monoid: str, state: Array, element: Sequence[Array]) -> Array:
    if monoid == "linear":
        return element[0] * state + element[1]
    named = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
    return named[monoid](state, element[0])


def _identity(monoid: str, dtype: DType) -> float | int:
    if monoid in ("sum", "linear"):
        return 0
    if monoid == "prod":
        return 1
    if dtype.is_float:
        return float("-inf") if monoid == "max" else float("inf")
    limits = np.iinfo(dtype.numpy)
    return int(limits.min if monoid == "max" else limits.max)


def shifted(x: Value, axis: int, forward: bool, fill: float) -> Value:
    """x moved one place along ``axis``: x[i - 1] at i (or x[i + 1] at i), ``fill`` where there is
    none.
    """
    extent = x.shape[axis]
    low = tuple(1 if forward and i == axis else 0 for i in range(x.ndim))
    high = tuple(0 if forward or i != axis else 1 for i in range(x.ndim))
    padded = apply("pad", x, low=low, high=high, value=fill)
    starts = tuple(0 if forward or i != axis else 1 for i in range(x.ndim))
    stops = tuple(
        s + extent if i == axis else e for i, (s, e) in enumerate(zip(starts, x.shape, strict=True))
    )
    return apply("slice", padded, starts=starts, stops=stops, steps=(1,) * x.ndim)


def recurrence(a: Value, b: Value, axis: int, reverse: bool = False) -> Value:
    """h[i] = a[i] h[i - 1] + b[i] along ``axis`` from h = 0 (reverse: from the end)."""
    return apply("cumulate", a, b, monoid="linear", axis=axis, reverse=reverse, exclusive=False)


def _cumulate_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    """The recurrence of the cotangents runs the other way; see the comments for each monoid."""
    g = cotangents[0]
    if g is None:
        return (None,) * len(node.inputs)
    monoid, axis, reverse = (node.attrs[k] for k in ("monoid", "axis", "reverse"))
    if monoid == "sum":
        return (apply("cumulate", g, **{**node.attrs, "reverse": not reverse}),)
    if node.attrs["exclusive"]:  # y[i] is the inclusive result at i - 1: move g the other way
        g = shifted(g, axis, reverse, 0)
    gains = _gains(node)
    # s[i] = g[i] + gain[i + 1] s[i + 1]: what y[i] and all later results say about y[i]
    back = recurrence(shifted(gains, axis, reverse, 0), g, axis, not reverse)
    return tuple(d * back if d is not None else back for d in _local(node))


def _cumulate_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    if all(t is None for t in tangents):
        return (None,)
    monoid, axis, reverse = (node.attrs[k] for k in ("monoid", "axis", "reverse"))
    if monoid == "sum":
        assert tangents[0] is not None
        return (apply("cumulate", tangents[0], **node.attrs),)
    drive: Value | None = None
    for local, t in zip(_local(node), tangents, strict=True):
        if t is not None:
            term = t if local is None else local * t
            drive = term if drive is None else drive + term
    assert drive is not None
    out = recurrence(_gains(node), drive, axis, reverse)
    return (shifted(out, axis, not reverse, 0) if node.attrs["exclusive"] else out,)


def _inclusive(node: Node) -> Value:
    attrs = {**node.attrs, "exclusive": False}
    return apply("cumulate", *node.inputs, **attrs) if node.attrs["exclusive"] else node.outputs[0]


def _before(node: Node) -> Value:
    """The state before each element."""
    if node.attrs["exclusive"]:
        return node.outputs[0]
    start = _identity(node.attrs["monoid"], node.outputs[0].dtype)
    return shifted(node.outputs[0], node.attrs["axis"], not node.attrs["reverse"], start)


def _gains(node: Node) -> Value:
    """d y[i] / d y[i - 1]."""
    if node.attrs["monoid"] in ("prod", "linear"):
        return node.inputs[0]
    return full(node.inputs[0].shape, 1, node.inputs[0].dtype) - _takes_over(node)


def _local(node: Node) -> tuple[Value | None, ...]:
    """d y[i] / d x[i] with y[i - 1] fixed; None is 1."""
    if node.attrs["monoid"] == "linear":
        return _before(node), None
    return (_before(node) if node.attrs["monoid"] == "prod" else _takes_over(node),)


def _takes_over(node: Node) -> Value:
    """1 where a running maximum (minimum) takes its value from this element; the last of equals, as
    PyTorch.
    """
    x = node.inputs[0]
    return apply("cast", apply("==", x, _inclusive(node)), dtype=x.dtype)


def _cumulate_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    axis, monoid = node.attrs["axis"], node.attrs["monoid"]
    along = index[axis]
    if node.outputs[0].shape[axis] == 1:  # one element: no axis runs
        return _single_state(node, inputs, index)
    if not isinstance(along, AxisIndex):
        raise KernelError(
            f"cumulate: a running {monoid} is lowered over a plain axis of its result"
        )
    states = build.scan(
        monoid,
        [x(index) for x in inputs],
        along.axis,
        reverse=node.attrs["reverse"],
        exclusive=node.attrs["exclusive"],
    )
    return build.cast(states[-1], node.outputs[0].dtype)


def _single_state(node: Node, inputs: Inputs, index: Index) -> Term:
    monoid, dtype = node.attrs["monoid"], node.outputs[0].dtype
    if node.attrs["exclusive"]:
        return build.const(_identity(monoid, dtype), dtype)
    return inputs[-1](index)


def _cumulate_samples() -> tuple[Sample, ...]:
    made = []
    for monoid in ("sum", "prod", "max", "min", "linear"):
        count = 2 if monoid == "linear" else 1
        for reverse, exclusive in ((False, False), (True, False), (False, True), (True, True)):
            attrs = {"monoid": monoid, "axis": 1, "reverse": reverse, "exclusive": exclusive}
            infinite = exclusive and monoid in ("max", "min")  # the state before the first element
            types = (tensor((2, 5)),) * count
            made.append(Sample(types, attrs, differentiable=not infinite))
        plain = {"monoid": monoid, "axis": 0, "reverse": False, "exclusive": False}
        if monoid != "linear":
            made.append(Sample((tensor((6,), int64),), plain))
        made.append(Sample((tensor((0,)),) * count, plain))
        for exclusive in (False, True):
            attrs = {**plain, "exclusive": exclusive}
            made.append(Sample((tensor((1, 3)),) * count, attrs, differentiable=not exclusive))
    return tuple(made)


def _cumulate_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    attrs = {**node.attrs, "axis": node.attrs["axis"] + 1}
    return (apply("cumulate", *lanes.all(inputs), **attrs),)



register(
    Op(
        "cumulate",
        "The states of a running ``monoid`` along ``axis``, after each element (``exclusive``: "
        "before); ``reverse`` runs from the end. ``linear`` takes (a, b): h = a h + b from 0.",
        _cumulate_type,
        _cumulate_reference,
        _cumulate_vjp,
        _cumulate_jvp,
        single(_cumulate_lower),
        _cumulate_samples(),
        (
            ErrorSample(
                (tensor((2,)),),
                {"monoid": "mean", "axis": 0, "reverse": False, "exclusive": False},
                ShapeError,
                "no running",
            ),
            ErrorSample(
                (tensor((2,)),),
                {"monoid": "sum", "axis": 3, "reverse": False, "exclusive": False},
                ShapeError,
                "range",
            ),
        ),
        batch=_cumulate_batch,
    )
)
