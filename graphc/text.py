"""Graphs as text.

::

    graph    := "graph(" input names ")" , dim lines , node lines , update lines , "return" names
    dim      := "dim" NAME [ "min=" int ] [ "max=" int ] [ "multiple_of=" int ]
                [ "specialize=false" ]
    node     := names ":" types "=" op "(" input names [ ";" attrs ] ")"   [ "#" place ]
    place    := FILE ":" LINE  [ block ]  [ "~" primal ]  [ "^" again ]     ("-": no line is known)
    update   := "update" state "=" name
    attr     := NAME "=" ( int | float | "true" | "false" | "none" | STRING | dtype | size
                         | "(" attr values ")" | contraction | "array(" numbers ")"
                         | "@" content hash | body )
    body     := "{" "(" arguments with types ")" , node lines , "return" names , "}"

``%3`` is a value without a name; ``h~2`` the second value named h. Unfolded text parses back:
``parse_graph`` of it prints the same. Folded text shows every composite call as one line and
constants in place; it is for reading.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphc.arrays import ArrayData
from graphc.contraction import ContractSpec
from graphc.graph import HOOKS, SOURCES, STATES, Graph, Node, Value, composite_of
from graphc.types import Dim, DType, Size

__all__ = ["all_nodes", "constants_of", "print_folded", "print_graph", "value_names"]

#: elements up to which a constant is written out
_INLINE = 16
_PLACE_COLUMN = 60


def print_graph(graph: Graph, *, folded: bool = False) -> str:
    """The text of ``graph``; ends with a line end."""
    if folded:
        return print_folded(graph)
    printer = _Printer(graph)
    header = f"graph({', '.join(printer.names[v] for v in graph.inputs)})"
    lines = [header, *(f"  {line}" for line in _dim_lines(graph))]
    lines += printer.body_lines(graph, "  ")
    return "\n".join(lines) + "\n"


def constants_of(graph: Graph) -> dict[str, Any]:
    """The arrays that the text shows by content hash only, for ``parse_graph``."""
    found: dict[str, Any] = {}
    for node in all_nodes(graph):
        data = node.attrs.get("data")
        if isinstance(data, ArrayData) and not _is_inline(data):
            found[data.digest] = data.array
    return found


def all_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes of ``graph`` and of all bodies in it."""
    for node in graph.nodes:
        yield node
        for value in node.attrs.values():
            if isinstance(value, Graph):
                yield from all_nodes(value)


# ---- names


def value_names(graph: Graph) -> dict[Value, str]:
    """A unique readable name for every value of ``graph`` (not of bodies)."""
    used: dict[str, int] = {}
    names: dict[Value, str] = {}
    for node in graph.nodes:
        for value in node.outputs:
            names[value] = _unique(_base_name(value), used)
    return names


def _base_name(value: Value) -> str:
    given = value.name
    if value.node.op in STATES:
        given = getattr(value.node.attrs.get("state"), "name", "") or given
    cleaned = re.sub(r"[^\w.]", "_", given or "")
    if cleaned and not re.match(r"[A-Za-z_]", cleaned):
        cleaned = "_" + cleaned
    return cleaned or "%"


def _unique(base: str, used: dict[str, int]) -> str:
    """``%0``, ``%1``... for values without a name; ``h``, ``h~2``, ``h~3`` for those that share
    one.
    """
    count = used[base] = used.get(base, 0) + 1
    if base == "%":
        return f"%{count - 1}"
    return base if count == 1 else f"{base}~{count}"


# ---- dims


def _dim_lines(graph: Graph) -> list[str]:
    dims: dict[str, Dim] = {}
    for node in all_nodes(graph):
        for type in node.types:
            for extent in type.shape:
                _collect(extent, dims)
        for value in node.attrs.values():
            _collect(value, dims)
    return [_dim_line(dims[name]) for name in sorted(dims)]


def _collect(value: Any, dims: dict[str, Dim]) -> None:
    if isinstance(value, Size):
        dims.update((d.name, d) for d in value.dims)
    elif isinstance(value, tuple):
        for item in value:
            _collect(item, dims)
    elif isinstance(value, ContractSpec):
        for _, extent in (*value.axes, *value.reduced):
            _collect(extent, dims)


def _dim_line(dim: Dim) -> str:
    words = [f"dim {dim.name}"]
    if dim.min != 1:
        words.append(f"min={dim.min}")
    if dim.max is not None:
        words.append(f"max={dim.max}")
    if dim.multiple_of != 1:
        words.append(f"multiple_of={dim.multiple_of}")
    if not dim.specialize:
        words.append("specialize=false")
    return " ".join(words)


# ---- unfolded


