"""Proves index terms inside tensors: intervals and linear facts, over axes, symbolic sizes and
predicates.

An index is proved inside a dimension of extent ``n`` by showing ``index >= 0`` and ``n - 1 - index
>= 0``. A goal ``g >= 0`` is shown, in this order, by

1. the least value of its linear form over the intervals of its atoms (axes, loads, quotients, ...);
2. a known fact ``f >= 0`` that shares an atom: ``m*g - n*f >= 0`` with positive m and n suffices;
3. cases: ``max``, ``min``, ``abs`` and ``where`` in it are replaced by each of their branches.

Facts come from the predicate of the access, from checks, and from quotients: ``c*q <= t <= c*q + c
- 1``. Arithmetic on data of unknown size may wrap, so it is believed only where the intervals show
that it does not. Sizes and products of sizes are taken to fit i64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.kernel.linear import numeric_bounds
from graphc.kernel.proof import Context, Literal, alternatives
from graphc.kernel.terms import AxisIndex, Check, Kernel, Term
from graphc.types import Extent

__all__ = ["Context", "contexts", "interval", "proves", "unproved"]

_MOST_ALTERNATIVES = 32


def unproved(
    kernel: Kernel,
    tensor: str,
    index: Sequence[Term],
    pred: Term | None = None,
    checks: Sequence[Check] | None = None,
) -> list[int]:
    """The dimensions of ``tensor`` that ``index`` is not proved inside of, where ``pred`` and the
    checks hold.

    ``checks`` are those known to hold, all of the kernel's unless given.

    >>> from graphc.kernel.text import parse_kernel
    >>> k = parse_kernel('''kernel shift
    ...   axes i:8
    ...   in x f32[8]
    ...   out y f32[8]
    ...   a = load x[i - 1] if i > 0
    ...   store y[i] = a''')
    >>> load = k.definitions[0][1]
    >>> unproved(k, "x", load.index), unproved(k, "x", load.index, load.pred)
    ([0], [])
    """
    shape = kernel.tensors[tensor].type.shape
    settled = [n for n, i in enumerate(index) if _plainly_inside(kernel, i, shape[n])]
    open_dims = [n for n in range(len(index)) if n not in settled]
    if not open_dims:
        return []
    known = kernel.checks if checks is None else checks
    cases = contexts(kernel, [pred, *(c.pred for c in known)])
    return [n for n in open_dims if not all(c.inside(index[n], shape[n]) for c in cases)]


def _plainly_inside(kernel: Kernel, index: Term, extent: Extent) -> bool:
    return isinstance(index, AxisIndex) and kernel.extents[index.axis] == extent


def interval(kernel: Kernel, term: Term, pred: Term | None = None) -> tuple[Extent, Extent]:
    """Least and greatest value of an integer term, where ``pred`` and the kernel's checks hold."""
    cases = contexts(kernel, [pred, *(c.pred for c in kernel.checks)])
    found = [c.interval(c.linear(term)) for c in cases] or [(0, 0)]
    return (
        found[0]
        if len(found) == 1
        else (
            min((low for low, _ in found), key=lambda e: numeric_bounds(e)[0]),
            max((high for _, high in found), key=lambda e: numeric_bounds(e)[1]),
        )
    )


def proves(kernel: Kernel, wanted: Term, pred: Term | None = None) -> bool:
    """Whether the comparisons of integers that ``wanted`` joins follow from ``pred`` and the
    checks.

    A term that is no comparison is never proved.
    """
    cases = contexts(kernel, [pred, *(c.pred for c in kernel.checks)])
    branches = [a for a in alternatives(wanted, True) if a]
    return all(any(c.holds(literals) for literals in branches) for c in cases)


def contexts(kernel: Kernel, preds: Iterable[Term | None]) -> list[Context]:
    """The cases in which all of ``preds`` hold, without those that contradict themselves."""
    cases: list[list[Literal]] = [[]]
    for pred in preds:
        if pred is None:
            continue
        branches = alternatives(pred, True)
        if len(cases) * len(branches) <= _MOST_ALTERNATIVES:
            cases = [case + branch for case in cases for branch in branches]
    made = [Context(kernel, case) for case in cases]
    return [c for c in made if len(made) == 1 or c.consistent()]
