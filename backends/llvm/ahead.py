"""Fetching, while a product's loop multiplies, what the steps after it will read and write.

A register tile's rows lie apart in memory, which the processor does not foresee. Asked for all at
once they would take its few miss buffers just when the loop needs its own operands, so that they
are spread over the loop: some rows of every tensor at each of its points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from graphc.backends.llvm.access import Ahead, emit_prefetch
from graphc.backends.llvm.context import I64, Context
from graphc.backends.llvm.ir import V, literal
from graphc.kernel.terms import Contract, Load, Store
from graphc.nest import Let, Pass, Step, Write
from graphc.records import dataclass

__all__ = ["Rows", "fetch_at_once", "fetch_row", "rows_after"]

#: points of a product's loop that hide a fetch from memory
_POINTS = 32


@dataclass(frozen=True)
class Rows:
    """What one access touches of a register tile: ``count`` rows along ``axis``, of which each of
    the ``extent`` points of a product's loop fetches its share; all of it at the loop's begin where
    ``axis`` is None.
    """

    access: Load | Store
    axis: str | None = None
    count: int = 1
    extent: int = 1


def rows_after(k: Context, trip: Pass, after: Sequence[Step]) -> list[Rows]:
    """What is worth fetching in a product's loop, before the steps ``after`` it."""
    extents = [k.kernel.extents[a] for a in trip.over]
    points = math.prod(e if isinstance(e, int) else _POINTS for e in extents)
    if points < _POINTS or not all(isinstance(m, Contract) for m in trip.members):
        return []
    spread = len(extents) == 1 and isinstance(extents[0], int)
    return [_rows(k, access, points if spread else None) for access in _accesses(k, after)]


def _accesses(k: Context, after: Sequence[Step]) -> Iterator[Load | Store]:
    for step in after:
        if isinstance(step, Let) and isinstance(step.term, Load):
            yield step.term
        elif isinstance(step, Write) and step.store.tensor not in k.nest.tiling.stream:
            yield step.store


def _rows(k: Context, access: Load | Store, extent: int | None) -> Rows:
    lanes = k.vector.axis if k.vector is not None else None
    tiles = {c.axis: c.tile for c in k.unrolled(access.axes) if c.axis != lanes}
    if extent is None or not tiles:
        return Rows(access)
    axis = max(tiles, key=lambda a: tiles[a])
    return Rows(access, axis, tiles[axis], extent)


def fetch_at_once(k: Context, rows: Rows) -> None:
    """Every line of the register tile."""
    for position in k.positions(rows.access.axes):
        emit_prefetch(k, rows.access, position)


def fetch_row(k: Context, rows: Rows, point: V) -> None:
    """The row whose turn it is at a point of the loop: a power of two of points share one, so that
    the last points may fetch rows of the next tile.
    """
    assert rows.axis is not None
    shift = (rows.extent // rows.count).bit_length() - 1
    by = literal(max(0, shift), I64)
    row = k.hoisted(("row", point.text, by.text), (point,), lambda: k.f.binary("lshr", point, by))
    for position in k.positions(rows.access.axes):
        if dict(position)[rows.axis] == 0:
            emit_prefetch(k, rows.access, position, Ahead(rows.axis, row))
