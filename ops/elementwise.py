"""Elementwise ops: one scalar op of the Kernel IR at every element.

Primitives are named as the scalar ops (``+``, ``exp``, ``where``...) and take inputs of one shape;
the functions below them have the array API's names, promote and broadcast. A derivative of an
elementwise op is elementwise too: its rule ``(g, inputs, output) -> g times the partial
derivative`` serves both modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphc.errors import DTypeError, ShapeError
from graphc.graph import Node, Value, apply
from graphc.kernel import build, scalar_ops
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
    full,
    who,
)
from graphc.types import (
    DTYPES,
    DType,
    TensorType,
    bool_,
    float16,
    float32,
    float64,
    int32,
    int64,
    uint8,
)

Partial = Callable[[Value, tuple[Value, ...], Value], Value]


# ---- the rules that all elementwise ops share


def _same_shapes(name: str, types: tuple[TensorType, ...]) -> None:
    for other in types[1:]:
        if other.shape != types[0].shape:
            listed = ", ".join(map(str, types))
            raise ShapeError(f"{who(name)}({listed}): shapes differ; broadcast first")


def _type(name: str) -> Callable[..., tuple[TensorType, ...]]:
    def rule(types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> tuple[TensorType, ...]:
        dtype = scalar_ops.result_dtype(name, [t.dtype for t in types])
        _same_shapes(name, types)
        return (TensorType(dtype, types[0].shape),)

    return rule


def _reference(name: str) -> Callable[..., Sequence[Array]]:
    def rule(
        arrays: Sequence[Array], attrs: Mapping[str, Any], types: tuple[TensorType, ...]
    ) -> Sequence[Array]:
        return (scalar_ops.evaluate(name, *arrays),)

    return rule


def _lower(name: str) -> Callable[..., Term]:
    def rule(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
        return build.apply(name, *(x(index) for x in inputs))

    return rule


def _vjp(partials: tuple[Partial | None, ...]) -> Callable[..., Cotangents]:
    def rule(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
        g = cotangents[0]
        if g is None:
            return (None,) * len(partials)
        return tuple(p(g, node.inputs, node.outputs[0]) if p else None for p in partials)

    return rule


def _jvp(partials: tuple[Partial | None, ...]) -> Callable[..., Cotangents]:
    def rule(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
        total: Value | None = None
        for partial, tangent in zip(partials, tangents, strict=True):
            if partial is not None and tangent is not None:
                term = partial(tangent, node.inputs, node.outputs[0])
                total = term if total is None else total + term
        return (total,)

    return rule


def _batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    return (apply(node.op, *lanes.all(inputs), **node.attrs),)


_SHAPES = ((3, 4), (), (0, 3), (1,), (17,))


def _samples(
    arity: int, dtypes: tuple[DType, ...], low: float, high: float, smooth: bool
) -> tuple[Sample, ...]:
    found = [
        Sample((tensor(shape, dtype),) * arity, low=low, high=high, differentiable=smooth)
        for dtype in dtypes
        for shape in (_SHAPES if dtype == dtypes[0] else _SHAPES[:1])
    ]
    if dtypes[0].is_float:
        mixed = Sample((tensor((23,), dtypes[0]),) * arity, special=True, differentiable=False)
        found.append(mixed)
    return tuple(found)


def _refusals(name: str, arity: int, dtypes: tuple[DType, ...]) -> tuple[ErrorSample, ...]:
    refused = []
    if arity > 1:
        unequal = (*(tensor((2, 3), dtypes[0]),) * (arity - 1), tensor((2, 4), dtypes[0]))
        refused.append(ErrorSample(unequal, {}, ShapeError, "shapes differ"))
    wrong = bool_ if not any(d.kind == "b" for d in dtypes) else float32
    if wrong.kind not in scalar_ops.SCALAR_OPS[name].kinds[0]:
        refused.append(ErrorSample((tensor((2,), wrong),) * arity, {}, DTypeError, "must be"))
    return tuple(refused)


_FLOATS = (float32, float64, float16)
_NUMBERS = (float32, int64, float64, int32, uint8)
_EVERY = (float32, int64, bool_)


def _elementwise(
    name: str,
    doc: str,
    *partials: Partial | None,
    dtypes: tuple[DType, ...] = _FLOATS,
    low: float = -2.0,
    high: float = 2.0,
) -> None:
    """Register the elementwise op ``name``; without partials nothing flows through it: it is
    piecewise constant.
    """
    arity = scalar_ops.SCALAR_OPS[name].arity
    smooth = any(partials)
    register(
        Op(
            name,
            doc,
            _type(name),
            _reference(name),
            _vjp(partials) if smooth else None,
            _jvp(partials) if smooth else None,
            single(_lower(name)),
            _samples(arity, dtypes, low, high, smooth),
            _refusals(name, arity, dtypes),
            batch=_batch,
            cuts="" if smooth else "piecewise constant",
        )
    )


def like(value: Value, number: bool | int | float) -> Value:
    """A tensor of ``value``'s type full of ``number``."""
    return full(value.shape, number, value.dtype)


