"""``contract``: the sum over named axes of products of two operands at quasi-affine indices.

Matrix products, convolutions of any stride, padding, dilation and groups, sliding windows, and all
their derivatives are this one op: the derivative towards an operand solves the operand's indices
for the axes, which gives a contraction again::

    out[n,o,y] = sum c,p of x[n, c, 2y+p-1] w[o,c,p]
    dx[n,c,iy] = sum o,p of g[n, o, (iy+1-p)//2] w[o,c,p]   where (iy+1-p) % 2 == 0
    dw[o,c,p]  = sum n,y of g[n,o,y] x[n, c, 2y+p-1]

A contraction whose operands are ``rounded`` (mixed precision) takes and gives float32, and so do
its derivatives, whose operands are rounded too. Before lowering the roundings become casts, so that
one serves all contractions that read it and whoever makes an operand may store it rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graphc.contraction import (
    Affine,
    Axes,
    Condition,
    ContractSpec,
    Divisible,
    Quotient,
    axis,
)
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Node, Value, apply
from graphc.kernel import build
from graphc.kernel.terms import AxisIndex, Const, Term
from graphc.op import (
    Access,
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
from graphc.ops.lifting import who
from graphc.ops.sizes import least, product
from graphc.ops.transposition import transpose
from graphc.types import DType, TensorType, bfloat16, float16, float32, float64, int32, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


# ---- type


def _contract_type(types: Types, attrs: Attrs) -> Types:
    a, b = types
    spec: ContractSpec = attrs["spec"]
    if spec.rounded is not None:
        _check_rounded(a, b, spec.rounded)
    elif a.dtype != b.dtype or a.dtype.kind == "b":
        raise DTypeError(f"{who('contract')}: {a} with {b}: operands must be numbers of one dtype")
    for operand, index in ((a, spec.a_index), (b, spec.b_index)):
        if operand.ndim != len(index):
            raise ShapeError(f"{who('contract')}: {operand} is read at {len(index)} indices")
        _check_plain(operand, index, spec)
    names = [name for name, _ in (*spec.axes, *spec.reduced)]
    unknown = frozenset().union(*(i.axes for i in spec.indices)) - set(names)
    if len(set(names)) < len(names) or unknown:
        raise ShapeError(f"{who('contract')}: axes are unknown or named twice in {spec}")
    return (TensorType(float32 if spec.rounded else a.dtype, spec.shape),)


def _check_rounded(a: TensorType, b: TensorType, rounded: DType) -> None:
    if rounded not in (bfloat16, float16) or not {a.dtype, b.dtype} <= {float32, rounded}:
        raise DTypeError(
            f"{who('contract')}: {a} with {b} of {rounded}: f32 is rounded to bf16 or f16"
        )


def _check_plain(operand: TensorType, index: tuple[Affine, ...], spec: ContractSpec) -> None:
    """A dimension that is read by one axis alone has the extent of that axis."""
    for place, (expression, extent) in enumerate(zip(index, operand.shape, strict=True)):
        name = expression.plain
        if name and name in spec.extents and spec.extents[name] != extent:
            raise ShapeError(
                f"{who('contract')}: axis {name} runs to {spec.extents[name]}, "
                f"but dimension {place} of {operand} is {extent}"
            )


def accumulator_of(spec: ContractSpec, dtype: DType) -> DType:
    """What the sum is kept in."""
    if spec.accumulate is not None:
        return spec.accumulate
    if dtype.is_float:
        return float64 if dtype == float64 else float32
    return int64 if dtype == int64 else int32


# ---- reference: each operand is gathered over the axes it is read along, then einsum


def _evaluate(index: Affine, grids: Mapping[str, Array]) -> Array:
    total = np.asarray(index.offset)
    for atom, factor in index.terms:
        if isinstance(atom, str):
            value = grids[atom]
        elif isinstance(atom, Quotient):
            value = _evaluate(atom.of, grids) // atom.by
        else:
            value = _evaluate(atom.of, grids) % atom.by
        total = total + factor * value
    return total


def _holds(condition: Condition, grids: Mapping[str, Array]) -> Array:
    value = _evaluate(condition.index, grids)
    if isinstance(condition, Divisible):
        return np.asarray(value % condition.by == 0)
    return np.asarray((value >= 0) & (value < condition.extent))


def _gathered(
    x: Array,
    index: tuple[Affine, ...],
    names: Sequence[str],
    spec: ContractSpec,
    conditions: Sequence[Condition],
) -> Array:
    """x read at ``index`` over the grid of ``names``; 0 outside and where a condition fails."""
    shape = int_shape(TensorType(int64, tuple(spec.extents[n] for n in names)))
    grids = {
        name: np.arange(extent).reshape([-1 if i == k else 1 for i in range(len(names))])
        for k, (name, extent) in enumerate(zip(names, shape, strict=True))
    }
    valid: Array = np.ones(shape, np.bool_)
    places = []
    for expression, extent in zip(index, x.shape, strict=True):
        place = _evaluate(expression, grids)
        valid = valid & (place >= 0) & (place < extent)
        places.append(np.clip(place, 0, max(extent - 1, 0)))
    for condition in conditions:
        valid = valid & _holds(condition, grids)
    if not x.size:
        return np.zeros(shape, x.dtype)
    found = np.broadcast_to(x[tuple(places)], shape)
    return np.where(valid, found, x.dtype.type(0))


def _axes_of(index: Sequence[Affine]) -> frozenset[str]:
    return frozenset().union(*(i.axes for i in index))


def _placed(spec: ContractSpec) -> tuple[list[Condition], list[Condition], list[Condition]]:
    """Conditions that operand a's axes decide, those that b's do, and the rest."""
    of_a, of_b = _axes_of(spec.a_index), _axes_of(spec.b_index)
    parts: tuple[list[Condition], list[Condition], list[Condition]] = ([], [], [])
    for condition in spec.where:
        needed = condition.index.axes
        parts[0 if needed <= of_a else 1 if needed <= of_b else 2].append(condition)
    return parts


def _contract_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    spec: ContractSpec = attrs["spec"]
    wide = accumulator_of(spec, types[0].dtype).numpy
    if spec.rounded is not None:
        arrays = [a.astype(spec.rounded.numpy) for a in arrays]
    on_a, on_b, rest = _placed(spec)
    a_axes = _axes_of(spec.a_index) | frozenset().union(*(c.index.axes for c in rest))
    names = list(spec.extents)
    a_names = [n for n in names if n in a_axes]
    b_names = [n for n in names if n in _axes_of(spec.b_index)]
    a = _gathered(arrays[0].astype(wide), spec.a_index, a_names, spec, on_a + rest)
    b = _gathered(arrays[1].astype(wide), spec.b_index, b_names, spec, on_b)
    out_names = [n for n, _ in spec.axes]
    found = [n for n in out_names if n in a_names or n in b_names]
    number = {n: i for i, n in enumerate(names)}
    summed = np.einsum(
        a,
        [number[n] for n in a_names],
        b,
        [number[n] for n in b_names],
        [number[n] for n in found],
        optimize=True,
    )
    unused = [e for n, e in spec.reduced if n not in a_names and n not in b_names]
    summed = summed * wide.type(product(unused))
    spread = summed.reshape([e if n in found else 1 for n, e in spec.axes])
    return (np.broadcast_to(spread, int_shape(types[0])).astype(types[0].dtype.numpy),)


def _contract_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    g = cotangents[0]
    if g is None:
        return (None, None)
    a, b = node.inputs
    spec: ContractSpec = node.attrs["spec"]
    return (
        apply("contract", g, b, spec=transpose(spec, a.shape)),
        apply("contract", g, a, spec=transpose(spec.swapped(), b.shape)),
    )


def _contract_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    a, b = node.inputs
    ta, tb = tangents
    spec = node.attrs["spec"]
    left = None if ta is None else apply("contract", ta, b, spec=spec)
    right = None if tb is None else apply("contract", a, tb, spec=spec)
    if left is None or right is None:
        return (right if left is None else left,)
    return (left + right,)


# ---- lowering


def index_term(index: Affine, axes: Mapping[str, Term]) -> Term:
    """An index expression in Kernel IR."""
    total: Term | None = None
    for atom, factor in index.terms:
        if isinstance(atom, str):
            term = axes[atom]
        else:
            op = "//" if isinstance(atom, Quotient) else "%"
            term = build.apply(op, index_term(atom.of, axes), build.const(atom.by))
        scaled = term if abs(factor) == 1 else build.apply("*", build.const(abs(factor)), term)
        if total is None:
            total = build.apply("neg", scaled) if factor < 0 else scaled
        else:
            total = build.apply("-" if factor < 0 else "+", total, scaled)
    if total is None:
        return build.const(index.offset)
    if index.offset == 0:
        return total
    sign = "+" if index.offset > 0 else "-"
    return build.apply(sign, total, build.const(abs(index.offset)))


def _condition_term(condition: Condition, axes: Mapping[str, Term]) -> Term:
    term = index_term(condition.index, axes)
    if isinstance(condition, Divisible):
        remainder = build.apply("%", term, build.const(condition.by))
        return build.apply("==", remainder, build.const(0))
    below = build.apply("<", term, build.size(condition.extent))
    return build.apply("and", build.apply(">=", term, build.const(0)), below)


def _operand(
    ctx: LowerContext,
    access: Access,
    value: Value,
    index: tuple[Affine, ...],
    conditions: Sequence[Condition],
    spec: ContractSpec,
    axes: Mapping[str, Term],
) -> Term:
    """An operand's element; masked where it may lie outside, or a condition fails."""
    terms = tuple(index_term(i, axes) for i in index)
    preds = [_condition_term(c, axes) for c in conditions]
    for term, expression, extent in zip(terms, index, value.shape, strict=True):
        bounds = expression.range(spec.extents)
        low = None if bounds is None else least(bounds[0])
        room = None if bounds is None else least(extent - 1 - bounds[1])
        if low is None or low < 0:
            preds.append(build.apply(">=", term, build.const(0)))
        if room is None or room < 0:
            preds.append(build.apply("<", term, build.size(extent)))
    pred = build.conjunction(*preds)
    if pred is None:
        return access(terms)
    return ctx.masked(access, terms, pred, build.const(0, value.dtype))


