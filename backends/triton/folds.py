"""Reductions, contractions and scans: a tile at a time, with the monoids of ``kernel.monoids``.

A pass whose axes are all held in one tile collapses it at once. Otherwise accumulators are carried
through its loops: sums and extremes over whole tiles, collapsed at the end; other states are
collapsed and merged tile by tile. A held state is an accumulator with more dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field

from graphc.backends.triton.context import Context
from graphc.backends.triton.operations import bring, constant, literal
from graphc.backends.triton.source import DTYPE_TEXT, Tile
from graphc.backends.triton.tile_ops import Number, States, TileOps, combiner_text
from graphc.kernel.build import result_dtypes
from graphc.kernel.monoids import MONOIDS, fitted
from graphc.kernel.terms import Contract, Reduction, Result, Scan, Term
from graphc.nest import Folding, Pass
from graphc.records import dataclass
from graphc.types import DType, bool_, int32

__all__ = ["Folds", "state_dtypes"]

#: monoids whose states may be kept for a whole tile and collapsed at the end
_DEFERRED = {"sum": "+", "prod": "*", "max": "max", "min": "min"}
#: least extent of each side of a tile that the matrix units take
_LEAST_DOT = 16
_DOT_OPERANDS = {"f32", "f16", "bf16"}


def state_dtypes(member: Folding | Scan) -> tuple[DType, ...]:
    """The dtypes of the states of a reduction, scan or contraction."""
    if isinstance(member, Contract):
        return (member.dtype,)
    merge = isinstance(member, Reduction) and member.merge
    return result_dtypes(member.monoid, member.args, merge)


@dataclass
class _Running:
    """A pass that is open: its accumulators or, where nothing loops, its results."""

    loops: bool
    tests: Tile | None = None
    states: dict[tuple[Folding, int], Tile] = field(default_factory=dict)
    before: dict[Folding, Tile] = field(default_factory=dict)
    deferred: set[Folding] = field(default_factory=set)


class Folds:
    """The folding part of an emitter; ``precision`` is that of f32 products on matrix units."""

    def __init__(self, context: Context, precision: str = "ieee") -> None:
        self.k, self.precision = context, precision
        self.running: dict[Pass, _Running] = {}
        self.combiners: dict[str, str] = {}
        self.carried: dict[Scan, States] = {}

    # -- passes
    def begin(self, trip: Pass, looped: Sequence[str]) -> None:
        """Start the accumulators, where some of the axes (``looped``) are not held in one tile."""
        run = self.running[trip] = _Running(bool(looped))
        if not looped:
            return
        for member in trip.members:
            tiled = tuple(a for a in trip.over if self.k.tile.get(a, 1) > 1)
            if self._may_defer(member, trip) and tiled:
                run.deferred.add(member)
            for n, dtype in enumerate(state_dtypes(member)):
                held = trip.held.get((member, n))
                axes = member.axes | frozenset(() if held is None else held.axes)
                self._start(run, trip, member, n, dtype, axes)

    def _may_defer(self, member: Folding, trip: Pass) -> bool:
        if isinstance(member, Contract) or trip.held:
            return False
        return member.monoid in _DEFERRED and state_dtypes(member)[0] is not bool_

    def _start(
        self, run: _Running, trip: Pass, member: Folding, n: int, dtype: DType,
        axes: frozenset[str],
    ) -> None:
        k = self.k
        sizes = {a: k.tile.get(a, 1) for a in axes}
        if member in run.deferred:
            sizes |= {a: k.tile.get(a, 1) for a in trip.over}
        dims = tuple(sorted((a for a, size in sizes.items() if size > 1), key=k.rank))
        shape = "[" + ", ".join(str(sizes[a]) for a in dims) + "]"
        start = literal(self._identity(member, n))
        text = f"tl.full({shape}, {start}, {DTYPE_TEXT[dtype.short]})"
        name = k.source.accumulator(self._label(member, n), text)
        run.states[member, n] = Tile(name, dtype, dims)

    def _label(self, member: Folding, n: int) -> str:
        for term, name in self.k.names.items():
            if term is member or (
                isinstance(term, Result) and term.of is member and term.index == n
            ):
                return name
        return "total"

    def _identity(self, member: Folding, n: int) -> Number:
        dtypes = state_dtypes(member)
        if isinstance(member, Contract):
            return fitted(0, member.dtype)
        return fitted(MONOIDS[member.monoid].identity(dtypes)[n], dtypes[n])

    def update(self, trip: Pass) -> None:
        """Fold the tiles at the open coordinates into the states."""
        run = self.running[trip]
        for member in trip.members:
            tests = self._tests(trip)
            if isinstance(member, Contract):
                self._multiply(run, trip, member, tests)
                continue
            flat = [n for n in range(len(state_dtypes(member))) if (member, n) not in trip.held]
            ops = TileOps(self, trip.over, tests)
            args = [n for n in range(len(member.args)) if (member, n) not in trip.held]
            tile = tuple(self.k.value(member.args[n]) for n in args)
            if member in run.deferred:
                self._defer(run, member, ops, tile[0])
                continue
            old = tuple(run.states[member, n] for n in flat) if run.loops else ()
            if run.loops and any(m is member for m, _ in trip.held):
                name = self.k.source.fresh(f"{old[0].text}_before")
                self.k.source.line(f"{name} = {old[0].text}")
                old = (Tile(name, old[0].dtype, old[0].axes), *old[1:])
            run.before[member] = old[0] if old else tile[0]
            self._settle(run, member, flat, self._folded(member, ops, old, tile))

    def update_held(self, trip: Pass, member: Folding, n: int) -> None:
        """Fold a tile into a held state, with the key state of before."""
        assert isinstance(member, Reduction)
        run = self.running[trip]
        ops = TileOps(self, trip.over, self._tests(trip))
        tile = (self.k.value(member.args[0]), self.k.value(member.args[n]))
        old = (run.before[member], run.states[member, n]) if run.loops else ()
        self._settle(run, member, [n], self._folded(member, ops, old, tile)[1:])

    def _folded(self, member: Reduction, ops: TileOps, old: States, tile: States) -> States:
        monoid = MONOIDS[member.monoid]
        if member.merge:
            identity = monoid.identity([t.dtype for t in tile])
            states = ops.rtree(member.monoid, tile, identity)
        else:
            states = monoid.collapse(ops, tile)
        states = tuple(self.k.named(s, self._label(member, n)) for n, s in enumerate(states))
        return monoid.merge(ops, old, states) if old else states

    def _settle(
        self, run: _Running, member: Folding, numbers: Sequence[int], states: Sequence[Tile]
    ) -> None:
        """Assign the accumulators, all from the old ones, or keep the results."""
        if not run.loops:
            for n, state in zip(numbers, states, strict=True):
                run.states[member, n] = self.k.named(state, self._label(member, n))
            return
        if len(states) > 1:
            states = [self.k.named(s, "new") for s in states]
        for n, state in zip(numbers, states, strict=True):
            self.assign(run.states[member, n], state)

    def assign(self, accumulator: Tile, value: Tile) -> None:
        text = self.k.broadcast(value, accumulator.axes)
        self.k.source.line(f"{accumulator.text} = {text}")

    def _defer(self, run: _Running, member: Reduction, ops: TileOps, tile: Tile) -> None:
        state = run.states[member, 0]
        masked = ops.mask(tile, MONOIDS[member.monoid].identity([state.dtype])[0])
        self.assign(state, ops.op(_DEFERRED[member.monoid], state, masked))

    def end(self, trip: Pass, bind: Callable[[Term, Tile], None]) -> None:
        """Collapse what was deferred, and bind the results."""
        run = self.running.pop(trip)
        for (member, n), state in run.states.items():
            if member in run.deferred:
                assert isinstance(member, Reduction)
                ops = TileOps(self, trip.over, [])
                state = MONOIDS[member.monoid].collapse(ops, (state,))[0]
                state = self.k.named(state, self._label(member, n))
            if isinstance(member, Contract):
                bind(member, state)
                continue
            for term in self.k.kernel.terms:
                if isinstance(term, Result) and term.of is member and term.index == n:
                    bind(term, state)

    def _tests(self, trip: Pass) -> list[Tile]:
        """What makes an element of the pass count: existing points, and the predicate."""
        tests = [self.k.coordinates[a].valid for a in trip.over]
        if trip.where is not None:
            tests.append(self.k.value(trip.where))
        return [t for t in tests if t is not None]

    # -- contractions
    def _multiply(
        self, run: _Running, trip: Pass, member: Contract, tests: Sequence[Tile]
    ) -> None:
        old = run.states[member, 0] if run.loops else None
        operands = []
        for term in (member.a, member.b):
            tile = self.k.value(term)
            keeps = tile.dtype.short in _DOT_OPERANDS and member.dtype.short == "f32"
            if tile.dtype != member.dtype and not (keeps and member.a.dtype == member.b.dtype):
                tile = self.k.apply(member.dtype.short, [tile], member.dtype)
            operands.append(tile)
        total = self.product(operands[0], operands[1], trip.over, tests, member.dtype, old)
        if run.loops:
            assert old is not None
            self.assign(old, total)
        else:
            run.states[member, 0] = self.k.named(total, self._label(member, 0))

    def product(
        self, a: Tile, b: Tile, over: Sequence[str], tests: Sequence[Tile], dtype: DType,
        old: Tile | None = None,
    ) -> Tile:
        """The sum of a*b over some axes, ``old`` added: on matrix units where the shapes allow."""
        dims = tuple(x for x in over if x in {*a.axes, *b.axes})
        sides = self._sides(a, b, dims, tests, dtype)
        if sides is not None:
            return self._dot(*sides, dims[0], tests, dtype, old)
        ops = TileOps(self, over, tests)
        wide = [t if t.dtype == dtype else self.k.apply(dtype.short, [t], dtype) for t in (a, b)]
        product = self.k.named(ops.op("*", *wide), "product")
        total = ops.rsum(ops.mask(product, 0))
        return total if old is None else ops.op("+", old, total)

    def _sides(
        self, a: Tile, b: Tile, dims: tuple[str, ...], tests: Sequence[Tile], dtype: DType
    ) -> tuple[Tile, Tile] | None:
        """The operands as left and right of a matrix product; None where they are not ones."""
        if len(a.axes) != 2 or len(b.axes) != 2 or len(dims) != 1 or dims[0] not in a.axes:
            return None
        rows, columns = ({*t.axes} - {*dims} for t in (a, b))
        sizes = [self.k.coordinates[x].size for x in (*rows, *columns, *dims)]
        same = a.dtype == b.dtype and a.dtype.short in _DOT_OPERANDS and dtype.short == "f32"
        if rows == columns or dims[0] not in b.axes or min(sizes) < _LEAST_DOT or not same:
            return None
        fits = all({*t.axes} <= {*a.axes} or {*t.axes} <= {*b.axes} for t in tests)
        if not fits:
            return None
        return (a, b) if self.k.rank(*rows) < self.k.rank(*columns) else (b, a)

    def _dot(
        self, left: Tile, right: Tile, over: str, tests: Sequence[Tile], dtype: DType,
        old: Tile | None,
    ) -> Tile:
        masked = [self._masked_operand(t, over, tests, n) for n, t in enumerate((left, right))]
        masked = self._mask_by_predicate(masked, over, tests)
        texts = []
        for tile, place in zip(masked, (1, 0), strict=True):
            tile = self.k.named(tile, "operand")
            texts.append(tile.text if tile.axes[place] == over else f"tl.trans({tile.text})")
        axes = tuple(next(a for a in t.axes if a != over) for t in masked)
        more = "" if old is None else f", acc={old.text}"
        precision = f', input_precision="{self.precision}"' if left.dtype.short == "f32" else ""
        return Tile(f"tl.dot({texts[0]}, {texts[1]}{more}{precision})", dtype, axes)

    def _masked_operand(
        self, tile: Tile, over: str, tests: Sequence[Tile], number: int
    ) -> Tile:
        """0 past the end of the summed axis: 0 times garbage could be NaN."""
        valid = self.k.coordinates[over].valid
        if valid is None or over in tile.zero_outside:
            return tile
        zero = constant(0, tile.dtype)
        return self.k.apply("where", [valid, tile, zero], tile.dtype)

    def _mask_by_predicate(
        self, sides: list[Tile], over: str, tests: Sequence[Tile]
    ) -> list[Tile]:
        """The predicate, on the one operand that has its axes."""
        valid = self.k.coordinates[over].valid
        for test in tests:
            if valid is not None and test.text == valid.text:
                continue
            n = 0 if {*test.axes} <= {*sides[0].axes} else 1
            zero = constant(0, sides[n].dtype)
            sides[n] = self.k.apply("where", [test, sides[n], zero], sides[n].dtype)
        return sides

    # -- scans
    def begin_scan(self, scan: Scan) -> None:
        """Start the states that are carried from tile to tile."""
        k, dims = self.k, self.k.dimensions(scan.axes - {scan.over})
        dtypes = state_dtypes(scan)
        starts = MONOIDS[scan.monoid].identity(dtypes)
        states = []
        for dtype, start in zip(dtypes, starts, strict=True):
            full = f"tl.full({k.shape(dims)}, {literal(fitted(start, dtype))}, "
            name = k.source.accumulator("carried", full + f"{DTYPE_TEXT[dtype.short]})")
            states.append(Tile(name, dtype, dims))
        self.carried[scan] = tuple(states)

    def end_scan(self, scan: Scan) -> None:
        del self.carried[scan]

    def scan(self, scan: Scan) -> list[Tile]:
        """The running states along the axis, in the open tile; what was before it is carried."""
        tiles = self._scanned(scan)
        carried = self.carried.get(scan)
        if carried is None:
            return tiles
        ops = TileOps(self, (scan.over,), [])
        merged = MONOIDS[scan.monoid].merge(ops, carried, tuple(tiles))
        kept = [
            self.k.named(Tile(f"({t.text})", t.dtype, t.axes), self._scan_label(scan, n))
            for n, t in enumerate(merged)
        ]
        last = [self._last(t, scan) for t in kept]
        for state, tile in zip(carried, last, strict=True):
            self.assign(state, tile)
        return kept

    def _last(self, tile: Tile, scan: Scan) -> Tile:
        """What a running state is behind the last point of the open tile."""
        k, size = self.k, self.k.coordinates[scan.over].size
        if size == 1:
            return tile
        axes, place = tile.axes, tile.axes.index(scan.over)
        points = Tile(f"tl.arange(0, {size})", int32, (scan.over,))
        at = 0 if scan.reverse else size - 1
        hit = f"({bring(k.named(points, 'point'), axes)} == {at})"
        wide = tile.text if tile.dtype is not bool_ else f"({tile.text}).to(tl.int32)"
        one = k.source.let(f"tl.where({hit}, {wide}, 0)", "one")
        total, text = f"tl.sum({one}, axis={place})", DTYPE_TEXT[tile.dtype.short]
        found = f"({total} != 0)" if tile.dtype is bool_ else f"({total}).to({text})"
        return k.named(Tile(found, tile.dtype, tuple(a for a in axes if a != scan.over)), "last")

    def _scanned(self, scan: Scan) -> list[Tile]:
        """The running states from the first point of the open tile on."""
        k = self.k
        tests = [k.coordinates[scan.over].valid]
        ops = TileOps(self, (scan.over,), [t for t in tests if t is not None])
        dtypes = state_dtypes(scan)
        identity = MONOIDS[scan.monoid].identity(dtypes)
        masked = [
            ops.mask(k.wide(k.value(term)), start)
            for term, start in zip(scan.args, identity, strict=True)
        ]
        axes = k.dimensions(scan.axes | {scan.over})
        if scan.over not in axes:  # a single point: its element is the state
            return [k.named(t, "state") for t in masked]
        texts = [k.named(Tile(k.broadcast(t, axes), t.dtype, axes), "element").text for t in masked]
        combine = self.combiner(scan.monoid, dtypes)
        place = axes.index(scan.over)
        operand = texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
        call = f"tl.associative_scan({operand}, {place}, {combine}, reverse={scan.reverse})"
        names = [k.source.fresh(self._scan_label(scan, n)) for n in range(len(texts))]
        k.source.line(f"{', '.join(names)} = {call}")
        return [Tile(t, d, axes) for t, d in zip(names, dtypes, strict=True)]

    def _scan_label(self, scan: Scan, n: int) -> str:
        for term, name in self.k.names.items():
            if isinstance(term, Result) and term.of is scan and term.index == n:
                return name
        return "running"

    def combiner(self, monoid: str, dtypes: Sequence[DType]) -> str:
        """A function that merges two states, written above the kernel once."""
        name = "_".join(["merge", monoid, *(d.short for d in dtypes)])
        if name not in self.combiners:
            self.combiners[name] = combiner_text(name, monoid, dtypes)
        return name
