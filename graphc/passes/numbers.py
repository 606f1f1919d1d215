"""What fusing would cost: the numbers that decide, and the sentence that says them.

For a candidate kernel (pieces, which of their axes are one, what must be stored):

1. grid G = the axes in every store, less those that something reduces: empty means one block does
all;
2. parallelism = the points of G;
3. recomputation of a value = the points of G that it does not depend on, times the overlap of the
maps it is read by;
4. bytes held between passes over the same axis;
5. passes over an axis = 1 + the longest chain of reductions over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graphc.passes.pieces import Piece, elements
from graphc.types import Extent

__all__ = ["LIMITS", "Candidate", "Limits", "Numbers", "Refusal", "measure", "refusal"]


@dataclass(frozen=True)
class Limits:
    """What a kernel may cost."""

    pieces: int = 96  # values in one kernel
    tensors: int = 40  # tensors that one kernel reads and writes
    parallelism: int = 8  # blocks that suffice: more are not kept at the cost of another pass
    block: int = 4096  # points that are worth a block of their own
    cheap: int = 4  # additions an element that may be computed again
    held: int = 1 << 20  # bytes of a row that a block may hold
    passes: int = 8  # passes over an axis
    chunk_gain: int = 1 << 18  # bytes that partial results must save


LIMITS = Limits()


@dataclass(frozen=True)
class Refusal:
    """Why an edge was not fused. ``number`` is the one in the sentence, for sorting."""

    reason: str
    number: float = 0

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Candidate:
    """A kernel that might be. ``root`` names the axis that a piece's axis has become."""

    pieces: Sequence[Piece]
    stored: frozenset[str]  # keys of slots
    root: Callable[[str], str]
    extents: dict[str, Extent]
    partial: frozenset[str] = frozenset()
    chunk: str | None = None
    chunks: int = 1
    inlined: frozenset[str] = frozenset()  # keys of slots that exist only at other indices


@dataclass(frozen=True)
class Numbers:
    """The five numbers of a candidate; recomputation is per slot key, where it is not 1."""

    grid: frozenset[str]
    parallelism: int
    recomputation: dict[str, int]
    held: int
    passes: int


def measure(candidate: Candidate) -> Numbers:
    """The numbers of ``candidate``, in time linear in its pieces."""
    direct = [p for p in candidate.pieces if p.slot.key not in candidate.inlined]
    axes = {p.slot.key: frozenset(map(candidate.root, p.axes)) for p in direct}
    grid = _grid(candidate, direct, axes)
    extents = dict(candidate.extents)
    if candidate.chunk is not None:
        extents[candidate.chunk] = candidate.chunks
    recomputation = {}
    for piece in direct:
        missing = grid - axes[piece.slot.key]
        if missing and piece.slot.key not in candidate.partial:
            times = elements(*(extents[a] for a in missing))
            if times > 1:
                recomputation[piece.slot.key] = times
    depth = _depths(candidate, direct)
    return Numbers(
        grid,
        elements(*(extents[a] for a in grid)),
        recomputation,
        _held(candidate, direct, axes, depth, grid),
        1 + max(depth.values(), default=0),
    )


def _grid(
    candidate: Candidate, direct: Iterable[Piece], axes: dict[str, frozenset[str]]
) -> frozenset[str]:
    bound: set[str] = set()
    grid: frozenset[str] | None = None
    for piece in direct:
        key = piece.slot.key
        own = set(map(candidate.root, piece.bound))
        if key in candidate.partial:
            own.discard(candidate.chunk or "")
        bound |= own
        if key in candidate.stored:
            stored = axes[key]
            if key in candidate.partial and candidate.chunk is not None:
                stored = stored | {candidate.chunk}
            grid = stored if grid is None else grid & stored
    return (grid or frozenset()) - bound


def _depths(candidate: Candidate, direct: Iterable[Piece]) -> dict[str, int]:
    """For each slot the reductions on the longest chain to it, whatever axes they are over."""
    depth: dict[str, int] = {}
    for piece in direct:
        before = max((depth.get(load.tensor, 0) for load in piece.loads), default=0)
        depth[piece.slot.key] = before + (1 if piece.bound and not piece.contracts else 0)
    return depth


def _held(
    candidate: Candidate,
    direct: Sequence[Piece],
    axes: dict[str, frozenset[str]],
    depth: dict[str, int],
    grid: frozenset[str],
) -> int:
    """Bytes of the values that cost too much to compute again in each pass that reads them."""
    dear = {
        p.slot.key: p
        for p in direct
        if p.bound and axes[p.slot.key] - grid and p.slot.key not in candidate.partial
    }
    held: set[str] = set()
    for piece in direct:
        for load in piece.loads:
            producer = dear.get(load.tensor)
            if producer is not None and depth[piece.slot.key] >= depth[load.tensor]:
                held.add(load.tensor)
    total = 0
    for key in held:
        inner = axes[key] - grid
        itemsize = dear[key].slot.type.dtype.itemsize
        total += itemsize * elements(*(candidate.extents[a] for a in inner))
    return total


def refusal(
    candidate: Candidate, numbers: Numbers, needed: int, limits: Limits = LIMITS
) -> Refusal | None:
    """The first number that is too large; ``needed`` is the parallelism that must be left."""
    if len(candidate.pieces) > limits.pieces:
        return Refusal(
            f"one kernel would compute {len(candidate.pieces)} values, limit {limits.pieces}",
            len(candidate.pieces),
        )
    names = {p.slot.key: p for p in candidate.pieces}
    for key, times in numbers.recomputation.items():
        piece = names[key]
        if piece.bound or piece.work > limits.cheap:
            return Refusal(f"would recompute `{piece.slot.name}` {times}×", times)
    if numbers.parallelism < min(needed, limits.parallelism):
        blocks = numbers.parallelism
        what = "one block" if blocks == 1 else f"{blocks} blocks"
        return Refusal(
            f"leaves {what} of work where {min(needed, limits.parallelism)} suffice", blocks
        )
    if numbers.held > limits.held:
        return Refusal(
            f"holds {numbers.held >> 10} KB a row, limit {limits.held >> 10}", numbers.held
        )
    if numbers.passes > limits.passes:
        return Refusal(f"needs {numbers.passes} passes, limit {limits.passes}", numbers.passes)
    return None
