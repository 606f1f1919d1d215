"""Choosing a Tiling on a CPU: which axis runs in lanes, how large the register tile, how the grid
is cut.

Two ways to run a kernel are compared. *Across*: one parallel axis runs in lanes and reductions go
point by point inside it (a GEMM with a contiguous right operand, a column sum). *Along*: each
reduction runs in lanes along one of its own axes and merges them at the end (a row sum, a GEMM of
two operands contiguous along k). Costs are counted in vector instructions; nothing here depends on
the number of threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from graphc.backends.llvm.target import LINE, Target, vector_lanes
from graphc.kernel.terms import Apply, Contract, Kernel, Load, Reduction, Store, Term
from graphc.nest import Folding, Tiling, flat_offset
from graphc.records import dataclass
from graphc.types import Extent

__all__ = ["POLYNOMIALS", "STREAM_BYTES", "Plan", "choose_tiling"]

#: what a run-time extent counts as when costs are compared
_UNKNOWN_EXTENT = 256
#: scalar operations in a block below which cutting finer costs more than it spreads
_BLOCK_WORK = 1 << 14
_MAX_BLOCKS = 256
#: blocks of a kernel that no axis would be cut for otherwise
_FEW_BLOCKS = 8
_HOLD_BYTES = 64 * 1024
#: register tiles that use a panel of the other operand before the next one is fetched, where the
#: nearest cache holds it and where it does not
_NEAR_TILES, _FAR_TILES = 4, 16
_NEAR_PANEL = 16 * 1024
#: outputs of this size leave no room for anything else in the caches
STREAM_BYTES = 16 << 20
#: ops of 20 to 60 instructions on float32, up to 140 on float64; all others take a few
POLYNOMIALS = {
    *("exp", "exp2", "expm1", "log", "log2", "log1p", "tanh", "sigmoid", "erf", "erfc"),
    *("sin", "cos", "tan", "atan", "pow", "bits"),
}
#: operations that take many instructions, or one that takes long
_EXPENSIVE = POLYNOMIALS | {"/", "sqrt", "rsqrt"}


def choose_tiling(kernel: Kernel, target: Target) -> Tiling:
    """A good tiling from the kernel's indices and extents alone: the same on every run."""
    plan = Plan(kernel, target)
    across = min(plan.parallel, key=plan.across_cost, default=None)
    along, along_cost = plan.along()
    if across is not None and plan.across_cost(across) <= along_cost:
        return plan.tiling_across(across)
    return plan.tiling_along(along)


@dataclass(frozen=True)
class _Access:
    """A load or store, and how its address moves along each axis: 1 contiguous, 0 not at all, None
    anyhow.
    """

    axes: frozenset[str]
    steps: dict[str, int | None]

    def step(self, axis: str) -> int | None:
        return self.steps.get(axis, 0)


