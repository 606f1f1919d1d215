"""Pictures that dot has laid out, as scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from graphc.drawing.dot import Layout
from graphc.drawing.picture import Cluster, Edge, Item, Picture
from graphc.drawing.scene import (
    Mark,
    Moves,
    Path,
    Point,
    Scene,
    Text,
    arrow_head,
    circle,
    line,
    rectangle,
)
from graphc.drawing.shapes import draw_item, measure
from graphc.drawing.style import (
    BACKGROUND,
    BODY,
    INK,
    MUTED,
    NOTE,
    PHASES,
    SHADED,
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

Points = tuple[Point, ...]


def render(picture: Picture, layout: Layout) -> Scene:
    """The scene of a laid-out picture: panels, edges, items, labels, then title and legend."""
    layout = _with_saved(picture, _forward_left(picture, layout))
    marks: list[Mark] = []
    for cluster in _outermost_first(picture.clusters):
        marks += _draw_cluster(cluster, layout)
    for number, edge in enumerate(picture.edges):
        if number in layout.edges:
            marks += _draw_edge(edge, layout.edges[number])
    for item in picture.items:
        if item.key in layout.items:
            marks += draw_item(item, layout.items[item.key], measure(item))
            marks += _draw_ports(item, picture, layout)
    for number, edge in enumerate(picture.edges):
        if number in layout.edges and edge.label:
            marks += _draw_label(edge, layout.edges[number])
    legend = _legend(picture)
    width = max(layout.width, _extent(legend), text_width(picture.title, TITLE, bold=True))
    left = _MARGIN + (width - layout.width) / 2
    moved = [_moved(m, left, _MARGIN + _TITLE_HEIGHT) for m in marks]
    height = layout.height + 2 * _MARGIN + _TITLE_HEIGHT + (_LEGEND_HEIGHT if legend else 0)
    return Scene(
        width + 2 * _MARGIN,
        height,
        (
            *_title(picture),
            *moved,
            *(_moved(m, _MARGIN, height - _MARGIN - 4) for m in legend),
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


def _forward_left(picture: Picture, layout: Layout) -> Layout:
    """Mirror the layout where dot put the backward graph to the left of the forward one."""
    middles = {
        phase: [layout.items[i.key][0] for i in picture.items if i.phase == phase]
        for phase in ("forward", "backward")
    }
    if not all(middles.values()):
        return layout
    forward, backward = (sum(xs) / len(xs) for xs in middles.values())
    if forward <= backward:
        return layout
    width = layout.width

    def flip(p: Point) -> Point:
        return (width - p[0], p[1])

    return Layout(
        width,
        layout.height,
        {k: flip(p) for k, p in layout.items.items()},
        {k: tuple(map(flip, ps)) for k, ps in layout.edges.items()},
        {k: (width - r, t, width - x, b) for k, (x, t, r, b) in layout.clusters.items()},
    )


def _with_saved(picture: Picture, layout: Layout) -> Layout:
    """The layout with routes for the dashed edges: straight across where both ends face."""
    sizes = {item.key: measure(item) for item in picture.items}
    edges = dict(layout.edges)
    for number, edge in enumerate(picture.edges):
        if edge.style == "saved" and {edge.tail, edge.head} <= layout.items.keys():
            edges[number] = _across(edge, layout, sizes)
    return replace(layout, edges=edges)


def _across(edge: Edge, layout: Layout, sizes: Mapping[str, tuple[float, float]]) -> Points:
    (x0, y0), (x1, y1) = layout.items[edge.tail], layout.items[edge.head]
    side = 1.0 if x1 >= x0 else -1.0
    half0, half1 = (sizes[key][1] / 2 for key in (edge.tail, edge.head))
    start, end = x0 + side * sizes[edge.tail][0] / 2, x1 - side * sizes[edge.head][0] / 2
    low, high = max(y0 - half0, y1 - half1) + 6, min(y0 + half0, y1 + half1) - 6
    others = [
        (x, y, *sizes[key])
        for key, (x, y) in layout.items.items()
        if key not in (edge.tail, edge.head)
    ]
    middle = (low + high) / 2
    if low <= high:
        for y in (middle, low, high):
            if not _blocked(y, min(start, end), max(start, end), others):
                return _straight((start, y), (end, y))
    reach = max(abs(end - start) * 0.4, 30.0) * side
    bend0, bend1 = (start + reach, y0 - half0 * 0.5), (end - reach, y1 - half1 * 0.5)
    return ((start, y0 - half0 * 0.5), bend0, bend1, (end, y1 - half1 * 0.5))


def _blocked(
    y: float, left: float, right: float, others: Iterable[tuple[float, float, float, float]]
) -> bool:
    return any(
        abs(y - cy) < height / 2 + 2 and left < cx + width / 2 and cx - width / 2 < right
        for cx, cy, width, height in others
    )


def _straight(start: Point, end: Point) -> Points:
    (x0, y0), (x1, y1) = start, end
    third = ((2 * x0 + x1) / 3, (2 * y0 + y1) / 3)
    return (start, third, ((x0 + 2 * x1) / 3, (y0 + 2 * y1) / 3), end)


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
    box = rectangle(
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
    if not cluster.label:
        return [box]
    at = (left + 7, top + 13)
    return [box, Text(at, cluster.label, SMALL, phase.line, "start", bold=cluster.panel)]


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


def _draw_label(edge: Edge, points: Sequence[Point]) -> list[Mark]:
    """Beside the middle of a short edge, near the start of a long one; on a dashed line."""
    tip = edge.tip or edge.label
    colour = MUTED if edge.phase == "forward" else PHASES[edge.phase].line
    if edge.style == "saved" or edge.phase == "update":
        (x, y), _ = _middle(points)
        span = abs(points[-1][0] - points[0][0]) - 24 if edge.style == "saved" else 200.0
        shown = clipped(edge.label, NOTE, max(span, 16.0))
        width = text_width(shown, NOTE)
        paper = rectangle(
            x - width / 2 - 2, y - 6, width + 4, 11, line="", fill=BACKGROUND, radius=2
        )
        return [paper, Text((x, y + 3), shown, NOTE, colour, "middle", tip=tip)]
    x, y, side = _beside(points)
    anchor = "start" if side > 0 else "end"
    return [Text((x + 5 * side, y + 2), edge.label, NOTE, colour, anchor, tip=tip)]


def _beside(points: Sequence[Point]) -> tuple[float, float, float]:
    """Where a label neither lies on its own edge nor far from it: x, y, and to which side."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    down = 1.0 if y1 >= y0 else -1.0
    if abs(x1 - x0) > 14:  # a bend leaves room on the side that it turns away from
        return x0, y0 + (9 if down > 0 else -7), -1.0 if x1 > x0 else 1.0
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


