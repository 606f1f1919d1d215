"""Strided gradients without wasted work: residue classes instead of a divisibility predicate.

In the gradient of a strided convolution an output row ``y`` takes the taps ``p`` with
``(y + c - p) % s == 0``, so s - 1 of s products are masked. ``split_phases`` splits
``y = s*ty + ry``; then the taps of a class are ``p = s*tp + r(ry)`` with ``r`` solving the
predicate, which disappears, and ``(y + c - p) // s`` becomes affine::

    a = load dr[.., (y + 1 - p) // 2] if (y + 1 - p) % 2 == 0 else 0.0    y:13 p:3
    a = load dr[.., ty - tp + (ry + 1 - (ry + 1) % 2) // 2] else 0.0      ry:2 ty:7 tp:2
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import gcd
from typing import NamedTuple

from graphc.errors import KernelError
from graphc.kernel import build
from graphc.kernel.linear import Linear
from graphc.kernel.proof import Context
from graphc.kernel.rewrite import divides, fresh_name, refuse_scans, rewritten
from graphc.kernel.substitute import Rebinding, Substitution
from graphc.kernel.terms import Apply, Const, Kernel, Load, Term
from graphc.types import Extent, int64

__all__ = ["simplify_indices", "split_phases"]


class _Phase(NamedTuple):
    """``(cy*y + cp*p + constant) % stride == 0`` with ``y`` free and ``p`` bound."""

    free: str
    bound: str
    free_coefficient: int
    bound_coefficient: int
    constant: int
    stride: int
    predicates: tuple[Term, ...]


def split_phases(kernel: Kernel) -> Kernel:
    """``kernel`` with every divisibility predicate of a free and a bound axis turned into phases.

    KernelError where there is none: the stride must be constant and have no factor in common with
    the bound axis's coefficient (a dilation).
    """
    found = _phase(kernel)
    if found is None:
        raise KernelError(f"{kernel.name}: no divisibility predicate to split phases by")
    split = 0
    while found is not None:
        kernel = _split_phase(kernel, found, split)
        found, split = _phase(kernel), split + 1
    return simplify_indices(kernel)


def _phase(kernel: Kernel) -> _Phase | None:
    """The first predicate that can be split, with all that say the same."""
    context = Context(kernel, [])
    grouped: dict[tuple[Hashable, int], list[Term]] = {}
    forms: dict[tuple[Hashable, int], tuple[Linear, int]] = {}
    for term in kernel.terms:
        divisible = _divisible(term)
        if divisible is not None:
            form = context.linear(divisible[0])
            key = (form.key(), divisible[1])
            grouped.setdefault(key, []).append(term)
            forms[key] = form, divisible[1]
    for key, terms in grouped.items():
        phase = _as_phase(kernel, *forms[key], tuple(terms))
        if phase is not None:
            return phase
    return None


def _divisible(term: Term) -> tuple[Term, int] | None:
    """``(t, s)`` where the term says ``t % s == 0``."""
    if not isinstance(term, Apply) or term.op != "==":
        return None
    for side, other in (term.args, term.args[::-1]):
        zero = isinstance(other, Const) and other.value == 0
        if zero and isinstance(side, Apply) and side.op == "%" and isinstance(side.args[1], Const):
            stride = int(side.args[1].value)
            return (side.args[0], stride) if stride > 1 else None
    return None


def _as_phase(
    kernel: Kernel, form: Linear, stride: int, predicates: tuple[Term, ...]
) -> _Phase | None:
    if len(form.terms) != 2 or not isinstance(form.constant, int):
        return None
    by_role: dict[bool, tuple[str, int]] = {}
    for atom, coefficient in form.terms:
        if not isinstance(atom, tuple) or atom[0] != "axis" or not isinstance(coefficient, int):
            return None
        by_role[atom[1] in kernel.bound_axes] = atom[1], coefficient
    if set(by_role) != {False, True}:
        return None
    (free, a), (bound, b) = by_role[False], by_role[True]
    if gcd(b, stride) != 1:
        return None
    return _Phase(free, bound, a, b, form.constant, stride, predicates)


def _split_phase(kernel: Kernel, phase: _Phase, split: int) -> Kernel:
    free, bound, stride = phase.free, phase.bound, phase.stride
    refuse_scans(kernel, (free, bound))
    time, rest = fresh_name(kernel, f"t{free}"), fresh_name(kernel, f"r{free}")
    taps = fresh_name(kernel, f"t{bound}")
    residue = build.axis(rest)
    index = _affine(stride, time, residue)
    # cp*p + cy*r + constant = 0 modulo the stride, solved for p
    inverse = pow(phase.bound_coefficient, -1, stride)
    slope = -inverse * phase.free_coefficient % stride
    shift = -inverse * phase.constant % stride
    scaled = residue if slope == 1 else build.apply("*", slope, residue)
    solved = build.apply("%", build.apply("+", scaled, shift), stride)
    tap = _affine(stride, taps, solved)
    guards = {
        name: build.apply("<", value, build.size(kernel.extents[name]))
        for name, value in ((free, index), (bound, tap))
        if not divides(stride, kernel.extents[name])
    }
    substitution = Substitution(
        {free: index, bound: tap},
        bound={bound: Rebinding((taps,), guards.get(bound))},
        guards=guards,
        replaced={p: build.const(True) for p in phase.predicates},
    )
    axes = list(_phase_axes(kernel, phase, time, taps))
    axes.insert(split, (rest, stride))  # residue classes come first: they are unrolled or spread
    return rewritten(kernel, axes, substitution)


def _affine(stride: int, axis: str, rest: Term) -> Term:
    return build.apply("+", build.apply("*", stride, build.axis(axis)), rest)


def _phase_axes(
    kernel: Kernel, phase: _Phase, time: str, taps: str
) -> Iterable[tuple[str, Extent]]:
    for name, extent in kernel.axes:
        blocks = (extent + (phase.stride - 1)) // phase.stride
        if name == phase.free:
            yield time, blocks
        elif name == phase.bound:
            yield taps, blocks
        else:
            yield name, extent


# ---- simpler indices


def simplify_indices(kernel: Kernel) -> Kernel:
    """Indices in their simplest linear form: ``(2*t + r + 1) // 2`` is ``t + (r + 1) // 2``."""
    context = Context(kernel, [])
    replaced: dict[Term, Term] = {}
    indices = [i for t in kernel.terms if isinstance(t, Load) for i in t.index]
    indices += [i for s in kernel.stores for i in s.index]
    for index in indices:
        simple = _rebuilt(context, context.linear(index))
        if simple is not None and _cost(simple) < _cost(index):
            replaced[index] = simple
    return rewritten(kernel, kernel.axes, Substitution(replaced=replaced))


