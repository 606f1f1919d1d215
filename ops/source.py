"""Ops whose values come from outside (sources), that make tensors from nothing, and that only speak
to the compiler.

``read`` and ``attach`` are gone once a graph is closed, ``by_mode`` once it is compiled;
``stop_gradient`` and ``mark`` are identities that remain to be drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, ShapeError, StateError
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
from graphc.ops.lifting import full as full_of
from graphc.ops.lifting import normalize_axis, who
from graphc.types import DType, Shape, Size, TensorType, bool_, float32, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


# ---- sources: their type is the node's own


def _own_type(types: Types, attrs: Attrs) -> Types:
    raise ShapeError("a source's type is its own: make it with source_value")


for _name, _doc in {
    "observed": "A value given at the call.",
    "argument": "A value given by the loop or branch whose body this is.",
    "parameter": "A trainable state: attrs['state'] is its cell.",
    "state": "A value that outlives the call: attrs['state'] is its cell.",
}.items():
    register(Op(_name, _doc, _own_type, None, kind="source"))

register(
    Op(
        "constant",
        "An array that is part of the program: attrs['data'] is an ArrayData.",
        _own_type,
        lambda arrays, attrs, types: (attrs["data"].array,),
        kind="source",
    )
)


# ---- tensors from nothing


def _check_shape(name: str, shape: object) -> Shape:
    if not isinstance(shape, tuple) or not all(isinstance(e, (int, Size)) for e in shape):
        raise ShapeError(f"{who(name)}: a shape is a tuple of ints and Dims, got {shape!r}")
    if any(isinstance(e, int) and e < 0 for e in shape):
        raise ShapeError(f"{who(name)}: negative extent in {shape!r}")
    return shape


def _no_inputs_type(name: str) -> Any:
    def rule(types: Types, attrs: Attrs) -> Types:
        if not isinstance(attrs["dtype"], DType):
            raise DTypeError(f"{who(name)}: dtype must be an element type, got {attrs['dtype']!r}")
        return (TensorType(attrs["dtype"], _check_shape(name, attrs["shape"])),)

    return rule


def _full_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    return (np.full(types[0].shape, attrs["value"], types[0].dtype.numpy),)


def _full_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    return build.const(node.attrs["value"], node.attrs["dtype"])


register(
    Op(
        "full",
        "Every element is ``value``.",
        _no_inputs_type("full"),
        _full_reference,
        lower=single(_full_lower),
        samples=(
            Sample((), {"shape": (2, 3), "value": 1.5, "dtype": float32}),
            Sample((), {"shape": (), "value": -7, "dtype": int64}),
            Sample((), {"shape": (0,), "value": True, "dtype": bool_}),
        ),
        error_samples=(
            ErrorSample((), {"shape": [2], "value": 0, "dtype": float32}, ShapeError, "tuple"),
            ErrorSample((), {"shape": (-2,), "value": 0, "dtype": float32}, ShapeError, "negative"),
        ),
    )
)


def _iota_type(types: Types, attrs: Attrs) -> Types:
    (type,) = _no_inputs_type("iota")(types, attrs)
    normalize_axis("iota", attrs["axis"], type.ndim)
    return (type,)


def _iota_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    shape, axis = int_shape(types[0]), attrs["axis"]
    line = np.arange(shape[axis]).astype(types[0].dtype.numpy)
    line = line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return (np.broadcast_to(line, shape).copy(),)


def _iota_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    return build.cast(index[node.attrs["axis"]], node.attrs["dtype"])


register(
    Op(
        "iota",
        "Every element is its index along ``axis``.",
        _iota_type,
        _iota_reference,
        lower=single(_iota_lower),
        samples=(
            Sample((), {"shape": (2, 5), "axis": 1, "dtype": int64}),
            Sample((), {"shape": (4,), "axis": 0, "dtype": float32}),
            Sample((), {"shape": (0, 2), "axis": 0, "dtype": int64}),
        ),
        error_samples=(
            ErrorSample((), {"shape": (2,), "axis": 1, "dtype": int64}, ShapeError, "out of range"),
        ),
    )
)


def _size_type(types: Types, attrs: Attrs) -> Types:
    if not isinstance(attrs["extent"], (int, Size)):
        raise ShapeError(f"{who('size')}: {attrs['extent']!r} is no extent")
    return (TensorType(int64, ()),)


def _size_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    return build.size(node.attrs["extent"])


register(
    Op(
        "size",
        "A Dim, or a formula of Dims, as an int64 scalar.",
        _size_type,
        lambda arrays, attrs, types: (np.asarray(attrs["extent"], np.int64),),
        lower=single(_size_lower),
        samples=(Sample((), {"extent": 12}),),
        error_samples=(ErrorSample((), {"extent": 1.5}, ShapeError, "no extent"),),
    )
)


# ---- identities


def _same_type(types: Types, attrs: Attrs) -> Types:
    return types[:1]


def _identity(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    return (arrays[0],)


def _identity_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    return inputs[0](index)


def _first_only(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    return (cotangents[0],) + (None,) * (len(node.inputs) - 1)


def _first_tangent(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    return (tangents[0],)


def _batch_same(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    return (apply(node.op, *lanes.all(inputs), **node.attrs),)


_ANY_SAMPLES = (Sample((tensor((2, 3)),)), Sample((tensor((), int64),)))
register(
    Op(
        "stop_gradient",
        "The value, as a constant to derivatives.",
        _same_type,
        _identity,
        lower=single(_identity_lower),
        samples=_ANY_SAMPLES,
        batch=_batch_same,
        cuts="what it is for",
    )
)
register(
    Op(
        "mark",
        "The value, findable by ``tag``.",
        _same_type,
        _identity,
        _first_only,
        _first_tangent,
        single(_identity_lower),
        (Sample((tensor((2, 3)),), {"tag": "aux"}),),
        batch=_batch_same,
    )
)
def _read_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    return inputs  # what is computed in lanes is no state



register(
    Op(
        "read",
        "The version of a state at this place of the program.",
        _same_type,
        _identity,
        _first_only,
        _first_tangent,
        kind="graph",
        samples=_ANY_SAMPLES[:1],
        batch=_read_batch,
    )
)


def _attach_type(types: Types, attrs: Attrs) -> Types:
    count = (len(types) - 1) // 2
    states, new = types[1 : 1 + count], types[1 + count :]
    if not types or len(states) != len(new):
        raise ShapeError(f"{who('attach')}: takes a value, the states, then as many new values")
    for state, value in zip(states, new, strict=True):
        if state != value:
            raise ShapeError(f"{who('attach')}: a state of {state} cannot become {value}")
    return types[:1]


def _attach_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    states = ", ".join(repr(v) for v in node.inputs[1 : 1 + len(inputs) // 2])
    raise StateError(
        f"vmap: {states} would be updated in every lane, and has room for one value: return what "
        "is computed and update outside of vmap, or pin the mode that writes nothing: "
        'module.with_mode("eval")',
        node.source,
    )



register(
    Op(
        "attach",
        "attach(v, *states, *new values): the value; whoever needs it updates the states.",
        _attach_type,
        _identity,
        _first_only,
        _first_tangent,
        kind="graph",
        samples=(Sample((tensor((2,)), tensor(()), tensor(()))),),
        error_samples=(
            ErrorSample((tensor((2,)), tensor(()), tensor((1,))), {}, ShapeError, "become"),
        ),
        batch=_attach_batch,
    )
)


def _by_mode_type(types: Types, attrs: Attrs) -> Types:
    if len(types) != 2 or types[0] != types[1]:
        raise ShapeError(
            f"{who('by_mode')}: train is {types[0]}, eval is {types[-1]}: they must agree"
        )
    return types[:1]


def _by_mode_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    g = cotangents[0]
    if g is None:
        return (None, None)
    zero = full_of(g.shape, 0, g.dtype)
    return apply("by_mode", g, zero), apply("by_mode", zero, g)


def _by_mode_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    if tangents[0] is None and tangents[1] is None:
        return (None,)
    out = node.outputs[0]
    zero = full_of(out.shape, 0, out.dtype)
    return (apply("by_mode", *(zero if t is None else t for t in tangents)),)


register(
    Op(
        "by_mode",
        "by_mode(train, eval): the first in mode train, the second in mode eval.",
        _by_mode_type,
        None,
        _by_mode_vjp,
        _by_mode_jvp,
        kind="graph",
        samples=(Sample((tensor((2,)), tensor((2,)))),),
        error_samples=(ErrorSample((tensor((2,)), tensor((3,))), {}, ShapeError, "agree"),),
        batch=_batch_same,
    )
)
