"""Pictures that dot has laid out, as scenes."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.drawing.dot import Layout
from graphc.drawing.legend import legend
from graphc.drawing.picture import CIRCLES, Cluster, Edge, Item, Picture
from graphc.drawing.scene import (
    Mark,
    Moves,
    Path,
    Point,
    Scene,
    Text,
    arrow_head,
    line,
    moved,
    rectangle,
)
from graphc.drawing.shapes import draw_item, measure
from graphc.drawing.style import (
    BACKGROUND,
    INK,
    MUTED,
    NOTE,
    PHASES,
    SMALL,
    TITLE,
    clipped,
    text_width,
)

__all__ = ["render"]

_MARGIN = 18.0
_TITLE_HEIGHT = 30.0
_LEGEND_HEIGHT = 30.0
_ARROW = 7.0


def render(picture: Picture, layout: Layout) -> Scene:
    """The scene of a laid-out picture: panels, edges, items, labels, then title and legend."""
    marks: list[Mark] = []
    shapes = {item.key: item.shape for item in picture.items}
    for cluster in _outermost_first(picture.clusters):
        marks += _draw_cluster(cluster, layout)
    for number, edge in enumerate(picture.edges):
        if number in layout.edges:
            marks += _draw_edge(edge, layout.edges[number])
    for item in picture.items:
        if item.key in layout.items:
            marks += draw_item(item, layout.items[item.key], measure(item))
            marks += _draw_ports(item, picture, layout)
    for cluster in picture.clusters:
        marks += _draw_title(cluster, layout)
    for number, edge in enumerate(picture.edges):
        if number in layout.edges and edge.label:
            ends = shapes[edge.tail] in CIRCLES, shapes[edge.head] in CIRCLES
            marks += _draw_label(edge, layout.edges[number], at_end=ends == (False, True))
    symbols = legend(picture.legend)
    width = max(layout.width, _extent(symbols), text_width(picture.title, TITLE, bold=True))
    left = _MARGIN + (width - layout.width) / 2
    above = _TITLE_HEIGHT if picture.title or picture.note else 0
    shifted = [moved(m, left, _MARGIN + above) for m in marks]
    height = layout.height + 2 * _MARGIN + above + (_LEGEND_HEIGHT if symbols else 0)
    return Scene(
        width + 2 * _MARGIN,
        height,
        (
            *_title(picture),
            *shifted,
            *(moved(m, _MARGIN, height - _MARGIN - 4) for m in symbols),
        ),
        picture.title,
    )


def _title(picture: Picture) -> list[Mark]:
    marks: list[Mark] = []
    baseline = _MARGIN + TITLE - 3
    if picture.title:
        marks.append(Text((_MARGIN, baseline), picture.title, TITLE, INK, "start", bold=True))
    if picture.note:
        x = _MARGIN + text_width(picture.title, TITLE, bold=True) + 12
        marks.append(Text((x, baseline), picture.note, SMALL, MUTED, "start"))
    return marks


def _outermost_first(clusters: Sequence[Cluster]) -> list[Cluster]:
    parents = {c.key: c.parent for c in clusters}

    def depth(cluster: Cluster) -> int:
        key, count = cluster.parent, 0
        while key:
            key, count = parents[key], count + 1
        return count

    return sorted(clusters, key=depth)


def _draw_cluster(cluster: Cluster, layout: Layout) -> list[Mark]:
    if cluster.key not in layout.clusters:
        return []
    left, top, right, bottom = layout.clusters[cluster.key]
    phase = PHASES[cluster.phase]
    border = "" if cluster.panel else phase.line
    fill = phase.panel if cluster.panel else ""
    return [
        rectangle(
            left,
            top,
            right - left,
            bottom - top,
            radius=6,
            line=border,
            fill=fill,
            stroke=0.8,
            tip=cluster.tip or cluster.label,
        )
    ]


def _draw_title(cluster: Cluster, layout: Layout) -> list[Mark]:
    """Of a box, over the edges that cross it."""
    if cluster.key not in layout.clusters or not cluster.label:
        return []
    left, top, _, _ = layout.clusters[cluster.key]
    phase = PHASES[cluster.phase]
    at = (left + 7, top + 13)
    bold = cluster.panel
    return [Text(at, cluster.label, SMALL, phase.line, "start", bold, halo=phase.panel)]


# ---- edges


def _colour(edge: Edge) -> str:
    return PHASES[edge.phase].line if edge.phase != "forward" else INK


def _draw_edge(edge: Edge, points: Sequence[Point]) -> list[Mark]:
    colour = _colour(edge)
    if edge.style == "saved":
        colour = MUTED
    dash = {"saved": "dashed", "update": "dotted", "note": "dashed"}.get(edge.style, "")
    points = list(points)
    from_ = points[-2] if points[-2] != points[-1] else points[-3]
    marks: list[Mark] = [
        Path(_curve(_shortened(points)), colour, "", 1.1, dash, edge.tip or edge.label),
        arrow_head(from_, points[-1], colour, _ARROW),
    ]
    if edge.bar:
        marks.append(_bar(points))
    return marks


def _shortened(points: list[Point]) -> list[Point]:
    """The same curve ending at the base of its arrow head, so that no line shows beside the tip."""
    (x0, y0), (x1, y1) = points[-2], points[-1]
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    if length < 1e-6:
        return points
    cut = min(_ARROW * 0.8, length * 0.9) / length
    return [*points[:-1], (x1 - (x1 - x0) * cut, y1 - (y1 - y0) * cut)]


def _curve(points: Sequence[Point]) -> Moves:
    moves: list[tuple[str, tuple[Point, ...]]] = [("M", (points[0],))]
    for start in range(1, len(points) - 2, 3):
        moves.append(("C", tuple(points[start : start + 3])))
    return tuple(moves)


def _middle(points: Sequence[Point]) -> tuple[Point, Point]:
    """The point half way along the control polygon's curves, and the direction there."""
    curves = (len(points) - 1) // 3
    first = 3 * (curves // 2)
    if curves % 2 == 0:
        a, b, c = points[first - 1], points[first], points[first + 1]
        return b, (c[0] - a[0], c[1] - a[1])
    p0, p1, p2, p3 = points[first : first + 4]
    x, y = ((p0[k] + 3 * p1[k] + 3 * p2[k] + p3[k]) / 8 for k in (0, 1))
    dx, dy = (p3[k] + p2[k] - p1[k] - p0[k] for k in (0, 1))
    return (x, y), (dx, dy)


def _bar(points: Sequence[Point]) -> Mark:
    (x, y), (dx, dy) = _middle(points)
    length = max((dx * dx + dy * dy) ** 0.5, 1e-9)
    nx, ny = -dy / length * 9, dx / length * 9
    return line(
        [(x - nx, y - ny), (x + nx, y + ny)], stroke=2.6, tip="stop_gradient: no gradient passes"
    )


def _draw_label(edge: Edge, points: Sequence[Point], *, at_end: bool) -> list[Mark]:
    """Beside the middle of a straight edge, near the circle of a bent one; on a dashed line."""
    tip = edge.tip or edge.label
    colour = MUTED if edge.phase == "forward" else PHASES[edge.phase].line
    if edge.style == "saved" or edge.phase == "update":
        (x, y), _ = _middle(points)
        span = abs(points[-1][0] - points[0][0]) - 24 if edge.style == "saved" else 200.0
        shown = edge.label
        if text_width(shown, NOTE) > span and ", " in shown:
            shown = f"{edge.tip.count(', ') + 1} tensors"
        shown = clipped(shown, NOTE, max(span, 16.0))
        width = text_width(shown, NOTE)
        paper = rectangle(
            x - width / 2 - 2, y - 6, width + 4, 11, line="", fill=BACKGROUND, radius=2
        )
        return [paper, Text((x, y + 3), shown, NOTE, colour, "middle", tip=tip)]
    x, y, side = _beside(points, at_end)
    anchor = "start" if side > 0 else "end"
    halo = PHASES[edge.phase].panel
    return [Text((x + 5 * side, y + 2), edge.label, NOTE, colour, anchor, tip=tip, halo=halo)]


def _beside(points: Sequence[Point], at_end: bool) -> tuple[float, float, float]:
    """Where a label neither lies on its own edge nor far from it: x, y, and to which side."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    down = 1.0 if y1 >= y0 else -1.0
    if abs(x1 - x0) > 14:  # a bend leaves room on the side that it turns away from
        away = -1.0 if x1 > x0 else 1.0
        if at_end:
            return x1, y1 - (7 if down > 0 else -9), -away
        return x0, y0 + (9 if down > 0 else -7), away
    if abs(y1 - y0) > 60:
        return x0, y0 + (20 if down > 0 else -16), 1.0
    return *_middle(points)[0], 1.0


def _draw_ports(item: Item, picture: Picture, layout: Layout) -> list[Mark]:
    """Names of ports inside the bullet, where the edges meet it."""
    if len(item.inputs) < 2 or not any(item.inputs):
        return []
    _, y = layout.items[item.key]
    half = measure(item)[1] / 2
    level = y + half - 4 if item.upwards else y - half + 9
    marks: list[Mark] = []
    drawn: set[int] = set()
    for number, edge in enumerate(picture.edges):
        port = edge.head_port
        if edge.head != item.key or port < 0 or port in drawn or number not in layout.edges:
            continue
        drawn.add(port)
        at = (layout.edges[number][-1][0], level)
        marks.append(Text(at, item.inputs[port], NOTE, MUTED, "middle"))
    return marks


def _extent(marks: Sequence[Mark]) -> float:
    texts = [m for m in marks if isinstance(m, Text)]
    return max((m.at[0] + text_width(m.text, m.size) for m in texts), default=0.0)
