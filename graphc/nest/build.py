"""The builder of nests: each value in the outermost loop in which all its axes are open.

A reduction that is needed in two places whose loops bind its axes anew is folded in both. Where the
places differ (one runs in lanes, one point by point) the sums would round differently, and a value
would not equal itself::

    m = scan max s over j        for j: s in lanes over k
    store hit[j] = s == m[j]     for j in lanes: s point by point

So such a reduction is found by a first building, and folded element by element in a second one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Any

from graphc.errors import KernelError
from graphc.kernel.monoids import MONOIDS
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
    Store,
    Term,
)
from graphc.nest.analysis import (
    MIRRORED,
    conjunction,
    conjuncts,
    fills_overlap,
    folded,
    folding_dependencies,
    plus,
    rounds,
)
from graphc.nest.indices import affine
from graphc.nest.steps import (
    Accumulate,
    Begin,
    Buffer,
    End,
    Fill,
    Folding,
    Keep,
    Let,
    Loop,
    Nest,
    Pass,
    Recall,
    Step,
    Tiling,
    Update,
    UpdateHeld,
    Verify,
    Write,
)
from graphc.records import dataclass

__all__ = ["build_nest"]


@dataclass
class _Scope:
    axis: str | None
    body: list[Step] = field(default_factory=list)
    known: set[Term] = field(default_factory=set)
    kept: dict[Term, Buffer] = field(default_factory=dict)
    filled_by: dict[Term, tuple[_Scope, ...]] = field(default_factory=dict)
    is_open: bool = True
    #: how its points are grouped: tile, whether in lanes, where it starts and stops
    shape: tuple[Any, ...] = ()


def build_nest(kernel: Kernel, tiling: Tiling) -> Nest:
    """The loop nest of a kernel under a tiling. KernelError where the tiling does not fit the
    kernel.
    """
    plain = frozenset[Folding]()
    while True:
        builder = _Builder(kernel, tiling, plain)
        nest = builder.build()
        if not (differing := builder.differing()):
            return nest
        plain |= differing


class _Builder:
    """``plain`` are reductions that are folded element by element, each in a trip of its own."""

    def __init__(self, kernel: Kernel, tiling: Tiling, plain: frozenset[Folding]) -> None:
        self.kernel, self.tiling, self.plain = kernel, tiling, plain
        self.ways: dict[Folding, set[tuple[Any, ...]]] = {}
        self.names = {term: name for name, term in kernel.definitions}
        self.scopes = [_Scope(None), _Scope(None)]  # prologue, block
        self.buffers: list[Buffer] = []
        self.vector_open: str | None = None
        self.parallel = () if fills_overlap(kernel) else kernel.parallel
        unknown = set(tiling.block) - set(self.parallel)
        if unknown:
            raise KernelError(
                f"{kernel.name}: the tiling blocks {sorted(unknown)}, which are not parallel axes"
            )
        ranks = {a: n for n, a in enumerate(tiling.order)}
        axes = [a for a, _ in kernel.axes]
        self.rank = {a: (ranks.get(a, len(ranks)), axes.index(a)) for a in axes}
        self.foldings = [t for t in kernel.terms if isinstance(t, (Reduction, Contract))]
        self.needs = folding_dependencies(kernel.terms)
        self.place_of = {term: n for n, term in enumerate(kernel.terms)}
        self.trips_open = 0

    # -- the whole
    def build(self) -> Nest:
        with self.nested(self.sorted(self.parallel), blocked=True):
            for tensor in self.kernel.outputs:
                if tensor.init is not None:
                    self.emit(self.fill(tensor.name))
            for axes, statements in self.groups():
                with self.nested(axes):
                    for statement in statements:
                        self.statement(statement)
        prologue, block = self.scopes
        return Nest(
            self.kernel,
            self.tiling,
            tuple(a for a in self.sorted(self.parallel) if a in self.tiling.block),
            tuple(prologue.body),
            tuple(block.body),
            tuple(self.buffers),
        )

    def groups(self) -> list[tuple[list[str], list[Store | Check]]]:
        """Statements in order, those over the same axes in one loop nest."""
        out: list[tuple[list[str], list[Store | Check]]] = []
        for statement in self.kernel.statements:
            axes = self.sorted(statement.axes - set(self.parallel))
            if out and out[-1][0] == axes:
                out[-1][1].append(statement)
            else:
                out.append((axes, [statement]))
        return out

    def statement(self, statement: Store | Check) -> None:
        self.prepare(statement.operands)
        if isinstance(statement, Check):
            self.demand(statement.pred)
            self.emit(Verify(statement))
            return
        self.demand_index(statement.index)
        if statement.pred is not None:
            self.demand(statement.pred)
        self.demand(statement.value)
        self.emit(Write(statement))

    def fill(self, name: str) -> Fill:
        tensor = self.kernel.tensors[name]
        index: list[Term | None] = [None] * tensor.type.ndim
        for store in self.kernel.stores:
            if store.tensor == name:
                for n, term in enumerate(store.index):
                    if isinstance(term, AxisIndex) and term.axis in self.parallel:
                        index[n] = term
        return Fill(name, tuple(n for n, t in enumerate(index) if t is None), tuple(index))

    # -- scopes
    def sorted(self, axes: Iterable[str]) -> list[str]:
        return sorted(axes, key=self.rank.__getitem__)

    def emit(self, step: Step) -> None:
        self.scopes[-1].body.append(step)

    @contextmanager
    def nested(
        self,
        axes: Iterable[str],
        *,
        blocked: bool = False,
        bounds: Mapping[str, tuple[Term | None, Term | None]] | None = None,
        passes: tuple[Pass, ...] = (),
        scans: tuple[Scan, ...] = (),
        reverse: bool = False,
        lanes: bool = True,
        single: bool = False,
    ) -> Iterator[None]:
        """Open loops over axes, outermost first; what is emitted inside goes into the innermost."""
        opened: list[tuple[str, bool]] = []
        for axis in axes:
            vector = lanes and axis in self.tiling.vector and self.vector_open is None
            if vector:
                self.vector_open = axis
            opened.append((axis, vector))
            tile = 1 if single else self.tiling.tile.get(axis, 1)
            shape = (axis, tile, vector, *(bounds or {}).get(axis, ()))
            self.scopes.append(_Scope(axis, shape=shape))
        yield
        for axis, vector in reversed(opened):
            scope = self.scopes.pop()
            scope.is_open = False
            lower, upper = (bounds or {}).get(axis, (None, None))
            if vector:
                self.vector_open = None
            self.emit(
                Loop(
                    axis,
                    1 if single else self.tiling.tile.get(axis, 1),
                    vector,
                    blocked and axis in self.tiling.block,
                    reverse,
                    lower,
                    upper,
                    passes,
                    scans,
                    tuple(scope.body),
                )
            )

    @contextmanager
    def at(self, depth: int) -> Iterator[None]:
        """Emit into an outer scope: it comes before the loops that are open inside it."""
        inner, vector = self.scopes[depth + 1 :], self.vector_open
        del self.scopes[depth + 1 :]
        open_axes = {s.axis for s in self.scopes}
        self.vector_open = vector if vector in open_axes else None
        yield
        self.scopes.extend(inner)
        self.vector_open = vector

    def home(self, axes: frozenset[str]) -> int:
        """The outermost scope in which a value of these axes can be computed for the current
        binding.
        """
        for depth in range(len(self.scopes) - 1, 0, -1):
            if self.scopes[depth].axis in axes:
                return depth
        return 0

    def is_known(self, term: Term) -> bool:
        return any(term in s.known for s in self.scopes[self.home(term.axes) :])

    def kept(self, term: Term) -> Buffer | None:
        for depth in range(len(self.scopes) - 1, -1, -1):
            scope = self.scopes[depth]
            buffer = scope.kept.get(term)
            if buffer is not None:
                here = self.holds_here(scope.filled_by.get(term, ()))
                return buffer if here and self.fits_lanes(term, buffer) else None
            if scope.axis in term.axes and not any(
                term in s.kept and scope.axis in s.kept[term].axes for s in self.scopes[:depth]
            ):
                return None
        return None

    def holds_here(self, loops: tuple[_Scope, ...]) -> bool:
        """Whether a buffer that ``loops`` fill has the value for the current binding: a loop that
        still runs has filled it up to its own point only.
        """
        innermost = {s.axis: s for s in self.scopes}
        return all(not s.is_open or innermost.get(s.axis) is s for s in loops)

    def fits_lanes(self, term: Term, buffer: Buffer) -> bool:
        """Whether what runs in lanes here lies side by side in the buffer; else a value is computed
        again. A folded one cannot be: KernelError.
        """
        fits = self.vector_open not in buffer.axes[:-1]
        if not fits and isinstance(term, (Result, Contract)):
            raise KernelError(
                f"{self.kernel.name}: {buffer.name} is kept along {buffer.axes[-1]} "
                f"and wanted in lanes of {self.vector_open}"
            )
        return fits

    # -- values
    def prepare(self, terms: Iterable[Term]) -> None:
        """Run the reductions that belong before the open loops, so that what they keep is there to
        be read.
        """
        wanted: set[Term] = set()
        for term in terms:
            wanted |= self.needs[term]
            if isinstance(term, (Reduction, Contract)):
                wanted.add(term)
        for folding in sorted(wanted, key=self.place_of.__getitem__):
            outside = self.is_open(folding.axes) and self.home(folding.axes) < len(self.scopes) - 1
            if (
                outside
                and not self.is_known(folding)
                and isinstance(folding, (Reduction, Contract))
            ):
                self.fold(folding)

    def demand(self, term: Term) -> None:
        """Make a term available in the current scope."""
        if isinstance(term, (Const, AxisIndex, SizeValue, ScalarValue)) or self.is_known(term):
            return
        buffer = self.kept(term)
        depth = self.home(term.axes)
        if buffer is not None:
            with self.at(depth):
                self.emit(Recall(term, buffer))
                self.scopes[-1].known.add(term)
            return
        if isinstance(term, Contract):
            self.fold(term)
        elif isinstance(term, Result):
            self.result(term)
        else:
            self.compute(term, depth)

    def compute(self, term: Term, depth: int) -> None:
        with self.at(depth):
            if isinstance(term, Load):
                self.demand_index(term.index)
                for other in (term.pred, term.fill):
                    if other is not None:
                        self.demand(other)
            else:
                # reductions first: nothing else should hold a register while their loops run
                for operand in sorted(term.operands, key=lambda t: not self.folds(t)):
                    self.demand(operand)
            self.emit(Let(term))
            self.scopes[-1].known.add(term)
            if self.trips_open and self.names.get(term) in self.tiling.hold:
                self.keep(term)

    def folds(self, term: Term) -> bool:
        """Whether a reduction runs before the term is there."""
        return isinstance(term, (Contract, Result)) or bool(self.needs[term])

    def demand_index(self, index: tuple[Term, ...]) -> None:
        for term in index:
            for atom in affine(term).atoms:
                self.demand(atom)

    def keep(self, term: Term) -> None:
        """Keep a value for later loops, in a buffer over the bound axes that are open here."""
        bound = self.kernel.bound_axes
        axes, depth = [], len(self.scopes)
        while depth > 2 and self.scopes[depth - 1].axis in bound:
            axis = self.scopes[depth - 1].axis
            if axis in axes:
                break  # bound twice: outside of this loop it is another binding
            depth -= 1
            if axis in term.axes and axis is not None:
                axes.append(axis)
        if axes:
            buffer = self.buffer(term, axes[::-1], self.vector_open)
            self.emit(Keep(term, buffer))
            self.scopes[depth - 1].kept[term] = buffer
            self.scopes[depth - 1].filled_by[term] = tuple(self.scopes[depth:])

    def buffer(self, term: Term, axes: Iterable[str], lane: str | None) -> Buffer:
        """Memory over ``axes``; ``lane``, the one that runs in lanes where it is filled, last."""
        vector = self.tiling.vector
        ordered = sorted(axes, key=lambda a: (a == lane, a in vector, self.rank[a]))
        buffer = Buffer(f"{self.names.get(term, 'held')}{len(self.buffers)}", term, tuple(ordered))
        self.buffers.append(buffer)
        return buffer

    def result(self, term: Result) -> None:
        if isinstance(term.of, Scan):
            self.scan(term.of)
        else:
            self.fold(term.of)
        self.demand(term)

    # -- reductions
    def fold(self, folding: Folding) -> None:
        """Run the pass that computes a reduction, and those that can share its trip, where its key
        axes are open.
        """
        depth = self.home(folding.axes)
        with self.at(depth):
            # what it needs comes first: its companions may run with those, and then not here again
            for need in sorted(self.needs[folding], key=self.place_of.__getitem__):
                ready = not self.is_open(need.axes) or self.is_known(need)
                if not ready and isinstance(need, Reduction | Contract):
                    self.fold(need)
            members = self.companions(folding, depth)
            bounds, rest = self.bounds(folding)
            for low, high in bounds.values():
                for bound in (low, high):
                    if bound is not None:
                        self.demand_index((bound,))
            held = self.held_states(members)
            over = tuple(self.sorted(folding.over))
            one_by_one = bool(held) or folding in self.plain
            lanes = None if one_by_one else self.lane_axis(members, over)
            trip = Pass(members, over, rest, lanes, held)
            self.note_way(trip, tuple(bounds))
            self.emit(Begin(trip))
            with self.nested(
                over, bounds=bounds, passes=(trip,), lanes=lanes is not None, single=one_by_one
            ):
                self.trips_open += 1
                self.update(trip)
                self.trips_open -= 1
            self.emit(End(trip))
            scope = self.scopes[-1]
            for member in members:
                scope.known.add(member)
                for n, result in self.results(member):
                    if (member, n) in held:
                        scope.kept[result] = held[member, n]
                    else:
                        scope.known.add(result)

    def note_way(self, trip: Pass, bounded: tuple[str, ...]) -> None:
        """Note in which order a trip folds its members, as far as another place could differ."""
        axes = frozenset[str]().union(*(m.axes for m in trip.members))
        shapes = tuple(s.shape for s in self.scopes if s.axis in axes)
        way = (trip.members, trip.lanes, bool(trip.held), bounded, shapes)
        for member in trip.members:
            self.ways.setdefault(member, set()).add(way)

    def differing(self) -> frozenset[Folding]:
        """The reductions that were folded in several ways, and would round in as many."""
        return frozenset(
            f for f, ways in self.ways.items()
            if len(ways) > 1 and f not in self.plain and rounds(f)
        )

    def lane_axis(self, members: tuple[Folding, ...], over: tuple[str, ...]) -> str | None:
        """The axis of a pass that runs in lanes; none where another one does, or where the order
        counts.
        """
        ordered = any(
            isinstance(m, Reduction) and not MONOIDS[m.monoid].commutative for m in members
        )
        if self.vector_open is not None or ordered:
            return None
        return next((a for a in over if a in self.tiling.vector), None)

    def update(self, trip: Pass) -> None:
        self.prepare(operand for member in trip.members for operand in member.operands)
        if trip.where is not None:
            self.demand(trip.where)
        for member in trip.members:
            for n, operand in enumerate(folded(member)):
                if (member, n) not in trip.held:
                    self.demand(operand)
        self.emit(Update(trip))
        for (member, n), buffer in trip.held.items():
            # only the last one, where its elements lie side by side, may run in lanes
            with self.nested(buffer.axes[:-1], lanes=False), self.nested(buffer.axes[-1:]):
                self.demand(folded(member)[n])
                self.emit(UpdateHeld(trip, member, n, buffer))

    def results(self, folding: Folding) -> list[tuple[int, Term]]:
        if isinstance(folding, Contract):
            return [(0, folding)]
        return [
            (t.index, t) for t in self.kernel.terms if isinstance(t, Result) and t.of is folding
        ]

    def companions(self, folding: Folding, depth: int) -> tuple[Folding, ...]:
        """Reductions over the same axes that can run in the same trip: none needs another of
        them.
        """
        members: list[Folding] = [folding]
        for other in self.foldings if folding not in self.plain else ():
            if (
                other is folding
                or other in self.plain
                or set(other.over) != set(folding.over)
                or other.where is not folding.where
            ):
                continue
            if (
                self.home(other.axes) != depth
                or not self.is_open(other.axes)
                or self.is_known(other)
            ):
                continue
            if any(other in self.needs[m] or m in self.needs[other] for m in members):
                continue
            if self.waits_for_more(other, members):
                continue
            members.append(other)
        return tuple(members)

    def next_lane(self, axes: Iterable[str]) -> str | None:
        """The axis that will run in lanes once loops over ``axes`` are open too."""
        if self.vector_open is not None:
            return self.vector_open
        return next((a for a in self.sorted(axes) if a in self.tiling.vector), None)

    def is_open(self, axes: frozenset[str]) -> bool:
        return axes <= {s.axis for s in self.scopes}

    def waits_for_more(self, other: Folding, members: list[Folding]) -> bool:
        """Whether it needs a reduction that has not run yet and is not needed by the members
        anyway.
        """
        ready = set().union(*(self.needs[m] for m in members))
        return any(n not in ready and not self.is_known(n) for n in self.needs[other])

    def held_states(self, members: tuple[Folding, ...]) -> dict[tuple[Folding, int], Buffer]:
        held: dict[tuple[Folding, int], Buffer] = {}
        opened = {s.axis for s in self.scopes}
        for member in members:
            if isinstance(member, Contract):
                continue
            for n, result in self.results(member):
                missing = [a for a in self.sorted(result.axes) if a not in opened]
                if missing:
                    held[member, n] = self.buffer(result, missing, self.next_lane(missing))
        return held

    def bounds(
        self, folding: Folding
    ) -> tuple[dict[str, tuple[Term | None, Term | None]], Term | None]:
        """Split a predicate into loop bounds (half-open) and what is left of it."""
        if folding.where is None:
            return {}, None
        bounds: dict[str, tuple[Term | None, Term | None]] = {}
        rest: list[Term] = []
        for conjunct in conjuncts(folding.where):
            found = self.bound(conjunct, folding)
            if found is None:
                rest.append(conjunct)
                continue
            axis, low, high = found
            old = bounds.get(axis, (None, None))
            if (low is not None and old[0] is not None) or (
                high is not None and old[1] is not None
            ):
                rest.append(conjunct)
                continue
            bounds[axis] = (low or old[0], high or old[1])
        return bounds, conjunction(rest)

    def bound(
        self, conjunct: Term, folding: Folding
    ) -> tuple[str, Term | None, Term | None] | None:
        if not isinstance(conjunct, Apply) or conjunct.op not in MIRRORED:
            return None
        for (left, right), op in (
            (conjunct.args, conjunct.op),
            (conjunct.args[::-1], MIRRORED[conjunct.op]),
        ):
            if not isinstance(left, AxisIndex) or left.axis not in folding.over:
                continue
            if (
                not right.dtype.is_integer
                or not self.is_uniform(right)
                or right.axes & set(folding.over)
            ):
                continue
            if op in ("<", "<="):
                return left.axis, None, plus(right, int(op == "<="))
            return left.axis, plus(right, int(op == ">")), None
        return None

    def is_uniform(self, term: Term) -> bool:
        """Whether it has one value where it is used: none of its axes runs in lanes or in a
        register tile.
        """
        return all(a != self.vector_open and self.tiling.tile.get(a, 1) == 1 for a in term.axes)

    # -- scans
    def scan(self, scan: Scan) -> None:
        """Run a scan in a loop of its own and keep its results over the axis."""
        with self.at(self.home(scan.axes - {scan.over})):
            results = [t for t in self.kernel.terms if isinstance(t, Result) and t.of is scan]
            missing = [
                a
                for a in self.sorted(scan.axes)
                if a == scan.over or not self.is_open(frozenset({a}))
            ]
            others = [a for a in missing if a != scan.over]
            buffers = [self.buffer(t, missing, self.next_lane(others)) for t in results]
            with self.nested(others), self.nested(
                [scan.over], scans=(scan,), reverse=scan.reverse, lanes=False, single=True
            ):
                for operand in scan.args:
                    self.demand(operand)
                self.emit(Accumulate(scan, tuple(buffers)))
            for term, buffer in zip(results, buffers, strict=True):
                self.scopes[-1].kept[term] = buffer
