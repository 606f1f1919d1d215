"""Graph -> the picture of its primitives, with types, the derivatives beside what they come from.

Blocks are boxes around their primitives. Reads of states and plain numbers are left out: a state's
edge goes straight to its user, a number stands in the user's name. Very large graphs show each
composite call as one function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from graphc.drawing.naming import (
    cell_name,
    function_title,
    gradient_label,
    source_tip,
    value_name,
)
from graphc.drawing.picture import Cluster, Edge, Item, Line, Picture
from graphc.drawing.units import (
    Flow,
    block_names,
    derivative_order,
    phases,
    root_of,
    with_primals,
    without_derivatives,
)
from graphc.graph import SOURCES, STATES, Graph, Node, Value, composite_of
from graphc.records import dataclass

__all__ = ["graph_picture"]

#: more primitives than this are shown composite by composite
_TOO_MANY = 600


def graph_picture(
    graph: Graph, *, depth: int | None = None, backward: bool | None = None, title: str = ""
) -> Picture:
    """Every primitive of ``graph`` with its type; blocks nested deeper than ``depth`` have no box
    of their own. ``backward=False`` leaves derivatives out.
    """
    nodes, standing = with_primals(graph)
    if backward is False:
        nodes = without_derivatives(nodes, graph.outputs)
    return _Drawing(graph, nodes, standing, depth, len(nodes) > _TOO_MANY).picture(title)


@dataclass
class _Drawing:
    graph: Graph
    nodes: Sequence[Node]
    standing: Mapping[Node, Node]
    depth: int | None
    folded: bool
    keys: dict[Node, str] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    edges: dict[tuple[str, str, str], Edge] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    flows: dict[Value, Flow] = field(default_factory=dict)
    phase: dict[Node, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    numbers: set[Value] = field(default_factory=set)
    faced: set[str] = field(default_factory=set)
    several: bool = False
    forward_mode: bool = False

    def picture(self, title: str) -> Picture:
        """Items in program order, then edges."""
        self.phase = phases(self.nodes, self.graph.outputs)
        self.names = block_names(self.graph, self.nodes)
        self.forward_mode = _is_forward_mode(self.nodes)
        self.several = len({self.phase[n] for n in self.nodes}) > 1
        for node in self.nodes:
            if not self._left_out(node):
                self._add_item(node)
        for node in self.nodes:
            if node in self.keys:
                for given in node.inputs:
                    self._add_edge(given, node)
        self._mark_results()
        legend = [
            ("observed", any(i.shape == "observed" for i in self.items.values())),
            ("function", True),
            ("state", any(i.shape in STATES for i in self.items.values())),
            ("backward", "backward" in self.phase.values()),
            ("optimizer", "update" in self.phase.values()),
            ("saved", any(e.style == "saved" for e in self.edges.values())),
            ("update", any(e.style == "update" for e in self.edges.values())),
        ]
        return Picture(
            title,
            tuple(self.items.values()),
            tuple(self.edges.values()),
            tuple(self.clusters[key] for key in sorted(self.clusters)),
            tuple(name for name, there in legend if there),
        )

    def _left_out(self, node: Node) -> bool:
        if node.op == "read":
            self.flows[node.outputs[0]] = Flow(node.inputs[0])
            return True
        if node.op in ("broadcast", "cast") and node.inputs[0] in self.numbers:
            self.numbers.add(node.outputs[0])
            return True
        number = node.op == "full" or node.outputs[0].size == 1
        if node.op in ("full", "size", "constant") and number:
            self.numbers.add(node.outputs[0])
            return True
        return False

    def _add_item(self, node: Node) -> None:
        place = self._folded_place(node)
        if place in self.items and self.folded:
            self.keys[node] = place
            return
        key = place if self.folded and place else f"n{len(self.keys)}"
        self.keys[node] = key
        shape = {"observed": "observed", "argument": "observed"}.get(node.op, "bullet")
        if node.op in STATES:
            shape = node.op
        elif node.op == "constant":
            shape = "constant"
        phase = self.phase[node]
        reverse = derivative_order(node) % 2 == 1 and not self.forward_mode
        upwards = phase == "update" or (phase == "backward" and reverse)
        self.items[key] = Item(
            key,
            shape,
            self._lines(node, folded=key == place),
            phase=phase,
            cluster=self._cluster(node),
            faces=self._faced(node),
            upwards=upwards,
            tip=f"{node.op}{_attributes(node)}: {node.types[0]}{source_tip(node)}",
        )

    def _folded_place(self, node: Node) -> str:
        """The key of the composite call, phase by phase, that a node is shown as; "" if none."""
        modules, composites = composite_of(node.block)
        if not composites or node.op in SOURCES:
            return ""
        path = "/".join(filter(None, (modules, composites.partition("/")[0])))
        return f"{self.phase[node]} {self.names.get(path, path)}".replace(":", "_")

    def _lines(self, node: Node, *, folded: bool) -> tuple[Line, ...]:
        type = Line(str(node.types[0]), "note")
        if node.op in SOURCES and node.op != "constant":
            name = value_name(node.outputs[0]).rpartition(".")[2] or node.op
            return (Line(name, "plain"), type) if node.op in STATES else (Line(name, "plain"),)
        if folded and self.folded:
            return (Line(composite_of(node.block)[1].partition("/")[0].partition("#")[0]), type)
        named = [Line(node.outputs[0].name, "detail")] if node.outputs[0].name else []
        return (Line(function_title(node), "plain"), *named, type)

    def _faced(self, node: Node) -> str:
        """The key of the primal, for the first derivative of each."""
        primal = self.standing.get(root_of(node)) if derivative_order(node) == 1 else None
        if primal is None or primal not in self.keys or self.phase.get(primal) != "forward":
            return ""
        key = self.keys[primal]
        if key in self.faced:
            return ""
        self.faced.add(key)
        return key

    def _cluster(self, node: Node) -> str:
        phase = self.phase[node]
        if phase == "update" or node.op in SOURCES:
            return self._box(phase, ())
        segments = tuple(node.block.split("/")) if node.block else ()
        return self._box(phase, segments[: self.depth])

    def _box(self, phase: str, segments: tuple[str, ...]) -> str:
        parent = ""
        for length in range(len(segments) + 1):
            path = "/".join(segments[:length])
            path = self.names.get(path, path)
            key = f"{phase}/{path}".replace(":", "_") if path else phase
            shown = path.rpartition("/")[2]
            label = shown or (phase if self.several and phase != "update" else "")
            box = Cluster(key, label, parent, phase, panel=length == 0, tip=path)
            self.clusters.setdefault(key, box)
            parent = key
        return parent

    def _add_edge(self, given: Value, node: Node) -> None:
        flow = self.flows.get(given, Flow(given))
        tail, head = self.keys.get(flow.value.node), self.keys[node]
        if tail is None or tail == head:
            return
        made, used = self.phase[flow.value.node], self.phase[node]
        upwards = self.items[head].upwards
        style = "flow"
        if made == "forward" and used != "forward":
            if used == "update":
                return  # an optimizer reads parameters and its own states: that is what it writes
            style, upwards = "saved", False
        label = str(given.type) if len(flow.value.node.types) > 1 else ""
        tip = f"{value_name(flow.value) or gradient_label(flow.value)}: {flow.value.type}"
        bar = node.op == "stop_gradient"
        phase = used if style == "flow" else "forward"
        edge = Edge(tail, head, label, style, phase, bar=bar, upwards=upwards, tip=tip)
        self.edges.setdefault((tail, head, style), edge)

    def _mark_results(self) -> None:
        """Outputs end in circles, new states in dotted edges."""
        for value in self.graph.outputs:
            maker = self.keys.get(self.flows.get(value, Flow(value)).value.node)
            if maker is None or self.items[maker].shape == "observed":
                continue
            key = f"r{len(self.items)}"
            made = self.items[maker]
            name = value.name or gradient_label(value)
            lines = (Line(name, "plain"),) if name else ()
            place = self._box(made.phase, ())
            tip = f"output {name}: {value.type}"
            self.items[key] = Item(key, "computed", lines, phase=made.phase, cluster=place, tip=tip)
            self.edges[maker, key, "flow"] = Edge(
                maker, key, phase=made.phase, upwards=made.upwards, tip=tip
            )
        for state, new in self.graph.updates:
            tail, head = self.keys.get(new.node), self.keys.get(state.node)
            if tail is not None and head is not None:
                tip = f"writes {cell_name(state)}"
                phase = self.items[tail].phase
                self.edges[tail, head, "update"] = Edge(tail, head, "", "update", phase, tip=tip)


def _is_forward_mode(nodes: Sequence[Node]) -> bool:
    """Whether derivatives run along with the forward graph more than against it."""
    along = 0
    for node in nodes:
        for value in node.inputs:
            if node.primal is not None and value.node.primal is not None:
                mine, theirs = root_of(node).serial, root_of(value.node).serial
                along += (mine > theirs) - (mine < theirs)
    return along > 0


def _attributes(node: Node) -> str:
    shown = [f"{k}={v}" for k, v in node.attrs.items() if not isinstance(v, Graph) and k != "state"]
    text = ", ".join(shown)
    return f"({text[:80]})" if text else ""