def _contract_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    spec: ContractSpec = node.attrs["spec"]
    dtype = node.outputs[0].dtype
    axes: dict[str, Term] = {name: t for (name, _), t in zip(spec.axes, index, strict=True)}
    over = []
    for name, extent in spec.reduced:
        fresh = ctx.axis(extent, name)
        assert isinstance(fresh, AxisIndex)
        axes[name] = fresh
        over.append(fresh.axis)
    on_a, on_b, rest = _placed(spec)
    a = _operand(ctx, inputs[0], node.inputs[0], spec.a_index, on_a, spec, axes)
    b = _operand(ctx, inputs[1], node.inputs[1], spec.b_index, on_b, spec, axes)
    where = build.conjunction(*(_condition_term(c, axes) for c in rest))
    if spec.rounded is not None:
        a, b = build.cast(a, spec.rounded), build.cast(b, spec.rounded)
        if not over:
            a, b = build.cast(a, dtype), build.cast(b, dtype)
    if over:
        total = build.contract(a, b, over, where, accumulator_of(spec, dtype))
        return build.cast(total, dtype)
    alone = isinstance(b, Const) and b.value == 1  # a sliding window: nothing is multiplied
    value = a if alone else build.apply("*", a, b)
    if where is None:
        return value
    return build.apply("where", where, value, build.const(0, dtype))


