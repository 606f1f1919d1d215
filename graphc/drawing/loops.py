"""Loops and branches in a diagram: each body drawn once, in a box of its own.

::

    scan    x(stacked) --> [ slice --> body --> y ] --> ys(stacked)
            the carry leaves the body and comes back through a delay box z⁻¹
    while   the same, with the predicate as a diamond that reads the carry
    cond    two boxes, whose results meet in a switch that the condition turns
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from graphc.drawing.clusters import loop_key
from graphc.drawing.flows import Flows
from graphc.drawing.naming import function_title, operator_label, origin
from graphc.drawing.picture import Edge, Item, Line
from graphc.drawing.units import STRUCTURED, Unit, Units, assign_units
from graphc.graph import STATES, Graph, Node, Value
from graphc.records import dataclass

__all__ = ["Body", "Joints", "bodies_of", "body_edges"]

#: what may stand beside a loop in its function: first values and shapes
_BESIDE = frozenset({"full", "constant", "read", "size", "broadcast", "cast", "reshape", "iota"})


@dataclass(frozen=True)
class Body:
    """A body of a structured node: ``graph``, whose inputs are ``arguments`` of the node.

    ``arguments`` pairs an input of the body with the node's input it stands for (the index of a
    loop has none). ``part`` is "" or the branch's name.
    """

    node: Node
    graph: Graph
    arguments: tuple[tuple[Value, Value], ...]
    part: str = ""

    @property
    def label(self) -> str:
        """What stands at the top of the box."""
        attrs = self.node.attrs
        if self.node.op == "loop":
            backwards = ", from the end" if attrs.get("reverse") else ""
            return f"scan × {attrs['length']}{backwards}"
        return "while" if self.node.op == "while" else self.part

    def place(self, around: str, prefix: str) -> str:
        """The key of its box."""
        return loop_key(around, self.label, prefix)

    def units(self, outer: Units, prefix: str) -> Units:
        """Its functions; captured states are known by their names."""
        aliases = {
            inside: behind
            for inside, outside in self.arguments
            if (behind := outer.flow(outside).value).node.op in STATES
            or (behind := origin(behind)).node.op in STATES
        }
        found = assign_units(
            self.graph, self.graph.nodes, {}, None, within=self.node.block, aliases=aliases
        )
        for inner in found.units:
            inner.key = f"{prefix}{inner.key}"
        hidden = found.hidden | self._unseen()
        names = {**outer.names, **found.names}
        return replace(found, names=names, hidden=hidden)

    def _unseen(self) -> set[Value]:
        """The index of a scan: every step has one."""
        return {self.graph.inputs[0]} if self.node.op == "loop" else set()


def bodies_of(unit: Unit) -> tuple[Body, ...]:
    """The bodies of the structured node that a function is, () if it is something else."""
    structured = [n for n in unit.nodes if n.op in STRUCTURED]
    others = [n for n in unit.nodes if n.op not in STRUCTURED | _BESIDE]
    if len(structured) != 1 or others:
        return ()
    node = structured[0]
    if node.op == "cond":
        given = node.inputs[1:]
        branches = (("then", node.attrs["then"]), ("otherwise", node.attrs["otherwise"]))
        return tuple(
            Body(node, graph, tuple(zip(graph.inputs, given, strict=True)), part)
            for part, graph in branches
        )
    graph = node.attrs["body"]
    inputs = graph.inputs[1:] if node.op == "loop" else graph.inputs
    return (Body(node, graph, tuple(zip(inputs, node.inputs, strict=True))),)


@dataclass
class Joints:
    """How a body is joined to what is around it.

    ``entries``: (outside value, item it enters at); ``exits``: the node's results and the items
    they come from; ``stacked``: items that stand for one element of many; ``anchor``: an item that
    stands for the whole.
    """

    items: list[Item] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    entries: list[tuple[Value, str]] = field(default_factory=list)
    exits: dict[Value, str] = field(default_factory=dict)
    stacked: list[str] = field(default_factory=list)
    anchor: str = ""


def body_edges(
    body: Body, keys: Mapping[Value, str], flows: Flows, place: str, prefix: str
) -> Joints:
    """The joints of a drawn body, whose values have the items ``keys``."""
    joints = Joints()
    for inside, outside in body.arguments:
        if inside in keys:
            joints.entries.append((outside, keys[inside]))
    ends = [keys.get(flows.units.flow(v).value, "") for v in body.graph.outputs]
    joints.anchor = next((key for key in ends if key), "")
    if body.node.op == "cond":
        _join_branch(body, ends, place, prefix, joints)
        return joints
    carries = body.node.attrs["carries"]
    for result, key in zip(body.node.outputs, ends, strict=False):
        if key:
            joints.exits[result] = key
    for number, (inside, _) in enumerate(body.arguments[:carries]):
        if inside in keys and ends[number]:
            _delay(number, ends[number], keys[inside], place, prefix, joints)
    if body.node.op == "loop":
        scanned = body.arguments[carries : carries + body.node.attrs["scanned"]]
        joints.stacked += [keys[inside] for inside, _ in scanned if inside in keys]
        joints.stacked += [key for key in ends[carries:] if key]
    else:
        _add_predicate(body, keys, place, prefix, joints)
    return joints


def _delay(number: int, end: str, start: str, place: str, prefix: str, joints: Joints) -> None:
    """The carry's way back: the value of one step is the next one's start."""
    key = f"{prefix}z{number}"
    tip = "delay: what a step leaves, the next one starts with"
    joints.items.append(Item(key, "delay", cluster=place, tip=tip))
    joints.edges.append(Edge(end, key, style="carry", tip=tip))
    joints.edges.append(Edge(key, start, tip=tip))


def _add_predicate(
    body: Body, keys: Mapping[Value, str], place: str, prefix: str, joints: Joints
) -> None:
    """A diamond that reads the carries which the predicate needs."""
    pred: Graph = body.node.attrs["pred"]
    key = f"{prefix}while"
    name = function_title(pred.outputs[0].node)
    inside = ", ".join(operator_label(n) for n in pred.nodes if n.inputs)
    joints.items.append(
        Item(key, "diamond", (Line(name, "plain"),), cluster=place, tip=f"goes on while: {inside}")
    )
    for place_in_body, value in zip(body.graph.inputs, pred.inputs, strict=True):
        if value in pred.uses and place_in_body in keys:
            joints.edges.append(Edge(keys[place_in_body], key))


def _join_branch(body: Body, ends: list[str], place: str, prefix: str, joints: Joints) -> None:
    """Both branches end in one switch, which the condition turns."""
    around = place.rpartition(":")[0]
    key = f"{prefix[:-2]}_switch"
    if body.part == "then":
        joints.items.append(
            Item(key, "switch", (Line("if", "plain"),), cluster=around, tip="the branch taken")
        )
        joints.entries.append((body.node.inputs[0], key))
    joints.edges += [Edge(end, key, body.part) for end in ends if end]
    joints.exits.update(dict.fromkeys(body.node.outputs, key))
    joints.anchor = key
