"""Pictures as DOT text, and their layout by Graphviz's ``dot``.

The text stands on its own: any Graphviz draws it, with houses for bullets. Where ``dot`` is at
hand it only places things, and ``graphc.drawing.render`` draws them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import graphviz

from graphc.drawing.picture import CIRCLES, Cluster, Edge, Item, Picture
from graphc.drawing.scene import Point
from graphc.drawing.shapes import measure, room, shown_lines
from graphc.drawing.style import FONT, INK, NOTE, PHASES, SHADED, SMALL
from graphc.errors import BackendError
from graphc.records import dataclass

__all__ = ["INSTALL_HINT", "Layout", "dot_text", "has_dot", "is_written_back", "lay_out", "run_dot"]

INSTALL_HINT = (
    "Graphviz's `dot` program is not installed: say `apt install graphviz` (Debian, Ubuntu), "
    "`brew install graphviz` (macOS), `conda install graphviz` or see graphviz.org/download"
)
#: from this many items on, routing edges as splines costs more than it is worth
_MANY_ITEMS = 400
_SECONDS = 120
_POINTS = 72.0  # an inch


def has_dot() -> bool:
    """Whether Graphviz's ``dot`` can be run."""
    return shutil.which("dot") is not None


# ---- Picture -> DOT


def dot_text(picture: Picture, *, purpose: str = "show") -> str:
    """The picture as DOT.

    ``purpose`` "place" is only to learn where things go, so bullets are boxes and labels are left
    out; "mirror" is the same for what will be mirrored, so ports stand from right to left.

    >>> text = dot_text(Picture("t", (Item("a", "observed"), Item("b", "bullet")),
    ...                         (Edge("a", "b", "f32[3]"),)))
    >>> 'a -> b [label=" f32[3] "' in text
    True
    """
    graph = graphviz.Digraph(name=_printable(picture.title) or "graphc")
    many = len(picture.items) > _MANY_ITEMS
    placing = purpose != "show"
    if not placing:
        graph.attr("graph", label=_escaped(picture.title), labelloc="t", labeljust="l")
    graph.attr("graph", fontname=FONT, bgcolor="white")
    graph.attr("graph", newrank="true", nodesep="0.3", ranksep="0.36")
    if many:
        graph.attr("graph", splines="polyline", nslimit="2", nslimit1="2", mclimit="0.2")
    graph.attr("node", fontname=FONT, fontsize=f"{SMALL:g}", fixedsize="true", penwidth="1.2")
    graph.attr("edge", fontname=FONT, fontsize=f"{NOTE:g}", arrowsize="0.7", color=INK)
    members: dict[str, list[Item]] = {}
    for item in picture.items:
        members.setdefault(item.cluster, []).append(item)
    _write_cluster(graph, "", members, _by_parent(picture.clusters), purpose)
    by_key = {item.key: item for item in picture.items}
    ported = {item.key for item in picture.items if len(item.inputs) > 1 and any(item.inputs)}
    for number, edge in enumerate(picture.edges):
        ends = (by_key[edge.tail], by_key[edge.head]) if placing else None
        # dot loses some edges inside a rank that leave a cluster; render draws those itself
        own_way = edge.style in ("saved", "carry") or is_written_back(edge, by_key)
        if not placing or not own_way:
            _write_edge(graph, number, edge, ends, ported)
    for item in picture.items:
        if placing and item.faces:
            _write_facing(graph, item)
    for above, below in picture.stacks:  # dot has no order for what nothing joins
        graph.edge(above, below, style="invis")
    return str(graph.source)


def is_written_back(edge: Edge, items: Mapping[str, Item]) -> bool:
    """Whether a dotted edge goes back into a state of its own phase, a short way."""
    return edge.style == "update" and items[edge.tail].phase == items[edge.head].phase


def _by_parent(clusters: Sequence[Cluster]) -> Mapping[str, list[Cluster]]:
    found: dict[str, list[Cluster]] = {}
    for cluster in clusters:
        found.setdefault(cluster.parent, []).append(cluster)
    return found


