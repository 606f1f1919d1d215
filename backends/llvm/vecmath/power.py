"""``x ** y`` on floats, with C99's table of special cases.

float is computed in double, ``2**(y log2 x)`` with log2 right to 2e-12. double keeps the logarithm
in two parts, right to 2**-65: ``s = f / (2 + f)`` in two parts, and the two leading terms of
``log(1 + f) = 2s + 2/3 s**3 + ...`` likewise.

=========  =====  =============  ======  ==============  ============
function   float  float, no fma  double  double, no fma  instructions
=========  =====  =============  ======  ==============  ============
pow        0.51   0.51           1.5     1.7             112, 141
=========  =====  =============  ======  ==============  ============

Errors are in ulp, over the whole range; instructions are those of one AVX2 vector, 8 floats or 4
doubles, without loads and copies.

Constant exponents -1, 1, 2, 3, 4 and 1/2 become products, a division and a square root.
Polynomials: minimax fits (Remez) of our own.
"""

from __future__ import annotations

import math

from graphc.backends.llvm.ir import V, literal
from graphc.backends.llvm.vecmath.exp import exp2_of_two
from graphc.backends.llvm.vecmath.lanes import DOUBLE, FLOAT, Lanes, format_of
from graphc.backends.llvm.vecmath.log import split

__all__ = ["power"]

#: log2(1 + f) / s in s**2
_LOG2 = (
    0.3407489932639617,
    0.4116717453247166,
    0.5770836003322961,
    0.9617966732663349,
    2.885390081790142,
)
#: (2**r - 1) / r, for float results
_EXP2 = (
    1.5196478714959527e-05,
    0.00015466739689277495,
    0.00133339334194902,
    0.009618038193356635,
    0.055504103685129515,
    0.24022651066039083,
    0.6931471807034341,
    1.0,
)
#: (log(1 + f) - 2s - 2/3 s**3) / s**5 in s**2
_TAIL = (
    0.12915869571194352,
    0.13285766656659473,
    0.15385580845953656,
    0.18181808159311594,
    0.22222222271682746,
    0.28571428571337115,
    0.4000000000000003,
)
_TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)
_LOG2_E = (1.4426950408889634, 2.0355273740931033e-17)


def power(m: Lanes, x: V, y: V) -> V:
    """``x ** y``; the exponent may be a double beside a float."""
    simple = _constant_power(m, x, y)
    if simple is not None:
        return simple
    magnitude = m.abs(x)
    if format_of(x) is FLOAT:
        wide = m.convert(magnitude, "double")
        exponent = m.convert(y, "double")
        result = m.convert(_exp2_in_double(m, m.mul(_log2(m, wide), exponent)), "float")
    else:
        exponent = y
        result = exp2_of_two(m, *_product(m, _log2_of_two(m, magnitude), y))
    return _special(m, x, y, _signed(m, x, y, result))


def _constant_power(m: Lanes, x: V, y: V) -> V | None:
    for value in (-1.0, 0.5, 1.0, 2.0, 3.0, 4.0):
        if y.text == literal(value, y.type).text:
            break
    else:
        return None
    if value == -1.0:
        return m.div(1.0, x)
    if value == 0.5:  # unlike sqrt, the power of -0 is +0 and that of -inf is inf
        root = m.function.intrinsic("sqrt", m.add(x, 0.0))
        return m.select(m.compare("oeq", x, -math.inf), math.inf, root)
    square = x if value == 1.0 else m.mul(x, x)
    return m.mul(square, {3.0: x, 4.0: square}[value]) if value > 2.0 else square


# ---- float in double


def _log2(m: Lanes, x: V) -> V:
    """Right to 2e-12; -inf at 0, inf at inf."""
    e, f = split(m, x, normal=True)
    s = m.div(f, m.add(f, 2.0))
    result = m.fma(m.polynomial(m.mul(s, s), _LOG2), s, e)
    return _ends(m, x, result)


def _exp2_in_double(m: Lanes, x: V) -> V:
    """Of float's range: beyond, anything that overflows or vanishes in float."""
    inside = m.at_most(300.0, m.at_least(-300.0, x))
    shifter = DOUBLE.shifter + DOUBLE.bias
    shifted = m.add(inside, shifter)
    r = m.sub(inside, m.sub(shifted, shifter))
    return m.mul(m.polynomial(r, _EXP2), m.float_of(m.integer("shl", m.bits(shifted), 52)))


