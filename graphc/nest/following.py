"""Axes that follow each other in memory everywhere: one loop could run over both."""

from __future__ import annotations

from graphc.kernel.terms import Apply, AxisIndex, Kernel, Load, Store, Term
from graphc.nest.offsets import flat_offset

__all__ = ["accesses", "follows", "indexed_axes"]


def accesses(kernel: Kernel) -> list[Load | Store]:
    """All loads and stores."""
    loads: list[Load | Store] = [t for t in kernel.terms if isinstance(t, Load)]
    return [*loads, *kernel.stores]


def follows(kernel: Kernel, slow: str, fast: str) -> bool:
    """Whether stepping over all of ``fast`` is one step of ``slow`` in every access."""
    extent = kernel.extents[fast]
    for access in accesses(kernel):
        flat = flat_offset(kernel.tensors[access.tensor], access.index)
        if flat.axes.get(slow, 0) != flat.axes.get(fast, 0) * extent:
            return False
        if any({slow, fast} & atom.axes for atom in flat.atoms):
            return False
    return True


def indexed_axes(kernel: Kernel) -> set[str]:
    """Axes whose index is used as a number, not only to say where."""
    found: set[str] = set()
    places = {id(t) for a in accesses(kernel) for t in a.index}
    plain: set[int] = set()
    for access in accesses(kernel):
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
