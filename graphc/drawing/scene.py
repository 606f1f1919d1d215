"""A drawing: shapes with coordinates, in points, x to the right and y downwards.

::

    Scene  := width, height, marks (painted in order), title
    Mark   := Path | Text
    Path   := moves (M point | L point | C control, control, point | Z), line, fill, width, dash
    Text   := lines of one anchor and size
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Union

from graphc.drawing.style import INK, SMALL
from graphc.records import dataclass

__all__ = [
    "Mark",
    "Moves",
    "Path",
    "Point",
    "Scene",
    "Text",
    "arrow_head",
    "circle",
    "line",
    "moved",
    "polygon",
    "rectangle",
]

Point = tuple[float, float]
#: ("M" | "L" | "C" | "Z", its points)
Moves = tuple[tuple[str, tuple[Point, ...]], ...]

#: control points of a quarter of a circle lie this far from its ends
QUARTER = 0.5523


@dataclass(frozen=True)
class Path:
    """A line, closed or not. ``dash``: "" solid, "dashed", "dotted". ``tip`` shows on hovering."""

    moves: Moves
    line: str = INK
    fill: str = ""
    width: float = 1.0
    dash: str = ""
    tip: str = ""
    link: str = ""


@dataclass(frozen=True)
class Text:
    """One line of text. ``at`` is on its base line; ``anchor``: "start", "middle" or "end".

    A ``halo`` is the colour of a rim that keeps lines behind the text from striking it out.
    """

    at: Point
    text: str
    size: float = SMALL
    colour: str = INK
    anchor: str = "middle"
    bold: bool = False
    italic: bool = False
    tip: str = ""
    link: str = ""
    halo: str = ""


Mark = Union[Path, Text]


@dataclass(frozen=True)
class Scene:
    """A finished drawing."""

    width: float
    height: float
    marks: tuple[Mark, ...]
    title: str = ""


def rectangle(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    radius: float = 0.0,
    line: str = INK,
    fill: str = "",
    stroke: float = 1.0,
    dash: str = "",
    tip: str = "",
    link: str = "",
) -> Path:
    """A rectangle whose top left corner is (x, y), its corners rounded by ``radius``."""
    r = min(radius, width / 2, height / 2)
    if r <= 0:
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        return polygon(corners, line=line, fill=fill, stroke=stroke, dash=dash, tip=tip, link=link)
    k = r * (1 - QUARTER)
    right, low = x + width, y + height
    moves: Moves = (
        ("M", ((x + r, y),)),
        ("L", ((right - r, y),)),
        ("C", ((right - k, y), (right, y + k), (right, y + r))),
        ("L", ((right, low - r),)),
        ("C", ((right, low - k), (right - k, low), (right - r, low))),
        ("L", ((x + r, low),)),
        ("C", ((x + k, low), (x, low - k), (x, low - r))),
        ("L", ((x, y + r),)),
        ("C", ((x, y + k), (x + k, y), (x + r, y))),
        ("Z", ()),
    )
    return Path(moves, line, fill, stroke, dash, tip, link)


def polygon(
    points: Iterable[Point],
    *,
    line: str = INK,
    fill: str = "",
    stroke: float = 1.0,
    dash: str = "",
    tip: str = "",
    link: str = "",
) -> Path:
    """The closed outline through ``points``."""
    first, *rest = points
    moves: Moves = (("M", (first,)), *(("L", (p,)) for p in rest), ("Z", ()))
    return Path(moves, line, fill, stroke, dash, tip, link)


def circle(
    x: float,
    y: float,
    radius: float,
    *,
    line: str = INK,
    fill: str = "",
    stroke: float = 1.0,
    tip: str = "",
) -> Path:
    """The circle around (x, y)."""
    box = rectangle(x - radius, y - radius, 2 * radius, 2 * radius, radius=radius)
    return Path(box.moves, line, fill, stroke, "", tip)


def line(
    points: Sequence[Point],
    *,
    colour: str = INK,
    stroke: float = 1.0,
    dash: str = "",
    tip: str = "",
) -> Path:
    """The open line through ``points``."""
    moves: Moves = (("M", (points[0],)), *(("L", (p,)) for p in points[1:]))
    return Path(moves, colour, "", stroke, dash, tip)


def arrow_head(tail: Point, tip: Point, colour: str, size: float = 7.0) -> Path:
    """A filled arrow head that ends in ``tip`` and comes from the direction of ``tail``."""
    dx, dy = tip[0] - tail[0], tip[1] - tail[1]
    length = max((dx * dx + dy * dy) ** 0.5, 1e-9)
    ux, uy = dx / length, dy / length
    back = (tip[0] - size * ux, tip[1] - size * uy)
    half = 0.36 * size
    wings = ((back[0] - half * uy, back[1] + half * ux), (back[0] + half * uy, back[1] - half * ux))
    return polygon((tip, wings[0], wings[1]), line=colour, fill=colour, stroke=0.6)


def moved(mark: Mark, dx: float, dy: float) -> Mark:
    """The same mark, shifted."""
    if isinstance(mark, Text):
        x, y = mark.at
        at = (x + dx, y + dy)
        return Text(
            at,
            mark.text,
            mark.size,
            mark.colour,
            mark.anchor,
            mark.bold,
            mark.italic,
            mark.tip,
            mark.link,
            mark.halo,
        )
    moves = tuple((k, tuple((x + dx, y + dy) for x, y in ps)) for k, ps in mark.moves)
    return Path(moves, mark.line, mark.fill, mark.width, mark.dash, mark.tip, mark.link)
