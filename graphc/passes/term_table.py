"""Terms that are shared whenever they are equal, and integer index arithmetic in one normal form.

Fusing kernels is substitution; what makes two fused kernels share a load is that equal terms become
one object::

    load x[i, j]  (of one kernel)  +  load x[i, j]  (of another)   ->  one term
    (i*64 + j) // 64   with j: 0..63                               ->  i
    (i*64 + j) % 64                                                ->  j
    64*(a // 64) + a % 64                                          ->  a
    where(i < 4, where(i < 8, a, b), c)                            ->  where(i < 4, a, c)
    load x[i] if i < 4 and i >= 4 else 0                           ->  0

Every int64 sum is kept as integer multiples of atoms, in order of creation; an atom is anything
else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import field, replace
from itertools import chain, count

import numpy as np

from graphc.kernel.scalar_ops import evaluate
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Const,
    Contract,
    Load,
    Reduction,
    Result,
    ScalarValue,
    Scan,
    SizeValue,
    Term,
)
from graphc.passes.affine import Affine, added, scaled
from graphc.passes.spans import NEGATED, Span, conjuncts, negated, span_of
from graphc.records import dataclass
from graphc.types import DType, Extent, bool_, int64

__all__ = ["Substitution", "TermTable"]

#: an index beyond this could have wrapped; an axis of run-time extent is taken to be this long
LARGEST, UNKNOWN_EXTENT = 1 << 62, 1 << 31
#: how a load of ``tensor`` at already rewritten operands is rewritten
LoadRule = Callable[[Load], Term]


@dataclass(frozen=True)
class Substitution:
    """What to put for free axes, for bound axes (each may become several) and for loads.

    ``guards`` holds a predicate for a bound axis that was cut into ragged blocks. ``guard`` is put
    on every load.
    """

    axes: Mapping[str, Term] = field(default_factory=dict)
    bound: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    guards: Mapping[str, Term] = field(default_factory=dict)
    load: LoadRule | None = None
    guard: Term | None = None


_NOTHING = Substitution()


class TermTable:
    """Equal terms are one object. ``extents`` are those of the axes met so far."""

    def __init__(self) -> None:
        self.extents: dict[str, Extent] = {}
        self._terms: dict[Hashable, Term] = {}
        self._order: dict[Term, int] = {}
        self._affine: dict[Term, Affine] = {}

    # ---- making terms

    def _share(self, key: Hashable, make: Callable[[], Term]) -> Term:
        found = self._terms.get(key)
        if found is None:
            found = self._terms[key] = make()
            self._order[found] = len(self._order)
        return found

    def const(self, value: bool | int | float, dtype: DType = int64) -> Term:
        text = float(value).hex() if dtype.is_float else str(int(value))
        return self._share(
            ("const", text, dtype), lambda: Const(dtype=dtype, axes=frozenset(), value=value)
        )

    def axis(self, name: str, extent: Extent | None = None) -> Term:
        if extent is not None:
            self.extents[name] = extent
        return self._share(
            ("axis", name), lambda: AxisIndex(dtype=int64, axes=frozenset({name}), axis=name)
        )

    def size(self, extent: Extent) -> Term:
        if isinstance(extent, int):
            return self.const(extent)
        return self._share(
            ("size", extent), lambda: SizeValue(dtype=int64, axes=frozenset(), extent=extent)
        )

    def apply(self, op: str, args: Sequence[Term], dtype: DType) -> Term:
        """``op`` of shared terms; integer sums and floor divisions come out in normal form."""
        if dtype is int64 and op in ("+", "-", "*", "//", "%", "neg"):
            return self._arithmetic(op, *args)
        if op == "and" and args[0] is args[1]:
            return args[0]
        if op == "where":
            return self.where(*args)
        if args and all(isinstance(a, Const) for a in args):
            numbers = [np.asarray(a.value, a.dtype.numpy) for a in args if isinstance(a, Const)]
            return self.const(evaluate(op, *numbers).item(), dtype)
        return self._raw_apply(op, tuple(args), dtype)

    def _raw_apply(self, op: str, args: tuple[Term, ...], dtype: DType) -> Term:
        axes = frozenset(chain.from_iterable(a.axes for a in args))
        return self._share(
            (op, args, dtype), lambda: Apply(dtype=dtype, axes=axes, op=op, args=args)
        )

    def both(self, left: Term | None, right: Term | None) -> Term | None:
        """``left and right``, where None holds everywhere."""
        if left is None or right is None:
            return left if right is None else right
        return self.apply("and", (left, right), bool_)

    def load(
        self,
        tensor: str,
        index: tuple[Term, ...],
        dtype: DType,
        pred: Term | None = None,
        fill: Term | None = None,
    ) -> Term:
        operands = (*index, *(t for t in (pred, fill) if t is not None))
        axes = frozenset(chain.from_iterable(t.axes for t in operands))
        return self._share(
            ("load", tensor, index, pred, fill),
            lambda: Load(dtype=dtype, axes=axes, tensor=tensor, index=index, pred=pred, fill=fill),
        )

    def where(self, pred: Term, yes: Term, no: Term) -> Term:
        """``yes`` where ``pred``, else ``no``; of choices in them only what can be chosen there."""
        if isinstance(pred, Const):
            return yes if pred.value else no
        yes = self._chosen(pred, yes)
        otherwise = negated(pred)
        if otherwise is not None:
            no = self._chosen(self.apply(*otherwise, bool_), no)
        return yes if yes is no else self._raw_apply("where", (pred, yes, no), yes.dtype)

    def _chosen(self, guard: Term, term: Term) -> Term:
        """What a choice comes to where ``guard`` holds, as far as that decides it."""
        while isinstance(term, Apply) and term.op == "where":
            known = self.decided(guard, term.args[0])
            if known is None:
                break
            term = term.args[1 if known else 2]
        return term

    def opaque(self, name: str, args: tuple[Term, ...], dtype: DType) -> Term:
        """What no kernel computes, as a function of what it reads."""
        return self._raw_apply(name, args, dtype)

    # ---- comparisons

    def never(self, pred: Term) -> bool:
        """Whether comparisons of indices in ``pred`` contradict each other."""
        return self._known(pred) is None

    def decided(self, guard: Term, pred: Term) -> bool | None:
        """Whether ``pred`` holds, or fails, wherever ``guard`` does; None where neither is seen."""
        facts = self._known(guard)
        if facts is None:
            return True  # nowhere
        answers = [self._decided(facts, part) for part in conjuncts(pred)]
        if False in answers:
            return False
        return None if None in answers else True

    def _decided(self, facts: Mapping[Affine, Span], pred: Term) -> bool | None:
        wanted = self._span(pred)
        if wanted is None:
            return None
        total, span = wanted
        known = facts.get(total) or Span(*self._range(total))
        if known.both(span).is_empty:
            return False
        return True if known.both(span) == known else None

    def _known(self, guard: Term) -> dict[Affine, Span] | None:
        """Where sums of indices lie while ``guard`` holds; None where it never does."""
        facts: dict[Affine, Span] = {}
        for total, span in filter(None, map(self._span, conjuncts(guard))):
            facts[total] = (facts.get(total) or Span(*self._range(total))).both(span)
            if facts[total].is_empty:
                return None
        return facts

    def _span(self, pred: Term) -> tuple[Affine, Span] | None:
        """The sum of indices that a comparison bounds."""
        if not isinstance(pred, Apply) or pred.op not in NEGATED:
            return None
        if any(a.dtype is not int64 for a in pred.args):
            return None
        left, right = (self._affine_of(a) for a in pred.args)
        if not self._is_index(left) or not self._is_index(right):
            return None
        return span_of(pred.op, added(left, scaled(right, -1)), self._order)

    # ---- substitution

    def share(self, term: Term) -> Term:
        """``term`` rebuilt from shared terms."""
        return term if term in self._order else self.substitute(term, _NOTHING)

    def substitute(
        self, root: Term, how: Substitution, memo: dict[Term, Term] | None = None
    ) -> Term:
        """``root`` with axes and loads replaced. Bound axes of a reduction hide free ones of the
        same name, and are renamed where what is put in names them.

        A shared term none of whose free axes is replaced stays as it is where loads are kept, so
        the cost is that of what changes. ``memo`` may be kept between calls with the same ``how``.
        """
        memo = {} if memo is None else memo
        stack = [root]
        while stack:
            term = stack[-1]
            if term in memo:
                stack.pop()
                continue
            if self._untouched(term, how):
                memo[term] = term
                continue
            inner = self._inside(term, how)
            if inner is not None:
                moved = {t: self.substitute(t, inner) for t in term.operands}
                memo[term] = self._rebuilt(term, inner, moved)
                continue
            missing = [t for t in term.operands if t not in memo]
            if missing:
                stack.extend(reversed(missing))
                continue
            memo[term] = self._rebuilt(term, how, memo)
        return memo[root]

    def _untouched(self, term: Term, how: Substitution) -> bool:
        if term not in self._order or how.load is not None or how.guard is not None or how.bound:
            return False
        return how.axes.keys().isdisjoint(term.axes)

    def _inside(self, term: Term, how: Substitution) -> Substitution | None:
        """What to put inside of a reduction where its own axes make a difference, else None.

        m[i] = max x[i, j] over j   at i = j   ->   max x[j, j__1] over j__1
        """
        if not isinstance(term, Reduction | Contract):
            return None
        own = [a for a in term.over if a not in how.bound]
        free = frozenset(chain.from_iterable(t.axes for t in term.operands)).difference(term.over)
        axes = {a: t for a, t in how.axes.items() if a not in own}
        entering = frozenset(chain.from_iterable(axes[a].axes for a in free if a in axes))
        guard = self._without(how.guard, own)
        captured = [a for a in own if a in entering]
        if len(axes) == len(how.axes) and guard is how.guard and not captured:
            return None
        bound = dict(how.bound)
        for axis in captured:
            name = self._renamed(axis)
            axes[axis], bound[axis] = self.axis(name), (name,)
        return replace(how, axes=axes, bound=bound, guard=guard)

    def _renamed(self, axis: str) -> str:
        """A new axis as long as ``axis``."""
        name = next(n for n in (f"{axis}__{i}" for i in count(1)) if n not in self.extents)
        self.extents[name] = self.extents[axis]
        return name

    def _without(self, guard: Term | None, axes: Sequence[str]) -> Term | None:
        """The parts of a conjunction that do not hang on ``axes``."""
        if guard is None or guard.axes.isdisjoint(axes):
            return guard
        if isinstance(guard, Apply) and guard.op == "and":
            left, right = (self._without(a, axes) for a in guard.args)
            return self.both(left, right)
        return None

    def _rebuilt(self, term: Term, how: Substitution, memo: Mapping[Term, Term]) -> Term:
        match term:
            case AxisIndex():
                return how.axes.get(term.axis) or self.axis(term.axis)
            case Const():
                return self.const(term.value, term.dtype)
            case SizeValue():
                return self.size(term.extent)
            case ScalarValue():
                return self._share(("scalar", term.name), lambda: term)
            case Apply(op="where") if how.guard is not None:
                made = self.where(*(memo[a] for a in term.args))
                return self._chosen(how.guard, made)
            case Apply():
                return self.apply(term.op, [memo[a] for a in term.args], term.dtype)
            case Load():
                return self._rebuilt_load(term, how, memo)
            case Reduction():
                return self._rebuilt_reduction(term, how, memo)
            case Contract():
                return self._rebuilt_contract(term, how, memo)
            case Scan():
                return self._rebuilt_scan(term, how, memo)
            case Result():
                return self.result(memo[term.of], term.index, term.dtype)
        raise TypeError(f"no term of the Kernel IR: {term!r}")

    def _rebuilt_load(self, term: Load, how: Substitution, memo: Mapping[Term, Term]) -> Term:
        pred = self.both(how.guard, None if term.pred is None else memo[term.pred])
        fill = None if term.fill is None else memo[term.fill]
        if pred is not None and self.never(pred):
            return self.const(0, term.dtype) if fill is None else fill
        index = tuple(memo[i] for i in term.index)
        load = self.load(term.tensor, index, term.dtype, pred, fill)
        if how.load is None:
            return load
        assert isinstance(load, Load)
        return how.load(load)

    def _rebuilt_reduction(
        self, term: Reduction, how: Substitution, memo: Mapping[Term, Term]
    ) -> Term:
        over = tuple(chain.from_iterable(how.bound.get(a, (a,)) for a in term.over))
        where = None if term.where is None else memo[term.where]
        for axis in term.over:
            where = self.both(where, how.guards.get(axis))
        args = tuple(memo[a] for a in term.args)
        return self.reduction(term.monoid, args, over, where, term.merge, term.dtype)

    def reduction(
        self,
        monoid: str,
        args: tuple[Term, ...],
        over: tuple[str, ...],
        where: Term | None,
        merge: bool,
        dtype: DType,
    ) -> Term:
        key = args[:1] if monoid == "expsum" else args
        operands = (*key, *(() if where is None else (where,)))
        axes = frozenset(chain.from_iterable(t.axes for t in operands)) - frozenset(over)
        return self._share(
            ("reduce", monoid, args, over, where, merge),
            lambda: Reduction(
                dtype=dtype,
                axes=axes,
                monoid=monoid,
                args=args,
                over=over,
                where=where,
                merge=merge,
            ),
        )

    def result(self, of: Term, index: int, dtype: DType) -> Term:
        """The ``index``-th state of a shared reduction or scan."""
        assert isinstance(of, Reduction | Scan)
        axes = of.axes
        if isinstance(of, Reduction) and of.monoid == "expsum" and index:
            axes = axes | (of.args[index].axes - frozenset(of.over))
        return self._share(
            ("result", of, index), lambda: Result(dtype=dtype, axes=axes, of=of, index=index)
        )

    def _rebuilt_contract(
        self, term: Contract, how: Substitution, memo: Mapping[Term, Term]
    ) -> Term:
        over = tuple(chain.from_iterable(how.bound.get(a, (a,)) for a in term.over))
        where = None if term.where is None else memo[term.where]
        for axis in term.over:
            where = self.both(where, how.guards.get(axis))
        a, b = memo[term.a], memo[term.b]
        operands = (a, b, *(() if where is None else (where,)))
        axes = frozenset(chain.from_iterable(t.axes for t in operands)) - frozenset(over)
        return self._share(
            ("contract", a, b, over, where, term.dtype),
            lambda: Contract(dtype=term.dtype, axes=axes, a=a, b=b, over=over, where=where),
        )

    def _rebuilt_scan(self, term: Scan, how: Substitution, memo: Mapping[Term, Term]) -> Term:
        args = tuple(memo[a] for a in term.args)
        (over,) = how.bound.get(term.over, (term.over,))
        axes = frozenset(chain.from_iterable(t.axes for t in args)) | {over}
        return self._share(
            ("scan", term.monoid, args, over, term.reverse, term.exclusive),
            lambda: replace(term, args=args, over=over, axes=axes),
        )

    # ---- integer arithmetic

    def _arithmetic(self, op: str, *args: Term) -> Term:
        left = self._affine_of(args[0])
        if op == "neg":
            return self._written(scaled(left, -1))
        right = self._affine_of(args[1])
        if op == "+":
            return self._written(added(left, right))
        if op == "-":
            return self._written(added(left, scaled(right, -1)))
        if op == "*" and not right.terms:
            return self._written(scaled(left, right.constant))
        if op == "*" and not left.terms:
            return self._written(scaled(right, left.constant))
        divides = op in ("//", "%") and not right.terms and right.constant > 0
        if divides and self._is_index(left):
            return self._divided(op, left, right.constant)
        return self._raw_apply(op, args, int64)

    def _is_index(self, value: Affine) -> bool:
        """Whether it is made of axes and sizes and too small to wrap: data may have wrapped."""
        low = high = value.constant
        for atom, coefficient in value.terms:
            if not self._small(atom):
                return False
            first, last = self._atom_range(atom)
            reach = max(abs(first or 0), UNKNOWN_EXTENT if last is None else abs(last))
            low, high = low - abs(coefficient) * reach, high + abs(coefficient) * reach
        return low > -LARGEST and high < LARGEST

    def _small(self, atom: Term) -> bool:
        if isinstance(atom, AxisIndex | SizeValue | ScalarValue):
            return True
        if not isinstance(atom, Apply) or atom.op not in ("//", "%", "*"):
            return False
        return all(self._is_index(self._affine_of(a)) for a in atom.args)

    def _divided(self, op: str, value: Affine, by: int) -> Term:
        whole = Affine(
            tuple((t, c // by) for t, c in value.terms if c % by == 0), value.constant // by
        )
        rest = Affine(tuple((t, c) for t, c in value.terms if c % by), value.constant % by)
        low, high = self._range(rest)
        if low is not None and high is not None and low // by == high // by:
            quotient = low // by
            if op == "//":
                return self._written(Affine(whole.terms, whole.constant + quotient))
            return self._written(Affine(rest.terms, rest.constant - quotient * by))
        remainder = self._written(rest)
        if op == "%":
            return self._raw_apply("%", (remainder, self.const(by)), int64)
        nested = self._raw_apply("//", (remainder, self.const(by)), int64)
        return self._written(added(whole, Affine(((nested, 1),), 0)))

    def _affine_of(self, term: Term) -> Affine:
        if isinstance(term, Const):
            return Affine((), int(term.value))
        return self._affine.get(term) or Affine(((term, 1),), 0)

    def range_of(self, term: Term) -> tuple[int | None, int | None]:
        """Inclusive bounds of an int64 term, None where unknown."""
        return self._range(self._affine_of(term))

    def _range(self, value: Affine) -> tuple[int | None, int | None]:
        low: int | None = value.constant
        high: int | None = value.constant
        for atom, coefficient in value.terms:
            first, last = self._atom_range(atom)
            if coefficient < 0:
                first, last = last, first
            low = None if low is None or first is None else low + coefficient * first
            high = None if high is None or last is None else high + coefficient * last
        return low, high

    def _atom_range(self, atom: Term) -> tuple[int | None, int | None]:
        if isinstance(atom, AxisIndex):
            extent = self.extents.get(atom.axis)
            return 0, extent - 1 if isinstance(extent, int) else None
        if isinstance(atom, Apply) and atom.op in ("//", "%"):
            by = atom.args[1]
            if not isinstance(by, Const) or by.value <= 0:
                return None, None
            if atom.op == "%":
                return 0, int(by.value) - 1
            low, high = self.range_of(atom.args[0])
            divisor = int(by.value)
            return (
                None if low is None else low // divisor,
                None if high is None else high // divisor,
            )
        return None, None

    def _written(self, value: Affine) -> Term:
        """The one term that stands for ``value``."""
        value = self._joined(value)
        ordered = sorted(value.terms, key=lambda item: self._order[item[0]])
        total: Term | None = None
        for atom, coefficient in ordered:
            part = atom
            if coefficient != 1:
                part = self._raw_apply("*", (self.const(coefficient), atom), int64)
            total = part if total is None else self._raw_apply("+", (total, part), int64)
        if total is None:
            return self.const(value.constant)
        if value.constant > 0 or value.constant == -(1 << 63):  # the least has no positive
            total = self._raw_apply("+", (total, self.const(value.constant)), int64)
        elif value.constant < 0:
            total = self._raw_apply("-", (total, self.const(-value.constant)), int64)
        self._affine[total] = Affine(tuple(ordered), value.constant)
        return total

    def _joined(self, value: Affine) -> Affine:
        """``c*k*(a // k) + c*(a % k) -> c*a``, as often as it applies."""
        counted: dict[Term, int] = dict(value.terms)
        for atom in list(counted):
            if not isinstance(atom, Apply) or atom.op != "%" or atom not in counted:
                continue
            quotient = self._terms.get(("//", atom.args, int64))
            by = atom.args[1]
            coefficient = counted[atom]
            if quotient is None or not isinstance(by, Const):
                continue
            if counted.get(quotient) != coefficient * int(by.value):
                continue
            del counted[atom], counted[quotient]
            whole = added(
                Affine(tuple(counted.items()), value.constant),
                scaled(self._affine_of(atom.args[0]), coefficient),
            )
            return self._joined(whole)
        return value
