"""sin, cos, tan and atan in float and double, over the whole range and without branches.

An argument is reduced to quarter turns, ``x * 2/pi = n + f`` with ``|f| <= 1/2``, keeping only the
bits of 2/pi that matter (M. Payne and R. Hanek, "Radian reduction for trigonometric functions",
1983). Bits whose product with the last bit of x is a multiple of four turns nothing, so they are
dropped; which they are depends on the exponent of x.

* float works in double: the bits of 2/pi fit into two doubles, chosen among four pairs by the
  size of x.
* double takes four doubles out of a table by the exponent of x, and keeps f in two parts.

=========  =====  =============  ======  ==============  ============
function   float  float, no fma  double  double, no fma  instructions
=========  =====  =============  ======  ==============  ============
sin        1.5    1.7            0.85    0.85            61, 135
cos        1.84   2.05           0.85    0.85            61, 133
tan        0.51   0.51           2.0     2.0             97, 136
atan       2.2    2.2            1.4     1.4             20, 31
=========  =====  =============  ======  ==============  ============

Errors are in ulp, over the whole range; instructions are those of one AVX2 vector, 8 floats or 4
doubles, without loads and copies.

Sources: float's polynomials by N. Juffa (public posts on accurate sinf and cosf); double's from
fdlibm (Sun Microsystems, k_sin.c and k_cos.c); atan's are minimax fits (Remez) of our own.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

from graphc.backends.llvm.ir import PTR, LLVMType, V, literal
from graphc.backends.llvm.vecmath.lanes import DOUBLE, FLOAT, Lanes, format_of

__all__ = ["atan", "cos", "sin", "tan"]

_SIN_FLOAT = (2.86567956e-6, -1.98559923e-4, 8.33338592e-3, -1.66666672e-1)
_COS_FLOAT = (2.44677067e-5, -1.38877297e-3, 4.16666567e-2, -0.5, 1.0)
_SIN_DOUBLE = (  # fdlibm S6..S2; S1 stands alone
    1.58969099521155010221e-10,
    -2.50507602534068634195e-08,
    2.75573137070700676789e-06,
    -1.98412698298579493134e-04,
    8.33333333332248946124e-03,
)
_SIN_FIRST = -1.66666666666666324348e-01
_COS_DOUBLE = (  # fdlibm C6..C1
    -1.13596475577881948265e-11,
    2.08757232129817482790e-09,
    -2.75573143513906633035e-07,
    2.48015872894767294178e-05,
    -1.38888888888741095749e-03,
    4.16666666666666019037e-02,
)
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17)

#: (atan(x) - x) / x**3 in x**2 for |x| <= 1, highest power first
_ATAN = {
    FLOAT: (
        0.0028498906114564617,
        -0.01606864247208714,
        0.04269155920986132,
        -0.07504299710852042,
        0.10640937466371633,
        -0.14203645672877066,
        0.19992619602043693,
        -0.33333073360213483,
    ),
    DOUBLE: (
        -2.0018481170597968e-05,
        0.00022068613385287154,
        -0.0011535800179158506,
        0.003827137827562648,
        -0.00913031107637468,
        0.016904037711967242,
        -0.025751147940759618,
        0.03400872948686186,
        -0.04089077361869093,
        0.04672287883449064,
        -0.05238634041897263,
        0.05877142358486348,
        -0.06665825855864474,
        0.07692207609177779,
        -0.09090900647665989,
        0.11111110634357174,
        -0.142857142691963,
        0.1999999999969631,
        -0.3333333333333111,
    ),
}
_HALF_PI_PARTS = {FLOAT: (1.57079637050628662109375, -4.37113900018624283e-8), DOUBLE: _HALF_PI}


def sin(m: Lanes, x: V) -> V:
    """sin(-0) = -0, sin(inf) = nan."""
    n, s, c = _sin_cos(m, m.abs(x))
    return _itself_if_tiny(m, x, _with_sign(m, _pick(m, n, s, c), _turned(m, n), m.bits(x)))


def cos(m: Lanes, x: V) -> V:
    """cos(inf) = nan."""
    n, s, c = _sin_cos(m, m.abs(x))
    return _with_sign(m, _pick(m, n, c, s), _turned(m, m.integer("add", n, 1)), None)


def tan(m: Lanes, x: V) -> V:
    """sin / cos; float's is computed in double."""
    wide = m.convert(m.abs(x), "double")
    if format_of(x) is FLOAT:
        n, f = _reduce_float(m, wide)
        s, c = _double_polynomials(m, m.mul(f, _HALF_PI[0]), None)
    else:
        n, s, c = _sin_cos_double(m, wide)
    is_odd = _is_odd(m, n)
    minus_cos = m.neg(c)
    quotient = m.div(m.select(is_odd, minus_cos, s), m.select(is_odd, s, c))
    result = m.convert(quotient, x.type.element)
    flipped = m.integer("and", m.bits(x), _sign_bit(x))
    return _itself_if_tiny(m, x, m.float_of(m.integer("xor", m.bits(result), flipped)))


