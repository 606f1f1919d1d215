"""scan, while_loop and cond against Python loops: values, derivatives, captures, refusals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from tests.evaluating import evaluate, numerical_gradient

rng = np.random.default_rng(11)


def f64(name: str, shape: tuple[int, ...]) -> gc.Value:
    return gc.observed(name, shape, gc.float64)


class Pair(NamedTuple):
    h: Any
    count: Any


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_the_loop(reverse: bool) -> None:
    xs, w, h0 = f64("xs", (4, 3)), f64("w", (3, 3)), f64("h0", (3,))

    def body(carry: Pair, x: Any) -> Any:
        h = ops.tanh(carry.h @ w + x["a"])
        return Pair(h, carry.count + 1), {"h": h, "x": x["a"] * 2.0}

    final, ys = gc.scan(body, Pair(h0, 0), {"a": xs}, reverse=reverse)
    feeds = {xs: rng.normal(size=(4, 3)), w: rng.normal(size=(3, 3)), h0: rng.normal(size=3)}
    got_final, got = evaluate((final, ys), feeds)
    h, wanted = feeds[h0], [np.zeros(3)] * 4
    for i in reversed(range(4)) if reverse else range(4):
        h = wanted[i] = np.tanh(h @ feeds[w] + feeds[xs][i])
    assert isinstance(got_final, Pair)
    assert got_final.count == 4
    np.testing.assert_allclose(got_final.h, h)
    np.testing.assert_allclose(got["h"], wanted)
    np.testing.assert_allclose(got["x"], feeds[xs] * 2)
    cost = (ys["h"] ** 2).sum() + final.h.sum()
    values = (xs, w, h0)
    for value, slope in zip(values, evaluate(gc.grad(cost, values), feeds), strict=True):

        def at(a: Any, value: gc.Value = value) -> float:
            return float(evaluate(cost, {**feeds, value: a}))

        np.testing.assert_allclose(
            slope, numerical_gradient(at, feeds[value]), rtol=1e-5, atol=1e-8
        )


def test_second_order_through_a_scan() -> None:
    y0, x = f64("y0", (2,)), f64("x", (2,))

    def energy(y: gc.Value) -> gc.Value:
        return (ops.sin(y) * x + y * y).sum()

    descended, _ = gc.scan(lambda y, _: (y - 0.1 * gc.grad(energy(y), y), None), y0, length=5)
    cost = energy(descended)
    feeds = {y0: rng.normal(size=2), x: rng.normal(size=2)}
    slope = evaluate(gc.grad(cost, x), feeds)
    wanted = numerical_gradient(lambda a: float(evaluate(cost, {**feeds, x: a})), feeds[x])
    np.testing.assert_allclose(slope, wanted, rtol=1e-6)
    v = rng.normal(size=2)
    curved = evaluate(gc.hvp(cost, x, gc.constant(v)), feeds)
    g = gc.grad(cost, x)
    up, down = (evaluate(g, {**feeds, x: feeds[x] + s * 1e-5 * v}) for s in (1, -1))
    np.testing.assert_allclose(curved, (up - down) / 2e-5, rtol=1e-5, atol=1e-8)


def test_parameters_are_captured() -> None:
    cell = nn.Linear(3, 3, dtype=gc.float64).named("cell")
    x = f64("x", (3,))
    out, _ = gc.scan(lambda h, _: (ops.tanh(cell(h)), None), x, length=3)
    slopes = gc.grad(out.sum(), cell)
    at = rng.normal(size=3)

    def cost(w: Any) -> float:
        h = at
        for _ in range(3):
            h = np.tanh(h @ w.T + cell.bias.numpy())
        return float(h.sum())

    wanted = numerical_gradient(cost, cell.weight.numpy())
    np.testing.assert_allclose(evaluate(slopes["weight"], {x: at}), wanted, rtol=1e-6)


@pytest.mark.parametrize("max_steps", [None, 10])
def test_while_loop(max_steps: int | None) -> None:
    x, limit = f64("x", ()), f64("limit", ())
    value, steps = gc.while_loop(
        lambda s: s[0] < limit, lambda s: (s[0] * 2.0, s[1] + 1), (x, 0), max_steps=max_steps
    )
    feeds = {x: 0.75, limit: 20.0}
    assert evaluate((value, steps), feeds) == (24.0, 5)
    assert evaluate((value, steps), {x: 30.0, limit: 20.0}) == (30.0, 0)
    assert evaluate(gc.jvp(value, x, 1.0), feeds) == 32
    if max_steps is None:
        with pytest.raises(gc.GradError, match="max_steps"):
            gc.grad(value, x)
    else:
        assert evaluate(gc.grad(value, x), feeds) == 32


def test_cond_runs_one_branch() -> None:
    x, y = f64("x", (2,)), f64("y", (2,))
    out = gc.cond(x.sum() > 0.0, lambda a: {"r": a * y}, lambda a: {"r": ops.exp(a)}, x)
    cost = (out["r"] ** 2).sum()
    for at in ([1.0, 2.0], [-1.0, -2.0]):
        feeds = {x: np.array(at), y: np.array([3.0, 4.0])}
        wanted = feeds[x] * feeds[y] if sum(at) > 0 else np.exp(feeds[x])
        np.testing.assert_allclose(evaluate(out["r"], feeds), wanted)
        for value, slope in zip((x, y), evaluate(gc.grad(cost, (x, y)), feeds), strict=True):

            def f(a: Any, value: gc.Value = value, feeds: Any = feeds) -> float:
                return float(evaluate(cost, {**feeds, value: a}))

            np.testing.assert_allclose(slope, numerical_gradient(f, feeds[value]), atol=1e-6)


def test_refusals() -> None:
    x = f64("x", (4, 3))
    with pytest.raises(gc.DTypeError, match=r"carry\[1\] is f64\[3\] before.*astype"):
        gc.scan(lambda c, v: ((c[0], c[1].astype(gc.float32)), v), (x[0], x[0]), x)
    with pytest.raises(gc.ShapeError, match="carry is f64"):
        gc.scan(lambda c, v: (c[:2], v), x[0], x)
    with pytest.raises(gc.ShapeError, match=r"returns \(carry, y\)"):
        gc.scan(lambda c, v: c, x[0], x)
    with pytest.raises(gc.ShapeError, match="give xs, or length"):
        gc.scan(lambda c, v: (c, v), x[0])
    with pytest.raises(gc.ShapeError, match="should be 5"):
        gc.scan(lambda c, v: (c, v), x[0], x, length=5)
    with pytest.raises(gc.DTypeError, match="bool scalar"):
        gc.while_loop(lambda c: c, lambda c: c, x[0])
    with pytest.raises(gc.DTypeError, match="bool scalar"):
        gc.cond(x.sum(), lambda: x, lambda: x)
    with pytest.raises(gc.ShapeError, match="the first branch"):
        gc.cond(x.sum() > 0.0, lambda v: v, lambda v: v[0], x)
    with pytest.raises(TypeError, match="a < b < c"):
        gc.while_loop(lambda c: 0.0 < c < 1.0, lambda c: c, x[0, 0])


def test_a_value_of_a_body_does_not_leave_it() -> None:
    x, leaked = f64("x", (4, 3)), []

    def body(c: gc.Value, v: gc.Value) -> Any:
        leaked.append(c * 2.0)
        return c + v, None

    gc.scan(body, x[0], x)
    with pytest.raises(gc.ScopeError, match="return it from the body"):
        evaluate(leaked[0] + 1.0, {x: np.ones((4, 3))})
