"""Arguments of a call that are wrong or odd: an error that says who, what and the remedy, or the
same numbers; never a crash, never a changed state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from tests.acceptance.programs import (
    CLASSES,
    FEATURES,
    Array,
    Training,
    contents,
    data,
    oracle,
    training,
)

X, Y = data(8)


@pytest.fixture(scope="module")
def run() -> Training:
    made = training()
    made.step(X, Y)
    return made


# ---- refused


REFUSED: dict[str, tuple[Callable[[gc.Executable], Any], type[Exception], str]] = {
    "float64 for float32": (
        lambda f: f(X.astype(np.float64), Y),
        gc.DTypeError,
        r"'x': expected f32\[B,12\], got f64\[8,12\]; write x\.astype\(np\.float32\)",
    ),
    "float16 for float32": (
        lambda f: f(X.astype(np.float16), Y),
        gc.DTypeError,
        r"'x': expected f32\[B,12\], got f16\[8,12\]; write x\.astype\(np\.float32\)",
    ),
    "integers for float32": (
        lambda f: f(X.astype(np.int64), Y),
        gc.DTypeError,
        r"'x': expected f32.* got i64\[8,12\]; write x\.astype\(np\.float32\)",
    ),
    "complex numbers": (
        lambda f: f(X.astype(np.complex64), Y),
        gc.DTypeError,
        r"'x': expected f32.* got complex64\[8,12\]; write x\.astype",
    ),
    "Python objects": (
        lambda f: f(X.astype(object), Y),
        gc.DTypeError,
        r"'x': expected f32.*Python objects holds no numbers",
    ),
    "floats for labels": (
        lambda f: f(X, Y.astype(np.float32)),
        gc.DTypeError,
        r"'y': expected i64\[B\], got f32\[8\]; write y\.astype\(np\.int64\)",
    ),
    "unsigned labels that do not fit": (
        lambda f: f(X, Y.astype(np.uint64)),
        gc.DTypeError,
        r"'y': expected i64\[B\], got uint64\[8\]; write y\.astype\(np\.int64\)",
    ),
    "wrong number of columns": (
        lambda f: f(X[:, :5], Y),
        gc.ShapeError,
        r"'x': expected f32\[B,12\], got shape \(8, 5\): axis 1 is 5, not 12",
    ),
    "too few axes": (
        lambda f: f(X[0], Y),
        gc.ShapeError,
        r"'x': expected f32\[B,12\] \(2 axes\), got shape \(12,\) \(1 axes\)",
    ),
    "too many axes": (
        lambda f: f(X[..., None], Y),
        gc.ShapeError,
        r"'x': expected f32\[B,12\] \(2 axes\), got shape \(8, 12, 1\) \(3 axes\)",
    ),
    "a number for a matrix": (
        lambda f: f(3.0, Y),
        gc.ShapeError,
        r"'x': expected f32\[B,12\] \(2 axes\), got shape \(\)",
    ),
    "a ragged list": (
        lambda f: f([[1.0, 2.0], [3.0]], Y),
        gc.ShapeError,
        r"'x': the nested list is ragged",
    ),
    "a list of words": (
        lambda f: f([["a"] * FEATURES] * 8, Y),
        gc.DTypeError,
        r"'x': a list of <U1 is not f32\[B,12\]",
    ),
    "None": (
        lambda f: f(None, Y),
        gc.BindError,
        r"'x': expected an array of f32\[B,12\], got NoneType; convert it with np\.asarray",
    ),
    "a Value": (
        lambda f: f(gc.observed("x", (8, FEATURES)), Y),
        gc.GraphcError,
        r"got Value",
    ),
    "a Dim of two sizes": (
        lambda f: f(X, Y[:4]),
        gc.ShapeError,
        r"B is 8 in 'x' but 4 in 'y' \(axis 0 of shape \(4,\)\)",
    ),
    "an empty batch for a Dim of at least 1": (
        lambda f: f(X[:0], Y[:0]),
        gc.ShapeError,
        r"'x': expected .*got shape \(0, 12\): axis 0 is 0, not B in 1\.\.",
    ),
    "no arguments": (
        lambda f: f(),
        gc.BindError,
        r"step takes 2 arguments \(x, y\); missing: x, y",
    ),
    "an argument too few": (
        lambda f: f(X),
        gc.BindError,
        r"step takes 2 arguments \(x, y\); missing: y",
    ),
    "an argument too many": (
        lambda f: f(X, Y, Y),
        gc.BindError,
        r"step takes 2 arguments \(x, y\), got 3",
    ),
    "an unknown name": (
        lambda f: f(X, Y, lr=0.1),
        gc.BindError,
        r"step takes 2 arguments \(x, y\), got an unexpected 'lr'",
    ),
    "one by position and by name": (
        lambda f: f(X, Y, x=X),
        gc.BindError,
        r"step: 'x' is given twice, by position and by name",
    ),
    "out that is no array": (
        lambda f: f(X, Y, out=3.0),
        gc.BindError,
        r"out '\w+': expected",
    ),
    "out of another type": (
        lambda f: f(X, Y, out=np.zeros(())),
        gc.BindError,
        r"out '\w+': expected.*f32\[\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_argument_is_refused_and_changes_nothing(run: Training, name: str) -> None:
    call, error, message = REFUSED[name]
    before = contents(run.step)
    with pytest.raises(error, match=message) as caught:
        call(run.step)
    assert isinstance(caught.value, gc.GraphcError)
    if "'x'" in str(caught.value) and "expected" in str(caught.value):
        assert "programs.py:" in str(caught.value), "the line that observed it"
    assert contents(run.step) == before
    assert np.isfinite(run.step(X, Y))


# ---- accepted: the same numbers as the plain array gives


def _misaligned(a: Array) -> Array:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    moved = raw[1:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    assert not moved.flags.aligned
    return moved


def _read_only(a: Array) -> Array:
    frozen = a.copy()
    frozen.flags.writeable = False
    return frozen


def _at_four_bytes(a: Array) -> Array:
    """Aligned for its elements and for nothing wider."""
    raw = np.zeros(a.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + a.itemsize
    moved = raw[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


class _Tensor:
    """What another library's tensor offers."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


