"""What flows between the functions of a diagram: read off the graph once, then asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import cached_property

from graphc.drawing.naming import cell_name, origin
from graphc.drawing.units import Unit, Units
from graphc.graph import STATES, Node, Value
from graphc.records import dataclass

__all__ = ["Flows", "flows_of"]

#: more states than this are named inside their functions rather than drawn
_FEW_STATES = 12


@dataclass(frozen=True)
class Flows:
    """Who uses, makes and holds each value.

    ``uses``: value -> (function, whether a bar lies between); ``taken`` and ``held``: function ->
    values that come in, states among them apart; ``outputs``: what the graph gives; ``updates``:
    (state, new value).
    """

    units: Units
    nodes: Sequence[Node]
    parameters: bool
    uses: dict[Value, dict[tuple[Unit, bool], None]] = field(default_factory=dict)
    taken: dict[Unit, dict[Value, None]] = field(default_factory=dict)
    held: dict[Unit, dict[Value, None]] = field(default_factory=dict)
    outputs: dict[Value, None] = field(default_factory=dict)
    updates: list[tuple[Value, Value]] = field(default_factory=list)

    def maker(self, value: Value) -> Unit | None:
        """The function that computes a value; None for a source."""
        return self.units.of.get(value.node)

    def users(self, value: Value) -> list[tuple[Unit, bool]]:
        """(function, bar) pairs."""
        return list(self.uses.get(value, ()))

    @cached_property
    def values(self) -> list[Value]:
        """Values that cross between functions, in program order."""
        observed = (n.outputs[0] for n in self.nodes if n.op == "observed")
        crossing = (v for v in (*self.uses, *self.outputs) if v not in self.units.hidden)
        found = dict.fromkeys((*crossing, *observed))
        return sorted(found, key=lambda v: (v.node.serial, v.index))

    @cached_property
    def _results(self) -> dict[Unit, list[Value]]:
        """Of each forward function, the values that the forward graph goes on with or gives."""
        found: dict[Unit, list[Value]] = {}
        for value in self.values:
            unit = self.maker(value)
            goes_on = any(u.phase == "forward" for u, _ in self.users(value))
            if unit is not None and (goes_on or value in self.outputs):
                found.setdefault(unit, []).append(value)
        return found

    def is_cost(self, unit: Unit) -> bool:
        """One scalar comes out of tensors: a cost, or the derivative of one."""
        if unit.base is not None:
            return unit.order == 1 and self.is_cost(unit.base)
        given = self._results.get(unit, [])
        return (
            unit.phase == "forward"
            and len(given) == 1
            and given[0].shape == ()
            and given[0].dtype.is_float
            and any(v.shape != () for v in self.taken.get(unit, {}))
        )

    @cached_property
    def _forward_mode(self) -> set[Unit]:
        """Derivatives joined to derivatives of later functions by what they give them."""
        found = set()
        for value, uses in self.uses.items():
            maker = self.maker(value)
            if maker is None or maker.base is None:
                continue
            first = maker.base.nodes[0].serial
            later = {u for u, _ in uses if u.base is not None and u.base.nodes[0].serial > first}
            if later:
                found |= {maker, *later}
        return found

    def runs_upwards(self, unit: Unit) -> bool:
        """Reverse mode runs against the forward graph, forward mode along with it."""
        if unit.phase == "forward":
            return False
        if unit.phase == "update" or unit.base is None:
            return True
        return (unit.order % 2 == 1) != (unit in self._forward_mode)

    def gradient_name(self, value: Value) -> str:
        """∂v where the value is the cotangent of a forward value v that has a name."""
        if value.name:
            return value.name
        primal = value.node.primal
        candidates = (*primal.inputs, *primal.outputs) if primal is not None else ()
        bases = {u.base for u, _ in self.users(value) if u.base is not None}
        for given in candidates:
            source = self.units.flow(given).value
            behind = origin(source)
            fits = self.maker(source) in bases or behind.node.op in STATES
            if given.type == value.type and fits:
                name = cell_name(behind).rpartition(".")[2] or source.name
                return f"∂{name}" if name else "∂"
        return "∂"

    @cached_property
    def drawn_states(self) -> dict[Value, None]:
        """Parameters on request; else states that the model itself writes, if they are few."""
        if self.parameters:
            forward = (held for unit, held in self.held.items() if unit.phase == "forward")
            return {value: None for held in forward for value in held}
        written: dict[Value, None] = {}
        for state, new in self.updates:
            maker = self.maker(new)
            if state.node.op == "state" and (maker is None or maker.phase == "forward"):
                written[state] = None
        return written if len(written) <= _FEW_STATES else {}

    @cached_property
    def holders(self) -> dict[Value, list[Unit]]:
        """The forward functions that use each state."""
        found: dict[Value, list[Unit]] = {}
        for unit, held in self.held.items():
            if unit.phase == "forward":
                for value in held:
                    found.setdefault(value, []).append(unit)
        return found


def flows_of(units: Units, nodes: Sequence[Node], parameters: bool) -> Flows:
    """Read the flows off ``nodes``."""
    flows = Flows(units, nodes, parameters)
    drawn = set(nodes)
    updates = list(units.graph.updates)
    for node in nodes:
        if node.op == "attach":
            half = (len(node.inputs) - 1) // 2
            updates += zip(node.inputs[1 : 1 + half], node.inputs[1 + half :], strict=True)
        unit = units.of.get(node)
        if unit is not None:
            for value in node.inputs:
                _collect_use(flows, value, unit)
    flows.outputs.update(dict.fromkeys(units.flow(v).value for v in units.graph.outputs))
    for state, new in updates:
        value = units.flow(new).value
        if value.node in drawn and state.node in drawn:
            flows.updates.append((state, value))
    return flows


def _collect_use(flows: Flows, given: Value, unit: Unit) -> None:
    flow = flows.units.flow(given)
    value = flow.value
    if value in flows.units.hidden or flows.maker(value) is unit:
        return
    if value.node.op in STATES:
        flows.held.setdefault(unit, {})[value] = None
        return
    flows.taken.setdefault(unit, {})[value] = None
    flows.uses.setdefault(value, {})[unit, flow.bar] = None
