"""Candidates for merging: what two regions would be as one kernel, from what is known of each.

What is derived from a region's pieces alone is kept with it until they change, so that a trial
costs the pieces of the two and no search.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.kernel.terms import AxisIndex, Load
from graphc.passes.numbers import Candidate, Numbers, View, measure
from graphc.passes.pieces import Piece, elements
from graphc.passes.regions import Region, Regions
from graphc.records import dataclass
from graphc.types import Extent

__all__ = [
    "Chunk",
    "alone",
    "at_own_axes",
    "joined",
    "joined_traffic",
    "numbers_of",
    "remember",
    "traffic",
]


@dataclass(frozen=True)
class Chunk:
    """Cut ``axis`` into ``count`` blocks of ``block``; ``tails`` get partial results."""

    axis: str
    block: int
    count: Extent
    tails: tuple[Piece, ...]


@dataclass(frozen=True)
class _Known:
    """What a region is by itself."""

    views: tuple[View, ...]
    extents: dict[str, Extent]
    keys: frozenset[str]
    stored: frozenset[str]
    points: int


def _known(regions: Regions, region: Region) -> _Known:
    found: _Known | None = region.derived.get("known")
    if found is not None:
        return found
    root = regions.axes.root
    views, extents, points = [], {}, 1
    for piece in region.pieces:
        roots = {a: root(a) for a in piece.extents}
        axes = frozenset(roots[a] for a in piece.axes)
        views.append(View(piece, piece.slot.key, axes, frozenset(roots[a] for a in piece.bound)))
        for axis, extent in piece.extents.items():
            extents[roots[axis]] = extent
        points = max(points, elements(*piece.extents.values()))
    keys = frozenset(v.key for v in views)
    stored = frozenset(k for k in keys if regions.needed_outside(k, keys))
    known = _Known(tuple(views), extents, keys, stored, points)
    region.derived["known"] = known
    return known


def alone(regions: Regions, region: Region) -> Candidate:
    """A region as it is."""
    known = _known(regions, region)
    cut, count = None, 1
    if region.chunk is not None:
        cut = regions.axes.root(region.chunk)
        count = -(-elements(known.extents[cut]) // region.block)
    inlined = frozenset[str]()
    if region.inlines:
        inlined = _inlined(known.views, known.stored, regions.axes.root)
    return Candidate(
        known.views,
        known.stored,
        regions.axes.root,
        known.extents,
        known.points,
        region.partial,
        cut,
        count,
        inlined,
    )


def numbers_of(regions: Regions, region: Region) -> Numbers:
    """What a region costs as it is."""
    found: Numbers | None = region.derived.get("numbers")
    if found is None:
        found = region.derived["numbers"] = measure(alone(regions, region))
    return found


def remember(region: Region, candidate: Candidate, numbers: Numbers, read: dict[str, int]) -> None:
    """A merged region is what the candidate was; ``read`` is its traffic."""
    keys = frozenset(v.key for v in candidate.views)
    region.derived["traffic"] = read
    region.derived["known"] = _Known(
        tuple(candidate.views), dict(candidate.extents), keys, candidate.stored, candidate.points
    )
    region.derived["numbers"] = numbers


def joined(
    regions: Regions,
    early: Region,
    late: Region,
    axes: dict[str, str],
    chunk: Chunk | None = None,
    *,
    inlines: bool = False,
) -> Candidate:
    """What the two would be, axes of ``early`` renamed by ``axes``, perhaps cut."""
    first, second = _known(regions, early), _known(regions, late)
    root = regions.axes.root

    def renamed(name: str) -> str:
        own = root(name)
        return axes.get(own, own)

    groups = {names for v in first.views for names in (v.axes, v.bound)}
    new = {names: frozenset(axes.get(a, a) for a in names) for names in groups}
    moved = [View(v.piece, v.key, new[v.axes], new[v.bound]) for v in first.views]
    views = sorted((*moved, *second.views), key=lambda v: v.piece.serial)
    extents = {axes.get(a, a): e for a, e in first.extents.items()} | second.extents
    keys = first.keys | second.keys
    stored = frozenset(
        k for k in (*first.stored, *second.stored) if regions.needed_outside(k, keys)
    )
    partial = early.partial | late.partial
    carrier = early if early.chunk is not None else late
    cut, count = None, 1
    if chunk is not None:
        cut, count = chunk.axis, elements(chunk.count)
        partial |= frozenset(p.slot.key for p in chunk.tails)
    elif carrier.chunk is not None:
        cut = renamed(carrier.chunk)
        count = -(-elements(extents[cut]) // carrier.block)
    inlined = frozenset[str]()
    if inlines or early.inlines or late.inlines:
        inlined = _inlined(views, stored, renamed)
    points = max(first.points, second.points)
    return Candidate(views, stored, renamed, extents, points, partial, cut, count, inlined)


def _inlined(
    views: list[View] | tuple[View, ...], stored: frozenset[str], root: Callable[[str], str]
) -> frozenset[str]:
    """The slots that no piece reads at their own axes and that need no memory."""
    by_key = {v.key: v.piece for v in views}
    direct: set[str] = set()
    for view in reversed(views):
        if view.key not in stored and view.key not in direct and not view.piece.checks:
            continue
        direct.add(view.key)
        for load in view.piece.loads:
            producer = by_key.get(load.tensor)
            if producer is not None and at_own_axes(producer, load, root):
                direct.add(load.tensor)
    return frozenset(by_key.keys() - direct)


def at_own_axes(producer: Piece, load: Load, root: Callable[[str], str]) -> bool:
    """Whether ``load`` reads ``producer`` at the axes that it is computed over."""
    if load.pred is not None:
        return False
    return all(
        not isinstance(own, AxisIndex)
        or (isinstance(read, AxisIndex) and root(own.axis) == root(read.axis))
        for own, read in zip(producer.index, load.index, strict=True)
    )


def traffic(region: Region) -> dict[str, int]:
    """The tensors that a region reads from memory, and how many bytes of each at least."""
    found: dict[str, int] | None = region.derived.get("traffic")
    if found is not None:
        return found
    own = {p.slot.key for p in region.pieces}
    read: dict[str, int] = {}
    for piece in region.pieces:
        for load in piece.loads:
            if load.tensor not in own:
                points = elements(*(piece.extents[a] for a in load.axes if a in piece.extents))
                read[load.tensor] = max(read.get(load.tensor, 0), points * load.dtype.itemsize)
    region.derived["traffic"] = read
    return read


def joined_traffic(early: Region, late: Region) -> dict[str, int]:
    """The traffic of the two as one region."""
    own = {p.slot.key for r in (early, late) for p in r.pieces}
    first, second = traffic(early), traffic(late)
    both = first | {key: max(n, first.get(key, 0)) for key, n in second.items()}
    return {key: n for key, n in both.items() if key not in own}
