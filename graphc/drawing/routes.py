"""Where everything goes: dot's layout with the forward graph to the left, and the routes of the
edges that dot is not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from graphc.drawing.dot import Layout, is_written_back, lay_out
from graphc.drawing.picture import CIRCLES, Edge, Picture
from graphc.drawing.scene import Point
from graphc.drawing.shapes import measure

__all__ = ["place"]

Points = tuple[Point, ...]


def place(picture: Picture) -> Layout:
    """The picture laid out as it is drawn. Needs ``dot``."""
    layout = lay_out(picture)
    if _backward_left(picture, layout):
        ported = any(len(item.inputs) > 1 for item in picture.items)
        other = lay_out(picture, "mirror") if ported else layout
        layout = _mirrored(other if _backward_left(picture, other) else layout)
    return _touching(picture, _with_own_routes(picture, layout))


def _backward_left(picture: Picture, layout: Layout) -> bool:
    """Whether dot put the backward graph to the left of the forward one."""
    middles = {
        phase: [layout.items[i.key][0] for i in picture.items if i.phase == phase]
        for phase in ("forward", "backward")
    }
    if not all(middles.values()):
        return False
    forward, backward = (sum(xs) / len(xs) for xs in middles.values())
    return backward < forward


def _mirrored(layout: Layout) -> Layout:
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


def _with_own_routes(picture: Picture, layout: Layout) -> Layout:
    """The layout with routes for the edges that dot was not given: dashed ones, straight across
    where both ends face, carries, around the right of their loop, and what is written back.
    """
    sizes = {item.key: measure(item) for item in picture.items}
    by_key = {item.key: item for item in picture.items}
    boxes = {item.key: item.cluster for item in picture.items}
    lanes: dict[str, int] = {}
    edges = dict(layout.edges)
    for number, edge in enumerate(picture.edges):
        if edge.style == "saved" and {edge.tail, edge.head} <= layout.items.keys():
            edges[number] = _across(edge, layout, sizes)
        elif is_written_back(edge, by_key) and {edge.tail, edge.head} <= layout.items.keys():
            edges[number] = _back(edge, layout, sizes)
        elif edge.style == "carry" and boxes[edge.head] in layout.clusters:
            box = boxes[edge.head]
            lane = lanes[box] = lanes.get(box, 0) + 1
            edges[number] = _around(edge, layout, sizes, layout.clusters[box][2] - 2 - 4 * lane)
    return replace(layout, edges=edges)


def _back(edge: Edge, layout: Layout, sizes: Mapping[str, tuple[float, float]]) -> Points:
    """From a side of the maker to the same side of the state, bent outwards."""
    (x0, y0), (x1, y1) = layout.items[edge.tail], layout.items[edge.head]
    side = 1.0 if x1 > x0 else -1.0
    start = (x0 + side * sizes[edge.tail][0] / 2, y0)
    radius = sizes[edge.head][0] / 2
    if abs(x1 - x0) < sizes[edge.tail][0]:  # above: around its own side
        end = (x1 + side * radius, y1)
        bend = max(start[0] * side, end[0] * side) * side + side * 26
        return (start, (bend, y0), (bend, y1), end)
    end = (x1, y1 + (radius if y0 > y1 else -radius))
    return (start, ((start[0] + x1) / 2, y0), (x1, (y0 + y1) / 2), end)


def _around(
    edge: Edge, layout: Layout, sizes: Mapping[str, tuple[float, float]], lane: float
) -> Points:
    """Out to the right, up along ``lane``, and back to the left, with rounded corners."""
    (x0, y0), (x1, y1) = layout.items[edge.tail], layout.items[edge.head]
    start, end = (x0 + sizes[edge.tail][0] / 2, y0), (x1 + sizes[edge.head][0] / 2, y1)
    turn = min(12.0, abs(y1 - y0) / 2, max(lane - start[0], 1.0), max(lane - end[0], 1.0))
    up = -turn if y1 < y0 else turn
    corner0, corner1 = (lane, y0 + up), (lane, y1 - up)
    return (
        *_straight(start, (lane - turn, y0)),
        (lane, y0),
        (lane, y0),
        corner0,
        *_straight(corner0, corner1)[1:],
        (lane, y1),
        (lane, y1),
        (lane - turn, y1),
        *_straight((lane - turn, y1), end)[1:],
    )


def _touching(picture: Picture, layout: Layout) -> Layout:
    """The layout with edges drawn on to the circles: dot kept room for labels around those."""
    radii = {i.key: measure(i)[0] / 2 for i in picture.items if i.shape in CIRCLES}
    edges = dict(layout.edges)
    for number, points in layout.edges.items():
        edge = picture.edges[number]
        moved = list(points)
        for key, end in ((edge.tail, 0), (edge.head, -1)):
            if key in radii:
                moved[end] = _onto(moved[end], layout.items[key], radii[key])
        edges[number] = tuple(moved)
    return replace(layout, edges=edges)


def _onto(point: Point, centre: Point, radius: float) -> Point:
    dx, dy = point[0] - centre[0], point[1] - centre[1]
    distance = (dx * dx + dy * dy) ** 0.5
    if distance <= radius + 1.5:
        return point
    return centre[0] + dx * radius / distance, centre[1] + dy * radius / distance


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
