"""Group pieces into kernels, by numbers alone.

For each region in program order the regions that it reads, largest first, are merged into it where
the result is a better kernel than the two; afterwards regions that read the same tensors over the
same axes are merged side by side::

    x -> max -> sub -> exp -> sum -> div      ->   one region, grid i, three passes over j
    dot -> add bias -> relu                   ->   one region, grid i j
    dx over j, dgamma over i                ->   a region in chunks of i, and one to add the chunks

Nothing here knows what an op is called. Every edge that stays is explained by a number.
"""

from __future__ import annotations

from dataclasses import field
from itertools import pairwise

from graphc.kernel.terms import AxisIndex
from graphc.passes.candidates import (
    Chunk,
    alone,
    joined,
    joined_traffic,
    numbers_of,
    remember,
    traffic,
)
from graphc.passes.chunks import chunk_alone, chunk_for, cut, shared_bytes
from graphc.passes.numbers import LIMITS, Candidate, Limits, Numbers, Refusal, measure, refusal
from graphc.passes.pieces import Piece, elements, nbytes
from graphc.passes.regions import Region, Regions
from graphc.passes.term_table import TermTable
from graphc.passes.unify import Unification, joined_patterns, unify
from graphc.records import dataclass

__all__ = ["Fused", "fuse"]

#: additions a row and column of a contraction's tile that are worth a register tile's operand
TILE = 64
#: readers of a large tensor that a reduction of it is tried with
SIBLINGS = 8


