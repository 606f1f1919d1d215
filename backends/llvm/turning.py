"""Stores whose lanes lie apart, turned in registers: blocks are written as vectors.

    y[k, i], lanes over k, i unrolled:   8 vectors (i) of 8 lanes (k)  ->  8 vectors (k) of i

A copy that transposes would else write element by element; so would a product whose lanes run over
the rows of what it writes. Its register tile may be narrower than a vector: six vectors become
eight of six elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm import access
from graphc.backends.llvm.context import Context, Position, memory_type
from graphc.backends.llvm.ir import Function, V
from graphc.kernel.bounds import unproved
from graphc.kernel.terms import Store
from graphc.nest import flat_offset

__all__ = ["emit_turned", "transposed", "turned_axis"]

#: bits of the part of a register within which machines interleave freely
_SEGMENT = 128


def turned_axis(k: Context, store: Store) -> str | None:
    """The unrolled axis along which the store is contiguous, where its lanes are not and nothing
    has to be tested or added: blocks of it and the lanes are turned.
    """
    vector = k.vector
    if vector is None or vector.axis not in store.axes or vector.mask is not None:
        return None
    if store.add or store.pred is not None or vector.axis not in store.value.axes:
        return None
    tensor = k.kernel.tensors[store.tensor]
    flat = flat_offset(tensor, store.index)
    if flat.atoms or flat.axes.get(vector.axis, 0) in (0, 1):
        return None
    if unproved(k.kernel, tensor.name, store.index, None, checks=()):
        return None
    found = [c for c in k.unrolled(store.axes) if flat.axes.get(c.axis) == 1 and c is not vector]
    return next((c.axis for c in found if c.tile > 1 and c.lanes == 1), None)


def emit_turned(k: Context, store: Store, positions: Sequence[Position]) -> None:
    """Write a store's value at neighbouring positions of its turned axis, at most as many as a
    vector has lanes.
    """
    dtype = k.kernel.tensors[store.tensor].type.dtype
    values = [k.splat(k.value(store.value, p), k.lanes) for p in positions]
    rows = [access.to_memory(k, value, dtype) for value in values]
    missing = k.lanes - len(rows)
    rows += [V("poison", rows[0].type)] * missing
    pointer, step = access.lane_addresses(k, store, positions[0])
    element = str(memory_type(dtype))
    for lane, vector in enumerate(transposed(k.f, rows, 8 * dtype.itemsize)):
        target = k.f.offset(pointer, k.extent(step * lane), element) if lane else pointer
        if missing:
            vector = k.f.shuffle(vector, vector, range(len(positions)))
        k.f.store(vector, target, dtype.itemsize)


def transposed(f: Function, rows: Sequence[V], bits: int) -> list[V]:
    """The columns of a square block of elements of ``bits``, by log2(lanes) rounds of shuffles.

    Rounds below a segment interleave units of 1, 2, .. elements inside segments, which leaves the
    rows of a segment in bit-reversed order; the others swap whole segments.
    """
    lanes = len(rows)
    segment = min(lanes, _SEGMENT // bits)
    block = list(rows)
    unit = 1
    while unit < segment:
        block = _round(f, block, unit, *_interleaving(lanes, segment, unit))
        unit *= 2
    block = [block[_reversed(n, segment)] for n in range(lanes)]
    while unit < lanes:
        block = _round(f, block, unit, *_swapping(lanes, unit))
        unit *= 2
    return block


def _round(
    f: Function, block: list[V], apart: int, low: Sequence[int], high: Sequence[int]
) -> list[V]:
    """Combine every row with the one ``apart`` from it."""
    result = list(block)
    for n in range(len(block)):
        if n & apart == 0:
            a, b = block[n], block[n + apart]
            result[n], result[n + apart] = f.shuffle(a, b, low), f.shuffle(a, b, high)
    return result


def _interleaving(lanes: int, segment: int, unit: int) -> tuple[list[int], list[int]]:
    """Masks that take units of two rows by turns, from the lower or upper half of each segment.

    >>> _interleaving(4, 4, 1)
    ([0, 4, 1, 5], [2, 6, 3, 7])
    """
    masks: list[list[int]] = []
    for half in (0, segment // 2):
        masks.append([])
        for start in range(0, lanes, segment):
            for place in range(half, half + segment // 2, unit):
                for row in (0, lanes):
                    masks[-1] += [row + start + place + n for n in range(unit)]
    return masks[0], masks[1]


def _swapping(lanes: int, apart: int) -> tuple[list[int], list[int]]:
    """Masks that exchange the blocks of ``apart`` lanes off the diagonal.

    >>> _swapping(4, 2)
    ([0, 1, 4, 5], [2, 3, 6, 7])
    """
    low = [n if n & apart == 0 else lanes + n - apart for n in range(lanes)]
    high = [n + apart if n & apart == 0 else lanes + n for n in range(lanes)]
    return low, high


def _reversed(number: int, segment: int) -> int:
    """``number`` with the bits that count inside a segment in reverse order.

    >>> [_reversed(n, 4) for n in range(8)]
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    bits = segment.bit_length() - 1
    inside = number % segment
    turned = sum(((inside >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
    return number - inside + turned
