"""The small line under a picture that says what its shapes mean."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.drawing.picture import Item
from graphc.drawing.scene import (
    Mark,
    Text,
    arrow_head,
    circle,
    line,
    moved,
    rectangle,
)
from graphc.drawing.shapes import draw_item
from graphc.drawing.style import BACKGROUND, INK, MUTED, NOTE, PHASES, SHADED, text_width

__all__ = ["legend"]

_LEGEND_TEXTS = {
    "observed": "observed",
    "computed": "computed",
    "function": "function",
    "cost": "cost",
    "state": "state, parameter",
    "saved": "saved for the backward pass",
    "update": "new value of a state",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "update",
    "delay": "value of the step before",
    "kernel": "kernel",
    "buffer": "buffer between kernels, and why it is not fused away",
}


def legend(names: Sequence[str]) -> list[Mark]:
    """Symbols and their names from left to right, from x = 0 on."""
    marks: list[Mark] = []
    x = 0.0
    for name in names:
        symbol, width = _symbol(name)
        marks += [moved(m, x, 0) for m in symbol]
        text = _LEGEND_TEXTS[name]
        marks.append(Text((x + width + 5, 3), text, NOTE, MUTED, "start"))
        x += width + 5 + text_width(text, NOTE) + 16
    return marks


def _symbol(name: str) -> tuple[list[Mark], float]:
    forward = PHASES["forward"]
    if name in ("observed", "computed", "state"):
        fill = SHADED if name == "observed" else BACKGROUND
        ring = circle(5.5, 0, 5.5, line=forward.line, fill=fill)
        inner = [circle(5.5, 0, 3.2, line=forward.line)] if name == "state" else []
        return [ring, *inner], 11
    if name == "function":
        item = Item("legend", "bullet")
        return draw_item(item, (9, 0), (18, 13)), 18
    if name == "delay":
        box = rectangle(0, -6, 20, 12, line=forward.line, fill=BACKGROUND, radius=2)
        return [box, Text((10, 3), "z⁻¹", NOTE, italic=True)], 20
    if name == "buffer":
        return draw_item(Item("legend", "buffer"), (9, 0), (18, 11)), 18
    if name in ("cost", "kernel"):
        return [rectangle(0, -5, 10, 10, line=forward.line, fill=forward.fill)], 10
    if name in ("saved", "update"):
        colour, dash = (MUTED, "dashed") if name == "saved" else (INK, "dotted")
        shaft = line([(0, 0), (16, 0)], colour=colour, dash=dash)
        return [shaft, arrow_head((0, 0), (22, 0), colour, 6)], 22
    phase = PHASES["update" if name == "optimizer" else name]
    return [rectangle(0, -5, 14, 10, line=phase.line, fill=phase.fill)], 14
