"""Reductions and scans: states in registers, one a position (and a lane), merged at the end.

A pass keeps its states as loop-carried values. Where the result has few positions, the unrolled
points of the reduced axis get states of their own (``copies``), so that one addition need not wait
for the other.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.backends.llvm.access import from_memory, to_memory
from graphc.backends.llvm.context import Context, Position, constant, register_type
from graphc.backends.llvm.ir import LLVMType, V, literal
from graphc.kernel.build import result_dtypes
from graphc.kernel.monoids import MONOIDS
from graphc.kernel.scalar_ops import result_dtype
from graphc.kernel.terms import Contract, Reduction, Result, Scan, Term
from graphc.nest import Accumulate, Buffer, Folding, Pass
from graphc.records import dataclass
from graphc.types import DType

__all__ = [
    "LaneValues",
    "StateKey",
    "accumulate",
    "begin",
    "end",
    "identity",
    "scan_states",
    "update",
    "update_held",
]

#: chains of additions that keep the arithmetic units busy
_CHAINS = 8


@dataclass(frozen=True)
class StateKey:
    """One state of one member at one position of its result, in one copy."""

    of: Folding | Scan
    state: int
    copy: int
    position: Position


@dataclass(frozen=True)
class Typed:
    """A value with its dtype: what monoids compute on here."""

    value: V
    dtype: DType


class LaneValues:
    """The ops object that monoids are folded with: scalar ops on typed SSA values, lane by lane."""

    def __init__(self, context: Context) -> None:
        self.k = context

    def op(self, name: str, *values: Typed) -> Typed:
        dtypes = [v.dtype for v in values]
        result = result_dtype(name, dtypes)
        return Typed(self.k.apply(name, [v.value for v in values], dtypes, result), result)

    def const(self, value: bool | int | float, like: Typed) -> Typed:
        return Typed(_constant(value, like.dtype), like.dtype)


def _constant(value: bool | int | float, dtype: DType) -> V:
    if dtype.is_integer and value in (float("inf"), float("-inf")):
        bits = 8 * dtype.itemsize - (dtype.kind == "i")
        top = 2**bits - 1
        value = top if value > 0 else (-top - 1 if dtype.kind == "i" else 0)
    return constant(value, dtype)


def _state_dtypes(member: Folding | Scan, k: Context) -> tuple[DType, ...]:
    if isinstance(member, Contract):
        return (member.dtype,)
    known = {t.index: t.dtype for t in k.kernel.terms if isinstance(t, Result) and t.of is member}
    merge = isinstance(member, Reduction) and member.merge
    dtypes = result_dtypes(member.monoid, member.args, merge)
    return tuple(known.get(n, d) for n, d in enumerate(dtypes))


def _identities(member: Folding | Scan, k: Context) -> list[V]:
    dtypes = _state_dtypes(member, k)
    if isinstance(member, Contract):
        return [literal(0, register_type(member.dtype))]
    values = MONOIDS[member.monoid].identity(dtypes)
    return [_constant(v, d) for v, d in zip(values, dtypes, strict=True)]


def identity(k: Context, member: Folding, n: int) -> V:
    """The identity of one state."""
    return _identities(member, k)[n]


def _flat_states(trip: Pass, member: Folding, k: Context) -> list[int]:
    return [n for n in range(len(_identities(member, k))) if (member, n) not in trip.held]


def _copies(k: Context, trip: Pass, tile: int) -> int:
    ordered = any(
        isinstance(m, Reduction) and not MONOIDS[m.monoid].commutative for m in trip.members
    )
    chains = sum(len(k.positions(m.axes)) for m in trip.members)
    return 1 if ordered or trip.held or chains >= _CHAINS else tile


# ---- passes


def begin(k: Context, trip: Pass, tile: int) -> dict[StateKey, V]:
    """The states before the first element. ``tile`` is the unrolling of the pass's innermost axes
    together.
    """
    states: dict[StateKey, V] = {}
    copies = _copies(k, trip, tile)
    for member in trip.members:
        identities = _identities(member, k)
        for position in k.positions(member.axes):
            for n in _flat_states(trip, member, k):
                wide = trip.lanes is not None or k.is_vector(member.axes)
                value = k.splat(identities[n], k.lanes if wide else 1)
                for copy in range(copies):
                    states[StateKey(member, n, copy, position)] = value
    return states


def update(k: Context, trip: Pass, states: dict[StateKey, V]) -> None:
    """Fold the elements at the open coordinates into the states."""
    over = frozenset(trip.over)
    for member in trip.members:
        copies = 1 + max(key.copy for key in states if key.of is member)
        # step by step over the whole tile: what a step loads is done with before the next
        for number, steps in enumerate(k.positions(over)):
            for place in k.positions(member.axes):
                position = _joined(place, steps)
                _update_one(k, trip, member, states, place, position, number % copies)


def _joined(place: Position, steps: Position) -> Position:
    numbers = {**dict(place), **dict(steps)}
    return tuple(sorted(numbers.items()))


def _update_one(
    k: Context,
    trip: Pass,
    member: Folding,
    states: dict[StateKey, V],
    place: Position,
    position: Position,
    copy: int,
) -> None:
    valid = k.conjunction(
        [
            k.tail(frozenset(trip.over), position),
            None if trip.where is None else k.value(trip.where, position),
        ]
    )
    flat = _flat_states(trip, member, k)
    keys = [StateKey(member, n, copy, place) for n in flat]
    old = [states[key] for key in keys]
    if isinstance(member, Contract):
        stepped = [_multiply_add(k, member, old[0], position)]
    else:
        dtypes = _state_dtypes(member, k)
        typed = tuple(Typed(v, dtypes[n]) for n, v in zip(flat, old, strict=True))
        elements = tuple(
            _element(k, member, n, old[0].type.lanes, position) for n in range(len(member.args))
            if (member, n) not in trip.held
        )
        new = _fold(k, member, typed, elements)
        stepped = [t.value for t in new]
        k.key_states[member, copy, place] = typed[0].value
    for key, before, after in zip(keys, old, stepped, strict=True):
        states[key] = _select(k, valid, k.splat(after, before.type.lanes), before)


def _fold(
    k: Context, member: Reduction, state: tuple[Typed, ...], elements: tuple[Typed, ...]
) -> tuple[Typed, ...]:
    monoid, ops = MONOIDS[member.monoid], LaneValues(k)
    return (monoid.merge if member.merge else monoid.step)(ops, state, elements)


def _element(k: Context, member: Reduction | Scan, n: int, lanes: int, position: Position) -> Typed:
    """The n-th argument, in the dtype that its state accumulates in."""
    term = member.args[n]
    value, dtype = k.value(term, position), term.dtype
    monoid = MONOIDS[member.monoid]
    dtypes = _state_dtypes(member, k)
    wanted = dtypes[n] if n < len(dtypes) and monoid.accumulates else dtype
    if isinstance(member, Reduction) and member.merge:
        wanted = dtypes[n]
    if wanted != dtype:
        value = k.apply(wanted.short, [value], [dtype], wanted)
    return Typed(k.splat(value, max(lanes, value.type.lanes)), wanted)


def _multiply_add(k: Context, member: Contract, total: V, position: Position) -> V:
    """``total + a * b`` in the accumulator's dtype, rounded once where the machine can."""
    factors = []
    for term in (member.a, member.b):
        value = k.value(term, position)
        if term.dtype != member.dtype:
            value = k.apply(member.dtype.short, [value], [term.dtype], member.dtype)
        factors.append(k.splat(value, total.type.lanes))
    if member.dtype.itemsize > 2 and member.dtype.is_float and k.target.has_fma:
        return k.f.fma(factors[0], factors[1], total)
    product = k.apply("*", factors, [member.dtype] * 2, member.dtype)
    return k.apply("+", [total, product], [member.dtype] * 2, member.dtype)


