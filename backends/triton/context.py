"""The state of one kernel's emission: coordinates, scopes, and where each term's value is.

An axis that is open has a ``Coordinate``: a scalar, or a range of points which then is a dimension
of every value that depends on the axis. Dimensions stand in the kernel's order of axes. A value
belongs to the coordinates it was computed at; it is found again as long as they are open and its
block is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from graphc.backends.triton.operations import (
    NARROW_OPS,
    bring,
    constant,
    joined_axes,
    scalar_op,
)
from graphc.backends.triton.source import DTYPE_TEXT, Source, Tile
from graphc.errors import KernelError
from graphc.kernel.bounds import interval
from graphc.kernel.linear import numeric_bounds
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Const,
    Kernel,
    ScalarValue,
    SizeValue,
    Term,
)
from graphc.nest import affine
from graphc.records import dataclass
from graphc.types import Dim, DType, Extent, Quotient, int64

__all__ = ["LARGEST", "Context", "Coordinate", "extent_text", "most_elements"]

#: the largest number of 32 bits
LARGEST = 2**31 - 1
#: longer expressions get a line of their own
_LONGEST = 60
_ALWAYS_WIDE = {"&", "|", "^", "~", "<<", ">>", "pow", "+", "-", "*", "neg", "abs", "sign"}


@dataclass(frozen=True, eq=False)
class Coordinate:
    """Where an open axis is: ``size`` points (1: a scalar), those of them that exist."""

    axis: str
    text: str
    size: int
    valid: Tile | None = None


def extent_text(extent: Extent, names: Mapping[str, str]) -> str:
    """A size as an expression of the kernel's size arguments.

    >>> extent_text(4 * Dim("B") + 1, {"B": "B"})
    '(4 * B + 1)'
    """
    if isinstance(extent, int):
        return str(extent)
    if isinstance(extent, Dim):
        return names[extent.name]
    parts = []
    for monomial, coefficient in extent.monomials.items():
        factors = [str(coefficient)] if coefficient != 1 or not monomial else []
        for atom in monomial:
            if isinstance(atom, Dim):
                factors.append(names[atom.name])
            else:
                sign = "//" if isinstance(atom, Quotient) else "%"
                factors.append(f"({extent_text(atom.size, names)} {sign} {atom.by})")
        parts.append(" * ".join(factors))
    return f"({' + '.join(parts)})"


def most_elements(shape: Sequence[Extent], bounds: Mapping[str, int | None]) -> int | None:
    """The most elements that a tensor can have; None where some size has no bound.

    >>> b = Dim("B")
    >>> most_elements((b, 3), {"B": 10}), most_elements((b, 3), {"B": None})
    (30, None)
    """
    total: Extent = math.prod(shape)
    if isinstance(total, int):
        return total
    dims = {total} if isinstance(total, Dim) else total.dims
    known = {d: bound for d in dims if (bound := bounds[d.name]) is not None}
    if len(known) < len(dims):
        return None
    if isinstance(total, Dim):
        return known[total]
    value = total.evaluate(known)
    assert isinstance(value, int)
    return value


class Context:
    """One kernel being written."""

    def __init__(self, kernel: Kernel, tile: Mapping[str, int], source: Source) -> None:
        self.kernel, self.tile, self.source = kernel, tile, source
        self.place = {a: n for n, (a, _) in enumerate(kernel.axes)}
        self.names = {term: name for name, term in kernel.definitions}
        self.coordinates: dict[str, Coordinate] = {}
        self.pointers: dict[str, str] = {}
        self.sizes: dict[str, str] = {}
        self.scalars: dict[str, Tile] = {}
        self.uses = _count_uses(kernel)
        self._values: list[dict[Term, list[tuple[tuple[Coordinate, ...], Tile]]]] = [{}]

    # -- scopes
    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        with self.source.block(header):
            self._values.append({})
            yield
            self._values.pop()

    @contextmanager
    def at(self, coordinate: Coordinate) -> Iterator[None]:
        """The axis is open there."""
        hidden = self.coordinates.get(coordinate.axis)
        self.coordinates[coordinate.axis] = coordinate
        yield
        del self.coordinates[coordinate.axis]
        if hidden is not None:
            self.coordinates[coordinate.axis] = hidden

    def rank(self, axis: str) -> int:
        return self.place[axis]

    def dimensions(self, axes: frozenset[str] | Sequence[str]) -> tuple[str, ...]:
        """Those of the axes that are open over more than one point, in order."""
        open_ones = (a for a in axes if a in self.coordinates and self.coordinates[a].size > 1)
        return tuple(sorted(open_ones, key=self.rank))

    def shape(self, axes: Sequence[str]) -> str:
        return "[" + ", ".join(str(self.coordinates[a].size) for a in axes) + "]"

    def extent(self, extent: Extent) -> str:
        return extent_text(extent, self.sizes)

    # -- values
    def _here(self, term: Term) -> tuple[Coordinate, ...]:
        return tuple(self.coordinates[a] for a in sorted(term.axes) if a in self.coordinates)

    def find(self, term: Term) -> Tile | None:
        """The value of a term at the open coordinates, where it was computed."""
        here = self._here(term)
        for values in reversed(self._values):
            for where, tile in values.get(term, ()):
                if where == here:
                    return tile
        return None

    def bind(self, term: Term, tile: Tile) -> None:
        self._values[-1].setdefault(term, []).append((self._here(term), tile))

    def value(self, term: Term) -> Tile:
        """The value of a term; KernelError where the nest forgot to compute it."""
        match term:
            case Const():
                return constant(term.value, term.dtype)
            case AxisIndex():
                return self.index(term.axis)
            case SizeValue():
                if isinstance(term.extent, int):
                    return constant(term.extent, int64)
                return Tile(self.extent(term.extent), int64)
            case ScalarValue():
                return self.scalars[term.name]
        found = self.find(term)
        if found is None:
            raise KernelError(
                f"{self.kernel.name}: a value is used before it is computed (a fault of the nest)"
            )
        return found

    def index(self, axis: str) -> Tile:
        c = self.coordinates[axis]
        dims = (axis,) if c.size > 1 else ()
        return Tile(c.text, int64, dims, narrow=not self.is_large(axis))

    def is_large(self, axis: str) -> bool:
        """Whether places on an axis may need 64 bits."""
        return self.exceeds((self.kernel.extents[axis],))

    def exceeds(self, shape: Sequence[Extent]) -> bool:
        """Whether a tensor may have more elements than 32 bits count. Sizes without a bound are
        taken to be small: what binds them refuses others.
        """
        bounds = {s.name: s.max for s in self.kernel.sizes}
        elements = most_elements(shape, bounds)
        return elements is not None and elements > LARGEST

    def name(self, term: Term, tile: Tile, hint: str = "t") -> Tile:
        """The tile with a line of its own, where the kernel's text names it or it is used again."""
        label = self.names.get(term)
        if label is None and self.uses.get(term, 0) <= 1 and len(tile.text) <= _LONGEST:
            return tile
        return self.named(tile, label or hint)

    def named(self, tile: Tile, hint: str) -> Tile:
        if tile.number is not None:
            return tile
        text = self.source.let(tile.text, hint)
        return Tile(text, tile.dtype, tile.axes, tile.narrow, None, tile.zero_outside)

    # -- arithmetic
    def apply(
        self, op: str, args: Sequence[Tile], result: DType, term: Term | None = None
    ) -> Tile:
        """A scalar op on tiles; ``term`` is what it computes, for proofs about its range."""
        axes = joined_axes(args, self.rank)
        narrow = self._stays_narrow(op, args, result, term)
        if not narrow:
            args = self._widened(op, args)
        texts = [bring(a, axes) for a in args]
        if narrow and op in ("//", "%") and self._divides_plainly(term):
            return Tile(f"({texts[0]} {op} {texts[1]})", result, axes, narrow)
        return Tile(scalar_op(op, args, texts, result), result, axes, narrow)

    def _stays_narrow(
        self, op: str, args: Sequence[Tile], result: DType, term: Term | None
    ) -> bool:
        whole = [a for a in args if a.dtype == int64]
        if result != int64 or not whole or not all(a.narrow for a in whole):
            return False
        if op in ("max", "min", "where", "i64"):
            return True
        return op in NARROW_OPS and isinstance(term, Apply) and self.fits_32_bits(term)

    def _divides_plainly(self, term: Term | None) -> bool:
        """Whether truncation is the floor: nothing below zero, by a positive number."""
        assert isinstance(term, Apply)
        by = term.args[1]
        if not isinstance(by, Const) or by.value <= 0:
            return False
        return numeric_bounds(interval(self.kernel, term.args[0])[0])[0] >= 0

    def fits_32_bits(self, term: Term) -> bool:
        """Whether all values of an integer term fit an int32, operands and result."""
        low, high = interval(self.kernel, term)
        return numeric_bounds(low)[0] >= -(2**31) and numeric_bounds(high)[1] < 2**31

    def _widened(self, op: str, args: Sequence[Tile]) -> list[Tile]:
        wide = [a for a in args if a.dtype == int64 and not a.narrow]
        if not wide and op not in _ALWAYS_WIDE:
            return list(args)
        return [self.wide(a) for a in args]

    def wide(self, tile: Tile) -> Tile:
        """An i64 in all its bits."""
        if not tile.narrow or tile.number is not None or tile.dtype != int64:
            return tile
        return Tile(f"tl.cast({tile.text}, tl.int64)", int64, tile.axes)

    def conjunction(self, tests: Sequence[Tile | None]) -> Tile | None:
        """All of the tests that are there; None where none is."""
        present = [t for t in tests if t is not None]
        if not present:
            return None
        axes = joined_axes(present, self.rank)
        texts = list(dict.fromkeys(bring(t, axes) for t in present))
        text = texts[0] if len(texts) == 1 else f"({' & '.join(texts)})"
        return Tile(text, present[0].dtype, axes)

    def broadcast(self, tile: Tile, axes: Sequence[str]) -> str:
        """The tile's text in exactly these dimensions."""
        if tile.axes == tuple(axes):
            return tile.text
        if tile.number is not None:
            return f"tl.full({self.shape(axes)}, {tile.text}, {DTYPE_TEXT[tile.dtype.short]})"
        return f"tl.broadcast_to({bring(tile, axes)}, {self.shape(axes)})"

    def index_value(self, term: Term) -> Tile:
        """An integer term from its affine form."""
        form = affine(term)
        parts = [(self.index(a), c) for a, c in form.axes.items()]
        parts += [(self.value(t), c) for t, c in form.atoms.items()]
        return self.weighted_sum(parts, form.constant)

    def weighted_sum(
        self, parts: Sequence[tuple[Tile, Extent]], fixed: Extent, wide: bool = False
    ) -> Tile:
        """``fixed + sum(coefficient * tile)``; scalars first, so that they are added once."""
        ordered = sorted(parts, key=lambda p: (len(p[0].axes), -_magnitude(p[1])))
        axes = joined_axes([t for t, _ in parts], self.rank)
        groups: dict[tuple[str, ...], list[str]] = {}
        for tile, coefficient in ordered:
            if tile.text == "0" or coefficient == 0:
                continue
            one = self.wide(tile) if wide else tile
            text = one.text
            if coefficient == -1:
                text = f"(-{text})"
            elif coefficient != 1:
                text = f"{text} * {self.extent(coefficient)}"
            groups.setdefault(tile.axes, []).append(text)
        terms = []
        for own, texts in groups.items():
            terms.append(bring(Tile(" + ".join(texts), int64, own), axes))
        if fixed != 0 or not terms:
            terms.append(self.extent(fixed))
        narrow = not wide and all(t.narrow for t, _ in parts)
        text = " + ".join(terms).replace("+ -", "- ")
        number = fixed if not groups and isinstance(fixed, int) else None
        return Tile(text if len(terms) == 1 and text.isidentifier() else f"({text})", int64, axes,
                    narrow, number)


def _magnitude(extent: Extent) -> float:
    return abs(extent) if isinstance(extent, int) else math.inf


def _count_uses(kernel: Kernel) -> dict[Term, int]:
    uses: dict[Term, int] = {}
    for root in (*kernel.terms, *kernel.statements):
        for operand in root.operands:
            uses[operand] = uses.get(operand, 0) + 1
    return uses
