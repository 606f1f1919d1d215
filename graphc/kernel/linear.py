"""Linear forms over opaque integer terms, with symbolic coefficients: what index proofs compute
with.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from graphc.records import dataclass
from graphc.types import Dim, Extent, Quotient, Remainder, Size

__all__ = ["Linear", "at_least_zero", "floor_quotient", "numeric_bounds"]

#: an unbounded dim is taken to be no larger than this where a number is needed
LARGEST_DIM = 2**40


@dataclass(frozen=True)
class Linear:
    """``constant + sum(coefficient * atom)``; atoms are any hashable keys."""

    constant: Extent
    terms: tuple[tuple[Hashable, Extent], ...] = ()

    @staticmethod
    def of(constant: Extent, terms: Mapping[Hashable, Extent]) -> Linear:
        """The form without zero coefficients."""
        return Linear(constant, tuple((a, c) for a, c in terms.items() if c != 0))

    @property
    def coefficients(self) -> dict[Hashable, Extent]:
        return dict(self.terms)

    def plus(self, other: Linear, scale: Extent = 1) -> Linear:
        """``self + scale * other``."""
        total = self.coefficients
        for atom, coefficient in other.terms:
            total[atom] = total.get(atom, 0) + scale * coefficient
        return Linear.of(self.constant + scale * other.constant, total)

    def times(self, scale: Extent) -> Linear:
        """``scale * self``."""
        return Linear.of(self.constant * scale, {a: c * scale for a, c in self.terms})

    def shifted(self, by: Extent) -> Linear:
        """``self + by``."""
        return Linear(self.constant + by, self.terms)

    def key(self) -> Hashable:
        """Equal for equal forms, whatever the order they were built in."""
        return str(self.constant), frozenset((a, str(c)) for a, c in self.terms)

    def divided(self, by: Extent) -> tuple[Linear, Linear]:
        """``(q, r)`` with ``self = by * q + r``, all that ``by`` divides exactly in ``q``."""
        quotient, rest = _exact(self.constant, by)
        whole: dict[Hashable, Extent] = {}
        left: dict[Hashable, Extent] = {}
        for atom, coefficient in self.terms:
            negative = isinstance(coefficient, int) and coefficient < 0
            part, over = _exact(0 - coefficient if negative else coefficient, by)
            whole[atom], left[atom] = (0 - part, 0 - over) if negative else (part, over)
        return Linear.of(quotient, whole), Linear.of(rest, left)


def _exact(value: Extent, by: Extent) -> tuple[Extent, Extent]:
    """``value = by * q + r``, monomial by monomial; an integer leaves its remainder."""
    if isinstance(by, int):
        if isinstance(value, int):
            return value // by, value % by
        whole = Size({m: c // by for m, c in value.monomials.items()}) + 0
        return whole, value - by * whole
    if isinstance(value, int) or len(by.monomials) != 1:
        return (1, 0) if value == by else (0, value)
    ((divisors, scale),) = by.monomials.items()
    total: Extent = 0
    for monomial, coefficient in value.monomials.items():
        factors = list(monomial)
        for divisor in divisors:
            if divisor not in factors:
                break
            factors.remove(divisor)
        else:
            total = Size({tuple(factors): coefficient // scale}) + total
    return total, value - by * total


def floor_quotient(value: Extent, by: Extent) -> Extent | None:
    """``value // by`` for a positive ``by``; None where it is not known to be an extent.

    >>> n, m = Dim("N"), Dim("M")
    >>> floor_quotient(m * n - 1, n), floor_quotient(7, 2)
    (M-1, 3)
    """
    if isinstance(by, int):
        return value // by
    whole, rest = _exact(value, by)
    for shift in (0, -1):
        inside = rest - shift * by
        if at_least_zero(inside) and at_least_zero(by - 1 - inside):
            return whole + shift
    return None


def at_least_zero(extent: Extent) -> bool:
    """Whether ``extent`` is proved to be >= 0 for all sizes in their declared bounds.

    >>> b = Dim("B", max=64)
    >>> at_least_zero(2 * b - 2), at_least_zero(64 - b), at_least_zero(b - 2)
    (True, True, False)
    """
    if isinstance(extent, int):
        return extent >= 0
    shifted: Extent = 0  # every dim replaced by its minimum and a rest >= 0
    for monomial, coefficient in extent.monomials.items():
        product: Extent = coefficient
        for atom in monomial:
            least = atom.min if isinstance(atom, Dim) else numeric_bounds(Size({(atom,): 1}))[0]
            product = product * (least + Size({(atom,): 1}))
        shifted = shifted + product
    if isinstance(shifted, int):
        return shifted >= 0
    # monomials of the shifted polynomial now stand for rests, which are >= 0
    if all(c >= 0 for c in shifted.monomials.values()):
        return True
    return numeric_bounds(extent)[0] >= 0 or _without_quotient(extent)


def _without_quotient(extent: Size) -> bool:
    """``at_least_zero`` by ``s - d + 1 <= d * (s // d) <= s`` for a quotient that ``extent`` holds.

    The extent times ``d`` is an integer multiple of it, so more than ``-d`` suffices.
    """
    for monomial, coefficient in extent.monomials.items():
        for atom in monomial:
            if not isinstance(atom, Quotient) or len(monomial) > 2:
                continue
            others = list(monomial)
            others.remove(atom)
            factor: Extent = Size({tuple(others): coefficient}) + 0
            bound = atom.size if coefficient < 0 else atom.size - (atom.by - 1)
            rest = extent - Size({monomial: coefficient})
            slack = 0 if others else atom.by - 1
            if at_least_zero(rest * atom.by + factor * bound + slack):
                return True
    return False


def numeric_bounds(extent: Extent) -> tuple[int, int]:
    """The least and greatest value over all sizes in their declared bounds."""
    if isinstance(extent, int):
        return extent, extent
    low, high = 0, 0
    for monomial, coefficient in extent.monomials.items():
        least, most = 1, 1
        for atom in monomial:
            if isinstance(atom, Dim):
                a, b = atom.min, LARGEST_DIM if atom.max is None else atom.max
            else:
                inner, by = numeric_bounds(atom.size), atom.by
                remainder = isinstance(atom, Remainder)
                a, b = (0, by - 1) if remainder else (inner[0] // by, inner[1] // by)
            corners = [least * a, least * b, most * a, most * b]
            least, most = min(corners), max(corners)
        ends = (coefficient * least, coefficient * most)
        low, high = low + min(ends), high + max(ends)
    return low, high
