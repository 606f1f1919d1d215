"""Compute equal things once (common subexpressions).

    exp(x), ..., exp(x)   ->   one node

Equal are nodes of one op with the same inputs and attributes, unless one is there to repeat the
other later (``Node.again``): draws of random numbers have keys of
their own, so two of them never are. Sources stand for themselves; equal constants are one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from graphc.graph import SOURCES, Graph, Node, Value, clone, rebuild

__all__ = ["share"]


def share(graph: Graph) -> Graph:
    """``graph`` with equal nodes merged."""
    known: dict[Hashable, tuple[Value, ...]] = {}
    given = set(graph.inputs)

    def merged(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        if node.op in SOURCES - {"constant"} or any(v in given for v in node.outputs):
            return None
        key = _key(node, inputs)
        if key not in known:
            same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
            known[key] = node.outputs if same else clone(node, inputs).outputs
        return known[key]

    return rebuild(graph, merged)


def _key(node: Node, inputs: tuple[Value, ...]) -> Hashable:
    attrs = tuple((name, _exact(node.attrs[name])) for name in sorted(node.attrs))
    return node.op, tuple(map(id, inputs)), attrs, node.types, node.again


def _exact(value: Any) -> Hashable:
    """A key that tells 0.0 from -0.0 and 1 from True."""
    if isinstance(value, bool | int | float):
        return type(value).__name__, repr(value)
    if isinstance(value, tuple):
        return tuple(map(_exact, value))
    return value  # type: ignore[no-any-return]
