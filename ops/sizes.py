"""Facts about symbolic sizes: products, exact quotients, bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from graphc.types import Extent, Size


def product(extents: Sequence[Extent]) -> Extent:
    """The number of elements of a shape."""
    total: Extent = 1
    for extent in extents:
        total = total * extent
    return total


def exact_quotient(total: Extent, by: Extent) -> Extent | None:
    """total / by where it is exact and can be written, else None.

    >>> from graphc.types import Dim
    >>> exact_quotient(Dim("B") * 6, Dim("B") * 2), exact_quotient(Dim("B") * 3, Dim("B") * 2)
    (3, None)
    """
    if isinstance(by, int):
        if by == 0:
            return None
        if isinstance(total, int):
            return total // by if total % by == 0 else None
        return total // by if all(c % by == 0 for c in total.monomials.values()) else None
    if isinstance(total, int) or len(by.monomials) != 1:
        return 1 if total == by else (0 if total == 0 else None)
    ((atoms, scale),) = by.monomials.items()
    found: Extent = 0
    for monomial, coefficient in total.monomials.items():
        rest = list(monomial)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % scale:
            return None
        found = found + product([cast(Extent, Size({(a,): 1})) for a in rest]) * (
            coefficient // scale
        )
    return found


def surely_greater(a: Extent, b: Extent) -> bool:
    """Whether a > b for all sizes of the dims: only then a rule refuses."""
    gap = a - b
    if isinstance(gap, int):
        return gap > 0
    return least(gap) is not None and cast(int, least(gap)) > 0


def least(extent: Extent) -> int | None:
    """A lower bound, where every monomial has one; dims are at least their ``min``."""
    if isinstance(extent, int):
        return extent
    total = 0
    for monomial, coefficient in extent.monomials.items():
        low = 1
        for atom in monomial:
            low *= getattr(atom, "min", 0)
        if coefficient < 0:
            highs = [getattr(atom, "max", None) for atom in monomial]
            if any(h is None for h in highs):
                return None
            low = 1
            for high in highs:
                low *= cast(int, high)
        total += coefficient * low
    return total
