"""What things are called in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc.drawing.picture import Line
from graphc.drawing.units import STRUCTURED, Unit
from graphc.graph import Node, Value, composite_of
from graphc.types import Size

__all__ = [
    "block_label",
    "bytes_text",
    "cell_name",
    "function_title",
    "gradient_label",
    "operator_label",
    "origin",
    "seconds_text",
    "short_list",
    "source_tip",
    "unit_tip",
    "value_name",
]

#: infix names as people write them
_SIGNS = {"*": "×", "/": "÷", "-": "−", "<=": "≤", ">=": "≥", "!=": "≠", "neg": "−", "//": "⌊÷⌋"}

#: what prepares the operands of a primitive
_BESIDE = frozenset({"read", "broadcast", "cast"})
_KEEP = frozenset({"read", "mark", "stop_gradient", "permute", "reshape", "cast"})


def operator_label(node: Node) -> str:
    """A primitive's name as people write it: ``×``, ``sum``, ``matmul``.

    >>> import graphc as gc
    >>> x = gc.observed("x", (3,))
    >>> operator_label((x * x).node), operator_label(x.sum().node)
    ('×', 'sum')
    """
    if node.op in ("reduce", "cumulate"):
        name = str(node.attrs.get("monoid", node.op))
        return name if node.op == "reduce" else f"cumulative {name}"
    return _SIGNS.get(node.op, node.op)


def value_name(value: Value) -> str:
    """Its name, or its cell's; "" for a nameless one."""
    return value.name or cell_name(value)


def cell_name(value: Value) -> str:
    """The name of the state behind a value, "" if there is none."""
    return str(getattr(value.node.attrs.get("state"), "name", "") or "")


def origin(value: Value) -> Value:
    """The value whose elements these are, behind reads and movements that keep them all.

    >>> import graphc as gc
    >>> x = gc.observed("x", (2, 3))
    >>> origin(x.T) is x
    True
    """
    while value.node.op in _KEEP and not value.name:
        value = value.node.inputs[0]
    return value


def source_tip(node: Node) -> str:
    """``, mlp.py:12 in forward``, or nothing."""
    return f", {node.source}" if node.source is not None else ""


def short_list(names: Sequence[str], limit: int) -> str:
    """
    >>> short_list(["a", "b", "c"], 2)
    'a, b, +1'
    """
    if len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[:limit])}, +{len(names) - limit}"


def block_label(unit: Unit, names: Mapping[str, str]) -> list[Line]:
    """A function's title, and the name of its module under it."""
    if unit.phase == "update":
        return [Line(_plain(unit.path) or "update")]
    prefix = "∂" * unit.order
    if not unit.path:
        return [Line(prefix + _primitive_title(unit))]
    composites = composite_of(unit.path)[1]
    segment = names.get(unit.path, unit.path).rpartition("/")[2]
    if composites:
        return [Line(prefix + _plain(segment))]
    function = _only_composite(unit)
    if function and function != segment:
        return [Line(prefix + function), Line(segment, "note")]
    return [Line(prefix + segment)]


def _primitive_title(unit: Unit) -> str:
    return function_title(unit.nodes[0] if unit.base is None else unit.base.nodes[0])


def function_title(node: Node) -> str:
    """A primitive's name with the plain number it works with: ``× 0.5``."""
    if node.op == "by_mode":
        return "train | eval"
    if node.op == "constant":
        return f"constant {node.types[0]}"
    numbers = [number for v in node.inputs if (number := _number_behind(v)) is not None]
    label = operator_label(node)
    return f"{label} {numbers[0]}" if len(numbers) == 1 and len(node.inputs) == 2 else label


def gradient_label(value: Value) -> str:
    """``∂weight`` for the derivative by something named, "" for all else."""
    primal = value.node.primal
    if primal is None:
        return ""
    for given in (*primal.inputs, *primal.outputs):
        behind = origin(given)
        name = value_name(behind).rpartition(".")[2]
        if name and behind.size == value.size and behind.dtype == value.dtype:
            return f"∂{name}"
    return "∂"


def _number_behind(value: Value) -> str | None:
    """The plain number that a hidden operand is, seen through broadcasts and casts."""
    node = value.node
    while node.op in ("broadcast", "cast") and node.inputs:
        node = node.inputs[0].node
    number: Any = node.attrs.get("value") if node.op in ("full", "constant") else None
    if hasattr(number, "item") and getattr(number, "size", 0) == 1:
        number = number.item()
    return f"{number:g}" if isinstance(number, (int, float)) else None


def _only_composite(unit: Unit) -> str:
    """The composite call, or the single primitive, that a module is made of; "" for more."""
    owner = unit if unit.base is None else unit.base
    depth = owner.path.count("/") + 1
    found = {"/".join(n.block.split("/")[depth : depth + 1]) for n in owner.nodes if n.op != "read"}
    if found != {""}:
        return _plain(found.pop()) if len(found) == 1 else ""
    working = [n for n in owner.nodes if n.inputs and n.op not in _BESIDE]
    lone = len(working) == 1 and working[0].op not in STRUCTURED
    return operator_label(working[0]) if lone else ""


def unit_tip(unit: Unit, names: Mapping[str, str]) -> str:
    """What shows on hovering over a function: its path, its primitives, its line."""
    counts: dict[str, int] = {}
    for node in unit.nodes:
        name = operator_label(node)
        counts[name] = counts.get(name, 0) + 1
    inside = ", ".join(f"{c} {n}" if c > 1 else n for n, c in list(counts.items())[:12])
    where = next((source_tip(n) for n in unit.nodes if n.source), "")
    return f"{names.get(unit.path, unit.path) or 'primitive'}: {inside}{where}"


def _plain(segment: str) -> str:
    return segment.partition("#")[0].lstrip("_")


def bytes_text(count: Any) -> str:
    """
    >>> bytes_text(512), bytes_text(40 * 1024), bytes_text(3 << 20)
    ('512 B', '40 KB', '3 MB')
    """
    if isinstance(count, Size) or not isinstance(count, (int, float)):
        return f"{count} B"
    for unit, scale in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:g} B"


def seconds_text(seconds: float) -> str:
    """
    >>> seconds_text(2.5e-6), seconds_text(0.0123)
    ('2.5 µs', '12.3 ms')
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