def _itself_if_tiny(m: Lanes, x: V, result: V) -> V:
    """Denormal doubles lose bits on the way through quarter turns; floats have room."""
    if format_of(x) is FLOAT:
        return result
    return m.select(m.compare("olt", m.abs(x), 2.0**-28), x, result)


def _sin_cos(m: Lanes, x: V) -> tuple[V, V, V]:
    """``n`` modulo 4, in x's width, and the sine and cosine of ``x - n pi/2``, for ``x >= 0``."""
    if format_of(x) is DOUBLE:
        return _sin_cos_double(m, x)
    n, f = _reduce_float(m, m.convert(x, "double"))
    r = m.convert(m.mul(f, _HALF_PI[0]), "float")
    z = m.mul(r, r)
    s = m.fma(m.polynomial(z, _SIN_FLOAT), m.mul(z, r), r)
    return m.function.cast("trunc", n, "i32"), s, m.polynomial(z, _COS_FLOAT)


def _sin_cos_double(m: Lanes, x: V) -> tuple[V, V, V]:
    n, f, f_low = _reduce_double(m, x)
    r, error = m.two_product(f, _HALF_PI[0])
    r_low = m.add(error, m.fma(f, _HALF_PI[1], m.mul(f_low, _HALF_PI[0])))
    return n, *_double_polynomials(m, r, r_low)


def _is_odd(m: Lanes, n: V) -> V:
    return m.function.compare("ne", m.integer("and", n, 1), m.number(0, n))


def _pick(m: Lanes, n: V, even: V, odd: V) -> V:
    return m.select(_is_odd(m, n), odd, even)


def _turned(m: Lanes, n: V) -> V:
    """The sign bit where n modulo 4 is 2 or 3."""
    shift = 30 if n.type.element == "i32" else 62
    return m.integer("and", m.integer("shl", n, shift), -(2 << shift))


def _with_sign(m: Lanes, value: V, sign: V, other: V | None) -> V:
    """The value, negated by a sign bit, and by another pattern's."""
    if other is not None:
        sign = m.integer("xor", sign, m.integer("and", other, _sign_bit(value)))
    return m.float_of(m.integer("xor", m.bits(value), sign))


def _sign_bit(x: V) -> int:
    return -(2**31) if format_of(x) is FLOAT else -(2**63)


def _double_polynomials(m: Lanes, r: V, low: V | None) -> tuple[V, V]:
    """Sine and cosine of ``r + low``, as fdlibm's kernels."""
    z = m.mul(r, r)
    cube = m.mul(z, r)
    tail = m.polynomial(z, _SIN_DOUBLE)
    half = m.mul(z, 0.5)
    near = m.sub(1.0, half)
    rest = m.sub(m.sub(1.0, near), half)
    far = m.mul(m.mul(z, z), m.polynomial(z, _COS_DOUBLE))
    if low is None:
        sine = m.fma(cube, m.fma(z, tail, _SIN_FIRST), r)
        return sine, m.add(near, m.add(rest, far))
    inner = m.sub(m.mul(low, 0.5), m.mul(cube, tail))
    correction = m.sub(m.mul(z, inner), low)
    sine = m.sub(r, m.sub(correction, m.mul(cube, _SIN_FIRST)))
    return sine, m.add(near, m.add(rest, m.sub(far, m.mul(r, low))))


# ---- reduction


def _reduce_float(m: Lanes, x: V) -> tuple[V, V]:
    """A float given as double, ``x >= 0``: n (i64, modulo 4) and f, right to 2**-55."""
    pairs = _float_pairs()
    high, low = (literal(part, x.type) for part in pairs[0][1:])
    for start, *parts in pairs[1:]:
        is_beyond = m.compare("oge", x, 2.0**start)
        high, low = (
            m.select(is_beyond, part, kept) for part, kept in zip(parts, (high, low), strict=True)
        )
    product, error = m.two_product(x, high)
    rest = m.fma(x, low, error)  # up to 1/8
    shifted = m.add(m.add(product, rest), DOUBLE.shifter)
    f = m.sub(product, m.sub(shifted, DOUBLE.shifter))
    return m.bits(shifted), m.add(f, rest)


