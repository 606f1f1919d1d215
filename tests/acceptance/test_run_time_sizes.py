"""One compiled program for all sizes: new sizes and positions make no new code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import graphc as gc
from graphc import ops, optim
from graphc.backends.cache import default_cache
from graphc.backends.llvm import backend, codegen
from tests.acceptance.programs import data, training

#: 50 of them, small and odd, around vectors and register tiles, and large
SIZES = [*range(1, 34), 47, 48, 49, 63, 64, 65, 96, 100, 127, 128, 129, 200, 255, 256, 257]
SIZES += [300, 513]


@contextmanager
def no_new_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiling or loading a kernel, or asking the cache for one, fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a kernel is made or loaded for a new size")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "compile_kernel", refuse)
        patch.setattr(codegen, "object_of", refuse)
        patch.setattr(codegen, "link", refuse)
        cache = default_cache()
        before = cache.hits, cache.misses
        yield
        assert (cache.hits, cache.misses) == before


def test_the_guard_notices_new_code(monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(gc.Dim("B"))
    run.step(*data(4))
    with no_new_code(monkeypatch), pytest.raises(AssertionError, match="for a new size"):
        run.step(*data(5))


def test_fifty_batch_sizes_of_a_training_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each equals the graph interpreter; each size is new, so each call plans its memory anew."""
    assert len(set(SIZES)) == 50
    run = training(gc.Dim("B", specialize=False), optimizer=optim.SGD(lr=0.05))
    kernels = run.step.schedule.kernels
    starts = {cell: cell.numpy() for cell in run.step.states}
    seconds = []
    results = {}
    with no_new_code(monkeypatch):
        for rows in SIZES:
            for cell, value in starts.items():
                cell.set(value)
            x, y = data(rows, rows)
            begin = time.perf_counter()
            loss = run.step(x, y)
            seconds.append(time.perf_counter() - begin)
            results[rows] = loss, {c: c.numpy() for c in run.step.states}
    assert run.step.schedule.kernels is kernels
    specialized = training(gc.Dim("B"), optimizer=optim.SGD(lr=0.05))
    for rows in (*SIZES[:2], 8, 33, 128, 513):  # compiling for each of the 50 takes long
        for cell, value in zip(specialized.step.states, starts.values(), strict=True):
            cell.set(value)
        loss, states = results[rows]
        np.testing.assert_allclose(loss, specialized.step(*data(rows, rows)), rtol=1e-5)
        for cell, value in zip(specialized.step.states, states.values(), strict=True):
            np.testing.assert_allclose(cell.numpy(), value, rtol=1e-4, atol=1e-6)
    for rows in SIZES:
        _compare_with_numpy(rows, results[rows], starts)
    with capsys.disabled():
        print(f" [a call that plans a new size: median {np.median(seconds) * 1e3:.2f} ms] ", end="")


def _compare_with_numpy(rows: int, result: object, starts: object) -> None:
    """The step written out in float64."""
    loss, states = result  # type: ignore[misc]
    x, y = data(rows, rows)
    parameters = {c: v.astype(np.float64) for c, v in starts.items() if c.trainable}  # type: ignore[attr-defined]
    (w1, b1, w2, b2) = parameters.values()
    hidden = x @ w1.T + b1
    h = np.maximum(hidden, 0)
    logits = h @ w2.T + b2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(p[np.arange(rows), y]).mean(), rtol=1e-5)
    d = (p - np.eye(p.shape[1])[y]) / rows
    dh = (d @ w2) * (hidden > 0)
    gradients = dh.T @ x, dh.sum(axis=0), d.T @ h, d.sum(axis=0)
    for (cell, old), gradient in zip(parameters.items(), gradients, strict=True):
        expected = old - 0.05 * gradient
        np.testing.assert_allclose(states[cell], expected, rtol=1e-4, atol=1e-5, err_msg=str(rows))


def test_sizes_come_back_with_the_same_bits() -> None:
    """Memory is planned anew in between; nothing of another size is left in it."""
    run = training(gc.Dim("B", specialize=False))
    predict = run.predict
    first = {rows: predict(data(rows)[0]) for rows in (5, 300, 1, 64)}
    for rows in (64, 1, 300, 5):
        assert predict(data(rows)[0]).tobytes() == first[rows].tobytes()


def test_sixty_four_positions_of_a_cache(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decoding: a row is written at a position known at run time, and what lies before is read."""
    cache = gc.state((64, 6)).named("cache")
    row, position = gc.observed("row", (1, 6)), gc.observed("position", (), gc.int64)
    after = ops.dynamic_update(cache, row, (position, 0))
    seen = ops.where((ops.arange(64) <= position).reshape(64, 1), after, 0.0).sum(axis=0)
    step = gc.compile([row, position], seen, {cache: after})
    expected = np.zeros((64, 6), np.float32)
    rng = np.random.default_rng(0)
    seconds = []
    with no_new_code(monkeypatch):
        for i in range(64):
            new = rng.standard_normal((1, 6), dtype=np.float32)
            expected[i] = new
            begin = time.perf_counter()
            got = step(new, np.int64(i))
            seconds.append(time.perf_counter() - begin)
            np.testing.assert_allclose(got, expected.sum(axis=0), rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(cache.numpy(), expected)
    with capsys.disabled():
        print(f" [a new position: median {np.median(seconds) * 1e6:.1f} us] ", end="")
    for outside in (-1, 64, 2**40):
        with pytest.raises(gc.RuntimeCheckError, match=r"outside|start"):
            step(new, np.int64(outside))
        np.testing.assert_array_equal(cache.numpy(), expected)


def test_a_window_at_a_run_time_start() -> None:
    x = gc.observed("x", (9, 7))
    i, j = (gc.observed(name, (), gc.int64) for name in "ij")
    f = gc.compile([x, i, j], ops.exp(ops.dynamic_slice(x, (i, j), (4, 3))) + 1.0)
    a = np.random.default_rng(0).standard_normal((9, 7)).astype(np.float32)
    for r in range(6):
        for c in range(5):
            right = np.exp(a[r : r + 4, c : c + 3]) + 1
            np.testing.assert_allclose(f(a, r, c), right, rtol=1e-6)


def test_a_dim_used_as_a_number_follows_the_size() -> None:
    b = gc.Dim("B", specialize=False)
    x = gc.observed("x", (b, 3))
    f = gc.compile([x], [x / b, ops.arange(b) + b, x[: b // 2].sum(axis=0), ops.concat([x, x])])
    for rows in (1, 2, 7, 40):
        a = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
        scaled, numbers, half, twice = f(a)
        np.testing.assert_allclose(scaled, a / rows, rtol=1e-6)
        np.testing.assert_array_equal(numbers, np.arange(rows) + rows)
        np.testing.assert_allclose(half, a[: rows // 2].sum(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(twice, np.concatenate([a, a]))


def test_two_run_time_dims() -> None:
    m, n = gc.Dim("M", specialize=False), gc.Dim("N", specialize=False)
    x, y = gc.observed("x", (m, n)), gc.observed("y", (n, m))
    f = gc.compile([x, y], [x @ y, (x + y.T).max(axis=0)])
    for rows, columns in ((1, 1), (3, 17), (17, 3), (65, 40), (3, 17)):
        rng = np.random.default_rng(rows)
        a = rng.standard_normal((rows, columns)).astype(np.float32)
        b = rng.standard_normal((columns, rows)).astype(np.float32)
        product, top = f(a, b)
        np.testing.assert_allclose(product, a @ b, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(top, (a + b.T).max(axis=0))
