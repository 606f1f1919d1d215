"""What a contraction sums: named axes, and the quasi-affine indices at which its two operands are
read.

::

    spec   := [axis:extent, .. ; axis:extent, ..](a[index, ..], b[index, ..])
              [where condition, ..] [of dtype] [in dtype]
    index  := axes, ints, + - *int //int %int (floor)
    condition := index % int == 0  |  0 <= index < extent

    out[axes] = sum over reduced axes of a[a_index] * b[b_index], where all conditions hold

``of bf16`` rounds float32 operands to that before they are multiplied; sums and the result are
float32. An index outside of its operand reads 0: that is how padding is said. Matmul is
``[m:64,n:96; k:80](a[m,k], b[k,n])``, a convolution of stride 2
``[n:8,o:16,y:7; c:4,p:3](a[n,c,2*y+p-1], b[o,c,p])``, and its two gradients,
transposed and grouped forms are contractions again: ``transpose`` (in ``graphc.ops.contract``)
solves the indices for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property

from graphc.records import dataclass
from graphc.types import Dim, DType, Extent, evaluate

__all__ = [
    "Affine",
    "Axes",
    "Condition",
    "ContractSpec",
    "Divisible",
    "Inside",
    "Quotient",
    "Remainder",
    "axis",
    "constant",
]


@dataclass(frozen=True)
class Quotient:
    """floor(of / by)."""

    of: Affine
    by: int

    def __str__(self) -> str:
        return f"{_nested(self.of)}//{self.by}"


@dataclass(frozen=True)
class Remainder:
    """of - by * floor(of / by)."""

    of: Affine
    by: int

    def __str__(self) -> str:
        return f"{_nested(self.of)}%{self.by}"


Atom = str | Quotient | Remainder


@dataclass(frozen=True)
class Affine:
    """A sum of integer multiples of axes (and of quotients and remainders), plus a constant.

    Build it with ``axis``, ``constant`` and + - * // %.

    >>> y, p = axis("y"), axis("p")
    >>> str(2 * y + p - 1), str((y + 1 - p) // 2), (4 * y + 2) // 2 == 2 * y + 1
    ('2*y+p-1', '(y-p+1)//2', True)
    """

    terms: tuple[tuple[Atom, int], ...] = ()
    offset: int = 0

    def __add__(self, other: Affine | int) -> Affine:
        other = _affine(other)
        total = dict(self.terms)
        for atom, factor in other.terms:
            total[atom] = total.get(atom, 0) + factor
        kept = tuple((atom, factor) for atom, factor in total.items() if factor)
        return Affine(kept, self.offset + other.offset)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Affine:
        if factor == 0:
            return Affine()
        return Affine(tuple((a, f * factor) for a, f in self.terms), self.offset * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Affine | int) -> Affine:
        return self + _affine(other) * -1

    def __rsub__(self, other: Affine | int) -> Affine:
        return _affine(other) - self

    def __floordiv__(self, by: int) -> Affine:
        """Terms whose factors are multiples of ``by`` leave the quotient exactly."""
        if by == 1:
            return self
        whole = Affine(tuple((a, f // by) for a, f in self.terms if f % by == 0), self.offset // by)
        rest = Affine(tuple((a, f) for a, f in self.terms if f % by), self.offset % by)
        return whole + Affine(((Quotient(rest, by), 1),)) if rest.terms else whole

    def __mod__(self, by: int) -> Affine:
        rest = Affine(tuple((a, f) for a, f in self.terms if f % by), self.offset % by)
        return Affine(((Remainder(rest, by), 1),)) if rest.terms else rest

    @property
    def plain(self) -> str | None:
        """Its axis, where it is nothing but one."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and self.offset == 0:
            atom = self.terms[0][0]
            return atom if isinstance(atom, str) else None
        return None

    @cached_property
    def axes(self) -> frozenset[str]:
        """The axes it depends on."""
        found: set[str] = set()
        for atom, _ in self.terms:
            found |= {atom} if isinstance(atom, str) else atom.of.axes
        return frozenset(found)

    def substitute(self, values: Mapping[str, Affine]) -> Affine:
        """Axes replaced by expressions."""
        total = constant(self.offset)
        for atom, factor in self.terms:
            if isinstance(atom, str):
                inner = values.get(atom, axis(atom))
            elif isinstance(atom, Quotient):
                inner = atom.of.substitute(values) // atom.by
            else:
                inner = atom.of.substitute(values) % atom.by
            total = total + inner * factor
        return total

    def range(self, extents: Mapping[str, Extent]) -> tuple[Extent, Extent] | None:
        """The least and greatest value, where axes run from 0 to extent - 1; None where it cannot
        be said.
        """
        low: Extent = self.offset
        high: Extent = self.offset
        for atom, factor in self.terms:
            bounds = _atom_range(atom, extents)
            if bounds is None:
                return None
            small, great = bounds if factor > 0 else (bounds[1], bounds[0])
            low, high = low + small * factor, high + great * factor
        return low, high

    def __str__(self) -> str:
        text = ""
        for atom, factor in self.terms:
            scaled = f"{abs(factor)}*" if abs(factor) != 1 else ""
            compound = not isinstance(atom, str) and scaled
            text += ("-" if factor < 0 else "+" if text else "") + scaled
            text += f"({atom})" if compound else str(atom)
        if self.offset or not text:
            text += f"{self.offset:+d}" if text else str(self.offset)
        return text

    __repr__ = __str__


def axis(name: str) -> Affine:
    """The index along an axis."""
    return Affine(((name, 1),))


def constant(value: int) -> Affine:
    """A fixed index."""
    return Affine((), value)


def _affine(x: Affine | int) -> Affine:
    return x if isinstance(x, Affine) else constant(x)


def _nested(of: Affine) -> str:
    return str(of) if of.plain else f"({of})"


def _atom_range(atom: Atom, extents: Mapping[str, Extent]) -> tuple[Extent, Extent] | None:
    if isinstance(atom, str):
        return 0, extents[atom] - 1
    if isinstance(atom, Remainder):
        return 0, atom.by - 1
    bounds = atom.of.range(extents)
    return None if bounds is None else (bounds[0] // atom.by, bounds[1] // atom.by)


@dataclass(frozen=True)
class Divisible:
    """``index % by == 0``."""

    index: Affine
    by: int

    def __str__(self) -> str:
        return f"{_nested(self.index)}%{self.by}==0"


@dataclass(frozen=True)
class Inside:
    """``0 <= index < extent``."""

    index: Affine
    extent: Extent

    def __str__(self) -> str:
        return f"0<={self.index}<{self.extent}"


Condition = Divisible | Inside
Axes = tuple[tuple[str, Extent], ...]


@dataclass(frozen=True)
class ContractSpec:
    """See the module. ``accumulate`` None: f32 for floats up to that, else the operands' own.
    ``rounded`` is what float32 operands are rounded to.
    """

    axes: Axes
    reduced: Axes
    a_index: tuple[Affine, ...]
    b_index: tuple[Affine, ...]
    where: tuple[Condition, ...] = ()
    accumulate: DType | None = None
    rounded: DType | None = None

    @cached_property
    def extents(self) -> dict[str, Extent]:
        """Every axis and its extent."""
        return dict((*self.axes, *self.reduced))

    @property
    def shape(self) -> tuple[Extent, ...]:
        """The result's shape."""
        return tuple(extent for _, extent in self.axes)

    @property
    def indices(self) -> tuple[Affine, ...]:
        """All index expressions, conditions' included."""
        return (*self.a_index, *self.b_index, *(c.index for c in self.where))

    def swapped(self) -> ContractSpec:
        """The same sum with the operands exchanged."""
        return replace(self, a_index=self.b_index, b_index=self.a_index)

    def bound(self, sizes: Mapping[Dim, int]) -> ContractSpec:
        """Dims replaced by ints."""
        return self.with_extents(lambda extent: evaluate(extent, sizes))

    def with_extents(self, rule: Callable[[Extent], Extent]) -> ContractSpec:
        """Every extent replaced by ``rule`` of it."""

        def of(axes: Axes) -> Axes:
            return tuple((name, rule(extent)) for name, extent in axes)

        where = tuple(
            Inside(c.index, rule(c.extent)) if isinstance(c, Inside) else c for c in self.where
        )
        return replace(self, axes=of(self.axes), reduced=of(self.reduced), where=where)

    def __str__(self) -> str:
        def listed(items: Iterable[object]) -> str:
            return ",".join(map(str, items))

        axes = listed(f"{name}:{extent}" for name, extent in self.axes)
        reduced = listed(f"{name}:{extent}" for name, extent in self.reduced)
        text = f"[{axes}; {reduced}](a[{listed(self.a_index)}], b[{listed(self.b_index)}])"
        if self.where:
            text += f" where {', '.join(map(str, self.where))}"
        text += f" of {self.rounded}" if self.rounded else ""
        return text + (f" in {self.accumulate}" if self.accumulate else "")

    __repr__ = __str__
