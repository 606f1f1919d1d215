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

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from graphc.kernel.terms import AxisIndex, Load, Result
from graphc.passes.numbers import LIMITS, Candidate, Limits, Numbers, Refusal, measure, refusal
from graphc.passes.pieces import Piece, Slot, elements
from graphc.passes.regions import Region, Regions
from graphc.passes.term_table import TermTable
from graphc.passes.unify import Unification, unify
from graphc.types import Extent, TensorType

__all__ = ["Fused", "fuse"]

#: a chunked reduction has about this many chunks, of no less than this many elements
CHUNKS, SMALLEST_CHUNK = 64, 4
#: an axis of run-time extent is cut into blocks of this many
SYMBOLIC_BLOCK = 128
#: a reduction of more elements than this, into fewer results than suffice for parallelism, is
#: always chunked
LARGE = 1 << 16
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
    numbers: Numbers
    chunk: _Chunk | None = None


@dataclass(frozen=True)
class _Chunk:
    """Cut ``axis`` (a root of the late region) into ``count`` blocks; ``tails`` get partial
    results.
    """

    axis: str
    block: int
    count: Extent
    tails: tuple[Piece, ...]


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
            work.fused.numbers[region] = work.numbers(region)
    return work.fused


class _Fusion:
    def __init__(self, fused: Fused, limits: Limits) -> None:
        self.fused, self.limits = fused, limits
        self.regions = fused.regions
        self.table = fused.table
        self._refused: set[tuple[Region, Region]] = set()
        self._slots = len(fused.regions.program.slots)
        self._updates = frozenset(new.key for _, new in fused.regions.program.updates)

    # ---- candidates

    def candidate(self, region: Region) -> Candidate:
        return self._candidate(region.pieces, {}, region, None)

    def numbers(self, region: Region) -> Numbers:
        """What a region costs as it is."""
        found: Numbers | None = region.derived.get("numbers")
        if found is None:
            found = region.derived["numbers"] = measure(self.candidate(region))
        return found

    def _candidate(
        self,
        pieces: list[Piece],
        axes: dict[str, str],
        late: Region,
        chunk: _Chunk | None,
        partial: frozenset[str] = frozenset(),
    ) -> Candidate:
        root = self.regions.axes.root

        def joined(name: str) -> str:
            own = root(name)
            return axes.get(own, own)

        own = {p.slot.key for p in pieces}
        stored = frozenset(k for k in own if self._needed_outside(k, own))
        extents = {joined(n): e for p in pieces for n, e in p.extents.items()}
        cut, count = late.chunk, 1
        if chunk is not None:
            cut, count = chunk.axis, elements(chunk.count)
            partial |= frozenset(p.slot.key for p in chunk.tails)
        elif cut is not None:
            cut = joined(cut)
            count = -(-elements(extents[cut]) // late.block)
        inlined = self._inlined(pieces, stored, joined)
        return Candidate(
            pieces, stored, joined, extents, partial | late.partial, cut, count, inlined
        )

    def _needed_outside(self, key: str, own: set[str]) -> bool:
        if key in self.regions.wanted:
            return True
        return any(p.slot.key not in own for p in self.regions.readers.get(key, ()))

    def _inlined(
        self, pieces: list[Piece], stored: frozenset[str], root: Callable[[str], str]
    ) -> frozenset[str]:
        """The slots that no piece reads at their own axes and that need no memory."""
        by_key = {p.slot.key: p for p in pieces}
        direct: set[str] = set()
        for piece in reversed(pieces):
            key = piece.slot.key
            if key not in stored and key not in direct and not piece.checks:
                continue
            direct.add(key)
            for load in piece.loads:
                producer = by_key.get(load.tensor)
                if producer is not None and at_own_axes(producer, load, root):
                    direct.add(load.tensor)
        return frozenset(by_key.keys() - direct)

    # ---- vertical

    def absorb(self, region: Region, *, scalars: bool) -> None:
        """Merge what ``region`` reads into it, the most bytes first, until nothing fits.

        Without ``scalars`` not what it reads single numbers of: that saves a launch, and must not
        keep a kernel of rows from joining another one that lies between.
        """
        while True:
            for producer, nbytes in self._producers(region):
                if not scalars and nbytes <= 8:
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
        self._chunk_alone(region)

    def _producers(self, region: Region) -> list[tuple[Region, int]]:
        """The regions that a region reads, and how many bytes, the most first."""
        saved: dict[Region, int] = {}
        for key in {load.tensor for p in region.pieces for load in p.loads}:
            producer = self.regions.of.get(key)
            if producer is not None and producer is not region:
                slot = self.regions.piece[key].slot
                saved[producer] = saved.get(producer, 0) + _nbytes(slot)
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
        pieces = sorted((*early.pieces, *late.pieces), key=lambda p: p.serial)
        if early.chunk is not None and late.chunk is not None:
            return Refusal("both are cut into chunks")
        carrier = early if early.chunk is not None else late
        candidate = self._candidate(pieces, found.axes, carrier, None, early.partial)
        numbers = measure(candidate)
        why = (
            self._smaller_store(early, late, candidate)
            or _contract_refusal(candidate, numbers)
            or self._too_many_tensors(candidate)
            or refusal(candidate, numbers, self._needed(early, late, candidate), self.limits)
        )
        if why is None:
            return _Merge(early, late, moved, found.axes, numbers)
        chunk = self._chunk(late, early, candidate) or self._chunk(early, late, candidate)
        if chunk is None:
            return why
        cut = self._candidate(pieces, found.axes, late, chunk, early.partial)
        numbers = measure(cut)
        needed = self._needed(early, late, cut)
        if _contract_refusal(cut, numbers) or refusal(cut, numbers, needed, self.limits):
            return why
        return _Merge(early, late, moved, found.axes, numbers, chunk)

    def _needed(self, early: Region, late: Region, merged: Candidate) -> int:
        """The parallelism that the merge must leave: the late one's, and the early one's if it
        still stores.
        """
        parts = [late]
        if any(p.slot.key in merged.stored for p in early.pieces):
            parts.append(early)
        worth = max(2, _points(merged) // self.limits.block)
        return min(max(self.numbers(r).parallelism for r in parts), worth)

    def _forbidden(self, early: Region, late: Region) -> Refusal | None:
        if early.pieces[0].control is not None or late.pieces[0].control is not None:
            return Refusal("a loop or branch is no part of a kernel")
        if early.partial and any(
            load.tensor in early.partial for p in late.pieces for load in p.loads
        ):
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
            kept = self._needed_outside(piece.slot.key, {reader.slot.key})
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
        for key in {load.tensor for p in late.pieces for load in p.loads}:
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
        grid = frozenset(map(merged.root, self.numbers(late).grid))
        for piece in early.pieces:
            axes = frozenset(map(merged.root, piece.axes))
            if piece.slot.key in merged.stored and not axes and grid:
                times = elements(*(merged.extents[a] for a in grid))
                return Refusal(f"would recompute `{piece.slot.name}` {times}×", times)
        return None

    def _too_many_tensors(self, candidate: Candidate) -> Refusal | None:
        own = {p.slot.key for p in candidate.pieces}
        names = {load.tensor for p in candidate.pieces for load in p.loads} - own
        count = len(names) + len(candidate.stored)
        if count <= self.limits.tensors:
            return None
        return Refusal(f"reads and writes {count} tensors, limit {self.limits.tensors}", count)

    def _apply(self, merge: _Merge) -> None:
        for one, other in merge.axes.items():
            self.regions.axes.unite(one, other)
        region = self.regions.merge(merge.early, merge.late, merge.moved)
        if merge.chunk is not None:
            self._cut(region, merge.chunk)

    # ---- chunks

    def _chunk(self, tail: Region, other: Region, merged: Candidate) -> _Chunk | None:
        """The axis to cut so that a reduction over the other region's grid can join it, or None."""
        if tail.chunk is not None or len(tail.pieces) != 1 or tail.pieces[0].tail is None:
            return None
        piece = tail.pieces[0]
        stores = [p for p in other.pieces if p.slot.key in merged.stored - other.partial]
        saved = _shared_bytes(other, tail)
        for axis in sorted({merged.root(a) for a in piece.bound}):
            if other.chunk is not None and axis != merged.root(other.chunk):
                continue
            if not all(axis in map(merged.root, p.axes) for p in stores):
                continue
            extent = merged.extents[axis]
            block, count = blocks_of(extent)
            if other.chunk is not None:
                block, count = other.block, ceil_div(extent, other.block)
            kept = _nbytes(piece.slot) * elements(count)
            if saved >= self.limits.chunk_gain and 2 * kept <= saved:
                return _Chunk(axis, block, count, (piece,))
        return None

    def _chunk_alone(self, region: Region) -> None:
        """Cut a large reduction to few results, so that several workers can share it."""
        stored = [p for p in region.pieces if self._needed_outside(p.slot.key, _keys(region))]
        if region.pieces[0].control is not None:
            return
        if region.chunk is not None or not stored or any(p.tail is None for p in stored):
            return
        read = {p.slot.key for p in region.pieces} & {
            load.tensor for p in region.pieces for load in p.loads
        }
        if any(p.slot.key in read for p in stored):
            return
        candidate = self.candidate(region)
        work = _points(candidate)
        if work < LARGE or measure(candidate).parallelism >= self.limits.parallelism:
            return
        common = set.intersection(*({candidate.root(a) for a in p.bound} for p in stored))
        others = [p for p in region.pieces if p not in stored and p.bound]
        common -= {candidate.root(a) for p in others for a in p.bound}
        if not common:
            return
        axis = max(sorted(common), key=lambda a: elements(candidate.extents[a]))
        block, count = blocks_of(candidate.extents[axis])
        self._cut(region, _Chunk(axis, block, count, tuple(stored)))

    def _cut(self, region: Region, chunk: _Chunk) -> None:
        """Let the tails of ``region`` store a partial result a chunk, and add the regions that join
        them.
        """
        region.chunk, region.block = self.regions.axes.root(chunk.axis), chunk.block
        behind = region
        for tail in chunk.tails:
            whole = tail.slot
            partial = self._partial_slot(whole, chunk.count)
            self.regions.replace(tail, replace(tail, slot=partial), region)
            region.partial |= {partial.key}
            finish = self._finishing(tail, partial, chunk.count)
            readers = self.regions.readers.get(whole.key, [])
            behind = self.regions.insert(Region([finish]), behind)
            for reader in readers:
                user = self.regions.of[reader.slot.key]
                behind.successors.add(user)
                user.predecessors.add(behind)

    def _partial_slot(self, whole: Slot, count: Extent) -> Slot:
        shape = (count, *whole.type.shape)
        self._slots += 1
        return Slot(
            f"p{self._slots}",
            f"{whole.name}_partial",
            TensorType(whole.type.dtype, shape),
            "computed",
            whole.origin,
        )

    def _finishing(self, tail: Piece, partial: Slot, count: Extent) -> Piece:
        """``whole[i] = reduce monoid partial[c, i] over c``, over axes of its own."""
        term = tail.term
        assert isinstance(term, Result)
        axis = f"c{self._slots}"
        extents: dict[str, Extent] = {axis: count}
        index = []
        for own in tail.index:
            if isinstance(own, AxisIndex):
                name = f"{own.axis}f{self._slots}"
                extents[name] = tail.extents[own.axis]
                index.append(self.table.axis(name, tail.extents[own.axis]))
            else:
                index.append(own)
        load = self.table.load(
            partial.key, (self.table.axis(axis, count), *index), partial.type.dtype
        )
        joined = self.table.reduction(term.of.monoid, (load,), (axis,), None, False, term.dtype)
        return Piece(
            tail.slot,
            tuple(index),
            self.table.result(joined, 0, term.dtype),
            extents,
            tail.serial,
            (),
            tail.source,
            tail.block,
            tail.nodes,
        )

    # ---- side by side

    def join_tails(self, region: Region) -> None:
        """Let a reduction and another reader of the same large tensor become one kernel."""
        read = _slots_read(region)
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
        shared = _shared_bytes(early, late)
        if shared * 2 < min(_read_bytes(early), _read_bytes(late)):
            return
        found = unify(early, late, self.regions.axes)
        if not chunked:
            ours, theirs = (self.numbers(r).grid for r in (early, late))
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


def at_own_axes(producer: Piece, load: Load, root: Callable[[str], str]) -> bool:
    """Whether ``load`` reads ``producer`` at the axes that it is computed over."""
    if load.pred is not None:
        return False
    return all(
        not isinstance(own, AxisIndex)
        or (isinstance(read, AxisIndex) and root(own.axis) == root(read.axis))
        for own, read in zip(producer.index, load.index, strict=True)
    )


def _points(candidate: Candidate) -> int:
    """The most points that any of its values is computed at."""
    return max(
        elements(*(candidate.extents[candidate.root(a)] for a in p.extents))
        for p in candidate.pieces
    )


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


def _two_contracts(early: Region, late: Region) -> Refusal | None:
    count = sum(p.contracts for r in (early, late) for p in r.pieces)
    if count <= 1:
        return None
    return Refusal(f"holds {count} contractions' tiles, limit 1", count)


def _contract_refusal(candidate: Candidate, numbers: Numbers) -> Refusal | None:
    """A contraction is computed in register tiles: only what is done to each element may stand
    around it.
    """
    direct = [p for p in candidate.pieces if p.slot.key not in candidate.inlined]
    contracts = [p for p in direct if p.contracts]
    if not contracts:
        return None
    contract = contracts[0]
    own = {candidate.root(a) for a in contract.axes}
    reduced = {candidate.root(a) for p in direct if p is not contract for a in p.bound}
    if reduced:
        row = elements(*(candidate.extents[a] for a in reduced & own or reduced))
        size = row * contract.slot.type.dtype.itemsize * TILE >> 10
        return Refusal(f"holds {size} KB of whole rows beside a contraction's tile", size)
    produced = {p.slot.key: p for p in candidate.pieces}
    for load in contract.loads:
        producer = produced.get(load.tensor)
        if producer is not None:
            outer = [candidate.extents[a] for a in own - {candidate.root(a) for a in load.axes}]
            times = -(-elements(*outer) // TILE)
            return Refusal(f"would recompute `{producer.slot.name}` {times}×", times)
    if not own <= numbers.grid:
        lost = elements(*(candidate.extents[a] for a in own - numbers.grid))
        return Refusal(f"leaves a contraction {lost}× fewer blocks", lost)
    return None


def blocks_of(extent: Extent) -> tuple[int, Extent]:
    """Elements a chunk and the number of chunks: fixed by the extent alone, even where it divides.

    >>> blocks_of(8192), blocks_of(100), blocks_of(7)
    ((128, 64), (4, 25), (4, 2))
    """
    if not isinstance(extent, int):
        return SYMBOLIC_BLOCK, ceil_div(extent, SYMBOLIC_BLOCK)
    least = max(SMALLEST_CHUNK, -(-extent // CHUNKS))
    for block in range(least, min(2 * least, extent) + 1):
        if extent % block == 0:
            return block, extent // block
    return least, ceil_div(extent, least)


def ceil_div(extent: Extent, by: int) -> Extent:
    """How many blocks of ``by`` hold ``extent`` elements."""
    return (extent + (by - 1)) // by


def _nbytes(slot: Slot) -> int:
    return slot.type.dtype.itemsize * elements(*slot.type.shape)


def _keys(region: Region) -> set[str]:
    return {p.slot.key for p in region.pieces}


def _slots_read(region: Region) -> dict[str, int]:
    """The tensors that a region reads from memory, and how many bytes it reads of each at least."""
    own = _keys(region)
    read: dict[str, int] = {}
    for piece in region.pieces:
        for load in piece.loads:
            if load.tensor not in own:
                points = elements(*(piece.extents[a] for a in load.axes if a in piece.extents))
                read[load.tensor] = max(read.get(load.tensor, 0), points * load.dtype.itemsize)
    return read


def _read_bytes(region: Region) -> int:
    return sum(_slots_read(region).values())


def _shared_bytes(early: Region, late: Region) -> int:
    """What the late region would no longer read from memory."""
    ours, theirs = _slots_read(early), _slots_read(late)
    produced = _keys(early)
    return sum(n for key, n in theirs.items() if key in ours or key in produced)