# ---- arithmetic

_elementwise(
    "+",
    "a + b; integers wrap.",
    lambda g, x, y: g,
    lambda g, x, y: g,
    dtypes=_NUMBERS,
)
_elementwise(
    "-",
    "a - b; integers wrap.",
    lambda g, x, y: g,
    lambda g, x, y: -g,
    dtypes=_NUMBERS,
)
_elementwise(
    "*",
    "a * b; integers wrap.",
    lambda g, x, y: g * x[1],
    lambda g, x, y: g * x[0],
    dtypes=_NUMBERS,
)
_elementwise(
    "/",
    "a / b; of integers, their float32 quotient.",
    lambda g, x, y: g / x[1],
    lambda g, x, y: -g * (y / x[1]),
    low=0.5,
)
_elementwise("//", "floor(a / b); an integer by 0 gives 0.", dtypes=_NUMBERS, low=1.0, high=9.0)
_elementwise(
    "%",
    "a - b * floor(a / b), with the sign of b, as Python's.",
    lambda g, x, y: g,
    lambda g, x, y: -g * apply("//", x[0], x[1]),
    dtypes=_NUMBERS,
    low=1.0,
    high=9.0,
)
_elementwise("neg", "-a; integers wrap.", lambda g, x, y: -g, dtypes=_NUMBERS)
_elementwise(
    "abs",
    "|a|; the derivative at 0 is 0.",
    lambda g, x, y: g * apply("sign", x[0]),
    dtypes=_NUMBERS,
)
_elementwise("sign", "-1, 0 or 1; NaN stays NaN.", dtypes=_NUMBERS)


def _extreme(better: str) -> tuple[Partial, Partial]:
    """Where both are equal each gets half of the derivative, as in PyTorch."""

    def partial(mine: int) -> Partial:
        def rule(g: Value, x: tuple[Value, ...], y: Value) -> Value:
            a, b = x[mine], x[1 - mine]
            won = apply("where", apply(better, a, b), g, like(g, 0))
            return apply("where", apply("==", a, b), g * 0.5, won)

        return rule

    return partial(0), partial(1)


_elementwise(
    "max",
    "The larger of a and b; NaN if either is. Equal operands share the derivative evenly.",
    *_extreme(">"),
    dtypes=_NUMBERS,
)
_elementwise(
    "min",
    "The smaller of a and b; NaN if either is. Equal operands share the derivative evenly.",
    *_extreme("<"),
    dtypes=_NUMBERS,
)


def _pow_base(g: Value, x: tuple[Value, ...], y: Value) -> Value:
    base, exponent = x
    if exponent.dtype.is_integer:
        scale = apply("cast", exponent, dtype=base.dtype)
        slope = scale * apply("pow", base, exponent - 1)
        return g * apply("where", apply("==", exponent, like(exponent, 0)), like(g, 0), slope)
    slope = exponent * apply("pow", base, exponent - 1)
    return g * apply("where", apply("==", exponent, like(exponent, 0)), like(g, 0), slope)


