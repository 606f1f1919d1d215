"""Elementwise ops: one scalar op of the Kernel IR at every element.

Primitives are named as the scalar ops (``+``, ``exp``, ``where``...) and take inputs of one shape; the functions below
them have the array API's names, promote and broadcast. A derivative of an elementwise op is elementwise too: its rule
``(g, inputs, output) -> g times the partial derivative`` serves both modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.graph import Node, Value, apply
from graphc.kernel import build, scalar_ops
from graphc.kernel.terms import Term
from graphc.op import (
    Access,
    Array,
    Cotangents,
    ErrorSample,
    OPS,
    LowerContext,
    Op,
    Sample,
    Transform,
    composite,
    function,
    register,
    tensor,
)
from graphc.ops.lifting import (
    broadcast_shapes,
    broadcast_to,
    full,
    lift,
    lift_one,
    promote,
    settle,
    who,
)
from graphc.source import here
from graphc.types import (
    DTYPES,
    DType,
    TensorType,
    bool_,
    dtype_of,
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
    def rule(
        ctx: LowerContext,
        node: Node,
        inputs: Sequence[Access],
        index: tuple[Term, ...],
        output: int = 0,
    ) -> Term:
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
    """Register the elementwise op ``name``; without partials nothing flows through it."""
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
            _lower(name),
            _samples(arity, dtypes, low, high, smooth),
            _refusals(name, arity, dtypes),
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
    base, exponent = x
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
_elementwise(
    "log1p", "log(1 + a), accurate near 0.", lambda g, x, y: g / (x[0] + 1), low=-0.5
)
_elementwise("sin", "Sine, of radians.", lambda g, x, y: g * apply("cos", x[0]))
_elementwise("cos", "Cosine, of radians.", lambda g, x, y: -g * apply("sin", x[0]))
_elementwise(
    "tan", "Tangent, of radians.", lambda g, x, y: g * (1 + y * y), low=-1.0, high=1.0
)
_elementwise("tanh", "Hyperbolic tangent.", lambda g, x, y: g * (1 - y * y))
_elementwise("atan", "Arc tangent.", lambda g, x, y: g / (1 + x[0] * x[0]))
_elementwise("sqrt", "Square root; NaN below 0.", lambda g, x, y: g / (2 * y), low=0.5)
_elementwise(
    "rsqrt", "1 / sqrt(a).", lambda g, x, y: g * (y * y * y * -0.5), low=0.5
)


def _gauss(g: Value, x: tuple[Value, ...], scale: float) -> Value:
    return g * (apply("exp", -(x[0] * x[0])) * scale)


_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)
_elementwise(
    "erf", "The error function.", lambda g, x, y: _gauss(g, x, _TWO_OVER_SQRT_PI)
)
_elementwise(
    "erfc", "1 - erf(a), accurate where erf is near 1.",
    lambda g, x, y: _gauss(g, x, -_TWO_OVER_SQRT_PI),
)
_elementwise(
    "sigmoid", "1 / (1 + exp(-a)), without overflow.", lambda g, x, y: g * (y * (1 - y))
)

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
for _name, _doc in {"<<": "Shift left.", ">>": "Shift right; signed integers keep their sign."}.items():
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
        _lower("where"),
        _where_samples(),
        (
            ErrorSample((tensor((2,)),) * 3, {}, DTypeError, "must be bool"),
            ErrorSample(
                (tensor((2,), bool_), tensor((2,)), tensor((3,))), {}, ShapeError, "shapes differ"
            ),
        ),
    )
)


def _cast_type(
    types: tuple[TensorType, ...], attrs: Mapping[str, Any]
) -> tuple[TensorType, ...]:
    if not isinstance(attrs.get("dtype"), DType):
        raise DTypeError(f"{who('cast')}: dtype must be an element type, got {attrs.get('dtype')!r}")
    return (TensorType(attrs["dtype"], types[0].shape),)


def _cast_reference(
    arrays: Sequence[Array], attrs: Mapping[str, Any], types: tuple[TensorType, ...]
) -> Sequence[Array]:
    return (scalar_ops.evaluate(attrs["dtype"].short, arrays[0]),)


def _cast_flow(node: Node, flowing: Cotangents, to: DType) -> Cotangents:
    g = flowing[0]
    smooth = node.inputs[0].dtype.is_float and node.outputs[0].dtype.is_float
    return (apply("cast", g, dtype=to) if g is not None and smooth else None,)


def _cast_lower(
    ctx: LowerContext, node: Node, inputs: Sequence[Access], index: tuple[Term, ...], output: int = 0
) -> Term:
    return build.apply(node.attrs["dtype"].short, inputs[0](index))


register(
    Op(
        "cast",
        "The element in another dtype: float to integer truncates and saturates (NaN gives 0), integers wrap, "
        "bool is ``a != 0``.",
        _cast_type,
        _cast_reference,
        lambda node, cotangents, transform: _cast_flow(node, cotangents, node.inputs[0].dtype),
        lambda node, tangents, transform: _cast_flow(node, tangents, node.outputs[0].dtype),
        _cast_lower,
        tuple(
            Sample((tensor((3, 4), a),), {"dtype": b}, high=9.0, differentiable=b == float64)
            for a in (float32, int64, bool_)
            for b in DTYPES.values()
        ),
        (ErrorSample((tensor((2,)),), {"dtype": "f32"}, DTypeError, "must be an element type"),),
    )
)


# ---- the public functions: promotion and broadcasting


def _numbers(name: str, *operands: object) -> list[Value]:
    """Lifted operands of an arithmetic function; bools count as integers."""
    _, dtype = promote(name, operands)
    return lift(name, *operands, dtype=int64 if dtype.kind == "b" else None)


def _floating(name: str, *operands: object) -> list[Value]:
    """Lifted operands of a floating function; integers become float32."""
    _, dtype = promote(name, operands)
    return lift(name, *operands, dtype=None if dtype.is_float else float32)


@function
def add(a: object, b: object) -> Value:
    """a + b.

    >>> add([1.0, 2.0], 1).type
    f64[2]
    """
    return apply("+", *_numbers("add", a, b))


@function
def subtract(a: object, b: object) -> Value:
    """a - b."""
    return apply("-", *_numbers("subtract", a, b))


@function
def multiply(a: object, b: object) -> Value:
    """a * b."""
    return apply("*", *_numbers("multiply", a, b))


@function
def divide(a: object, b: object) -> Value:
    """a / b; integers are divided as float32."""
    return apply("/", *_floating("divide", a, b))


@function
def floor_divide(a: object, b: object) -> Value:
    """floor(a / b)."""
    return apply("//", *_numbers("floor_divide", a, b))


@function
def remainder(a: object, b: object) -> Value:
    """a - b * floor(a / b): has the sign of b."""
    return apply("%", *_numbers("remainder", a, b))


@function
def negative(a: object) -> Value:
    """-a."""
    return apply("neg", *_numbers("negative", a))


@function
def positive(a: object) -> Value:
    """+a."""
    return _numbers("positive", a)[0]


@function
def pow(a: object, b: object) -> Value:
    """a ** b. Exponents 1, 2, 3, -1 and 0.5 become multiplications, a division, a square root."""
    if isinstance(a, Value) and a.dtype.is_float and isinstance(b, (int, float)):
        simple = _simple_power(a, b)
        if simple is not None:
            return simple
        if isinstance(b, float):
            return apply("pow", *lift("pow", a, b))
        return apply("pow", a, full(a.shape, b, int64))
    return apply("pow", *_numbers("pow", a, b))


def _simple_power(a: Value, exponent: float) -> Value | None:
    if exponent == 1:
        return a
    if exponent == 2:
        return a * a
    if exponent == 3:
        return a * a * a
    if exponent == -1:
        return 1 / a
    return apply("sqrt", a) if exponent == 0.5 else None


@function
def maximum(a: object, b: object) -> Value:
    """The larger of a and b, elementwise; NaN if either is."""
    return apply("max", *_numbers("maximum", a, b))


@function
def minimum(a: object, b: object) -> Value:
    """The smaller of a and b, elementwise; NaN if either is."""
    return apply("min", *_numbers("minimum", a, b))


@function
def clip(x: object, min: object = None, max: object = None) -> Value:
    """x kept within min and max (None: no bound); the derivative is 1 on the bounds and 0 outside, as PyTorch's."""
    value = lift_one("clip", x)
    if min is not None:
        value, low = lift("clip", value, min)
        value = apply("where", apply("<", value, low), low, value)
    if max is not None:
        value, high = lift("clip", value, max)
        value = apply("where", apply(">", value, high), high, value)
    return value