def _contract_expand(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    rounded = node.attrs["spec"].rounded
    if rounded is None or all(v.dtype == rounded for v in inputs):
        return None
    narrow = [v if v.dtype == rounded else apply("cast", v, dtype=rounded) for v in inputs]
    return (apply("contract", *narrow, **node.attrs),)


# ---- samples


def _spec(
    axes: str, reduced: str, a: Sequence[Affine], b: Sequence[Affine], **more: Any
) -> ContractSpec:
    def parse(text: str) -> Axes:
        pairs = (item.split(":") for item in text.split())
        return tuple((name, int(extent)) for name, extent in pairs)

    return ContractSpec(parse(axes), parse(reduced), tuple(a), tuple(b), **more)


def _contract_samples() -> tuple[Sample, ...]:
    m, n, k, o, c, g, y, p = (axis(name) for name in "mnkocgyp")
    matmul = _spec("m:3 n:4", "k:5", (m, k), (k, n))
    batched = _spec("g:2 m:3 n:4", "k:5", (g, m, k), (g, n, k))
    broadcast = _spec("g:2 m:3 n:4", "k:5", (axis("g"), m, k), (Affine(), k, n))
    strided = _spec("n:2 o:3 y:5", "c:2 p:3", (n, c, 2 * y + p - 1), (o, c, p))
    dilated = _spec("n:2 o:3 y:6", "c:2 p:3", (n, c, y + 2 * p - 2), (o, c, p))
    both = _spec("n:1 o:2 y:4", "c:1 p:3", (n, c, 2 * y + 2 * p - 2), (o, c, p))
    grouped = _spec("n:2 g:2 o:3 y:4", "c:2 p:3", (n, 2 * g + c, y + p), (3 * g + o, c, p))
    window = _spec("n:2 y:3 p:3", "", (n, 2 * y + p - 1), ())
    diagonal = _spec("m:4", "", (m, m), ())
    moving_sum = _spec("y:2", "p:5", (y + p,), ())
    outer = _spec("m:3 n:2", "", (m,), (n,))
    dgrad = transpose(strided, (2, 2, 9))
    empty = _spec("m:3 n:4", "k:0", (m, k), (k, n))
    cases = (
        (matmul, (3, 5), (5, 4)),
        (batched, (2, 3, 5), (2, 4, 5)),
        (broadcast, (2, 3, 5), (1, 5, 4)),
        (strided, (2, 2, 9), (3, 2, 3)),
        (strided, (2, 2, 10), (3, 2, 3)),
        (dilated, (2, 2, 6), (3, 2, 3)),
        (both, (1, 1, 7), (2, 1, 3)),
        (grouped, (2, 4, 6), (6, 2, 3)),
        (window, (2, 6), ()),
        (diagonal, (4, 4), ()),
        (moving_sum, (6,), ()),
        (moving_sum, (7,), ()),
        (outer, (3,), (2,)),
        (dgrad, (2, 3, 5), (3, 2, 3)),
        (empty, (3, 0), (0, 4)),
    )
    made = [Sample((tensor(a), tensor(b)), {"spec": spec}) for spec, a, b in cases]
    made.append(Sample((tensor((3, 5), int64), tensor((5, 4), int64)), {"spec": matmul}))
    for dtype in (bfloat16, float16):  # what they round to is no smooth function
        attrs = {"spec": replace(matmul, rounded=dtype)}
        made.append(Sample((tensor((3, 5)), tensor((5, 4))), attrs, differentiable=False))
    return tuple(made)


def _contract_errors() -> tuple[ErrorSample, ...]:
    m, n, k = axis("m"), axis("n"), axis("k")
    matmul = {"spec": _spec("m:3 n:4", "k:5", (m, k), (k, n))}
    unknown = {"spec": _spec("m:3", "k:5", (m, k), (k, n))}
    return (
        ErrorSample((tensor((3, 6)), tensor((5, 4))), matmul, ShapeError, "axis k runs to 5"),
        ErrorSample((tensor((3,)), tensor((5, 4))), matmul, ShapeError, "is read at 2"),
        ErrorSample((tensor((3, 5)), tensor((5, 4), int64)), matmul, DTypeError, "one dtype"),
        ErrorSample((tensor((3, 5)), tensor((5, 4))), unknown, ShapeError, "unknown"),
        ErrorSample(
            (tensor((3, 5), float64), tensor((5, 4), float64)),
            {"spec": replace(matmul["spec"], rounded=bfloat16)}, DTypeError, "of bf16",
        ),
    )


def _contract_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """One more axis of the result, which the operands that have lanes are read along."""
    spec: ContractSpec = node.attrs["spec"]
    name = "lane"
    while name in spec.extents:  # lanes of lanes
        name += "s"
    lane = (axis(name),)
    new = replace(
        spec,
        axes=((name, lanes.size), *spec.axes),
        a_index=(*lane, *spec.a_index) if lanes.batched[0] else spec.a_index,
        b_index=(*lane, *spec.b_index) if lanes.batched[1] else spec.b_index,
    )
    return (apply("contract", *inputs, spec=new),)


register(
    Op(
        "contract",
        "out[axes] = the sum over the reduced axes of a[a_index] * b[b_index], where the "
        "conditions of ``spec`` (graphc.contraction) hold; an index outside of its operand is 0.",
        _contract_type,
        _contract_reference,
        _contract_vjp,
        _contract_jvp,
        single(_contract_lower),
        _contract_samples(),
        _contract_errors(),
        batch=_contract_batch,
        expand=_contract_expand,
    )
)