def _pow_exponent(g: Value, x: tuple[Value, ...], y: Value) -> Value:
    base = x[0]
    zero = apply("==", base, like(base, 0))
    safe = apply("where", zero, like(base, 1), base)
    return g * y * apply("log", safe)


_elementwise(
    "pow",
    "a ** b. A float base takes an integer exponent too.",
    _pow_base,
    lambda g, x, y: _pow_exponent(g, x, y),
    low=0.5,
)

# ---- exponentials, logarithms, trigonometry

_LN2 = math.log(2.0)

_elementwise("exp", "e ** a.", lambda g, x, y: g * y)
_elementwise("exp2", "2 ** a.", lambda g, x, y: g * (y * _LN2))
_elementwise("expm1", "e ** a - 1, accurate near 0.", lambda g, x, y: g * (y + 1))
_elementwise("log", "The natural logarithm; NaN below 0.", lambda g, x, y: g / x[0], low=0.5)
_elementwise("log2", "The logarithm to base 2.", lambda g, x, y: g / (x[0] * _LN2), low=0.5)
_elementwise("log1p", "log(1 + a), accurate near 0.", lambda g, x, y: g / (x[0] + 1), low=-0.5)
_elementwise("sin", "Sine, of radians.", lambda g, x, y: g * apply("cos", x[0]))
_elementwise("cos", "Cosine, of radians.", lambda g, x, y: -g * apply("sin", x[0]))
_elementwise("tan", "Tangent, of radians.", lambda g, x, y: g * (1 + y * y), low=-1.0, high=1.0)
_elementwise("tanh", "Hyperbolic tangent.", lambda g, x, y: g * (1 - y * y))
_elementwise("atan", "Arc tangent.", lambda g, x, y: g / (1 + x[0] * x[0]))
_elementwise("sqrt", "Square root; NaN below 0.", lambda g, x, y: g / (2 * y), low=0.5)
_elementwise("rsqrt", "1 / sqrt(a).", lambda g, x, y: g * (y * y * y * -0.5), low=0.5)


def _gauss(g: Value, x: tuple[Value, ...], scale: float) -> Value:
    return g * (apply("exp", -(x[0] * x[0])) * scale)


_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)
_elementwise("erf", "The error function.", lambda g, x, y: _gauss(g, x, _TWO_OVER_SQRT_PI))
_elementwise(
    "erfc",
    "1 - erf(a), accurate where erf is near 1.",
    lambda g, x, y: _gauss(g, x, -_TWO_OVER_SQRT_PI),
)
_elementwise("sigmoid", "1 / (1 + exp(-a)), without overflow.", lambda g, x, y: g * (y * (1 - y)))

# ---- rounding, and what floats are made of

_elementwise("floor", "The largest integer not above a.")
_elementwise("ceil", "The smallest integer not below a.")
_elementwise("round", "The nearest integer, half to even.")
_elementwise("trunc", "a without its fraction.")
_elementwise("isnan", "Whether a is NaN.")
_elementwise("isinf", "Whether a is infinite.")
_elementwise(
    "copysign",
    "|a| with the sign of b, the sign of a zero included.",
    lambda g, x, y: g * (apply("copysign", like(g, 1), x[0]) * apply("copysign", like(g, 1), x[1])),
    None,
)
_elementwise(
    "fma",
    "a * b + c, rounded once.",
    lambda g, x, y: g * x[1],
    lambda g, x, y: g * x[0],
    lambda g, x, y: g,
    dtypes=(float32, float64),
)

# ---- comparison, logic, bits

for _name in ("<", "<=", ">", ">=", "==", "!="):
    _elementwise(_name, f"a {_name} b; with NaN only != holds.", dtypes=_EVERY)