def _write_cluster(
    graph: Any,
    key: str,
    members: Mapping[str, list[Item]],
    children: Mapping[str, list[Cluster]],
    purpose: str,
) -> None:
    for child in children.get(key, ()):
        with graph.subgraph(name=f"cluster_{child.key}") as inner:
            phase = PHASES[child.phase]
            inner.attr(label=_escaped(child.label), labeljust="l", fontname=FONT)
            inner.attr(fontsize=f"{SMALL:g}", fontcolor=phase.line, color=phase.line)
            inner.attr(style="filled" if child.panel else "rounded", margin="10")
            inner.attr(fillcolor=phase.panel, penwidth="0" if child.panel else "0.8")
            _write_cluster(inner, child.key, members, children, purpose)
    for item in members.get(key, ()):
        _write_item(graph, item, purpose)


_DOT_SHAPES = {
    "observed": "circle",
    "computed": "circle",
    "state": "doublecircle",
    "parameter": "doublecircle",
    "cost": "box",
    "switch": "invtrapezium",
    "diamond": "diamond",
    "constant": "plaintext",
}


def _write_item(graph: Any, item: Item, purpose: str) -> None:
    placing = purpose != "show"
    width, height = room(item) if placing else measure(item)
    phase = PHASES[item.phase]
    shape = _DOT_SHAPES.get(item.shape, "box")
    if item.shape == "bullet":
        shape = "house" if item.upwards else "invhouse"
    label = "\\n".join(_escaped(line.text) for line in shown_lines(item))
    if item.shape == "delay":
        label = "z⁻¹"
    if placing:
        shape, label = "box", ""
    if len(item.inputs) > 1 and placing:
        shape, label = "plain", _table(item, width, height, mirrored=purpose == "mirror")
    elif len(item.inputs) > 1 and any(item.inputs):
        shape, label = "record", _record(item, label)
    fill = SHADED if item.shape == "observed" else phase.fill
    if item.shape in CIRCLES and item.shape != "observed":
        fill = "white"
    if shape == "plain":
        graph.node(item.key, label=label, shape=shape, fixedsize="false")
        return
    looks = {"style": "filled", "fillcolor": fill, "color": phase.line}
    if item.tip:
        looks["tooltip"] = _escaped(item.tip)
    graph.node(
        item.key,
        label=label,
        shape=shape,
        width=f"{width / _POINTS:.3f}",
        height=f"{height / _POINTS:.3f}",
        **({} if placing else looks),
    )


def _record(item: Item, label: str) -> str:
    """A row of ports on the flat side, the name beside it; each port is an anchor for edges."""
    ports = "|".join(f"<i{n}> {_in_record(name)}" for n, name in enumerate(item.inputs))
    rows = ["{" + ports + "}", _in_record(label) or " "]
    return "{" + "|".join(rows[::-1] if item.upwards else rows) + "}"


def _table(item: Item, width: float, height: float, *, mirrored: bool) -> str:
    """An empty table of the item's size with a cell for each port on its flat side."""
    count = len(item.inputs)
    cells = "".join(
        f'<td port="i{n}" width="{width / count:.0f}" height="8" fixedsize="true"></td>'
        for n in (reversed(range(count)) if mirrored else range(count))
    )
    rest = f'<td colspan="{count}" height="{height - 8:.0f}" width="{width:.0f}"></td>'
    rows = [f"<tr>{cells}</tr>", f"<tr>{rest}</tr>"]
    body = "".join(rows[::-1] if item.upwards else rows)
    return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="0">{body}</table>>'


def _in_record(text: str) -> str:
    return "".join("\\" + c if c in "{}|<>" else c for c in text)


def _write_edge(
    graph: Any, number: int, edge: Edge, ends: tuple[Item, Item] | None, ported: Collection[str]
) -> None:
    """``ends``: the edge's items where the graph only serves to place things; ``ported``: the
    items that show their ports.
    """
    attributes = {"id": f"e{number}"}
    tail = edge.tail
    named = edge.head_port >= 0 and (ends is not None or edge.head in ported)
    head = f"{edge.head}:i{edge.head_port}" if named else edge.head
    if ends is not None and edge.style == "flow" and edge.phase != "update":
        tail, head = _anchored(edge, tail, head, *ends)
    if edge.style in ("saved", "update", "carry"):
        attributes["constraint"] = "false"
    elif edge.phase != "update":
        attributes["weight"] = "8"  # straight, where that is possible
    if ends is None:
        attributes |= _looks(edge)
    if edge.upwards:  # laid out the other way round, so that the head comes to lie above
        tail, head = head, tail
        attributes["dir"] = "back"
    graph.edge(tail, head, **attributes)


