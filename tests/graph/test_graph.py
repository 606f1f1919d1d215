"""Values, nodes, graphs: identity, names, blocks, lines, views, rebuilding."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.graph import (
    Graph,
    Node,
    Value,
    ancestors,
    apply,
    block,
    check_scope,
    composite_of,
    current_block,
    differentiating,
    rebuild,
    source_value,
)
from graphc.interpret import interpret
from graphc.state import StateCell
from graphc.types import Dim, TensorType, float32
from graphc.verify import verify


def observed(shape: tuple[Any, ...] = (2,), name: str = "x") -> Value:
    return source_value("observed", TensorType(float32, shape), name)


def parameter(name: str, shape: tuple[int, ...] = (2,)) -> Value:
    type = TensorType(float32, shape)
    return source_value("parameter", type, state=StateCell(name, type))


def test_values_hash_by_identity_and_compare_elementwise() -> None:
    x, y = observed(), observed()
    assert len({x, y, x}) == 2
    assert (x == y).dtype.name == "bool"
    assert copy.deepcopy([x])[0] is x


def test_attrs_are_frozen() -> None:
    node = ops.softmax(observed()).node
    with pytest.raises(TypeError):
        node.attrs["axis"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        node.op = "exp"  # type: ignore[misc]


def test_repr_shows_name_type_op_and_line() -> None:
    x = observed((Dim("B"), 3))
    y = ops.softmax(x).named("p")
    assert repr(y).startswith("<p: f32[B,3] = softmax, test_graph.py:")
    assert repr(x).startswith("<x: f32[B,3] = observed, test_graph.py:")


def test_nodes_know_the_users_line_and_function() -> None:
    class Net:
        def forward(self, x: Value) -> Value:
            return x.mean() * 2.0

    value = Net().forward(observed())
    for node in ancestors([value]):
        if node.op != "observed":
            assert node.source is not None
            assert node.source.file == "test_graph.py"
            assert node.source.function.endswith("Net.forward")


def test_blocks_nest_and_number_their_calls() -> None:
    assert current_block() == ""
    x = observed()
    with block("Net") as root:
        with block("0"):
            a = ops.relu(x)
            b = ops.relu(a)
        with block("0"):
            c = ops.relu(b)
    assert a.node.block == f"{root}/0/relu"
    assert b.node.block == f"{root}/0/relu#2"
    assert c.node.block == f"{root}/0#2/relu"
    assert composite_of(c.node.block) == (f"{root}/0#2", "relu")
    names = Graph((x,), (c,)).block_names
    assert names[a.node.block] == "Net/0/relu"
    assert names[f"{root}/0#2"] == "Net/0#2"


def test_roots_of_one_name_are_numbered_in_program_order() -> None:
    x = observed()
    y = ops.relu(ops.relu(x))
    names = Graph((x,), (y,)).block_names
    assert sorted(set(names.values())) == ["", "relu#1", "relu#2"]
    first = next(n for n in Graph((x,), (y,)).nodes if n.block)
    assert names[first.block] == "relu#1"


def test_derivatives_keep_primal_block_and_line() -> None:
    x = observed()
    with block("net"):
        y = ops.exp(x)
    with differentiating(y.node):
        z = y * 2.0
    assert z.node.primal is y.node
    assert (z.node.block, z.node.source) == (y.node.block, y.node.source)


def test_nodes_are_in_program_order_and_reachable() -> None:
    x = observed()
    y = x + 1.0
    _unused = y * 3.0
    z = y * y
    graph = Graph((x,), (z,))
    assert [n.op for n in graph.nodes] == ["observed", "full", "+", "*"]
    assert graph.uses[y] == ((z.node, 0), (z.node, 1))


def test_the_networkx_view_keeps_both_edges_of_a_square() -> None:
    x = observed()
    y = x * x
    graph = Graph((x,), (y,))
    view = graph.nx
    assert view is graph.nx
    assert sorted(view[x][y.node]) == [0, 1]
    assert list(view.predecessors(y)) == [y.node]
    assert sorted(n.op for n in view if isinstance(n, Node)) == ["*", "observed"]


def test_importing_graphc_does_not_import_networkx() -> None:
    code = "import sys, graphc; print([m for m in ('networkx', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_applying_an_op_to_a_state_reads_it() -> None:
    w = parameter("w")
    y = w * 2.0
    assert y.node.inputs[0].node.op == "read"
    assert y.node.inputs[0].node.inputs[0] is w


def test_rebuild_replaces_and_keeps_what_does_not_change() -> None:
    x = observed()
    a, b = ops.exp(x).named("a"), ops.sin(x)
    graph = Graph((x,), (a + b, b))

    def rewrite(node: Node, inputs: tuple[Value, ...]) -> list[Value] | None:
        return [apply("cos", *inputs)] if node.op == "exp" else None

    changed = verify(rebuild(graph, rewrite))
    assert [n.op for n in changed.nodes] == ["observed", "sin", "cos", "+"]
    assert changed.outputs[1] is b
    replaced = changed.outputs[0].node.inputs[0]
    assert replaced.name == "a"
    assert replaced.node.source == a.node.source
    array = np.float32([0.5, 1.0])
    got = interpret(changed, [array])[0][0]
    np.testing.assert_allclose(got, np.cos(array) + np.sin(array), rtol=1e-6)


def test_rebuild_follows_primals_and_types() -> None:
    x = observed((4,))
    y = ops.exp(x)
    gradient = gc.grad(y.sum(), x)

    def rewrite(node: Node, inputs: tuple[Value, ...]) -> list[Value] | None:
        return [apply("exp2", *inputs)] if node.op == "exp" else None

    changed = rebuild(Graph((x,), (y, gradient)), rewrite)
    new = changed.outputs[0].node
    primals = {n.primal for n in changed.nodes if n.primal is not None}
    assert y.node not in primals
    assert new in primals


def test_rebuild_is_near_linear_in_the_graph() -> None:
    x = observed()
    value = x
    for _ in range(5_000):
        value = value + x
    graph = Graph((x,), (value,))
    begin = time.perf_counter()
    rebuild(graph, lambda node, inputs: [apply("-", *inputs)] if node.op == "+" else None)
    assert time.perf_counter() - begin < 5.0, "5000 nodes take well under a second when linear"


def test_a_bodys_value_used_outside_names_both_lines() -> None:
    inner = source_value("argument", TensorType(float32, ()), "carry")
    with pytest.raises(gc.ScopeError, match=r"carry belongs to the body.*test_graph.py") as caught:
        check_scope(Graph((), (inner + 1.0,)))
    assert "defined at test_graph.py" in str(caught.value)