class _Printer:
    def __init__(self, graph: Graph, blocks: Mapping[str, str] | None = None) -> None:
        self.blocks = graph.block_names if blocks is None else blocks
        self.names = value_names(graph)

    def body_lines(self, graph: Graph, indent: str) -> list[str]:
        inputs = {id(v) for v in graph.inputs}
        lines = []
        for node in graph.nodes:
            if node.op == "argument" and id(node.outputs[0]) in inputs:
                continue
            lines += self.node_lines(node, indent)
        for state, new in graph.updates:
            lines.append(f"{indent}update {self.names[state]} = {self.names[new]}")
        lines.append(f"{indent}return {', '.join(self.names[v] for v in graph.outputs)}".rstrip())
        return lines

    def node_lines(self, node: Node, indent: str) -> list[str]:
        names = ", ".join(self.names[v] for v in node.outputs)
        types = ", ".join(map(str, node.types))
        inputs = ", ".join(self.names[v] for v in node.inputs)
        shown = [(k, v) for k, v in node.attrs.items() if k != "state"]
        attrs = ", ".join(f"{k}={self.attr(v, indent)}" for k, v in shown)
        inside = f"{inputs}; {attrs}" if attrs else inputs
        lines = f"{indent}{names}: {types} = {node.op}({inside})".split("\n")
        place = self.place(node)
        if place:
            lines[0] = f"{lines[0]:<{_PLACE_COLUMN}}  # {place}"
        return lines

    def place(self, node: Node) -> str:
        source = node.source
        words = [f"{source.file}:{source.line}" if source else "-"]
        if node.block:
            words.append(self.blocks.get(node.block, node.block))
        if node.primal is not None and node.primal.outputs[0] in self.names:
            words.append(f"~{self.names[node.primal.outputs[0]]}")
        if node.again:
            words.append(f"^{node.again}")
        return "" if words == ["-"] else " ".join(words)

    def attr(self, value: Any, indent: str) -> str:
        if isinstance(value, Graph):
            return self.body(value, indent)
        if isinstance(value, tuple):
            items = [self.attr(v, indent) for v in value]
            return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
        return attr_text(value)

    def body(self, graph: Graph, indent: str) -> str:
        """A body is closed: its names are its own."""
        inside, inner = _Printer(graph, self.blocks), indent + "  "
        arguments = ", ".join(f"{inside.names[v]}: {v.type}" for v in graph.inputs)
        lines = ["{", f"{inner}({arguments})", *inside.body_lines(graph, inner), f"{indent}}}"]
        return "\n".join(lines)


def attr_text(value: Any) -> str:
    """A plain attribute."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, ArrayData):
        return _array_text(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, (DType, Size, ContractSpec)):
        return str(value)
    return number_text(value)


def number_text(value: int | float) -> str:
    """A number that reads back exactly: nan, inf, -inf as words; floats always with a point or
    exponent.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return repr(value)


def _is_inline(data: ArrayData) -> bool:
    return data.array.size <= _INLINE


def _array_text(data: ArrayData) -> str:
    if not _is_inline(data):
        return f"@{data.digest}"
    items = (attr_text(x) for x in data.array.reshape(-1).tolist())
    return f"array({', '.join(items)})"


# ---- folded


def print_folded(graph: Graph) -> str:
    """Every composite call as one line, states after a semicolon, constants in place."""
    groups = _groups(graph)
    last = {key: nodes[-1] for key, nodes in groups.items()}
    printer = _Printer(graph)
    lines = [f"graph({', '.join(printer.names[v] for v in graph.inputs)})"]
    for node in graph.nodes:
        key = _group_key(node)
        if node.op in STATES or _in_place(node) is not None:
            continue
        if key is None:
            lines.append(_folded_line(graph, printer, [node], node.op, node.block))
        elif last[key] is node:
            parent, composite = composite_of(node.block)
            name = composite.partition("/")[0].partition("#")[0]
            lines.append(_folded_line(graph, printer, groups[key], name, parent))
    for state, new in graph.updates:
        lines.append(f"  update {printer.names[state]} = {printer.names[new]}")
    lines.append(f"  return {', '.join(printer.names[v] for v in graph.outputs)}".rstrip())
    return "\n".join(lines) + "\n"


def _group_key(node: Node) -> tuple[str, bool] | None:
    """Nodes of one composite call, forward and backward apart."""
    parent, composite = composite_of(node.block)
    if not composite or node.op in SOURCES:
        return None
    return f"{parent}/{composite.partition('/')[0]}", node.primal is not None


def _groups(graph: Graph) -> dict[tuple[str, bool], list[Node]]:
    found: dict[tuple[str, bool], list[Node]] = {}
    for node in graph.nodes:
        key = _group_key(node)
        if key is not None and _in_place(node) is None:
            found.setdefault(key, []).append(node)
    return found


def _in_place(node: Node) -> str | None:
    """How a constant is shown where it is used."""
    if node.op == "full":
        return attr_text(node.attrs["value"])
    return str(node.attrs["extent"]) if node.op == "size" else None


def _folded_line(
    graph: Graph, printer: _Printer, nodes: Sequence[Node], name: str, block: str
) -> str:
    inside = set(nodes)
    inputs = dict.fromkeys(v for n in nodes for v in n.inputs if v.node not in inside)
    results = {id(v) for v in graph.results}
    outputs = [
        v
        for n in nodes
        for v in n.outputs
        if id(v) in results or any(user not in inside for user, _ in graph.uses.get(v, ()))
    ]
    plain = [_in_place(v.node) or printer.names[v] for v in inputs if v.node.op not in STATES]
    states = [printer.names[v] for v in inputs if v.node.op in STATES]
    arguments = ", ".join(plain) + (f"; {', '.join(states)}" if states else "")
    left = ", ".join(printer.names[v] for v in outputs)
    types = ", ".join(str(v.type) for v in outputs)
    line = f"  {left}: {types} = {name}({arguments})"
    source = nodes[-1].source
    place = f"{source.file}:{source.line}" if source else "-"
    path = printer.blocks.get(block, block)
    return f"{line:<{_PLACE_COLUMN}}  # {place} {path}".rstrip()


HOOKS["text"] = print_graph
