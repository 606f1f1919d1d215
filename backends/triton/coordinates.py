"""Where the axes of a kernel are: blocks of the grid, whole tiles, the tiles of loops."""

from __future__ import annotations

from graphc.backends.triton.context import Context, Coordinate
from graphc.backends.triton.operations import bring, joined_axes
from graphc.backends.triton.source import Tile
from graphc.backends.triton.tiling import GpuTiling, fits_whole
from graphc.kernel.terms import Apply, AxisIndex, Load, Scan, Term
from graphc.nest import Loop
from graphc.types import Extent, bool_, int64

__all__ = ["Coordinates"]


class Coordinates:
    """The part of an emitter that writes down where its axes are."""

    def __init__(self, context: Context, tiling: GpuTiling) -> None:
        self.k, self.tiling = context, tiling
        self.kernel, self.source = context.kernel, context.source
        self.whole: dict[str, Coordinate] = {}
        self.blocked: dict[str, Coordinate] = {}

    # -- the grid
    def open_whole(self) -> None:
        """The axes that one tile holds."""
        for axis, _ in self.kernel.axes:
            if self.is_whole(axis):
                self.whole[axis] = self.range(axis, "0", 0)

    def count(self, axis: str) -> Extent:
        block = self.tiling.nest.block[axis]
        return (self.kernel.extents[axis] + (block - 1)) // block

    def open_blocks(self, grid: tuple[str, ...]) -> None:
        """Where this program lies on each blocked axis; the last axis of the grid varies fastest,
        unless blocks of the last two are grouped so that programs near in time share operands.
        """
        axes = [a for a in grid if not self.is_whole(a)]
        rest = self.source.let("tl.program_id(0)", "program") if axes else "0"
        places: dict[str, str] = {}
        if self.tiling.group > 1 and len(axes) >= 2:
            rest, places = self.grouped(axes[-2], axes[-1], rest, len(axes) > 2)
        remaining = [a for a in axes if a not in places]
        for axis in reversed(remaining):
            count = self.k.extent(self.count(axis))
            if axis == remaining[0]:
                places[axis] = rest
            else:
                places[axis] = self.source.let(f"{rest} % {count}", f"block_{axis}")
                rest = self.source.let(f"{rest} // {count}", "rest")
        for axis in axes:
            self.blocked[axis] = self.block_range(axis, places[axis])

    def grouped(
        self, outer: str, inner: str, program: str, more: bool
    ) -> tuple[str, dict[str, str]]:
        let, group = self.source.let, self.tiling.group
        rows, columns = (self.k.extent(self.count(a)) for a in (outer, inner))
        rest = program
        if more:
            total = let(f"{rows} * {columns}", "blocks")
            rest, program = let(f"{program} // {total}", "rest"), let(f"{program} % {total}", "at")
        first = let(f"({program} // ({group} * {columns})) * {group}", "first")
        height = let(f"tl.minimum({rows} - {first}, {group})", "height")
        within = let(f"{program} % ({group} * {columns})", "within")
        return rest, {
            outer: let(f"{first} + {within} % {height}", f"block_{outer}"),
            inner: let(f"{within} // {height}", f"block_{inner}"),
        }

    def block_range(self, axis: str, place: str) -> Coordinate:
        block = self.tiling.nest.block[axis]
        if block == 1:
            return Coordinate(axis, self.source.let(place, axis), 1)
        if self.k.is_large(axis):
            place = f"tl.cast({place}, tl.int64)"
        return self.range(axis, f"{place} * {block}", block)

    def is_whole(self, axis: str) -> bool:
        return fits_whole(self.kernel.extents[axis], self.tiling.nest.tile.get(axis, 1))

    def range(self, axis: str, start: str, multiple: int, stop: str | None = None) -> Coordinate:
        """The tile of an axis that begins at ``start``, a multiple of ``multiple``."""
        size, extent = self.k.tile.get(axis, 1), self.kernel.extents[axis]
        points = f"tl.arange(0, {size})"
        if size == 1:
            text = start if start.isdigit() else self.source.let(start, axis)
        else:
            text = self.source.let(points if start == "0" else f"{start} + {points}", axis)
        dims = (axis,) if size > 1 else ()
        aligned = isinstance(extent, int) and extent % size == 0 and multiple % size == 0
        valid = None
        if stop is not None or not aligned:
            end = self.k.extent(extent) if stop is None else stop
            name = self.source.let(f"{text} < {end}", f"{axis}_inside")
            valid = Tile(name, bool_, dims)
        return Coordinate(axis, text, size, valid)

    # -- loops
    def whole_coordinate(self, step: Loop) -> Coordinate:
        """The points of an axis that fits in one tile; fewer exist where the loop has bounds, and
        an exclusive scan looks at the point before.
        """
        base = self.whole[step.axis]
        if step.scans:
            return self.scanned(base, step.scans[0])
        dims = (step.axis,) if base.size > 1 else ()
        tests = [base.valid]
        for bound, sign in ((step.lower, ">="), (step.upper, "<")):
            if bound is not None:
                at = self.k.index_value(bound)
                axes = joined_axes([at, Tile("", int64, dims)], self.k.rank)
                own = bring(Tile(base.text, int64, dims), axes)
                tests.append(Tile(f"({own} {sign} {bring(at, axes)})", bool_, axes))
        if len(tests) == 1:
            return base
        valid = self.k.conjunction(tests)
        assert valid is not None
        return Coordinate(step.axis, base.text, base.size, self.k.named(valid, "inside"))

    def neighbour(self, base: Coordinate, by: int) -> Coordinate:
        axis, extent = base.axis, self.k.extent(self.kernel.extents[base.axis])
        dims = (axis,) if base.size > 1 else ()
        text = self.source.let(f"{base.text} {'+' if by > 0 else '-'} 1", f"{axis}_next")
        test = f"({text} < {extent})" if by > 0 else f"(({text} >= 0) & ({text} < {extent}))"
        if base.size == 1 and text.isdigit():
            test = "(tl.program_id(0) < 0)"
        return Coordinate(axis, text, base.size, Tile(self.source.let(test, "inside"), bool_, dims))

    def from_the_end(self, axis: str, index: str) -> str:
        """Where the tile begins that is as far from the last one as ``index`` from the first."""
        size, extent = self.k.tile.get(axis, 1), self.kernel.extents[axis]
        last = (extent + (size - 1)) // size * size - size
        return self.source.let(f"{self.k.extent(last)} - {index}", f"{axis}_0")

    def scanned(self, tile: Coordinate, scan: Scan) -> Coordinate:
        """The points whose elements are in a scan's results at the points of ``tile``, last."""
        if not scan.exclusive:
            return tile
        return self.neighbour(tile, 1 if scan.reverse else -1)

    def bounds(
        self, step: Loop, extent: str, size: int, *, narrow: bool = True
    ) -> tuple[str, str, bool]:
        """Where a loop starts and stops, and whether it starts at a multiple of its tile.
        ``narrow``: a predicate may leave out what it leaves out for all points that are open.
        """
        start, stop, aligned = "0", extent, True
        kind = self.kind(step.axis)
        if step.lower is not None:
            low = self.k.index_value(step.lower).text
            start = self.source.let(f"tl.maximum({low}, 0).to({kind})", "start")
            aligned = size == 1
        if step.upper is not None:
            high = self.k.index_value(step.upper).text
            stop = self.source.let(f"tl.minimum({high}, {extent}).to({kind})", "stop")
        for trip in step.passes if narrow else ():
            if trip.where is not None and step.lower is None and step.upper is None:
                start, stop = self.narrowed(trip.where, step.axis, start, stop, size)
        return start, stop, aligned

    def narrowed(
        self, where: Term, axis: str, start: str, stop: str, size: int
    ) -> tuple[str, str]:
        """Bounds that a predicate implies for all points of the open tiles; the predicate stays."""
        kind = self.kind(axis)
        for test in _conjuncts(where):
            for own, op, other in _seen_from(test, axis):
                bound = self.known(other)
                if bound is None or axis in other.axes or not isinstance(own, AxisIndex):
                    continue
                if op in ("<", "<="):
                    most = self.extreme(bound, "max") + (" + 1" if op == "<=" else "")
                    stop = self.source.let(f"tl.minimum({most}, {stop}).to({kind})", "stop")
                else:
                    least = self.extreme(bound, "min")
                    first = f"tl.maximum({least}, 0) // {size} * {size}"
                    start = self.source.let(f"({first}).to({kind})", "start")
        return start, stop

    def kind(self, axis: str) -> str:
        """The type of places on an axis."""
        return "tl.int64" if self.k.is_large(axis) else "tl.int32"

    def known(self, term: Term) -> Tile | None:
        if isinstance(term, AxisIndex):
            return self.k.index(term.axis) if term.axis in self.k.coordinates else None
        return self.k.find(term) if isinstance(term, (Load, Apply)) else None

    def extreme(self, tile: Tile, name: str) -> str:
        text = tile.text
        for _ in tile.axes:
            text = f"tl.{name}({text}, axis=0)"
        return text


def _conjuncts(term: Term) -> list[Term]:
    if isinstance(term, Apply) and term.op == "and":
        return [c for a in term.args for c in _conjuncts(a)]
    return [term]


_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _seen_from(test: Term, axis: str) -> list[tuple[Term, str, Term]]:
    """A comparison as ``axis op other``, where it is one."""
    if not isinstance(test, Apply) or test.op not in _MIRRORED:
        return []
    left, right = test.args
    pairs = [(left, test.op, right), (right, _MIRRORED[test.op], left)]
    return [p for p in pairs if isinstance(p[0], AxisIndex) and p[0].axis == axis]
