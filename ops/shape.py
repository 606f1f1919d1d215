"""Movement: ops that change where elements are, never what they are. Index maps, no copies by
themselves.
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
from graphc.ops.lifting import (
    normalize_axes,
    who,
)
from graphc.ops.sizes import exact_quotient, product
from graphc.types import Extent, Shape, TensorType, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


def _linear(op: Any) -> tuple[Any, Any]:
    """vjp and jvp of an op that is linear in its one input: ``op(node, flowing, transposed)``."""

    def vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
        return (None if cotangents[0] is None else op(node, cotangents[0], True),)

    def jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
        return (None if tangents[0] is None else op(node, tangents[0], False),)

    return vjp, jvp


# ---- reshape


def _reshape_type(types: Types, attrs: Attrs) -> Types:
    shape = attrs["shape"]
    if product(shape) != types[0].elements:
        raise ShapeError(
            f"{who('reshape')}: {types[0]} has {types[0].elements} elements, "
            f"{list(shape)} has {product(shape)}"
        )
    return (TensorType(types[0].dtype, shape),)


def _reshape_flow(node: Node, g: Value, transposed: bool) -> Value:
    return apply("reshape", g, shape=(node.inputs if transposed else node.outputs)[0].shape)


def factor_shapes(old: Shape, new: Shape) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut a reshape into the smallest groups of axes (old, new) with equal products.

    >>> factor_shapes((2, 3, 4), (6, 2, 2))
    [((0, 1), (0,)), ((2,), (1, 2))]
    """
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    if any(e == 0 for e in old):
        return [(tuple(range(len(old))), tuple(range(len(new))))]
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        left: Extent = 1
        right: Extent = 1
        while (i == first_i and j == first_j) or left != right:
            if i < len(old) and (i == first_i or j == len(new) or _behind(left, right)):
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        groups.append((tuple(range(first_i, i)), tuple(range(first_j, j))))
    return groups


def _behind(left: Extent, right: Extent) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    return exact_quotient(right, left) is not None


def _reshape_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    old, new = node.inputs[0].shape, node.outputs[0].shape
    if 0 in new:  # no element is ever computed
        return build.const(0, node.outputs[0].dtype)
    position: list[Term] = [build.const(0)] * len(old)
    for olds, news in factor_shapes(old, new):
        flat = flat_index([index[j] for j in news], [new[j] for j in news])
        for axis, term in zip(olds, split_index(flat, [old[i] for i in olds]), strict=True):
            position[axis] = term
    return inputs[0](tuple(position))


def flat_index(index: Sequence[Term], extents: Sequence[Extent]) -> Term:
    """The row-major position of ``index``."""
    flat: Term | None = None
    for term, extent in zip(index, extents, strict=True):
        if extent == 1:
            continue
        flat = term if flat is None else build.apply("+", _times(flat, extent), term)
    return build.const(0) if flat is None else flat


def split_index(flat: Term, extents: Sequence[Extent]) -> list[Term]:
    """The index whose row-major position is ``flat``."""
    terms: list[Term] = []
    wide = [i for i, e in enumerate(extents) if e != 1]
    for i, extent in enumerate(extents):
        if extent == 1:
            terms.append(build.const(0))
            continue
        stride = product(extents[i + 1 :])
        term = flat if stride == 1 else build.apply("//", flat, build.size(stride))
        terms.append(term if i == wide[0] else build.apply("%", term, build.size(extent)))
    return terms


def _times(term: Term, extent: Extent) -> Term:
    return build.apply("*", term, build.size(extent))


_reshape_vjp, _reshape_jvp = _linear(_reshape_flow)
def _reshape_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    return (apply("reshape", inputs[0], shape=(lanes.size, *node.attrs["shape"])),)



register(
    Op(
        "reshape",
        "The same elements in row-major order, in another shape.",
        _reshape_type,
        lambda arrays, attrs, types: (arrays[0].reshape(attrs["shape"]),),
        _reshape_vjp,
        _reshape_jvp,
        single(_reshape_lower),
        tuple(
            Sample((tensor(a),), {"shape": b})
            for a, b in (
                ((6, 4), (24,)),
                ((24,), (2, 3, 4)),
                ((4, 6), (6, 4)),
                ((2, 1, 3), (3, 2)),
                ((), (1, 1)),
                ((0, 3), (3, 0)),
                ((5,), (5, 1)),
            )
        ),
        (ErrorSample((tensor((6,)),), {"shape": (4,)}, ShapeError, "has 6 elements"),),
        batch=_reshape_batch,
    )
)


# ---- permute


def _permute_type(types: Types, attrs: Attrs) -> Types:
    order = attrs["order"]
    if sorted(order) != list(range(types[0].ndim)):
        raise ShapeError(f"{who('permute')}: {order} is no order of the axes of {types[0]}")
    return (TensorType(types[0].dtype, tuple(types[0].shape[i] for i in order)),)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(i) for i in range(len(order)))


def _permute_flow(node: Node, g: Value, transposed: bool) -> Value:
    order = node.attrs["order"]
    return apply("permute", g, order=_inverse(order) if transposed else order)


