"""Integer combinations of terms, modulo 2^64 as int64 is."""

from __future__ import annotations

from graphc.kernel.terms import Term
from graphc.records import dataclass

__all__ = ["Affine", "added", "scaled"]


@dataclass(frozen=True)
class Affine:
    """``constant + sum(coefficient * atom)``; no coefficient is 0."""

    terms: tuple[tuple[Term, int], ...]
    constant: int


def added(left: Affine, right: Affine) -> Affine:
    """The sum."""
    total = dict(left.terms)
    for term, coefficient in right.terms:
        total[term] = _wrapped(total.get(term, 0) + coefficient)
    kept = tuple((t, c) for t, c in total.items() if c)
    return Affine(kept, _wrapped(left.constant + right.constant))


def scaled(value: Affine, by: int) -> Affine:
    """``by`` times it."""
    terms = ((t, _wrapped(c * by)) for t, c in value.terms)
    return Affine(tuple((t, c) for t, c in terms if c), _wrapped(value.constant * by))


def _wrapped(n: int) -> int:
    """``n`` as an int64."""
    return (n + (1 << 63)) % (1 << 64) - (1 << 63)
