"""The rules of a kernel. ``verify`` raises a VerifyError that names the kernel and the line.

1. Names are unique; axes, sizes, scalars and tensors that are used are declared; what the text
   must name is named.
2. Dtypes and axes of every term are those that its operands give.
3. Every output is stored to or has an ``init``; ``store add`` needs ``init``; plain stores to one
   output never write the same element, and each axis of a store is in its index (or is pinned by
   the predicate).
4. Every load without ``if`` and ``else``, and every store where its predicate holds, is proved
   inside its tensor; checks count as known, but for what a check loads only those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import TypeVar

from graphc.errors import DTypeError, KernelError, VerifyError
from graphc.kernel import build
from graphc.kernel.bounds import contexts, unproved
from graphc.kernel.linear import Linear, at_least_zero
from graphc.kernel.proof import Context
from graphc.kernel.scalar_ops import result_dtype
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Check,
    Const,
    Contract,
    Kernel,
    Load,
    Reduction,
    Result,
    ScalarValue,
    Scan,
    SizeValue,
    Statement,
    Store,
    Term,
    postorder,
)
from graphc.kernel.text import print_statement, print_term
from graphc.types import Extent, Size, bool_, int64

S = TypeVar("S", Term, Statement)

__all__ = ["verify"]


def verify(kernel: Kernel) -> Kernel:
    """``kernel``, if it keeps every rule; a VerifyError that says which it breaks, and where, if
    not.

    >>> from graphc.kernel.text import parse_kernel
    >>> verify(parse_kernel('''kernel shift
    ...   axes i:8
    ...   in x f32[8]
    ...   out y f32[8]
    ...   a = load x[i + 1]
    ...   store y[i] = a'''))
    Traceback (most recent call last):
    graphc.errors.VerifyError: kernel shift: dimension 0 of x is not proved to hold its index; \
