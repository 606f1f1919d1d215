"""States in a diagram: double circles, and dotted edges back into what is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphc.drawing.clusters import cluster_key
from graphc.drawing.flows import Flows
from graphc.drawing.naming import cell_name, source_tip
from graphc.drawing.picture import Edge, Item, Line
from graphc.graph import Value

__all__ = ["add_states", "add_updates", "held_names"]

#: more edges from an optimizer than this are left out: it says how many states it writes
_FEW_UPDATES = 6


def held_names(flows: Flows, unit_states: Mapping[Value, None]) -> list[str]:
    """What a function names inside: the states it uses that are not drawn, tied ones marked."""
    names = []
    for value in unit_states:
        if value not in flows.drawn_states:
            name = cell_name(value).rpartition(".")[2] or value.node.op
            tied = value.node.op == "parameter" and len(flows.holders.get(value, [])) > 1
            names.append(f"{name} (tied)" if tied else name)
    return names


def add_states(
    flows: Flows, items: dict[str, Item], edges: list[Edge], keys: dict[Value, str], place: str
) -> None:
    """A double circle for each drawn state, with edges to the functions that use it."""
    for value in flows.drawn_states:
        if value in keys:
            continue
        key = keys[value] = f"s{len(keys)}"
        users = flows.holders.get(value, [])
        lines = [Line(cell_name(value).rpartition(".")[2] or value.node.op, "plain")]
        if len(users) > 1 and value.node.op == "parameter":
            lines.append(Line("tied", "note"))
        where = users[0].modules if len(users) == 1 else ()
        label = str(value.type)
        items[key] = Item(
            key,
            value.node.op,
            tuple(lines),
            cluster=cluster_key("forward", 0, where, flows.units.names, place),
            beside=label,
            tip=f"{value.node.op} {cell_name(value)}: {label}{source_tip(value.node)}",
        )
        for unit in users:
            if unit.key in items:
                edges.append(Edge(key, unit.key, label))
                label = ""


def add_updates(
    flows: Flows, items: dict[str, Item], edges: list[Edge], keys: dict[Value, str]
) -> None:
    """Dotted edges from new values to their states, or to the functions that hold them inside."""
    if sum(edge.phase == "update" and edge.style == "flow" for edge in edges) > 1:
        for number, edge in enumerate(edges):  # names would overlap; the tips still say them
            if edge.phase == "update":
                edges[number] = replace(edge, label="")
    joined: dict[tuple[str, str], list[str]] = {}
    for state, new in flows.updates:
        maker = flows.maker(new)
        tail = keys.get(new) or (maker.key if maker is not None else "")
        holders = [u.key for u in flows.holders.get(state, [])]
        for head in [keys[state]] if state in keys else holders:
            if tail in items and head in items and tail != head:
                joined.setdefault((tail, head), []).append(cell_name(state))
    from_update = sum(items[tail].phase == "update" for tail, _ in joined)
    for (tail, head), names in joined.items():
        phase = items[tail].phase
        if phase != "update" or from_update <= _FEW_UPDATES:
            tip = "writes " + ", ".join(names)
            edges.append(Edge(tail, head, "", "update", phase, tip=tip))
