"""Rows of bars over time: what the charts of schedule and executable share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.drawing.scene import Mark, Text, line, rectangle
from graphc.drawing.style import (
    BACKGROUND,
    GRID,
    INK,
    MUTED,
    NOTE,
    SMALL,
    TITLE,
    clipped,
    text_width,
)
from graphc.records import dataclass

__all__ = ["Bar", "Row", "heading", "nice_step", "row_marks", "stripes", "time_axis"]

ROW = 17.0


@dataclass(frozen=True)
class Bar:
    """A stretch of time, in the chart's own x coordinates."""

    left: float
    right: float
    fill: str
    line: str = INK
    tip: str = ""
    lane: int = 0  # of ``lanes`` side by side in the row, from the top
    lanes: int = 1


@dataclass(frozen=True)
class Row:
    """A launch: its name to the left, its bars, and what to say to the right of them."""

    name: str
    bars: tuple[Bar, ...]
    note: str = ""
    tip: str = ""
    link: str = ""


def heading(title: str, note: str, x: float, y: float) -> list[Mark]:
    """A chart's title with a grey remark."""
    width = text_width(title, TITLE, bold=True)
    marks: list[Mark] = [Text((x, y), title, TITLE, INK, "start", bold=True)]
    if note:
        marks.append(Text((x + width + 16, y), note, SMALL, MUTED, "start"))
    return marks


def stripes(count: int, left: float, top: float, right: float) -> list[Mark]:
    """A pale background behind every second row."""
    return [
        rectangle(left, top + number * ROW, right - left, ROW, line="", fill="#f7f8fa")
        for number in range(0, count, 2)
    ]


def row_marks(
    rows: Sequence[Row], left: float, top: float, right: float, names: float
) -> list[Mark]:
    """One line a row. ``names`` is the width of the column of names that ends at ``left``."""
    marks: list[Mark] = []
    for number, row in enumerate(rows):
        y = top + number * ROW
        text = clipped(row.name, SMALL, names - 8, middle=True)
        at = (left - 6, y + ROW - 5)
        marks.append(Text(at, text, SMALL, INK, "end", tip=row.tip or row.name, link=row.link))
        for bar in row.bars:
            width = max(bar.right - bar.left, 1.0)
            marks.append(
                rectangle(
                    bar.left,
                    y + 3 + bar.lane * (ROW - 6) / bar.lanes,
                    width,
                    (ROW - 6) / bar.lanes,
                    line=bar.line,
                    fill=bar.fill,
                    stroke=0.6,
                    tip=bar.tip,
                )
            )
        if row.note:
            marks.append(_note(row, y, left, right))
    return marks


def _note(row: Row, y: float, left: float, right: float) -> Text:
    """Behind the last bar, or before the first where there is no room behind."""
    end = max((bar.right for bar in row.bars), default=left)
    start = min((bar.left for bar in row.bars), default=left)
    width = text_width(row.note, NOTE)
    if end + width + 6 <= right:
        return Text((end + 4, y + ROW - 5), row.note, NOTE, MUTED, "start", halo=BACKGROUND)
    if start - width - 6 >= left:
        return Text((start - 4, y + ROW - 5), row.note, NOTE, MUTED, "end", halo=BACKGROUND)
    return Text((right - 3, y + ROW - 5), row.note, NOTE, INK, "end", halo=BACKGROUND)


def nice_step(span: float, count: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides ``span`` into about ``count``.

    >>> nice_step(88.6, 6), nice_step(0.0043, 6)
    (20.0, 0.001)
    """
    if span <= 0:
        return 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5):
        if raw <= factor * power:
            return factor * power
    return 10 * power


def time_axis(
    span: float, unit: str, left: float, right: float, top: float, low: float
) -> list[Mark]:
    """Grid lines over ``[left, right]``, which stands for 0 to ``span`` of ``unit``."""
    step = nice_step(span, 8)
    marks: list[Mark] = []
    for number in range(int(span / step + 1e-9) + 1):
        value = number * step
        x = left + (right - left) * (value / span if span else 0.0)
        marks.append(line([(x, top), (x, low)], colour=GRID, stroke=0.7))
        label = f"{value:g}" + (f" {unit}" if number == 0 else "")
        marks.append(Text((x, low + 11), label, NOTE, MUTED))
    return marks
