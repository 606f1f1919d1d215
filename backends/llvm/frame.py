"""What a kernel's function needs from who calls it: grid blocks and scratch memory.

It follows from the nest alone, so that a kernel that comes from the cache needs no emitter.
"""

from __future__ import annotations

from graphc.backends.llvm.target import Target, vector_lanes
from graphc.nest import Buffer, Nest
from graphc.records import dataclass
from graphc.types import Extent

__all__ = ["BufferLayout", "block_count", "grid_blocks", "layout_buffers", "scratch_bytes"]


def grid_blocks(nest: Nest) -> Extent:
    """The number of grid blocks: the product over blocked axes of extent / block, rounded up."""
    total: Extent = 1
    for axis in nest.grid:
        total = total * block_count(nest, axis)
    return total


def scratch_bytes(nest: Nest, target: Target) -> Extent:
    """What each worker must own for the nest's buffers."""
    return layout_buffers(nest, vector_lanes(nest.kernel, target))[1]


def block_count(nest: Nest, axis: str) -> Extent:
    """Blocks along one axis."""
    block = nest.tiling.block[axis]
    return (nest.kernel.extents[axis] + (block - 1)) // block


@dataclass(frozen=True)
class BufferLayout:
    """A buffer's first byte in scratch memory, its size along each axis, its elements in all."""

    offset: Extent
    sizes: dict[str, Extent]
    elements: Extent


def layout_buffers(nest: Nest, lanes: int) -> tuple[dict[Buffer, BufferLayout], Extent]:
    """Offsets of scratch buffers: the last axis padded to whole vectors, room for every outer
    position and lane.
    """
    layouts: dict[Buffer, BufferLayout] = {}
    offset: Extent = 0
    for buffer in nest.buffers:
        sizes: dict[str, Extent] = {a: nest.kernel.extents[a] for a in buffer.axes}
        last = buffer.axes[-1]
        sizes[last] = (sizes[last] + (lanes - 1)) // lanes * lanes
        total: Extent = 1
        for axis in buffer.axes:
            total = total * sizes[axis]
        outer = [a for a in buffer.term.axes if a not in buffer.axes]
        for axis in outer:
            total = total * nest.tiling.tile.get(axis, 1)
        if any(a in nest.tiling.vector for a in outer):
            total = total * lanes
        layouts[buffer] = BufferLayout(offset, sizes, total)
        offset = offset + (total * buffer.term.dtype.itemsize + 63) // 64 * 64
    return layouts, offset