ACCEPTED: dict[str, Callable[[Array], Any]] = {
    "column-major": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "part of a wider array": lambda a: np.stack([a, -a], axis=-1)[..., 0],
    "read-only": _read_only,
    "misaligned": _misaligned,
    "aligned to an element only": _at_four_bytes,
    "the other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "a subclass": lambda a: a.view(type("Own", (np.ndarray,), {})),
    "a nested list": lambda a: a.tolist(),
    "a tuple of arrays' numbers": lambda a: tuple(map(tuple, a.tolist())) if a.ndim > 1 else a,
    "another library's tensor": _Tensor,
}


@pytest.fixture(scope="module")
def measure() -> gc.Executable:
    made = training(seed=1)
    return gc.compile(made.inputs, [made.loss, gc.grad(made.loss, made.inputs[0])], mode="train")


@pytest.mark.parametrize("name", ACCEPTED)
def test_another_layout_gives_the_same_numbers(measure: gc.Executable, name: str) -> None:
    odd = ACCEPTED[name]
    for seed in range(2):
        x, y = data(7, seed)
        plain, got = measure(x, y), measure(odd(x), odd(y))
        for a, b in zip(got, plain, strict=True):
            assert a.tobytes() == b.tobytes()


def test_narrower_integers_widen(measure: gc.Executable) -> None:
    losses = [measure(X, Y.astype(t))[0] for t in (np.int64, np.int32, np.uint8)]
    assert losses[0] == losses[1] == losses[2]


def test_scalars_are_weak() -> None:
    x, n = gc.observed("x", ()), gc.observed("n", (), gc.int64)
    f = gc.compile([x, n], x * n)
    for given in (2, 2.0, np.float64(2.0), np.float32(2.0), np.array(2.0), True + 1):
        assert f(given, 3) == 6
        assert f(given, np.int32(3)).dtype == np.float32
    with pytest.raises(gc.DTypeError, match=r"'n': expected i64\[\]"):
        f(2.0, 3.5)
    with pytest.raises(gc.DTypeError, match=r"'n': 9223372036854775808 does not fit i64"):
        f(2.0, 2**63)


def test_an_argument_is_never_written(run: Training) -> None:
    x, y = X.copy(), Y.copy()
    run.step(x, y)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


# ---- empty


@pytest.mark.parametrize("specialize", [True, False])
def test_an_empty_batch_is_what_the_oracle_says(specialize: bool) -> None:
    run = training(gc.Dim("B", min=0, specialize=specialize), optimizer=optim.SGD(lr=0.1))
    for rows in (0, 3, 0):
        x, y = data(rows)
        expected, new = oracle(run, x, y)
        np.testing.assert_allclose(run.step(x, y), expected, rtol=1e-5)  # the mean of nothing: NaN
        for value, array in new.items():
            np.testing.assert_allclose(value.node.attrs["state"].numpy(), array, rtol=1e-4)
        assert run.predict(x).shape == (rows, CLASSES)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_arrays_of_fixed_shapes(shape: tuple[int, int]) -> None:
    x, w = gc.observed("x", shape), gc.observed("w", (shape[1], 5))
    f = gc.compile([x, w], [x @ w, x.sum(axis=1), ops.exp(x), ops.concat([x, x])])
    product, sums, exp, twice = f(np.zeros(shape, np.float32), np.ones((shape[1], 5), np.float32))
    np.testing.assert_array_equal(product, np.zeros((shape[0], 5)))
    np.testing.assert_array_equal(sums, np.zeros(shape[0]))
    assert exp.shape == shape
    assert twice.shape == (2 * shape[0], shape[1])


