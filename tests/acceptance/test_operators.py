"""Every operator and method of a Value means what NumPy's does, natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from tests.acceptance.programs import Array

X = np.float32([[0.5, -1.5, 2.0], [3.0, -0.25, 1.0]])
Y = np.float32([[2.0, 0.5, -1.0], [1.5, 4.0, 0.75]])
I, J = np.int64([[6, 3, 12], [7, 1, 9]]), np.int64([[1, 2, 0], [3, 4, 2]])

FLOATS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda x, y: x + y,
    "number +": lambda x, y: 1.5 + x,
    "-": lambda x, y: x - y,
    "number -": lambda x, y: 2.0 - x,
    "*": lambda x, y: x * y,
    "number *": lambda x, y: 3 * x,
    "/": lambda x, y: x / y,
    "number /": lambda x, y: 1.0 / x,
    "//": lambda x, y: x // y,
    "number //": lambda x, y: 5.0 // y,
    "%": lambda x, y: x % y,
    "number %": lambda x, y: 5.0 % y,
    "**": lambda x, y: abs(x) ** y,
    "number **": lambda x, y: 2.0**x,
    "@": lambda x, y: x @ y.T,
    "neg": lambda x, y: -x,
    "pos": lambda x, y: +x,
    "abs": lambda x, y: abs(x),
    "==": lambda x, y: x == x,
    "!=": lambda x, y: x != y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "sum": lambda x, y: x.sum(axis=0),
    "prod": lambda x, y: x.prod(axis=1),
    "mean": lambda x, y: x.mean(axis=1, keepdims=True),
    "var": lambda x, y: x.var(axis=1),
    "var, unbiased": lambda x, y: x.var(axis=1, ddof=1),
    "std": lambda x, y: x.std(axis=0),
    "max": lambda x, y: x.max(axis=1),
    "min": lambda x, y: x.min(),
    "argmax": lambda x, y: x.argmax(axis=1),
    "argmin": lambda x, y: x.argmin(axis=0),
    "any": lambda x, y: (x > 2.5).any(axis=1),
    "all": lambda x, y: (x > -1.0).all(axis=0),
    "cumsum": lambda x, y: x.cumsum(axis=1),
    "reshape": lambda x, y: x.reshape(3, 2),
    "reshape, the rest": lambda x, y: x.reshape(-1, 2),
    "transpose": lambda x, y: x.transpose(1, 0),
    "T": lambda x, y: x.T,
    "astype": lambda x, y: x.astype(np.int64 if isinstance(x, np.ndarray) else gc.int64),
    "squeeze": lambda x, y: x.reshape(2, 1, 3).squeeze(1),
    "swapaxes": lambda x, y: x.swapaxes(0, 1),
    "ravel": lambda x, y: x.ravel(),
    "flatten": lambda x, y: x.flatten(),
    "clip": lambda x, y: x.clip(-1.0, 1.0),
    "round": lambda x, y: x.round(),
    "dot": lambda x, y: x.dot(y.T),
    "index": lambda x, y: x[1, ::-1],
    "new axis": lambda x, y: x[:, None] * y[None],
    "ellipsis": lambda x, y: x[..., 1:],
    "mask": lambda x, y: x * (y > 0),
}

INTEGERS: dict[str, Callable[[Any, Any], Any]] = {
    "//": lambda i, j: i // (j + 1),
    "%": lambda i, j: i % (j + 1),
    "&": lambda i, j: i & j,
    "number &": lambda i, j: 5 & i,
    "|": lambda i, j: i | j,
    "number |": lambda i, j: 5 | i,
    "^": lambda i, j: i ^ j,
    "number ^": lambda i, j: 5 ^ i,
    "~": lambda i, j: ~i,
    "<<": lambda i, j: i << j,
    "number <<": lambda i, j: 3 << j,
    ">>": lambda i, j: i >> j,
    "number >>": lambda i, j: 300 >> j,
    "and of tests": lambda i, j: (i > 5) & ~(j < 2),
    "sum": lambda i, j: i.sum(axis=0),
    "prod": lambda i, j: i.prod(axis=1),
    "abs": lambda i, j: abs(j - i),
}


def _check(program: Callable[[Any, Any], Any], arrays: tuple[Array, Array], dtype: Any) -> None:
    x, y = (gc.observed(n, a.shape, dtype) for n, a in zip("xy", arrays, strict=True))
    right = np.asarray(program(*arrays))
    got = gc.compile([x, y], program(x, y), unused="ignore")(*arrays)
    assert got.shape == right.shape
    assert got.dtype == right.dtype
    np.testing.assert_allclose(got, right, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", FLOATS)
def test_floats(name: str) -> None:
    _check(FLOATS[name], (X, Y), gc.float32)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name: str) -> None:
    _check(INTEGERS[name], (I, J), gc.int64)


@pytest.mark.parametrize("mode", ["set", "add", "max", "min"])
def test_at(mode: str) -> None:
    x, w = gc.observed("x", X.shape), gc.observed("w", (2,))
    at, new = X.copy(), np.float32([10.0, -10.0])
    functions = {"add": np.add, "max": np.maximum, "min": np.minimum}
    right = X.copy()
    right[:, 1] = new if mode == "set" else functions[mode](X[:, 1], new)
    got = gc.compile([x, w], getattr(x.at[:, 1], mode)(w))(at, new)
    np.testing.assert_array_equal(got, right)
    np.testing.assert_array_equal(at, X)
