"""Where functions go wrong first: special numbers, all element types, bad calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.types import DTYPES, DType

SPECIAL = np.float32(
    [
        *(np.nan, np.inf, -np.inf, 0.0, -0.0, 1, -1, 0.5, -0.5, 2.5, -3.5),
        *(1e30, -1e30, 1e-30, -1e-30, 88.8, -104),
    ]
)

#: NumPy's names where they differ
THEIRS: dict[str, Callable[..., Any]] = {
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "pow": np.power,
    "relu": lambda x: np.where(x <= 0, 0, x),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
UNARY = [
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "exp"),
    *("exp2", "expm1", "floor", "isfinite", "isinf", "isnan", "log", "log10", "log1p", "log2"),
    *("negative", "reciprocal", "relu", "round", "rsqrt", "sigmoid", "sign", "signbit", "sin"),
    *("sinh", "sqrt", "square", "tan", "tanh", "trunc"),
]
BINARY = [
    *("add", "atan2", "copysign", "divide", "equal", "greater", "greater_equal", "hypot", "less"),
    *("less_equal", "logaddexp", "maximum", "minimum", "multiply", "not_equal", "subtract"),
]


def _same(name: str, got: Any, wanted: Any, about: Any) -> None:
    """Equal in float32, NaN and infinities where NumPy has them, the sign of zeros too."""
    with np.errstate(all="ignore"):
        exact = np.asarray(wanted)
        wanted = exact.astype(got.dtype)
    tiny = np.abs(exact) < 2e-38  # below the normal numbers of float32
    for g, w, small, x in zip(got.flat, wanted.flat, tiny.flat, about, strict=True):
        if small and got.dtype.kind == "f":
            assert abs(g) < 3e-38, (name, x, g, w)
            continue
        np.testing.assert_allclose(g, w, rtol=4e-6, err_msg=f"{name} of {x}")
        if w == 0 and got.dtype.kind == "f":
            assert np.signbit(g) == np.signbit(w), f"{name} of {x}: the sign of 0"


def test_special_numbers_of_unary_functions() -> None:
    x = gc.observed("x", SPECIAL.shape)
    results = gc.compile([x], [getattr(ops, name)(x) for name in UNARY])(SPECIAL)
    for name, got in zip(UNARY, results, strict=True):
        with np.errstate(all="ignore"):
            wanted = THEIRS.get(name, getattr(np, name, None))(SPECIAL.astype(np.float64))
        _same(name, got, wanted, SPECIAL)


def test_special_numbers_of_binary_functions() -> None:
    a, b = (g.ravel() for g in np.meshgrid(SPECIAL, SPECIAL))
    x, y = gc.observed("x", a.shape), gc.observed("y", b.shape)
    results = gc.compile([x, y], [getattr(ops, name)(x, y) for name in BINARY])(a, b)
    pairs = list(zip(a, b, strict=True))
    for name, got in zip(BINARY, results, strict=True):
        with np.errstate(all="ignore"):
            function = THEIRS.get(name, getattr(np, name, None))
            wanted = function(a.astype(np.float64), b.astype(np.float64))
        _same(name, got, wanted, pairs)


ROWS = ([-np.inf, -np.inf, 1.0], [1e4, -1e4, 1e4], [-1e4], [np.inf, 1.0, np.inf], [-np.inf])


@pytest.mark.parametrize("name", ["cumulative_logsumexp", "logsumexp", "softmax", "log_softmax"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_exponentials_of_large_numbers(name: str, row: list[float]) -> None:
    array = np.float64(row)
    x = gc.observed("x", array.shape, gc.float64)
    function = getattr(ops, name)
    got = gc.compile([x], function(x, 0))(array)
    with np.errstate(all="ignore"):
        totals = np.logaddexp.accumulate(array)
        wanted = {
            "cumulative_logsumexp": totals,
            "logsumexp": totals[-1],
            "softmax": np.exp(array - totals[-1]),
            "log_softmax": array - totals[-1],
        }[name]
        if name.endswith("softmax") and not np.isfinite(totals[-1]):
            wanted = np.full(array.shape, np.nan)  # as PyTorch: no share of an infinite whole
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


# ---- element types


def _numbers(dtype: DType, shape: tuple[int, ...], seed: int) -> Any:
    generator = np.random.default_rng(seed)
    low = 0 if dtype.kind in "ub" else -5
    return generator.integers(low, 2 if dtype.kind == "b" else 6, shape).astype(dtype.numpy)


MOVEMENT: list[Callable[[Any, Any, Any], Any]] = [
    lambda m, x, y: m.concatenate([x, y]),
    lambda m, x, y: m.where(x == y, x, y),
    lambda m, x, y: m.pad(x, ((1, 2), (0, 1))),
    lambda m, x, y: m.flip(x, 1),
    lambda m, x, y: m.roll(x, 1, 0),
    lambda m, x, y: m.sort(x, -1),
    lambda m, x, y: m.argsort(x, -1, stable=True) if m is np else ops.argsort(x, -1),
    lambda m, x, y: m.take(x, np.array([2, 0, 1]), 1),
    lambda m, x, y: x[::-2, 1:],
    lambda m, x, y: x == y,
    lambda m, x, y: x != y,
    lambda m, x, y: x <= y,
]
ARITHMETIC: list[Callable[[Any, Any, Any], Any]] = [
    lambda m, x, y: x + y,
    lambda m, x, y: x * y - x,
    lambda m, x, y: m.maximum(x, y),
    lambda m, x, y: m.minimum(x, y),
    lambda m, x, y: m.cumsum(x, 1).astype(x.dtype) if m is np else ops.cumsum(x, 1),
    lambda m, x, y: x.max(1),
    lambda m, x, y: x.min(0),
    lambda m, x, y: x.argmax(1),
    lambda m, x, y: x.sum(0).astype(x.dtype) if m is np else x.sum(0),
    lambda m, x, y: m.abs(x),
]


class _Ours:
    """NumPy's spelling of ours."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ops, {"concatenate": "concat"}.get(name, name))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_type_moves_compares_and_counts(dtype: DType) -> None:
    programs = MOVEMENT if dtype.kind == "b" else [*MOVEMENT, *ARITHMETIC]
    a, b = _numbers(dtype, (5, 4), 1), _numbers(dtype, (5, 4), 2)
    x, y = gc.observed("x", (5, 4), dtype), gc.observed("y", (5, 4), dtype)
    ours = _Ours()
    results = gc.compile([x, y], [program(ours, x, y) for program in programs])(a, b)
    for program, got in zip(programs, results, strict=True):
        wanted = np.asarray(program(np, a, b))
        assert got.shape == wanted.shape
        np.testing.assert_array_equal(got.astype(np.float64), wanted.astype(np.float64))


