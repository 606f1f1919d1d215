"""What is known in one case: linear forms of terms, intervals of atoms, facts, and goals shown from
them.

The ways of proof are told at the head of ``graphc/kernel/bounds.py``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from math import gcd
from typing import Any

import numpy as np

from graphc.kernel.linear import Linear, at_least_zero, floor_quotient, numeric_bounds
from graphc.kernel.scalar_ops import evaluate
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Const,
    Kernel,
    Load,
    Result,
    ScalarValue,
    Scan,
    SizeValue,
    Term,
)
from graphc.types import DType, Extent, int64

__all__ = ["Context", "Literal", "alternatives"]

Interval = tuple[Extent, Extent]
Literal = tuple[str, Term, Term]  # a comparison that holds

_WIDEST = (int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max))
_DOUBTFUL = 2**62  # bounds beyond this come from data of unknown size
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_DEEPEST_FACTS, _DEEPEST_CASES = 3, 6
_MOST_STEPS = 2000  # of one goal: what is not proved by then is not proved


def alternatives(pred: Term, truth: bool) -> list[list[Literal]]:
    """``pred`` (or its negation) as alternatives, each of comparisons that all hold; other terms
    say nothing.
    """
    if not isinstance(pred, Apply):
        if isinstance(pred, Const) and bool(pred.value) != truth:
            return []
        return [[]]
    if pred.op == "not":
        return alternatives(pred.args[0], not truth)
    if pred.op in ("and", "or"):
        left, right = (alternatives(a, truth) for a in pred.args)
        if (pred.op == "and") != truth:
            return left + right
        return [a + b for a in left for b in right] if len(left) * len(right) <= 16 else [[]]
    if pred.op in _NEGATED and pred.args[0].dtype.is_integer:
        op = pred.op if truth else _NEGATED[pred.op]
        left_side, right_side = pred.args
        if op == "!=":
            return [[("<", left_side, right_side)], [(">", left_side, right_side)]]
        return [[(op, left_side, right_side)]]
    return [[]]


class Context:
    """What is known in one case: linear forms of terms, intervals of atoms, facts that are >= 0."""

    def __init__(self, kernel: Kernel, literals: Sequence[Literal]) -> None:
        self.kernel = kernel
        self.literals = list(literals)
        self.steps = 0
        self.atoms: dict[Hashable, Term] = {}
        self.quotients: dict[Hashable, tuple[Linear, Extent]] = {}
        self.remainders: dict[Hashable, tuple[Linear, Extent, Hashable]] = {}
        self.narrowed: dict[Hashable, Interval] = {}
        self.ranges: dict[Hashable, Interval] = {}
        self.forms: dict[Term, Linear] = {}
        self.keys: dict[Term, Hashable] = {}
        self._narrow()
        self.facts = [f for literal in self.literals for f in self._facts(*literal)]

    def with_facts(self, literals: Sequence[Literal]) -> Context:
        """The same, with more known."""
        return Context(self.kernel, [*self.literals, *literals])

    # ---- what the literals say

    def _narrow(self) -> None:
        """Comparisons of one atom with something else narrow its interval, before forms are built
        on it.
        """
        for op, left, right in self.literals:
            for side, other, o in ((left, right, op), (right, left, _MIRRORED[op])):
                form = self.linear(side)
                if len(form.terms) == 1 and form.constant == 0 and form.terms[0][1] == 1:
                    low, high = self.interval(self.linear(other))
                    self._intersect(form.terms[0][0], o, low, high)
        for cache in (self.forms, self.keys, self.ranges):
            cache.clear()

    def _intersect(self, atom: Hashable, op: str, low: Extent, high: Extent) -> None:
        least, most = self.range(atom)
        if op in (">", ">=", "=="):
            least = _larger(least, low + int(op == ">"))
        if op in ("<", "<=", "=="):
            most = _smaller(most, high - int(op == "<"))
        self.ranges[atom] = self.narrowed[atom] = least, most

    def _facts(self, op: str, left: Term, right: Term) -> list[Linear]:
        a, b = self.linear(left), self.linear(right)
        if op in (">", ">="):
            a, b = b, a
        difference = b.plus(a, -1)
        if op == "==":
            return [difference, difference.times(-1)]
        return [difference.shifted(-1) if op in ("<", ">") else difference]

    def consistent(self) -> bool:
        """False where the facts are shown to contradict each other."""
        for n, fact in enumerate(self.facts):
            if at_least_zero(-1 - self.interval(fact)[1]):
                return False
            for other in self.facts[n + 1 :]:
                sums = (s for s, _ in _eliminations(fact, other))
                if any(at_least_zero(-1 - self.interval(s)[1]) for s in sums):
                    return False
        return True

    # ---- goals

    def holds(self, literals: Sequence[Literal]) -> bool:
        """Whether these comparisons all follow."""
        goals = [f for literal in literals for f in self._facts(*literal)]
        return all(self._prove(g, self.facts, _DEEPEST_CASES) for g in goals)

    def inside(self, index: Term, extent: Extent) -> bool:
        """Whether ``0 <= index < extent``."""
        return self.at_least(index, 0) and self.at_most(index, extent - 1)

    def at_least(self, term: Term, low: Extent) -> bool:
        """Whether ``term >= low``."""
        return self._prove(self.linear(term).shifted(0 - low), self.facts, _DEEPEST_CASES)

    def at_most(self, term: Term, high: Extent) -> bool:
        """Whether ``term <= high``."""
        goal = self.linear(term).times(-1).shifted(high)
        return self._prove(goal, self.facts, _DEEPEST_CASES)

    def _prove(self, goal: Linear, facts: Sequence[Linear], cases: int) -> bool:
        self.steps = 0
        if self._follows(goal, 1, [*facts, *self._quotient_facts(goal)], _DEEPEST_FACTS):
            return True
        return cases > 0 and self._by_cases(goal, cases)

    def _follows(self, goal: Linear, scale: int, facts: Sequence[Linear], depth: int) -> bool:
        """Whether ``goal``, which is at most ``scale`` times an integer, shows that to be >= 0."""
        if at_least_zero(self.interval(goal)[0] + (scale - 1)):
            return True
        self.steps += 1
        if depth == 0 or self.steps > _MOST_STEPS:
            return False
        for n, fact in enumerate(facts):
            rest = [*facts[:n], *facts[n + 1 :]]
            negated = fact.times(-1)
            for reduced, factor in _eliminations(goal, negated):
                if self._follows(reduced, scale * factor, rest, depth - 1):
                    return True
        return False

    def _quotient_facts(self, goal: Linear) -> list[Linear]:
        facts = []
        for atom, _ in goal.terms:
            if atom in self.quotients:
                inner, by = self.quotients[atom]
                rest = inner.plus(Linear(0, ((atom, by),)), -1)
                facts += [rest, rest.times(-1).shifted(by - 1)]
            if atom in self.remainders:
                inner, by, quotient = self.remainders[atom]
                zero = inner.plus(Linear(0, ((quotient, by), (atom, 1))), -1)
                facts += [zero, zero.times(-1)]
        return facts

    def _by_cases(self, goal: Linear, cases: int) -> bool:
        for atom, _ in goal.terms:
            term = self.atoms.get(atom)
            if isinstance(term, Apply) and self._has_cases(term):
                return all(
                    case is None or case._prove(substituted, case.facts, cases - 1)
                    for case, substituted in self._branches(goal, atom, term)
                )
        return False

    def _has_cases(self, term: Apply) -> bool:
        return term.op in ("max", "min", "where") or (term.op == "abs" and self._negates(term))

    def _negates(self, term: Apply) -> bool:
        """Whether the operand is never the least integer, whose negation is itself."""
        low, _ = self.interval(self.linear(term.args[0]))
        return at_least_zero(low - _dtype_range(term.dtype)[0] - 1)

    def _branches(
        self, goal: Linear, atom: Hashable, term: Apply
    ) -> Iterable[tuple[Context | None, Linear]]:
        """The goal with ``atom`` replaced by each branch, in a context that knows the branch's
        condition.
        """
        for literals, branch, sign in _branch_literals(term):
            case = self.with_facts(literals)
            if not case.consistent():
                continue
            case.atoms.update({a: t for a, t in self.atoms.items() if a not in case.atoms})
            case.quotients.update(self.quotients)
            case.remainders.update(self.remainders)
            coefficient = goal.coefficients[atom]
            rest = Linear.of(goal.constant, {a: c for a, c in goal.terms if a != atom})
            yield case, rest.plus(case.linear(branch), sign * coefficient)

    # ---- forms

    def linear(self, term: Term) -> Linear:
        """The linear form of an integer term."""
        form = self.forms.get(term)
        if form is None:
            form = self.forms[term] = self._linear(term)
        return form

    def _linear(self, term: Term) -> Linear:
        if isinstance(term, Const):
            return Linear(int(term.value))
        if isinstance(term, SizeValue):
            return Linear(term.extent)
        if isinstance(term, Apply) and term.dtype.is_integer:
            form = self._arithmetic(term)
            if form is not None and self._fits(form, term.dtype):
                return form
        return self._atom(self.key(term), term)

    def _atom(self, key: Hashable, term: Term) -> Linear:
        self.atoms.setdefault(key, term)
        return Linear(0, ((key, 1),))

    def _fits(self, form: Linear, dtype: DType) -> bool:
        """Whether the value is the mathematical one: it does not wrap in ``dtype``."""
        low, high = self.interval(form)
        limits = np.iinfo(dtype.numpy)
        if dtype != int64:
            return at_least_zero(low - int(limits.min)) and at_least_zero(int(limits.max) - high)
        return not (_wraps(low) or _wraps(high))

    def _arithmetic(self, term: Apply) -> Linear | None:
        op, args = term.op, term.args
        if op in ("+", "-"):
            return self.linear(args[0]).plus(self.linear(args[1]), 1 if op == "+" else -1)
        if op == "neg":
            return self.linear(args[0]).times(-1)
        if op == "*":
            a, b = (self.linear(x) for x in args)
            if not a.terms:
                a, b = b, a
            return None if b.terms else a.times(b.constant)
        if op in ("//", "%"):
            return self._division(op, args[0], self.linear(args[1]))
        if op in ("<<", ">>") and isinstance(args[1], Const) and 0 <= args[1].value < 62:
            power = 2 ** int(args[1].value)
            if op == "<<":
                return self.linear(args[0]).times(power)
            return self._division("//", args[0], Linear(power))
        if op in ("i8", "u8", "i32", "u32", "i64") and args[0].dtype.is_integer:
            return self.linear(args[0])
        return None

    def _division(self, op: str, dividend: Term, divisor: Linear) -> Linear | None:
        """``t // c`` and ``t % c`` with ``t = c*q + r``: exact where ``0 <= r < c``, else on an
        atom ``r // c``.
        """
        by = divisor.constant
        if divisor.terms or not at_least_zero(by - 1):
            return None
        form = self.linear(dividend)
        whole, rest = (
            self._without_remainders(*form.divided(by), by) if op == "//" else (form.divided(by))
        )
        low, high = self.interval(rest)
        if at_least_zero(low) and at_least_zero(by - 1 - high):
            return whole if op == "//" else rest
        quotient = ("//", rest.key(), str(by))
        self.quotients[quotient] = rest, by
        if op == "//":
            return whole.plus(Linear(0, ((quotient, 1),)))
        remainder = ("%", rest.key(), str(by))
        self.remainders[remainder] = rest, by, quotient
        return Linear(0, ((remainder, 1),))

    def _without_remainders(self, whole: Linear, rest: Linear, by: Extent) -> tuple[Linear, Linear]:
        """``t - t % c`` in the rest is ``c * (t // c)``, which belongs to the whole."""
        for atom, coefficient in rest.terms:
            inner, divisor, quotient = self.remainders.get(atom, (None, 0, None))
            if inner is None or divisor != by:
                continue
            rid = rest.plus(Linear(0, ((atom, 1),)), 0 - coefficient).plus(inner, coefficient)
            more, left = rid.divided(by)
            if len(left.terms) < len(rest.terms) - 1:
                moved = Linear(0, ((quotient, 0 - coefficient),))
                return whole.plus(moved).plus(more), left
        return whole, rest

    def key(self, term: Term) -> Hashable:
        """Equal for terms that are computed in the same way."""
        found = self.keys.get(term)
        if found is None:
            found = self.keys[term] = self._key(term)
        return found

    def _key(self, term: Term) -> Hashable:
        if isinstance(term, AxisIndex):
            return "axis", term.axis
        if isinstance(term, ScalarValue):
            return "scalar", term.name
        if isinstance(term, Const):
            return "const", term.dtype.name, term.value
        if isinstance(term, Apply):
            return (term.op, term.dtype.name, *(self._operand_key(a) for a in term.args))
        if isinstance(term, Load):
            parts = (None if t is None else self._operand_key(t) for t in (term.pred, term.fill))
            return "load", term.tensor, tuple(self._operand_key(i) for i in term.index), *parts
        if isinstance(term, Result):
            return "result", id(term.of), term.index
        return "term", id(term)

    def _operand_key(self, term: Term) -> Hashable:
        return self.linear(term).key() if term.dtype.is_integer else self.key(term)

    # ---- intervals

    def interval(self, form: Linear) -> Interval:
        """The least and greatest value of a form, from the intervals of its atoms."""
        low: Extent = form.constant
        high: Extent = form.constant
        for atom, coefficient in form.terms:
            least, most = self.range(atom)
            if at_least_zero(coefficient):
                low, high = low + coefficient * least, high + coefficient * most
            elif at_least_zero(0 - coefficient):
                low, high = low + coefficient * most, high + coefficient * least
            else:
                return _WIDEST
        return low, high

    def range(self, atom: Hashable) -> Interval:
        """The interval of an atom."""
        found = self.ranges.get(atom)
        if found is None:
            found = self._atom_range(atom)
            if atom in self.narrowed:
                (a, b), (c, d) = found, self.narrowed[atom]
                found = _larger(a, c), _smaller(b, d)
            self.ranges[atom] = found
        return found

    def _atom_range(self, atom: Hashable) -> Interval:
        if atom in self.quotients:
            inner, by = self.quotients[atom]
            low, high = (floor_quotient(end, by) for end in self.interval(inner))
            return _WIDEST[0] if low is None else low, _WIDEST[1] if high is None else high
        if atom in self.remainders:
            inner, by, _ = self.remainders[atom]
            low, high = self.interval(inner)
            return 0, _smaller(by - 1, high) if at_least_zero(low) else by - 1
        return self._range(self.atoms[atom])

    def _range(self, term: Term) -> Interval:
        if isinstance(term, AxisIndex):
            return 0, self.kernel.extents[term.axis] - 1
        if isinstance(term, ScalarValue):
            return self._scalar_range(term)
        if isinstance(term, Result) and term.dtype.is_integer:
            return self._result_range(term)
        if isinstance(term, Apply):
            return self._apply_range(term)
        return _dtype_range(term.dtype)

    def _scalar_range(self, term: ScalarValue) -> Interval:
        low, high = _dtype_range(term.dtype)
        for scalar in self.kernel.scalars:
            if scalar.name == term.name:
                low = low if scalar.min is None else scalar.min
                high = high if scalar.max is None else scalar.max
        return low, high

    def _result_range(self, term: Result) -> Interval:
        """An argmax is one of its indices, unless it is over nothing."""
        of = term.of
        chosen = of.monoid in ("argmax", "argmin") and term.index == 1
        if not chosen or isinstance(of, Scan) or of.where is not None:
            return _dtype_range(term.dtype)
        if all(at_least_zero(self.kernel.extents[a] - 1) for a in of.over):
            return self.interval(self.linear(of.args[1]))
        return _dtype_range(term.dtype)

    def _apply_range(self, term: Apply) -> Interval:
        op, args = term.op, term.args
        full = _dtype_range(term.dtype)
        if args[0].dtype.kind == "b" and len(args) == 1:
            return 0, 1
        if args[-1].dtype.is_float:
            ends = self.float_interval(args[0]) if len(args) == 1 else None
            if ends is None or term.dtype.short != op:
                return full
            whole = evaluate(op, np.array(ends, np.float64))
            return int(whole[0]), int(whole[1])
        if op in ("max", "min", "where"):
            (a, b), (c, d) = (self.interval(self.linear(x)) for x in args[-2:])
            if op == "max":
                return _larger(a, c), _upper(b, d)
            if op == "min":
                return _lower(a, c), _smaller(b, d)
            return _lower(a, c), _upper(b, d)
        if op == "abs":
            low, high = self.interval(self.linear(args[0]))
            return (0, _upper(high, 0 - low)) if self._negates(term) else full
        if op == "*":
            low, high = self._product_range(args)
            fits = at_least_zero(low - full[0]) and at_least_zero(full[1] - high)
            return (low, high) if fits else full
        if op == "%":  # by a run-time value
            least, most = self.interval(self.linear(args[1]))
            return (0, most - 1) if at_least_zero(least - 1) else full
        if op == "&":
            highs = [h for lo, h in map(self.interval, map(self.linear, args)) if at_least_zero(lo)]
            return (0, highs[0] if len(highs) == 1 else _smaller(*highs)) if highs else full
        return (-1, 1) if op == "sign" else full

    def _product_range(self, args: Sequence[Term]) -> Interval:
        (a, b), (c, d) = (self.interval(self.linear(x)) for x in args)
        if at_least_zero(a) and at_least_zero(c):
            return a * c, b * d
        corners = [x * y for x in (a, b) for y in (c, d)]
        numbers = [x for x in corners if isinstance(x, int)]
        if len(numbers) == len(corners):
            return min(numbers), max(numbers)
        return _WIDEST

    def float_interval(self, term: Term) -> tuple[float, float] | None:
        """Bounds of a float term that is finite: roundings are monotone, so the ends are computed
        in its dtype.
        """
        if isinstance(term, Const):
            return (float(term.value),) * 2 if np.isfinite(term.value) else None
        if not isinstance(term, Apply):
            return None
        if term.op == "where":
            return _hull([self.float_interval(a) for a in term.args[1:]])
        if term.args[0].dtype.is_integer and term.dtype.short == term.op:
            low, high = self.interval(self.linear(term.args[0]))
            ends: list[Any] = [numeric_bounds(low)[0], numeric_bounds(high)[1]]
            return self._ends(term, [[np.array(e, np.int64) for e in ends]])
        if not all(a.dtype.is_float for a in term.args):
            return None
        parts = [self.float_interval(a) for a in term.args]
        if any(p is None for p in parts) or term.op not in _MONOTONE:
            return None
        if term.op == "/" and parts[1] is not None and parts[1][0] <= 0 <= parts[1][1]:
            return None
        dtype = term.args[0].dtype.numpy
        return self._ends(term, [[np.array(e, dtype) for e in p] for p in parts if p is not None])

    def _ends(self, term: Apply, parts: list[list[Any]]) -> tuple[float, float] | None:
        corners = [[]] if not parts else [[e] for e in parts[0]]
        for part in parts[1:]:
            corners = [[*c, e] for c in corners for e in part]
        values = [float(evaluate(term.op, *corner)) for corner in corners]
        return (min(values), max(values)) if np.isfinite(values).all() else None


#: float ops that are monotone in each operand, so that their ends lie at ends
_MONOTONE = {"+", "-", "*", "/", "neg", "max", "min", "floor", "ceil", "round", "trunc", "sqrt"} | {
    *("f16", "bf16", "f32", "f64")
}


def _branch_literals(term: Apply) -> list[tuple[list[Literal], Term, int]]:
    """(what holds, the branch taken, its sign) for each branch of max, min, abs or where."""
    if term.op == "abs":
        (x,) = term.args
        zero = Const(dtype=x.dtype, axes=frozenset(), value=0)
        return [([(">=", x, zero)], x, 1), ([("<", x, zero)], x, -1)]
    if term.op == "where":
        pred, a, b = term.args
        taken = [(literals, a, 1) for literals in alternatives(pred, True)]
        return taken + [(literals, b, 1) for literals in alternatives(pred, False)]
    a, b = term.args
    first = ">=" if term.op == "max" else "<="
    return [([(first, a, b)], a, 1), ([(first, b, a)], b, 1)]


def _eliminations(goal: Linear, other: Linear) -> list[tuple[Linear, int]]:
    """``m*goal + n*other`` and m, with positive m and n, for each atom that the sum can lose."""
    theirs = other.coefficients
    found = []
    for atom, mine in goal.terms:
        yours = theirs.get(atom, 0)
        if isinstance(mine, int) and isinstance(yours, int) and mine * yours < 0:
            common = gcd(mine, yours)
            ours, others = abs(yours) // common, abs(mine) // common
            found.append((goal.times(ours).plus(other, others), ours))
        elif yours != 0 and mine + yours == 0:
            found.append((goal.plus(other), 1))
    return found


def _larger(a: Extent, b: Extent) -> Extent:
    """The tighter of two lower bounds, as far as it is known which one is."""
    return b if at_least_zero(b - a) else a


def _smaller(a: Extent, b: Extent) -> Extent:
    return b if at_least_zero(a - b) else a


def _upper(a: Extent, b: Extent) -> Extent:
    """A bound above both."""
    if at_least_zero(a - b):
        return a
    if at_least_zero(b - a):
        return b
    return max(numeric_bounds(a)[1], numeric_bounds(b)[1])


def _lower(a: Extent, b: Extent) -> Extent:
    if at_least_zero(b - a):
        return a
    if at_least_zero(a - b):
        return b
    return min(numeric_bounds(a)[0], numeric_bounds(b)[0])


def _hull(parts: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    ends = [p for p in parts if p is not None]
    if len(ends) < len(parts):
        return None
    return min(low for low, _ in ends), max(high for _, high in ends)


def _dtype_range(dtype: DType) -> Interval:
    if dtype.is_float:
        return _WIDEST
    if dtype.kind == "b":
        return 0, 1
    limits = np.iinfo(dtype.numpy)
    return int(limits.min), int(limits.max)


def _wraps(end: Extent) -> bool:
    """Whether an end of an interval may leave i64; pure sizes are trusted not to."""
    constant = end if isinstance(end, int) else end.monomials.get((), 0)
    if abs(constant) < _DOUBTFUL:
        return False
    return not (at_least_zero(end - _WIDEST[0]) and at_least_zero(_WIDEST[1] - end))
