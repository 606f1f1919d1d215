"""When two kernels are the same: equal but for names. Such kernels are compiled once.

The text would tell it too, but names come from the user's program: twelve equal layers have one
kernel whatever their parameters are called.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from graphc.kernel.terms import Kernel, Load, Store, Term

__all__ = ["meaning"]


def meaning(kernel: Kernel) -> Hashable:
    """Equal for kernels that differ in names only; the order of tensors and axes counts."""
    tensors = {t.name: n for n, t in enumerate((*kernel.inputs, *kernel.outputs))}
    axes = {name: n for n, (name, _) in enumerate(kernel.axes)}
    number: dict[Term, int] = {}
    rows: list[Hashable] = []
    for term in kernel.terms:
        number[term] = len(number)
        rows.append(_row(term, number, tensors, axes))
    for statement in kernel.statements:
        operands = tuple(number[t] for t in statement.operands)
        if isinstance(statement, Store):
            rows.append(
                (tensors[statement.tensor], operands, statement.pred is None, statement.add)
            )
        else:
            rows.append(("check", operands))
    types = tuple((str(t.type), t.init) for t in (*kernel.inputs, *kernel.outputs))
    extents = tuple(str(e) for _, e in kernel.axes)
    return (tuple(rows), types, len(kernel.inputs), extents, kernel.sizes, kernel.scalars)


def _row(
    term: Term, number: Mapping[Term, int], tensors: Mapping[str, int], axes: Mapping[str, int]
) -> Hashable:
    operands = tuple(number[t] for t in term.operands)
    own: list[Hashable] = [type(term).__name__, term.dtype.short, operands]
    for name in ("op", "value", "monoid", "index", "name", "merge", "reverse", "exclusive"):
        found = getattr(term, name, None)
        if isinstance(found, str | bool | int | float):
            own.append((name, repr(found)))
    if isinstance(term, Load):
        own.append((tensors[term.tensor], len(term.index), term.pred is None, term.fill is None))
    over = getattr(term, "over", None)
    if over is not None:
        own.append(axes[over] if isinstance(over, str) else tuple(axes[a] for a in over))
        own.append(getattr(term, "where", None) is None)
    axis = getattr(term, "axis", None)
    own.append(None if axis is None else axes[axis])
    own.append(str(getattr(term, "extent", "")))
    return tuple(own)