def _permute_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    return inputs[0](tuple(index[i] for i in _inverse(node.attrs["order"])))


_permute_vjp, _permute_jvp = _linear(_permute_flow)
def _permute_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    order = (0, *(i + 1 for i in node.attrs["order"]))
    return (apply("permute", inputs[0], order=order),)



register(
    Op(
        "permute",
        "Axis i of the result is axis order[i] of the input.",
        _permute_type,
        lambda arrays, attrs, types: (arrays[0].transpose(attrs["order"]),),
        _permute_vjp,
        _permute_jvp,
        single(_permute_lower),
        (
            Sample((tensor((2, 3, 4)),), {"order": (2, 0, 1)}),
            Sample((tensor((0, 3)),), {"order": (1, 0)}),
            Sample((tensor(()),), {"order": ()}),
        ),
        (ErrorSample((tensor((2, 3)),), {"order": (0, 0)}, ShapeError, "no order"),),
        batch=_permute_batch,
    )
)


# ---- broadcast


def _broadcast_type(types: Types, attrs: Attrs) -> Types:
    shape, axes = attrs["shape"], attrs["axes"]
    fits = len(axes) == types[0].ndim and list(axes) == sorted(set(axes))
    if not fits or any(not 0 <= a < len(shape) for a in axes):
        raise ShapeError(
            f"{who('broadcast')}: axes {axes} do not place {types[0]} in {list(shape)}"
        )
    for axis, extent in zip(axes, types[0].shape, strict=True):
        if shape[axis] != extent:
            raise ShapeError(
                f"{who('broadcast')}: {types[0]} into {list(shape)}: "
                f"axis {axis} differs ({extent} and {shape[axis]})"
            )
    return (TensorType(types[0].dtype, shape),)


def _broadcast_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    shape, axes = attrs["shape"], attrs["axes"]
    spread = arrays[0].reshape([shape[i] if i in axes else 1 for i in range(len(shape))])
    return (np.broadcast_to(spread, shape).copy(),)


def _broadcast_flow(node: Node, g: Value, transposed: bool) -> Value:
    if not transposed:
        return apply("broadcast", g, **node.attrs)
    new = tuple(i for i in range(g.ndim) if i not in node.attrs["axes"])
    return apply("reduce", g, monoid="sum", axes=new) if new else g


def _broadcast_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    return inputs[0](tuple(index[a] for a in node.attrs["axes"]))


_broadcast_vjp, _broadcast_jvp = _linear(_broadcast_flow)
def _broadcast_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    shape = (lanes.size, *node.attrs["shape"])
    axes = (0, *(a + 1 for a in node.attrs["axes"]))
    return (apply("broadcast", inputs[0], shape=shape, axes=axes),)



register(
    Op(
        "broadcast",
        "The input repeated along new axes: its axis i becomes axis axes[i] of ``shape``.",
        _broadcast_type,
        _broadcast_reference,
        _broadcast_vjp,
        _broadcast_jvp,
        single(_broadcast_lower),
        (
            Sample((tensor((3,)),), {"shape": (2, 3), "axes": (1,)}),
            Sample((tensor((3, 2)),), {"shape": (3, 4, 2, 5), "axes": (0, 2)}),
            Sample((tensor(()),), {"shape": (0, 2), "axes": ()}),
            Sample((tensor((2,), int64),), {"shape": (2,), "axes": (0,)}),
        ),
        (
            ErrorSample((tensor((3,)),), {"shape": (2, 4), "axes": (1,)}, ShapeError, "differs"),
            ErrorSample((tensor((3,)),), {"shape": (2, 3), "axes": ()}, ShapeError, "do not place"),
        ),
        batch=_broadcast_batch,
    )
)


# ---- flip


def _flip_type(types: Types, attrs: Attrs) -> Types:
    normalize_axes("flip", attrs["axes"], types[0].ndim)
    return types[:1]


def _flip_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    shape, axes = node.inputs[0].shape, node.attrs["axes"]
    return inputs[0](
        tuple(
            build.apply("-", build.size(shape[i] - 1), term) if i in axes else term
            for i, term in enumerate(index)
        )
    )


_flip_vjp, _flip_jvp = _linear(lambda node, g, transposed: apply("flip", g, **node.attrs))
def _flip_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    axes = normalize_axes("flip", node.attrs["axes"], inputs[0].ndim - 1)
    return (apply("flip", inputs[0], axes=tuple(a + 1 for a in axes)),)



register(
    Op(
        "flip",
        "The order of the elements reversed along ``axes``.",
        _flip_type,
        lambda arrays, attrs, types: (np.flip(arrays[0], attrs["axes"]).copy(),),
        _flip_vjp,
        _flip_jvp,
        single(_flip_lower),
        (
            Sample((tensor((3, 4)),), {"axes": (0, 1)}),
            Sample((tensor((5,), int64),), {"axes": (0,)}),
            Sample((tensor((0, 2)),), {"axes": (0,)}),
        ),
        (ErrorSample((tensor((3,)),), {"axes": (1,)}, ShapeError, "out of range"),),
        batch=_flip_batch,
    )
)
