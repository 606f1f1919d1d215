"""Choosing a Tiling on a GPU: what a block of the grid holds in its tile, and what it loops over.

A tile's sides are powers of two. Axes that a block must hold whole: those of states that have more
axes than their reduction (a weighted sum's channels), and, if they are short, scanned ones and
reduced ones that several reductions pass over. Contractions get tiles for matrix units; all else a
tile of some thousand points, filled from the axis along which addresses are contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import field

from graphc.kernel.terms import Contract, Kernel, Load, Reduction, Result, Scan, Store, Term
from graphc.nest import Folding, Tiling, flat_offset
from graphc.nest.analysis import fills_overlap, folding_dependencies
from graphc.records import dataclass
from graphc.types import Extent

__all__ = [
    "GpuTiling",
    "Product",
    "choose_tiling",
    "fits_whole",
    "held_for_scans",
    "matrix_products",
]

#: what a run-time extent counts as
_UNKNOWN_EXTENT = 1024
#: points of a tile that a block of four warps holds in registers with room to spare
_TILE_POINTS = 4096
#: the longest axis that a block holds whole for several passes or a scan
_LONGEST_ROW = 16384
#: points of a longer scanned axis in a tile, along lines in memory and across
_SCANNED, _SCANNED_ACROSS = 2048, 64
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


def held_for_scans(kernel: Kernel, axis: str) -> bool:
    """Whether a block that scans over an axis holds it whole."""
    extent = kernel.extents[axis]
    return isinstance(extent, int) and extent <= _LONGEST_ROW


def choose_tiling(kernel: Kernel, precision: str = "ieee") -> GpuTiling:
    """A good tiling from the kernel's indices and extents alone: the same on every run.

    ``precision`` says whether f32 contractions run on matrix units ("tf32") or not ("ieee").
    """
    plan = _Plan(kernel, precision)
    products = plan.products()
    return plan.for_products(products) if products else plan.for_rows()


def matrix_products(kernel: Kernel) -> list[Product]:
    """The contractions of a kernel that are matrix products."""
    return _Plan(kernel, "ieee").products()


def _power(extent: int) -> int:
    return 1 << max(0, extent - 1).bit_length()


@dataclass(frozen=True)
class Product:
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
        self.scanned = {t.over for t in kernel.terms if isinstance(t, Scan)}
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
        found = {a for a in self.scanned if held_for_scans(self.kernel, a)}
        for term in self.kernel.terms:
            if isinstance(term, Result) and isinstance(term.of, Reduction):
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
    def products(self) -> list[Product]:
        """The contractions (and weighted sums of expsum) that are matrix products."""
        found = []
        inner = set().union(*(self.needs[f] for f in self.foldings)) if self.foldings else set()
        for folding in self.foldings:
            for a, b in _factors(folding):
                product = self._product(folding, a, b, folding in inner)
                if product is not None:
                    found.append(product)
        return found

    def _product(self, folding: Folding, a: Term, b: Term, inner: bool) -> Product | None:
        over = set(folding.over)
        sides = (a.axes - b.axes - over, b.axes - a.axes - over, over & a.axes & b.axes)
        chosen = [max(side, key=lambda x: (self.extent(x), x), default=None) for side in sides]
        m, n, k = chosen
        if m is None or n is None or k is None or {m, n, k} & self.sequential:
            return None
        if a.dtype.short not in _DOT or b.dtype.short not in _DOT or a.dtype.short == "f64":
            return None
        single = a.dtype.short == "f32"
        return Product(folding, m, n, k, inner, a.dtype.itemsize, single)

    def for_products(self, products: list[Product]) -> GpuTiling:
        tile = self.tile
        outer = [p for p in products if not p.inner] or products
        main = max(outer, key=lambda p: math.prod(self.extent(x) for x in (p.m, p.n, p.k)))
        held = self.required | self.scanned
        alone = len(products) == 1 and not held and not self.several_passes()
        shape = self._alone(main) if alone else self._together(products, main)
        left, right = sorted((main.m, main.n), key=self.axes.index)
        for axis, size in zip((left, right, main.k), shape[:3], strict=True):
            tile[axis] = size
        for product in products:
            for axis in (product.m, product.n, product.k):
                whole = min(128, max(16, _power(self.extent(axis))))
                reduced = axis in product.of.over
                tile.setdefault(axis, whole if reduced and product.inner else min(64, whole))
        self._hold_whole(least=16)
        self._fit_registers(products)
        blocks = self._blocks()
        group = 8 if alone and main.m in blocks and main.n in blocks else 1
        order = [a for a in self.axes if a not in (main.m, main.n)] + [left, right]
        nest = Tiling(blocks, dict(tile), order=tuple(order) if group > 1 else ())
        return GpuTiling(nest, shape[3], shape[4], group)

    def uses_units(self, product: Product) -> bool:
        """Whether it runs on matrix units."""
        return not product.single or self.precision == "tf32"

    def _alone(self, p: Product) -> tuple[int, int, int, int, int]:
        """Left, right and summed side of a product's tile, warps and stages: as large as leaves
        every multiprocessor one.
        """
        left, right = sorted((p.m, p.n), key=self.axes.index)
        units = self.uses_units(p)
        shapes = [(128, 256, 64, 8, 3), (128, 128, 64, 4, 5)] if not p.single else (
            [(128, 256, 32, 8, 4), (128, 128, 32, 4, 4)] if units else [(64, 128, 32, 4, 3)]
        )
        for shape in shapes:
            m, n, k, warps, stages = shape
            if self._product_programs(p, left, m, right, n) >= _PROGRAMS:
                break
        m, n = min(m, self._side(left)), min(n, self._side(right))
        least_m, least_n = (64 if units else 16), (32 if units else 16)
        while self._product_programs(p, left, m, right, n) < _PROGRAMS:
            if n > least_n and (n >= m or m <= least_m):
                n //= 2
            elif m > least_m:
                m //= 2
            else:
                break
        if m * n <= 64 * 64 and not units:  # fewer, longer steps where each has little to do
            k = min(128, 1 << ((4096 // (m + n)).bit_length() - 1))
        if m * n < 64 * 128:
            warps = 4
        return m, n, min(k, self._side(p.k)), warps, stages

    def _together(self, products: list[Product], main: Product) -> tuple[int, int, int, int, int]:
        """The same for one of several products in a block, or one whose rows are reduced again."""
        left, right = sorted((main.m, main.n), key=self.axes.index)
        units = self.uses_units(main)
        m, n, warps = (128, 64, 8) if units and len(products) <= 2 else (64, 32, 4)
        k = 64 if units else 32
        m, n = min(m, self._side(left)), min(n, self._side(right))
        while self._product_programs(main, left, m, right, n) < _PROGRAMS and m > 16:
            m //= 2
        return m, n, min(k, self._side(main.k)), warps if m * n >= 64 * 64 else 4, 3

    def _side(self, axis: str) -> int:
        return max(16, _power(self.extent(axis)))

    def _product_programs(self, p: Product, left: str, m: int, right: str, n: int) -> int:
        others = math.prod(
            self.extent(a) for a in self.parallel if a not in (left, right) and a in p.of.axes
        )
        sides = ((left, m), (right, n))
        counts = [math.ceil(self.extent(x) / size) for x, size in sides if x in self.parallel]
        return others * math.prod(counts)

    def _fit_registers(self, products: list[Product]) -> None:
        """Halve parallel tiles until the largest value of a product fits."""
        for p in products:
            sides = [p.m, p.n]
            while math.prod(self.tile[a] for a in sides) > 128 * 256:
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
            elif axis in self.scanned:
                self.tile[axis] = _SCANNED if self.contiguity[axis] else _SCANNED_ACROSS
        for axis in sorted(self.several_passes(), key=self.axes.index):
            small = self.is_fixed(axis) and self.extent(axis) <= 1024
            if axis in self.tile and small and axis not in self.sequential:
                self.tile[axis] = max(self.tile[axis], _power(self.extent(axis)))

    # -- everything else
    def for_rows(self) -> GpuTiling:
        """Fill a tile: what must be whole, the contiguous axis, reduced axes, then the others."""
        tile, several = self.tile, self.several_passes()
        self._hold_whole()
        budget = _TILE_POINTS
        rows = sorted(several, key=lambda a: (self.extent(a), self.axes.index(a)))
        for axis in rows:
            fits = self.is_fixed(axis) and self.extent(axis) <= _LONGEST_ROW
            if fits and axis not in self.sequential and self._used() * self.extent(axis) <= (
                2 * _LONGEST_ROW
            ):
                tile.setdefault(axis, _power(self.extent(axis)))
        ranked = sorted(self.axes, key=lambda a: (-self.contiguity[a], -self.axes.index(a)))
        bound = self.kernel.bound_axes
        contiguous = [a for a in ranked if self.contiguity[a]]
        if len(contiguous) > 1 and not bound:  # a transposition: lines of both sides
            for axis in contiguous[:2]:
                self._grow(axis, self._used() * 32)
        for axis in contiguous[:1]:
            most = 1024 if axis in bound or not bound else 128
            while most > 32 and axis not in bound and bound and self._would_be(axis, most) < (
                _PROGRAMS
            ):
                most //= 2
            self._grow(axis, min(most, budget))
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

    def _would_be(self, axis: str, size: int) -> int:
        """Programs, were an axis tiled so."""
        return math.prod(
            math.ceil(self.extent(a) / (size if a == axis else self.tile.get(a, 1)))
            for a in self.parallel
        )

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
