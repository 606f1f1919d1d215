"""Kernel to kernel: rename, split and merge axes, phases of strided gradients, two-phase
reductions.

Every rewrite keeps what the kernel means; tests hold them to it by interpretation. Names of values
are kept where they still fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

from graphc.errors import KernelError
from graphc.kernel import build
from graphc.kernel.substitute import Rebinding, Substitution, substitute
from graphc.kernel.terms import (
    Check,
    Contract,
    Kernel,
    KernelTensor,
    Load,
    Reduction,
    Result,
    Scan,
    Statement,
    Store,
    Term,
    postorder,
)
from graphc.types import Dim, Extent, Size, TensorType

__all__ = [
    "SplitReduction",
    "merge_axes",
    "pruned",
    "rename_axis",
    "split_axis",
    "split_reduce",
    "substitute",
]


def rewritten(
    kernel: Kernel, axes: Sequence[tuple[str, Extent]], substitution: Substitution
) -> Kernel:
    """``kernel`` over other ``axes``, with every term substituted."""
    statements = [substitution.statement(s) for s in kernel.statements]
    return build.kernel(
        kernel.name,
        axes,
        kernel.inputs,
        kernel.outputs,
        statements,
        {substitution.term(t): name for name, t in kernel.definitions},
        kernel.sizes,
        kernel.scalars,
    )


def pruned(kernel: Kernel) -> Kernel:
    """Without the axes and inputs that nothing uses."""
    used = frozenset[str]().union(*(s.axes for s in kernel.statements))
    used |= kernel.bound_axes.union(*(t.axes for t in kernel.terms))
    loaded = {t.tensor for t in kernel.terms if isinstance(t, Load)}
    return replace(
        kernel,
        axes=tuple(a for a in kernel.axes if a[0] in used),
        inputs=tuple(t for t in kernel.inputs if t.name in loaded),
    )


def rename_axis(kernel: Kernel, old: str, new: str) -> Kernel:
    """``old`` is called ``new``.

    >>> from graphc.kernel.text import parse_kernel
    >>> text = "kernel k; axes i:8; in x f32[8]; out y f32[8]; a = load x[i]; store y[i] = a"
    >>> rename_axis(parse_kernel(text.replace("; ", chr(10))), "i", "row").axes
    (('row', 8),)
    """
    _known(kernel, old)
    _free(kernel, new)
    axes = [(new if a == old else a, e) for a, e in kernel.axes]
    return rewritten(
        kernel, axes, Substitution({old: build.axis(new)}, bound={old: Rebinding((new,))})
    )


def split_axis(
    kernel: Kernel, axis: str, block: int, outer: str | None = None, inner: str | None = None
) -> Kernel:
    """``axis`` becomes ``block*outer + inner``; a last block that is not full is guarded.

    Raises KernelError for an axis that is scanned. The new axes are called ``axis`` + "o" and "i"
    unless given.
    """
    substitution, axes = _split(kernel, axis, block, outer, inner)
    return rewritten(kernel, axes, substitution)


def _split(
    kernel: Kernel, axis: str, block: int, outer: str | None = None, inner: str | None = None
) -> tuple[Substitution, list[tuple[str, Extent]]]:
    extent = _known(kernel, axis)
    if block < 1:
        raise KernelError(f"{kernel.name}: a block has at least one element, not {block}")
    refuse_scans(kernel, (axis,))
    high = fresh_name(kernel, axis + "o") if outer is None else _free(kernel, outer)
    low = fresh_name(kernel, axis + "i") if inner is None else _free(kernel, inner)
    index = build.apply("+", build.apply("*", block, build.axis(high)), build.axis(low))
    guard = None if divides(block, extent) else build.apply("<", index, build.size(extent))
    axes: list[tuple[str, Extent]] = []
    for name, e in kernel.axes:
        blocks = (extent if guard is None else extent + (block - 1)) // block
        axes += [(high, blocks), (low, block)] if name == axis else [(name, e)]
    return Substitution(
        {axis: index},
        bound={axis: Rebinding((high, low), guard)},
        guards={} if guard is None else {axis: guard},
    ), axes


def merge_axes(kernel: Kernel, axes: Sequence[str], new: str | None = None) -> Kernel:
    """``axes``, the first slowest, become one axis; each reduction binds all of them or none.

    The merged axis is called after them unless ``new`` is given, and stands where the first stood.
    """
    extents = [_known(kernel, a) for a in axes]
    if len(axes) < 2 or len(set(axes)) != len(axes):
        raise KernelError(f"{kernel.name}: merge at least two different axes, not {axes}")
    refuse_scans(kernel, axes)
    for term in kernel.terms:
        if isinstance(term, (Reduction, Contract)) and 0 < len({*term.over} & {*axes}) < len(axes):
            raise KernelError(f"{kernel.name}: a reduction binds some of {', '.join(axes)}")
    merged = fresh_name(kernel, "_".join(axes)) if new is None else _free(kernel, new)
    index = build.axis(merged)
    total: Extent = 1
    meaning: dict[str, Term] = {}
    for number, (axis, extent) in reversed(list(enumerate(zip(axes, extents, strict=True)))):
        place: Term = index if total == 1 else build.apply("//", index, build.size(total))
        meaning[axis] = place if number == 0 else build.apply("%", place, build.size(extent))
        total = total * extent
    kept = [(a, e) for a, e in kernel.axes if a not in axes or a == axes[0]]
    return rewritten(
        kernel,
        [(merged, total) if a == axes[0] else (a, e) for a, e in kept],
        Substitution(
            meaning, bound={a: Rebinding((merged,) if a == axes[0] else ()) for a in axes}
        ),
    )


def divides(block: int, extent: Extent) -> bool:
    """Whether ``extent`` is a multiple of ``block`` for all sizes."""
    if isinstance(extent, int):
        return extent % block == 0
    return all(
        c * prod(a.multiple_of if isinstance(a, Dim) else 1 for a in monomial) % block == 0
        for monomial, c in Size(extent.monomials).monomials.items()
    )


def _known(kernel: Kernel, axis: str) -> Extent:
    if axis not in kernel.extents:
        raise KernelError(f"{kernel.name}: there is no axis {axis!r}")
    return kernel.extents[axis]


def _names(kernel: Kernel) -> set[str]:
    taken = {a for a, _ in kernel.axes} | {s.name for s in kernel.sizes}
    return taken | {s.name for s in kernel.scalars} | build.RESERVED


def _free(kernel: Kernel, name: str) -> str:
    if name in _names(kernel):
        raise KernelError(f"{kernel.name}: the name {name!r} is taken")
    return name


def fresh_name(kernel: Kernel, hint: str) -> str:
    name, number = hint, 0
    while name in _names(kernel):
        number += 1
        name = f"{hint}{number}"
    return name


def refuse_scans(kernel: Kernel, axes: Iterable[str]) -> None:
    for term in kernel.terms:
        if isinstance(term, Scan) and term.over in axes:
            raise KernelError(f"{kernel.name}: the axis {term.over!r} is scanned")


# ---- reductions in two phases


class SplitReduction(NamedTuple):
    """A kernel that writes partial states of blocks, and the kernels that combine them, run after
    it.
    """

    partials: Kernel
    finishers: tuple[Kernel, ...]


def split_reduce(kernel: Kernel, axis: str, block: int) -> SplitReduction:
    """Reductions over ``axis`` in two phases: partial states of blocks of ``block``, then their
    combination.

    What does not need such a reduction is stored by the first kernel. Reductions that need another
    over the same axis stay whole in the finishers (split those again). The number of partials
    depends on the extent alone. Stores that have the same axes share a finisher, named after the
    kernel and what it stores first.
    """
    refuse_scans(kernel, (axis,))
    targets = _first_reductions(kernel, axis)
    if not targets:
        raise KernelError(f"{kernel.name}: nothing reduces over {axis!r}")
    substitution, axes = _split(kernel, axis, block)
    outer = axes[[a for a, _ in kernel.axes].index(axis)]
    inner_only = replace(
        substitution,
        bound={axis: replace(substitution.bound[axis], axes=substitution.bound[axis].axes[1:])},
    )
    parts = _parts(kernel, targets, outer)
    needing = _needing(kernel, targets)
    first = _partials(kernel, axes, inner_only, parts, outer[0], needing)
    return SplitReduction(first, _finishers(kernel, parts, outer, needing))


class _Part(NamedTuple):
    """A partial state: the value of the whole kernel it is part of, and the tensor that holds
    it.
    """

    value: Term
    tensor: KernelTensor
    axes: tuple[str, ...]


def _first_reductions(kernel: Kernel, axis: str) -> list[Reduction | Contract]:
    """Those over ``axis`` that need no other over it."""
    depends: set[Term] = set()
    found: list[Reduction | Contract] = []
    for term in kernel.terms:
        inherited = any(o in depends for o in term.operands)
        if isinstance(term, (Reduction, Contract)) and axis in term.over:
            if not inherited:
                found.append(term)
            depends.add(term)
        elif inherited:
            depends.add(term)
    return found


def _parts(
    kernel: Kernel, targets: Sequence[Reduction | Contract], outer: tuple[str, Extent]
) -> list[_Part]:
    names = {_value_key(t): name for name, t in kernel.definitions}
    parts, taken = [], set(kernel.tensors)
    for target in targets:
        for value in [target] if isinstance(target, Contract) else _all_results(target):
            axes = tuple(a for a, _ in kernel.axes if a in value.axes)
            name = f"{names[_value_key(value)]}_part"
            while name in taken:
                name += "_"
            taken.add(name)
            shape = (outer[1], *(kernel.extents[a] for a in axes))
            parts.append(_Part(value, KernelTensor(name, TensorType(value.dtype, shape)), axes))
    return parts


def _value_key(term: Term) -> Term | tuple[Term, int]:
    return (term.of, term.index) if isinstance(term, Result) else term


def _all_results(of: Reduction) -> list[Result]:
    made = build.reduce(of.monoid, of.args, of.over, of.where, of.merge)
    return [Result(dtype=r.dtype, axes=r.axes, of=of, index=r.index) for r in made]


def _needing(kernel: Kernel, targets: Sequence[Term]) -> list[Statement]:
    """The statements that need one of the targets."""
    return [s for s in kernel.statements if set(targets) & set(postorder(s.operands))]


def _partials(
    kernel: Kernel,
    axes: Sequence[tuple[str, Extent]],
    substitution: Substitution,
    parts: Sequence[_Part],
    outer: str,
    needing: Sequence[Statement],
) -> Kernel:
    kept = [s for s in kernel.statements if s not in needing]
    statements = [substitution.statement(s) for s in kept]
    for value, tensor, index in parts:
        at = [build.axis(a) for a in (outer, *index)]
        statements.append(build.store(tensor, at, substitution.term(value)))
    stored = {s.tensor for s in kept if isinstance(s, Store)}
    made = build.kernel(
        f"{kernel.name}_partials",
        axes,
        kernel.inputs,
        [*(t for t in kernel.outputs if t.name in stored), *(p.tensor for p in parts)],
        statements,
        {substitution.term(t): name for name, t in kernel.definitions if _free_of(t, parts, name)},
        kernel.sizes,
        kernel.scalars,
    )
    return pruned(made)


def _free_of(term: Term, parts: Sequence[_Part], name: str) -> bool:
    """Whether a definition is computed before the parts are, or is one of them."""
    targets = {_target(p.value) for p in parts}
    return _target(term) in targets or not targets & set(postorder([term]))


def _target(term: Term) -> Term:
    return term.of if isinstance(term, Result) else term


def _finishers(
    kernel: Kernel,
    parts: Sequence[_Part],
    outer: tuple[str, Extent],
    needing: Sequence[Statement],
) -> tuple[Kernel, ...]:
    combined = _combined(parts, outer[0])
    groups: dict[frozenset[str], list[Statement]] = {}
    for statement in needing:
        groups.setdefault(statement.axes, []).append(statement)
    made = []
    for statements in groups.values():
        substitution = Substitution(replaced=combined)
        rewritten_ones = [substitution.statement(s) for s in statements]
        checks = _checks_for(kernel, rewritten_ones)
        stores = [s for s in statements if isinstance(s, Store)]
        name = f"{kernel.name}_{stores[0].tensor}" if stores else f"{kernel.name}_check"
        stored = {s.tensor for s in stores}
        whole = build.kernel(
            name,
            [*kernel.axes, outer],
            [*kernel.inputs, *(p.tensor for p in parts)],
            [t for t in kernel.outputs if t.name in stored],
            [*checks, *rewritten_ones],
            {substitution.term(t): label for label, t in kernel.definitions},
            kernel.sizes,
            kernel.scalars,
        )
        made.append(pruned(whole))
    return tuple(made)


def _combined(parts: Sequence[_Part], outer: str) -> dict[Term, Term]:
    """What each target becomes in a finisher: the combination of its partial states."""
    loads: dict[Term, list[Load]] = {}
    for value, tensor, index in parts:
        at = [build.axis(a) for a in (outer, *index)]
        loads.setdefault(_target(value), []).append(build.load(tensor, at))
    found: dict[Term, Term] = {}
    for target, states in loads.items():
        if isinstance(target, Contract):
            total = build.reduce("sum", states, (outer,))[0]
            found[target] = build.cast(total, target.dtype)
        elif isinstance(target, Reduction):
            merge = len(states) > 1 or target.merge
            found[target] = build.reduce(target.monoid, states, (outer,), None, merge)[0].of
    return found


def _checks_for(kernel: Kernel, statements: Sequence[Statement]) -> list[Check]:
    """The checks that share a value with the statements: their loads rely on them."""
    needed = set(postorder(o for s in statements for o in s.operands))
    loads = {t for t in needed if isinstance(t, Load)}
    return [c for c in kernel.checks if c not in statements and loads & set(postorder([c.pred]))]