def _reduce_double(m: Lanes, x: V) -> tuple[V, V, V]:
    """``x >= 0``: n (i64, modulo 4) and f in two parts, right to 2**-130."""
    bits = m.bits(x)
    exponent = m.integer("sub", m.integer("lshr", bits, 52), DOUBLE.bias + _FIRST)
    is_large = m.function.compare("sge", exponent, m.number(0, exponent))
    row = m.integer("add", m.integer("lshr", exponent, 4), 1)
    row = m.function.select(is_large, row, m.number(0, row))
    # x * 2**(-50 - 16 (row - 1)), in [1, 2**16): the table holds the rest of the power
    steps = m.integer("shl", m.integer("sub", m.integer("shl", row, 4), 16 - _FIRST), 52)
    scaled = m.float_of(m.integer("sub", bits, steps))
    finite = m.compare("olt", x, math.inf)
    x = m.select(finite, m.select(is_large, scaled, x), math.nan)
    c0, c1, c2, c3 = _table_row(m, row)
    p0, e0 = m.two_product(x, c0)
    p1, e1 = m.two_product(x, c1)
    p2, e2 = m.two_product(x, c2)
    fours = m.nearest(m.mul(p0, 0.25))
    a, b = m.two_sum(e0, p1)
    c, d = m.two_sum(m.fma(fours, -4.0, p0), a)
    shifted = m.add(c, DOUBLE.shifter)
    whole = m.sub(c, m.sub(shifted, DOUBLE.shifter))
    u, u_low = m.two_sum(d, b)
    v, v_low = m.two_sum(e1, p2)
    w, w_low = m.two_sum(u, v)
    f, f_low = m.two_sum(whole, w)
    rest = m.add(m.add(w_low, m.add(u_low, v_low)), m.fma(x, c3, e2))
    high, low = m.fast_two_sum(f, m.add(f_low, rest))
    return m.bits(shifted), high, low


#: double: arguments below 2**_FIRST need no bits of 2/pi dropped; above, a row of the table for 16
#: exponents
_FIRST = 50
_TABLE = "graphc.two_over_pi"


def _table_row(m: Lanes, row: V) -> list[V]:
    module = m.function.module
    values = [value for parts in _double_rows() for value in parts]
    text = ", ".join(f"double {literal(value, LLVMType('double')).text}" for value in values)
    module.declare_text(_TABLE, f"@{_TABLE} = internal constant [{len(values)} x double] [{text}]")
    start = m.integer("shl", row, 2)
    return [_gather(m, m.integer("add", start, i) if i else start) for i in range(4)]


def _gather(m: Lanes, index: V) -> V:
    result = index.type.of("double")
    f = m.function
    if index.type.lanes == 1:
        return f.load(result, f.offset(V(f"@{_TABLE}", PTR), index, "double"), 8)
    pointers = index.type.of("ptr")
    where = f.let(f"getelementptr double, ptr @{_TABLE}, {index}", pointers)
    name = f"llvm.masked.gather.{result.suffix}.{pointers.suffix}"
    mask = literal(True, index.type.of("i1"))
    f.module.declare_text(name, f"declare {result} @{name}({pointers}, {mask.type}, {result})")
    return f.let(
        f"call {result} @{name}({pointers} align 8 {where.text}, {mask}, {result} poison)", result
    )


@functools.cache
def _two_over_pi(bits: int) -> Fraction:
    """2/pi to ``bits`` bits, by Machin's formula."""
    one = 1 << (bits + 16)

    def arctangent_of_inverse(n: int) -> int:
        total, power, k = 0, one // n, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power //= n * n
            k += 2
        return total

    pi = 4 * (4 * arctangent_of_inverse(5) - arctangent_of_inverse(239))
    return Fraction(2 * one, pi)


def _parts(value: Fraction, count: int) -> list[float]:
    """The value as a sum of doubles, each nearest to what is left."""
    parts = []
    for _ in range(count):
        parts.append(value.numerator / value.denominator)  # rounded correctly by Python
        value -= Fraction(parts[-1])
    return parts


@functools.cache
def _float_pairs() -> list[tuple[int, float, float]]:
    """Which pair stands for 2/pi from which power of two on.

    Above ``2**start`` the bits of ``2**(25 - start)`` and more are left out.
    """
    exact = _two_over_pi(400)
    rows = []
    for start in (0, 50, 76, 102):
        high, low = _parts(exact % Fraction(2) ** (25 - start), 2)
        rows.append((start, high, low))
    return rows


@functools.cache
def _double_rows() -> list[list[float]]:
    exact = _two_over_pi(1400)
    rows = [_parts(exact, 4)]
    for power in range(_FIRST, 1024, 16):
        rows.append(_parts(exact * Fraction(2) ** power % 2**54, 4))
    return rows


# ---- atan


def atan(m: Lanes, x: V) -> V:
    """In (-pi/2, pi/2); above 1 it is ``pi/2 - atan(1/x)``."""
    form = format_of(x)
    a = m.abs(x)
    is_beyond = m.compare("ogt", a, 1.0)
    t = m.select(is_beyond, m.div(1.0, a), a)
    z = m.mul(t, t)
    tail = m.mul(m.mul(m.polynomial(z, _ATAN[form]), z), t)
    high, low = _HALF_PI_PARTS[form]
    beyond = m.sub(high, m.sub(m.add(t, tail), low))
    return m.signed(m.select(is_beyond, beyond, m.add(t, tail)), x)
