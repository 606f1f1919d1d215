"""Every scalar op, on every dtype it takes, on scalars and vectors, gives what its NumPy reference
gives.
"""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphc.backends.llvm.vecmath import OPS
from graphc.backends.llvm.vecmath.measure import MEASURED, compiled_map
from graphc.errors import DTypeError
from graphc.kernel.scalar_ops import SCALAR_OPS, evaluate, result_dtype
from graphc.types import DTYPES, DType, bfloat16
from tests.vecmath.targets import TARGETS

Array = NDArray[Any]


def combinations(op: str) -> list[tuple[DType, ...]]:
    """The dtypes that an op takes."""
    found = []
    for dtypes in itertools.product(DTYPES.values(), repeat=SCALAR_OPS[op].arity):
        try:
            result_dtype(op, dtypes)
        except DTypeError:
            continue
        found.append(dtypes)
    return found


def sample(dtype: DType, count: int, rng: np.random.Generator) -> Array:
    """Ends, zeros, small and large values."""
    if dtype.kind == "b":
        return rng.random(count) < 0.5
    if dtype.is_integer:
        ends = np.iinfo(dtype.numpy)
        wide = rng.integers(ends.min, ends.max, count, dtype=dtype.numpy, endpoint=True)
        small = rng.integers(max(ends.min, -9), 9, count).astype(dtype.numpy)
        values = np.where(rng.random(count) < 0.5, wide, small)
        values[:6] = [ends.min, ends.max, 0, 1, ends.max - 1, ends.min + 1]
        return rng.permutation(values)
    wide = rng.normal(size=count) * np.exp2(rng.integers(-20, 20, count))
    wide[:10] = [0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, 65504, -65520]
    with np.errstate(over="ignore"):
        # through float32: ml_dtypes rounds float64 to bfloat16 twice
        return rng.permutation(wide.astype(np.float32).astype(dtype.numpy))


def assert_agrees(op: str, got: Array, expected: Array, what: str) -> None:
    if op in MEASURED and expected.dtype.kind not in "iub":
        loose = 0.02 if expected.dtype.itemsize == 2 else 1e-5
        wide, exact = got.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_allclose(wide, exact, rtol=loose, atol=1e-6, err_msg=what)
        return
    same = (got == expected) | ((got != got) & (expected != expected))
    if expected.dtype.kind not in "iub" and op not in ("max", "min"):
        same &= (np.signbit(got) == np.signbit(expected)) | (got != got)
    where = int(np.argmin(same))
    assert same.all(), f"{what}: got {got[where]}, expected {expected[where]} at {where}"


def arguments(op: str, dtypes: tuple[DType, ...], rng: np.random.Generator) -> list[Array]:
    args = [sample(dtype, 1024, rng) for dtype in dtypes]
    if op == "pow" and dtypes[1].kind == "i":  # the reference cannot negate the lowest exponent
        args[1] = np.maximum(args[1], -np.iinfo(dtypes[1].numpy).max)
    if op == "fma" and bfloat16 in dtypes:  # the reference rounds to bfloat16 twice
        args[2] = np.zeros_like(args[2])
    return args


def test_every_scalar_op_has_an_emitter() -> None:
    assert set(OPS) == set(SCALAR_OPS)


@pytest.mark.parametrize("op", SCALAR_OPS)
def test_op_agrees_with_its_reference(op: str) -> None:
    found = combinations(op)
    for number, dtypes in enumerate(found[:: max(1, len(found) // 25)]):
        seed = zlib.crc32(f"{op} {dtypes}".encode())
        args = arguments(op, dtypes, np.random.default_rng(seed))
        expected = evaluate(op, *args)
        for target in TARGETS:
            lanes = (1, 4, 8, 16)[(number + len(target.name)) % 4]
            got = compiled_map(op, *args, target=target, lanes=lanes)
            listed = ", ".join(map(str, dtypes))
            what = f"{op}({listed}) for {target.name}, {lanes} lanes, default_rng({seed})"
            assert_agrees(op, got, expected, what)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("op", ["exp", "log", "tanh", "erf", "pow", "sin", "//", "max", "bits"])
def test_lanes_do_not_change_bits(op: str, lanes: int) -> None:
    dtype = DTYPES["i64" if op == "bits" else "f32"]
    rng = np.random.default_rng(3)
    args = [sample(dtype, 512, rng) for _ in range(SCALAR_OPS[op].arity)]
    for target in TARGETS:
        one = compiled_map(op, *args, target=target, lanes=1)
        many = compiled_map(op, *args, target=target, lanes=lanes)
        np.testing.assert_array_equal(one, many, f"{op} for {target.name}; default_rng(3)")