# ---- NaN and infinities


NUMPY: dict[str, Any] = {"sigmoid": lambda a: 1 / (1 + np.exp(-a))}
SPECIAL = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38, -3e38, 1.0])


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "tanh", "sigmoid", "abs", "log1p", "sign"])
def test_special_numbers_pass_through_maps(name: str) -> None:
    x = gc.observed("x", SPECIAL.shape)
    got = gc.compile([x], getattr(ops, name)(x))(SPECIAL)
    with np.errstate(all="ignore"):
        expected = NUMPY.get(name, getattr(np, name, None))(SPECIAL)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_array_equal(np.signbit(got[3:5]), np.signbit(expected[3:5]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_special_numbers_pass_through_reductions_and_products(bad: float) -> None:
    a = np.random.default_rng(0).standard_normal((5, 37)).astype(np.float32)
    a[2, 30], a[4, 0] = bad, bad
    w = np.random.default_rng(1).standard_normal((37, 6)).astype(np.float32)
    x, v = gc.observed("x", a.shape), gc.observed("w", w.shape)
    outs = [x.sum(axis=1), x.max(axis=1), x.min(axis=1), x.mean(axis=0), x @ v, ops.argmax(x, 1)]
    got = gc.compile([x, v], outs)(a, w)
    with np.errstate(all="ignore"):
        expected = [a.sum(1), a.max(1), a.min(1), a.mean(0), a @ w, a.argmax(1)]
    for one, right in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, right, rtol=1e-4, atol=1e-5)


def test_a_nan_reaches_the_loss_and_the_weights_and_crashes_nothing() -> None:
    run = training(optimizer=optim.SGD(lr=0.1))
    x, y = data(8)
    x[3, 4] = np.nan
    expected, new = oracle(run, x, y)
    assert np.isnan(expected)
    assert np.isnan(run.step(x, y))
    for value, array in new.items():
        held = value.node.attrs["state"].numpy()
        np.testing.assert_array_equal(np.isnan(held), np.isnan(array))


def test_infinite_logits_have_a_finite_loss_where_numpy_has() -> None:
    logits = np.float32([[1e4, 0, -1e4], [-np.inf, 0, 0]])
    x, y = gc.observed("x", (2, 3)), gc.observed("y", (2,), gc.int64)
    losses = nn.functional.cross_entropy(x, y, reduction="none")
    got = gc.compile([x, y], losses)(logits, np.int64([0, 1]))
    np.testing.assert_allclose(got, [0, np.log(2)], rtol=1e-6, atol=1e-7)


# ---- targets out of range


@pytest.mark.parametrize("wrong", [CLASSES, -1, 2**40, -(2**62)])
@pytest.mark.parametrize("specialize", [True, False])
def test_a_target_out_of_range_changes_no_state(wrong: int, specialize: bool) -> None:
    run, twin = (training(gc.Dim("B", specialize=specialize), seed=2) for _ in range(2))
    for one in (run, twin):
        one.step(X, Y)
    before, steps = contents(run.step), run.optimizer.steps
    assert len(before) > 8, "parameters, moments, counters"
    for row in (0, 7):
        bad = Y.copy()
        bad[row] = wrong
        with pytest.raises(gc.RuntimeCheckError, match=r"an index is outside 0\.\.4") as caught:
            run.step(X, bad)
        assert "programs.py:" in str(caught.value), "the line that asked for the loss"
        assert contents(run.step) == before
        assert run.optimizer.steps == steps == 1
    assert run.step(X, Y).tobytes() == twin.step(X, Y).tobytes()
    for a, b in zip(run.step.states, twin.step.states, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_a_failed_check_gives_no_output_array() -> None:
    x, i = gc.observed("x", (4,)), gc.observed("i", (2,), gc.int64)
    f = gc.compile([x, i], ops.take(x, i, axis=0))
    out = np.full(2, 7, np.float32)
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        f(np.ones(4, np.float32), np.int64([0, 4]), out=out)
    np.testing.assert_array_equal(f(np.ones(4, np.float32), np.int64([0, 3]), out=out), [1, 1])
