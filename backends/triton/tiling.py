"""Choosing a Tiling on a GPU: what a block of the grid holds in its tile, and what it loops over.

A tile's sides are powers of two. Axes that a block must hold whole: scanned ones, those of states
that have more axes than their reduction (an attention head's channels), and reduced ones that
several reductions pass over, if they are short. Contractions get tiles for matrix units; all else a
tile of some thousand points, filled from the axis along which addresses are contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import field

from graphc.backends.triton.access import flat_offset
from graphc.kernel.terms import Contract, Kernel, Load, Reduction, Result, Scan, Store, Term
from graphc.nest import Folding, Tiling
from graphc.nest.analysis import fills_overlap, folding_dependencies
from graphc.records import dataclass
from graphc.types import Extent

__all__ = ["GpuTiling", "choose_tiling", "fits_whole"]

#: what a run-time extent counts as
_UNKNOWN_EXTENT = 1024
#: points of a tile that a block of four warps holds in registers with room to spare
_TILE_POINTS = 4096
#: the longest axis that a block holds whole for several passes, and for a scan
_LONGEST_ROW, _LONGEST_SCAN = 16384, 65536
#: programs that keep the largest of the targets busy
_PROGRAMS = 132
_DOT = {"f32", "f16", "bf16"}


@dataclass(frozen=True)
class GpuTiling:
    """A nest's tiling with how a block runs it: ``warps`` of 32 threads, ``stages`` of loads ahead
    in loops, ``group`` rows of blocks that follow each other down the columns.
    """

    nest: Tiling
    warps: int = 4
    stages: int = 3
    group: int = 1

    def __str__(self) -> str:
        return f"{self.nest}; warps {self.warps}; stages {self.stages}; group {self.group}"


def fits_whole(extent: Extent, tile: int) -> bool:
    """Whether one tile holds an axis.

    >>> fits_whole(10, 16), fits_whole(17, 16)
    (True, False)
    """
    return isinstance(extent, int) and 1 <= extent <= tile


def choose_tiling(kernel: Kernel, precision: str = "ieee") -> GpuTiling:
    """A good tiling from the kernel's indices and extents alone: the same on every run.

    ``precision`` says whether f32 contractions run on matrix units ("tf32") or not ("ieee").
    """
    plan = _Plan(kernel, precision)
    products = plan.products()
    return plan.for_products(products) if products else plan.for_rows()


def _power(extent: int) -> int:
    return 1 << max(0, extent - 1).bit_length()


@dataclass(frozen=True)
class _Product:
    """A contraction as a matrix product: its three tiled axes, and whether others need it."""

    of: Folding
    m: str
    n: str
    k: str
    inner: bool
    itemsize: int
    single: bool


@dataclass
class _Plan:
    kernel: Kernel
    precision: str
    tile: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kernel = self.kernel
        self.axes = [a for a, _ in kernel.axes]
        self.parallel = [] if fills_overlap(kernel) else list(kernel.parallel)
        self.foldings: list[Folding] = [
            t for t in kernel.terms if isinstance(t, (Reduction, Contract))
        ]
        self.needs = folding_dependencies(kernel.terms)
        self.sequential = self._sequential()
        self.required = self._required()
        self.contiguity = self._contiguity()

    def extent(self, axis: str) -> int:
        extent = self.kernel.extents[axis]
        return max(1, extent) if isinstance(extent, int) else _UNKNOWN_EXTENT

    def is_fixed(self, axis: str) -> bool:
        return isinstance(self.kernel.extents[axis], int)

    def _sequential(self) -> set[str]:
        """Axes whose points add to one element one after the other."""
        found: set[str] = set()
        for store in self.kernel.stores:
            if store.add:
                found |= store.axes - set(self.kernel.parallel)
        plain = {t.axis for s in self.kernel.stores for t in s.index if hasattr(t, "axis")}
        return {a for a in found if a not in plain}

    def _required(self) -> set[str]:
        """Axes that a block must hold whole."""
        found: set[str] = set()
        for term in self.kernel.terms:
            if isinstance(term, Scan):
                found.add(term.over)
            elif isinstance(term, Result) and isinstance(term.of, Reduction):
                found |= term.axes - term.of.axes
        return found

    def _contiguity(self) -> dict[str, int]:
        """How many accesses move by one element along an axis."""
        counts = dict.fromkeys(self.axes, 0)
        accesses: list[Load | Store] = [t for t in self.kernel.terms if isinstance(t, Load)]
        accesses += self.kernel.stores
        for access in accesses:
            flat = flat_offset(self.kernel.tensors[access.tensor], access.index)
            for axis, step in flat.axes.items():
                counts[axis] += step == 1
        return counts

    # -- contractions
    def products(self) -> list[_Product]:
        """The contractions (and weighted sums of expsum) that are matrix products."""
        found = []
        inner = set().union(*(self.needs[f] for f in self.foldings)) if self.foldings else set()
        for folding in self.foldings:
            for a, b in _factors(folding):
                product = self._product(folding, a, b, folding in inner)
                if product is not None:
                    found.append(product)
        return found

    def _product(self, folding: Folding, a: Term, b: Term, inner: bool) -> _Product | None:
        over = set(folding.over)
        sides = (a.axes - b.axes - over, b.axes - a.axes - over, over & a.axes & b.axes)
        chosen = [max(side, key=lambda x: (self.extent(x), x), default=None) for side in sides]
        m, n, k = chosen
        if m is None or n is None or k is None or {m, n, k} & self.sequential:
            return None
        if a.dtype.short not in _DOT or b.dtype.short not in _DOT or a.dtype.short == "f64":
            return None
        single = a.dtype.short == "f32"
        return _Product(folding, m, n, k, inner, a.dtype.itemsize, single)

    def for_products(self, products: list[_Product]) -> GpuTiling:
        tile = self.tile
        outer = [p for p in products if not p.inner] or products
        main = max(outer, key=lambda p: math.prod(self.extent(x) for x in (p.m, p.n, p.k)))
        alone = len(products) == 1 and not self.required and not self.several_passes()
        sizes = self._matrix_tile(main, alone)
        for axis, size in zip((main.m, main.n, main.k), sizes, strict=True):
            tile[axis] = size
        for product in products:
            for axis in (product.m, product.n, product.k):
                whole = min(128, max(16, _power(self.extent(axis))))
                reduced = axis in product.of.over
                tile.setdefault(axis, whole if reduced and product.inner else min(64, whole))
        self._hold_whole(least=16)
        self._fit_registers(products)
        points = tile[main.m] * tile[main.n]
        warps = 8 if points >= 128 * 128 or (not alone and points >= 128 * 64) else 4
        blocks = self._blocks()
        group = 8 if alone and main.m in blocks and main.n in blocks else 1
        order = [a for a in self.axes if a not in (main.m, main.n)] + [main.m, main.n]
        nest = Tiling(blocks, dict(tile), order=tuple(order) if group > 1 else ())
        return GpuTiling(nest, warps, 3 if main.single else 4, group)

    def _matrix_tile(self, p: _Product, alone: bool) -> tuple[int, int, int]:
        """Sides of the tile: large, but small enough that every multiprocessor has one."""
        largest = 128 if alone else 64
        m, n = (min(largest, max(16, _power(self.extent(x)))) for x in (p.m, p.n))
        k = min(32 if p.single else 64, max(16, _power(self.extent(p.k))))
        others = math.prod(
            self.extent(a) for a in self.parallel if a not in (p.m, p.n) and a in p.of.axes
        )

        def programs() -> int:
            sides = ((p.m, m), (p.n, n))
            counts = [math.ceil(self.extent(x) / size) for x, size in sides if x in self.parallel]
            return others * math.prod(counts)

        # matrix units of a warp group take 64 rows; the left side is the one that ranks first
        units = not p.single or self.precision == "tf32"
        left = self.axes.index(p.m) < self.axes.index(p.n)
        least_m, least_n = (64 if units and left else 32), (64 if units and not left else 32)
        while programs() < _PROGRAMS and (m > least_m or n > least_n):
            if n > least_n and (n >= m or m <= least_m):
                n //= 2
            else:
                m //= 2
        return m, n, k

    def _fit_registers(self, products: list[_Product]) -> None:
        """Halve parallel tiles until the largest value of a product fits."""
        for p in products:
            sides = [p.m, p.n]
            while math.prod(self.tile[a] for a in sides) > 128 * 128:
                wide = max((a for a in sides if a in self.parallel), key=self.tile.__getitem__,
                           default=None)
                if wide is None or self.tile[wide] <= 16:
                    break
                self.tile[wide] //= 2

    def several_passes(self) -> set[str]:
        """Bound axes that one reduction passes over and another, or a store, comes back to."""
        found: set[str] = set()
        for folding in self.foldings:
            for need in self.needs[folding]:
                if isinstance(need, (Reduction, Contract)):
                    found |= set(need.over) & set(folding.over)
        for statement in self.kernel.statements:
            for root in statement.operands:
                used = self.needs[root] | ({root} if root in self.foldings else set())
                for need in used:
                    if isinstance(need, (Reduction, Contract)):
                        found |= set(need.over) & statement.axes
        return found

    def _hold_whole(self, least: int = 1) -> None:
        for axis in self.axes:
            if axis in self.required and self.is_fixed(axis):
                self.tile[axis] = max(least, _power(self.extent(axis)))
        for axis in self.several_passes():
            small = self.is_fixed(axis) and self.extent(axis) <= 1024
            if axis in self.tile and small and axis not in self.sequential:
                self.tile[axis] = max(self.tile[axis], _power(self.extent(axis)))

    # -- everything else
    def for_rows(self) -> GpuTiling:
        """Fill a tile: what must be whole, the contiguous axis, reduced axes, then the others."""
        tile, several = self.tile, self.several_passes()
        self._hold_whole()
        budget = _TILE_POINTS
        rows = sorted(several, key=self.extent)
        for axis in rows:
            fits = self.is_fixed(axis) and self.extent(axis) <= _LONGEST_ROW
            if fits and axis not in self.sequential and self._used() * self.extent(axis) <= (
                2 * _LONGEST_ROW
            ):
                tile.setdefault(axis, _power(self.extent(axis)))
        ranked = sorted(self.axes, key=lambda a: (-self.contiguity[a], -self.axes.index(a)))
        bound = self.kernel.bound_axes
        first = next((a for a in ranked if self.contiguity[a]), None)
        if first is not None:
            most = 1024 if first in bound or not bound else 128
            self._grow(first, min(most, budget))
        for axis in [*(a for a in ranked if a in bound), *(a for a in ranked if a not in bound)]:
            if axis not in bound and axis in self.parallel and self._programs() < 4 * _PROGRAMS:
                continue
            self._grow(axis, budget)
        for axis in ranked:  # a narrow tile wastes lanes whatever the grid
            if self._used() < 256:
                self._grow(axis, 256)
        points = self._used()
        warps = 1 if points <= 256 else 4 if points <= 4096 else 8 if points <= 16384 else 16
        return GpuTiling(Tiling(self._blocks(), dict(tile)), warps, 2)

    def _used(self) -> int:
        return math.prod(self.tile.values())

    def _programs(self) -> int:
        return math.prod(
            math.ceil(self.extent(a) / self.tile.get(a, 1)) for a in self.parallel
        )

    def _grow(self, axis: str, budget: int) -> None:
        """Give an axis as large a side as the tile has room for."""
        if axis in self.tile or axis in self.sequential:
            return
        room = max(1, budget // max(1, self._used()))
        size = min(_power(self.extent(axis)), 1 << (room.bit_length() - 1))
        if size > 1:
            self.tile[axis] = size

    def _blocks(self) -> dict[str, int]:
        return {
            a: self.tile.get(a, 1)
            for a in self.parallel
            if not fits_whole(self.kernel.extents[a], self.tile.get(a, 1))
        }


def _factors(folding: Folding) -> Iterable[tuple[Term, Term]]:
    if isinstance(folding, Contract):
        return [(folding.a, folding.b)]
    if folding.monoid == "expsum" and not folding.merge:
        return [(folding.args[0], w) for w in folding.args[1:] if w.axes - folding.args[0].axes]
    return []
