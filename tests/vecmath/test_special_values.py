"""Infinities, NaN, zeros with signs, denormals: what IEEE 754, C99 and Python prescribe."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphc.backends.llvm.target import Target
from graphc.backends.llvm.vecmath.measure import compiled_map
from tests.vecmath.targets import TARGET_NAMES, TARGETS

INF, NAN = math.inf, math.nan
TINY = {np.float32: 1e-45, np.float64: 5e-324}  # the smallest denormals

SPECIAL = {
    "exp": [(-INF, 0), (INF, INF), (NAN, NAN), (0, 1), (-0.0, 1), (-1e5, 0), (1e5, INF)],
    "exp2": [(-INF, 0), (INF, INF), (NAN, NAN), (10, 1024), (-3, 0.125), (-1e5, 0), (1e5, INF)],
    "expm1": [(-INF, -1), (INF, INF), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0), (1e5, INF)],
    "log": [(0.0, -INF), (-0.0, -INF), (-1, NAN), (-INF, NAN), (INF, INF), (NAN, NAN), (1, 0.0)],
    "log2": [(0.0, -INF), (-1, NAN), (INF, INF), (NAN, NAN), (1, 0.0), (2.0**-100, -100)],
    "log1p": [(-1, -INF), (-2, NAN), (INF, INF), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0)],
    "tanh": [(-INF, -1), (INF, 1), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0)],
    "sigmoid": [(-INF, 0.0), (INF, 1), (NAN, NAN), (-0.0, 0.5), (-1e5, 0.0), (1e5, 1)],
    "erf": [(-INF, -1), (INF, 1), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0), (30, 1)],
    "erfc": [(-INF, 2), (INF, 0.0), (NAN, NAN), (0.0, 1), (-30, 2), (30, 0.0)],
    "sin": [(-INF, NAN), (INF, NAN), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0)],
    "cos": [(-INF, NAN), (INF, NAN), (NAN, NAN), (0.0, 1), (-0.0, 1)],
    "tan": [(-INF, NAN), (INF, NAN), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0)],
    "atan": [(-0.0, -0.0), (0.0, 0.0), (NAN, NAN), (INF, math.pi / 2), (-INF, -math.pi / 2)],
    "sqrt": [(0.0, 0.0), (-0.0, -0.0), (-1, NAN), (INF, INF), (NAN, NAN)],
    "rsqrt": [(0.0, INF), (-0.0, -INF), (-1, NAN), (INF, 0.0), (NAN, NAN)],
    "sign": [(0.0, 0.0), (-0.0, 0.0), (-INF, -1), (INF, 1), (NAN, NAN)],
    "round": [(0.5, 0.0), (1.5, 2), (2.5, 2), (-0.5, -0.0), (-INF, -INF), (NAN, NAN)],
}

#: C99, annex F.9.4.4
POWERS = [
    (0.0, -3, INF), (-0.0, -3, -INF), (0.0, -2.5, INF), (-0.0, -2.5, INF), (-0.0, -2, INF),
    (0.0, 3, 0.0), (-0.0, 3, -0.0), (-0.0, 2.5, 0.0), (-0.0, 2, 0.0),
    (-1, INF, 1), (-1, -INF, 1), (1, NAN, 1), (NAN, 0.0, 1), (NAN, -0.0, 1), (INF, 0.0, 1),
    (-8, 1 / 3, NAN), (-2, 3, -8), (-2, 10, 1024), (-2, 0.5, NAN), (NAN, 2.5, NAN), (2, NAN, NAN),
    (0.5, -INF, INF), (2, -INF, 0.0), (0.5, INF, 0.0), (2, INF, INF), (-0.5, INF, 0.0),
    (-INF, -3, -0.0), (-INF, -2.5, 0.0), (-INF, 3, -INF), (-INF, 2.5, INF), (-INF, 0.5, INF),
    (INF, -3, 0.0), (INF, 3, INF), (-0.0, 0.5, 0.0), (2, 5000, INF), (2, -5000, 0.0),
    (-2, 5001, -INF), (-2, -5001, -0.0), (0.0, 1e-40, 0.0), (0.0, -1e-40, INF), (9, 0.5, 3),
]  # fmt: skip

#: Python's: the remainder has the divisor's sign
DIVISIONS = [
    (7, 3), (-7, 3), (7, -3), (-7, -3), (6, 3), (-6, 3), (0.0, 3), (-0.0, 3), (0.0, -3),
    (1, INF), (-1, INF), (1, -INF), (INF, 2), (NAN, 2), (2, NAN), (5.5, 0.1), (1e30, 7),
    (-1e30, 7), (3e38, 1e-38), (1e-40, 3e-42), (3e38, -1e-45), (1, 0.0), (-1, 0.0), (0.0, 0.0),
]  # fmt: skip


def assert_same(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Equal, signs of zeros and NaN included."""
    np.testing.assert_array_equal(got, expected, err_msg=what)
    finite = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got)[finite], np.signbit(expected)[finite], what)


@pytest.mark.parametrize("target", TARGETS, ids=TARGET_NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", SPECIAL)
def test_special_values(op: str, dtype: type, target: Target) -> None:
    arguments, expected = np.array(SPECIAL[op], dtype).T
    got = compiled_map(op, arguments, target=target)
    assert_same(got, expected, f"{op} of {arguments} for {target.name}")


@pytest.mark.parametrize("op", ["expm1", "log1p", "tanh", "sin", "tan", "atan"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_denormals_pass(op: str, dtype: type) -> None:
    x = np.array([TINY[dtype], -TINY[dtype], np.finfo(dtype).tiny], dtype)
    for target in TARGETS:
        assert_same(compiled_map(op, x, target=target), x, f"{op} for {target.name}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers(dtype: type) -> None:
    base, exponent, expected = np.array(POWERS, dtype).T
    with np.errstate(all="ignore"):
        numpy = np.power(base, exponent)
    for target in TARGETS:
        got = compiled_map("pow", base, exponent, target=target)
        kept = (expected != 3) & (np.abs(base) > np.finfo(dtype).smallest_subnormal) | (base == 0)
        assert_same(got[kept], expected[kept], target.name)
        np.testing.assert_allclose(got, numpy, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", ["//", "%"])
def test_divisions_follow_python(op: str, dtype: type) -> None:
    a, b = np.array(DIVISIONS, dtype).T
    with np.errstate(all="ignore"):
        expected = np.floor_divide(a, b) if op == "//" else np.mod(a, b)
    for target in TARGETS:
        for lanes in (1, 8):
            got = compiled_map(op, a, b, target=target, lanes=lanes)
            assert_same(got, expected, f"{op} for {target.name}, {lanes} lanes")


def test_sine_of_the_hardest_double() -> None:
    """The double nearest to a multiple of pi/2: 61 leading bits cancel (Kahan and McDonald)."""
    x = np.array([6381956970095103 * 2.0**797])
    for target in TARGETS:
        got = compiled_map("cos", x, target=target)[0]
        assert got == pytest.approx(-4.6871659242546276e-19, rel=1e-15), target.name


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("op", ["max", "min"])
def test_extrema_propagate_nan(op: str, position: int) -> None:
    x = np.array([1, -INF, NAN, INF, 0, 5, -5, NAN], np.float32)
    nan = np.full(8, NAN, np.float32)
    args = (nan, x) if position == 0 else (x, nan)
    for target in TARGETS:
        assert np.isnan(compiled_map(op, *args, target=target)).all()
