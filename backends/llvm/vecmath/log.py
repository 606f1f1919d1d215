"""log, log2 and log1p in float and double.

``x = 2**e * m`` with m around 1, read off the pattern, then a polynomial in ``f = m - 1`` (float)
or an odd one in ``s = f / (2 + f)`` (double). Denormals are scaled up first.

=========  =====  =============  ======  ==============  ============
function   float  float, no fma  double  double, no fma  instructions
=========  =====  =============  ======  ==============  ============
log        1.0    1.0            0.8     0.8             30, 40
log2       1.3    1.4            0.9     1.2             37, 46
log1p      1.05   1.05           0.85    0.85            41, 51
=========  =====  =============  ======  ==============  ============

Errors are in ulp, over the whole range; instructions are those of one AVX2 vector, 8 floats or 4
doubles, without loads and copies.

Sources: the float polynomial and its splitting by N. Juffa (public posts on accurate logf); the
double one from fdlibm (Sun Microsystems, e_log.c: Lg1..Lg7); log1p's correction as in fdlibm's
s_log1p.c.
"""

from __future__ import annotations

import math

from graphc.backends.llvm.ir import V
from graphc.backends.llvm.vecmath.lanes import DOUBLE, FLOAT, Lanes, format_of

__all__ = ["log", "log1p", "log2"]

LN2_HIGH = {FLOAT: 0.693145751953125, DOUBLE: 6.93147180369123816490e-01}
LN2_LOW = {FLOAT: 1.42860682030941723212e-6, DOUBLE: 1.90821492927058770002e-10}
#: log2(e) as a number and the rest
LOG2E_HIGH = {FLOAT: 1.44269502162933349609375, DOUBLE: 1.4426950408889634}
LOG2E_LOW = {FLOAT: 1.92596299112661746887e-8, DOUBLE: 2.0355273740931033e-17}

#: the pattern just below which m starts: 2/3 (float), sqrt(1/2) (double)
_START = {FLOAT: 0x3F2AAAAB, DOUBLE: 0x3FE6A09E667F3BCD}

_LG = (  # fdlibm, highest power of s**2 first
    1.479819860511658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)


def log(m: Lanes, x: V) -> V:
    """log(0) = -inf, log(negative) = nan, log(inf) = inf."""
    e, f = split(m, x)
    return _outside(m, x, _sum(m, e, f))


def log2(m: Lanes, x: V) -> V:
    """Exact at powers of two."""
    e, f = split(m, x)
    form = format_of(x)
    tail = _tail(m, f)
    low = m.fma(tail, LOG2E_HIGH[form], m.mul(f, LOG2E_LOW[form]))
    high, error = m.two_product(f, LOG2E_HIGH[form])
    total, rest = m.fast_two_sum(e, high)  # also exact where e is 0
    return _outside(m, x, m.add(total, m.add(rest, m.add(error, low))))


def log1p(m: Lanes, x: V) -> V:
    """log of the rounded sum ``u = 1 + x``, plus what was lost over u. log1p(-1) = -inf."""
    form = format_of(x)
    u = m.add(x, 1.0)
    error = _sum_error(m, x, u)
    e, f = split(m, u)
    correction = m.div(error, u)
    result = _outside(m, u, _sum(m, e, f, correction))
    is_tiny = m.compare("olt", m.abs(x), 2.0 ** -(form.fraction + 2))
    return m.select(is_tiny, x, result)


def _sum_error(m: Lanes, x: V, u: V) -> V:
    """``(1 + x) - u``, exactly (Knuth's two-sum with the sum given)."""
    other = m.sub(u, 1.0)
    return m.add(m.sub(x, other), m.sub(1.0, m.sub(u, other)))


def split(m: Lanes, x: V, *, normal: bool = False) -> tuple[V, V]:
    """``e`` (as a float) and ``f = m - 1`` with ``x = 2**e * m``, for positive finite x.

    ``normal`` promises that x is not denormal.
    """
    form = format_of(x)
    is_small = m.compare("olt", x, form.tiny)
    scale = form.fraction + 2
    bits = m.bits(x if normal else m.select(is_small, m.mul(x, 2.0**scale), x))
    offset = m.integer("sub", bits, _START[form])
    exponent = m.integer("ashr", offset, form.fraction)
    f = m.sub(m.float_of(m.integer("sub", bits, m.integer("shl", exponent, form.fraction))), 1.0)
    e = _small_integer(m, exponent, x)
    if normal:
        return e, f
    return m.sub(e, m.select(is_small, m.number(scale, x), 0.0)), f


def _small_integer(m: Lanes, exponent: V, x: V) -> V:
    """A small integer as a float; to double by the shifter, for want of an AVX2 conversion."""
    form = format_of(x)
    if form is FLOAT:
        return m.function.cast("sitofp", exponent, "float")
    biased = m.integer("add", exponent, 0x4338000000000000)  # the pattern of 1.5 * 2**52
    return m.sub(m.float_of(biased), form.shifter)


def _tail(m: Lanes, f: V) -> V:
    """``log(1 + f) - f``."""
    if format_of(f) is DOUBLE:
        s = m.div(f, m.add(f, 2.0))
        z = m.mul(s, s)
        half_square = m.mul(m.mul(f, f), 0.5)
        r = m.mul(m.polynomial(z, _LG), z)
        return m.sub(m.mul(s, m.add(half_square, r)), half_square)
    q = m.mul(f, f)
    r = m.fma(f, -0.130187988, 0.140889585)
    t = m.fma(f, -0.121489584, 0.139809534)
    r = m.fma(r, q, t)
    r = m.polynomial(f, (-0.166845024, 0.200121149, -0.249996364, 0.333331943, -0.5), start=r)
    return m.mul(r, q)


def _sum(m: Lanes, e: V, f: V, correction: V | None = None) -> V:
    """``e ln2 + log(1 + f) + correction``."""
    form = format_of(f)
    tail = _tail(m, f)
    if correction is not None:
        tail = m.add(tail, correction)
    low = m.fma(e, LN2_LOW[form], tail)
    return (
        m.fma(e, LN2_HIGH[form], m.add(f, low))
        if form is FLOAT
        else m.add(m.mul(e, LN2_HIGH[form]), m.add(f, low))
    )


def _outside(m: Lanes, x: V, result: V) -> V:
    """The values at 0, below 0, at infinity and NaN."""
    result = m.select(m.compare("oeq", x, math.inf), x, result)
    pole = m.select(m.compare("oeq", x, 0.0), m.number(-math.inf, x), m.number(math.nan, x))
    return m.select(m.compare("ogt", x, 0.0), result, pole)
