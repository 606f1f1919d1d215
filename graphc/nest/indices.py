"""Affine forms of indices: how an address moves along each axis."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.kernel.terms import Apply, AxisIndex, Const, SizeValue, Term
from graphc.records import dataclass
from graphc.types import Extent

__all__ = ["Affine", "affine"]


@dataclass(frozen=True)
class Affine:
    """``constant + sum(coefficient * axis) + sum(coefficient * atom)``: atoms are terms that are
    not affine.
    """

    constant: Extent
    axes: Mapping[str, Extent]
    atoms: Mapping[Term, Extent]

    def scaled(self, by: Extent) -> Affine:
        return Affine(
            self.constant * by,
            {a: c * by for a, c in self.axes.items()},
            {t: c * by for t, c in self.atoms.items()},
        )

    def plus(self, other: Affine) -> Affine:
        axes, atoms = dict(self.axes), dict(self.atoms)
        for a, c in other.axes.items():
            axes[a] = axes.get(a, 0) + c
        for t, c in other.atoms.items():
            atoms[t] = atoms.get(t, 0) + c
        return Affine(
            self.constant + other.constant,
            {a: c for a, c in axes.items() if c != 0},
            {t: c for t, c in atoms.items() if c != 0},
        )


def affine(term: Term) -> Affine:
    """The affine form of an integer term; what is not affine in it is an atom."""
    if isinstance(term, Const):
        return Affine(int(term.value), {}, {})
    if isinstance(term, AxisIndex):
        return Affine(0, {term.axis: 1}, {})
    if isinstance(term, SizeValue):
        return Affine(term.extent, {}, {})
    if isinstance(term, Apply):
        parts = [affine(a) for a in term.args] if term.op in _LINEAR else []
        if term.op in ("+", "-"):
            return parts[0].plus(parts[1] if term.op == "+" else parts[1].scaled(-1))
        if term.op == "neg":
            return parts[0].scaled(-1)
        if term.op == "*":
            for one, other in (parts, parts[::-1]):
                if not other.axes and not other.atoms:
                    return one.scaled(other.constant)
        if term.op == "i64" and term.args[0].dtype.is_integer:
            return affine(term.args[0])
    return Affine(0, {}, {term: 1})


_LINEAR = frozenset({"+", "-", "*", "neg"})
