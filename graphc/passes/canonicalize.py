"""One form for what may be written in several.

::

    stop_gradient(x), mark(x)      ->  x                  (they speak to derivatives and drawings)
    1.0 * x, 0.0 + x               ->  x * 1.0, x + 0.0   (constants to the right)
    a > b, a >= b                  ->  b < a, b <= a
    reshape(x; x's own shape)      ->  x                  and so for all movement that moves nothing
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.graph import Graph, Node, Value, apply, rebuild

__all__ = ["canonicalize"]

_COMMUTATIVE = frozenset({"+", "*", "max", "min", "and", "or", "&", "|", "^", "==", "!="})
_MIRRORED = {">": "<", ">=": "<="}
_SILENT = frozenset({"stop_gradient", "mark"})


def canonicalize(graph: Graph) -> Graph:
    """``graph`` with each node in its one form."""
    return rebuild(graph, _canonical)


def _canonical(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    if node.op in _SILENT:
        return [inputs[0]]
    if node.op in _MIRRORED:
        return [apply(_MIRRORED[node.op], inputs[1], inputs[0])]
    if node.op in _COMMUTATIVE and _constant(inputs[0]) and not _constant(inputs[1]):
        return [apply(node.op, inputs[1], inputs[0])]
    if len(inputs) == 1 and moves_nothing(node, inputs[0]):
        return [inputs[0]]
    return None


def moves_nothing(node: Node, x: Value) -> bool:
    """Whether a movement (or a cast) of ``x`` is ``x``."""
    attrs = node.attrs
    match node.op:
        case "cast":
            return bool(attrs["dtype"] == x.dtype)
        case "reshape":
            return bool(attrs["shape"] == x.shape)
        case "permute":
            return bool(attrs["order"] == tuple(range(x.ndim)))
        case "broadcast":
            return bool(attrs["shape"] == x.shape)
        case "slice":
            whole = attrs["starts"] == (0,) * x.ndim and attrs["stops"] == x.shape
            return bool(whole and attrs["steps"] == (1,) * x.ndim)
        case "pad":
            return not any(attrs["low"]) and not any(attrs["high"])
        case "flip":
            return not attrs["axes"]
        case _:
            return False


def _constant(value: Value) -> bool:
    return value.node.op in ("full", "constant")
