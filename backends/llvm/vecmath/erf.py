"""erf and erfc in float and double.

Near 0, ``erf(x) = x P(x**2)``. Elsewhere float's erf is ``1 - 1 / polynomial**4``, and the others
go through ``erfc(a) = exp(-a**2) Q(t) / (1 + 2a)`` with ``t = (a - 4) / (a + 4)``, where ``a**2``
is carried in two parts.

=========  =====  =============  ======  ==============  ============
function   float  float, no fma  double  double, no fma  instructions
=========  =====  =============  ======  ==============  ============
erf        1.92   1.92           1.1     1.5             27, 70
erfc       4.8    5.0            3.2     3.3             49, 72
=========  =====  =============  ======  ==============  ============

Errors are in ulp, over the whole range; instructions are those of one AVX2 vector, 8 floats or 4
doubles, without loads and copies.

Sources: float's erf takes its form from C. Hastings, "Approximations for digital computers", 1955;
erfc from M. M. Shepherd and J. G. Laframboise, "Chebyshev approximation of (1+2x)exp(x**2)erfc x",
1981. The polynomials are minimax fits (Remez) of our own.
"""

from __future__ import annotations

from graphc.backends.llvm.ir import V
from graphc.backends.llvm.vecmath.exp import exp_negative
from graphc.backends.llvm.vecmath.lanes import DOUBLE, FLOAT, Lanes, format_of

__all__ = ["erf", "erfc"]

#: erf(x) / x in x**2, highest power first
_NEAR = {
    FLOAT: (
        -0.0006090356162620449,
        0.0050119620805593465,
        -0.026778908488202482,
        0.11282140807978526,
        -0.3761252327829588,
        0.128379153798473,  # 1.128.. - 1: the product with x is added to x
    ),
    DOUBLE: (
        -7.779456921831154e-10,
        1.3710974567312202e-08,
        -1.6206312501557555e-07,
        1.6447131419811136e-06,
        -1.4924712290816286e-05,
        0.00012055293576377275,
        -0.0008548325929299106,
        0.005223977606118201,
        -0.02686617064311144,
        0.11283791670944185,
        -0.3761263890318352,
        0.1283791670955126,
    ),
}

#: (1 + 2a) exp(a**2) erfc(a) in t, for a >= 0.45
_FAR = {
    FLOAT: (
        0.005236226983694897,
        -0.016625888952282418,
        0.03699080267613067,
        -0.06624088615010205,
        0.09377224132758914,
        -0.10104711151521531,
        0.06809396538936766,
        0.015379932682726501,
        -0.13962105337832487,
        1.2329951167988455,
    ),
    DOUBLE: (
        -1.0273591975573135e-08,
        -1.208598608845886e-08,
        1.0505064938453851e-07,
        6.663545913684362e-08,
        -8.217179973640507e-07,
        3.0002251208685626e-07,
        5.708009269005358e-06,
        -1.122503830314954e-05,
        -2.439868957349898e-05,
        0.0001506226164223331,
        -0.00019925680026166177,
        -0.0007577734782699846,
        0.005031969991760277,
        -0.016197734033899798,
        0.037167515536374,
        -0.06633036581397404,
        0.09373283499840018,
        -0.10103906603623825,
        0.06809705425469158,
        0.015379652102618775,
        -0.1396211168405625,
        1.2329951186255526,
    ),
}
#: beyond, erfc is 0
_END = {FLOAT: 10.5, DOUBLE: 28.0}
#: float: erfc(a) ** (-1/4) in a - 1, for 0.9 <= a <= 4
_ROOT = (
    0.0023284411145630566,
    -0.006210545821580729,
    0.01661349731762588,
    0.00479323708052804,
    0.050371440802079254,
    0.12683409538289883,
    0.3132905166233471,
    0.6802702293447015,
    1.0475925022231445,
    1.5878824930134678,
)


def erf(m: Lanes, x: V) -> V:
    """erf(-0) = -0, erf(inf) = 1."""
    a = m.abs(x)
    is_float = format_of(x) is FLOAT
    far = _erf_far_float(m, a) if is_float else m.sub(1.0, _erfc_far(m, a))
    is_near = m.compare("olt", a, 0.9 if is_float else 1.0)
    return m.signed(m.select(is_near, _erf_near(m, a), far), x)


def erfc(m: Lanes, x: V) -> V:
    """``1 - erf(x)`` without cancellation; denormal results are right."""
    far = _erfc_far(m, m.abs(x))
    far = m.select(m.compare("olt", x, 0.0), m.sub(2.0, far), far)
    is_near = m.compare("olt", m.abs(x), 0.5)
    return m.select(is_near, m.sub(1.0, _erf_near(m, x)), far)


def _erf_near(m: Lanes, x: V) -> V:
    return m.fma(m.polynomial(m.mul(x, x), _NEAR[format_of(x)]), x, x)


def _erf_far_float(m: Lanes, a: V) -> V:
    """For ``a >= 0.9``. The variable is centred where errors are damped least."""
    root = m.polynomial(m.at_most(3.0, m.sub(a, 1.0)), _ROOT)
    square = m.mul(root, root)
    return m.sub(1.0, m.div(1.0, m.mul(square, square)))


def _erfc_far(m: Lanes, a: V) -> V:
    form = format_of(a)
    a = m.at_most(_END[form], a)
    t = m.div(m.sub(a, 4.0), m.add(a, 4.0))
    q = m.div(m.polynomial(t, _FAR[form]), m.fma(a, 2.0, 1.0))
    square, rest = m.two_product(a, a)
    e = exp_negative(m, m.neg(square))
    return m.mul(e, m.fma(m.neg(rest), q, q))
