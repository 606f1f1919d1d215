"""Substitution in terms: axes by index terms, loads by what produces them, bound axes by others.

A reduction binds its axes: inside it a substituted axis means the bound one and stays, unless
``Rebinding`` says what the bound axis becomes. A substituted index must not mention an axis that a
reduction around it binds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from graphc.errors import KernelError
from graphc.kernel import build
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Check,
    Const,
    Contract,
    Load,
    Reduction,
    Result,
    Scan,
    Statement,
    Store,
    Term,
)
from graphc.records import dataclass

__all__ = ["Producer", "Rebinding", "Substitution", "substitute"]

#: the value of a tensor at index terms
Producer = Callable[[tuple[Term, ...]], Term]
_Key = tuple[Term, frozenset[str]]


def substitute(
    term: Term,
    axes: Mapping[str, Term] | None = None,
    tensors: Mapping[str, Producer] | None = None,
) -> Term:
    """``term`` with axes replaced by index terms, and plain loads of tensors by their producers.

    What does not change is kept, sharing included. KernelError where an axis would be captured,
    where an axis that is scanned would be replaced by more than another axis, or where a replaced
    load has ``if`` or ``else``.

    >>> from graphc.kernel.build import apply, axis
    >>> i = axis("i")
    >>> moved = substitute(apply("*", i, 2), {"i": apply("+", axis("k"), 1)})
    >>> sorted(moved.axes)
    ['k']
    """
    return Substitution(axes or {}, tensors or {}).term(term)


@dataclass(frozen=True)
class Rebinding:
    """What a bound axis becomes: the axes to bind instead, and where they mean a point of the old
    axis.
    """

    axes: tuple[str, ...]
    guard: Term | None = None


@dataclass
class Substitution:
    """One substitution, memoized over all the terms it is applied to.

    ``bound`` says what bound axes become (their index is then ``axes``' too). ``guards`` holds
    predicates that loads take on whose index depends on the axis. ``replaced`` are terms given from
    outside.
    """

    axes: Mapping[str, Term] = field(default_factory=dict)
    tensors: Mapping[str, Producer] = field(default_factory=dict)
    bound: Mapping[str, Rebinding] = field(default_factory=dict)
    guards: Mapping[str, Term] = field(default_factory=dict)
    replaced: Mapping[Term, Term] = field(default_factory=dict)
    _known: dict[_Key, Term] = field(default_factory=dict)
    _conjunctions: dict[tuple[Term, ...], Term | None] = field(default_factory=dict)

    def term(self, term: Term) -> Term:
        """``term``, substituted; without recursion, since kernels are deep."""
        start: _Key = (term, frozenset())
        stack = [start]
        while stack:
            key = stack[-1]
            missing = [k for k in self._operand_keys(key) if k not in self._known]
            if key in self._known or not missing:
                stack.pop()
                if key not in self._known:
                    self._known[key] = self._rebuilt(key)
            else:
                stack.extend(missing)
        return self._known[start]

    def statement(self, statement: Statement) -> Statement:
        """A statement of substituted terms; guarded where an axis it depends on has a guard."""
        guards = [g for a, g in self.guards.items() if a in statement.axes]
        if isinstance(statement, Check):
            pred = self.term(statement.pred)
            for guard in guards:
                pred = build.apply("or", build.apply("not", guard), pred)
            return Check(pred, statement.message)
        own = None if statement.pred is None else _kept(self.term(statement.pred))
        joined = self._joined(own, *guards)
        return Store(
            statement.tensor,
            tuple(self.term(i) for i in statement.index),
            self.term(statement.value),
            joined,
            statement.add,
        )

    # ---- one term

    def _operand_keys(self, key: _Key) -> list[_Key]:
        term, shadowed = key
        if term in self.replaced:
            return []
        inner = shadowed | self._shadowed_by(term)
        return [(o, inner) for o in term.operands]

    def _shadowed_by(self, term: Term) -> frozenset[str]:
        if isinstance(term, (Reduction, Contract)):
            return frozenset(a for a in term.over if a in self.axes and a not in self.bound)
        return frozenset()

    def _rebuilt(self, key: _Key) -> Term:
        term, shadowed = key
        if term in self.replaced:
            return self.replaced[term]
        if isinstance(term, AxisIndex):
            free = term.axis in self.axes and term.axis not in shadowed
            return self.axes[term.axis] if free else term
        operands = [self._known[k] for k in self._operand_keys(key)]
        if isinstance(term, (Reduction, Contract)):
            return self._binder(term, shadowed, operands)
        if isinstance(term, Scan):
            return self._scan(term, shadowed, operands)
        if isinstance(term, Load):
            return self._load(term, operands, shadowed)
        if all(a is b for a, b in zip(term.operands, operands, strict=True)):
            return term
        if isinstance(term, Result):
            return _result(operands[0], term.index)
        if isinstance(term, Apply):
            return build.apply(term.op, *operands)
        raise KernelError(f"a {type(term).__name__} has no operands to replace")

    def _load(self, term: Load, operands: list[Term], shadowed: frozenset[str]) -> Term:
        count = len(term.index)
        index, rest = tuple(operands[:count]), operands[count:]
        if term.tensor in self.tensors:
            if term.pred is not None or term.fill is not None:
                raise KernelError(f"load {term.tensor}: a load with `if` or `else` is not replaced")
            return self.tensors[term.tensor](index)
        used = frozenset[str]().union(*(i.axes for i in term.index)) - shadowed
        own = _kept(rest.pop(0)) if term.pred is not None else None
        pred = self._joined(own, *(g for a, g in self.guards.items() if a in used))
        fill = rest.pop(0) if term.fill is not None else None
        same = all(a is b for a, b in zip(term.index, index, strict=True))
        if same and pred is term.pred and fill is term.fill:
            return term
        parts = [*index, *(t for t in (pred, fill) if t is not None)]
        axes = frozenset[str]().union(*(t.axes for t in parts))
        return Load(
            dtype=term.dtype, axes=axes, tensor=term.tensor, index=index, pred=pred, fill=fill
        )

    def _joined(self, *preds: Term | None) -> Term | None:
        """The conjunction, the same term each time for the same predicates."""
        present = tuple(p for p in preds if p is not None)
        if len(present) < 2:
            return build.conjunction(*present)
        found = self._conjunctions.get(present)
        if found is None:
            found = self._conjunctions[present] = build.conjunction(*present)
        return found

    def _binder(
        self, term: Reduction | Contract, shadowed: frozenset[str], operands: list[Term]
    ) -> Term:
        over: list[str] = []
        guards: list[Term] = []
        for axis in term.over:
            rebinding = self.bound.get(axis, Rebinding((axis,)))
            over.extend(a for a in rebinding.axes if a not in over)
            if rebinding.guard is not None:
                guards.append(rebinding.guard)
        self._refuse_capture(term, shadowed, over)
        unchanged = all(a is b for a, b in zip(term.operands, operands, strict=True))
        if unchanged and tuple(over) == term.over and not guards:
            return term
        own = operands.pop() if term.where is not None else None
        if isinstance(term, Contract) and all(_vanishes(o) for o in operands):
            guards = []  # the products are 0 already
        where = self._joined(own, *guards)
        if isinstance(term, Contract):
            return build.contract(operands[0], operands[1], over, where, term.dtype)
        return build.reduce(term.monoid, operands, over, where, term.merge)[0].of

    def _refuse_capture(
        self, term: Reduction | Contract, shadowed: frozenset[str], over: list[str]
    ) -> None:
        used = frozenset[str]().union(*(o.axes for o in term.operands)) - shadowed
        for axis in used & self.axes.keys() - set(term.over):
            captured = self.axes[axis].axes & set(over)
            if captured:
                name = min(captured)
                raise KernelError(f"the index for {axis!r} mentions {name!r}, which is bound here")

    def _scan(self, term: Scan, shadowed: frozenset[str], operands: list[Term]) -> Term:
        over = term.over
        index = self.axes.get(over)
        if index is not None and over not in shadowed:
            if not isinstance(index, AxisIndex):
                raise KernelError(f"the scanned axis {over!r} can only be renamed")
            over = index.axis
        return build.scan(term.monoid, operands, over, term.reverse, term.exclusive)[0].of


def _result(of: Term, index: int) -> Result:
    assert isinstance(of, (Reduction, Scan))
    if isinstance(of, Scan):
        made = build.scan(of.monoid, of.args, of.over, of.reverse, of.exclusive)[index]
    else:
        made = build.reduce(of.monoid, of.args, of.over, of.where, of.merge)[index]
    return Result(dtype=made.dtype, axes=made.axes, of=of, index=index)


def _vanishes(term: Term) -> bool:
    """Whether a guarded load gives 0 where its guard does not hold."""
    if not isinstance(term, Load) or term.pred is None:
        return False
    return term.fill is None or (isinstance(term.fill, Const) and term.fill.value == 0)


def _kept(pred: Term) -> Term | None:
    """``pred`` without the parts that became the constant true; None when nothing is left."""
    if isinstance(pred, Apply) and pred.op == "and":
        parts = [_kept(a) for a in pred.args]
        same = all(a is b for a, b in zip(parts, pred.args, strict=True))
        return pred if same else build.conjunction(*parts)
    return None if isinstance(pred, Const) and pred.value is True else pred