@dataclass
class Fused:
    """Regions, and for each edge (slot, reading piece) that was not fused why."""

    regions: Regions
    table: TermTable
    refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    numbers: dict[Region, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class _Merge:
    early: Region
    late: Region
    moved: list[Region]
    axes: dict[str, str]
    candidate: Candidate
    numbers: Numbers
    chunk: Chunk | None = None


def fuse(regions: Regions, table: TermTable, limits: Limits = LIMITS) -> Fused:
    """Merge ``regions`` in place."""
    work = _Fusion(Fused(regions, table), limits)
    for scalars in (False, True):
        for region in list(regions):
            if work.alive(region):
                work.absorb(region, scalars=scalars)
                work.join_tails(region)
    work.merge_siblings()
    for region in regions:
        if region.pieces[0].control is None:
            work.fused.numbers[region] = numbers_of(regions, region)
    return work.fused


class _Fusion:
    def __init__(self, fused: Fused, limits: Limits) -> None:
        self.fused, self.limits = fused, limits
        self.regions = fused.regions
        self.table = fused.table
        self._refused: set[tuple[Region, Region]] = set()
        self._updates = frozenset(new.key for _, new in fused.regions.program.updates)

    # ---- vertical

    def absorb(self, region: Region, *, scalars: bool) -> None:
        """Merge what ``region`` reads into it, the most bytes first, until nothing fits.

        Without ``scalars`` not what it reads single numbers of: that saves a launch, and must not
        keep a kernel of rows from joining another one that lies between.
        """
        while True:
            for producer, saved in self._producers(region):
                if not scalars and saved <= 8:
                    continue
                pair = (producer, region)
                if pair in self._refused:
                    continue
                merge = self._vertical(producer, region)
                if isinstance(merge, Refusal):
                    self._refused.add(pair)
                    self._explain(producer, region, merge)
                    continue
                self._apply(merge)
                break
            else:
                break
        if self.alive(region) and region.pieces[0].control is None:
            chunk = chunk_alone(region, alone(self.regions, region), self.limits)
            if chunk is not None:
                cut(self.regions, self.table, region, chunk)

    def _producers(self, region: Region) -> list[tuple[Region, int]]:
        """The regions that a region reads, and how many bytes, the most first."""
        saved: dict[Region, int] = {}
        for key in traffic(region):
            producer = self.regions.of.get(key)
            if producer is not None:
                slot = self.regions.piece[key].slot
                saved[producer] = saved.get(producer, 0) + nbytes(slot)
        return sorted(saved.items(), key=lambda item: (-item[1], -item[0].label))

    def _explain(self, early: Region, late: Region, why: Refusal) -> None:
        slots = {p.slot.key for p in early.pieces}
        for piece in late.pieces:
            for load in piece.loads:
                if load.tensor in slots:
                    self.fused.refusals[load.tensor, piece.slot.key] = why

    def _vertical(self, early: Region, late: Region) -> _Merge | Refusal:
        if len(early.pieces) + len(late.pieces) > self.limits.pieces:
            count = len(early.pieces) + len(late.pieces)
            return Refusal(
                f"one kernel would compute {count} values, limit {self.limits.pieces}", count
            )
        if (why := self._forbidden(early, late) or _two_contracts(early, late)) is not None:
            return why
        found = unify(early, late, self.regions.axes)
        why = self._remaps(early, found) or self._saves_nothing(early, late)
        if why is not None:
            return why
        moved = self.regions.between(early, late)
        if moved is None:
            return Refusal("another kernel lies between the two")
        return self._judged(early, late, moved, found)

    def _judged(
        self, early: Region, late: Region, moved: list[Region], found: Unification
    ) -> _Merge | Refusal:
        """The merge, plainly or in chunks, or why not."""
        if early.chunk is not None and late.chunk is not None:
            return Refusal("both are cut into chunks")
        inlines = bool(found.remapped)
        candidate = joined(self.regions, early, late, found.axes, inlines=inlines)
        numbers = measure(candidate)
        why = (
            self._smaller_store(early, late, candidate)
            or _contract_refusal(candidate, numbers)
            or self._too_many_tensors(candidate)
            or refusal(candidate, numbers, self._needed(early, late, candidate), self.limits)
        )
        if why is None:
            return _Merge(early, late, moved, found.axes, candidate, numbers)
        chunk = chunk_for(late, early, candidate, self.limits)
        chunk = chunk or chunk_for(early, late, candidate, self.limits)
        if chunk is None:
            return why
        candidate = joined(self.regions, early, late, found.axes, chunk, inlines=inlines)
        numbers = measure(candidate)
        needed = self._needed(early, late, candidate)
        if _contract_refusal(candidate, numbers):
            return why
        if refusal(candidate, numbers, needed, self.limits):
            return why
        return _Merge(early, late, moved, found.axes, candidate, numbers, chunk)

    def _needed(self, early: Region, late: Region, merged: Candidate) -> int:
        """The parallelism that the merge must leave: the late one's, and the early one's if it
        still stores.
        """
        parts = [late]
        if any(p.slot.key in merged.stored for p in early.pieces):
            parts.append(early)
        worth = max(2, merged.points // self.limits.block)
        return min(max(numbers_of(self.regions, r).parallelism for r in parts), worth)

    def _forbidden(self, early: Region, late: Region) -> Refusal | None:
        if early.pieces[0].control is not None or late.pieces[0].control is not None:
            return Refusal("a loop, branch or routine is no part of a kernel")
        if _only_forward(early) and any(p.again for p in late.pieces):
            return Refusal("it is computed again only when the backward pass needs it")
        if early.partial and any(key in early.partial for p in late.pieces for key in p.reads):
            return Refusal("the partial results of all blocks are needed first")
        checks = any(p.checks for p in (*early.pieces, *late.pieces))
        if checks and any(p.slot.key in self._updates for p in (*early.pieces, *late.pieces)):
            return Refusal("a state may be written only after every check has passed")
        return None

    def _remaps(self, early: Region, found: Unification) -> Refusal | None:
        """Why a value may not be computed where it is read, at another index."""
        by_key = {p.slot.key: p for p in early.pieces}
        for reader, load in found.remapped:
            cone = _cone(by_key, load.tensor)
            piece = by_key[load.tensor]
            moved = {
                own.axis
                for own, read in zip(piece.index, load.index, strict=True)
                if isinstance(own, AxisIndex)
                and not (isinstance(read, AxisIndex) and found.fits(own.axis, read.axis))
            }
            points = elements(*(reader.extents[a] for a in sorted(load.axes)))
            times = points / max(1, elements(*(e for e in piece.slot.type.shape)))
            if self._reduces_along(cone, moved) or len(cone) > self.limits.pieces // 2:
                return Refusal(
                    f"`{piece.slot.name}` is read at an index that a kernel cannot follow"
                )
            work = sum(p.work for p in cone) + 1
            kept = self.regions.needed_outside(piece.slot.key, {reader.slot.key})
            dear = times > 1 or (kept and times > 1 / 8)
            if dear and (work > self.limits.cheap or times > self.limits.cheap):
                again = max(2, round(times + (1 if kept else 0)))
                return Refusal(f"would recompute `{piece.slot.name}` {again}×", again)
            if any(p.checks for p in cone):
                return Refusal(f"`{piece.slot.name}` is checked where it is computed")
        return None

    def _saves_nothing(self, early: Region, late: Region) -> Refusal | None:
        """An epilogue of a value that is stored in any case had better wait for a kernel of its own
        reader.

        dot -> logits -> (max over j), (logits * hit -> sum over j): the product belongs to the
        sum's kernel
        """
        if not any(p.contracts for p in early.pieces):
            return None
        for key in {key for p in late.pieces for key in p.reads}:
            if self.regions.of.get(key) is early and not self._stored_anyway(key):
                return None
        if any(self._stored_anyway(p.slot.key, contracts=True) for p in late.pieces):
            return None
        return Refusal("saves nothing: it is stored for another kernel in any case")

    def _stored_anyway(self, key: str, *, contracts: bool = False) -> bool:
        """Whether a reader of the slot can be no epilogue; with ``contracts`` only contractions
        count.
        """
        if key in self.regions.wanted:
            return True
        readers = self.regions.readers.get(key, ())
        return any(p.contracts or (p.bound and not contracts) for p in readers)

    def _reduces_along(self, cone: list[Piece], moved: set[str]) -> bool:
        roots = {self.regions.axes.root(a) for a in moved}
        return any(p.bound and roots & {self.regions.axes.root(a) for a in p.axes} for p in cone)

    def _smaller_store(self, early: Region, late: Region, merged: Candidate) -> Refusal | None:
        """A value that others need too, and that is the same for all of the late one's points."""
        for piece in early.pieces:
            if piece.axes or piece.slot.key not in merged.stored:
                continue
            grid = frozenset(map(merged.root, numbers_of(self.regions, late).grid))
            if grid:
                times = merged.size(grid)
                return Refusal(f"would recompute `{piece.slot.name}` {times}×", times)
        return None

    def _too_many_tensors(self, candidate: Candidate) -> Refusal | None:
        own = {v.key for v in candidate.views}
        read = {key for v in candidate.views for key in v.piece.reads}
        count = len(read - own) + len(candidate.stored)
        if count <= self.limits.tensors:
            return None
        return Refusal(f"reads and writes {count} tensors, limit {self.limits.tensors}", count)

    def _apply(self, merge: _Merge) -> None:
        for one, other in merge.axes.items():
            self.regions.axes.unite(one, other)
        read = joined_traffic(merge.early, merge.late)
        patterns = joined_patterns(merge.early, merge.late, self.regions.axes.root)
        region = self.regions.merge(merge.early, merge.late, merge.moved)
        region.inlines = bool(merge.candidate.inlined)
        if merge.chunk is not None:
            cut(self.regions, self.table, region, merge.chunk)
        else:
            remember(region, merge.candidate, merge.numbers, read)
            region.derived["patterns"] = patterns

    # ---- side by side

    def join_tails(self, region: Region) -> None:
        """Let a reduction and another reader of the same large tensor become one kernel."""
        read = traffic(region)
        large = [k for k, n in read.items() if n >= self.limits.chunk_gain]
        for key in large:
            for other in self._readers(key)[:SIBLINGS]:
                if other is region or not self.alive(region) or not self.alive(other):
                    continue
                if any(len(r.pieces) == 1 and r.pieces[0].tail for r in (region, other)):
                    early, late = sorted((region, other), key=lambda r: r.label)
                    self._side_by_side(early, late, chunked=True)

    def _readers(self, key: str) -> list[Region]:
        users = {self.regions.of[p.slot.key]: None for p in self.regions.readers.get(key, ())}
        return sorted(users, key=lambda r: r.label)

    def merge_siblings(self) -> None:
        """Merge regions that read the same tensor over the same axes, so that it is read once."""
        for key in list(self.regions.readers):
            for early, late in pairwise(self._readers(key)):
                if self.alive(early) and self.alive(late):
                    self._side_by_side(early, late, chunked=False)

    def alive(self, region: Region) -> bool:
        return self.regions.of.get(region.pieces[0].slot.key) is region

    def _side_by_side(self, early: Region, late: Region, *, chunked: bool) -> None:
        if any(p.contracts for p in (*early.pieces, *late.pieces)):
            return
        if late in early.successors or self._forbidden(early, late):
            return
        shared = shared_bytes(early, late)
        if shared * 2 < min(sum(traffic(early).values()), sum(traffic(late).values())):
            return
        found = unify(early, late, self.regions.axes)
        if not chunked:
            ours, theirs = (numbers_of(self.regions, r).grid for r in (early, late))
            if {found.axes.get(a) for a in ours} != theirs:
                return
            if early.chunk is not None or late.chunk is not None:
                return
        moved = self.regions.between(early, late)
        if moved is None:
            return
        merge = self._judged(early, late, moved, found)
        if isinstance(merge, _Merge) and (merge.chunk is not None) == chunked:
            self._apply(merge)


# ---- pieces of the above


def _cone(by_key: dict[str, Piece], key: str) -> list[Piece]:
    """The pieces of a region that slot ``key`` is computed from, it included, up to reductions."""
    found: dict[str, Piece] = {}
    stack = [key]
    while stack:
        key = stack.pop()
        if key in found or key not in by_key:
            continue
        piece = found[key] = by_key[key]
        if not piece.bound:
            stack.extend(load.tensor for load in piece.loads)
    return list(found.values())


def _only_forward(region: Region) -> bool:
    """Whether nothing in it waits for the backward pass."""
    return not any(p.again or p.backward for p in region.pieces)


def _two_contracts(early: Region, late: Region) -> Refusal | None:
    count = sum(p.contracts for r in (early, late) for p in r.pieces)
    if count <= 1:
        return None
    return Refusal(f"holds {count} contractions' tiles, limit 1", count)


def _contract_refusal(candidate: Candidate, numbers: Numbers) -> Refusal | None:
    """A contraction is computed in register tiles: only what is done to each element may stand
    around it.
    """
    contract = next((v for v in candidate.views if v.piece.contracts), None)
    if contract is None:
        return None
    own = contract.axes
    reduced = frozenset(a for v in candidate.direct if v is not contract for a in v.bound)
    if reduced:
        row = candidate.size(reduced & own or reduced)
        size = row * contract.piece.slot.type.dtype.itemsize * TILE >> 10
        return Refusal(f"holds {size} KB of whole rows beside a contraction's tile", size)
    if contract.key in candidate.inlined:
        return None  # read through a reshape, element by element
    produced = {v.key: v for v in candidate.views}
    for load in contract.piece.loads:
        producer = produced.get(load.tensor)
        if producer is not None:
            outer = own - frozenset(map(candidate.root, load.axes))
            times = -(-candidate.size(outer) // TILE)
            return Refusal(f"would recompute `{producer.piece.slot.name}` {times}×", times)
    if not own <= numbers.grid:
        lost = candidate.size(own - numbers.grid)
        return Refusal(f"leaves a contraction {lost}× fewer blocks", lost)
    return None
