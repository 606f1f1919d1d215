"""Elementwise functions, named as the array API's: they promote, broadcast, and apply one primitive
or a few.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphc.errors import DTypeError
from graphc.graph import Value, apply
from graphc.op import OPS, composite, function
from graphc.ops.elementwise import like
from graphc.ops.lifting import (
    broadcast_shapes,
    broadcast_to,
    full,
    lift,
    lift_one,
    promote,
    settle,
    settle_all,
    who,
)
from graphc.source import here
from graphc.types import bool_, dtype_of, float32, int64

__all__ = [
    "abs",
    "add",
    "arctan",
    "astype",
    "atan",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "ceil",
    "clip",
    "copysign",
    "cos",
    "divide",
    "equal",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "positive",
    "pow",
    "reciprocal",
    "relu",
    "remainder",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "trunc",
    "where",
]


def _numbers(name: str, *operands: object) -> list[Value]:
    """Lifted operands of an arithmetic function; bools count as integers."""
    prepared, dtype = promote(name, operands)
    return settle_all(name, prepared, int64 if dtype.kind == "b" else dtype)


def _floating(name: str, *operands: object) -> list[Value]:
    """Lifted operands of a floating function; integers become float32."""
    prepared, dtype = promote(name, operands)
    return settle_all(name, prepared, dtype if dtype.is_float else float32)


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
    whole = isinstance(b, int) and b in (1, 2, 3)
    if isinstance(a, Value) and a.dtype.is_integer and whole:
        return a if b == 1 else a * a if b == 2 else a * a * a
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
    """x kept within min and max (None: no bound); the derivative is 1 on the bounds and 0 outside,
    as PyTorch's.
    """
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
        raise DTypeError(
            f"{who('where')}: the condition is {c.dtype}, it must be bool: write c != 0", here()
        )
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
