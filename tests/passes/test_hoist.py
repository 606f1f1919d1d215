"""Products leave loops; what is computed stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.closing import close
from graphc.graph import Graph, Node
from graphc.interpret import interpret
from graphc.passes.hoist import hoist
from graphc.verify import verify

STEPS, ROWS, IN, OUT = 5, 3, 4, 6


def inputs() -> tuple[list[gc.Value], list[Any]]:
    shapes = {"xs": (STEPS, ROWS, IN), "h": (ROWS, OUT), "w": (IN, OUT)}
    shapes |= {"u": (OUT, OUT), "b": (OUT,)}
    rng = np.random.default_rng(0)
    values = [gc.observed(name, shape, gc.float64) for name, shape in shapes.items()]
    return values, [rng.standard_normal(shape) * 0.5 for shape in shapes.values()]


def loops(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.op == "loop"]


def products_inside(graph: Graph) -> int:
    return sum(m.op == "contract" for n in loops(graph) for m in n.attrs["body"].nodes)


def check(values: list[gc.Value], results: list[gc.Value], arrays: list[Any]) -> Graph:
    """The hoisted graph, which gives what the graph gives, and again when hoisted twice."""
    graph = close(results, inputs=values)
    hoisted = verify(hoist(graph))
    (expected, _), (got, _) = interpret(graph, arrays), interpret(hoisted, arrays)
    for e, g in zip(expected, got, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-12)
    again = hoist(hoisted)
    assert [n.op for n in again.nodes] == [n.op for n in hoisted.nodes]
    compiled = gc.compile(values, results)(*arrays)
    for e, g in zip(expected, compiled, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-8, atol=1e-10)
    return hoisted


def network(xs: gc.Value, h: gc.Value, w: gc.Value, u: gc.Value, b: gc.Value, **how: Any) -> Any:
    return gc.scan(lambda c, x: (ops.tanh(x @ w + c @ u + b),) * 2, h, xs, **how)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_product_with_the_inputs_leaves_the_loop(reverse: bool) -> None:
    values, arrays = inputs()
    last, states = network(*values, reverse=reverse)
    hoisted = check(values, [last, states], arrays)
    assert products_inside(hoisted) == 1
    assert [n.types[0].shape for n in hoisted.nodes if n.op == "contract"] == [(STEPS, ROWS, OUT)]


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_weights_are_single_products(reverse: bool) -> None:
    values, arrays = inputs()
    last, states = network(*values, reverse=reverse)
    cost = (states * states).sum() + last.sum()
    hoisted = check(values, [cost, *gc.grad(cost, values)], arrays)
    forward, backward = loops(hoisted)
    assert products_inside(hoisted) == 2, "c @ u, and its cotangent"
    carried = [v.shape for v in backward.attrs["body"].outputs[: backward.attrs["carries"]]]
    assert (OUT, OUT) not in carried
    assert (IN, OUT) not in carried
    assert forward.attrs["carries"] == 1


def test_derivatives_read_the_products_of_an_iteration() -> None:
    """What goes round is multiplied once: the derivative reads the results of the way there."""
    values, arrays = inputs()

    def cell(c: gc.Value, x: gc.Value) -> tuple[gc.Value, gc.Value]:
        gate = ops.sigmoid(x @ values[2] + c @ values[3] + values[4])  # needs its argument again
        return gate * c, c

    last, _ = gc.scan(cell, values[1], values[0])
    cost = (last * last).sum()
    hoisted = check(values, [cost, *gc.grad(cost, values)], arrays)
    recurrent = [
        n for g in (hoisted, *(loop.attrs["body"] for loop in loops(hoisted))) for n in g.nodes
        if n.op == "contract" and n.inputs[1].shape == (OUT, OUT)
    ]  # fmt: skip
    assert len(recurrent) == 2, "c @ u, and its cotangent"


def test_second_derivatives_too() -> None:
    values, arrays = inputs()
    last, _ = network(*values)
    slope = gc.grad(last.sum(), values[3])
    check(values, [gc.grad((slope * slope).sum(), values[2])], arrays)


def test_a_product_that_no_iteration_waits_for_is_taken_at_the_end() -> None:
    values, arrays = inputs()
    xs, h, _, u, b = values
    _, ys = gc.scan(lambda c, x: (c * 0.5 + x.sum(), (c * b) @ u), h, xs)
    hoisted = check([xs, h, u, b], [ys], [arrays[n] for n in (0, 1, 3, 4)])
    assert products_inside(hoisted) == 0


def test_what_is_the_same_in_all_iterations_is_computed_once() -> None:
    values, arrays = inputs()
    xs, _, _, u, b = values
    last, _ = gc.scan(lambda c, x: (c + (u @ u) * x.sum() * b.sum(), None), u, xs)
    hoisted = check([xs, u, b], [last], [arrays[0], arrays[3], arrays[4]])
    assert products_inside(hoisted) == 0


def test_products_with_the_position_and_moved_operands() -> None:
    values, arrays = inputs()
    xs, h, w, _, _ = values

    def step(c: gc.Value, pair: tuple[gc.Value, gc.Value]) -> tuple[gc.Value, gc.Value]:
        x, t = pair
        return c + ops.tanh(c) * 0.1, (x * t.astype(gc.float64)) @ w + c.T.reshape(ROWS, OUT)

    last, ys = gc.scan(step, h, (xs, ops.arange(STEPS)))
    hoisted = check([xs, h, w], [last, ys], arrays[:3])
    assert products_inside(hoisted) == 0


@pytest.mark.parametrize("length", [0, 1])
def test_short_loops(length: int) -> None:
    values, arrays = inputs()
    xs = gc.observed("xs", (length, ROWS, IN), gc.float64)
    last, states = network(xs, *values[1:])
    cost = states.sum() + (last * last).sum()
    check([xs, *values[1:]], [cost, *gc.grad(cost, values[2:])], [arrays[0][:length], *arrays[1:]])


def test_loops_in_loops() -> None:
    values, arrays = inputs()
    xs, h, w, u, _ = values

    def outer(c: gc.Value, x: gc.Value) -> tuple[gc.Value, gc.Value]:
        inner, _ = gc.scan(lambda a, _: (ops.tanh(a @ u + x @ w), None), c, length=2)
        return inner, inner.sum()

    last, sums = gc.scan(outer, h, xs)
    cost = last.sum() + (sums * sums).sum()
    check(values[:4], [cost, *gc.grad(cost, [w, u])], arrays[:4])


LEFT: dict[str, Callable[..., Any]] = {
    "a carry multiplied": lambda xs, h, w, u, b: gc.scan(lambda c, x: (c @ u, None), h, xs)[0],
    "a sum that is read": lambda xs, h, w, u, b: gc.scan(
        lambda c, x: (c + ops.tanh(c) @ u, c.sum()), h, xs
    )[1],
}


@pytest.mark.parametrize("name", LEFT)
def test_what_must_stay_stays(name: str) -> None:
    values, arrays = inputs()
    hoisted = check(values[:2] + values[3:4], [LEFT[name](*values)], arrays[:2] + arrays[3:4])
    assert products_inside(hoisted) == 1


def test_a_run_time_length() -> None:
    t = gc.Dim("T", specialize=False)
    xs, w = gc.observed("xs", (t, ROWS, IN)), gc.observed("w", (IN, OUT))
    last, ys = gc.scan(lambda c, x: (c * 0.5 + x @ w, c.sum()), ops.zeros((ROWS, OUT)), xs)
    f = gc.compile([xs, w], [last, ys, gc.grad(last.sum(), w)])
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((IN, OUT)).astype(np.float32)
    for length in (1, 7, 3):
        a = rng.standard_normal((length, ROWS, IN)).astype(np.float32)
        carry, slope = np.zeros((ROWS, OUT)), np.zeros((IN, OUT))
        for x in a:
            carry = carry * 0.5 + x @ weight
            slope = slope * 0.5 + x.T @ np.ones((ROWS, OUT))
        got = f(a, weight)
        np.testing.assert_allclose(got[0], carry, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got[2], slope, rtol=1e-4, atol=1e-4)
