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

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from graphc.passes.pieces import Piece, elements
from graphc.records import dataclass
from graphc.types import Extent

__all__ = ["LIMITS", "Candidate", "Limits", "Numbers", "Refusal", "View", "measure", "refusal"]


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


class View(NamedTuple):
    """A piece with its axes as the candidate names them."""

    piece: Piece
    key: str
    axes: frozenset[str]
    bound: frozenset[str]


@dataclass(frozen=True)
class Candidate:
    """A kernel that might be: pieces in program order.

    ``stored`` are keys of slots, ``partial`` those that get one result a chunk of axis ``chunk``,
    ``inlined`` those that exist only at other indices. ``root`` names what a piece's axis is here;
    ``points`` is the most that any value is computed at.
    """

    views: Sequence[View]
    stored: frozenset[str]
    root: Callable[[str], str]
    extents: Mapping[str, Extent]
    points: int
    partial: frozenset[str] = frozenset()
    chunk: str | None = None
    chunks: int = 1
    inlined: frozenset[str] = frozenset()

    @property
    def direct(self) -> Sequence[View]:
        """The pieces that are computed at their own axes."""
        if not self.inlined:
            return self.views
        return [v for v in self.views if v.key not in self.inlined]

    def size(self, axes: frozenset[str]) -> int:
        """Points of some axes; chunks of the one that is cut."""
        total = 1
        for axis in axes:
            total *= self.chunks if axis == self.chunk else elements(self.extents[axis])
        return total


@dataclass(frozen=True)
class Numbers:
    """The five numbers of a candidate; recomputation is per slot key, where it is not 1."""

    grid: frozenset[str]
    parallelism: int
    recomputation: Mapping[str, int]
    held: int
    passes: int


def measure(candidate: Candidate) -> Numbers:
    """The numbers of ``candidate``, in time linear in its pieces."""
    direct = candidate.direct
    grid = _grid(candidate, direct)
    recomputation = {}
    for view in direct:
        missing = grid - view.axes
        if missing and view.key not in candidate.partial:
            times = candidate.size(missing)
            if times > 1:
                recomputation[view.key] = times
    stored = [v.axes for v in direct if v.key in candidate.stored]
    for view in candidate.views if candidate.inlined else ():
        if view.key in candidate.inlined:
            # once for all points along what it lacks, but at each place that other axes make
            reached = [grid, *(axes for axes in stored if not view.axes <= axes)]
            times = max(map(candidate.size, reached)) // max(1, candidate.size(view.axes))
            if times > 1:  # several points read the same element
                recomputation[view.key] = times
    depth = _depths(direct)
    held = _held(candidate, direct, depth, grid)
    return Numbers(
        grid, candidate.size(grid), recomputation, held, 1 + max(depth.values(), default=0)
    )


def _grid(candidate: Candidate, direct: Sequence[View]) -> frozenset[str]:
    bound: set[str] = set()
    grid: frozenset[str] | None = None
    for view in direct:
        stored, own = view.axes, view.bound
        if view.key in candidate.partial and candidate.chunk is not None:
            stored, own = stored | {candidate.chunk}, own - {candidate.chunk}
        bound |= own
        if view.key in candidate.stored:
            grid = stored if grid is None else grid & stored
    return (grid or frozenset()) - bound


def _depths(direct: Sequence[View]) -> dict[str, int]:
    """For each slot the reductions on the longest chain to it, whatever axes they are over."""
    depth: dict[str, int] = {}
    for view in direct:
        before = 0
        for key in view.piece.reads:
            if key in depth and depth[key] > before:
                before = depth[key]
        reduces = bool(view.bound) and not view.piece.contracts
        depth[view.key] = before + reduces
    return depth


def _held(
    candidate: Candidate, direct: Sequence[View], depth: Mapping[str, int], grid: frozenset[str]
) -> int:
    """Bytes of the values that cost too much to compute again in each pass that reads them."""
    dear = {
        v.key: v for v in direct if v.bound and v.axes - grid and v.key not in candidate.partial
    }
    if not dear:
        return 0
    read = {
        key for view in direct for key in view.piece.reads if depth[view.key] >= depth.get(key, 0)
    }
    total = 0
    for key in dear.keys() & read:
        total += dear[key].piece.slot.type.dtype.itemsize * candidate.size(dear[key].axes - grid)
    return total


def refusal(
    candidate: Candidate, numbers: Numbers, needed: int, limits: Limits = LIMITS
) -> Refusal | None:
    """The first number that is too large; ``needed`` is the parallelism that must be left."""
    for view in candidate.views if numbers.recomputation else ():
        times = numbers.recomputation.get(view.key, 1)
        if times > 1 and (view.bound or view.piece.work > limits.cheap):
            return Refusal(f"would recompute `{view.piece.slot.name}` {times}×", times)
    wanted = min(needed, limits.parallelism)
    if numbers.parallelism < wanted:
        blocks = numbers.parallelism
        what = "one block" if blocks == 1 else f"{blocks} blocks"
        return Refusal(f"leaves {what} of work where {wanted} suffice", blocks)
    if numbers.held > limits.held:
        return Refusal(
            f"holds {numbers.held >> 10} KB a row, limit {limits.held >> 10}", numbers.held
        )
    if numbers.passes > limits.passes:
        return Refusal(f"needs {numbers.passes} passes, limit {limits.passes}", numbers.passes)
    return None
