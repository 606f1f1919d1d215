"""exp, exp2, expm1, tanh and sigmoid in float and double.

``x = n ln2 + r`` with ``|r| <= ln2 / 2`` (Cody and Waite's two-part ln2, whose high part times n is
exact), a polynomial in r, and two scalings by powers of two, so that overflow, underflow and
denormal results are rounded once, as they should be.

=========  =====  =============  ======  ==============  ============
function   float  float, no fma  double  double, no fma  instructions
=========  =====  =============  ======  ==============  ============
exp        0.87   1.2            0.85    1.2             17, 22
exp2       0.96   1.3            0.95    1.2             16, 21
expm1      1.5    1.6            1.9     2.0             19, 24
tanh       1.52   1.7            1.5     1.6             26, 37
sigmoid    2.41   2.41           2.0     2.0             20, 25
=========  =====  =============  ======  ==============  ============

Errors are in ulp, over the whole range; instructions are those of one AVX2 vector, 8 floats or 4
doubles, without loads and copies.

Sources: float exp's polynomial by N. Juffa (public posts on accurate expf); ln2 in two parts as in
fdlibm (Sun Microsystems, e_exp.c); double's and exp2's polynomials are minimax fits (Remez) of our
own.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.ir import V
from graphc.backends.llvm.vecmath.lanes import DOUBLE, FLOAT, Format, Lanes, format_of
from graphc.records import dataclass

__all__ = ["exp", "exp2", "exp2_of_two", "exp_negative", "expm1", "sigmoid", "tanh"]

LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453
#: (tanh(x) - x) / x**3 in x**2 for |x| <= 0.6
_TANH_NEAR = {
    FLOAT: (
        -0.005906337269578465,
        0.02080582210700266,
        -0.053786827346714576,
        0.1333196017141026,
        -0.33333299357915097,
    ),
    DOUBLE: (
        -1.7214088340879562e-05,
        7.938389570187506e-05,
        -0.00023045652750716618,
        0.0005872171995294766,
        -0.0014552239759251535,
        0.0035920390318340146,
        -0.008863226980574467,
        0.021869488018056455,
        -0.05396825394997855,
        0.13333333333301167,
        -0.33333333333333137,
    ),
}


@dataclass(frozen=True)
class _Constants:
    """Per format: ln2 in two parts, polynomials (highest power first), the ends of the range."""

    ln2_high: float
    ln2_low: float
    exp_tail: tuple[float, ...]  # (exp(r) - 1 - r) / r**2
    exp2_tail: tuple[float, ...]  # (2**r - 1) / r
    lowest: float  # exp below is 0
    highest: float  # exp above is inf
    lowest2: float
    highest2: float
    expm1_lowest: float  # expm1 below is -1 after rounding
    half_scale: int  # the exponent that the second scaling takes over


_CONSTANTS = {
    FLOAT: _Constants(
        ln2_high=0.693145751953125,
        ln2_low=1.42860682030941723212e-6,
        exp_tail=(1.37805939e-3, 8.37312452e-3, 4.16695364e-2, 1.66664720e-1, 4.99999851e-1),
        exp2_tail=(
            0.0001535359882098761,
            0.0013398851966599124,
            0.009618436384999034,
            0.055503325461914506,
            0.24022647923234453,
            0.6931472028012406,
        ),
        lowest=-104.0,
        highest=89.0,
        lowest2=-151.0,
        highest2=129.0,
        expm1_lowest=-18.0,
        half_scale=64,
    ),
    DOUBLE: _Constants(
        ln2_high=6.93147180369123816490e-01,
        ln2_low=1.90821492927058770002e-10,
        exp_tail=(
            2.5000085427038092e-08,
            2.763027347366431e-07,
            2.7557586448551033e-06,
            2.4801493050238497e-05,
            0.00019841269506387505,
            0.0013888888943651815,
            0.008333333333494555,
            0.0416666666665302,
            0.16666666666666413,
            0.5000000000000011,
        ),
        exp2_tail=(
            4.43483223478597e-10,
            7.073778666832305e-09,
            1.0178199095716571e-07,
            1.3215435311725135e-06,
            1.5252733494515579e-05,
            0.0001540353045704583,
            0.0013333558146772784,
            0.009618129107594181,
            0.05550410866482009,
            0.2402265069591013,
            0.6931471805599453,
        ),
        lowest=-746.0,
        highest=710.0,
        lowest2=-1076.0,
        highest2=1025.0,
        expm1_lowest=-38.0,
        half_scale=512,
    ),
}


def exp(m: Lanes, x: V) -> V:
    """exp(-inf) = 0, exp(inf) = inf, denormal results are rounded once."""
    form, c = format_of(x), _CONSTANTS[format_of(x)]
    inside = m.at_most(c.highest, m.at_least(c.lowest, x))
    r, shifted = _reduce(m, inside, form.shifter + 2 * form.bias)
    return _scale_twice(m, _exp_polynomial(m, r, c.exp_tail), shifted, x)


def exp2(m: Lanes, x: V) -> V:
    """``2**x``, exact for integers."""
    form, c = format_of(x), _CONSTANTS[format_of(x)]
    inside = m.at_most(c.highest2, m.at_least(c.lowest2, x))
    shifted = m.add(inside, form.shifter + 2 * form.bias)
    r = m.sub(inside, m.sub(shifted, form.shifter + 2 * form.bias))
    power = m.polynomial(r, (*c.exp2_tail, 1.0))
    return _scale_twice(m, power, shifted, x)


def exp2_of_two(m: Lanes, high: V, low: V) -> V:
    """``2**(high + low)`` for a low part below ``high``'s last place."""
    form, c = format_of(high), _CONSTANTS[format_of(high)]
    inside = m.at_most(c.highest2, m.at_least(c.lowest2, high))
    shifted = m.add(inside, form.shifter + 2 * form.bias)
    r = m.sub(inside, m.sub(shifted, form.shifter + 2 * form.bias))
    power = m.polynomial(r, (*c.exp2_tail, 1.0))
    power = m.fma(power, m.mul(low, LN2), power)
    return _scale_twice(m, power, shifted, high)


