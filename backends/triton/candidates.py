"""Other tilings of a kernel than the one first chosen: smaller ones where it does not fit its
target, and those worth measuring.

::

    spills            more warps, then half of the longest side
    too much shared   fewer stages of loads ahead, then half of the longest side
    worth measuring   half or twice the warps, a stage more or less, the longest side halved
"""

from __future__ import annotations

from dataclasses import replace

from graphc.backends.triton.tiling import GpuTiling

__all__ = ["relieved", "variants"]

#: with more warps a thread may have fewer registers
_MOST_WARPS = 8
_LEAST_SIDE = 16
#: tilings of one kernel that are measured
_MOST_VARIANTS = 5


def relieved(tiling: GpuTiling, *, spills: bool) -> GpuTiling | None:
    """What needs fewer registers of a thread (it ``spills``) or less shared memory; None where
    there is nothing to take away.
    """
    if spills and tiling.warps < _MOST_WARPS:
        return replace(tiling, warps=2 * tiling.warps)
    if not spills and tiling.stages > 1:
        return replace(tiling, stages=tiling.stages - 1)
    return _halved(tiling)


def _halved(tiling: GpuTiling) -> GpuTiling | None:
    """The longest side that is cut into blocks, half as long."""
    nest = tiling.nest
    sides = [a for a, n in nest.block.items() if nest.tile.get(a) == n > _LEAST_SIDE]
    if not sides:
        return None
    longest = max(sides, key=nest.block.__getitem__)
    half = nest.block[longest] // 2
    smaller = replace(
        nest, block={**nest.block, longest: half}, tile={**nest.tile, longest: half}
    )
    return replace(tiling, nest=smaller)


def variants(tiling: GpuTiling) -> tuple[GpuTiling, ...]:
    """The tiling, and others that may be faster: how a block is worked on, and its longest side.

    What is summed together (the tiles of reduced axes) stays.
    """
    found = [tiling]
    if tiling.warps < _MOST_WARPS:
        found.append(replace(tiling, warps=2 * tiling.warps))
    if tiling.warps > 1:
        found.append(replace(tiling, warps=tiling.warps // 2))
    found.append(replace(tiling, stages=tiling.stages + 1 if tiling.stages < 4 else 2))
    smaller = _halved(tiling)
    if smaller is not None:
        found.append(smaller)
    return tuple(found[:_MOST_VARIANTS])
