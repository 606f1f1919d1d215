"""grad, vjp, jvp, hvp against finite differences in float64, against each other, and refusals."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from tests.evaluating import evaluate, numerical_gradient

rng = np.random.default_rng(20)


def f64(name: str, shape: tuple[int, ...]) -> gc.Value:
    return gc.observed(name, shape, gc.float64)


FUNCTIONS: dict[str, Callable[[gc.Value], gc.Value]] = {
    "repeated use": lambda x: (x * x + x).sum(),
    "broadcast": lambda x: (x + x[:1] * x[:, :1]).sum(),
    "product over an axis": lambda x: ops.exp(x.prod(axis=1)).sum(),
    "maximum": lambda x: (x.max(axis=0) * x.min(axis=1).sum()).sum(),
    "movement": lambda x: (x.T.reshape(-1)[::2] * ops.flip(x).reshape(-1)[1::2]).sum(),
    "concat and pad": lambda x: ops.square(ops.concat([x, ops.pad(x, 1)[1:-1, 1:]], 1)).sum(),
    "softmax": lambda x: (ops.softmax(x) * ops.log_softmax(x * 2.0, axis=0)).sum(),
    "matmul": lambda x: ops.tanh(x @ x.T).sum(),
    "norm": lambda x: nn.functional.layer_norm(x, (4,)).var() + ops.norm(x),
    "cumulative": lambda x: (ops.cumulative_sum(x, axis=1) ** 2).sum(),
    "activations": lambda x: (nn.functional.gelu(x) + nn.functional.silu(x) * x).sum(),
    "chain of all": lambda x: ops.log1p(ops.exp(ops.sin(x) / (2.0 + ops.cos(x)))).mean(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_finite_differences(name: str) -> None:
    x = f64("x", (3, 4))
    cost = FUNCTIONS[name](x)
    at = rng.normal(size=(3, 4))
    slope = evaluate(gc.grad(cost, x), {x: at})
    wanted = numerical_gradient(lambda a: float(evaluate(cost, {x: a})), at)
    np.testing.assert_allclose(slope, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_order(name: str) -> None:
    """The gradient of a gradient's projection, hvp, and differences of the gradient agree."""
    x = f64("x", (3, 4))
    cost = FUNCTIONS[name](x)
    at, direction = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    v = gc.constant(direction)
    slope = gc.grad(cost, x)
    forward_over_reverse = gc.hvp(cost, x, v)
    reverse_over_reverse = gc.grad((slope * v).sum(), x, unused="zero")
    a, b = evaluate((forward_over_reverse, reverse_over_reverse), {x: at})
    h = 1e-5
    up, down = (evaluate(slope, {x: at + s * h * direction}) for s in (1, -1))
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(a, (up - down) / (2 * h), rtol=1e-5, atol=1e-6)


