"""Turning an index map around, where each index it reads is a digit of an axis.

x is read at [c // 4, t, c % 4] for y[t, c]   ->   x[h, t, d] is y[t, 4*h + d]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graphc.kernel.terms import Apply, AxisIndex, Const, Term
from graphc.passes.term_table import TermTable
from graphc.types import Extent, int64

__all__ = ["undone"]


class _Digit(NamedTuple):
    """``(axis // stride) % size``: the digit that an index reads, and the axis it is to become."""

    stride: int
    size: Extent
    axis: Term


def undone(
    table: TermTable,
    own: Sequence[Term],
    extents: Sequence[Extent],
    reads: Sequence[tuple[Term, Term, Extent]],
) -> tuple[Term, ...] | None:
    """For each own axis its index in terms of the axes that are read, or None.

    ``reads`` are (the index that is read, the axis that stands for it, its extent). Every own axis
    must be read once, by digits that make it up.
    """
    digits: dict[str, list[_Digit]] = {}
    for index, axis, extent in reads:
        found = _digit(index)
        if extent == 1 and not index.axes:
            continue
        if found is None:
            return None
        name, stride = found
        digits.setdefault(name, []).append(_Digit(stride, extent, axis))
    turned: list[Term] = []
    for term, extent in zip(own, extents, strict=True):
        if not isinstance(term, AxisIndex):
            turned.append(term)
            continue
        made = _sum(table, digits.pop(term.axis, []), extent)
        if made is None:
            return None
        turned.append(made)
    return None if digits else tuple(turned)


def _sum(table: TermTable, digits: list[_Digit], extent: Extent) -> Term | None:
    """``sum(stride * axis)``, where the digits cover the extent exactly."""
    digits.sort(key=lambda d: d.stride)
    total: Term | None = None
    place: Extent = 1
    for digit in digits:
        if digit.stride != place:
            return None
        part = table.apply("*", (digit.axis, table.const(digit.stride)), int64)
        total = part if total is None else table.apply("+", (total, part), int64)
        place = place * digit.size
    return total if place == extent else None


def _digit(index: Term) -> tuple[str, int] | None:
    """The axis and stride of ``axis``, ``axis // s``, ``axis % n`` or ``axis // s % n``."""
    if isinstance(index, AxisIndex):
        return index.axis, 1
    if not isinstance(index, Apply) or index.op not in ("//", "%"):
        return None
    inner, by = index.args
    found = _digit(inner)
    if found is None or not isinstance(by, Const):
        return None
    name, stride = found
    return (name, stride * int(by.value)) if index.op == "//" else (name, stride)
