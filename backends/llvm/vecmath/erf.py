"""erf and erfc in float and double.

Near 0, ``erf(x) = x P(x**2)``. Elsewhere float's erf is ``1 - exp(polynomial)``, and the others go through
``erfc(a) = exp(-a**2) Q(t) / (1 + 2a)`` with ``t = (a - 4) / (a + 4)``, where ``a**2`` is carried in two parts.

======== ============ ============ ===================================================
function ulp, float   ulp, double  vector instructions in float, with fma
======== ============ ============ ===================================================
erf      1.2          1.2          43
erfc     3.0          3.5          58
======== ============ ============ ===================================================

Sources: float's erf by N. Juffa (public posts on accurate erff); the form of erfc after M. M. Shepherd and
J. G. Laframboise, "Chebyshev approximation of (1+2x)exp(x**2)erfc x", 1981; the other polynomials are minimax fits
(Remez) of our own.
"""

from __future__ import annotations

from graphc.backends.llvm.ir import V
from graphc.backends.llvm.vecmath.exp import exp_negative
from graphc.backends.llvm.vecmath.lanes import DOUBLE, FLOAT, Lanes, format_of

__all__ = ["erf", "erfc"]

#: erf(x) / x in x**2, highest power first
_NEAR = {
    FLOAT: (
        -5.96761703e-4,
        4.99119423e-3,
        -2.67681349e-2,
        1.12819925e-1,
        -3.76125336e-1,
        1.28379166e-1,  # 1.128.. - 1: the product with x is added to x
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
_ONE_MINUS = (  # float: log(1 - erf(a)) + a in a; Juffa, two interleaved starts
    (-1.72853470e-5, 3.83197126e-4),
    (-3.88396438e-3, 2.42546219e-2),
    (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1),
)


def erf(m: Lanes, x: V) -> V:
    """erf(-0) = -0, erf(inf) = 1. Within 1.2 ulp."""
    form = format_of(x)
    magnitude = m.abs(x)
    far = _erf_far_float(m, magnitude) if form is FLOAT else m.sub(1.0, _erfc_far(m, magnitude))
    is_near = m.compare("olt", magnitude, 0.927734375 if form is FLOAT else 1.0)
    return m.select(is_near, _erf_near(m, x), m.copysign(far, x))


def erfc(m: Lanes, x: V) -> V:
    """``1 - erf(x)`` without cancellation; denormal results are right. Within 3.0 ulp (float), 3.5 ulp (double)."""
    far = _erfc_far(m, m.abs(x))
    far = m.select(m.compare("olt", x, 0.0), m.sub(2.0, far), far)
    is_near = m.compare("olt", m.abs(x), 0.5)
    return m.select(is_near, m.sub(1.0, _erf_near(m, x)), far)


def _erf_near(m: Lanes, x: V) -> V:
    return m.fma(m.polynomial(m.mul(x, x), _NEAR[format_of(x)]), x, x)


def _erf_far_float(m: Lanes, a: V) -> V:
    """For ``a > 0.92``."""
    a = m.at_most(4.0, a)
    q = m.mul(a, a)
    first, second, rest = _ONE_MINUS
    r = m.fma(m.polynomial(a, first), q, m.polynomial(a, second))
    r = m.polynomial(a, rest, start=r)
    return m.sub(1.0, exp_negative(m, m.fma(r, a, m.neg(a))))


def _erfc_far(m: Lanes, a: V) -> V:
    form = format_of(a)
    a = m.at_most(_END[form], a)
    t = m.div(m.sub(a, 4.0), m.add(a, 4.0))
    q = m.div(m.polynomial(t, _FAR[form]), m.fma(a, 2.0, 1.0))
    square, rest = m.two_product(a, a)
    e = exp_negative(m, m.neg(square))
    return m.mul(e, m.fma(m.neg(rest), q, q))