@function
def where(condition: object, a: object, b: object) -> Value:
    """a where the condition holds, else b.

    >>> where([True, False], 1.0, 0.0).type
    f32[2]
    """
    c = lift_one("where", condition)
    if c.dtype != bool_:
        raise DTypeError(f"{who('where')}: the condition is {c.dtype}, it must be bool: write c != 0", here())
    operands, dtype = promote("where", (a, b))
    shape = broadcast_shapes("where", [c, *(x for x in operands if isinstance(x, Value))])
    return apply("where", broadcast_to(c, shape), *(settle(x, dtype, shape) for x in operands))


@function
def astype(x: object, dtype: object) -> Value:
    """x with its elements converted to ``dtype``."""
    value, wanted = lift_one("astype", x), dtype_of(dtype)
    return value if value.dtype == wanted else apply("cast", value, dtype=wanted)


def _named(name: str, doc: str, build: Callable[..., Value]) -> Callable[..., Value]:
    """A public function made from a table row."""
    build.__name__ = build.__qualname__ = name
    build.__doc__ = doc
    return function(build)


def _floating_function(name: str, op: str) -> Callable[[object], Value]:
    return _named(name, OPS[op].doc, lambda x: apply(op, *_floating(name, x)))


def _rounding_function(name: str, op: str) -> Callable[[object], Value]:
    def rounded(x: object) -> Value:
        value = lift_one(name, x)
        return apply(op, value) if value.dtype.is_float else value

    return _named(name, OPS[op].doc, rounded)


