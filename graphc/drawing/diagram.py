"""Graph -> the block diagram in LeCun's notation.

Every value that leaves a function ends in a circle of its own and goes on from there; the value of
a cost does not leave its square. Parameters are named inside the functions that use them, or drawn
as inputs on request. The derivative of a function faces it, joined by what was saved for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphc.drawing.naming import (
    block_label,
    cell_name,
    operator_label,
    origin,
    short_list,
    source_tip,
    value_name,
)
from graphc.drawing.picture import Cluster, Edge, Item, Line, Picture
from graphc.drawing.units import Unit, Units, assign_units, with_primals
from graphc.graph import STATES, Graph, Node, Value

__all__ = ["diagram"]

#: more items than this do not fit a screen: the default then shows fewer modules open
_TOO_MANY = 150
_SCREEN = 70
#: more states than this are named inside their functions rather than drawn
_FEW_STATES = 12
_FEW_UPDATES = 6
_FEW_LABELS = 4
#: a function with more inputs takes them where they come
_MANY_PORTS = 8


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
        nodes = tuple(n for n in nodes if n.primal is None)

    def at(depth: int | None) -> Picture:
        drawing = _Drawing(assign_units(graph, nodes, standing, depth), nodes, parameters)
        drawing.collect()
        return drawing.picture(title)

    picture = at(depth)
    if depth is not None:
        return picture
    if len(picture.items) <= _TOO_MANY:
        functions = [i for i in picture.items if i.shape in ("bullet", "cost", "box")]
        if len(functions) > 1 or not nodes:
            return picture
        return at(_deepest(nodes))
    for level in reversed(range(_deepest(nodes))):
        picture = at(level)
        if len(picture.items) <= _SCREEN:
            break
    return picture


def _deepest(nodes: Iterable[Node]) -> int:
    return max((n.block.count("/") + 1 for n in nodes if n.block), default=1)


@dataclass
class _Drawing:
    """The picture while it grows: who makes, uses and saves each value."""

    units: Units
    nodes: Sequence[Node]
    parameters: bool
    uses: dict[Value, list[tuple[Unit, bool]]] = field(default_factory=dict)
    implicit: dict[Unit, dict[Value, None]] = field(default_factory=dict)
    outputs: dict[Value, None] = field(default_factory=dict)
    updates: list[tuple[Value, Value]] = field(default_factory=list)
    saved: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    keys: dict[Value, str] = field(default_factory=dict)
    terms: dict[tuple[object, ...], Value] = field(default_factory=dict)

    # ---- reading the graph

    def collect(self) -> None:
        """Who uses what, what the graph gives and writes."""
        for node in self.nodes:
            if node.op == "attach":
                self._collect_attached(node)
            unit = self.units.of.get(node)
            if unit is not None:
                for value in node.inputs:
                    self._collect_use(value, unit)
        graph = self.units.graph
        self.outputs = dict.fromkeys(self.units.flow(v).value for v in graph.outputs)
        self.updates += [(state, self.units.flow(new).value) for state, new in graph.updates]
        drawn = {n for n in self.nodes}
        self.updates = [(s, v) for s, v in self.updates if v.node in drawn and s.node in drawn]

    def _collect_attached(self, node: Node) -> None:
        rest = node.inputs[1:]
        half = len(rest) // 2
        for state, new in zip(rest[:half], rest[half:], strict=True):
            self.updates.append((state, self.units.flow(new).value))

    def _collect_use(self, given: Value, unit: Unit) -> None:
        flow = self.units.flow(given)
        value = flow.value
        if value in self.units.hidden or self.units.of.get(value.node) is unit:
            return
        if value.node.op in STATES:
            self.implicit.setdefault(unit, {})[value] = None
            return
        uses = self.uses.setdefault(value, [])
        if not any(user is unit and bar == flow.bar for user, bar in uses):
            uses.append((unit, flow.bar))

    # ---- making the picture

    def picture(self, title: str) -> Picture:
        """Items and edges, forward values first."""
        for unit in self.units.units:
            self._add_unit(unit)
        for value in self._values():
            self._add_value(value)
        self._add_states()
        self._add_updates()
        for (tail, head), names in self.saved.items():
            label = short_list(names, 3)
            self.edges.append(
                Edge(tail, head, label, "saved", tip="saved: " + ", ".join(names))
            )
        self._assign_ports()
        clusters = _clusters(self.units, self.items.values())
        return Picture(
            title, tuple(self.items.values()), tuple(self.edges), clusters, self._legend()
        )

    def _values(self) -> list[Value]:
        """Values that cross between functions, in program order."""
        observed = (n.outputs[0] for n in self.nodes if n.op == "observed")
        crossing = (v for v in (*self.uses, *self.outputs) if v not in self.units.hidden)
        found = dict.fromkeys((*crossing, *observed))
        return sorted(found, key=lambda v: (v.node.serial, v.index))

    def _add_unit(self, unit: Unit) -> None:
        shape = "cost" if self._is_cost(unit) else "bullet"
        if all(n.op == "by_mode" for n in unit.nodes):
            shape = "switch"
        if all(n.op == "constant" for n in unit.nodes):
            shape = "constant"
        upwards = unit.phase != "forward" and self._runs_upwards(unit)
        self.items[unit.key] = Item(
            unit.key,
            shape,
            self._lines(unit),
            phase=unit.phase,
            cluster=_cluster_key(unit, self.units),
            faces=unit.base.key if unit.base is not None and unit.order == 1 else "",
            upwards=upwards,
            tip=_unit_tip(unit, self.units),
        )

    def _lines(self, unit: Unit) -> tuple[Line, ...]:
        lines = [*block_label(unit, self.units.names)]
        if unit.phase == "update":
            written = sum(self.units.of.get(v.node) is unit for _, v in self.updates)
            return (*lines, Line(f"writes {written} states", "note"))
        held = self.implicit.get(unit, {})
        if held and not self.parameters and unit.phase == "forward":
            names = [self._implicit_name(v, unit) for v in held if not self._is_drawn(v)]
            if names:
                lines.append(Line(short_list(names, 3), "note"))
        return tuple(lines)

    def _implicit_name(self, value: Value, unit: Unit) -> str:
        name = cell_name(value).rpartition(".")[2] or value.node.op
        users = [u for u, held in self.implicit.items() if value in held and u.phase == "forward"]
        return f"{name} (tied)" if len(users) > 1 else name

    def _is_cost(self, unit: Unit) -> bool:
        """One scalar comes out of tensors: a cost, or the derivative of one."""
        if unit.base is not None:
            return unit.order == 1 and self._is_cost(unit.base)
        if unit.phase != "forward":
            return False
        given = self._results(unit)
        taken = [v for v, uses in self.uses.items() if any(u is unit for u, _ in uses)]
        return (
            len(given) == 1
            and given[0].shape == ()
            and given[0].dtype.is_float
            and any(v.shape != () for v in taken)
        )

    def _results(self, unit: Unit) -> list[Value]:
        mine = {v for n in unit.nodes for v in n.outputs}
        used = dict.fromkeys(
            v
            for v, uses in self.uses.items()
            if v in mine and any(u.phase == "forward" for u, _ in uses)
        )
        return list(used | dict.fromkeys(v for v in self.outputs if v in mine))

    def _runs_upwards(self, unit: Unit) -> bool:
        """Reverse mode runs against the forward graph, forward mode along with it."""
        if unit.phase == "update" or unit.base is None:
            return True
        first = unit.base.nodes[0].serial
        for value, uses in self.uses.items():
            maker = self.units.of.get(value.node)
            if maker is unit:
                others = [u for u, _ in uses if u.base is not None]
                if any(u.base and u.base.nodes[0].serial > first for u in others):
                    return unit.order % 2 == 0
        return unit.order % 2 == 1

    def _add_value(self, value: Value) -> None:
        maker = self.units.of.get(value.node)
        uses = self.uses.get(value, [])
        forward_uses = [(u, bar) for u, bar in uses if self._along(maker, u)]
        self._save(value, maker, [u for u, _ in uses if not self._along(maker, u)])
        if maker is not None and maker.phase == "backward" and value not in self.outputs:
            # the terms of one gradient, summed where it is used, are one arrow
            users = tuple(u.key for u, _ in forward_uses)
            twin = self.terms.setdefault((maker.key, users, str(value.type)), value)
            if twin is not value and all(u.phase == "backward" for u, _ in forward_uses):
                return
        if maker is None:
            self._add_source(value)
        elif self._skips_circle(value, maker, forward_uses):
            self.keys[value] = maker.key
        else:
            self._add_circle(value, maker)
        self._add_edges(value, maker, forward_uses)

    def _along(self, maker: Unit | None, user: Unit) -> bool:
        """Whether the use is a flow from phase to phase, not the backward pass reading back."""
        made = "forward" if maker is None else maker.phase
        return made == user.phase or (made == "backward" and user.phase == "update")

    def _skips_circle(self, value: Value, maker: Unit, uses: list[tuple[Unit, bool]]) -> bool:
        item = self.items[maker.key]
        if item.shape == "constant":
            return True
        if item.shape == "cost" and maker.phase == "forward":
            if value in self.outputs and value.name:
                lines = (*item.lines, Line(f"→ {value.name}", "note"))
                self.items[maker.key] = replace(item, lines=lines)
            return True
        if value in self.outputs:
            return False
        return all(u.phase == "update" for u, _ in uses)

    def _add_source(self, value: Value) -> None:
        key = self.keys[value] = f"v{len(self.keys)}"
        op = value.node.op
        shape = {"observed": "observed", "argument": "observed"}.get(op, "constant")
        lines = (Line(value_name(value) or op, "plain"),)
        tip = f"{op} {value_name(value)}: {value.type}{source_tip(value.node)}"
        self.items[key] = Item(key, shape, lines, cluster=_panel("forward", self.units), tip=tip)

    def _add_circle(self, value: Value, maker: Unit) -> None:
        key = self.keys[value] = f"v{len(self.keys)}"
        name = self._gradient_name(value, maker) if maker.phase == "backward" else value.name or ""
        lines = (Line(name, "plain"),) if name else ()
        self.items[key] = Item(
            key,
            "computed",
            lines,
            phase=maker.phase,
            cluster=self._circle_cluster(value, maker),
            tip=f"{name or 'computed'}: {value.type}{source_tip(value.node)}",
        )

    def _circle_cluster(self, value: Value, maker: Unit) -> str:
        """The innermost cluster around the maker and all users: an edge that leaves shows it."""
        around = maker.modules
        for unit, _ in self.uses.get(value, []):
            if unit.phase == maker.phase:
                common = 0
                for a, b in zip(around, unit.modules, strict=False):
                    if a != b:
                        break
                    common += 1
                around = around[:common]
        if value in self.outputs:
            around = ()
        return _cluster_name(maker.phase, maker.order, around, self.units)

    def _gradient_name(self, value: Value, maker: Unit) -> str:
        """∂v where the value is the cotangent of a forward value v that has a name."""
        if value.name:
            return value.name
        primal = value.node.primal
        candidates = (*primal.inputs, *primal.outputs) if primal is not None else ()
        users = {u.base for u, _ in self.uses.get(value, []) if u.base is not None}
        for given in candidates:
            source = self.units.flow(given).value
            made_by = self.units.of.get(source.node)
            behind = origin(source)
            if given.type == value.type and (made_by in users or behind.node.op in STATES):
                name = cell_name(behind).rpartition(".")[2] or source.name
                return f"∂{name}" if name else "∂"
        return "∂"

    def _add_edges(
        self, value: Value, maker: Unit | None, uses: Sequence[tuple[Unit, bool]]
    ) -> None:
        key, type = self.keys[value], str(value.type)
        if key.startswith("v") and self.items[key].shape != "constant":
            self.items[key] = replace(self.items[key], beside=type)
        if maker is not None and key != maker.key:
            upwards = self.items[maker.key].upwards
            edge = Edge(maker.key, key, type, phase=maker.phase, upwards=upwards)
            self.edges.append(edge)
            type = ""
        for unit, bar in uses:
            if unit.phase == "update" and maker is not None:
                self._join_update(key, value, maker, unit)
                continue
            upwards = self.items[unit.key].upwards
            self.edges.append(
                Edge(key, unit.key, type, phase=unit.phase, bar=bar, upwards=upwards)
            )
            type = ""

    def _join_update(self, key: str, value: Value, maker: Unit, unit: Unit) -> None:
        """One edge from a function to the optimizer, however many gradients it carries."""
        name = self._gradient_name(value, maker)
        for place, edge in enumerate(self.edges):
            if (edge.tail, edge.head) == (key, unit.key):
                names = [*edge.tip.split(", "), name]
                self.edges[place] = Edge(
                    key,
                    unit.key,
                    short_list(names, 2),
                    phase="update",
                    upwards=True,
                    tip=", ".join(names),
                )
                return
        self.edges.append(Edge(key, unit.key, name, phase="update", upwards=True, tip=name))

    def _assign_ports(self) -> None:
        """Several inputs of a function enter at places of their own, in the order of use."""
        entering: dict[str, list[int]] = {}
        for number, edge in enumerate(self.edges):
            if edge.style == "flow" and edge.phase != "update":
                if self.items[edge.head].shape in ("bullet", "cost", "switch"):
                    entering.setdefault(edge.head, []).append(number)
        ranks = self._input_ranks()
        for key, numbers in entering.items():
            if not 1 < len(numbers) <= _MANY_PORTS:
                continue
            numbers.sort(key=lambda n: self._port_order(ranks, self.edges[n]))
            names = ("train", "eval") if self.items[key].shape == "switch" else ()
            inputs = names if len(names) == len(numbers) else ("",) * len(numbers)
            self.items[key] = replace(self.items[key], inputs=inputs)
            for port, number in enumerate(numbers):
                self.edges[number] = replace(self.edges[number], head_port=port)

    def _port_order(self, ranks: Mapping[tuple[str, str], int], edge: Edge) -> tuple[bool, int]:
        """What flows in before what is held, each in the order of use."""
        held = self.items[edge.tail].shape in ("state", "parameter")
        return held, ranks.get((edge.head, edge.tail), len(ranks))

    def _input_ranks(self) -> dict[tuple[str, str], int]:
        """(function, item that feeds it) -> when the function first reads it."""
        ranks: dict[tuple[str, str], int] = {}
        for unit in self.units.units:
            for node in unit.nodes:
                for given in node.inputs:
                    tail = self.keys.get(self.units.flow(given).value)
                    if tail is not None:
                        ranks.setdefault((unit.key, tail), len(ranks))
        return ranks

    def _save(self, value: Value, maker: Unit | None, users: Iterable[Unit]) -> None:
        """Remember the dashed edges along which the backward graph reads a forward value.

        From the function that it faces if that one knows the value, else from where it was made.
        """
        for unit in users:
            if unit.phase == "update":
                continue
            base = unit.base
            near = base is not None and (
                maker is base or any(user is base for user, _ in self.uses.get(value, []))
            )
            tail = base.key if near and base is not None else maker.key if maker else ""
            name = value_name(origin(value)).rpartition(".")[2] or str(value.type)
            if tail and value.size != 1:
                names = self.saved.setdefault((tail, unit.key), [])
                if name not in names:
                    names.append(name)

    # ---- states

    def _is_drawn(self, value: Value) -> bool:
        return value in self._drawn_states

    @property
    def _drawn_states(self) -> dict[Value, None]:
        """Parameters on request; else states that the model itself writes, if they are few."""
        used = {
            v: unit
            for unit, held in self.implicit.items()
            for v in held
            if unit.phase == "forward"
        }
        if self.parameters:
            return dict.fromkeys(used)
        written = dict.fromkeys(
            s
            for s, new in self.updates
            if s.node.op == "state" and self._phase_of(new) == "forward"
        )
        wanted = {s: None for s, new in self.updates if new in self.outputs and s in written}
        return written if len(written) <= _FEW_STATES else wanted

    def _phase_of(self, value: Value) -> str:
        unit = self.units.of.get(value.node)
        return unit.phase if unit is not None else "forward"

    def _add_states(self) -> None:
        users: dict[Value, list[Unit]] = {}
        for unit, held in self.implicit.items():
            for value in held:
                users.setdefault(value, []).append(unit)
        for value in self._drawn_states:
            key = self.keys[value] = f"v{len(self.keys)}"
            forward = [u for u in users.get(value, []) if u.phase == "forward"]
            lines = [Line(cell_name(value).rpartition(".")[2] or value.node.op, "plain")]
            if len(forward) > 1:
                lines.append(Line("tied", "note"))
            tip = f"{value.node.op} {cell_name(value)}: {value.type}{source_tip(value.node)}"
            where = forward[0].modules if len(forward) == 1 else ()
            cluster = _cluster_name("forward", 0, where, self.units)
            self.items[key] = Item(
                key, value.node.op, tuple(lines), cluster=cluster, tip=tip, beside=str(value.type)
            )
            label = str(value.type)
            for unit in forward:
                self.edges.append(Edge(key, unit.key, label))
                label = ""

    def _add_updates(self) -> None:
        """Dotted edges back into what is written; an optimizer's only while they are few."""
        joined: dict[tuple[str, str], list[str]] = {}
        for state, new in self.updates:
            tail = self.keys.get(new) or self._unit_key(new)
            heads = [self.keys[state]] if state in self.keys else self._holders(state)
            for head in heads:
                if tail and head and tail != head:
                    joined.setdefault((tail, head), []).append(cell_name(state))
        gradients = sum(edge.phase == "update" and edge.style == "flow" for edge in self.edges)
        if gradients > _FEW_LABELS:  # the tips still say which
            self.edges = [replace(e, label="" if e.phase == "update" else e.label) for e in self.edges]
        from_update = sum(self.items[tail].phase == "update" for tail, _ in joined)
        for (tail, head), names in joined.items():
            phase = self.items[tail].phase
            if phase == "update" and from_update > _FEW_UPDATES:
                continue
            tip = "writes " + ", ".join(names)
            self.edges.append(Edge(tail, head, "", "update", phase, tip=tip))

    def _unit_key(self, value: Value) -> str:
        unit = self.units.of.get(value.node)
        return unit.key if unit is not None else ""

    def _holders(self, state: Value) -> list[str]:
        return [u.key for u, held in self.implicit.items() if state in held and u.phase == "forward"]

    def _legend(self) -> tuple[str, ...]:
        shapes = {item.shape for item in self.items.values()}
        present = {item.phase for item in self.items.values()}
        styles = {edge.style for edge in self.edges}
        entries = [
            ("observed", "observed" in shapes),
            ("computed", "computed" in shapes),
            ("function", "bullet" in shapes),
            ("cost", "cost" in shapes),
            ("state", bool(shapes & {"state", "parameter"})),
            ("backward", "backward" in present),
            ("optimizer", "update" in present),
            ("saved", "saved" in styles),
            ("update", "update" in styles),
        ]
        return tuple(name for name, there in entries if there)