def _ends(m: Lanes, x: V, result: V) -> V:
    """log2 of 0, infinity and NaN."""
    result = m.select(m.compare("olt", x, math.inf), result, x)
    return m.select(m.compare("oeq", x, 0.0), -math.inf, result)


# ---- double in two parts


def _log2_of_two(m: Lanes, x: V) -> tuple[V, V]:
    e, f = split(m, x)
    denominator, denominator_low = m.fast_two_sum(2.0, f)
    s = m.div(f, denominator)
    product, error = m.two_product(s, denominator)
    rest = m.sub(m.sub(m.sub(f, product), error), m.mul(s, denominator_low))
    s_low = m.div(rest, denominator)
    z, z_low = m.two_product(s, s)
    z_low = m.fma(m.mul(s, 2.0), s_low, z_low)
    factor, factor_low = m.fast_two_sum(_TWO_THIRDS[0], m.mul(m.polynomial(z, _TAIL), z))
    factor_low = m.add(factor_low, _TWO_THIRDS[1])
    cube, cube_low = _multiply(m, (z, z_low), (factor, factor_low))
    sum_, sum_low = m.fast_two_sum(2.0, cube)
    natural = _multiply(m, (s, s_low), (sum_, m.add(sum_low, cube_low)))
    constants = m.number(_LOG2_E[0], x), m.number(_LOG2_E[1], x)
    high, low = _multiply(m, natural, constants)
    high, error = m.fast_two_sum(e, high)
    high, low = m.fast_two_sum(high, m.add(error, low))
    return _ends(m, x, high), low


def _multiply(m: Lanes, a: tuple[V, V], b: tuple[V, V]) -> tuple[V, V]:
    high, low = m.two_product(a[0], b[0])
    low = m.add(low, m.fma(a[0], b[1], m.mul(a[1], b[0])))
    return m.fast_two_sum(high, low)


def _product(m: Lanes, logarithm: tuple[V, V], y: V) -> tuple[V, V]:
    """``y log2 x``; the low part is 0 where the result is 0 or infinite anyway, so that it is never
    NaN there.
    """
    # beyond 2**70 the power is 0, 1 or infinite; the clamp keeps Dekker's products finite
    y = m.at_most(2.0**80, m.at_least(-(2.0**80), y))
    high, low = m.two_product(logarithm[0], y)
    low = m.fma(logarithm[1], y, low)
    is_inside = m.compare("olt", m.abs(high), 2000.0)
    return high, m.select(is_inside, low, 0.0)


# ---- signs and special cases


def _signed(m: Lanes, x: V, y: V, magnitude: V) -> V:
    """Negative for negative x and odd y; NaN for finite negative x and y that is no integer."""
    whole = m.function.intrinsic("trunc", y)
    half = m.mul(y, 0.5)
    is_whole = m.compare("oeq", whole, y)
    is_half_whole = m.compare("oeq", m.function.intrinsic("trunc", half), half)
    is_negative = m.compare("slt", m.bits(x), 0)
    flipped = m.select(is_negative, m.neg(magnitude), magnitude)
    signed = m.select(is_half_whole, magnitude, m.select(is_whole, flipped, magnitude))
    is_finite_negative = m.both(m.compare("olt", x, 0.0), m.compare("ogt", x, -math.inf))
    is_fraction = m.compare("one", whole, y)
    return m.select(m.both(is_finite_negative, is_fraction), math.nan, signed)


def _special(m: Lanes, x: V, y: V, result: V) -> V:
    """``x ** 0`` and ``1 ** y`` are 1, even of NaN; ``(-1) ** inf`` is 1."""
    result = m.select(m.compare("uno", x, x), x, result)
    result = m.select(m.compare("uno", y, y), math.nan, result)
    is_one = m.either(m.compare("oeq", y, 0.0), m.compare("oeq", x, 1.0))
    is_minus_one = m.both(m.compare("oeq", x, -1.0), m.compare("oeq", m.abs(y), math.inf))
    return m.select(m.either(is_one, is_minus_one), 1.0, result)
