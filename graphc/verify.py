"""The rules that every closed graph keeps; passes are checked against them under
``GRAPHC_VERIFY=1``.

1. Every op is registered, and every node's types are what its op's rule derives. 2. A node's inputs
are results of nodes that stand before it. 3. Inputs of the graph are observed (of a body: argument)
sources, each once; no other observed or argument is needed. 4. Updates go from a state to a value
of its type, each state once; one cell has one source node. 5. ``read`` and ``attach`` are resolved;
bodies read no state: what they use is an input.
"""

from __future__ import annotations

from typing import NoReturn

from graphc.errors import GraphcError, VerifyError
from graphc.graph import SOURCES, STATES, TYPE_RULES, Graph, Node, Value

__all__ = ["verify"]


def verify(graph: Graph, *, body: bool = False) -> Graph:
    """``graph`` itself; raises VerifyError naming the rule, the node and its line."""
    _check_inputs(graph, "argument" if body else "observed")
    seen: set[int] = set()
    for node in graph.nodes:
        _check_node(node, seen)
        seen.update(id(v) for v in node.outputs)
        if body and node.op in STATES:
            _fail(node, "a body uses a state; it must be an input")
        for value in node.attrs.values():
            if isinstance(value, Graph):
                verify(value, body=True)
    _check_updates(graph)
    _check_cells(graph)
    return graph


def _fail(node: Node, message: str) -> NoReturn:
    raise VerifyError(f"{node!r}: {message}", node.source)


def _check_inputs(graph: Graph, op: str) -> None:
    given: set[int] = set()
    for value in graph.inputs:
        if value.node.op != op:
            _fail(value.node, f"an input must be {op}")
        if id(value) in given:
            _fail(value.node, "it is an input twice")
        given.add(id(value))
    for node in graph.nodes:
        if node.op in ("observed", "argument") and id(node.outputs[0]) not in given:
            _fail(node, "it is needed but is no input")


def _check_node(node: Node, seen: set[int]) -> None:
    for value in node.inputs:
        if not _belongs(value):
            _fail(node, f"{value!r} is no result of its node")
        if id(value) not in seen:
            _fail(node, f"{value!r} is used before it is defined")
    if len(node.outputs) != len(node.types):
        _fail(node, f"{len(node.outputs)} results of {len(node.types)} types")
    if node.op in ("read", "attach"):
        _fail(node, "it must be resolved in a closed graph")
    if node.op not in TYPE_RULES:
        _fail(node, "no such op")
    if node.op not in SOURCES:
        _check_types(node)


def _belongs(value: Value) -> bool:
    outputs = value.node.outputs
    return value.index < len(outputs) and outputs[value.index] is value


def _check_types(node: Node) -> None:
    try:
        derived = TYPE_RULES[node.op](tuple(v.type for v in node.inputs), node.attrs)
    except GraphcError as error:
        _fail(node, error.message)
    except KeyError as error:
        _fail(node, f"it lacks the attribute {error.args[0]}")
    if derived != node.types:
        _fail(node, f"its types are {list(node.types)}, the rule says {list(derived)}")


def _check_updates(graph: Graph) -> None:
    updated: set[int] = set()
    for state, new in graph.updates:
        if state.node.op not in STATES:
            _fail(state.node, "an update must be of a parameter or state")
        if id(state) in updated:
            _fail(state.node, "it is updated twice")
        if state.type != new.type:
            _fail(state.node, f"it is {state.type}, its update {new.type}")
        updated.add(id(state))


def _check_cells(graph: Graph) -> None:
    cells: dict[int, Node] = {}
    for node in graph.nodes:
        if node.op in STATES:
            cell = id(node.attrs["state"])
            if cells.setdefault(cell, node) is not node:
                _fail(node, "its cell has another source node")
