"""The table of scalar ops: dtypes, and the values that NumPy or C leave open."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphc.errors import DTypeError
from graphc.kernel.scalar_ops import SCALAR_OPS, evaluate, result_dtype
from graphc.types import DTYPES, DType, dtype_of

FLOATS = [d for d in DTYPES.values() if d.is_float]
INTEGERS = [d for d in DTYPES.values() if d.is_integer]


def array(kind: Any, values: list[Any]) -> Any:
    return np.array(values, kind)


def sample(dtype: DType, rng: np.random.Generator) -> Any:
    if dtype.is_float:
        return (rng.standard_normal(7) + 0.1).astype(dtype.numpy)
    return rng.integers(0, 2 if dtype.kind == "b" else 100, 7).astype(dtype.numpy)


@pytest.mark.parametrize("name", SCALAR_OPS)
def test_every_op_gives_the_dtype_of_its_rule(name: str) -> None:
    op, rng, tried = SCALAR_OPS[name], np.random.default_rng(0), 0
    for dtype in DTYPES.values():
        arrays = [sample(dtype, rng) for _ in range(op.arity)]
        if name == "where":
            arrays[0] = arrays[0] != 0
        dtypes = [dtype_of(a.dtype) for a in arrays]
        if any(d.kind not in kinds for d, kinds in zip(dtypes, op.kinds, strict=True)):
            with pytest.raises(DTypeError, match="must be"):
                result_dtype(name, dtypes)
            continue
        tried += 1
        got = evaluate(name, *arrays)
        assert got.dtype == result_dtype(name, dtypes).numpy
        assert got.shape == (7,)
        one = evaluate(name, *(a[0] for a in arrays))
        assert one.shape == ()
        assert one.tobytes() == got[0].tobytes()
    assert tried


def test_mixed_dtypes_are_refused_where_operands_must_agree() -> None:
    for name, op in SCALAR_OPS.items():
        if len(op.joined) > 1 and name != "pow":
            dtypes = [DTYPES["bool"], *[DTYPES["f32"]] * (op.arity - 1)][: op.arity]
            if "b" not in op.kinds[0] or name != "where":
                dtypes = [DTYPES["f32"], DTYPES["f64"], DTYPES["f32"]][: op.arity]
            else:
                dtypes = [DTYPES["bool"], DTYPES["f32"], DTYPES["f64"]]
            with pytest.raises(DTypeError):
                result_dtype(name, dtypes)
    assert result_dtype("pow", [DTYPES["f64"], DTYPES["i32"]]) == DTYPES["f64"]
    assert result_dtype("<<", [DTYPES["u32"], DTYPES["i64"]]) == DTYPES["u32"]
    with pytest.raises(DTypeError, match="takes 2 operands, got 1"):
        result_dtype("+", [DTYPES["f32"]])
    with pytest.raises(DTypeError, match="no scalar op"):
        result_dtype("softplus", [DTYPES["f32"]])


def test_integer_division_floors_and_is_total() -> None:
    a, b = (
        array(np.int64, [7, -7, 7, -7, 5, 0, -(2**63)]),
        array(np.int64, [2, 2, -2, -2, 0, 0, -1]),
    )
    assert evaluate("//", a, b).tolist() == [3, -4, -4, 3, 0, 0, -(2**63)]
    assert evaluate("%", a, b).tolist() == [1, 1, -1, -1, 0, 0, 0]
    assert evaluate("/", np.int64(1), np.int64(3)).dtype == np.float32
    assert np.isinf(evaluate("/", np.int64(1), np.int64(0)))


def test_casts_saturate_truncate_and_wrap() -> None:
    x = array(np.float32, [-1.7, 1.7, 300, -300, np.nan, np.inf, -np.inf, 3e19, -3e19])
    assert evaluate("i8", x).tolist() == [-1, 1, 127, -128, 0, 127, -128, 127, -128]
    assert evaluate("u8", x).tolist() == [0, 1, 255, 0, 0, 255, 0, 255, 0]
    assert evaluate("i64", x).tolist()[-2:] == [2**63 - 1, -(2**63)]
    assert evaluate("u32", x).tolist()[:4] == [0, 1, 300, 0]
    assert evaluate("u8", array(np.int64, [-1, 256, 257])).tolist() == [255, 0, 1]
    assert evaluate("bool", array(np.float32, [0, -0.0, 0.1, np.nan])).tolist() == [
        False,
        False,
        True,
        True,
    ]
    assert evaluate("i64", np.float64(2.0**62)).item() == 2**62


def test_shifts_by_any_count() -> None:
    count = array(np.int64, [0, 7, 8, 31, 32, 64, -1])
    assert evaluate("<<", np.uint8(1), count).tolist() == [1, 128, 0, 0, 0, 0, 0]
    assert evaluate(">>", np.int8(-128), count).tolist() == [-128, -1, -1, -1, -1, -1, -1]
    assert evaluate(">>", np.uint32(2**31), count).tolist() == [2**31, 2**24, 2**23, 1, 0, 0, 0]


def test_powers() -> None:
    base, exponent = array(np.int64, [2, -1, 1, 0, -3, 0]), array(np.int64, [-1, -3, -2, -1, 3, 0])
    assert evaluate("pow", base, exponent).tolist() == [0, -1, 1, 0, -27, 1]
    assert evaluate("pow", np.float32(3), np.int64(-2)) == np.float32(1 / 9)
    assert evaluate("pow", np.float32(-2), np.int64(3)) == -8


def test_nan_propagates_through_max_min_and_sign() -> None:
    nan = np.float32(np.nan)
    for name in ("max", "min"):
        assert np.isnan(evaluate(name, nan, np.float32(1)))
        assert np.isnan(evaluate(name, np.float32(1), nan))
    assert np.isnan(evaluate("sign", nan))
    assert evaluate("!=", nan, nan)
    assert not evaluate("==", nan, nan)
    assert np.isnan(evaluate("sigmoid", nan))


def test_sigmoid_and_erfc_hold_in_the_tails() -> None:
    x = array(np.float64, [-800, -40, 0, 40, 800])
    want = [0.0, math.exp(-40), 0.5, 1.0, 1.0]
    assert np.allclose(evaluate("sigmoid", x), want, rtol=1e-15, atol=0)
    assert evaluate("erfc", np.float64(10)).item() == pytest.approx(2.088487583762545e-45)


def exact(value: Any) -> Fraction:
    return Fraction(float(value))


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_fma_rounds_once(kind: Any) -> None:
    """Against exact rational arithmetic: the result is a nearest number of the dtype."""
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal(300).astype(kind) for _ in range(2))
    c = (
        -(a.astype(np.float64) * b.astype(np.float64)) * (1 + rng.choice([0, 1e-9, 1], 300))
    ).astype(kind)
    got = evaluate("fma", a, b, c)
    for x, y, z, r in zip(a, b, c, got, strict=True):
        wanted = exact(x) * exact(y) + exact(z)
        up, down = (np.nextafter(r, kind(s), dtype=None) for s in (np.inf, -np.inf))
        error = abs(exact(r) - wanted)
        assert error <= abs(exact(up) - wanted), (x, y, z)
        assert error <= abs(exact(down) - wanted), (x, y, z)


def test_half_floats_are_rounded_after_each_op() -> None:
    x = ml_dtypes.bfloat16(1.0)
    assert evaluate("+", x, ml_dtypes.bfloat16(2**-9)) == x
    assert evaluate("exp", np.float16(1)) == np.float16(math.e)


def test_random_bits_are_philox() -> None:
    """Known answers of the Random123 distribution: counters and keys of zeros, and of ones."""
    ones = np.int64(-1)
    assert [hex(int(v)) for v in evaluate("bits", np.int64(0), np.arange(4))] == [
        *("0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"),
    ]
    low, high = np.uint64(0x408F276D), np.uint64(0x41C83B0E)
    derived = int(evaluate("derive", ones, ones, ones)) & (2**64 - 1)
    assert derived == int(low | high << np.uint64(32))
    block = evaluate("bits", np.int64(77), array(np.int64, [4 * 2**33, 4 * 2**33 + 5, 1]))
    again = evaluate("bits", np.int64(77), array(np.int64, [4 * 2**33 + 5]))
    assert block[1] == again[0]
    assert len({int(v) for v in block}) == 3


def test_tables_agree_on_floats_and_integers() -> None:
    assert {d.short for d in FLOATS} == {"f16", "bf16", "f32", "f64"}
    assert all(SCALAR_OPS[d.short].cast for d in INTEGERS)
