"""Edges in the interpreter, against NumPy: nothing, one element, odd sizes, NaN and infinities, and
numbers that only 64 bits hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import ops

DATA = np.random.default_rng(9)
BIG = np.int64([2**62, -(2**62), 2**53 + 1, -(2**53) - 1, 0, 2**31, -(2**31) - 1, 5])


def compiled(outputs: Any, *arrays: Any) -> list[Any]:
    """Results of one program that computes everything at once."""
    inputs = [
        gc.observed(f"x{n}", a.shape, gc.types.dtype_of(a.dtype)) for n, a in enumerate(arrays)
    ]
    found = gc.compile(inputs, list(outputs(*inputs)), backend="triton")(*arrays)
    return [np.asarray(a) for a in found]


def extreme_rows(width: int) -> Any:
    rows = DATA.standard_normal((8, width)).astype(np.float32)
    rows[1], rows[2], rows[3] = np.nan, np.inf, -np.inf
    rows[4, -1], rows[5, 0], rows[6, width // 2] = np.nan, np.inf, -np.inf
    rows[7] *= 1e37
    return rows


@pytest.mark.parametrize("width", [1, 7, 129])
def test_extremes_of_rows(width: int, device: Any) -> None:
    rows = extreme_rows(width)
    names = ("max", "min", "argmax", "argmin")
    found = compiled(lambda x: [getattr(ops, n)(x, axis=1) for n in names], rows)
    for name, got in zip(names, found, strict=True):
        np.testing.assert_array_equal(got, getattr(np, name)(rows, axis=1), err_msg=name)


@pytest.mark.parametrize("width", [1, 7, 129])
def test_normalized_rows(width: int, device: Any) -> None:
    rows = extreme_rows(width)
    soft, logs, total = compiled(
        lambda x: [ops.softmax(x, -1), ops.log_softmax(x, -1), ops.logsumexp(x, axis=-1)], rows
    )
    wide = rows.astype(np.float64)
    with np.errstate(all="ignore"):
        most = wide.max(1, keepdims=True)
        shifted = wide - most
        sums = np.exp(shifted).sum(1, keepdims=True)
        plain = np.where(np.isinf(most), most, most + np.log(sums))[:, 0]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(soft, np.exp(shifted) / sums, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(logs, shifted - np.log(sums), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total, plain, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scans_along_odd_axes(axis: int, device: Any) -> None:
    for shape in ((3, 1, 7), (1, 9, 5)):
        values = DATA.standard_normal(shape).astype(np.float32)
        whole = DATA.integers(-100, 100, shape).astype(np.int8)
        sums, products, counts = compiled(
            lambda x, n: [ops.cumsum(x, axis), ops.cumprod(x, axis), ops.cumsum(n, axis)],
            values, whole,
        )  # fmt: skip
        np.testing.assert_allclose(sums, np.cumsum(values, axis), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(products, np.cumprod(values, axis), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(counts, np.cumsum(whole, axis, dtype=counts.dtype))


def test_nothing_and_sums_of_nothing(device: Any) -> None:
    none = np.zeros((3, 0), np.float32)
    found = compiled(
        lambda x: [x + 1.0, x.sum(axis=1), ops.cumsum(x, 1), ops.argsort(x), x.T @ x, x @ x.T],
        none,
    )  # fmt: skip
    shapes = [(3, 0), (3,), (3, 0), (3, 0), (0, 0), (3, 3)]
    assert [a.shape for a in found] == shapes
    assert not any(a.any() for a in found)


def test_numbers_of_64_bits(device: Any) -> None:
    by = np.int64([3, -3, 7, -7, 5, -2, 2, -1])
    found = compiled(
        lambda x, y: [ops.max(x), ops.argmin(x), ops.cumsum(x), ops.sort(x), ops.argsort(x),
                      x // y, x % y, ops.take(x, ops.argsort(x))],
        BIG, by,
    )  # fmt: skip
    order = np.argsort(BIG, kind="stable")
    wanted = [BIG.max(), BIG.argmin(), np.cumsum(BIG), np.sort(BIG), order, BIG // by, BIG % by,
              BIG[order]]  # fmt: skip
    for got, expected in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, expected)
