"""Floating-point arithmetic that IEEE 754 defines, and what follows from it directly.

``max`` and ``min`` propagate NaN like NumPy's (3 instructions, 1 with a constant). ``//`` and ``%``
follow Python: the remainder has the divisor's sign and is exact, for any quotient.

=========  =====  =============  ======  ==============  ============
function   float  float, no fma  double  double, no fma  instructions
=========  =====  =============  ======  ==============  ============
sqrt       0.5    0.5            0.5     0.5             1, 1
rsqrt      1.5    1.5            1.5     1.5             2, 2
=========  =====  =============  ======  ==============  ============

Errors are in ulp, over the whole range; instructions are those of one AVX2 vector, 8 floats or 4
doubles, without loads and copies.
"""

from __future__ import annotations

import math

from graphc.backends.llvm.ir import Function, LLVMType, V
from graphc.backends.llvm.vecmath.lanes import DOUBLE, Lanes, format_of, is_number

__all__ = ["floor_divide", "fused", "fused_odd", "maximum", "minimum", "remainder", "rsqrt", "sign"]


def maximum(m: Lanes, a: V, b: V) -> V:
    """The larger one, or NaN if either is; of zeros either."""
    return _extremum(m, "ogt", a, b)


def minimum(m: Lanes, a: V, b: V) -> V:
    """The smaller one, or NaN if either is; of zeros either."""
    return _extremum(m, "olt", a, b)


def _extremum(m: Lanes, predicate: str, a: V, b: V) -> V:
    if is_number(b):
        a, b = b, a
    # maxps gives its second operand where one is NaN: only a NaN of the first has to be put back
    result = m.select(m.compare(predicate, a, b), a, b)
    if is_number(a):
        return result
    return m.select(m.compare("uno", a, a), a, result)


def sign(m: Lanes, x: V) -> V:
    """-1, 0 or 1; NaN stays; both zeros give +0."""
    positive = m.select(m.compare("ogt", x, 0.0), 1.0, x)
    return m.add(m.select(m.compare("olt", x, 0.0), -1.0, positive), 0.0)


def rsqrt(m: Lanes, x: V) -> V:
    """rsqrt(0) = inf, rsqrt(negative) = nan."""
    return m.div(1.0, m.function.intrinsic("sqrt", x))


def fused(m: Lanes, a: V, b: V, c: V) -> V:
    """``a * b + c`` of floats or doubles rounded once, with or without the instruction."""
    if m.features.fma:
        return m.fma(a, b, c)
    if format_of(a) is DOUBLE:
        return _fused_double(m, a, b, c)
    return m.convert(fused_odd(m, a, b, c), "float")


def fused_odd(m: Lanes, a: V, b: V, c: V) -> V:
    """``a * b + c`` of floats as a double rounded to odd: only a later rounding counts."""
    wide_a, wide_b, wide_c = (m.convert(x, "double") for x in (a, b, c))
    total, error = m.two_sum(m.mul(wide_a, wide_b), wide_c)  # the product is exact
    return _to_odd(m, total, error)


def _fused_double(m: Lanes, a: V, b: V, c: V) -> V:
    """Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008."""
    high, low = m.two_product(a, b)
    inner, inner_error = m.two_sum(c, low)
    outer, outer_error = m.two_sum(high, inner)
    exact = m.add(outer, _to_odd(m, *m.two_sum(outer_error, inner_error)))
    is_finite = m.compare("olt", m.abs(exact), math.inf)
    return m.select(is_finite, exact, m.add(m.mul(a, b), c))


def _to_odd(m: Lanes, total: V, error: V) -> V:
    """A sum, given as nearest value and exact rest, rounded to odd."""
    bits = m.bits(total)
    is_towards = m.function.binary(
        "xor", m.compare("ogt", error, 0.0), m.compare("ogt", total, 0.0)
    )
    step = m.function.select(is_towards, m.number(-1, bits), m.number(1, bits))
    moved = m.float_of(m.integer("add", bits, step))
    is_even = m.function.compare("eq", m.integer("and", bits, 1), m.number(0, bits))
    is_inexact = m.compare("one", error, 0.0)
    return m.select(m.both(is_even, is_inexact), moved, total)


# ---- // and %