def _cost(term: Term) -> tuple[int, int]:
    """The divisions and the operations of an index expression, what it gathers from apart."""
    if not isinstance(term, Apply):
        return 0, 1
    costs = [_cost(a) for a in term.args]
    divisions = (term.op in ("//", "%")) + sum(d for d, _ in costs)
    return divisions, 1 + sum(n for _, n in costs)


def _rebuilt(context: Context, form: Linear) -> Term | None:
    """A term of the form: positive parts first; None where a coefficient is symbolic."""
    parts: list[tuple[Term, int]] = []
    for atom, coefficient in form.terms:
        value = _atom(context, atom)
        if value is None or not isinstance(coefficient, int):
            return None
        parts.append((value, coefficient))
    parts.sort(key=lambda part: part[1] < 0)
    total: Term | None = None
    for value, coefficient in parts:
        scaled = value if abs(coefficient) == 1 else build.apply("*", abs(coefficient), value)
        if total is None:
            total = scaled if coefficient > 0 else build.apply("neg", scaled)
        else:
            total = build.apply("+" if coefficient > 0 else "-", total, scaled)
    if total is None:
        return build.size(form.constant)
    if isinstance(form.constant, int):
        if form.constant == 0:
            return total
        sign = "+" if form.constant > 0 else "-"
        return build.apply(sign, total, abs(form.constant))
    return build.apply("+", total, build.size(form.constant))


def _atom(context: Context, atom: Hashable) -> Term | None:
    op = "//" if atom in context.quotients else "%"
    divided = context.quotients.get(atom) or context.remainders.get(atom, ())[:2]
    if divided:
        inner, by = divided
        value = _rebuilt(context, inner)
        return None if value is None else build.apply(op, value, build.size(by))
    term = context.atoms[atom]
    return term if term.dtype.short == "i64" else build.cast(term, int64)