def _anchored(edge: Edge, tail: str, head: str, source: Item, target: Item) -> tuple[str, str]:
    """Leave from the round side of a bullet, enter circles and single ports in their middle."""
    out, into = ("n", "s") if edge.upwards else ("s", "n")
    if source.shape in CIRCLES or source.shape in ("bullet", "cost"):
        tail = f"{tail}:{out}"
    single = target.shape in ("bullet", "cost") and len(target.inputs) < 2
    if edge.head_port >= 0 or target.shape in CIRCLES or single:
        head = f"{head}:{into}"
    return tail, head


def _looks(edge: Edge) -> dict[str, str]:
    looks = {}
    if edge.label:
        looks["label"] = f" {_escaped(edge.label)} "
    if edge.style != "flow" and edge.style != "carry":
        looks["style"] = "dotted" if edge.style == "update" else "dashed"
    if edge.phase != "forward":
        looks["color"] = PHASES[edge.phase].line
    if edge.tip:
        looks["tooltip"] = _escaped(edge.tip)
    if edge.bar:
        looks["arrowhead"] = "normaltee"
    return looks


def _write_facing(graph: Any, item: Item) -> None:
    with graph.subgraph() as same:
        same.attr(rank="same")
        same.node(item.faces)
        same.node(item.key)


def _escaped(text: str) -> str:
    return str(graphviz.escape(_printable(text)))


def _printable(text: str) -> str:
    """One line without control characters."""
    return "".join(c if c >= " " else "\u25a1" for c in " ".join(text.split()))


# ---- layout


@dataclass(frozen=True)
class Layout:
    """Where dot put things, in points, y downwards; edges by their place in the picture."""

    width: float
    height: float
    items: Mapping[str, Point]
    edges: Mapping[int, tuple[Point, ...]]  # control points of Bézier curves, from tail to head
    clusters: Mapping[str, tuple[float, float, float, float]]  # left, top, right, bottom


def run_dot(text: str, format: str, engine: str = "dot", *options: str) -> bytes:
    """What ``dot`` makes of a text. Raises BackendError with its message where it fails."""
    program = shutil.which(engine)
    if program is None:
        raise BackendError(INSTALL_HINT)
    command = [program, f"-T{format}", *options]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise BackendError(
            f"{engine} did not lay the picture out in {_SECONDS} s; collapse it with depth="
        ) from None
    if done.returncode or not done.stdout:
        raise BackendError(f"{engine} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def lay_out(picture: Picture, purpose: str = "place") -> Layout:
    """Let ``dot`` place the items and route the edges of ``picture``."""
    found = json.loads(run_dot(dot_text(picture, purpose=purpose), "json0"))
    _, _, width, height = _floats(found.get("bb", "0,0,0,0"))
    objects = found.get("objects", [])
    items: dict[str, Point] = {}
    clusters: dict[str, tuple[float, float, float, float]] = {}
    for entry in objects:
        name = entry["name"]
        if "pos" in entry:
            x, y = _floats(entry["pos"])
            items[name] = (x, height - y)
        elif name.startswith("cluster_") and "bb" in entry:
            left, low, right, high = _floats(entry["bb"])
            clusters[name.removeprefix("cluster_")] = (left, height - high, right, height - low)
    edges = _routes(picture, found.get("edges", []), height)
    return Layout(width, height, items, edges, clusters)


def _routes(
    picture: Picture, entries: Iterable[Mapping[str, Any]], height: float
) -> dict[int, tuple[Point, ...]]:
    edges: dict[int, tuple[Point, ...]] = {}
    for entry in entries:
        if not entry.get("id", "").startswith("e") or "pos" not in entry:
            continue
        number = int(entry["id"][1:])
        points = _spline(entry["pos"], height)
        edges[number] = points[::-1] if picture.edges[number].upwards else points
    return edges


def _spline(text: str, height: float) -> tuple[Point, ...]:
    """Control points from start to end; dot gives ends under arrow heads as ``s,`` and ``e,``."""
    start: list[Point] = []
    end: list[Point] = []
    middle: list[Point] = []
    for word in text.split(";")[0].split():
        kind, _, rest = word.partition(",") if word[0] in "se" else ("", "", word)
        x, y = _floats(rest)
        {"s": start, "e": end, "": middle}[kind].append((x, height - y))
    if start:
        middle[0] = start[0]
    if end:
        middle[-1] = end[0]
    return tuple(middle)


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