def remainder(m: Lanes, a: V, b: V) -> V:
    """``a - floor(a / b) * b``, exactly, with b's sign; NaN for b = 0 or infinite a."""
    rest = _fmod(m, a, b)
    is_zero = m.compare("oeq", rest, 0.0)
    moved = m.select(_signs_differ(m, rest, b), m.add(rest, b), rest)
    return m.select(is_zero, m.copysign(0.0, b), moved)


def floor_divide(m: Lanes, a: V, b: V) -> V:
    """``floor(a / b)`` of the exact quotient, as NumPy: a / 0 is infinite or NaN."""
    rest = _fmod(m, a, b)
    whole = m.div(m.sub(a, rest), b)
    is_moved = m.both(m.compare("une", rest, 0.0), _signs_differ(m, rest, b))
    whole = m.select(is_moved, m.sub(whole, 1.0), whole)  # an integer, but for rounding
    floor = m.function.intrinsic("floor", whole)
    is_above = m.compare("ogt", m.sub(whole, floor), 0.5)
    whole = m.select(is_above, m.add(floor, 1.0), floor)
    quotient = m.div(a, b)
    result = m.select(m.compare("oeq", whole, 0.0), m.copysign(0.0, quotient), whole)
    return m.select(m.compare("oeq", b, 0.0), quotient, result)


def _signs_differ(m: Lanes, a: V, b: V) -> V:
    return m.function.binary("xor", m.compare("olt", a, 0.0), m.compare("olt", b, 0.0))


def _fmod(m: Lanes, a: V, b: V) -> V:
    """C's fmod; float's is computed in double. A function of the module: it needs a loop."""
    wide = m.convert(a, "double")
    other = m.convert(b, "double")
    name = f"graphc.fmod.{wide.type.suffix}" + ("" if m.features.fma else ".split")
    if not m.function.module.defines(name):
        _define_fmod(m, name, wide.type)
    result = m.function.let(f"call {wide.type} @{name}({wide}, {other})", wide.type)
    return m.convert(result, a.type.element)


def _define_fmod(outer: Lanes, name: str, type_: LLVMType) -> None:
    """``while a >= b: a -= q * b * 2**k`` with integers q below 2**53.

    Each step is exact and takes 52 bits off.
    """
    parameters = [(str(type_), "a"), (str(type_), "b")]
    function = Function(
        outer.function.module, name, parameters, result=str(type_), linkage="internal"
    )
    m = Lanes(function, outer.features)
    signed, divisor = V("%a", type_), m.abs(V("%b", type_))
    is_valid = m.both(m.compare("olt", m.abs(signed), math.inf), m.compare("ogt", divisor, 0.0))
    start = m.select(is_valid, m.abs(signed), 0.0)
    divisor = m.select(is_valid, divisor, 1.0)
    rest, following = V("%rest", type_), "%following"
    function.jump("head")
    function.label("head")
    function.line(f"%rest = phi {type_} [ {start.text}, %entry ], [ {following}, %step ]")
    is_open = m.compare("oge", rest, divisor)
    function.branch(_any(m, is_open), "step", "done")
    function.label("step")
    function.line(f"{following} = select {is_open}, {_fmod_step(m, rest, divisor)}, {rest}")
    function.jump("head")
    function.label("done")
    result = m.select(is_valid, m.copysign(rest, signed), math.nan)
    outer.function.module.add(function, f"ret {result}")


def _fmod_step(m: Lanes, rest: V, divisor: V) -> V:
    """``rest mod (divisor * 2**k)``, k such that the quotient is below 2**53."""
    ratio = m.div(rest, divisor)
    near = m.select(m.compare("oeq", ratio, math.inf), m.mul(divisor, 2.0**900), divisor)
    ratio = m.div(rest, near)
    power = m.float_of(m.integer("and", m.bits(ratio), 0x7FF << 52))
    scaled = m.mul(near, m.at_least(1.0, m.mul(power, 2.0**-52)))
    quotient = m.function.intrinsic("trunc", m.div(rest, scaled))
    high, low = m.two_product(quotient, scaled)
    left = m.sub(m.sub(rest, high), low)
    return m.select(m.compare("olt", left, 0.0), m.add(left, scaled), left)


def _any(m: Lanes, condition: V) -> V:
    if condition.type.lanes == 1:
        return condition
    return m.function.intrinsic("vector.reduce.or", condition, result=LLVMType("i1"))
