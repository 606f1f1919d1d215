"""Write ops as others that mean the same and run better, by their own rules, in bodies too.

scatter(x, ids, v)   ->   start, order = group(ids);  scatter_grouped(x, start, order, v)
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.graph import Graph, Node, Value, clone, rebuild
from graphc.op import OPS

__all__ = ["expand"]


def expand(graph: Graph) -> Graph:
    """``graph`` with each node that has a rule expanded where the rule wants it."""
    return rebuild(graph, _expanded)


def _expanded(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    op = OPS.get(node.op)
    if op is not None and op.expand is not None:
        return op.expand(node, inputs)
    bodies = {name: a for name, a in node.attrs.items() if isinstance(a, Graph)}
    new = {name: expand(body) for name, body in bodies.items()}
    if all(same_nodes(new[name], body) for name, body in bodies.items()):
        return None
    return clone(node, inputs, {**node.attrs, **new}).outputs


def same_nodes(a: Graph, b: Graph) -> bool:
    """Whether nothing was replaced."""
    return all(x is y for x, y in zip(a.results, b.results, strict=True))
