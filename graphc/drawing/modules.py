"""Module -> the tree of its modules: what it holds, and in what order a series runs it.

How data flows through a module is not known before it is called; draw its result for that.
"""

from __future__ import annotations

from dataclasses import field
from itertools import pairwise

from graphc.drawing.naming import short_list
from graphc.drawing.picture import Cluster, Edge, Item, Line, Picture
from graphc.nn.module import Module, Series
from graphc.records import dataclass

__all__ = ["module_picture"]


def module_picture(module: Module, *, depth: int | None = None, title: str = "") -> Picture:
    """Leaves as functions with their parameters, containers as boxes around them."""
    drawing = _Tree(depth)
    drawing.add(module, "", "", 0)
    return Picture(
        title,
        tuple(drawing.items),
        tuple(drawing.edges),
        tuple(drawing.clusters),
        ("function",),
        stacks=tuple(drawing.stacks),
    )


@dataclass
class _Tree:
    depth: int | None
    items: list[Item] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    clusters: list[Cluster] = field(default_factory=list)
    stacks: list[tuple[str, str]] = field(default_factory=list)

    def add(self, module: Module, name: str, parent: str, level: int) -> tuple[str, str]:
        """The keys of the first and the last function of ``module``."""
        children = list(module._children())
        if not children or (self.depth is not None and level >= self.depth):
            return self._leaf(module, name, parent)
        key = f"m{len(self.clusters)}"
        kind = module._own_name
        self.clusters.append(Cluster(key, f"{name}: {kind}" if name else kind, parent))
        ends = [self.add(child, path, key, level + 1) for path, child in children]
        for (_, above), (below, _) in pairwise(ends):
            if isinstance(module, Series):
                self.edges.append(Edge(above, below))
            else:
                self.stacks.append((above, below))
        return ends[0][0], ends[-1][1]

    def _leaf(self, module: Module, name: str, parent: str) -> tuple[str, str]:
        key = f"f{len(self.items)}"
        states = [*module.named_parameters(), *module.named_buffers()]
        lines = [Line(module._own_name)]
        if name:
            lines.append(Line(name, "note"))
        if states:
            lines.append(Line(short_list([f"{n} {v.type}" for n, v in states], 2), "note"))
        tip = ", ".join(f"{n}: {v.type}" for n, v in states) or module._own_name
        self.items.append(Item(key, "bullet", tuple(lines), cluster=parent, tip=tip))
        return key, key