# ---- legend

_LEGEND_TEXTS = {
    "observed": "observed",
    "computed": "computed",
    "function": "function",
    "cost": "cost",
    "state": "state, parameter",
    "saved": "saved for the backward pass",
    "update": "update",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "update",
    "kernel": "kernel",
    "buffer": "buffer between kernels, and why it is not fused away",
}


def _legend(picture: Picture) -> list[Mark]:
    marks: list[Mark] = []
    x = 0.0
    for name in picture.legend:
        symbol, width = _symbol(name)
        marks += [_moved(m, x, 0) for m in symbol]
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


def _extent(marks: Sequence[Mark]) -> float:
    texts = [m for m in marks if isinstance(m, Text)]
    return max((m.at[0] + text_width(m.text, m.size) for m in texts), default=0.0)


def _moved(mark: Mark, dx: float, dy: float) -> Mark:
    if isinstance(mark, Text):
        x, y = mark.at
        return Text(
            (x + dx, y + dy),
            mark.text,
            mark.size,
            mark.colour,
            mark.anchor,
            mark.bold,
            mark.italic,
            mark.tip,
            mark.link,
        )
    moves = tuple((k, tuple((x + dx, y + dy) for x, y in ps)) for k, ps in mark.moves)
    return Path(moves, mark.line, mark.fill, mark.width, mark.dash, mark.tip, mark.link)
