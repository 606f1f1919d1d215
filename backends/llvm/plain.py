"""Steps that compute, store or check at each position by itself, in an order that suits the
registers.

A dear epilogue of a register tile, written out for each of its positions, makes a kernel of
thousands of instructions, whose code takes seconds to generate. It is written once, as a loop over
the tile: what the loop reads lies in a small buffer on the stack meanwhile.

    v0 .. v11 = end of the product
    t0 = tanh(v0); store t0; .. t11 = tanh(v11); store t11
    ->
    buffer[0] = v0; .. buffer[11] = v11
    for row in 0..6: store tanh(buffer[2*row]); store tanh(buffer[2*row + 1])
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from graphc.backends.llvm import access
from graphc.backends.llvm.context import I1, I64, Context, Coordinate, Position, memory_type
from graphc.backends.llvm.ir import LLVMType, V, literal
from graphc.backends.llvm.tiling import POLYNOMIALS
from graphc.backends.llvm.turning import emit_turned, turned_axis
from graphc.kernel.terms import Apply, Check, Load, Term
from graphc.nest import Let, Verify, Write
from graphc.records import dataclass

__all__ = ["Plain", "emit_plain"]

#: steps that compute, store or check at each position by itself
Plain = Let | Write | Verify
#: positions from which these are taken one by one
MANY_POSITIONS = 8
#: instructions of all positions together from which they become a loop; one tanh or erf behind a
#: product is less: there the way through the buffer would be felt
MANY_INSTRUCTIONS = 1000
#: what a polynomial with its range reduction counts as
_DEAR_INSTRUCTIONS = 30


def emit_plain(k: Context, steps: Sequence[Plain], *, last: bool) -> None:
    """Emit steps at all of their positions. ``last``: nothing after them reads what they compute,
    so that a loop may hide it.
    """
    turned = {s: turned_axis(k, s.store) for s in steps if isinstance(s, Write)}
    in_blocks: set[Plain] = {s for s, along in turned.items() if along is not None}
    over = _rolled_axes(k, steps, in_blocks) if last else ()
    if not over:
        _written_out(k, steps, turned)
        return
    axes = frozenset(c.axis for c in over)
    inside = [s for s in steps if axes <= _axes(s) and s not in in_blocks]
    before = [s for s in steps if not axes <= _axes(s)]
    after = [s for s in steps if axes <= _axes(s) and s in in_blocks]
    _written_out(k, before, turned)
    _rolled(k, inside, over, [s.store.value for s in after if isinstance(s, Write)])
    _written_out(k, after, turned)


# ---- written out


def _written_out(k: Context, steps: Sequence[Plain], turned: dict[Write, str | None]) -> None:
    """Step by step for all positions, which gives the processor independent work; where a
    register tile is so large that this would spill it, all steps for one position after the
    other, or for one block of those that are turned together.
    """
    axes = {step: _axes(step) for step in steps}
    along_of = {s: turned[s] for s in steps if isinstance(s, Write)}
    everywhere = k.positions(frozenset[str]().union(*axes.values()))
    done: set[tuple[Plain, Position]] = set()
    for group in _groups(k, everywhere, {a for a in along_of.values() if a is not None}):
        for step in steps:
            own = dict.fromkeys(k.project(p, axes[step]) for p in group)
            fresh = [p for p in own if (step, p) not in done]
            done |= {(step, p) for p in fresh}
            along = along_of.get(step) if isinstance(step, Write) else None
            if isinstance(step, Write) and along is not None:
                blocks = _groups(k, fresh, {along})
                for block in blocks:
                    if len(block) > 1:
                        emit_turned(k, step.store, block)
                fresh = [p for block in blocks if len(block) == 1 for p in block]
            for position in fresh:
                _emit_step(k, step, position)


def _groups(k: Context, positions: Sequence[Position], turned: set[str]) -> list[list[Position]]:
    """Positions to be computed together: a vector's worth along a turned axis, else as many as
    registers hold.
    """
    if not turned and len(positions) >= MANY_POSITIONS:
        return [[p] for p in positions]
    if len(turned) != 1:
        return [list(positions)]
    found: dict[Position, list[Position]] = {}
    for position in positions:
        key = tuple((a, n // k.lanes if a in turned else n) for a, n in position)
        found.setdefault(key, []).append(position)
    return list(found.values())


# ---- as a loop


def _rolled_axes(
    k: Context, steps: Sequence[Plain], in_blocks: set[Plain]
) -> tuple[Coordinate, ...]:
    """The unrolled axes that become loops; none where the steps are few. Vectors of one row stay
    written out: they give the processor independent work, and the last may be masked.
    """
    unrolled = k.unrolled(frozenset[str]().union(*(_axes(s) for s in steps)))
    over = tuple(c for c in unrolled if c.lanes == 1)
    axes = frozenset(c.axis for c in over)
    inside = [s for s in steps if axes <= _axes(s) and s not in in_blocks]
    positions = math.prod(c.tile for c in unrolled)
    if positions * sum(_instructions(s) for s in inside) < MANY_INSTRUCTIONS:
        return ()
    return over


def _instructions(step: Plain) -> int:
    """About how many instructions a step is at one position."""
    term = step.term if isinstance(step, Let) else None
    if isinstance(term, Apply) and term.op in POLYNOMIALS:
        return _DEAR_INSTRUCTIONS
    return 1 if isinstance(term, Apply) else 2


def _rolled(
    k: Context, steps: Sequence[Plain], over: tuple[Coordinate, ...], wanted: Sequence[Term]
) -> None:
    """Loops over some unrolled axes around the steps; ``wanted`` are the values of theirs that are
    read after the loops.
    """
    axes = frozenset(c.axis for c in over)
    made = {s.term for s in steps if isinstance(s, Let)}
    given = [(t, _spilled(k, t)) for t in _read(k, steps, made) if axes & t.axes]
    kept = [(t, _buffer(k, t)) for t in dict.fromkeys(wanted) if t in made]
    with _loops(k, over):
        for term, buffer in given:
            for position in k.positions(term.axes):
                k.bind(term, position, buffer.load(k, position))
        _written_out(k, steps, dict.fromkeys((s for s in steps if isinstance(s, Write)), None))
        for term, buffer in kept:
            for position in k.positions(term.axes):
                buffer.store(k, position, k.value(term, position))
    for term, buffer in kept:
        for position in k.positions(term.axes):
            k.bind(term, position, buffer.load(k, position))


def _read(k: Context, steps: Sequence[Plain], made: set[Term]) -> list[Term]:
    """The terms that the steps read and that were computed before them, each once."""
    found: dict[Term, None] = {}
    pending = [t for s in steps for t in _operands(s)]
    while pending:
        term = pending.pop()
        if term in made or term in found:
            continue
        if k.is_bound(term):
            found[term] = None
        else:  # arithmetic of an index
            pending += term.operands
    return list(found)


@contextmanager
def _loops(k: Context, over: tuple[Coordinate, ...]) -> Iterator[None]:
    """Loops over the points of unrolled axes, each of which is then open at one."""
    if not over:
        yield
        return
    first, *rest = over
    with k.f.loop(literal(0, I64), literal(first.tile, I64), 1, nonempty=True) as loop:
        k.push()
        number = k.born(loop.index)
        base = k.add(first.base, number)
        k.coordinates[first.axis] = Coordinate(first.axis, base, 1, 1, first.end, number=number)
        with _loops(k, tuple(rest)):
            yield
        k.coordinates[first.axis] = first
        k.pop()


@dataclass(frozen=True)
class _Buffer:
    """A value at every position of its unrolled axes, on the stack; ``steps`` are the axes'."""

    start: V
    type: LLVMType
    term: Term
    steps: dict[str, int]

    def pointer(self, k: Context, position: Position) -> V:
        numbers, at = dict(position), literal(0, I64)
        for axis, step in self.steps.items():
            open_at = k.coordinates[axis].number
            number = literal(numbers.get(axis, 0), I64) if open_at is None else open_at
            at = k.add(at, k.multiply(number, literal(step, I64)))
        return k.f.offset(self.start, at, str(self.type))

    def load(self, k: Context, position: Position) -> V:
        raw = k.f.load(self.type, self.pointer(k, position), self.term.dtype.itemsize)
        return access.from_memory(k, raw, self.term.dtype)

    def store(self, k: Context, position: Position, value: V) -> None:
        wide = access.to_memory(k, k.splat(value, self.type.lanes), self.term.dtype)
        k.f.store(wide, self.pointer(k, position), self.term.dtype.itemsize)


