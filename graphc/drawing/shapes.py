"""The shapes of items: how large each is, and the marks that draw it in its box."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.drawing.picture import CIRCLES, Item, Line
from graphc.drawing.scene import (
    QUARTER,
    Mark,
    Moves,
    Path,
    Point,
    Text,
    circle,
    polygon,
    rectangle,
)
from graphc.drawing.style import (
    BACKGROUND,
    BODY,
    INK,
    MUTED,
    NOTE,
    PHASES,
    SHADED,
    SMALL,
    Phase,
    clipped,
    text_width,
)

__all__ = ["draw_item", "measure", "room", "shown_lines"]

#: font size, bold, italic, colour of each style of line
_STYLES = {
    "name": (BODY, True, False, INK),
    "plain": (BODY, False, False, INK),
    "detail": (SMALL, False, False, INK),
    "note": (NOTE, False, True, MUTED),
}
_LEADING = 1.25
_WIDEST = 260.0
_CIRCLE_MIN, _CIRCLE_MAX, _CIRCLE_MOST = 22.0, 62.0, 84.0
#: longer names than this break at an underscore where they stand in a circle
_SHORT_NAME = 10
_PORT_ROW = 11.0
#: wider names than this stand in a rectangle
_SQUARE = 130.0


def measure(item: Item) -> tuple[float, float]:
    """Width and height of an item in points.

    >>> measure(Item("v", "computed"))
    (22.0, 22.0)
    """
    lines = shown_lines(item)
    width = max((_line_width(line) for line in lines), default=0.0)
    height = sum(_STYLES[line.style][0] * _LEADING for line in lines)
    if item.shape in CIRCLES:
        rings = 7.0 if item.shape in ("state", "parameter") else 0.0
        needed = max(width + 10.0, height + 8.0, _CIRCLE_MIN) + rings
        size = min(needed, _CIRCLE_MAX if lines == item.lines else _CIRCLE_MOST)
        return round(size, 1), round(size, 1)
    ports = max(_ports_width(item.inputs), _ports_width(item.outputs))
    width = max(min(width, _WIDEST), ports) + 18.0
    height += _PORT_ROW * (_named(item.inputs) + _named(item.outputs))
    if item.shape == "bullet":
        width, height = max(width, 34.0), height + 8.0 + _nose(width, height)
    elif item.shape == "cost":
        width, height = max(width, 40.0), max(height + 14.0, 40.0)
        if width <= _SQUARE:
            width = height = max(width, height)
    elif item.shape in ("diamond", "switch"):
        width, height = width * 1.35 + 8.0, height * 1.5 + 16.0
    elif item.shape == "delay":
        width, height = 30.0, 22.0
    else:
        height += 8.0
    return round(width, 1), round(height, 1)


def shown_lines(item: Item) -> tuple[Line, ...]:
    """The lines that an item shows: in a circle a long name of several words takes two.

    >>> [line.text for line in shown_lines(Item("s", "state", (Line("running_mean", "plain"),)))]
    ['running_', 'mean']
    """
    if item.shape not in CIRCLES:
        return item.lines
    lines: list[Line] = []
    for line in item.lines:
        places = [n + 1 for n, c in enumerate(line.text[:-1]) if c == "_" and n]
        if line.style != "plain" or len(line.text) <= _SHORT_NAME or not places:
            lines.append(line)
            continue
        at = min(places, key=lambda n: abs(2 * n - len(line.text)))
        lines += [Line(line.text[:at], "detail"), Line(line.text[at:], "detail")]
    return tuple(lines)


def _line_width(line: Line) -> float:
    size, bold, _, _ = _STYLES[line.style]
    return text_width(line.text, size, bold=bold)


def _named(ports: Sequence[str]) -> bool:
    """Ports are labelled when there are several."""
    return len(ports) > 1 and any(ports)


def _ports_width(ports: Sequence[str]) -> float:
    return sum(text_width(name, NOTE) + 12.0 for name in ports) if len(ports) > 1 else 0.0


def room(item: Item) -> tuple[float, float]:
    """What layout keeps free for an item: its size, and to the right the label of its edge."""
    width, height = measure(item)
    beside = 2 * (text_width(item.beside, NOTE) + 6.0) if item.beside else 0.0
    return max(width, beside), height


def _nose(width: float, height: float) -> float:
    """How far the round side of a bullet reaches out."""
    return min(width / 2, 24.0, max(9.0, 0.34 * height, 0.1 * width))


def draw_item(item: Item, at: Point, size: tuple[float, float]) -> list[Mark]:
    """The marks of an item centred on ``at``."""
    drawer = _DRAWERS.get(item.shape, _draw_box)
    x, y = at
    width, height = size
    box = (x - width / 2, y - height / 2, width, height)
    marks = drawer(item, box, PHASES[item.phase])
    if item.stacked:
        marks = [*_shadow(marks), *marks]
    if item.shape == "delay":
        return [*marks, Text((x, y + 4), "z⁻¹", BODY, italic=True, tip=item.tip)]
    return [*marks, *_labels(item, box)]


Box = tuple[float, float, float, float]


def _draw_circle(item: Item, box: Box, phase: Phase) -> list[Mark]:
    x, y, width, _ = box
    radius = width / 2
    middle = (x + radius, y + radius)
    fill = SHADED if item.shape == "observed" else BACKGROUND
    outline: list[Mark] = [
        circle(*middle, radius, line=phase.line, fill=fill, stroke=1.3, tip=item.tip)
    ]
    if item.shape in ("state", "parameter"):
        outline.append(circle(*middle, radius - 3.5, line=phase.line, fill=fill, tip=item.tip))
    return outline


def _draw_bullet(item: Item, box: Box, phase: Phase) -> list[Mark]:
    x, y, width, height = box
    nose = _nose(width, height - _nose(width, height) - 8.0)
    flat, shoulder, tip = (
        (y + height, y + nose, y) if item.upwards else (y, y + height - nose, y + height)
    )
    reach = (tip - shoulder) * QUARTER
    half, right = width / 2, x + width
    side = half * (1 - QUARTER)
    moves: Moves = (
        ("M", ((x, flat),)),
        ("L", ((right, flat),)),
        ("L", ((right, shoulder),)),
        ("C", ((right, shoulder + reach), (right - side, tip), (x + half, tip))),
        ("C", ((x + side, tip), (x, shoulder + reach), (x, shoulder))),
        ("Z", ()),
    )
    return [Path(moves, phase.line, phase.fill, 1.3, "", item.tip, item.link)]


def _draw_cost(item: Item, box: Box, phase: Phase) -> list[Mark]:
    return [rectangle(*box, line=phase.line, fill=phase.fill, stroke=1.6, tip=item.tip)]


def _draw_box(item: Item, box: Box, phase: Phase) -> list[Mark]:
    fill = phase.fill if item.shape == "box" else BACKGROUND
    radius = 3.0 if item.shape in ("box", "delay") else min(box[3] / 2, 9.0)
    line = phase.line if item.shape != "constant" else MUTED
    return [
        rectangle(
            *box, radius=radius, line=line, fill=fill, stroke=1.1, tip=item.tip, link=item.link
        )
    ]


def _draw_diamond(item: Item, box: Box, phase: Phase) -> list[Mark]:
    x, y, width, height = box
    corners = (
        (x + width / 2, y),
        (x + width, y + height / 2),
        (x + width / 2, y + height),
        (x, y + height / 2),
    )
    return [polygon(corners, line=phase.line, fill=phase.fill, stroke=1.3, tip=item.tip)]


def _draw_switch(item: Item, box: Box, phase: Phase) -> list[Mark]:
    """A trapezium: several branches enter its wide side, the chosen one leaves the narrow one."""
    x, y, width, height = box
    inset = min(0.18 * width, 16.0)
    wide, narrow = (y + height, y) if item.upwards else (y, y + height)
    corners = ((x, wide), (x + width, wide), (x + width - inset, narrow), (x + inset, narrow))
    return [polygon(corners, line=phase.line, fill=phase.fill, stroke=1.3, tip=item.tip)]


_DRAWERS: dict[str, Callable[[Item, Box, Phase], list[Mark]]] = {
    **dict.fromkeys(CIRCLES, _draw_circle),
    "bullet": _draw_bullet,
    "cost": _draw_cost,
    "diamond": _draw_diamond,
    "switch": _draw_switch,
}


def _shadow(marks: Sequence[Mark]) -> list[Mark]:
    """Two copies behind a stacked circle, each a little further up and to the right."""
    copies: list[Mark] = []
    for shift in (6.0, 3.0):
        for mark in marks[:1]:
            assert isinstance(mark, Path)  # the outline comes first
            moved = tuple(
                (letter, tuple((x + shift, y - shift) for x, y in points))
                for letter, points in mark.moves
            )
            copies.append(Path(moved, mark.line, mark.fill, 0.8))
    return copies


def _labels(item: Item, box: Box) -> list[Mark]:
    x, y, width, height = box
    marks: list[Mark] = []
    lines = shown_lines(item)
    top = y + (height - sum(_STYLES[line.style][0] * _LEADING for line in lines)) / 2
    if item.shape == "bullet":  # towards the flat side, away from the round one
        nose = _nose(width, height - _nose(width, height) - 8.0) * 0.45
        top += nose if item.upwards else -nose
    for line in lines:
        size, bold, italic, colour = _STYLES[line.style]
        space = max(width - (6.0 if item.shape in CIRCLES else 4.0), 12.0)
        text = clipped(line.text, size, space, bold=bold, middle=True)
        baseline = top + size
        marks.append(
            Text((x + width / 2, baseline), text, size, colour, "middle", bold, italic, item.tip)
        )
        top += size * _LEADING
    return marks
