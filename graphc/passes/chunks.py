"""Reductions in two phases: which axis to cut, and the region that joins the partial results.

    s[j] = sum x[i, j] over i   ->   p[io, j] = sum x[16*io + ii, j] over ii
                                     s[j] = sum p[io, j] over io

How many chunks there are depends on the extent alone, never on the number of workers.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.kernel.terms import AxisIndex, Result
from graphc.passes.candidates import Chunk, traffic
from graphc.passes.numbers import Candidate, Limits, measure
from graphc.passes.pieces import Piece, Slot, elements, nbytes
from graphc.passes.regions import Region, Regions
from graphc.passes.term_table import TermTable
from graphc.types import Extent, TensorType

__all__ = ["blocks_of", "ceil_div", "chunk_alone", "chunk_for", "cut", "shared_bytes"]

#: a chunked reduction has about this many chunks, of no less than this many elements
CHUNKS, SMALLEST_CHUNK = 64, 4
#: an axis of run-time extent is cut into blocks of this many
SYMBOLIC_BLOCK = 128
#: a reduction of more elements than this, into fewer results than suffice for parallelism, is
#: always chunked
LARGE = 1 << 16


def blocks_of(extent: Extent) -> tuple[int, Extent]:
    """Elements a chunk and the number of chunks: fixed by the extent alone, even where it divides.

    >>> blocks_of(8192), blocks_of(100), blocks_of(7)
    ((128, 64), (4, 25), (7, 1))
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


def shared_bytes(early: Region, late: Region) -> int:
    """What the late region would no longer read from memory."""
    ours = traffic(early)
    produced = {p.slot.key for p in early.pieces}
    return sum(n for key, n in traffic(late).items() if key in ours or key in produced)


def chunk_for(tail: Region, other: Region, merged: Candidate, limits: Limits) -> Chunk | None:
    """The axis to cut so that a reduction over the other region's grid can join it, or None."""
    if tail.chunk is not None or len(tail.pieces) != 1 or tail.pieces[0].tail is None:
        return None
    piece = tail.pieces[0]
    stores = [p for p in other.pieces if p.slot.key in merged.stored - other.partial]
    saved = shared_bytes(other, tail)
    for axis in sorted({merged.root(a) for a in piece.bound}):
        if other.chunk is not None and axis != merged.root(other.chunk):
            continue
        if not all(axis in map(merged.root, p.axes) for p in stores):
            continue
        extent = merged.extents[axis]
        block, count = blocks_of(extent)
        if other.chunk is not None:
            block, count = other.block, ceil_div(extent, other.block)
        kept = nbytes(piece.slot) * elements(count)
        if saved >= limits.chunk_gain and 2 * kept <= saved:
            return Chunk(axis, block, count, (piece,))
    return None


def chunk_alone(region: Region, candidate: Candidate, limits: Limits) -> Chunk | None:
    """How to cut a large reduction to few results, so that several workers can share it."""
    stored = [p for p in region.pieces if p.slot.key in candidate.stored]
    if region.chunk is not None or not stored or any(p.tail is None for p in stored):
        return None
    read = {key for p in region.pieces for key in p.reads}
    if any(p.slot.key in read for p in stored) or candidate.points < LARGE:
        return None
    if measure(candidate).parallelism >= limits.parallelism:
        return None
    common = set.intersection(*({candidate.root(a) for a in p.bound} for p in stored))
    others = [p for p in region.pieces if p not in stored and p.bound]
    common -= {candidate.root(a) for p in others for a in p.bound}
    if not common:
        return None
    axis = max(sorted(common), key=lambda a: elements(candidate.extents[a]))
    block, count = blocks_of(candidate.extents[axis])
    return Chunk(axis, block, count, tuple(stored))


def cut(regions: Regions, table: TermTable, region: Region, chunk: Chunk) -> None:
    """Let the tails of ``region`` store a partial result a chunk, and add what joins them."""
    region.chunk, region.block = regions.axes.root(chunk.axis), chunk.block
    behind = region
    for tail in chunk.tails:
        partial = _partial_slot(regions, tail.slot, chunk.count)
        regions.replace(tail, replace(tail, slot=partial), region)
        region.partial |= {partial.key}
        readers = regions.readers.get(tail.slot.key, [])
        behind = regions.insert(Region([_finishing(table, tail, partial, chunk.count)]), behind)
        for reader in readers:
            user = regions.of[reader.slot.key]
            behind.successors.add(user)
            user.predecessors.add(behind)


def _partial_slot(regions: Regions, whole: Slot, count: Extent) -> Slot:
    type_ = TensorType(whole.type.dtype, (count, *whole.type.shape))
    return Slot(f"p.{whole.key}", f"{whole.name}_partial", type_, "computed", whole.origin)


def _finishing(table: TermTable, tail: Piece, partial: Slot, count: Extent) -> Piece:
    """``whole[i] = reduce monoid partial[c, i] over c``, over axes of its own."""
    term = tail.term
    assert isinstance(term, Result)
    axis = f"c{partial.key}"
    extents: dict[str, Extent] = {axis: count}
    index = []
    for own in tail.index:
        if isinstance(own, AxisIndex):
            name = f"{own.axis}f{partial.key}"
            extents[name] = tail.extents[own.axis]
            index.append(table.axis(name, tail.extents[own.axis]))
        else:
            index.append(own)
    load = table.load(partial.key, (table.axis(axis, count), *index), partial.type.dtype)
    joined = table.reduction(term.of.monoid, (load,), (axis,), None, False, term.dtype)
    whole = table.result(joined, 0, term.dtype)
    return replace(tail, index=tuple(index), term=whole, extents=extents)
