"""Several inputs of a function enter at places of their own, in the order of use."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import replace

from graphc.drawing.picture import Edge, Item

__all__ = ["assign_ports"]

#: a function with more inputs takes them where they come
_MANY_PORTS = 8
_PORTED = ("bullet", "cost", "switch")


def assign_ports(
    items: MutableMapping[str, Item], edges: list[Edge], ranks: Mapping[tuple[str, str], int]
) -> None:
    """Number the edges that enter each function. ``ranks``: (function, what feeds it) -> order."""
    entering: dict[str, list[int]] = {}
    for number, edge in enumerate(edges):
        flows = edge.style == "flow" and edge.phase != "update"
        if flows and items[edge.head].shape in _PORTED:
            entering.setdefault(edge.head, []).append(number)
    for key, numbers in entering.items():
        if not 1 < len(numbers) <= _MANY_PORTS:
            continue
        numbers.sort(key=lambda n: _order(items, ranks, edges[n]))
        names = items[key].inputs
        inputs = names if len(names) == len(numbers) else ("",) * len(numbers)
        items[key] = replace(items[key], inputs=inputs)
        for port, number in enumerate(numbers):
            edges[number] = replace(edges[number], head_port=port)


def _order(
    items: Mapping[str, Item], ranks: Mapping[tuple[str, str], int], edge: Edge
) -> tuple[bool, int]:
    """What flows in before what is held, each in the order of use."""
    held = items[edge.tail].shape in ("state", "parameter")
    return held, ranks.get((edge.head, edge.tail), len(ranks))
