"""No function errs by more than its table states, over all exponents and at everyday arguments."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from graphc.backends.llvm.target import Target, host_target
from graphc.backends.llvm.vecmath import measure
from graphc.types import DType, float32, float64
from tests.vecmath.targets import TARGET_NAMES, TARGETS

STATED = measure.stated_bounds()
SEED = "arguments come from numpy's default_rng with the seeds in measure.py"


def check(found: measure.Measurement, target: Target) -> None:
    bound = STATED[found.op][found.dtype.short, target.has_fma]
    assert found.ulp <= bound, f"{target.name}: {found}; stated {bound}. {SEED}"


def test_every_measured_function_states_its_bounds() -> None:
    assert set(STATED) == set(measure.MEASURED)


@pytest.mark.parametrize("target", TARGETS, ids=TARGET_NAMES)
@pytest.mark.parametrize("op", measure.MEASURED)
def test_float_is_within_the_stated_error(op: str, target: Target) -> None:
    check(measure.measure_ulp(op, float32, target, 1 << (16 if "erf" in op else 18)), target)


@pytest.mark.parametrize("op", measure.MEASURED)
def test_double_is_within_the_stated_error(op: str) -> None:
    if importlib.util.find_spec("mpmath") is None:
        pytest.skip("needs mpmath, the reference")
    args = measure.arguments(op, float64, 1024)
    exact = measure.reference(op, *args)
    for target in TARGETS:
        got = measure.compiled_map(op, *args, target=target)
        check(measure.worst(op, args, got, exact), target)


def test_a_wrong_last_digit_is_noticed() -> None:
    """The measure itself: one ulp counts as one, a lost sign of zero and a lost NaN as infinite."""
    exact = np.array([1.0, 1.5, 0.0, np.nan, 2.0**-149, 1e39])
    got = np.array([1 + 2**-23, 1.5, -0.0, 1.0, 0.0, np.inf], np.float32)
    errors = measure.errors_in_ulp(got, exact, float32)
    assert errors.tolist() == [1.0, 0.0, np.inf, np.inf, 1.0, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("op", [op for op in measure.MEASURED if op != "pow"])
def test_every_float(op: str) -> None:
    """All 2**32 patterns; about five minutes each, erf and erfc an hour."""
    target, dtype = host_target(), float32
    worst = measure.Measurement(op, dtype, 0.0, (0.0,))
    chunk = 1 << 20
    for start in range(0, 1 << 32, chunk):
        x = np.arange(start, start + chunk, dtype=np.uint64).astype(np.uint32).view(np.float32)
        worst = max(worst, measured(op, x, dtype, target), key=lambda found: found.ulp)
    check(worst, target)


def measured(op: str, x: np.ndarray, dtype: DType, target: Target) -> measure.Measurement:
    got = measure.compiled_map(op, x, target=target)
    return measure.worst(op, (x,), got, measure.reference(op, x))
