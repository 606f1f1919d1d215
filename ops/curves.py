"""Elementwise functions that a kernel computes by several scalar ops: inverse sines, lengths.

They are ops, not composites, for the sake of their derivatives: those of the parts would be NaN at
points where the whole is smooth. Short floats are computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    function,
    register,
    single,
    tensor,
)
from graphc.ops.arithmetic import _floating
from graphc.ops.elementwise import like
from graphc.ops.lifting import who
from graphc.types import TensorType, float16, float32, float64, int64

__all__ = ["acos", "acosh", "asin", "asinh", "atan2", "atanh", "cosh", "hypot", "sinh"]

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]
Partial = Callable[[Value, tuple[Value, ...]], Value]

#: from here on 1 is lost beside a square, which does not overflow before
_LARGE = 1e9


def _register(
    name: str,
    doc: str,
    reference: Callable[..., Any],
    compute: Callable[..., Term],
    *partials: Partial,
    low: float = -2.0,
    high: float = 2.0,
) -> None:
    arity = len(partials)

    def type_(types: Types, attrs: Attrs) -> Types:
        first = types[0]
        if not first.dtype.is_float:
            raise DTypeError(f"{who(name)}: {first} must be floating")
        if any(t != first for t in types):
            raise ShapeError(f"{who(name)}({', '.join(map(str, types))}): types differ")
        return (first,)

    def evaluate(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
        wide = [a.astype(np.float64) for a in arrays]
        with np.errstate(all="ignore"):
            return (np.asarray(reference(*wide)).astype(arrays[0].dtype),)

    def vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
        g = cotangents[0]
        return tuple(None if g is None else partial(g, node.inputs) for partial in partials)

    def jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
        pairs = zip(partials, tangents, strict=True)
        terms = [partial(t, node.inputs) for partial, t in pairs if t is not None]
        return (None if not terms else terms[0] if len(terms) == 1 else terms[0] + terms[1],)

    def lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
        dtype = node.outputs[0].dtype
        wide = dtype if dtype.itemsize >= 4 else float32
        return build.cast(compute(*(build.cast(x(index), wide) for x in inputs)), dtype)

    def batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
        return (apply(name, *lanes.all(inputs)),)

    shapes = ((3, 4), (), (0, 3), (1,), (17,))
    samples = [Sample((tensor(s),) * arity, low=low, high=high) for s in shapes]
    for dtype in (float64, float16):
        samples.append(Sample((tensor((3, 4), dtype),) * arity, low=low, high=high))
    special = Sample((tensor((40,)),) * arity, special=True, differentiable=False)
    errors = [ErrorSample((tensor((2,), int64),) * arity, {}, DTypeError, "must be floating")]
    if arity > 1:
        unequal = (tensor((2,)), tensor((3,)))
        errors.append(ErrorSample(unequal, {}, ShapeError, "types differ"))
    register(
        Op(
            name,
            doc,
            type_,
            evaluate,
            vjp,
            jvp,
            single(lower),
            (*samples, special),
            tuple(errors),
            batch=batch,
        )
    )


# ---- in scalar ops


def _op(name: str, *terms: Term) -> Term:
    return build.apply(name, *terms)


def _number(value: float, beside: Term) -> Term:
    return build.const(value, beside.dtype)


def _angle(y: Term, x: Term) -> Term:
    """atan of the smaller over the larger, then moved to its octant."""
    zero, one = _number(0.0, x), _number(1.0, x)
    flat, tall = _op("abs", x), _op("abs", y)
    large, small = _op("max", flat, tall), _op("min", flat, tall)
    alike = _op("where", _op("==", large, zero), zero, one)  # 0 / 0 and inf / inf are no numbers
    ratio = _op("where", _op("==", small, large), alike, _op("/", small, large))
    angle = _op("atan", ratio)
    steep = _op("-", _number(math.pi / 2, x), angle)
    angle = _op("where", _op(">", tall, flat), steep, angle)
    left = _op("<", _op("copysign", one, x), zero)
    angle = _op("where", left, _op("-", _number(math.pi, x), angle), angle)
    return _op("copysign", angle, y)


def _sides(x: Term) -> tuple[Term, Term]:
    """1 - x and 1 + x."""
    one = _number(1.0, x)
    return _op("-", one, x), _op("+", one, x)


def _asin(x: Term) -> Term:
    return _angle(x, _op("sqrt", _op("*", *_sides(x))))


def _acos(x: Term) -> Term:
    below, above = _sides(x)
    half = _angle(_op("sqrt", below), _op("sqrt", above))
    return _op("+", half, half)


def _log_of_double(x: Term) -> Term:
    return _op("+", _op("log", x), _number(math.log(2.0), x))


def _asinh(x: Term) -> Term:
    size = _op("abs", x)
    one, square = _number(1.0, x), _op("*", size, size)
    root = _op("sqrt", _op("+", square, one))
    near = _op("log1p", _op("+", size, _op("/", square, _op("+", one, root))))
    large = _op(">", size, _number(_LARGE, x))
    return _op("copysign", _op("where", large, _log_of_double(size), near), x)


def _acosh(x: Term) -> Term:
    above = _op("-", x, _number(1.0, x))
    root = _op("*", _op("sqrt", above), _op("sqrt", _op("+", above, _number(2.0, x))))
    near = _op("log1p", _op("+", above, root))
    return _op("where", _op(">", x, _number(_LARGE, x)), _log_of_double(x), near)


def _atanh(x: Term) -> Term:
    size = _op("abs", x)
    ratio = _op("/", _op("+", size, size), _op("-", _number(1.0, x), size))
    return _op("copysign", _op("*", _number(0.5, x), _op("log1p", ratio)), x)


def _hypot(x: Term, y: Term) -> Term:
    a, b = _op("abs", x), _op("abs", y)
    large, small = _op("max", a, b), _op("min", a, b)
    ratio = _op("/", small, large)
    length = _op("*", large, _op("sqrt", _op("fma", ratio, ratio, _number(1.0, x))))
    length = _op("where", _op("==", large, _number(0.0, x)), large, length)
    infinite = _op("or", _op("isinf", x), _op("isinf", y))
    return _op("where", infinite, _number(math.inf, x), length)


def _half_of_exp(size: Term) -> Term:
    """exp(size) / 2, which is finite for somewhat larger sizes than exp."""
    root = _op("exp", _op("*", _number(0.5, size), size))
    return _op("*", _op("*", _number(0.5, size), root), root)


def _cosh(x: Term) -> Term:
    growing = _half_of_exp(_op("abs", x))
    return _op("+", growing, _op("/", _number(0.25, x), growing))


def _sinh(x: Term) -> Term:
    size = _op("abs", x)
    growth = _op("expm1", size)
    part = _op("/", growth, _op("+", growth, _number(1.0, x)))
    near = _op("*", _number(0.5, x), _op("+", growth, part))
    large = _op(">", size, _number(20.0, x))
    return _op("copysign", _op("where", large, _half_of_exp(size), near), x)


# ---- the ops


def _square_sum(x: tuple[Value, ...]) -> Value:
    return x[0] * x[0] + x[1] * x[1]


def _share(g: Value, x: tuple[Value, ...], own: int) -> Value:
    """x / hypot(x, y), 0 where both are 0."""
    length = apply("hypot", *x)
    zero = apply("==", length, like(length, 0))
    return g * (x[own] / apply("where", zero, like(length, 1), length))


_register("sinh", "Hyperbolic sine.", np.sinh, _sinh, lambda g, x: g * apply("cosh", x[0]))
_register("cosh", "Hyperbolic cosine.", np.cosh, _cosh, lambda g, x: g * apply("sinh", x[0]))
_register(
    "asin",
    "Arc sine; NaN outside -1..1.",
    np.arcsin,
    _asin,
    lambda g, x: g / apply("sqrt", (1 - x[0]) * (1 + x[0])),
    low=-0.9,
    high=0.9,
)
_register(
    "acos",
    "Arc cosine; NaN outside -1..1.",
    np.arccos,
    _acos,
    lambda g, x: -g / apply("sqrt", (1 - x[0]) * (1 + x[0])),
    low=-0.9,
    high=0.9,
)
_register(
    "atan2",
    "The angle of the point (b, a): the arc tangent of a / b in its quadrant.",
    np.arctan2,
    _angle,
    lambda g, x: g * (x[1] / _square_sum(x)),
    lambda g, x: -g * (x[0] / _square_sum(x)),
)
_register(
    "asinh",
    "Inverse hyperbolic sine.",
    np.arcsinh,
    _asinh,
    lambda g, x: g / apply("sqrt", x[0] * x[0] + 1),
)
_register(
    "acosh",
    "Inverse hyperbolic cosine; NaN below 1.",
    np.arccosh,
    _acosh,
    lambda g, x: g / apply("sqrt", (x[0] - 1) * (x[0] + 1)),
    low=1.1,
    high=3.0,
)
_register(
    "atanh",
    "Inverse hyperbolic tangent; NaN outside -1..1.",
    np.arctanh,
    _atanh,
    lambda g, x: g / ((1 - x[0]) * (1 + x[0])),
    low=-0.9,
    high=0.9,
)
_register(
    "hypot",
    "sqrt(a * a + b * b) without overflow; its derivative at 0 is 0.",
    np.hypot,
    _hypot,
    lambda g, x: _share(g, x, 0),
    lambda g, x: _share(g, x, 1),
)


# ---- the functions


@function
def sinh(x: object) -> Value:
    """Hyperbolic sine."""
    return apply("sinh", *_floating("sinh", x))


@function
def cosh(x: object) -> Value:
    """Hyperbolic cosine."""
    return apply("cosh", *_floating("cosh", x))


@function
def asin(x: object) -> Value:
    """Arc sine; NaN outside -1..1."""
    return apply("asin", *_floating("asin", x))


@function
def acos(x: object) -> Value:
    """Arc cosine; NaN outside -1..1."""
    return apply("acos", *_floating("acos", x))


@function
def asinh(x: object) -> Value:
    """Inverse hyperbolic sine."""
    return apply("asinh", *_floating("asinh", x))


@function
def acosh(x: object) -> Value:
    """Inverse hyperbolic cosine; NaN below 1."""
    return apply("acosh", *_floating("acosh", x))


@function
def atanh(x: object) -> Value:
    """Inverse hyperbolic tangent; NaN outside -1..1."""
    return apply("atanh", *_floating("atanh", x))


@function
def atan2(a: object, b: object) -> Value:
    """The angle of the point (b, a): the arc tangent of a / b in its quadrant.

    >>> atan2([1.0], [-1.0]).shape
    (1,)
    """
    return apply("atan2", *_floating("atan2", a, b))


@function
def hypot(a: object, b: object) -> Value:
    """sqrt(a * a + b * b) without overflow."""
    return apply("hypot", *_floating("hypot", a, b))
