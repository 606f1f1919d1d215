"""Which axes of two regions are one: read off the index by which one loads what the other computes,
or what both load.

    m[i] = max x[i, k] over k        y[a, b] = x[a, b] - m[a]
    m is loaded at [a]  -> i is a;   both load x, at [i, k] and [a, b]  -> k is b

A map is kept one to one, so no two axes of one region ever become the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field

from graphc.kernel.terms import AxisIndex, Load, Scan, Term
from graphc.passes.pieces import Piece
from graphc.passes.regions import Axes, Region
from graphc.records import dataclass
from graphc.types import Extent

__all__ = ["Patterns", "Unification", "joined_patterns", "unify"]

#: index patterns of one tensor that are compared with one another
_PATTERNS = 4


@dataclass
class Unification:
    """``axes`` maps roots of the first region to roots of the second.

    ``remapped`` are the second region's loads of the first's slots that are not at its axes:
    (reader, load).
    """

    extents: dict[str, Extent]
    root: Callable[[str], str]
    axes: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    remapped: list[tuple[Piece, Load]] = field(default_factory=list)

    def fits(self, one: str, other: str) -> bool:
        """Whether ``one`` (of the first region) is, or could become, ``other``."""
        one, other = self.root(one), self.root(other)
        if one in self.axes:
            return self.axes[one] == other
        return other not in self.taken and self.extents[one] == self.extents[other]

    def set(self, one: str, other: str) -> None:
        one, other = self.root(one), self.root(other)
        self.axes[one] = other
        self.taken.add(other)

    def keep_apart(self, other: str) -> None:
        """Let no axis of the first region become ``other``."""
        self.taken.add(self.root(other))

    def all_fit(self, pairs: Sequence[tuple[str, str]]) -> bool:
        """Set every pair, or none where they contradict one another or what is set."""
        before = dict(self.axes), set(self.taken)
        for one, other in pairs:
            if not self.fits(one, other):
                self.axes, self.taken = before
                return False
            self.set(one, other)
        return True


def unify(early: Region, late: Region, axes: Axes) -> Unification:
    """The axes of ``early`` that are axes of ``late``."""
    found = Unification(axes.extents, axes.root)
    first, second = early.pieces, late.pieces
    produced = {p.slot.key: p for p in first}
    reads = [(piece, load) for piece in second for load in piece.loads if load.tensor in produced]
    reads.sort(key=lambda item: not _plain(item[1]))
    for axis in _moved_scans(late, reads, produced, axes.root) if late.inlines else ():
        found.keep_apart(axis)
    for piece, load in reads:
        if not _direct(found, produced[load.tensor], load):
            found.remapped.append((piece, load))
    _by_shared_loads(found, _patterns(early, axes.root), _patterns(late, axes.root))
    _by_extent(found, first, second)
    return found


def _plain(load: Load) -> bool:
    return load.pred is None and all(not t.axes or isinstance(t, AxisIndex) for t in load.index)


def _direct(found: Unification, producer: Piece, load: Load) -> bool:
    """Whether ``load`` reads ``producer`` at its axes; those dimensions that do are unified in any
    case.
    """
    direct = load.pred is None
    for own, read in zip(producer.index, load.index, strict=True):
        if not isinstance(own, AxisIndex):
            continue
        if isinstance(read, AxisIndex) and found.fits(own.axis, read.axis):
            found.set(own.axis, read.axis)
        else:
            direct = False
    return direct


def _moved_scans(
    late: Region,
    reads: Sequence[tuple[Piece, Load]],
    produced: Mapping[str, Piece],
    root: Callable[[str], str],
) -> Iterator[str]:
    """The axes along which a scan would be read at another index, since its reader is.

        s = scan sum x over i     p[i] = s[i] * 2     q[i] = p[n - 1 - i]

    A scan is a function of all of its axis: an index put in its place cannot follow.
    """
    moved = _moved_axes(late, root)
    for piece, load in reads:
        scanned = {t.over for t in produced[load.tensor].terms if isinstance(t, Scan)}
        for own, read in zip(produced[load.tensor].index, load.index, strict=True):
            if not isinstance(own, AxisIndex) or own.axis not in scanned:
                continue
            yield from (a for a in read.axes if root(a) in moved[piece.slot.key])


def _moved_axes(region: Region, root: Callable[[str], str]) -> dict[str, set[str]]:
    """For each piece of a region, by slot, its axes that some reader there puts another index
    for.
    """
    index = {p.slot.key: p.index for p in region.pieces}
    moved: dict[str, set[str]] = {key: set() for key in index}
    for piece in reversed(region.pieces):  # readers first
        for load in piece.loads:
            for own, read in zip(index.get(load.tensor, ()), load.index, strict=False):
                if not isinstance(own, AxisIndex):
                    continue
                axis = root(own.axis)
                same = isinstance(read, AxisIndex) and root(read.axis) == axis
                if not same or axis in moved[piece.slot.key]:
                    moved[load.tensor].add(axis)
    return moved


Patterns = dict[str, list[tuple[Term, ...]]]


def _by_shared_loads(found: Unification, ours: Patterns, theirs: Patterns) -> None:
    for key in (k for k in ours if k in theirs):  # in order of the text, so the same every time
        for index in ours[key]:
            for other in theirs[key]:
                pairs = [
                    (a.axis, b.axis)
                    for a, b in zip(index, other, strict=True)
                    if isinstance(a, AxisIndex) and isinstance(b, AxisIndex)
                ]
                found.all_fit(pairs)


def _patterns(region: Region, root: Callable[[str], str]) -> Patterns:
    """For each tensor that a region reads from memory the first few indices that it reads it at."""
    known: Patterns | None = region.derived.get("patterns")
    if known is not None:
        return known
    own = {p.slot.key for p in region.pieces}
    patterns: dict[str, dict[tuple[object, ...], tuple[Term, ...]]] = {}
    for piece in region.pieces:
        for load in piece.loads:
            if load.tensor in own:
                continue
            found = patterns.setdefault(load.tensor, {})
            if len(found) < _PATTERNS:
                found.setdefault(_key(load.index, root), load.index)
    known = {tensor: list(found.values()) for tensor, found in patterns.items()}
    region.derived["patterns"] = known
    return known


def joined_patterns(early: Region, late: Region, root: Callable[[str], str]) -> Patterns:
    """The patterns of the two as one region."""
    own = {p.slot.key for r in (early, late) for p in r.pieces}
    joined = dict(_patterns(early, root))
    for tensor, theirs in _patterns(late, root).items():
        unique = {_key(index, root): index for index in (*joined.get(tensor, ()), *theirs)}
        joined[tensor] = list(unique.values())[:_PATTERNS]
    return {tensor: indices for tensor, indices in joined.items() if tensor not in own}


def _key(index: tuple[Term, ...], root: Callable[[str], str]) -> tuple[object, ...]:
    return tuple(root(t.axis) if isinstance(t, AxisIndex) else t for t in index)


def _by_extent(found: Unification, first: Sequence[Piece], second: Sequence[Piece]) -> None:
    """What is left: an axis that the first region reduces is the second's axis of the same extent.

    Without it a value reduced over one tensor's rows and used along another's would be computed for
    each column.
    """
    reducing = [p for p in first if p.bound]
    if not reducing or any(p.contracts for p in (*reducing, *second)):
        return
    free = [a for p in second for a in p.axes if found.root(a) not in found.taken]
    for piece in reducing:
        for axis in sorted(piece.bound):
            if found.root(axis) in found.axes:
                continue
            match = next((b for b in free if found.fits(axis, b)), None)
            if match is not None:
                found.set(axis, match)
