"""Scenes and their writers, and how long our own part takes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import graphc as gc
from graphc.drawing.diagram import diagram
from graphc.drawing.dot import Layout, dot_text
from graphc.drawing.graph import graph_picture
from graphc.drawing.picture import Edge, Item, Line, Picture
from graphc.drawing.raster import xdot_text
from graphc.drawing.render import render
from graphc.drawing.scene import Scene, Text, circle, rectangle
from graphc.drawing.shapes import draw_item, measure
from graphc.drawing.style import clipped, text_width
from graphc.drawing.svg import svg_text
from tests.draw.programs import closed


def test_xdot_counts_bytes_and_keeps_strings_short() -> None:
    marks = tuple(Text((10.0, 10.0), f"größe {n} µs") for n in range(2000))
    text = xdot_text(Scene(100, 100, marks))
    drawn = "".join(re.findall(r'_background=((?:"[^"]*"(?: \+ )?)+)', text)[0].split('" + "'))
    assert " 14 -größe 17 µs" in drawn
    assert len("größe 17 µs".encode()) == 14
    assert max(len(part) for part in re.findall(r'"[^"]*"', text)) < 16384


def test_an_empty_text_does_not_end_the_drawing() -> None:
    assert " 0 -" not in xdot_text(Scene(10, 10, (Text((1, 1), ""), rectangle(0, 0, 5, 5))))


def test_svg_numbers_are_short_and_the_text_is_xml() -> None:
    scene = Scene(10, 10, (circle(1 / 3, 2 / 3, 1.23456), Text((0, 0), "<&>\x02")), title='"')
    text = svg_text(scene)
    ElementTree.fromstring(text)
    assert "0.3333" not in text


def test_a_halo_lies_behind_its_text() -> None:
    scene = Scene(40, 20, (Text((9, 9), "12 ms", halo="#fedcba"),))
    assert 'stroke="#fedcba"' in svg_text(scene)
    assert 'paint-order="stroke"' in svg_text(scene)
    drawn = xdot_text(scene)
    assert drawn.count("5 -12 ms") == 9
    assert drawn.index("-#fedcba") < drawn.index("-#1f2430") < drawn.rindex("5 -12 ms")


def test_text_fits_its_shape() -> None:
    for shape in ("bullet", "cost", "computed", "box", "switch", "diamond", "buffer"):
        for name in ("x", "a_name_of_some_length", "W" * 80):
            item = Item("k", shape, (Line(name),))
            size = measure(item)
            for mark in draw_item(item, (0.0, 0.0), size):
                if isinstance(mark, Text):
                    width = text_width(mark.text, mark.size, bold=mark.bold)
                    assert width <= size[0] + 0.5, f"{mark.text!r} overflows a {shape}"


def test_clipping() -> None:
    assert clipped("short", 10, 100) == "short"
    assert clipped("a_rather_long_name", 10, 40).endswith("…")


def test_bullets_of_both_directions_mirror_each_other() -> None:
    down, up = (draw_item(Item("k", "bullet", upwards=u), (0, 0), (40, 30))[0] for u in (0, 1))
    mirrored = {(x, -y) for _, points in down.moves for x, y in points}  # type: ignore[union-attr]
    assert mirrored == {p for _, points in up.moves for p in points}  # type: ignore[union-attr]


def test_rendering_needs_only_a_layout() -> None:
    picture = Picture("t", (Item("a", "observed"), Item("b", "bullet")), (Edge("a", "b", "f32"),))
    route = ((10.0, 21.0), (10.0, 30.0), (10.0, 40.0), (10.0, 50.0))
    layout = Layout(20, 80, {"a": (10, 10), "b": (10, 60)}, {0: route}, {})
    assert "f32" in svg_text(render(picture, layout))


def test_a_thousand_nodes_are_all_drawn() -> None:
    x = gc.observed("x", (4, 8))
    value = x
    for _ in range(90):
        value = gc.ops.tanh(value * x) + 0.5
    cost = (value * value).mean()
    graph = closed(cost, gc.grad(cost, x))
    assert len(graph.nodes) > 900
    for picture in (diagram(graph), graph_picture(graph)):
        dot_text(picture, purpose="place")
        places = {item.key: (10.0 * n, 10.0 * n) for n, item in enumerate(picture.items)}
        routes = dict.fromkeys(range(len(picture.edges)), ((0.0, 0.0),) * 4)
        svg = svg_text(render(picture, Layout(1e4, 1e4, places, routes, {})))
        assert svg.count("<path") >= len(picture.edges)