def test_third_order() -> None:
    x = f64("x", ())
    third = gc.grad(gc.grad(gc.grad(x**4 * 2.0, x), x), x)
    assert evaluate(third, {x: 1.5}) == pytest.approx(48 * 1.5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_and_reverse_are_transposes(name: str) -> None:
    x = f64("x", (3, 4))
    cost = FUNCTIONS[name](x)
    inner = cost * x + ops.sin(x)
    at, u, w = (rng.normal(size=(3, 4)) for _ in range(3))
    pushed = gc.jvp(inner, x, gc.constant(u))
    pulled = gc.vjp(inner, x, gc.constant(w))
    a, b = evaluate((pushed, pulled), {x: at})
    np.testing.assert_allclose((a * w).sum(), (b * u).sum(), rtol=1e-9)


def test_derivative_towards_an_intermediate_value_is_total() -> None:
    x = f64("x", (3,))
    h = ops.exp(x)
    cost = (h * h + ops.sin(h) * x).sum()
    at = rng.normal(size=3)
    to_h, to_x = evaluate(gc.grad(cost, (h, x)), {x: at})
    np.testing.assert_allclose(to_h, 2 * np.exp(at) + np.cos(np.exp(at)) * at)
    np.testing.assert_allclose(to_x, to_h * np.exp(at) + np.sin(np.exp(at)))


def test_parameters_structures_and_modules() -> None:
    layer = nn.Linear(3, 2, dtype=gc.float64)
    x = f64("x", (4, 3))
    cost = (layer(x) ** 2).sum()
    by_name = gc.grad(cost, layer)
    assert list(by_name) == ["weight", "bias"]
    assert {k: v.shape for k, v in by_name.items()} == {"weight": (2, 3), "bias": (2,)}
    mixed = gc.grad(cost, {"p": [layer.weight], "x": x})
    assert mixed["x"].shape == (4, 3)
    at = rng.normal(size=(4, 3))
    one, other = evaluate((by_name["weight"], mixed["p"][0]), {x: at})
    np.testing.assert_array_equal(one, other)


def test_zero_size() -> None:
    x = f64("x", (0, 3))
    assert evaluate(gc.grad((x * x).sum(), x), {x: np.zeros((0, 3))}).shape == (0, 3)


def test_stop_gradient_cuts() -> None:
    x = f64("x", (2,))
    slope = gc.grad((gc.stop_gradient(x) * x).sum(), x)
    np.testing.assert_array_equal(evaluate(slope, {x: [3.0, 4.0]}), [3.0, 4.0])


def test_by_mode_is_differentiable() -> None:
    x = f64("x", (2,))
    slope = gc.grad(gc.by_mode(train=x * 2.0, eval=x * x).sum(), x)
    np.testing.assert_array_equal(evaluate(slope, {x: [3.0, 4.0]}, "train"), [2.0, 2.0])
    np.testing.assert_array_equal(evaluate(slope, {x: [3.0, 4.0]}, "eval"), [6.0, 8.0])


def test_a_state_is_a_constant_unless_named() -> None:
    h, x = gc.state((2,), gc.float64), f64("x", (2,))
    cost = (h * x).sum()
    h.set([5.0, 6.0])
    by_x, by_h = evaluate(gc.grad(cost, (x, h)), {x: [1.0, 2.0]})
    np.testing.assert_array_equal(by_x, [5.0, 6.0])
    np.testing.assert_array_equal(by_h, [1.0, 2.0])


def test_every_backward_node_keeps_its_primal_block_and_line() -> None:
    x = f64("x", (2, 3))
    net = nn.Linear(3, 2, dtype=gc.float64) >> nn.Tanh()
    cost = net(x).sum()
    forward = set(gc.Graph((x,), (cost,)).nodes)
    slope = gc.grad(cost, net)
    backward = [n for n in gc.Graph((x,), tuple(slope.values())).nodes if n not in forward]
    assert backward
    for node in backward:
        assert node.primal in forward
        assert node.block.startswith(node.primal.block)
        assert node.source == node.primal.source


def test_linear_in_the_graph() -> None:
    x = f64("x", ())
    y = x
    for _ in range(2000):
        y = y + y * 0.5
    backward = gc.Graph((x,), (gc.grad(y, x),))
    assert len(backward.nodes) < 10 * 2000


# ---- refusals


def line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_integers_have_no_derivative() -> None:
    y, defined = gc.observed("y", (3,), gc.int64), line()
    with pytest.raises(gc.GradError, match="declare it float32") as caught:
        gc.grad(y.astype(gc.float32).sum(), y)
    assert f"test_grad.py:{defined}" in str(caught.value)


def test_disconnected_names_the_cut() -> None:
    x, z = f64("x", (3,)), f64("z", (3,))
    with pytest.raises(gc.GradError, match="not computed from"):
        gc.grad(x.sum(), z)
    cost, cut = ops.round(z).sum() + x.sum(), line()
    with pytest.raises(gc.GradError, match="only through 'round'") as caught:
        gc.grad(cost, [x, z])
    assert f"test_grad.py:{cut}" in str(caught.value)
    zero = gc.grad(cost, [x, z], unused="zero")
    assert evaluate(zero, {x: np.ones(3), z: np.ones(3)})[1].tolist() == [0, 0, 0]


def test_a_cost_is_a_floating_scalar() -> None:
    x, n = f64("x", (3,)), gc.observed("n", (), gc.int64)
    with pytest.raises(gc.GradError, match=r"not a scalar.*\.sum\(\)"):
        gc.grad(x * x, x)
    with pytest.raises(gc.GradError, match="int64, which has no derivative"):
        gc.grad(n * 2, x)


def test_disconnected_and_integers_are_zero_in_the_products() -> None:
    x, n = f64("x", (3,)), gc.observed("n", (3,), gc.int64)
    pulled = gc.vjp(x * n, (x, n), np.ones(3))
    assert pulled[1].type == n.type
    feeds = {x: np.ones(3), n: np.arange(3)}
    a, b = evaluate(pulled, feeds)
    assert a.tolist() == [0, 1, 2]
    assert b.tolist() == [0, 0, 0]
    assert evaluate(gc.jvp(x * 1.0, n, np.ones(3, np.int64)), feeds).tolist() == [0, 0, 0]


def test_seeds_are_checked() -> None:
    x = f64("x", (3,))
    with pytest.raises(gc.ShapeError, match="cotangent"):
        gc.vjp(x * x, x, gc.observed("c", (4,), gc.float64))
    with pytest.raises(gc.DTypeError, match=r"astype\(gc.float64\)"):
        gc.vjp(x * x, x, gc.observed("c", (3,)))
    with pytest.raises(gc.tree.StructureError):
        gc.vjp((x, x), x, (x,))
