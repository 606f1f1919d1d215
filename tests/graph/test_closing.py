"""Closing graphs: modes, reads, attached updates in program order; binding dims; loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.closing import bind_dims, bind_graph, close, depends_on_mode
from graphc.graph import Value, apply, source_value
from graphc.interpret import interpret
from graphc.state import StateCell
from graphc.types import Dim, TensorType, float32, int64
from graphc.verify import verify


def observed(shape: tuple[Any, ...] = (), name: str = "x") -> Value:
    return source_value("observed", TensorType(float32, shape), name)


def state(name: str, value: float = 1.0) -> Value:
    type = TensorType(float32, ())
    cell = StateCell(name, type, np.asarray(value, np.float32))
    return source_value("state", type, state=cell)


def attach(v: Value, s: Value, new: Value) -> Value:
    return apply("attach", v, s, new)


def test_reads_become_the_state_itself() -> None:
    s, x = state("s"), observed()
    graph = verify(close([s * x]))
    assert [n.op for n in graph.nodes] == ["state", "observed", "*"]
    assert graph.inputs == (x,)


def test_attached_updates_compose_in_program_order() -> None:
    s, x = state("s", 3.0), observed()
    first = attach(x, s, s + x)  # s = 4
    between = s * 10.0  # reads 4
    second = attach(first, s, s * 2.0)  # s = 8
    graph = verify(close([second + between, s + 0.0]))
    outputs, new = interpret(graph, [np.float32(1.0)])
    assert [float(o) for o in outputs] == [41.0, 8.0]
    assert [float(v) for v in new.values()] == [8.0]


def test_what_is_attached_happens_only_where_it_is_needed() -> None:
    s, x = state("s"), observed()
    attach(x, s, s + 1.0)
    assert close([x * 2.0]).updates == ()


def test_a_gradient_needs_what_its_forward_node_has_attached() -> None:
    s, x = state("s"), observed()
    y = attach(x * 2.0, s, s + 1.0)
    graph = close([gc.grad(y * 1.0, x)])
    assert [state_ for state_, _ in graph.updates] == [s]


def test_explicit_and_attached_updates_conflict() -> None:
    s, x = state("s"), observed()
    y = attach(x, s, s + 1.0)
    with pytest.raises(gc.StateError, match="explicitly and by an attached"):
        close([y], {s: x})


def test_a_step_of_a_parameter_comes_after_what_is_attached_to_it() -> None:
    """Where it is made of that; otherwise one of the two would be lost."""
    p, x = gc.parameter(3), observed()
    early = p - 1.0
    y = attach(x * p, p, p * 2.0)
    graph = close([y], {p: p - 1.0})
    assert [written for written, _ in graph.updates] == [p]
    p.set([1.0, 2.0, 3.0])
    assert interpret(graph, [np.float32(2.0)])[1][p].tolist() == [1.0, 3.0, 5.0]
    with pytest.raises(gc.StateError, match="explicitly and by an attached"):
        close([y], {p: early})


def test_modes_choose_a_branch_and_its_updates() -> None:
    s, x = state("s"), observed()
    y = gc.by_mode(train=attach(x * 2.0, s, s + 1.0), eval=x * 3.0)
    assert depends_on_mode([y])
    train, evaluation = close([y], mode="train"), close([y], mode="eval")
    assert len(train.updates) == 1
    assert evaluation.updates == ()
    assert float(interpret(train, [np.float32(1.0)])[0][0]) == 2.0
    assert float(interpret(evaluation, [np.float32(1.0)])[0][0]) == 3.0
    assert any(n.op == "by_mode" for n in close([y]).nodes)


def test_modes_reach_into_bodies() -> None:
    def body(carry: Value, x: Value) -> tuple[Value, Value]:
        return carry + gc.by_mode(train=x, eval=x * 0.0), carry

    xs = observed((3,), "xs")
    total, _ = gc.scan(body, ops.zeros(()), xs)
    assert depends_on_mode([total])
    array = np.float32([1, 2, 3])
    for mode, wanted in (("train", 6.0), ("eval", 0.0)):
        graph = verify(close([total], mode=mode))
        assert float(interpret(graph, [array])[0][0]) == wanted


def test_ys_that_nothing_reads_are_dropped() -> None:
    xs = observed((3,), "xs")
    total, ys = gc.scan(lambda carry, x: (carry + x, carry * x), ops.zeros(()), xs)
    (loop,) = (n for n in close([total]).nodes if n.op == "loop")
    assert len(loop.outputs) == 1
    (loop,) = (n for n in close([total, ys]).nodes if n.op == "loop")
    assert len(loop.outputs) == 2


def test_a_missing_input_is_named_with_its_line() -> None:
    x, y = observed(), observed(name="y")
    with pytest.raises(gc.BindError, match=r"<y: f32\[\].*is not among the inputs") as caught:
        close([x + y], inputs=[x])
    assert "test_closing.py" in str(caught.value)


def test_program_order_survives_closing() -> None:
    s, x = state("s"), observed()
    a = ops.exp(s * x)
    b = ops.sin(x)
    graph = close([a + b])
    assert [n.op for n in graph.nodes] == ["state", "observed", "*", "exp", "sin", "+"]


# ---- dims


def test_bind_dims() -> None:
    batch, n = Dim("B"), Dim("N")
    types = [TensorType(float32, (batch, 2 * n)), TensorType(float32, (n,))]
    assert bind_dims(types, [(3, 8), (4,)]) == {batch: 3, n: 4}
    with pytest.raises(gc.BindError, match="axis 1"):
        bind_dims(types, [(3, 7), (4,)])
    with pytest.raises(gc.BindError, match="B is 3 in one place"):
        bind_dims([types[0], TensorType(float32, (batch,))], [(3, 8), (5,)])


def test_bind_graph_reaches_types_attrs_and_bodies() -> None:
    batch = Dim("B")
    x = observed((batch, 4))
    total, _ = gc.scan(lambda carry, row: (carry + row * batch, None), ops.zeros((4,)), x)
    y = ops.softmax(x @ ops.ones((4, 3))) + x.mean()
    graph = close([total, y])
    bound, _ = bind_graph(graph, {batch: 5})
    verify(bound)
    assert "B" not in bound.text().replace("B=", "")
    array = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    (got, rows), _ = interpret(graph, [array])
    np.testing.assert_allclose(got, array.sum(0) * 5, rtol=1e-5)
    assert rows.shape == (5, 3)


def test_binding_to_a_negative_extent_is_an_error() -> None:
    batch = Dim("B")
    x = observed((batch,))
    with pytest.raises(gc.BindError, match="with these sizes"):
        bind_graph(close([x[3:]]), {batch: 2})


def test_interpreting_writes_no_cell() -> None:
    s = state("s", 2.0)
    graph = close([s + 0.0], {s: s + 1.0})
    outputs, new = interpret(graph, [])
    assert float(outputs[0]) == 2.0
    assert float(new[s]) == 3.0
    assert float(s.node.attrs["state"].numpy()) == 2.0
    outputs, _ = interpret(graph, [], {s: np.float32(9.0)})
    assert float(outputs[0]) == 9.0


def test_index_scalars_of_sizes() -> None:
    batch = Dim("B")
    x = observed((batch,))
    value = apply("size", extent=batch * 2 + 1)
    assert value.dtype == int64
    (got,), _ = interpret(close([value + x.astype("int64").sum() * 0], inputs=[x]), [[1.0, 2.0]])
    assert got == 5