_elementwise("and", "Both.", dtypes=(bool_,))
_elementwise("or", "Either.", dtypes=(bool_,))
_elementwise("not", "The opposite.", dtypes=(bool_,))
for _name, _doc in {"&": "Bitwise and.", "|": "Bitwise or.", "^": "Bitwise exclusive or."}.items():
    _elementwise(_name, _doc, dtypes=(int64, bool_))
_elementwise("~", "Bitwise complement.", dtypes=(int64, bool_))
for _name, _doc in {
    "<<": "Shift left.",
    ">>": "Shift right; signed integers keep their sign.",
}.items():
    _elementwise(
        _name,
        f"{_doc} A count outside 0..bits-1 shifts everything out.",
        dtypes=(int64, int32),
        low=0,
        high=9,
    )
_elementwise(
    "derive",
    "A new Philox key (int64) from a key and a counter (a, b).",
    dtypes=(int64,),
)

# ---- where, cast


def _where_samples() -> tuple[Sample, ...]:
    made = [
        Sample((tensor(shape, bool_), tensor(shape, dtype), tensor(shape, dtype)))
        for dtype in (float32, int64)
        for shape in _SHAPES
    ]
    return tuple(made)


_WHERE_PARTIALS: tuple[Partial | None, ...] = (
    None,
    lambda g, x, y: apply("where", x[0], g, like(g, 0)),
    lambda g, x, y: apply("where", x[0], like(g, 0), g),
)


def _where_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    _, a, b = tangents
    if a is None and b is None:
        return (None,)
    out = node.outputs[0]
    a, b = (like(out, 0) if a is None else a), (like(out, 0) if b is None else b)
    return (apply("where", node.inputs[0], a, b),)


register(
    Op(
        "where",
        "``a`` where the condition holds, else ``b``: both are computed, one is taken.",
        _type("where"),
        _reference("where"),
        _vjp(_WHERE_PARTIALS),
        _where_jvp,
        single(_lower("where")),
        _where_samples(),
        (
            ErrorSample((tensor((2,)),) * 3, {}, DTypeError, "must be bool"),
            ErrorSample(
                (tensor((2,), bool_), tensor((2,)), tensor((3,))), {}, ShapeError, "shapes differ"
            ),
        ),
        batch=_batch,
    )
)


def _cast_type(types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> tuple[TensorType, ...]:
    if not isinstance(attrs.get("dtype"), DType):
        raise DTypeError(
            f"{who('cast')}: dtype must be an element type, got {attrs.get('dtype')!r}"
        )
    return (TensorType(attrs["dtype"], types[0].shape),)


def _cast_reference(
    arrays: Sequence[Array], attrs: Mapping[str, Any], types: tuple[TensorType, ...]
) -> Sequence[Array]:
    return (scalar_ops.evaluate(attrs["dtype"].short, arrays[0]),)


def _cast_flow(node: Node, flowing: Cotangents, to: DType) -> Cotangents:
    g = flowing[0]
    smooth = node.inputs[0].dtype.is_float and node.outputs[0].dtype.is_float
    return (apply("cast", g, dtype=to) if g is not None and smooth else None,)


def _cast_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    return build.apply(node.attrs["dtype"].short, inputs[0](index))


register(
    Op(
        "cast",
        "The element in another dtype: float to integer truncates and saturates (NaN gives 0), "
        "integers wrap, bool is ``a != 0``.",
        _cast_type,
        _cast_reference,
        lambda node, cotangents, transform: _cast_flow(node, cotangents, node.inputs[0].dtype),
        lambda node, tangents, transform: _cast_flow(node, tangents, node.outputs[0].dtype),
        single(_cast_lower),
        tuple(
            Sample((tensor((3, 4), a),), {"dtype": b}, high=9.0, differentiable=b == float64)
            for a in (float32, int64, bool_)
            for b in DTYPES.values()
        ),
        (ErrorSample((tensor((2,)),), {"dtype": "f32"}, DTypeError, "must be an element type"),),
        batch=_batch,
    )
)
