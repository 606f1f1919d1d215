"""What the builder of a nest asks about a kernel's reductions, predicates and outputs."""

from __future__ import annotations

from graphc.kernel.terms import Apply, AxisIndex, Const, Contract, Kernel, Reduction, Term
from graphc.nest.steps import Folding

__all__ = [
    "MIRRORED",
    "conjunction",
    "conjuncts",
    "fills_overlap",
    "folded",
    "folding_dependencies",
    "plus",
    "rounds",
]

#: monoids that pick one of their elements: the same one in any order
_PICKING = {"max", "min", "any", "all", "argmax", "argmin"}
#: a comparison, seen from its right side
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def folded(folding: Folding) -> tuple[Term, ...]:
    return (folding.a, folding.b) if isinstance(folding, Contract) else folding.args


def rounds(folding: Folding) -> bool:
    """Whether the order in which elements are folded shows in the result."""
    if isinstance(folding, Reduction) and folding.monoid in _PICKING:
        return False
    return any(t.dtype.is_float for t in (folding, *folded(folding)))


def conjuncts(pred: Term) -> list[Term]:
    if isinstance(pred, Apply) and pred.op == "and":
        return [c for a in pred.args for c in conjuncts(a)]
    return [pred]


def conjunction(terms: list[Term]) -> Term | None:
    if not terms:
        return None
    whole = terms[0]
    for term in terms[1:]:
        whole = Apply("and", (whole, term), dtype=term.dtype, axes=whole.axes | term.axes)
    return whole


def plus(term: Term, number: int) -> Term:
    if number == 0:
        return term
    one = Const(number, dtype=term.dtype, axes=frozenset())
    return Apply("+", (term, one), dtype=term.dtype, axes=term.axes)


def folding_dependencies(terms: tuple[Term, ...]) -> dict[Term, frozenset[Term]]:
    """For each term the reductions and contractions that it needs, itself left out."""
    needs: dict[Term, frozenset[Term]] = {}
    for term in terms:
        found: set[Term] = set()
        for operand in term.operands:
            found |= needs[operand]
            if isinstance(operand, (Reduction, Contract)):
                found.add(operand)
        needs[term] = frozenset(found)
    return needs


def fills_overlap(kernel: Kernel) -> bool:
    """Whether an output with init is stored where blocks could not fill it apart: then one block
    does all.
    """
    parallel = set(kernel.parallel)
    for tensor in kernel.outputs:
        if tensor.init is None:
            continue
        plain = [
            tuple(
                t.axis if isinstance(t, AxisIndex) and t.axis in parallel else None for t in s.index
            )
            for s in kernel.stores
            if s.tensor == tensor.name
        ]
        if any(p != plain[0] for p in plain) or any(
            set(filter(None, p)) != parallel for p in plain
        ):
            return True
        for n, axis in enumerate(plain[0] if plain else ()):
            if axis is not None and kernel.extents[axis] != tensor.type.shape[n]:
                return True
    return False
