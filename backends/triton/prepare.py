"""Kernel -> the same kernel with fewer axes: what a GPU treats as one axis becomes one.

Several axes that play one part in every contraction (the window of a convolution, its pixels) are
merged, so that it is one matrix product; so are axes that follow each other in memory everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import KernelError
from graphc.kernel.bounds import unproved
from graphc.kernel.rewrite import merge_axes
from graphc.kernel.terms import (
    Contract,
    Kernel,
    Reduction,
    Scan,
)
from graphc.nest import Folding
from graphc.nest.following import accesses, follows, indexed_axes

__all__ = ["prepare"]


def prepare(kernel: Kernel) -> Kernel:
    """The kernel with axes merged where that helps; what it computes stays."""
    for axes in _groups(kernel):
        kernel = _merged(kernel, axes)
    return kernel


def _merged(kernel: Kernel, axes: Sequence[str]) -> Kernel:
    """With the axes merged, unless that hides that an access is inside."""
    try:
        merged = merge_axes(kernel, axes)
    except KernelError:
        return kernel
    return merged if _unproved_count(merged) <= _unproved_count(kernel) else kernel


def _unproved_count(kernel: Kernel) -> int:
    return sum(
        len(unproved(kernel, a.tensor, a.index, a.pred, checks=())) for a in accesses(kernel)
    )


def _groups(kernel: Kernel) -> list[list[str]]:
    """Runs of axes to merge, in the kernel's order."""
    parts = {a: _part(kernel, a) for a, _ in kernel.axes}
    indexed = indexed_axes(kernel)
    multiplies = any(isinstance(t, Contract) for t in kernel.terms)
    groups: list[list[str]] = []
    for axis, extent in kernel.axes:
        if not isinstance(extent, int) or extent < 1:
            continue
        for group in groups:
            last = group[-1]
            if parts[last] != parts[axis]:
                continue
            joins = axis not in indexed and last not in indexed and (
                follows(kernel, last, axis)
            )
            if joins or (multiplies and _is_side(parts[axis])):
                group.append(axis)
                break
        else:
            groups.append([axis])
    return [g for g in groups if len(g) > 1]


def _part(kernel: Kernel, axis: str) -> tuple[object, ...]:
    """What an axis is to every folding and statement; equal parts may become one axis."""
    roles: list[object] = []
    for term in kernel.terms:
        if isinstance(term, (Reduction, Contract)):
            roles.append((axis in term.over, *_operand_roles(term, axis)))
        elif isinstance(term, Scan):
            roles.append((axis == term.over, axis in term.axes, axis if axis == term.over else ""))
    roles += [axis in s.axes for s in kernel.statements]
    roles.append(axis in kernel.parallel)
    return tuple(roles)


def _operand_roles(folding: Folding, axis: str) -> tuple[object, ...]:
    operands = folding.operands
    return tuple(axis in o.axes for o in operands)


def _is_side(part: tuple[object, ...]) -> bool:
    """Whether it is on one side of some contraction only, or summed: not a batch of all."""
    foldings = [r for r in part if isinstance(r, tuple) and len(r) >= 3]
    return any(r[0] or (r[1] != r[2]) for r in foldings)