def _select(k: Context, valid: V | None, new: V, old: V) -> V:
    if valid is None:
        return new
    return k.f.select(valid, new, old)


# ---- held states


def update_held(
    k: Context,
    trip: Pass,
    member: Folding,
    n: int,
    buffer: Buffer,
    address: Callable[[Buffer, Position], tuple[V, LLVMType]],
) -> None:
    """Fold one more element into a held state, with the key state of before (the flat ones moved
    already).
    """
    assert isinstance(member, Reduction)
    dtypes = _state_dtypes(member, k)
    dtype = dtypes[n]
    for position in k.positions(member.axes | frozenset(buffer.axes)):
        key = Typed(k.key_states[member, 0, k.project(position, member.axes)], dtypes[0])
        pointer, type_ = address(buffer, position)
        old = from_memory(k, k.f.load(type_, pointer, dtype.itemsize), dtype)
        elements = (
            _element(k, member, 0, 1, position),
            _element(k, member, n, type_.lanes, position),
        )
        stepped = _fold(k, member, (key, Typed(old, dtype)), elements)[1].value
        valid = k.conjunction(
            [
                k.tail(frozenset(trip.over), position),
                None if trip.where is None else k.value(trip.where, position),
            ]
        )
        kept = _select(k, valid, k.splat(stepped, type_.lanes), old)
        k.f.store(to_memory(k, kept, dtype), pointer, dtype.itemsize)


