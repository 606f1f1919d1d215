"""Graph -> the block diagram in LeCun's notation.

Every value that leaves a function ends in a circle of its own and goes on from there; the value of
a cost does not leave its square. Parameters are named inside the functions that use them, or drawn
as inputs on request. The derivative of a function faces it, joined by what was saved for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field, replace

from graphc.drawing.clusters import cluster_key, clusters_of
from graphc.drawing.flows import Flows, flows_of
from graphc.drawing.loops import Body, bodies_of, body_edges
from graphc.drawing.naming import (
    block_label,
    origin,
    short_list,
    source_tip,
    unit_tip,
    value_name,
)
from graphc.drawing.picture import Edge, Item, Line, Picture
from graphc.drawing.ports import assign_ports
from graphc.drawing.states import add_states, add_updates, held_names
from graphc.drawing.units import Unit, assign_units, with_primals, without_derivatives
from graphc.graph import Graph, Node, Value
from graphc.records import dataclass

__all__ = ["diagram"]

#: more items than this do not fit a screen: the default then shows fewer modules open
_TOO_MANY = 150
_SCREEN = 70
_SHORT_NAME = 10


def diagram(
    graph: Graph,
    *,
    depth: int | None = None,
    parameters: bool = False,
    backward: bool | None = None,
    title: str = "",
) -> Picture:
    """The block diagram of ``graph``.

    ``depth`` modules are opened (None: all with modules inside, fewer where the picture would not
    fit a screen); ``parameters`` draws them as inputs; ``backward=False`` leaves the derivatives
    out.
    """
    nodes, standing = with_primals(graph)
    if backward is False:
        nodes = without_derivatives(nodes, graph.outputs)

    def at(depth: int | None) -> Picture:
        units = assign_units(graph, nodes, standing, depth)
        return _Drawing(flows_of(units, nodes, parameters)).picture(title)

    picture = at(depth)
    if depth is not None:
        return picture
    if len(picture.items) <= _TOO_MANY:
        functions = [i for i in picture.items if i.shape in ("bullet", "cost", "box")]
        return picture if len(functions) > 1 else at(_deepest(nodes))
    for level in reversed(range(_deepest(nodes))):
        picture = at(level)
        if len(picture.items) <= _SCREEN:
            break
    return picture


def _deepest(nodes: Iterable[Node]) -> int:
    return max((n.block.count("/") + 1 for n in nodes if n.block), default=1)


@dataclass
class _Drawing:
    """The picture while it grows. ``place`` and ``prefix``: the loop whose body it is, if one."""

    flows: Flows
    place: str = ""
    prefix: str = ""
    saved: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    keys: dict[Value, str] = field(default_factory=dict)
    terms: dict[tuple[object, ...], Value] = field(default_factory=dict)
    gradients: dict[tuple[str, str], int] = field(default_factory=dict)
    #: where values enter and leave the bodies of loops, and an item that stands for each loop
    entries: dict[tuple[str, Value], list[str]] = field(default_factory=dict)
    exits: dict[Value, str] = field(default_factory=dict)
    anchors: dict[str, str] = field(default_factory=dict)

    def picture(self, title: str) -> Picture:
        """All of it."""
        self.fill()
        items = self.items.values()
        return Picture(
            title, tuple(items), tuple(self.edges), clusters_of(items), _legend(items, self.edges)
        )

    def fill(self) -> None:
        """Items and edges, functions first."""
        for unit in self.flows.units.units:
            bodies = bodies_of(unit)
            if bodies and unit.phase == "forward":
                self._add_bodies(unit, bodies)
            else:
                self._add_unit(unit)
        for value in self.flows.values:
            self._add_value(value)
        add_states(self.flows, self.items, self.edges, self.keys, self.place)
        add_updates(self.flows, self.items, self.edges, self.keys)
        for (tail, head), names in self.saved.items():
            tip = "saved: " + ", ".join(names)
            self.edges.append(Edge(tail, head, short_list(names, 3), "saved", tip=tip))
        assign_ports(self.items, self.edges, self._input_ranks())

    # ---- functions

    def _add_unit(self, unit: Unit) -> None:
        flows = self.flows
        shape = "cost" if flows.is_cost(unit) else "bullet"
        inputs: tuple[str, ...] = ()
        if all(n.op == "by_mode" for n in unit.nodes):
            shape, inputs = "switch", ("train", "eval")
        if all(n.op == "constant" for n in unit.nodes):
            shape = "constant"
        lines = self._lines(unit)
        if shape == "cost":
            lines = (*_in_square(lines[0]), *lines[1:])
        base = unit.base.key if unit.base is not None and unit.order == 1 else ""
        self.items[unit.key] = Item(
            unit.key,
            shape,
            lines,
            inputs,
            phase=unit.phase,
            cluster=self._cluster(unit.phase, unit.order, unit.modules),
            faces=base if base in self.items else "",
            upwards=flows.runs_upwards(unit),
            tip=unit_tip(unit, flows.units.names),
        )

    def _cluster(self, phase: str, order: int, modules: Sequence[str]) -> str:
        return cluster_key(phase, order, modules, self.flows.units.names, self.place)

    def _lines(self, unit: Unit) -> tuple[Line, ...]:
        flows = self.flows
        lines = [*block_label(unit, flows.units.names)]
        if unit.phase == "update":
            written = sum(flows.maker(new) is unit for _, new in flows.updates)
            return (*lines, Line(f"writes {written} states", "note"))
        if unit.phase == "forward" and not flows.parameters:
            names = held_names(flows, flows.held.get(unit, {}))
            if names:
                lines.append(Line(short_list(names, 3), "note"))
        return tuple(lines)

    # ---- loops and branches

    def _add_bodies(self, unit: Unit, bodies: Sequence[Body]) -> None:
        """The body drawn once, in a box of its own; see ``graphc.drawing.loops``."""
        around = self._cluster(unit.phase, unit.order, unit.modules)
        for number, body in enumerate(bodies):
            prefix = f"{self.prefix}{unit.key}{'abc'[number]}_"
            place = body.place(around, prefix)
            flows = flows_of(
                body.units(self.flows.units, prefix), body.graph.nodes, self.flows.parameters
            )
            inner = _Drawing(flows, place, prefix)
            inner.fill()
            joints = body_edges(body, inner.keys, inner.flows, place, prefix)
            self.items |= inner.items | {item.key: item for item in joints.items}
            for key in joints.stacked:
                self.items[key] = replace(self.items[key], stacked=True)
            self.edges += [*inner.edges, *joints.edges]
            for outside, key in joints.entries:
                value = self.flows.units.flow(outside).value
                self.entries.setdefault((unit.key, value), []).append(key)
            self.exits.update(joints.exits)
            self.anchors[unit.key] = joints.anchor or next(iter(inner.items), "")

    # ---- values

    def _add_value(self, value: Value) -> None:
        flows = self.flows
        maker = flows.maker(value)
        along = [(u, bar) for u, bar in flows.users(value) if _along(maker, u)]
        self._save(value, maker, [u for u, _ in flows.users(value) if not _along(maker, u)])
        if maker is not None and maker.phase == "backward" and value not in flows.outputs:
            # the terms of one gradient, summed where it is used, are one arrow
            users = tuple(u.key for u, _ in along)
            twin = self.terms.setdefault((maker.key, users, str(value.type)), value)
            if twin is not value and all(u.phase == "backward" for u, _ in along):
                return
        if maker is None:
            self._add_source(value)
        elif self._skips_circle(value, maker, along):
            self.keys[value] = maker.key
        else:
            self._add_circle(value, maker)
        self._add_edges(value, maker, along)

    def _skips_circle(self, value: Value, maker: Unit, uses: list[tuple[Unit, bool]]) -> bool:
        item = self.items.get(maker.key)
        if item is None:
            return False
        if item.shape == "constant":
            return True
        if item.shape == "cost" and maker.phase == "forward" and not self.place:
            if value in self.flows.outputs and value.name:
                lines = (*item.lines, Line(f"→ {value.name}", "note"))
                self.items[maker.key] = replace(item, lines=lines)
            return True
        return value not in self.flows.outputs and all(u.phase == "update" for u, _ in uses)

    def _new_key(self, value: Value) -> str:
        key = self.keys[value] = f"{self.prefix}v{len(self.keys)}"
        return key

    def _add_source(self, value: Value) -> None:
        key, op = self._new_key(value), value.node.op
        shape = {"observed": "observed", "argument": "computed"}.get(op, "constant")
        name = value_name(value) or ("" if op == "argument" else op)
        self.items[key] = Item(
            key,
            shape,
            (Line(name, "plain"),) if name else (),
            cluster=self._cluster("forward", 0, ()),
            beside=str(value.type),
            tip=f"{op} {value_name(value)}: {value.type}{source_tip(value.node)}",
        )

    def _add_circle(self, value: Value, maker: Unit) -> None:
        key = self._new_key(value)
        backward = maker.phase == "backward"
        name = self.flows.gradient_name(value) if backward else value.name or ""
        self.items[key] = Item(
            key,
            "computed",
            (Line(name, "plain"),) if name else (),
            phase=maker.phase,
            cluster=self._cluster(maker.phase, maker.order, self._around(value, maker)),
            beside=str(value.type),
            tip=f"{name or 'computed'}: {value.type}{source_tip(value.node)}",
        )

    def _around(self, value: Value, maker: Unit) -> tuple[str, ...]:
        """The modules around the maker and all users: an edge that leaves a box crosses it."""
        if value in self.flows.outputs:
            return ()
        common = list(maker.modules)
        for unit, _ in self.flows.users(value):
            if unit.phase == maker.phase:
                pairs = zip(common, unit.modules, strict=False)
                same = [a == b for a, b in pairs]
                common = common[: same.index(False) if False in same else len(same)]
        return tuple(common)

    # ---- edges

    def _add_edges(
        self, value: Value, maker: Unit | None, uses: Sequence[tuple[Unit, bool]]
    ) -> None:
        key, type = self.keys[value], str(value.type)
        tail = self.exits.get(value, maker.key if maker is not None else "")
        if maker is not None and key != maker.key:
            upwards = tail in self.items and self.items[tail].upwards
            self.edges.append(Edge(tail, key, type, phase=maker.phase, upwards=upwards))
            type = ""
        for unit, bar in uses:
            if unit.phase == "update" and maker is not None:
                self._join_update(key, value, unit)
                continue
            heads = self.entries.get((unit.key, value), [unit.key])
            for head in (h for h in heads if h in self.items):
                upwards = self.items[head].upwards
                phase = unit.phase
                self.edges.append(Edge(key, head, type, phase=phase, bar=bar, upwards=upwards))
                type = ""

    def _join_update(self, key: str, value: Value, unit: Unit) -> None:
        """One edge from a function to the optimizer, however many gradients it carries."""
        name = self.flows.gradient_name(value)
        number = self.gradients.setdefault((key, unit.key), len(self.edges))
        names = [*self.edges[number].tip.split(", "), name] if number < len(self.edges) else [name]
        label = short_list(names, 2)
        tip = ", ".join(names)
        edge = Edge(key, unit.key, label, phase="update", upwards=True, tip=tip)
        self.edges[number : number + 1] = [edge]

    def _save(self, value: Value, maker: Unit | None, users: Iterable[Unit]) -> None:
        """Remember the dashed edges along which the backward graph reads a forward value.

        From the function that it faces if that one knows the value, else from where it was made.
        """
        for unit in users:
            if unit.phase == "update" or value.size == 1:
                continue
            base = unit.base
            knows = base is not None and (maker is base or value in self.flows.taken.get(base, {}))
            source = base if knows else maker
            if source is None:
                continue
            tail = source.key if source.key in self.items else self.anchors.get(source.key, "")
            name = value_name(origin(value)).rpartition(".")[2] or str(value.type)
            names = self.saved.setdefault((tail, unit.key), []) if tail else []
            if name not in names:
                names.append(name)

    def _input_ranks(self) -> dict[tuple[str, str], int]:
        """(function, item that feeds it) -> when the function first reads it."""
        ranks: dict[tuple[str, str], int] = {}
        for unit in self.flows.units.units:
            for node in unit.nodes:
                for given in node.inputs:
                    tail = self.keys.get(self.flows.units.flow(given).value)
                    if tail is not None:
                        ranks.setdefault((unit.key, tail), len(ranks))
        return ranks


def _along(maker: Unit | None, user: Unit) -> bool:
    """Whether a use is a flow from phase to phase, not the backward pass reading back."""
    made = "forward" if maker is None else maker.phase
    return made == user.phase or (made == "backward" and user.phase == "update")


def _in_square(title: Line) -> tuple[Line, ...]:
    """A long name of several words in two lines, so that its square stays small."""
    first, underscore, rest = title.text.partition("_")
    if len(title.text) <= _SHORT_NAME or not rest:
        return (title,)
    return (replace(title, text=first + underscore), replace(title, text=rest))


def _legend(items: Iterable[Item], edges: Iterable[Edge]) -> tuple[str, ...]:
    shapes = {item.shape for item in items}
    present = {item.phase for item in items}
    styles = {edge.style for edge in edges}
    entries = [
        ("observed", "observed" in shapes),
        ("computed", "computed" in shapes),
        ("function", "bullet" in shapes),
        ("cost", "cost" in shapes),
        ("state", bool(shapes & {"state", "parameter"})),
        ("delay", "delay" in shapes),
        ("backward", "backward" in present),
        ("optimizer", "update" in present),
        ("saved", "saved" in styles),
        ("update", "update" in styles),
    ]
    return tuple(name for name, there in entries if there)
