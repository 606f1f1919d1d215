"""Graph text: it parses back to itself, and errors point at the place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.closing import close
from graphc.graph import Graph, Value, block, source_value
from graphc.interpret import interpret
from graphc.state import StateCell
from graphc.text import constants_of
from graphc.text_parser import parse_graph
from graphc.types import Dim, TensorType, float32, int64


def observed(shape: tuple[Any, ...] = (2,), name: str = "x", dtype: Any = float32) -> Value:
    return source_value("observed", TensorType(dtype, shape), name)


def training_step() -> tuple[Graph, StateCell]:
    batch = Dim("B", max=512, specialize=False)
    x, y = observed((batch, 4)), observed((batch,), "y", int64)
    type = TensorType(float32, (4, 3))
    cell = StateCell("fc.weight", type, np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
    w = source_value("parameter", type, state=cell)
    with block("Net"), block("fc"):
        h = ops.relu(x @ w)
    table = gc.constant(np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3))
    picked = ops.take_along_axis(ops.log_softmax(h) + table[:1], y[:, None], 1)
    loss = (-picked.mean()).named("loss")
    return close([loss], {w: w - 0.1 * gc.grad(loss, w)}, [x, y]), cell


def assert_fixed_point(graph: Graph) -> Graph:
    text = graph.text()
    again = parse_graph(text, constants=constants_of(graph))
    assert again.text() == text
    return again


def test_a_training_step_parses_back_and_computes_the_same() -> None:
    graph, cell = training_step()
    again = parse_graph(graph.text(), constants=constants_of(graph), states={"fc.weight": cell})
    assert again.text() == graph.text()
    arrays = [np.random.default_rng(0).normal(size=(6, 4)), np.array([0, 2, 1, 1, 0, 2])]
    first, second = interpret(graph, arrays), interpret(again, arrays)
    np.testing.assert_array_equal(first[0][0], second[0][0])
    for a, b in zip(first[1].values(), second[1].values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_primals_and_places_survive() -> None:
    graph, _ = training_step()
    again = assert_fixed_point(graph)
    derived = [n for n in again.nodes if n.primal is not None]
    assert derived
    places = {n.source for n in again.nodes if n.source}
    assert {p.file for p in places} == {"test_text.py"}


def test_the_form_of_a_line() -> None:
    x = observed((Dim("B"), 64))
    with block("net"), block("0"):
        h = ops.exp(x).named("h")
    line = next(n for n in Graph((x,), (h,)).text().split("\n") if n.strip().startswith("h:"))
    code, _, place = line.partition("#")
    assert code.strip() == "h: f32[B,64] = exp(x)"
    assert place.split()[0].startswith("test_text.py:")
    assert place.split()[1] == "net/0"


def test_folded_text_shows_composites_and_states() -> None:
    graph, _ = training_step()
    text = graph.text(folded=True)
    assert "matmul(x; fc.weight)" in text
    assert "= relu(" in text
    assert "log_softmax(" in text
    assert "exp(" not in text


def test_bodies_print_nested_and_parse_back() -> None:
    xs = observed((3, 2), "xs")
    carry, ys = gc.scan(lambda c, x: (ops.tanh(c * 0.5 + x), c), ops.zeros((2,)), xs)
    chosen = gc.cond(carry.sum() > 0.0, lambda v: v * 2.0, lambda v: v, carry)
    graph = close([chosen, ys])
    again = assert_fixed_point(graph)
    assert "body={" in graph.text()
    array = np.float32([[1, 2], [3, 4], [-5, 6]])
    for a, b in zip(interpret(graph, [array])[0], interpret(again, [array])[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_are_unique_and_read_well() -> None:
    x, y = observed(name="x"), observed(name="x")
    z = (x + y).named("my value!")
    text = assert_fixed_point(Graph((x, y), (z, z))).text()
    assert "x~2: f32[2]" in text
    assert "my_value_: f32[2] = +(x, x~2)" in text


@pytest.mark.parametrize(
    "value", [0.1, -0.0, 1e-30, float("inf"), float("-inf"), float("nan"), 3, -(2**40), True]
)
def test_numbers_are_exact(value: Any) -> None:
    number = gc.constant(value)
    again = assert_fixed_point(Graph((), (number,)))
    np.testing.assert_array_equal(again.outputs[0].node.attrs["value"], number.node.attrs["value"])


def test_large_constants_are_named_by_content() -> None:
    value = gc.constant(np.arange(100.0, dtype=np.float32))
    graph = Graph((), (value + 0.0,))
    text = graph.text()
    assert "data=@" in text
    with pytest.raises(gc.ParseError, match="not among the given constants"):
        parse_graph(text)
    assert_fixed_point(graph)


HEAD = "graph(x)\n  x: f32[2] = observed()\n"
BROKEN = [
    ("graph(x)\n  x: f32[2] = observed(\n  return x", "line 2, column 24.*expected '\\)'"),
    (HEAD + "  y: f32[3] = exp(x)\n  return y", "the types are f32\\[2\\]"),
    (HEAD + "  y: f32[2] = expo(x)\n  return y", "no op named 'expo'"),
    (HEAD + "  y: f32[2] = exp(z)\n  return y", "'z' is not defined above"),
    (HEAD + "  x: f32[2] = exp(x)\n  return x", "defined twice"),
    (HEAD + "  y: f32[2] = reduce(x)\n  return y", "needs the attribute monoid"),
    (HEAD + "  y: f32[C] = exp(x)\n  return y", "no dim named 'C'"),
    (HEAD + "  y: g32[2] = exp(x)\n  return y", "no element type"),
    (HEAD + "  y: f32[2] = exp(x) x\n  return y", "expected the end of the line"),
    (HEAD + "  y: f32[2] = ?(x)\n  return y", "begins nothing"),
    (HEAD + "  y, z: f32[2] = exp(x)\n  return y", "2 names for 1 results"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_errors_have_line_column_and_caret(text: str, message: str) -> None:
    with pytest.raises(gc.ParseError, match=message) as caught:
        parse_graph(text)
    assert str(caught.value).split("\n")[2].strip() == "^"
