"""Every rule of closed graphs is checked: a graph that breaks it is refused."""

from __future__ import annotations

import pytest

import graphc as gc
from graphc.closing import close
from graphc.graph import Graph, Node, Value, apply, source_value
from graphc.state import StateCell
from graphc.types import TensorType, float32, int64
from graphc.verify import verify

TYPE = TensorType(float32, (2,))


def observed(name: str = "x") -> Value:
    return source_value("observed", TYPE, name)


def parameter() -> Value:
    return source_value("parameter", TYPE, state=StateCell("w", TYPE))


def refused(graph: Graph, message: str) -> None:
    with pytest.raises(gc.VerifyError, match=message):
        verify(graph)


def test_a_good_graph_is_returned() -> None:
    graph = close([gc.ops.softmax(observed())])
    assert verify(graph) is graph


def test_wrong_types() -> None:
    x = observed()
    wrong = Node("exp", (x,), {}, (TensorType(float32, (3,)),)).outputs[0]
    refused(Graph((x,), (wrong,)), "the rule says")


def test_unknown_op_and_missing_attribute() -> None:
    x = observed()
    refused(Graph((x,), Node("expo", (x,), {}, (TYPE,)).outputs), "no such op")
    refused(Graph((x,), Node("reduce", (x,), {}, (TYPE,)).outputs), "lacks the attribute monoid")


def test_order() -> None:
    x = observed()
    late = Node("exp", (x,), {}, (TYPE,), serial=10**9)
    early = Node("sin", late.outputs, {}, (TYPE,), serial=10**8)
    refused(Graph((x,), early.outputs), "used before it is defined")


def test_a_value_that_is_no_result() -> None:
    x = observed()
    stray = Value(gc.ops.exp(x).node, 0)
    refused(Graph((x,), (apply("sin", stray),)), "is no result of its node")


def test_inputs() -> None:
    x, y = observed(), observed("y")
    refused(Graph((x, x), (x + y,)), "an input twice")
    refused(Graph((x,), (x + y,)), "is no input")
    z = x + y
    refused(Graph((x, y, z), (z,)), "an input must be observed")


def test_updates() -> None:
    x, w = observed(), parameter()
    refused(Graph((x,), (), ((x, x),)), "must be of a parameter or state")
    refused(Graph((x,), (), ((w, x), (w, x))), "updated twice")
    integer = source_value("observed", TensorType(int64, (2,)), "i")
    refused(Graph((integer,), (), ((w, integer),)), "its update")


def test_one_cell_has_one_source() -> None:
    cell = StateCell("w", TYPE)
    a, b = (source_value("parameter", TYPE, state=cell) for _ in range(2))
    refused(Graph((), (a, b)), "another source node")


def test_reads_must_be_resolved() -> None:
    w = parameter()
    refused(Graph((), (w * 2.0,)), "must be resolved")


def test_bodies_use_no_state() -> None:
    w = parameter()
    xs = source_value("observed", TensorType(float32, (3, 2)), "xs")
    index = source_value("argument", TensorType(int64, ()))
    carry, x = source_value("argument", TYPE), source_value("argument", TYPE)
    new = Node("+", (carry, w), {}, (TYPE,)).outputs
    attrs = {"body": Graph((index, carry, x), new), "carries": 1, "scanned": 1, "length": 3}
    start = gc.ops.zeros((2,))
    loop = Node("loop", (start, xs), {**attrs, "reverse": False}, (TYPE,))
    refused(Graph((xs,), loop.outputs), "a body uses a state")
