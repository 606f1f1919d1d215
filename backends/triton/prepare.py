"""Kernel -> the same kernel with fewer axes: what a GPU treats as one axis becomes one.

Several axes that play one part in every contraction (the window of a convolution, its pixels) are
merged, so that it is one matrix product; so are axes that follow each other in memory everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.triton.access import flat_offset
from graphc.errors import KernelError
from graphc.kernel.bounds import unproved
from graphc.kernel.rewrite import merge_axes
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Contract,
    Kernel,
    Load,
    Reduction,
    Scan,
    Store,
    Term,
)
from graphc.nest import Folding

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
        len(unproved(kernel, a.tensor, a.index, a.pred, checks=())) for a in _accesses(kernel)
    )


def _accesses(kernel: Kernel) -> list[Load | Store]:
    loads: list[Load | Store] = [t for t in kernel.terms if isinstance(t, Load)]
    return [*loads, *kernel.stores]


def _groups(kernel: Kernel) -> list[list[str]]:
    """Runs of axes to merge, in the kernel's order."""
    parts = {a: _part(kernel, a) for a, _ in kernel.axes}
    indexed = _indexed_axes(kernel)
    multiplies = any(isinstance(t, Contract) for t in kernel.terms)
    groups: list[list[str]] = []
    for axis, extent in kernel.axes:
        if not isinstance(extent, int) or extent < 1:
            continue
        for group in groups:
            last = group[-1]
            if parts[last] != parts[axis]:
                continue
            follows = axis not in indexed and last not in indexed and (
                _follows(kernel, last, axis, extent)
            )
            if follows or (multiplies and _is_side(parts[axis])):
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


def _follows(kernel: Kernel, slow: str, fast: str, extent: int) -> bool:
    """Whether stepping over all of ``fast`` is one step of ``slow`` in every access."""
    for access in _accesses(kernel):
        flat = flat_offset(kernel.tensors[access.tensor], access.index)
        if flat.axes.get(slow, 0) != flat.axes.get(fast, 0) * extent:
            return False
        if any({slow, fast} & atom.axes for atom in flat.atoms):
            return False
    return True


def _indexed_axes(kernel: Kernel) -> set[str]:
    """Axes whose index is used as a number, not only to say where."""
    found: set[str] = set()
    places = {id(t) for a in _accesses(kernel) for t in a.index}
    plain: set[int] = set()
    for access in _accesses(kernel):
        for term in access.index:
            plain |= {id(t) for t in _affine_terms(term)}
    for root in (*kernel.terms, *kernel.statements):
        if id(root) in plain:
            continue
        for operand in root.operands:
            if isinstance(operand, AxisIndex) and not (
                isinstance(root, (Load, Store)) and id(operand) in places
            ):
                found.add(operand.axis)
    return found


def _affine_terms(term: Term) -> list[Term]:
    if isinstance(term, Apply) and term.op in ("+", "-", "*", "neg"):
        return [term, *(t for a in term.args for t in _affine_terms(a))]
    return [term]
