"""One hand for all pictures: colours, fonts, sizes.

The colours are Okabe and Ito's, which people with any kind of colour vision tell apart; nothing is
told by colour alone (phases also lie side by side, workers are also numbered).
"""

from __future__ import annotations

from graphc.records import dataclass

__all__ = [
    "BACKGROUND",
    "BODY",
    "FONT",
    "GRID",
    "HALO",
    "INK",
    "MUTED",
    "NOTE",
    "PHASES",
    "SHADED",
    "SMALL",
    "TITLE",
    "WORKERS",
    "Phase",
    "clipped",
    "text_width",
]

FONT = "Helvetica"
#: font sizes in points
TITLE, BODY, SMALL, NOTE = 15.0, 12.0, 10.0, 9.0

BACKGROUND = "#ffffff"
#: how far the rim around a text reaches
HALO = 1.5
INK = "#1f2430"
MUTED = "#5b6472"
GRID = "#dfe3e8"
#: the fill of an observed variable
SHADED = "#c6ccd4"


@dataclass(frozen=True)
class Phase:
    """The colours of one phase: outlines, the fill of a function, the panel behind all of it."""

    name: str
    line: str
    fill: str
    panel: str


PHASES = {
    "forward": Phase("forward", "#00639c", "#d8e9f6", "#f6fafd"),
    "backward": Phase("backward", "#b84f00", "#fde3cf", "#fef8f3"),
    "update": Phase("update", "#007a5a", "#d3efe5", "#f4fbf8"),
}

#: one colour for each worker, then again from the first
WORKERS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#999999")

# Widths of Helvetica's printable ASCII characters, in thousandths of the font size.
_WIDTHS = (
    (278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278)
    + (556,) * 10
    + (278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667)
    + (556, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278)
    + (469, 556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556)
    + (556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584)
)
#: substitutes for Helvetica run wider
_SLACK = 1.15


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Points that ``text`` takes in a line, an estimate on the safe side.

    >>> round(text_width("logits", 12.0), 1)
    32.2
    """
    units = sum(_WIDTHS[ord(c) - 32] if 32 <= ord(c) < 127 else 620 for c in text)
    return units / 1000 * size * _SLACK * (1.12 if bold else 1.0)


def clipped(
    text: str, size: float, width: float, *, bold: bool = False, middle: bool = False
) -> str:
    """``text``, or as much of it as fits into ``width`` points with an ellipsis at its end, or in
    its ``middle``: names that are made of parts differ in their last one.

    >>> clipped("a_rather_long_name", 10.0, 60.0)
    'a_rather_l…'
    >>> clipped("a_rather_long_name", 10.0, 60.0, middle=True)
    'a_ra…name'
    """
    if text_width(text, size, bold=bold) <= width:
        return text
    kept = len(text)
    shown = text + "…"
    while kept and text_width(shown, size, bold=bold) > width:
        kept -= 1
        end = kept // 2 if middle else 0
        shown = text[: kept - end] + "…" + text[len(text) - end :]
    return shown