# ---- clusters


def _cluster_key(unit: Unit, units: Units) -> str:
    return _cluster_name(unit.phase, unit.order, unit.modules, units)


def _panel(phase: str, units: Units) -> str:
    return _cluster_name(phase, 1 if phase == "backward" else 0, (), units)


def _cluster_name(phase: str, order: int, modules: Sequence[str], units: Units) -> str:
    head = phase if order <= 1 else f"{phase}{order}"
    return ":".join((head, *(units.names.get(m, m) for m in _prefixes(modules))))


def _prefixes(modules: Sequence[str]) -> list[str]:
    return ["/".join(modules[: k + 1]) for k in range(len(modules))]


def _clusters(units: Units, items: Iterable[Item]) -> tuple[Cluster, ...]:
    """A panel for each phase if there are several, and a box for each opened module."""
    used = {item.cluster: item.phase for item in items}
    several = len({item.partition(":")[0] for item in used}) > 1
    found: dict[str, Cluster] = {}
    for key, phase in used.items():
        parts = key.split(":")
        for length in range(1, len(parts) + 1):
            name, last = ":".join(parts[:length]), parts[length - 1]
            label = last.rpartition("/")[2] if several or length > 1 else ""
            label = "" if label == "update" else label
            parent, panel = ":".join(parts[: length - 1]), length == 1
            tip = "" if panel else last
            found.setdefault(name, Cluster(name, label, parent, phase, panel, tip))
    return tuple(found[key] for key in sorted(found))


def _unit_tip(unit: Unit, units: Units) -> str:
    """What shows on hovering: the path, the primitives, the line."""
    path: Mapping[str, str] = units.names
    counts: dict[str, int] = {}
    for node in unit.nodes:
        name = operator_label(node)
        counts[name] = counts.get(name, 0) + 1
    inside = ", ".join(f"{c} {n}" if c > 1 else n for n, c in list(counts.items())[:12])
    where = next((source_tip(n) for n in unit.nodes if n.source), "")
    return f"{path.get(unit.path, unit.path) or 'primitive'}: {inside}{where}"