def _buffer(k: Context, term: Term) -> _Buffer:
    unrolled = k.unrolled(term.axes)
    type_ = memory_type(term.dtype, k.lanes if k.is_vector(term.axes) else 1)
    total, steps = 1, {}
    for c in reversed(unrolled):
        steps[c.axis] = total
        total *= c.tile
    return _Buffer(k.f.alloca(type_, total), type_, term, steps)


def _spilled(k: Context, term: Term) -> _Buffer:
    buffer = _buffer(k, term)
    for position in k.positions(term.axes):
        buffer.store(k, position, k.value(term, position))
    return buffer


# ---- one step at one position


def _axes(step: Plain) -> frozenset[str]:
    match step:
        case Let(term=term):
            return term.axes
        case Write(store=store):
            return store.axes
        case Verify(check=check):
            return check.axes


def _operands(step: Plain) -> tuple[Term, ...]:
    match step:
        case Let(term=term):
            return term.operands
        case Write(store=store):
            return store.operands
        case Verify(check=check):
            return check.operands


def _emit_step(k: Context, step: Plain, position: Position) -> None:
    match step:
        case Let(term=term):
            _let(k, term, position)
        case Write(store=store):
            access.emit_store(k, store, position)
        case Verify(check=check):
            _verify(k, check, position)


def _let(k: Context, term: Term, position: Position) -> None:
    if isinstance(term, Load):
        k.bind(term, position, access.emit_load(k, term, position))
        return
    assert isinstance(term, Apply)
    args = [k.value(a, position) for a in term.operands]
    dtypes = [a.dtype for a in term.operands]
    k.bind(term, position, k.apply(term.op, args, dtypes, term.dtype))


def _verify(k: Context, check: Check, position: Position) -> None:
    f, pred = k.f, check.pred
    holds = k.value(pred, position)
    fails = f.binary("xor", holds, literal(True, holds.type))
    valid = k.conjunction([fails, k.tail(pred.axes, position)])
    assert valid is not None
    assert k.error is not None
    assert k.check_base is not None
    if valid.type.lanes > 1:
        valid = f.intrinsic("vector.reduce.or", valid, result=I1)
    with f.when(valid):
        number = k.kernel.checks.index(check)
        code = f.binary("add", k.check_base, literal(number + 1, I64))
        f.line(f"cmpxchg {k.error}, i64 0, {code} monotonic monotonic")