# ---- the end


def end(k: Context, trip: Pass, states: dict[StateKey, V]) -> None:
    """Merge copies and lanes, and bind the results."""
    for member in trip.members:
        flat = _flat_states(trip, member, k)
        dtypes = _state_dtypes(member, k)
        for place in k.positions(member.axes):
            copies = sorted({key.copy for key in states if key.of is member})
            partial = [
                tuple(Typed(states.pop(StateKey(member, n, c, place)), dtypes[n]) for n in flat)
                for c in copies
            ]
            while len(partial) > 1:
                pairs = [
                    _merge(k, member, *partial[n : n + 2]) if n + 1 < len(partial) else partial[n]
                    for n in range(0, len(partial), 2)
                ]
                partial = pairs
            merged = partial[0]
            if trip.lanes is not None:
                merged = _merge_lanes(k, member, merged)
            for n, typed in zip(flat, merged, strict=True):
                for term in _results(k, member, n):
                    k.bind(term, place, typed.value)


def _results(k: Context, member: Folding, n: int) -> list[Term]:
    if isinstance(member, Contract):
        return [member]
    return [t for t in k.kernel.terms if isinstance(t, Result) and t.of is member and t.index == n]


def _merge(
    k: Context, member: Folding, left: tuple[Typed, ...], right: tuple[Typed, ...]
) -> tuple[Typed, ...]:
    if isinstance(member, Contract):
        sides, dtype = [left[0].value, right[0].value], member.dtype
        return (Typed(k.apply("+", sides, [dtype] * 2, dtype), dtype),)
    return MONOIDS[member.monoid].merge(LaneValues(k), left, right)


def _merge_lanes(k: Context, member: Folding, states: tuple[Typed, ...]) -> tuple[Typed, ...]:
    """Halve the lanes until one is left: a tree that depends on nothing but their number."""
    lanes = states[0].value.type.lanes
    while lanes > 1:
        lanes //= 2
        low = tuple(Typed(_half(k, s.value, lanes, 0), s.dtype) for s in states)
        high = tuple(Typed(_half(k, s.value, lanes, lanes), s.dtype) for s in states)
        states = _merge(k, member, low, high)
    return states


def _half(k: Context, value: V, lanes: int, start: int) -> V:
    if lanes == 1:
        return k.f.let(f"extractelement {value}, i64 {start}", value.type._replace(lanes=1))
    chosen = ", ".join(f"i32 {start + n}" for n in range(lanes))
    return k.f.let(
        f"shufflevector {value}, {value.type} poison, <{lanes} x i32> <{chosen}>",
        value.type._replace(lanes=lanes),
    )


# ---- scans


def scan_states(k: Context, scan: Scan) -> dict[StateKey, V]:
    """The states before the first point."""
    wide = k.is_vector(scan.axes - {scan.over})
    return {
        StateKey(scan, n, 0, position): k.splat(value, k.lanes if wide else 1)
        for position in k.positions(scan.axes - {scan.over})
        for n, value in enumerate(_identities(scan, k))
    }


def accumulate(k: Context, step: Accumulate, states: dict[StateKey, V],
               keep: Callable[[Buffer, Position, V, DType], None]) -> None:
    """Advance a scan by the open point; keep what it was before (exclusive) or is now."""
    scan = step.scan
    monoid, ops = MONOIDS[scan.monoid], LaneValues(k)
    dtypes = _state_dtypes(scan, k)
    by_result = {b.term.index: b for b in step.buffers if isinstance(b.term, Result)}
    for position in k.positions(scan.axes - {scan.over}):
        keys = [StateKey(scan, n, 0, position) for n in range(len(dtypes))]
        old = tuple(Typed(states[key], d) for key, d in zip(keys, dtypes, strict=True))
        lanes = old[0].value.type.lanes
        elements = tuple(_element(k, scan, n, lanes, position) for n in range(len(scan.args)))
        new = monoid.step(ops, old, elements)
        for n, (key, typed) in enumerate(zip(keys, new, strict=True)):
            states[key] = k.splat(typed.value, lanes)
            if n in by_result:
                keep(by_result[n], position, (old if scan.exclusive else new)[n].value, dtypes[n])


