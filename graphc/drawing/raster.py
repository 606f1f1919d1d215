"""Scenes as PNG and PDF through Graphviz.

``dot`` draws bullets in none of its shapes. But a graph may carry a drawing of its own as
``_background``, in the language that dot itself writes (xdot); so the whole scene goes there, on
an otherwise empty graph, and every format that Graphviz knows comes out like the SVG.
"""

from __future__ import annotations

from graphc.drawing.dot import run_dot
from graphc.drawing.scene import Path, Point, Scene, Text
from graphc.drawing.style import BACKGROUND, FONT, HALO, text_width

__all__ = ["raster", "xdot_text"]

_DOTS_PER_INCH = 144
#: older versions of Graphviz read no string longer than 16 KB; DOT's + joins several
_CHUNK = 6000
_DASHES = {"": "solid", "dashed": "dashed", "dotted": "dotted"}
#: xdot knows no outlines of letters: a rim is the text itself, shifted all around
_RIM = tuple((dx, dy) for dx in (-HALO, 0.0, HALO) for dy in (-HALO, 0.0, HALO) if dx or dy)
_ALIGN = {"start": -1, "middle": 0, "end": 1}


def raster(scene: Scene, format: str) -> bytes:
    """The scene as ``"png"`` or ``"pdf"``. Needs Graphviz (BackendError where it is missing)."""
    options = [f"-Gdpi={_DOTS_PER_INCH}"] if format == "png" else []
    return run_dot(xdot_text(scene), format, "neato", "-n2", *options)


def xdot_text(scene: Scene) -> str:
    """A graph of two invisible corners with the scene as its background."""
    height = scene.height
    drawing = " ".join(
        _path(mark, height) if isinstance(mark, Path) else _text(mark, height)
        for mark in scene.marks
        if isinstance(mark, Path) or mark.text  # dot stops reading at an empty text
    )
    quoted = " + ".join(
        '"' + drawing[k : k + _CHUNK].replace("\\", "\\\\").replace('"', '\\"') + '"'
        for k in range(0, len(drawing), _CHUNK)
    )
    corner = 'style=invis, shape=point, width=0.01, label=""'
    return (
        f'graph scene {{ graph [bb="0,0,{scene.width:.1f},{height:.1f}", pad=0, margin=0, '
        f'bgcolor="{BACKGROUND}", _background={quoted}]; '
        f'low [pos="0,0", {corner}]; high [pos="{scene.width:.1f},{height:.1f}", {corner}]; }}'
    )


def _path(path: Path, height: float) -> str:
    line = path.line or path.fill
    words = [
        _string("S", f"setlinewidth({path.width:.2f})"),
        _string("S", _DASHES[path.dash]),
        _string("c", line),
    ]
    if path.fill:
        words.append(_string("C", path.fill))
    if any(letter == "C" for letter, _ in path.moves):
        points = _as_curves(path)
        words.append(_points("b" if path.fill else "B", points, height))
    elif path.moves[-1][0] == "Z":
        points = [p for _, ps in path.moves for p in ps]
        words.append(_points("P" if path.fill else "p", points, height))
    else:
        words.append(_points("L", [p for _, ps in path.moves for p in ps], height))
    return " ".join(words)


def _as_curves(path: Path) -> list[Point]:
    """All of the path as Bézier curves; a straight piece has its controls at thirds."""
    points: list[Point] = []
    first: Point = (0.0, 0.0)
    for letter, ends in path.moves:
        if letter == "M":
            first = ends[0]
            points.append(first)
        elif letter == "C":
            points.extend(ends)
        else:
            points.extend(_straight(points[-1], first if letter == "Z" else ends[0]))
    return points


def _straight(start: Point, end: Point) -> list[Point]:
    (x0, y0), (x1, y1) = start, end
    return [
        ((2 * x0 + x1) / 3, (2 * y0 + y1) / 3),
        ((x0 + 2 * x1) / 3, (y0 + 2 * y1) / 3),
        end,
    ]


def _text(text: Text, height: float) -> str:
    x, y = text.at
    style = (1 if text.bold else 0) | (2 if text.italic else 0)
    width = text_width(text.text, text.size, bold=text.bold)

    def at(dx: float, dy: float) -> str:
        place = f"{x + dx:.1f} {height - y + dy:.1f} {_ALIGN[text.anchor]} {width:.1f}"
        return _string(f"T {place}", text.text)

    rim = [_string("c", text.halo), *(at(dx, dy) for dx, dy in _RIM)] if text.halo else []
    return " ".join(
        [
            _string(f"F {text.size:g}", FONT),
            f"t {style}",
            *rim,
            _string("c", text.colour),
            at(0.0, 0.0),
        ]
    )


def _points(letter: str, points: list[Point], height: float) -> str:
    return f"{letter} {len(points)} " + " ".join(f"{x:.1f} {height - y:.1f}" for x, y in points)


def _string(start: str, text: str) -> str:
    """xdot's strings carry their length in bytes."""
    return f"{start} {len(text.encode())} -{text}"