say `if`, `else` or `check`
      load x[i + 1]
    """
    _names(kernel)
    _declared(kernel)
    for term in kernel.terms:
        _guarded(kernel, term, _term_rules)
    for statement in kernel.statements:
        _guarded(kernel, statement, _statement_rules)
    _outputs(kernel)
    _inside(kernel)
    return kernel


def _error(kernel: Kernel, message: str, where: Term | Statement | None = None) -> VerifyError:
    line = ""
    if isinstance(where, (Store, Check)):
        line = "\n  " + print_statement(kernel, where)
    elif where is not None:
        line = "\n  " + print_term(kernel, where)
    return VerifyError(f"kernel {kernel.name}: {message}{line}")


def _guarded(kernel: Kernel, subject: S, rules: Callable[[Kernel, S], None]) -> None:
    """Run ``rules``, whose errors of types name no kernel yet."""
    try:
        rules(kernel, subject)
    except (DTypeError, KernelError) as error:
        raise _error(kernel, error.message, subject) from error


# ---- names


def _names(kernel: Kernel) -> None:
    shared = [a for a, _ in kernel.axes]
    shared += [s.name for s in (*kernel.sizes,)] + [s.name for s in kernel.scalars]
    shared += [name for name, _ in kernel.definitions]
    for names in (shared, [t.name for t in (*kernel.inputs, *kernel.outputs)]):
        _unique(kernel, names)
    for name in (*shared, *kernel.tensors):
        if not name.isidentifier():
            raise _error(kernel, f"{name!r} is not an identifier")
    reserved = build.RESERVED.intersection(shared)
    if reserved:
        raise _error(kernel, f"{min(reserved)!r} is a word of the grammar and cannot be a name")
    named = {_value_key(t) for _, t in kernel.definitions}
    for term in kernel.terms:
        if isinstance(term, (Load, Contract, Result)) and _value_key(term) not in named:
            raise _error(kernel, f"a {type(term).__name__} has no definition")


def _value_key(term: Term) -> Term | tuple[Term, int]:
    return (term.of, term.index) if isinstance(term, Result) else term


def _unique(kernel: Kernel, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _error(kernel, f"the name {name!r} is declared twice")
        seen.add(name)


def _declared(kernel: Kernel) -> None:
    dims = {build.size_dim(s) for s in kernel.sizes}
    extents: list[tuple[str, Extent]] = list(kernel.axes)
    extents += [(t.name, e) for t in kernel.tensors.values() for e in t.type.shape]
    extents += [("size(..)", t.extent) for t in kernel.terms if isinstance(t, SizeValue)]
    greatest = [(s.name, s.max) for s in kernel.scalars if s.max is not None]
    for name, extent in (*extents, *greatest):
        unknown = [d for d in extent.dims if d not in dims] if isinstance(extent, Size) else []
        if unknown:
            raise _error(kernel, f"{name}: the size {unknown[0]} is not declared so")
    for name, extent in extents:
        if not at_least_zero(extent):
            raise _error(kernel, f"{name}: the extent {extent} may be negative")
    scalars = {s.name: s.dtype for s in kernel.scalars}
    for term in kernel.terms:
        if isinstance(term, ScalarValue) and scalars.get(term.name) != term.dtype:
            raise _error(kernel, f"the scalar {term.name} is not declared as {term.dtype}")
    for used in (*kernel.terms, *kernel.statements):
        over = (used.over,) if isinstance(used, Scan) else getattr(used, "over", ())
        missing = [a for a in (*used.axes, *over) if a not in kernel.extents]
        if missing:
            raise _error(kernel, f"the axis {missing[0]!r} is not declared", used)


# ---- terms and statements


def _term_rules(kernel: Kernel, term: Term) -> None:
    """The dtype and axes of a term, derived once more from its operands."""
    dtype, axes = term.dtype, frozenset[str]().union(*(t.axes for t in term.operands))
    if isinstance(term, Apply):
        dtype = result_dtype(term.op, [a.dtype for a in term.args])
    elif isinstance(term, Load):
        tensor = {t.name: t for t in kernel.inputs}.get(term.tensor)
        if tensor is None:
            raise KernelError(f"{term.tensor!r} is not an input")
        dtype = build.load(tensor, term.index, term.pred, term.fill).dtype
    elif isinstance(term, Contract):
        _distinct(term.over)
        again = build.contract(term.a, term.b, term.over, term.where, term.dtype)
        dtype, axes = again.dtype, again.axes
    elif isinstance(term, Result):
        again_result = _results(term.of)[term.index]
        dtype, axes = again_result.dtype, again_result.axes
    elif isinstance(term, (Reduction, Scan)):
        dtype, axes = _results(term)[0].dtype, _results(term)[0].axes
    elif isinstance(term, AxisIndex):
        dtype, axes = int64, frozenset((term.axis,))
    elif isinstance(term, SizeValue):
        dtype = int64
    elif isinstance(term, Const):
        build.const(term.value, term.dtype)
    if dtype != term.dtype:
        raise KernelError(f"this is {dtype}, not {term.dtype}")
    if axes != term.axes:
        shown = ", ".join(sorted(axes)) or "no axes"
        raise KernelError(f"this depends on {shown}, not on {', '.join(sorted(term.axes))}")


def _results(of: Reduction | Scan) -> tuple[Result, ...]:
    if isinstance(of, Scan):
        return build.scan(of.monoid, of.args, of.over, of.reverse, of.exclusive)
    _distinct(of.over)
    results = build.reduce(of.monoid, of.args, of.over, of.where, of.merge)
    made = results[0].of
    if [a.dtype for a in made.args] != [a.dtype for a in of.args]:
        raise KernelError("an argument is not of the accumulator's dtype")
    return results


def _distinct(over: tuple[str, ...]) -> None:
    if len(set(over)) != len(over):
        raise KernelError("an axis is reduced twice")


def _statement_rules(kernel: Kernel, statement: Statement) -> None:
    if isinstance(statement, Check):
        if statement.pred.dtype != bool_ or not statement.message:
            raise KernelError("a check needs a bool and a message")
        return
    tensor = {t.name: t for t in kernel.outputs}.get(statement.tensor)
    if tensor is None:
        raise KernelError(f"{statement.tensor!r} is not an output")
    build.store(tensor, statement.index, statement.value, statement.pred)
    if statement.add and tensor.init is None:
        raise KernelError(f"`store add` needs an `init` of {tensor.name}")
    if statement.add and tensor.type.dtype == bool_:
        raise KernelError("`store add` adds numbers, not bool")
    if statement.add:
        return
    indexed = frozenset[str]().union(*(i.axes for i in statement.index))
    for axis in sorted(statement.axes - indexed):
        if kernel.extents[axis] != 1 and not _pinned(kernel, statement, axis):
            raise KernelError(f"points along the axis {axis!r} store to the same element")


def _pinned(kernel: Kernel, store: Store, axis: str) -> bool:
    """Whether the predicate leaves one point of ``axis``."""
    if store.pred is None:
        return False
    index = build.axis(axis)
    ends = [c.interval(c.linear(index)) for c in contexts(kernel, [store.pred])]
    return all(low == high for low, high in ends)


# ---- outputs


def _outputs(kernel: Kernel) -> None:
    for tensor in kernel.outputs:
        stores = [s for s in kernel.stores if s.tensor == tensor.name]
        if not stores and tensor.init is None:
            raise _error(kernel, f"nothing is stored to the output {tensor.name}")
        for first, second in combinations(stores, 2):
            if first.add and second.add:
                continue
            if first.add or second.add:
                raise _error(kernel, f"{tensor.name} takes `store` and `store add`", second)
            if not _disjoint(kernel, first, second):
                raise _error(kernel, f"two stores may write one element of {tensor.name}", second)
    if not kernel.outputs:
        raise _error(kernel, "there is no output")


def _disjoint(kernel: Kernel, first: Store, second: Store) -> bool:
    """Whether no element is written by both: in some dimension their indices never meet."""
    mine = contexts(kernel, [first.pred])
    yours = contexts(kernel, [second.pred])
    return all(
        any(_apart(a, i, b, j) for i, j in zip(first.index, second.index, strict=True))
        for a in mine
        for b in yours
    )


def _apart(a: Context, i: Term, b: Context, j: Term) -> bool:
    """Indices in ranges that do not overlap, or in different residue classes of a common stride."""
    left, right = a.linear(i), b.linear(j)
    (low, high), (least, most) = a.interval(left), b.interval(right)
    if at_least_zero(least - high - 1) or at_least_zero(low - most - 1):
        return True
    stride = math.gcd(_stride(left), _stride(right))
    offset = left.constant - right.constant
    return stride > 1 and isinstance(offset, int) and offset % stride != 0


def _stride(form: Linear) -> int:
    """The greatest integer that divides every coefficient; 1 where one is symbolic."""
    return math.gcd(*(c if isinstance(c, int) else 1 for _, c in form.terms))


# ---- bounds


def _inside(kernel: Kernel) -> None:
    trusted = _checks_before(kernel)
    for term in kernel.terms:
        if not isinstance(term, Load) or term.pred is not None or term.fill is not None:
            continue
        known = kernel.checks[: trusted.get(term, len(kernel.checks))]
        outside = unproved(kernel, term.tensor, term.index, None, known)
        if outside:
            remedy = "say `if`, `else` or `check`"
            raise _error(kernel, _unproved_text(term.tensor, outside) + f"; {remedy}", term)
    for store in kernel.stores:
        outside = unproved(kernel, store.tensor, store.index, store.pred)
        if outside:
            remedy = "say `if` or `check`"
            raise _error(kernel, _unproved_text(store.tensor, outside) + f"; {remedy}", store)


def _unproved_text(tensor: str, dimensions: list[int]) -> str:
    listed = " and ".join(map(str, dimensions))
    plural = "s" if len(dimensions) > 1 else ""
    return f"dimension{plural} {listed} of {tensor} is not proved to hold its index"


def _checks_before(kernel: Kernel) -> dict[Term, int]:
    """For each term that a check needs, how many checks come before the first that does."""
    before: dict[Term, int] = {}
    for number, check in enumerate(kernel.checks):
        for term in postorder([check.pred]):
            before.setdefault(term, number)
    return before