def expm1(m: Lanes, x: V) -> V:
    """``exp(x) - 1`` without cancellation; keeps -0 and denormals."""
    form, c = format_of(x), _CONSTANTS[format_of(x)]
    inside = m.at_most(c.highest, m.at_least(c.expm1_lowest, x))
    # 2**(n - 1) stays finite at n = bias + 1; the last step doubles
    r, shifted = _reduce(m, inside, form.shifter + form.bias - 1)
    half = _power_of_two(m, shifted, form)
    result = m.fma(_expm1_polynomial(m, r, c.exp_tail), half, m.sub(half, 0.5))
    result = m.add(result, result)
    is_tiny = m.compare("olt", m.abs(x), 2.0 ** -(form.fraction + 2))
    return m.select(is_tiny, x, result)


def tanh(m: Lanes, x: V) -> V:
    """``1 - 2 / (exp(2|x|) + 1)``, an odd polynomial below 0.6. tanh(-0) = -0, tanh(inf) = 1."""
    form, c = format_of(x), _CONSTANTS[format_of(x)]
    a = m.abs(x)
    z = m.mul(a, a)
    near = m.fma(m.polynomial(z, _TANH_NEAR[form]), m.mul(a, z), a)
    inside = m.at_most(20.0, a)  # errors of exp(2a) are damped: one step reduces
    shifter = form.shifter + form.bias
    shifted = m.fma(inside, 2 * LOG2_E, shifter)
    r = m.fma(inside, 2 * LOG2_E, m.neg(m.sub(shifted, shifter)))
    power = m.polynomial(r, (*c.exp2_tail, 1.0))
    total = m.fma(power, _power_of_two(m, shifted, form), 1.0)
    far = m.sub(1.0, m.div(2.0, total))
    return m.signed(m.select(m.compare("olt", a, 0.6), near, far), x)


def sigmoid(m: Lanes, x: V) -> V:
    """``1 / (1 + e)`` or ``e / (1 + e)`` with ``e = exp(-|x|)``: nothing overflows, denormal
    results are right.
    """
    e = exp_negative(m, m.neg(m.abs(x)))
    above = m.select(m.compare("olt", x, 0.0), e, 1.0)
    return m.div(above, m.add(e, 1.0))


def exp_negative(m: Lanes, x: V) -> V:
    """exp of ``x <= 0``: two instructions less."""
    form, c = format_of(x), _CONSTANTS[format_of(x)]
    r, shifted = _reduce(m, m.at_least(c.lowest, x), form.shifter + form.bias + c.half_scale)
    scaled = m.mul(_exp_polynomial(m, r, c.exp_tail), _power_of_two(m, shifted, form))
    return m.mul(scaled, 2.0**-c.half_scale)


def _reduce(m: Lanes, x: V, shifter: float) -> tuple[V, V]:
    """``r = x - n ln2`` and ``n + shifter``, whose low bits hold n and the shifter's integer."""
    c = _CONSTANTS[format_of(x)]
    shifted = m.fma(x, LOG2_E, shifter)
    n = m.sub(shifted, shifter)
    r = m.fma(n, -c.ln2_high, x)
    return m.fma(n, -c.ln2_low, r), shifted


def _exp_polynomial(m: Lanes, r: V, tail: Sequence[float]) -> V:
    return m.polynomial(r, (*tail, 1.0, 1.0))


def _expm1_polynomial(m: Lanes, r: V, tail: Sequence[float]) -> V:
    return m.fma(m.polynomial(r, tail), m.mul(r, r), r)


def _power_of_two(m: Lanes, shifted: V, form: Format) -> V:
    """``2**n`` where the low bits of ``shifted`` hold ``n + bias``."""
    return m.float_of(m.integer("shl", m.bits(shifted), form.fraction))


def _scale_twice(m: Lanes, power: V, shifted: V, x: V) -> V:
    """``power * 2**n``; the low bits of ``shifted`` hold ``n + 2 * bias``.

    ``2**n`` is split as ``2**(n +- k) * 2**(-+k)``, by the sign of x, so that both factors are
    normal numbers and only the second product can overflow or lose bits.
    """
    form, c = format_of(x), _CONSTANTS[format_of(x)]
    bits = m.bits(x)
    is_negative = m.compare("slt", bits, 0)
    below, above = ((form.bias + k) << form.fraction for k in (-c.half_scale, c.half_scale))
    second = m.function.select(is_negative, m.number(below, bits), m.number(above, bits))
    first = m.integer("sub", m.integer("shl", m.bits(shifted), form.fraction), second)
    return m.mul(m.mul(power, m.float_of(first)), m.float_of(second))