def test_backward_slices_of_a_size_that_the_call_decides() -> None:
    n = gc.Dim("n", specialize=False)
    x = gc.observed("x", (n, 3))
    steps = (-1, -2, -3)
    cost = (x[::-2] * 2.0).sum()
    program = gc.compile([x], [*(x[::s] for s in steps), gc.grad(cost, x)])
    for length in (1, 2, 5, 6):
        array = np.arange(3.0 * length, dtype=np.float32).reshape(length, 3)
        *cuts, gradient = program(array)
        for step, got in zip(steps, cuts, strict=True):
            np.testing.assert_array_equal(got, array[::step])
        wanted = np.zeros_like(array)
        wanted[::-2] = 2.0
        np.testing.assert_array_equal(gradient, wanted)


# ---- wrong calls

X = gc.observed("x", (3, 4))
IDS = gc.observed("ids", (3,), gc.int64)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: ops.pad(X, 1, mode="mirror"), gc.ShapeError, "no mode 'mirror'; one of edge, reflect"),
    (lambda: ops.pad(X, 3, mode="reflect"), gc.ShapeError, "at most 2 elements"),
    (lambda: ops.pad(X, ((0, 0), (5, 0)), mode="wrap"), gc.ShapeError, "at most 4 elements"),
    (lambda: ops.pad(X, [(1, 1)] * 3), gc.ShapeError, "3 width pairs for 2 axes"),
    (lambda: ops.diagonal(gc.observed("r", (gc.Dim("n"), 3))), gc.ShapeError, "must be literal"),
    (lambda: ops.diagonal(IDS), gc.ShapeError, "axis"),
    (lambda: ops.quantile(X, 1.5), gc.ShapeError, r"q = 1.5 of f32\[12\]: needs 0 <= q <= 1"),
    (lambda: ops.median(X, axis=2), gc.ShapeError, "axis 2 is out of range"),
    (lambda: ops.diff(X > 0), gc.DTypeError, "takes numbers"),
    (lambda: ops.diff(X, -1), gc.DTypeError, "n >= 0"),
    (lambda: ops.meshgrid(X), gc.ShapeError, "takes 1-D arrays"),
    (lambda: ops.meshgrid(IDS, indexing="yx"), gc.ShapeError, "'xy' or 'ij'"),
    (lambda: ops.searchsorted(X, 1.0), gc.ShapeError, r"takes a row \[n\]"),
    (lambda: ops.searchsorted(IDS, 1, "middle"), gc.ShapeError, "'left' or 'right'"),
    (lambda: ops.bincount(X, 3), gc.ShapeError, r"takes ids \[n\]"),
    (lambda: ops.segment_sum(X, X, 3), gc.ShapeError, r"ids \[n\]"),
    (lambda: ops.top_k(X, 5), gc.ShapeError, "k = 5"),
    (lambda: ops.top_k(X, 0), gc.ShapeError, "k = 0"),
    (lambda: ops.top_k(1.0, 1), gc.ShapeError, "axis"),
    (lambda: ops.sort(X, 2), gc.ShapeError, "axis 2 is out of range"),
    (lambda: ops.argsort(1.0), gc.ShapeError, "axis"),
    (lambda: ops.take_along_axis(X, IDS), gc.ShapeError, "differ in rank"),
    (lambda: ops.average(X, weights=IDS), gc.ShapeError, "does not expand"),
    (lambda: ops.cumulative_logsumexp(X, 5), gc.ShapeError, "out of range"),
    (lambda: X[::0], gc.ShapeError, "step is not 0"),
    (lambda: ops.hypot(X, gc.observed("z", (4, 4))), gc.ShapeError, "axis 0 differs"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_calls_say_what_is_wrong(number: int) -> None:
    call, error, message = WRONG[number]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "test_edges.py" in str(caught.value), "it names the line of the call"
