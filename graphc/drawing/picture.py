"""A picture before layout: items, edges and clusters. The two writers (DOT, Scene) read only this.

::

    Picture := title, items, edges, clusters, legend
    Item    := key, shape, lines of text, inputs and outputs (labels of ports), phase, cluster
    Edge    := tail -> head, label, style (flow | saved | update | carry | note), phase
    Cluster := key, label, parent

Shapes are LeCun's: ``observed`` a shaded circle, ``computed`` an empty one, ``bullet`` a function,
flat where data enters, round where it leaves, ``cost`` a square; and ``state`` and ``parameter``
(double circles), ``constant``, ``switch``, ``diamond``, ``delay``, ``box`` (a kernel) and
``buffer`` (memory between kernels).
"""

from __future__ import annotations

from dataclasses import field

from graphc.records import dataclass

__all__ = ["CIRCLES", "Cluster", "Edge", "Item", "Line", "Picture"]

#: shapes that are round, and are as wide as high
CIRCLES = frozenset({"observed", "computed", "state", "parameter"})


@dataclass(frozen=True)
class Line:
    """A line of text in an item. ``style``: "name", "detail" (small), "note" (small, grey)."""

    text: str
    style: str = "name"


@dataclass(frozen=True)
class Item:
    """A node of the picture. ``faces`` is the key of the forward item that it mirrors.

    ``beside`` is the label of an edge at it, for which the layout keeps room.
    """

    key: str
    shape: str
    lines: tuple[Line, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    phase: str = "forward"
    cluster: str = ""
    faces: str = ""
    upwards: bool = False  # data enters from below, as in the backward graph
    stacked: bool = False  # one for each step of a scan
    beside: str = ""
    tip: str = ""
    link: str = ""


@dataclass(frozen=True)
class Edge:
    """A joint between two items. ``head_port`` counts from 0; -1 is wherever it fits.

    ``bar`` draws LeCun's bar across it: no gradient passes. ``upwards`` tells the layout that the
    head lies above the tail, as in the backward graph.
    """

    tail: str
    head: str
    label: str = ""
    style: str = "flow"
    phase: str = "forward"
    head_port: int = -1
    bar: bool = False
    upwards: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Cluster:
    """A box around the items (and clusters) that name it; ``panel`` is one of a whole phase."""

    key: str
    label: str
    parent: str = ""
    phase: str = "forward"
    panel: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Picture:
    """All of it, in a stable order."""

    title: str
    items: tuple[Item, ...]
    edges: tuple[Edge, ...]
    clusters: tuple[Cluster, ...] = ()
    legend: tuple[str, ...] = field(default=())  # names of entries, see render
    note: str = ""
    #: pairs of items, one below the other though nothing joins them
    stacks: tuple[tuple[str, str], ...] = ()
