"""Scenes as SVG text: small, self-contained, with titles that show on hovering."""

from __future__ import annotations

from html import escape

from graphc.drawing.scene import Mark, Path, Scene, Text
from graphc.drawing.style import BACKGROUND, HALO

__all__ = ["svg_text"]

_DASHES = {"dashed": "5 3", "dotted": "1.5 2.5"}
_FAMILY = "Helvetica, Arial, 'Liberation Sans', sans-serif"


def svg_text(scene: Scene) -> str:
    """The scene as an SVG document.

    >>> from graphc.drawing.scene import Scene, Text
    >>> "a &lt; b" in svg_text(Scene(40, 20, (Text((20, 10), "a < b"),)))
    True
    """
    width, height = _number(scene.width), _number(scene.height)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt" '
        f'viewBox="0 0 {width} {height}" font-family="{_FAMILY}" role="img">'
    )
    title = [f"<title>{_escaped(scene.title)}</title>"] if scene.title else []
    paper = f'<rect width="{width}" height="{height}" fill="{BACKGROUND}"/>'
    return "\n".join([head, *title, paper, *map(_mark, scene.marks), "</svg>", ""])


def _mark(mark: Mark) -> str:
    body = _path(mark) if isinstance(mark, Path) else _text(mark)
    if not mark.link:
        return body
    return f'<a href="{_escaped(mark.link)}">{body}</a>'


def _path(path: Path) -> str:
    moves = "".join(
        letter + " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        for letter, points in path.moves
    )
    attributes = [f'd="{moves}"', f'fill="{path.fill or "none"}"']
    if path.line:
        attributes += [f'stroke="{path.line}"', f'stroke-width="{_number(path.width)}"']
    if path.dash:
        attributes.append(f'stroke-dasharray="{_DASHES[path.dash]}"')
    return _tagged("path", attributes, "", path.tip)


def _text(text: Text) -> str:
    x, y = text.at
    attributes = [f'x="{_number(x)}"', f'y="{_number(y)}"', f'font-size="{_number(text.size)}"']
    attributes.append(f'fill="{text.colour}"')
    if text.anchor != "start":
        attributes.append(f'text-anchor="{text.anchor}"')
    if text.bold:
        attributes.append('font-weight="bold"')
    if text.italic:
        attributes.append('font-style="italic"')
    if text.halo:
        attributes.append(f'stroke="{text.halo}" stroke-width="{2 * HALO:g}"')
        attributes.append('stroke-linejoin="round" paint-order="stroke"')
    return _tagged("text", attributes, _escaped(text.text), text.tip)


def _tagged(tag: str, attributes: list[str], content: str, tip: str) -> str:
    start = f"<{tag} {' '.join(attributes)}"
    inside = content + (f"<title>{_escaped(tip)}</title>" if tip else "")
    return f"{start}>{inside}</{tag}>" if inside else f"{start}/>"


def _escaped(text: str) -> str:
    """XML's special characters escaped; control characters, which XML forbids, shown as boxes."""
    printable = "".join(c if c >= " " or c in "\n\t" else "\u25a1" for c in text)
    return escape(printable, quote=True)


def _number(x: float) -> str:
    """At most one decimal: a tenth of a point is finer than anyone sees."""
    text = f"{x:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"
