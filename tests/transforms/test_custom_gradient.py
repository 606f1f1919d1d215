"""custom_gradient: the rule as written, in every mode and order, inside loops and lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from tests.evaluating import evaluate, numerical_gradient

rng = np.random.default_rng(33)


def f64(name: str, shape: tuple[int, ...]) -> gc.Value:
    return gc.observed(name, shape, gc.float64)


@gc.custom_gradient
def round_through(x: gc.Value) -> gc.Value:
    return ops.round(x)


@round_through.backward
def _(x: gc.Value, out: gc.Value, ct: gc.Value) -> tuple[gc.Value]:
    return (ct * (ops.abs(x) <= 1.0),)


def correct() -> Callable[..., Any]:
    """sin(x) * y with its true derivative, written out."""

    @gc.custom_gradient
    def product(x: gc.Value, y: gc.Value) -> gc.Value:
        return ops.sin(x) * y

    @product.backward
    def _(inputs: Any, out: gc.Value, ct: gc.Value) -> Any:
        x, y = inputs
        return ct * ops.cos(x) * y, ct * ops.sin(x)

    return product


def test_the_rule_replaces_the_derivative() -> None:
    x = gc.observed("x", (4,))
    run = gc.compile([x], (round_through(x), gc.grad((round_through(x) * 3.0).sum(), x)))
    out, slope = run(np.float32([-1.5, -0.4, 0.9, 2.2]))
    np.testing.assert_array_equal(out, [-2, 0, 1, 2])
    np.testing.assert_array_equal(slope, [0, 3, 3, 0])


@pytest.mark.parametrize("within", ["plain", "scan"])
def test_a_true_rule_is_the_derivative_to_second_order(within: str) -> None:
    product = correct()
    x, y, v = f64("x", (3,)), f64("y", (3,)), f64("v", (3,))

    def cost(f: Callable[..., Any]) -> gc.Value:
        if within == "plain":
            return (f(x, y) ** 2).sum()
        out, ys = gc.scan(lambda c, _: (f(c, y) + 0.1, f(c, c)), x, length=3)
        return (out * ys.sum(axis=0)).sum()

    ours, plain = cost(product), cost(lambda a, b: ops.sin(a) * b)
    made = [
        (c, gc.grad(c, (x, y)), gc.hvp(c, x, v), gc.grad((gc.grad(c, x) * v).sum(), (x, y)))
        for c in (ours, plain)
    ]
    feeds = {value: rng.normal(size=3) for value in (x, y, v)}
    got, wanted = evaluate(made, feeds)
    for a, b in zip(gc.tree.leaves(got), gc.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    numeric = numerical_gradient(lambda a: float(evaluate(ours, {**feeds, x: a})), feeds[x])
    np.testing.assert_allclose(got[1][0], numeric, rtol=1e-6)


def test_it_runs_natively_in_a_scan() -> None:
    x = gc.observed("x", (3,))
    product = correct()
    out, _ = gc.scan(lambda c, _: (product(c, c) + 0.5, None), x, length=4)
    plain, _ = gc.scan(lambda c, _: (ops.sin(c) * c + 0.5, None), x, length=4)
    at = np.float32([0.3, -0.7, 1.1])
    run = gc.compile([x], [(o, gc.grad(o.sum(), x)) for o in (out, plain)])
    (a, slope_a), (b, slope_b) = run(at)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(slope_a, slope_b, rtol=1e-5)


def test_what_it_captures_has_its_ordinary_derivative() -> None:
    """A layer whose input's gradient is reversed: its parameters' is not."""
    layer = nn.Linear(3, 2, dtype=gc.float64)
    x = f64("x", (4, 3))

    @gc.custom_gradient
    def reversed_(x: gc.Value) -> gc.Value:
        return layer(x)

    @reversed_.backward
    def _(x: gc.Value, out: gc.Value, ct: gc.Value) -> gc.Value:
        return -(ct @ layer.weight)

    wrt = [x, layer.weight, layer.bias]
    costs = [(f(x) ** 2).sum() for f in (reversed_, layer)]
    feeds = {x: rng.normal(size=(4, 3))}
    ours, plain = evaluate([gc.grad(c, wrt) for c in costs], feeds)
    np.testing.assert_allclose(ours[0], -plain[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], plain[1], rtol=1e-12)
    np.testing.assert_allclose(ours[2], plain[2], rtol=1e-12)
    pushed = [gc.jvp(f(x), wrt, wrt) for f in (reversed_, layer)]
    ours, plain = evaluate(pushed, feeds)
    to_x = evaluate(gc.jvp(layer(x), x, x), feeds)
    np.testing.assert_allclose(ours, plain - 2 * to_x, rtol=1e-10)


def test_structures_integers_and_none() -> None:
    @gc.custom_gradient
    def pick(parts: dict[str, gc.Value], k: gc.Value) -> dict[str, gc.Value]:
        return {"sum": parts["a"] + parts["b"] * k.astype(gc.float64), "k": k + 1}

    @pick.backward
    def _(inputs: Any, outputs: Any, cts: Any) -> Any:
        assert cts["k"] is None
        assert outputs["k"].dtype == gc.int64
        return {"a": cts["sum"] * 2.0, "b": None}, None

    a, b, k = f64("a", (2,)), f64("b", (2,)), gc.observed("k", (2,), gc.int64)
    out = pick({"a": a, "b": b}, k)
    slopes = gc.grad((out["sum"] * a).sum(), (a, b), unused="zero")
    feeds = {a: np.array([1.0, 2.0]), b: np.array([3.0, 4.0]), k: np.array([1, 2])}
    (by_a, by_b), held = evaluate((slopes, out), feeds)
    np.testing.assert_array_equal(held["sum"], [4, 10])
    np.testing.assert_array_equal(held["k"], [2, 3])
    np.testing.assert_array_equal(by_a, held["sum"] + 2 * feeds[a])
    np.testing.assert_array_equal(by_b, [0, 0])


def test_a_number_is_a_cotangent_everywhere() -> None:
    @gc.custom_gradient
    def seven(x: gc.Value) -> gc.Value:
        return x * 2.0

    @seven.backward
    def _(x: gc.Value, out: gc.Value, ct: gc.Value) -> float:
        return 7.0

    x = f64("x", (2,))
    np.testing.assert_array_equal(evaluate(gc.grad(seven(x).sum(), x), {x: [1.0, 2.0]}), [7, 7])


def test_in_lanes_an_argument_of_all_gets_the_sum() -> None:
    product = correct()
    x, y = f64("x", (4, 3)), f64("y", (3,))
    lanes = gc.vmap(lambda a: product(a, y))(x)
    plain = ops.sin(x) * y
    feeds = {x: rng.normal(size=(4, 3)), y: rng.normal(size=3)}
    made = [(o, gc.grad((o * o).sum(), (x, y)), gc.jvp(o, (x, y), (x, y))) for o in (lanes, plain)]
    got, wanted = evaluate(made, feeds)
    for a, b in zip(gc.tree.leaves(got), gc.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_the_closed_graph_has_no_trace_of_it_but_the_block() -> None:
    x = gc.observed("x", (4,))
    run = gc.compile([x], gc.grad(round_through(x * 2.0).sum(), x))
    assert "custom" not in {node.op for node in run.graph.nodes}
    assert "round_through" in run.graph.text()
