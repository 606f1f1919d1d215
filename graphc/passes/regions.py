"""Regions of pieces in a topological order that survives merging.

A merge of P into C is legal where no path leads from P through another region to C. Regions carry
labels in a topological order, so only regions labelled between the two are searched; what is found
there after P moves behind C::

    P  x  y  C   ->   x is reached from P, y is not   ->   y  PC  x
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import field
from itertools import groupby
from typing import Any

from graphc.passes.pieces import Piece, Program
from graphc.records import dataclass
from graphc.types import Extent

__all__ = ["Axes", "Region", "Regions"]

#: regions looked at before a merge is given up as too entangled
SEARCH_LIMIT = 128
#: readers of one region that a search follows at all
_MOST_READERS = 8 * SEARCH_LIMIT
#: labels are far enough apart that renumbering all is rare
_GAP = 1 << 256


class Axes:
    """Axis names made equal by unification; ``extents`` by any of the names."""

    def __init__(self) -> None:
        self.extents: dict[str, Extent] = {}
        self._parent: dict[str, str] = {}

    def add(self, name: str, extent: Extent) -> None:
        self.extents[name] = extent

    def root(self, name: str) -> str:
        parent = self._parent.get(name)
        if parent is None:
            return name
        while (above := self._parent.get(parent)) is not None:
            self._parent[name] = above
            name, parent = parent, above
        return parent

    def unite(self, name: str, into: str) -> None:
        name, into = self.root(name), self.root(into)
        if name != into:
            self._parent[name] = into


@dataclass(eq=False)
class Region:
    """Pieces in program order that run as one kernel. ``chunk`` is the axis that is cut into blocks
    of ``block``.
    """

    pieces: list[Piece]
    label: int = 0
    before: Region | None = field(default=None, repr=False)
    after: Region | None = field(default=None, repr=False)
    chunk: str | None = None
    block: int = 1
    partial: frozenset[str] = frozenset()  # keys of slots that hold one partial result a chunk
    inlines: bool = False  # whether some piece is read at other indices than its own
    #: what is derived from the pieces, until they change
    derived: dict[str, Any] = field(default_factory=dict, repr=False)
    predecessors: set[Region] = field(default_factory=set, repr=False)
    successors: set[Region] = field(default_factory=set, repr=False)

    def __repr__(self) -> str:
        return f"<region {', '.join(p.slot.name for p in self.pieces)}>"


class Regions:
    """Every region of a program, in topological order."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.axes = Axes()
        self.of: dict[str, Region] = {}  # by key of the slot that it computes
        self.piece: dict[str, Piece] = {}
        self.readers: dict[str, list[Piece]] = {}
        self.wanted = {slot.key for slot in program.wanted}
        self.first: Region | None = None
        last: Region | None = None
        for pieces in _together(program.pieces):
            last = self.insert(Region(pieces), last)

    def __iter__(self) -> Iterator[Region]:
        region = self.first
        while region is not None:
            yield region
            region = region.after

    def needed_outside(self, key: str, own: Set[str]) -> bool:
        """Whether a slot is a result, or read by another piece than those that compute ``own``."""
        if key in self.wanted:
            return True
        return any(p.slot.key not in own for p in self.readers.get(key, ()))

    # ---- the order

    def insert(self, region: Region, behind: Region | None) -> Region:
        """Enter a region of new pieces right behind another one."""
        self._link(region, behind)
        for piece in region.pieces:
            self._register(piece, region)
        return region

    def _register(self, piece: Piece, region: Region) -> None:
        self.of[piece.slot.key] = region
        self.piece[piece.slot.key] = piece
        for name, extent in piece.extents.items():
            self.axes.add(name, extent)
        for key in piece.reads:
            self.readers.setdefault(key, []).append(piece)
            producer = self.of.get(key)
            if producer is not None and producer is not region:
                producer.successors.add(region)
                region.predecessors.add(producer)

    def _link(self, region: Region, behind: Region | None) -> None:
        following = self.first if behind is None else behind.after
        low = 0 if behind is None else behind.label
        high = low + 2 * _GAP if following is None else following.label
        region.before, region.after = behind, following
        if behind is None:
            self.first = region
        else:
            behind.after = region
        if following is not None:
            following.before = region
        region.label = (low + high) // 2
        if region.label in (low, high):
            for n, each in enumerate(self):
                each.label = (n + 1) * _GAP

    def _unlink(self, region: Region) -> None:
        if region.before is None:
            self.first = region.after
        else:
            region.before.after = region.after
        if region.after is not None:
            region.after.before = region.before

    # ---- merging

    def between(self, early: Region, late: Region) -> list[Region] | None:
        """The regions reached from ``early`` that stand before ``late``, if none leads on to it;
        else None.
        """
        found: set[Region] = set()
        if len(early.successors) > _MOST_READERS:
            return None
        stack = [r for r in early.successors if r is not late and r.label < late.label]
        while stack:
            region = stack.pop()
            if region in found:
                continue
            entangled = len(found) >= SEARCH_LIMIT or len(region.successors) > _MOST_READERS
            if entangled or late in region.successors:
                return None
            found.add(region)
            stack.extend(r for r in region.successors if r.label < late.label)
        return sorted(found, key=lambda r: r.label)

    def merge(self, early: Region, late: Region, moved: Iterable[Region]) -> Region:
        """Put the pieces of ``early`` into ``late``; ``moved`` is what ``between`` found."""
        late.derived.clear()
        late.pieces = sorted((*early.pieces, *late.pieces), key=lambda p: p.serial)
        late.partial |= early.partial
        late.inlines |= early.inlines
        if late.chunk is None:
            late.chunk, late.block = early.chunk, early.block
        for piece in early.pieces:
            self.of[piece.slot.key] = late
        for region in early.predecessors:
            region.successors.discard(early)
            region.successors.add(late)
        for region in early.successors:
            region.predecessors.discard(early)
            region.predecessors.add(late)
        late.predecessors = (late.predecessors | early.predecessors) - {early, late}
        late.successors = (late.successors | early.successors) - {early, late}
        self._unlink(early)
        behind = late
        for region in moved:
            self._unlink(region)
            self._link(region, behind)
            behind = region
        return late

    def replace(self, old: Piece, new: Piece, region: Region) -> None:
        """``new`` computes another slot from the same loads; readers of the old slot are the
        caller's to serve.
        """
        region.derived.clear()
        region.pieces[region.pieces.index(old)] = new
        for key in old.reads:
            self.readers[key] = [new if p is old else p for p in self.readers[key]]
        del self.of[old.slot.key], self.piece[old.slot.key]
        self.of[new.slot.key], self.piece[new.slot.key] = region, new


def _together(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Each piece alone, but the results of one loop or branch together."""
    for control, group in groupby(pieces, key=lambda p: p.control):
        if control is None:
            yield from ([piece] for piece in group)
        else:
            yield list(group)