def _comparison(name: str, op: str) -> Callable[[object, object], Value]:
    return _named(name, OPS[op].doc, lambda a, b: apply(op, *lift(name, a, b)))


def _bitwise(name: str, op: str) -> Callable[..., Value]:
    return _named(name, OPS[op].doc, lambda *xs: apply(op, *lift(name, *xs)))


def _logical(name: str, op: str) -> Callable[..., Value]:
    return _named(name, OPS[op].doc, lambda *xs: apply(op, *lift(name, *map(truth, xs))))


def truth(x: object) -> Value:
    """x as bool: x != 0."""
    value = lift_one("astype", x)
    return value if value.dtype == bool_ else apply("cast", value, dtype=bool_)


exp = _floating_function("exp", "exp")
exp2 = _floating_function("exp2", "exp2")
expm1 = _floating_function("expm1", "expm1")
log = _floating_function("log", "log")
log2 = _floating_function("log2", "log2")
log1p = _floating_function("log1p", "log1p")
sin = _floating_function("sin", "sin")
cos = _floating_function("cos", "cos")
tan = _floating_function("tan", "tan")
tanh = _floating_function("tanh", "tanh")
atan = _floating_function("atan", "atan")
sqrt = _floating_function("sqrt", "sqrt")
rsqrt = _floating_function("rsqrt", "rsqrt")
erf = _floating_function("erf", "erf")
erfc = _floating_function("erfc", "erfc")
sigmoid = _floating_function("sigmoid", "sigmoid")
isnan = _floating_function("isnan", "isnan")
isinf = _floating_function("isinf", "isinf")
floor = _rounding_function("floor", "floor")
ceil = _rounding_function("ceil", "ceil")
round = _rounding_function("round", "round")
trunc = _rounding_function("trunc", "trunc")
less = _comparison("less", "<")
less_equal = _comparison("less_equal", "<=")
greater = _comparison("greater", ">")
greater_equal = _comparison("greater_equal", ">=")
equal = _comparison("equal", "==")
not_equal = _comparison("not_equal", "!=")
bitwise_and = _bitwise("bitwise_and", "&")
bitwise_or = _bitwise("bitwise_or", "|")
bitwise_xor = _bitwise("bitwise_xor", "^")
bitwise_invert = _bitwise("bitwise_invert", "~")
bitwise_left_shift = _bitwise("bitwise_left_shift", "<<")
bitwise_right_shift = _bitwise("bitwise_right_shift", ">>")
logical_and = _logical("logical_and", "and")
logical_or = _logical("logical_or", "or")
logical_not = _logical("logical_not", "not")
logical_xor = _logical("logical_xor", "!=")
arctan = _named("arctan", "NumPy's name of atan.", lambda x: atan(x))


@function
def abs(a: object) -> Value:
    """The absolute value."""
    return apply("abs", *_numbers("abs", a))


@function
def sign(a: object) -> Value:
    """-1, 0 or 1."""
    return apply("sign", *_numbers("sign", a))


@function
def square(a: object) -> Value:
    """a * a."""
    (value,) = _numbers("square", a)
    return value * value


@function
def reciprocal(a: object) -> Value:
    """1 / a."""
    (value,) = _floating("reciprocal", a)
    return 1 / value


@function
def copysign(a: object, b: object) -> Value:
    """|a| with the sign of b."""
    return apply("copysign", *_floating("copysign", a, b))


@function
def isfinite(a: object) -> Value:
    """Whether a is neither infinite nor NaN."""
    (value,) = _floating("isfinite", a)
    return apply("not", apply("or", apply("isnan", value), apply("isinf", value)))


@function
def log10(a: object) -> Value:
    """The logarithm to base 10."""
    (value,) = _floating("log10", a)
    return apply("log2", value) * math.log10(2.0)


@function
def sinh(a: object) -> Value:
    """Hyperbolic sine."""
    (value,) = _floating("sinh", a)
    growth = apply("expm1", value)
    return 0.5 * (growth + growth / (growth + 1))


@function
def cosh(a: object) -> Value:
    """Hyperbolic cosine."""
    (value,) = _floating("cosh", a)
    return 0.5 * (apply("exp", value) + apply("exp", -value))


@function
def logaddexp(a: object, b: object) -> Value:
    """log(exp(a) + exp(b)), without overflow."""
    x, y = _floating("logaddexp", a, b)
    high, gap = apply("max", x, y), apply("abs", x - y)
    same = apply("==", x, y)  # infinite alike: their difference would be NaN
    return high + apply("log1p", apply("exp", -apply("where", same, like(gap, 0), gap)))


@composite
def relu(x: object) -> Value:
    """max(x, 0); NaN stays NaN; the derivative at 0 is 0."""
    (value,) = _numbers("relu", x)
    zero = like(value, 0)
    return apply("where", apply("<=", value, zero), zero, value)
