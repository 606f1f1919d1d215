"""Solving a contraction's indices: what turns its derivative into a contraction again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace

from graphc.contraction import (
    Affine,
    Condition,
    ContractSpec,
    Divisible,
    Inside,
    Quotient,
    Remainder,
    axis,
)
from graphc.errors import ShapeError
from graphc.ops.sizes import least
from graphc.records import dataclass
from graphc.types import Extent, Shape

# ---- derivative: solve the indices


@dataclass
class _Solution:
    """What ``transpose`` has found: axes as expressions of the new ones, and what must hold."""

    spec: ContractSpec
    values: dict[str, Affine] = field(default_factory=dict)
    where: list[Condition] = field(default_factory=list)
    fresh: list[tuple[str, Extent]] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def name(self, wanted: str) -> str:
        """An axis name that is not in use."""
        found, count = wanted, 1
        while found in self.taken:
            count += 1
            found = f"{wanted}{count}"
        self.taken.add(found)
        return found

    def solve(self, left: Affine, right: Affine) -> None:
        """Make ``left == right`` hold, by giving one axis of ``left`` a value."""
        left = left.substitute(self.values)
        free = [
            (atom, factor)
            for atom, factor in left.terms
            if isinstance(atom, str) and self.free(atom) and not self._inside_atoms(left, atom)
        ]
        if not free:
            self.where.append(Inside(right - left, 1))
            return
        # for the longest axis: the others remain to be summed over
        name, factor = max(free, key=lambda term: _length(self.spec.extents[term[0]]))
        rest = left - axis(name) * factor
        scaled = right - rest if factor > 0 else rest - right
        if abs(factor) > 1:
            self.where.append(Divisible(scaled, abs(factor)))
        self.assign(name, scaled // abs(factor))
        self.where.append(Inside(self.values[name], self.spec.extents[name]))

    def assign(self, name: str, value: Affine) -> None:
        self.values = {n: v.substitute({name: value}) for n, v in self.values.items()}
        self.where = [replace(c, index=c.index.substitute({name: value})) for c in self.where]
        self.values[name] = value

    def free(self, name: str) -> bool:
        return name in self.spec.extents and name not in self.values

    @staticmethod
    def _inside_atoms(left: Affine, name: str) -> bool:
        return any(not isinstance(a, str) and name in a.of.axes for a, _ in left.terms)


def _digits(
    index: Affine, extent: Extent, spec: ContractSpec
) -> list[tuple[str, int, Extent]] | None:
    """The axes of a mixed-radix number that fills its dimension exactly, highest first: 3*g + o."""
    if index.offset or any(not isinstance(a, str) for a, _ in index.terms):
        return None
    terms = sorted(((f, str(a)) for a, f in index.terms), reverse=True)
    radix: Extent = 1
    for factor, name in reversed(terms):
        if factor != radix:
            return None
        radix = radix * spec.extents[name]
    if radix != extent or len(terms) < 2:
        return None
    return [(name, factor, spec.extents[name]) for factor, name in terms]


def transpose(spec: ContractSpec, shape: Shape) -> ContractSpec:
    """The contraction of (cotangent, b) that gives the cotangent of operand a, whose shape is
    ``shape``.

    >>> m, n, k = axis("m"), axis("n"), axis("k")
    >>> matmul = ContractSpec((("m", 2), ("n", 3)), (("k", 4),), (m, k), (k, n))
    >>> transpose(matmul, (2, 4))
    [m:2,k:4; n:3](a[m,n], b[k,n])
    """
    found = _Solution(spec)
    plain = [i.plain for i in spec.a_index]
    reserved = set(spec.extents) - {n for n in plain if n and plain.count(n) == 1}
    found.taken = set(reserved)
    new: list[tuple[str, Extent]] = []
    for index, extent in zip(spec.a_index, shape, strict=True):
        if index.plain and plain.count(index.plain) == 1:
            found.taken.add(index.plain)
            found.values[index.plain] = axis(index.plain)
            new.append((index.plain, extent))
        else:
            new.append((found.name(_new_name(index, spec)), extent))
    satisfied = _solve_all(found, spec.a_index, new)
    old = [
        replace(c, index=c.index.substitute(found.values)) for c in spec.where if c not in satisfied
    ]
    named = {n for n, _ in new}
    reduced = tuple(
        (n, e) for n, e in (*spec.axes, *spec.reduced) if n not in found.values and n not in named
    )
    cotangent_index = tuple(axis(n).substitute(found.values) for n, _ in spec.axes)
    other_index = tuple(i.substitute(found.values) for i in spec.b_index)
    out = ContractSpec(
        tuple(new), (*reduced, *found.fresh), cotangent_index, other_index, (), spec.accumulate,
        spec.rounded,
    )
    return replace(out, where=_needed(out, [*old, *found.where], spec))


def _new_name(index: Affine, spec: ContractSpec) -> str:
    """iy for an index that y is solved from, and y again for one of iy."""
    longest = max(sorted(index.axes), key=lambda n: _length(spec.extents[n]), default="")
    return longest[1:] if longest.startswith("i") and len(longest) > 1 else "i" + longest


def _length(extent: Extent) -> tuple[int, int]:
    return (1, 0) if not isinstance(extent, int) else (0, extent)


def _solve_all(
    found: _Solution, index: tuple[Affine, ...], new: Sequence[tuple[str, Extent]]
) -> set[Condition]:
    """Solve every dimension; returns the old conditions that the solution makes true."""
    satisfied: set[Condition] = set()
    pairs = _quotient_pairs(index)
    for place, (expression, (name, extent)) in enumerate(zip(index, new, strict=True)):
        target, spec = axis(name), found.spec
        if expression.plain == name:
            if spec.extents[name] != extent:
                found.where.append(Inside(target, spec.extents[name]))
            continue
        digits = _digits(expression, extent, spec)
        if digits and all(found.free(n) for n, _, _ in digits):
            for k, (digit, factor, radix) in enumerate(digits):
                part = target // factor
                found.assign(digit, part if k == 0 or not isinstance(radix, int) else part % radix)
            continue
        if place in pairs.values():
            continue
        divided = _sole_atom(expression)
        if isinstance(divided, Quotient):
            exact = Divisible(divided.of, divided.by)
            scaled = target * divided.by
            if place in pairs:
                scaled = scaled + axis(new[pairs[place]][0])
            elif exact in spec.where:
                satisfied.add(exact)
            else:
                rest = found.name("r")
                found.fresh.append((rest, divided.by))
                scaled = scaled + axis(rest)
            found.solve(divided.of, scaled)
        elif isinstance(divided, Remainder):
            _solve_remainder(found, divided, target)
        else:
            found.solve(expression, target)
    return satisfied


def _solve_remainder(found: _Solution, divided: Remainder, target: Affine) -> None:
    bounds = divided.of.range(found.spec.extents)
    if bounds is None or not isinstance(bounds[1], int) or not isinstance(bounds[0], int):
        raise ShapeError(f"contract: no derivative through {divided} over a symbolic extent")
    quotient = found.name("q")
    low = bounds[0] // divided.by
    found.fresh.append((quotient, bounds[1] // divided.by - low + 1))
    found.solve(divided.of, (axis(quotient) + low) * divided.by + target)


def _sole_atom(expression: Affine) -> Quotient | Remainder | None:
    if len(expression.terms) == 1 and expression.terms[0][1] == 1 and expression.offset == 0:
        atom = expression.terms[0][0]
        return None if isinstance(atom, str) else atom
    return None


def _quotient_pairs(index: tuple[Affine, ...]) -> dict[int, int]:
    """Places of e // s and e % s in one operand: together they say e."""
    atoms = [_sole_atom(i) for i in index]
    found: dict[int, int] = {}
    remainders = {(a.of, a.by): j for j, a in enumerate(atoms) if isinstance(a, Remainder)}
    for i, atom in enumerate(atoms):
        if isinstance(atom, Quotient) and (atom.of, atom.by) in remainders:
            found[i] = remainders.pop((atom.of, atom.by))
    return found


def _needed(
    out: ContractSpec, conditions: Sequence[Condition], old: ContractSpec
) -> tuple[Condition, ...]:
    """Without the conditions that always hold, or that reading 0 outside of an operand already
    says.
    """
    kept: list[Condition] = []
    read = {
        (index, old.extents[name]) for index, (name, _) in zip(out.a_index, old.axes, strict=True)
    }
    for condition in conditions:
        if isinstance(condition, Inside):
            if (condition.index, condition.extent) in read or inside(
                condition.index, condition.extent, out.extents
            ):
                continue
        elif not condition.index.terms and condition.index.offset % condition.by == 0:
            continue
        if condition not in kept:
            kept.append(condition)
    return tuple(kept)


def inside(index: Affine, extent: Extent, extents: Mapping[str, Extent]) -> bool:
    """Whether ``0 <= index < extent`` for all values of the axes and dims."""
    bounds = index.range(extents)
    if bounds is None:
        return False
    low, room = least(bounds[0]), least(extent - 1 - bounds[1])
    return low is not None and low >= 0 and room is not None and room >= 0
