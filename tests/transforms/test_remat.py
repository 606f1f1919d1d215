"""remat: the same bits, less memory, the same draws; attached updates once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from graphc.interpret import interpret
from graphc.text_parser import parse_graph

X = np.random.default_rng(8).standard_normal((64, 32)).astype(np.float32)
Wrap = Callable[[Any], Any]


def blocks(count: int = 4) -> list[nn.Module]:
    gc.manual_seed(3)
    make = lambda: nn.Linear(32, 32) >> nn.GELU() >> nn.Linear(32, 32) >> nn.Dropout(0.3)  # noqa: E731
    return [make().named(f"block{n}") for n in range(count)]


def run_of(parts: list[nn.Module], wrap: Wrap) -> gc.Executable:
    x = gc.observed("x", (64, 32))
    h = x
    for part in parts:
        h = h + wrap(part)(h)
    loss = (h * h).mean()
    parameters = [p for part in parts for p in part.parameters()]
    return gc.compile([x], [loss, gc.grad(loss, x), gc.grad(loss, parameters)], mode="train")


def results(run: gc.Executable) -> list[Any]:
    gc.random.default.seed(1)
    return gc.tree.leaves(run(X))


def exact(run: gc.Executable) -> list[bytes]:
    """What the oracle makes of the closed graph: its sums have one order, whatever the kernels."""
    gc.random.default.seed(1)
    return [a.tobytes() for a in interpret(run.graph, [X])[0]]


@pytest.mark.parametrize("wrap", [gc.remat, lambda m: gc.remat(lambda h: m(h))])
def test_the_same_bits_in_less_memory(wrap: Wrap) -> None:
    parts = blocks()
    plain, again = run_of(parts, lambda m: m), run_of(parts, wrap)
    assert exact(plain) == exact(again), "dropout included"
    for a, b in zip(results(plain), results(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
        np.testing.assert_array_equal(a == 0, b == 0)
    assert again.memory.peak < 0.7 * plain.memory.peak
    repeated = [n for n in again.compiled.graph.nodes if n.again]
    assert repeated, "CSE must not merge them with the first ones"
    assert not [n for n in plain.compiled.graph.nodes if n.again]


def test_a_view_has_the_names_ports_and_mode_of_its_module() -> None:
    part = blocks(1)[0]
    view = gc.remat(part)
    assert list(view.state_dict()) == list(part.state_dict())
    assert view.parameters() == part.parameters()
    assert view.ports == part.ports
    assert "remat(" in repr(view)
    assert next(iter((view >> nn.ReLU()).state_dict())).startswith("0.")
    x = gc.observed("x", (2, 32))
    pinned = gc.compile([x], gc.remat(part.with_mode("eval"))(x), mode="train")
    np.testing.assert_array_equal(pinned(X[:2]), gc.compile([x], part(x))(X[:2]))
    later = gc.compile([x], gc.remat(part).with_mode("eval")(x), mode="train")
    np.testing.assert_array_equal(later(X[:2]), pinned(X[:2]))


class Norm(nn.Module):
    """A running mean that counts its calls: state that must move once a call."""

    def __init__(self) -> None:
        self.mean = gc.state(np.zeros(32, np.float32))
        self.calls = gc.state(np.zeros((), np.float32))

    def forward(self, x: gc.Value) -> gc.Value:
        m = x.mean(0)
        new = {self.mean: self.mean * 0.9 + m * 0.1, self.calls: self.calls + 1.0}
        moved = gc.attach_updates(ops.tanh(x - m), new)
        return gc.by_mode(train=moved, eval=ops.tanh(x - self.mean))


@pytest.mark.parametrize("outputs", ["gradient only", "both"])
def test_attached_updates_happen_once(outputs: str) -> None:
    norm = Norm()
    x = gc.observed("x", (64, 32))
    loss = (gc.remat(norm)(x) ** 2).sum()
    slope = gc.grad(loss, x)
    run = gc.compile([x], slope if outputs == "gradient only" else (loss, slope), mode="train")
    run(X)
    assert norm.calls.numpy() == 1
    np.testing.assert_allclose(norm.mean.numpy(), X.mean(0) * 0.1, rtol=1e-4, atol=1e-6)


def test_second_order_nested_lanes_and_loops() -> None:
    x, v = gc.observed("x", (5,), gc.float64), gc.observed("v", (5,), gc.float64)
    w = gc.parameter(np.random.default_rng(0).normal(size=(5, 5)), gc.float64)

    def layer(h: gc.Value) -> gc.Value:
        return ops.tanh(w @ ops.sin(h))

    def deep(wrap: Wrap) -> list[Any]:
        inner = wrap(layer)
        outer = wrap(lambda h: ops.exp(inner(h)) * h)
        cost = (outer(inner(x)) ** 2).sum()
        looped, _ = gc.scan(lambda h, _: (outer(h) * 0.5, None), x, length=3)
        rows = gc.vmap(lambda t: gc.grad((outer(t) * v).sum(), (t, w)))(gc.ops.stack([x, v]))
        return [
            *(cost, gc.grad(cost, (x, w)), gc.hvp(cost, x, v)),
            *(gc.grad((gc.grad(cost, x) * v).sum(), (x, w)), gc.grad(looped.sum(), (x, w)), rows),
        ]

    run = gc.compile([x, v], [deep(lambda f: f), deep(gc.remat)])
    plain, again = run(*np.random.default_rng(1).normal(size=(2, 5)))
    for a, b in zip(gc.tree.leaves(plain), gc.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_marks_are_found_once_and_states_stay_named() -> None:
    x = gc.observed("x", (3,))
    out = gc.remat(lambda h: gc.mark(ops.sin(h), "aux") * 2.0)(x)
    slope = gc.grad(out.sum(), x)
    assert len(gc.marked(slope, "aux")) <= 1
    assert len(gc.marked(out, "aux")) == 1


def test_the_text_says_what_is_computed_again() -> None:
    x = gc.observed("x", (3,))
    cost = gc.remat(lambda h: ops.exp(ops.sin(h)))(x).sum()
    graph = gc.compile([x], gc.grad(cost, x)).graph
    text = graph.text()
    assert " ^1" in text
    assert parse_graph(text).text() == text
    assert [n.again for n in parse_graph(text).nodes] == [n.again for n in graph.nodes]


def test_what_is_no_value_passes_through() -> None:
    x = gc.observed("x", (3,))
    scaled = gc.remat(lambda h, factor, flag=None: (h * factor, flag, 7))
    out, flag, seven = scaled(x, 3.0, flag="kept")
    assert (flag, seven) == ("kept", 7)
    np.testing.assert_array_equal(gc.compile([x], out)(np.float32([1, 2, 3])), [3, 6, 9])
    assert gc.remat(lambda: 3)() == 3
    with pytest.raises(gc.ShapeError, match="takes a Module or a function, got 3"):
        gc.remat(3)  # type: ignore[type-var]