class Plan:
    """What tilings of one kernel would cost, and the tilings."""

    def __init__(self, kernel: Kernel, target: Target) -> None:
        self.kernel, self.target = kernel, target
        self.lanes = vector_lanes(kernel, target)
        self.parallel = kernel.parallel
        self.foldings = [t for t in kernel.terms if isinstance(t, (Contract, Reduction))]
        self.loads = {t: _access(kernel, t) for t in kernel.terms if isinstance(t, Load)}
        self.stores = [(s, _access(kernel, s)) for s in kernel.stores]
        self.reads = {f: [self.loads[t] for t in _inner_loads(f.operands)] for f in self.foldings}
        self.store_reads = [
            [self.loads[t] for t in _inner_loads(s.operands)] for s, _ in self.stores
        ]
        self.axis_order = [a for a, _ in kernel.axes]

    # -- costs
    def extent(self, axis: str) -> int:
        extent = self.kernel.extents[axis]
        # an empty axis is planned as one point: its loops run zero times whatever their steps are
        return max(1, extent) if isinstance(extent, int) else _UNKNOWN_EXTENT

    def points(self, axes: Iterable[str]) -> float:
        return math.prod(self.extent(a) for a in axes)

    def cost(self, axes: frozenset[str], accesses: list[_Access], lane: str | None) -> float:
        """Instructions to visit all points of some axes with one of them (or none) in lanes."""
        points = self.points(axes)
        if lane is None or lane not in axes:
            return points * (1 + len(accesses))
        extent = max(1, self.extent(lane))
        vectors = points / extent * math.ceil(extent / self.lanes)
        total = vectors
        for access in accesses:
            step = access.step(lane)
            # a register tile reuses what lacks one of its axes
            shared = 4.0 if access.axes < axes else 1.0
            total += (vectors if step in (0, 1) else 2.0 * points) / shared
        return total

    def folding_axes(self, folding: Folding) -> frozenset[str]:
        return folding.axes | frozenset(folding.over)

    def across_cost(self, lane: str) -> float:
        total = sum(self.cost(self.folding_axes(f), self.reads[f], lane) for f in self.foldings)
        for (store, access), reads in zip(self.stores, self.store_reads, strict=True):
            written = [] if self.turned(store, access, lane) else [access]
            total += self.cost(store.axes, [*written, *reads], lane)
        if any(s.add and a.step(lane) != 1 for s, a in self.stores):
            return math.inf  # lanes may meet at one element
        if any(lane in s.axes and a.step(lane) == 0 for s, a in self.stores):
            return math.inf
        return total

    def turned(self, store: Store, access: _Access, lane: str) -> str | None:
        """The axis along which a store whose lanes lie apart is contiguous: blocks of it and the
        lanes are turned in registers (see ``turning``). Of a product it must be the axis that its
        register tile repeats.
        """
        if store.add or store.pred is not None or access.step(lane) in (0, 1):
            return None
        along = [a for a in self.parallel if access.step(a) == 1]
        if self.foldings:
            rows = self.row_axis(lane, [f for f in self.foldings if lane in f.axes])
            return rows if rows in along else None
        return next((a for a in along if self.extent(a) >= self.lanes), None)

    def along(self) -> tuple[frozenset[str], float]:
        """The best axis of each reduction and of each store's own loops."""
        lanes: set[str] = set()
        total = 0.0
        for folding in self.foldings:
            axes = self.folding_axes(folding)
            best = min(folding.over, key=lambda a: (self.cost(axes, self.reads[folding], a), a))
            merge = self.points(folding.axes) * 3 * math.log2(self.lanes)
            with_lanes = self.cost(axes, self.reads[folding], best) + merge
            alone = self.cost(axes, self.reads[folding], None)
            if with_lanes < alone:
                lanes.add(best)
            total += min(with_lanes, alone)
        for (store, access), reads in zip(self.stores, self.store_reads, strict=True):
            free = [
                a
                for a in self.axis_order
                if a in store.axes and self.may_run_in_lanes(a, store, access)
            ]
            costs = {
                a: self.cost(store.axes, [access, *reads], a)
                for a in free
                if a not in self.parallel
            }
            chosen = min(costs, key=costs.__getitem__, default=None)
            alone = self.cost(store.axes, [access, *reads], None)
            if chosen is not None and costs[chosen] < alone:
                lanes.add(chosen)
                total += costs[chosen]
            else:
                total += alone
        return frozenset(lanes), total

    def may_run_in_lanes(self, axis: str, store: Store, access: _Access) -> bool:
        step = access.step(axis)
        return step == 1 if store.add else step != 0

    # -- tilings
    def tiling_across(self, lane: str) -> Tiling:
        tile: dict[str, int] = {}
        vectors = math.ceil(self.extent(lane) / self.lanes)
        budget = self.target.accumulators
        inside = [f for f in self.foldings if lane in f.axes]
        rows = self.row_axis(lane, inside)
        if inside and rows is not None:
            each = max(1, budget // len(inside))
            columns = min(2, vectors, each)
            tile[rows] = max(1, min(each // columns, self.extent(rows)))
            columns = max(columns, min(vectors, each // tile[rows]))
            tile[lane] = columns
            tile |= self.unrolled_points(inside)
        else:
            turned = {self.turned(s, a, lane) for s, a in self.stores}
            if len(turned) == 1 and (axis := turned.pop()) is not None:
                tile[axis] = self.lanes
            else:
                tile[lane] = min(vectors, 4 if inside else self.map_vectors())
        order = [a for a in self.axis_order if a not in (lane, rows)]
        order += [lane] if rows is None else [lane, rows]
        held_back = self.uneven_axes()
        tile = {a: n for a, n in tile.items() if n > 1 and a not in held_back}
        return Tiling(
            self.blocks(tile, lane),
            tile,
            frozenset({lane}),
            tuple(order),
            self.held(),
            self.streamed(),
        )

    def tiling_along(self, lanes: frozenset[str]) -> Tiling:
        tile: dict[str, int] = {}
        product_like = [f for f in self.foldings if isinstance(f, Contract) and set(f.over) & lanes]
        held_back = self.uneven_axes()
        for folding in product_like:
            each = max(1, (9 if self.target.vector_registers <= 16 else 20) // len(product_like))
            tile |= self.product_tile(folding, each)
        for lane in lanes:
            vectors = math.ceil(self.extent(lane) / self.lanes)
            tile.setdefault(lane, 1 if product_like else min(4, vectors))
        tile = {a: n for a, n in tile.items() if n > 1 and a not in held_back}
        order = self.product_order(product_like, tile, lanes)
        return Tiling(
            self.blocks(tile, None), tile, lanes, order, self.held(), self.streamed()
        )

    def product_tile(self, folding: Folding, most: int) -> dict[str, int]:
        """Points of parallel axes to compute at once, at most ``most``, so that the fewest loads
        feed a multiplication; the last axes where several do alike.
        """
        rows = [a for a in self.axis_order if a in folding.axes and a in self.parallel]
        reused = [a for a in rows if any(a not in r.axes for r in self.reads[folding])]
        if len(reused) < 2 or most < 4:
            return {a: min(4, most, self.extent(a)) for a in reused[-1:]}

        def tile_of(m: str, n: str) -> dict[str, int]:
            columns = min(math.isqrt(most), self.extent(n))
            return {n: columns, m: min(max(1, most // columns), self.extent(m))}

        def loads(pair: tuple[str, str]) -> float:
            tile = tile_of(*pair)
            reads = [math.prod(tile[a] for a in pair if a in r.axes) for r in self.reads[folding]]
            return sum(reads) / math.prod(tile.values())

        pairs = list(itertools.combinations(reused, 2))
        return tile_of(*min(reversed(pairs), key=loads))

    def product_order(
        self, product_like: Sequence[Folding], tile: dict[str, int], lanes: frozenset[str]
    ) -> tuple[str, ...]:
        """Loops from the outermost: what a register tile's rows read stays in the caches for all
        points of the other axes that do not move it.
        """
        tiled = [a for a in tile if a in self.parallel][::-1]
        rows = [r for f in product_like for r in self.reads[f] if tiled and tiled[0] in r.axes]
        free = [a for a in self.axis_order if a not in lanes and a not in tiled]
        after = [a for a in free if rows and all(a not in r.axes for r in rows)]
        order = [*(a for a in free if a not in after), *tiled[:1], *after, *tiled[1:]]
        return (*order, *(a for a in self.axis_order if a in lanes))

    def unrolled_points(self, inside: list[Folding]) -> dict[str, int]:
        """Points of reduced axes to run at once: short axes whole, else a few of the innermost."""
        tile: dict[str, int] = {}
        room = 8
        for axis in reversed(self.axis_order):
            if not any(axis in f.over for f in inside):
                continue
            extent = self.extent(axis)
            if extent <= 4 and extent <= room:
                tile[axis] = extent
            elif not tile:
                tile[axis] = 4
            room //= tile.get(axis, room + 1)
        return tile

    def uneven_axes(self) -> set[str]:
        """Axes that loop bounds depend on: a register tile over them would turn the bounds into
        masks.
        """
        found: set[str] = set()
        for folding in self.foldings:
            if folding.where is not None:
                found |= folding.where.axes - set(folding.over)
        return found

    def row_axis(self, lane: str, inside: list[Folding]) -> str | None:
        """The parallel axis that a register tile repeats: what is read in lanes lacks it, so that
        it is read once.
        """
        reads = [r for f in inside for r in self.reads[f]]
        for axis in reversed(self.parallel):
            if axis == lane or not all(axis in f.axes for f in inside):
                continue
            if any(axis in r.axes for r in reads) and all(
                axis not in r.axes for r in reads if lane in r.axes
            ):
                return axis
        return None

    def map_vectors(self) -> int:
        heavy = sum(1 for t in self.kernel.terms if isinstance(t, Apply) and t.op in _EXPENSIVE)
        return 1 if heavy > 3 else 2 if heavy or len(self.kernel.terms) > 24 else 4

    def work(self) -> float:
        """Scalar operations of the whole kernel, roughly."""
        total = sum(self.points(self.folding_axes(f)) * 2 for f in self.foldings)
        for (store, _), reads in zip(self.stores, self.store_reads, strict=True):
            total += self.points(store.axes) * (2 + len(reads))
        heavy = [t for t in self.kernel.terms if isinstance(t, Apply) and t.op in _EXPENSIVE]
        return total + sum(10 * self.points(t.axes) for t in heavy)

    def blocks(self, tile: dict[str, int], lane: str | None) -> dict[str, int]:
        """Cut parallel axes, outermost first, until there are enough blocks or they would be too
        small.
        """
        most_blocks = (
            _MAX_BLOCKS // 4 if any(isinstance(f, Contract) for f in self.foldings) else _MAX_BLOCKS
        )
        wanted = max(1, min(most_blocks, int(self.work() // _BLOCK_WORK)))
        rows = [a for a in self.parallel if a != lane]
        blocks: dict[str, int] = {}
        for axis in [*rows, *([lane] if lane in self.parallel and lane is not None else [])]:
            fixed = isinstance(self.kernel.extents[axis], int)
            if wanted <= 1 and fixed:
                continue
            unit = tile.get(axis, 1) * (self.lanes if axis == lane else 1)
            units = math.ceil(self.extent(axis) / unit)
            size = math.ceil(units / max(1, min(units, wanted))) * unit
            least, most = self.cache_rows(axis, unit, lane)
            size = min(max(size, least), most)
            if size >= self.extent(axis) and fixed:
                continue
            blocks[axis] = size
            wanted = math.ceil(wanted / max(1, math.ceil(self.extent(axis) / size)))
        return blocks or self.few_blocks(tile, lane)

    def few_blocks(self, tile: dict[str, int], lane: str | None) -> dict[str, int]:
        """One axis cut into a few parts, where a kernel is worth sharing and no axis is so long
        that each part would use the caches well.
        """
        if self.work() < _FEW_BLOCKS * _BLOCK_WORK:
            return {}
        units = {
            a: tile.get(a, 1) * (self.lanes if a == lane else 1)
            for a in self.parallel
            if isinstance(self.kernel.extents[a], int)
        }
        axis = max(units, key=lambda a: self.extent(a) // units[a], default=None)
        if axis is None:
            return {}
        size = math.ceil(self.extent(axis) / (_FEW_BLOCKS * units[axis])) * units[axis]
        size = max(size, self.line_points(axis))
        return {axis: size} if size < self.extent(axis) else {}

    def cache_rows(self, axis: str, unit: int, lane: str | None) -> tuple[int, int]:
        """Least and most points of an axis in a block of a contraction.

        Enough register tiles to use again what the near caches hold of the other operand; at most
        what leaves this operand's part within reach.
        """
        least, most = self.line_points(axis), 1 << 40
        for folding in self.foldings:
            if (
                not isinstance(folding, Contract)
                or axis not in folding.axes
                or axis in folding.over
            ):
                continue
            bytes_a_point = 4 * self.points(folding.over)
            if lane is not None and self.read_together(folding, axis, lane):
                bytes_a_point *= self.extent(lane)
            if unit > 1 and self.points(folding.over) >= 64:
                panel = 2 * self.lanes * bytes_a_point
                least = (_NEAR_TILES if panel <= _NEAR_PANEL else _FAR_TILES) * unit
            most = min(
                most, max(unit, int(2 * self.target.l2_bytes / bytes_a_point) // unit * unit)
            )
        return min(least, most), most

    def read_together(self, folding: Folding, axis: str, lane: str) -> bool:
        """Whether an operand has both axes: a packed one, whose columns are panels and lanes."""
        return axis != lane and any({axis, lane} <= r.axes for r in self.reads[folding])

    def line_points(self, axis: str) -> int:
        """Points that share a line of a store: two workers had better not write to one."""
        sizes = [
            self.kernel.tensors[s.tensor].type.dtype.itemsize
            for s, access in self.stores
            if access.step(axis) == 1
        ]
        return LINE // min(sizes) if sizes else 1

    def streamed(self) -> frozenset[str]:
        """Outputs that would only push other data out of the caches."""
        return frozenset(
            t.name
            for t in self.kernel.outputs
            if isinstance(t.type.nbytes, int) and t.type.nbytes >= STREAM_BYTES and t.init is None
        )

    def held(self) -> frozenset[str]:
        """Definitions worth keeping between passes: dear to compute, read in several loops, small
        enough.
        """
        names = {t: n for n, t in self.kernel.definitions}
        sites: dict[Term, int] = {}
        for root in [*self.foldings, *self.kernel.statements]:
            for term in _inner_terms(root.operands):
                sites[term] = sites.get(term, 0) + 1
        kept: set[str] = set()
        for term, count in sites.items():
            bound = [a for a in term.axes if a in self.kernel.bound_axes]
            if count < 2 or not bound or term not in names or not self.is_dear(term):
                continue
            extents: list[Extent] = [self.kernel.extents[a] for a in bound]
            if (
                all(isinstance(e, int) for e in extents)
                and term.dtype.itemsize * self.points(bound) <= _HOLD_BYTES
            ):
                kept.add(names[term])
        return frozenset(kept)

    def is_dear(self, term: Term) -> bool:
        return isinstance(term, Contract) or (isinstance(term, Apply) and term.op in _EXPENSIVE)


def _access(kernel: Kernel, access: Load | Store) -> _Access:
    flat = flat_offset(kernel.tensors[access.tensor], access.index)
    steps: dict[str, int | None] = {}
    for axis, coefficient in flat.axes.items():
        steps[axis] = 1 if coefficient == 1 else None
    for atom in flat.atoms:
        for axis in atom.axes:
            steps[axis] = None
    return _Access(access.axes, steps)


def _inner_terms(roots: Iterable[Term]) -> list[Term]:
    """The terms computed in the same loop: those reached without passing a reduction."""
    seen: set[Term] = set()
    stack = list(roots)
    while stack:
        term = stack.pop()
        if term in seen:
            continue
        seen.add(term)
        if not isinstance(term, (Reduction, Contract)):
            stack.extend(term.operands)
    return list(seen)


def _inner_loads(roots: Iterable[Term]) -> list[Load]:
    return [t for t in _inner_terms(roots) if isinstance(t, Load)]
