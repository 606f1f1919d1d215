"""Kernels -> Schedule: which buffer holds what, and what runs after what.

::

    fallible kernels and what they need | commit | everything else, states in place

Kernels at one distance from the start, after all that they depend on, stand between the same two
barriers and may run at once. A state is written in place by the kernel that computes its new value
where every other reader of the old value can run before, and that kernel reads it at the index it
writes; else the value goes to the arena and is copied at the end.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.kernel.terms import Contract, Kernel, Load, Reduction, Store, Term
from graphc.passes.compose import Block, Call, ControlCall, KernelCall, RoutineCall
from graphc.passes.meaning import meaning
from graphc.passes.merge import joined, together
from graphc.passes.naming import Fresh
from graphc.passes.pieces import Program, Slot, flops_of, nbytes
from graphc.records import dataclass
from graphc.routines import ROUTINES, Routine
from graphc.schedule import (
    Barrier,
    Buffer,
    CheckInfo,
    Commit,
    Copy,
    If,
    Launch,
    Loop,
    Schedule,
    Statement,
    While,
)
from graphc.types import Extent, Size

__all__ = ["Scheduled", "make_schedule", "may_share"]


@dataclass(frozen=True)
class Scheduled:
    """A schedule whose memory is not planned, and what its buffers stand for.

    ``cells`` are the state cells by buffer name, ``calls`` what launches run in the order of the
    text, ``buffers`` the names by slot key.
    """

    schedule: Schedule
    cells: Mapping[str, Any]
    constants: Mapping[str, NDArray[np.generic]]
    calls: tuple[KernelCall | RoutineCall, ...]
    buffers: Mapping[str, str] = field(default_factory=dict)


def make_schedule(block: Block, name: str) -> Scheduled:
    """The schedule of a program's calls."""
    memory = _Buffers(block.program)
    emit = _Emission(memory)
    body = emit.program(block)
    extents = [e for b in memory.buffers for e in b.type.shape]
    dims = {d.name: d for e in extents if isinstance(e, Size) for d in e.dims}
    dims |= {d.name: d for c in emit.calls if isinstance(c, KernelCall) for d in c.sizes}
    schedule = Schedule(
        name,
        tuple(memory.buffers),
        tuple(emit.kernels.values()),
        tuple(body),
        tuple(emit.checks),
        tuple(dims[n] for n in sorted(dims)),
        tuple(emit.routines.values()),
    )
    return Scheduled(schedule, memory.cells, memory.constants, tuple(emit.calls), memory.names)


# ---- what depends on what


class _Flow:
    """Edges between calls: a reader runs after the writer, and before an in-place one."""

    def __init__(self, block: Block) -> None:
        program, self.calls = block.program, block.calls
        calls = self.calls
        self.writer = {slot.key: n for n, call in enumerate(calls) for slot in call.outputs}
        self.readers: dict[str, list[int]] = {}
        self.after: list[set[int]] = [set() for _ in calls]
        self.before: list[set[int]] = [set() for _ in calls]
        for n, call in enumerate(calls):
            for slot in call.inputs:
                self.readers.setdefault(slot.key, []).append(n)
                if slot.key in self.writer:
                    self.edge(self.writer[slot.key], n)
        self.fallible = {n for n, call in enumerate(calls) if _may_fail(call)}
        self.in_place = {new.key: state for state, new in self._in_place(program)}

    def edge(self, early: int, late: int) -> None:
        self.after[early].add(late)
        self.before[late].add(early)

    def _in_place(self, program: Program) -> Iterable[tuple[Slot, Slot]]:
        taken: set[str] = {slot.key for slot in program.outputs}
        for state, new in program.updates:
            writer = self.writer.get(new.key)
            if writer is None or new.key in taken:
                continue
            call = self.calls[writer]
            others = [n for n in self.readers.get(state.key, ()) if n != writer]
            later = self._descendants(writer)
            fails = state.kind == "state" and (later | {writer}) & self.fallible
            if fails or later.intersection(others) or isinstance(call, ControlCall):
                continue
            if state in call.inputs and not _may_share(call, state, new):
                continue
            taken.add(new.key)
            for reader in others:
                self.edge(reader, writer)
            yield state, new

    def _descendants(self, n: int) -> set[int]:
        found: set[int] = set()
        stack = [n]
        while stack:
            for later in self.after[stack.pop()]:
                if later not in found:
                    found.add(later)
                    stack.append(later)
        return found

    def needed_first(self) -> set[int]:
        """The fallible calls and all that they depend on."""
        found: set[int] = set()
        stack = list(self.fallible)
        while stack:
            n = stack.pop()
            if n not in found:
                found.add(n)
                stack.extend(self.before[n])
        return found

    def levels(self, members: set[int]) -> list[list[int]]:
        """``members`` by distance from the start, each after its predecessors among them."""
        level: dict[int, int] = {}
        waiting = {n: len(self.before[n] & members) for n in members}
        ready = sorted(n for n, count in waiting.items() if not count)
        while ready:
            following = []
            for n in ready:
                done = [level[p] for p in self.before[n] if p in members]
                level[n] = 1 + max(done, default=-1)
                for later in self.after[n]:
                    if later in waiting:
                        waiting[later] -= 1
                        if not waiting[later]:
                            following.append(later)
            ready = following
        self._delay(level)
        groups: list[list[int]] = [[] for _ in range(1 + max(level.values(), default=-1))]
        for n in sorted(level):
            groups[level[n]].append(n)
        return groups

    def _delay(self, level: dict[int, int]) -> None:
        """Let what is computed a second time run right before its first reader: it exists to be
        short-lived. A program with such kernels is short of memory, so its packed copies wait too.
        In others they run early: what another core has just written is slow to read, and again
        each time that it has left one's own cache (a fifth of an optimizer's kernel).
        """
        if not any(_repeats(self.calls[n]) for n in level):
            return
        for n in sorted(level, key=lambda n: -level[n]):
            readers = [level[m] for m in self.after[n] if m in level]
            call = self.calls[n]
            if readers and (_repeats(call) or _copies(call)):
                level[n] = max(level[n], min(readers) - 1)


def _repeats(call: Call) -> bool:
    """Whether a kernel computes what was computed before and not kept, and makes more than it lets
    go.
    """
    if not isinstance(call, KernelCall) or not any(p.again for p in call.region.pieces):
        return False
    return sum(map(nbytes, call.outputs)) >= sum(map(nbytes, _intermediate(call.inputs)))


def _intermediate(slots: Iterable[Slot]) -> list[Slot]:
    return [s for s in slots if s.kind == "computed"]


def _copies(call: Call) -> bool:
    """Whether a kernel only lays out what another one made: none of its results is a value."""
    if not isinstance(call, KernelCall):
        return False
    made = {p.slot for p in call.region.pieces}
    return not any(s in made for s in call.outputs)


def _may_fail(call: Call) -> bool:
    """Whether a call can end the program: by a check, or because a loop is interrupted."""
    if isinstance(call, KernelCall):
        return bool(call.kernel.checks)
    return isinstance(call, ControlCall)


def may_share(kernel: Kernel, source: str, target: str) -> bool:
    """Whether ``target`` may lie where ``source`` lies: every load of it has the store's index, and
    none comes after the store.
    """
    stores = [s for s in kernel.stores if s.tensor == target]
    loads = [t for t in kernel.terms if isinstance(t, Load) and t.tensor == source]
    if len(stores) != 1 or kernel.tensors[source].type != kernel.tensors[target].type:
        return False
    others = _other_readers(kernel, stores[0], loads)
    if any(set(s.index) != set(stores[0].index) for s in others):
        return False
    late = [s for s in others if kernel.stores.index(s) > kernel.stores.index(stores[0])]
    read = _reached(stores[0].operands)
    parallel = frozenset(kernel.parallel)
    for load in (t for t in loads if any(t in _reached(s.operands) for s in late)):
        # it would be read after the store at the same point, or again in a second loop over a row
        if load not in read or not load.axes <= parallel:
            return False
    return all(load.index == stores[0].index for load in loads) and not _is_reduced(kernel, loads)


def _other_readers(kernel: Kernel, store: Store, loads: Sequence[Load]) -> list[Store]:
    """Other stores whose value needs the source: they may run over it after ``store`` wrote."""
    wanted = set(loads)
    return [s for s in kernel.stores if s is not store and wanted & _reached(s.operands)]


def _is_reduced(kernel: Kernel, loads: Sequence[Load]) -> bool:
    """Whether a reduction reads one of ``loads``: it would meet what other points wrote."""
    bound = kernel.bound_axes
    return any(bound & load.axes for load in loads)


def _reached(roots: Iterable[Term]) -> set[Term]:
    found: set[Term] = set()
    stack = list(roots)
    while stack:
        term = stack.pop()
        if term not in found:
            found.add(term)
            stack.extend(term.operands)
    return found


def _may_share(call: KernelCall | RoutineCall, state: Slot, new: Slot) -> bool:
    if isinstance(call, RoutineCall):
        return False
    source = call.kernel.inputs[call.inputs.index(state)].name
    target = call.kernel.outputs[call.outputs.index(new)].name
    return may_share(call.kernel, source, target)


# ---- buffers


class _Buffers:
    """A buffer for every slot that a kernel reads or writes."""

    def __init__(self, program: Program) -> None:
        self.buffers: list[Buffer] = []
        self.names: dict[str, str] = {}
        self.cells: dict[str, Any] = {}
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.copies: list[Copy] = []  # to further outputs that are the same slot
        self._fresh = Fresh()
        for slot in program.arguments:
            self.names[slot.key] = self._add(slot.name, "argument", slot)
        for slot in program.outputs:
            name = self._add(slot.name, "output", slot)
            if slot.key in self.names:
                self.copies.append(Copy(self.names[slot.key], name))
            else:
                self.names[slot.key] = name

    def enter(self, block: Block, flow: _Flow) -> list[Copy]:
        """Make the buffers of a block; what must be copied at its end."""
        for state, new in block.program.updates:
            self.name(state)
            if new.key in flow.in_place:
                self.names[new.key] = self.names[state.key]
        for call in block.calls:
            for slot in (*call.inputs, *call.outputs):
                self.name(slot)
        return [
            Copy(self.name(new), self.name(state))
            for state, new in block.program.updates
            if self.name(new) != self.name(state)
        ]

    def _add(self, name: str, kind: str, slot: Slot) -> str:
        unique = self._fresh(name)
        self.buffers.append(Buffer(unique, kind, slot.type))
        return unique

    def name(self, slot: Slot) -> str:
        """The buffer of a slot, made when it is first asked for."""
        found = self.names.get(slot.key)
        if found is not None:
            return found
        kinds = {"computed": "arena", "carry": "arena"}
        name = self.names[slot.key] = self._add(slot.name, kinds.get(slot.kind, slot.kind), slot)
        if slot.kind == "state" and slot.origin is not None:
            self.cells[name] = slot.origin.attrs["state"]
        if slot.data is not None:
            self.constants[name] = slot.data
        return name


# ---- statements


class _Emission:
    def __init__(self, memory: _Buffers) -> None:
        self.memory = memory
        self.statements: list[Statement] = []
        self.calls: list[KernelCall | RoutineCall] = []
        self.checks: list[CheckInfo] = []
        self.kernels: dict[Hashable, Kernel] = {}
        self.routines: dict[Hashable, Routine] = {}
        self._fresh = Fresh()

    def program(self, block: Block) -> list[Statement]:
        """What can fail and all that it needs; commit; the rest; copies to states and outputs."""
        flow = _Flow(block)
        copies = self.memory.enter(block, flow)
        first = flow.needed_first()
        self.levels(flow, first)
        if block.program.updates:
            self.statements.append(Commit())
        self.levels(flow, set(range(len(flow.calls))) - first)
        self.copies([*copies, *self.memory.copies])
        return self.statements

    def body(self, block: Block) -> tuple[Statement, ...]:
        """The statements of a loop's or branch's body."""
        outside, self.statements = self.statements, []
        flow = _Flow(block)
        copies = self.memory.enter(block, flow)
        self.levels(flow, set(range(len(flow.calls))))
        self.copies(copies)
        inside, self.statements = self.statements, outside
        return tuple(inside)

    def copies(self, copies: Sequence[Copy]) -> None:
        if copies:
            self.barrier()
            self.statements.extend(copies)

    def levels(self, flow: _Flow, members: set[int]) -> None:
        for group in flow.levels(members):
            self.barrier()
            controls: list[ControlCall] = []
            for call in (flow.calls[n] for n in group):
                if isinstance(call, ControlCall):
                    controls.append(call)
                elif isinstance(call, RoutineCall):
                    self.statements.append(self._launch_routine(call))
                else:
                    self.statements.append(self._launch(call))
            for calls in together(controls):
                self._control(calls)

    def _control(self, calls: Sequence[ControlCall]) -> None:
        """A while or branch, or loops that run as one."""
        name = self.memory.name
        starts = [pair for call in calls for pair in call.control.starts]
        self.copies([Copy(name(start), name(carry)) for start, carry in starts])
        self.barrier()
        call, control = calls[0], calls[0].control
        if control.kind == "loop":
            assert control.counter is not None
            counter = name(control.counter)
            for other in calls:
                assert other.control.counter is not None
                self.memory.names[other.control.counter.key] = counter
            body = self.body(joined([c.blocks[0] for c in calls]))
            self.statements.append(Loop(counter, control.length, body))
            return
        assert control.predicate is not None
        cell = name(control.predicate)
        if control.kind == "cond":
            assert control.choice is not None
            self.copies([Copy(name(control.choice), cell)])
            then, otherwise = (self.body(block) for block in call.blocks)
            self.statements.append(If(cell, then, otherwise))
            return
        self.statements.extend(self.body(call.blocks[0]))
        inside = self.body(call.blocks[1])
        again = self.body(call.blocks[0])
        self.statements.append(While(cell, (*inside, Barrier(), *again)))

    def barrier(self) -> None:
        if self.statements and not isinstance(
            self.statements[-1], Barrier | Commit | Loop | While | If
        ):
            self.statements.append(Barrier())

    def _launch(self, call: KernelCall) -> Launch:
        kernel = self._kernel(call.kernel)
        base = len(self.checks)
        for check, source in zip(call.kernel.checks, call.check_sources, strict=True):
            self.checks.append(CheckInfo(check.message, source))
        self.calls.append(call)
        stored = [p for p in call.region.pieces if p.slot in call.outputs]
        last = (stored or call.region.pieces)[
            -1
        ]  # a copy for a kernel speaks of that kernel's line
        multiplies = any(isinstance(t, Contract) for t in call.kernel.terms)
        whole = stored and multiplies == any(p.contracts for p in call.region.pieces)
        flops = flops_of(call.region.pieces) if whole else kernel_flops(call.kernel)
        names = self.memory.names
        return Launch(
            kernel.name,
            tuple(names[s.key] for s in call.inputs),
            tuple(names[s.key] for s in call.outputs),
            tuple(call.sizes),
            tuple(self.memory.name(s) for s in call.scalars),
            base,
            flops,
            last.block,
            last.source or next(iter(call.kernel.sources), None),  # a generator's count has none
        )

    def _launch_routine(self, call: RoutineCall) -> Launch:
        routine, control = call.routine, call.control
        if routine not in self.routines:
            self.routines[routine] = replace(routine, name=self._fresh(routine.name))
        self.calls.append(call)
        names = self.memory.names
        sizes = {s.name: e for s, e in zip(routine.sizes, control.sizes, strict=True)}
        return Launch(
            self.routines[routine].name,
            tuple(names[s.key] for s in call.inputs),
            tuple(names[s.key] for s in call.outputs),
            control.sizes,
            flops=ROUTINES[routine.rule].work(routine, sizes),
            block=control.node.block,
            source=control.node.source,
        )

    def _kernel(self, kernel: Kernel) -> Kernel:
        """The one kernel of this schedule that means the same."""
        key = meaning(kernel)
        if key not in self.kernels:
            self.kernels[key] = replace(kernel, name=self._fresh(kernel.name))
        return self.kernels[key]


def kernel_flops(kernel: Kernel) -> Extent:
    """Operations of a kernel that a backend made: its sums, and what it stores."""
    total: Extent = 0
    for term in (*kernel.terms, *kernel.stores):
        if isinstance(term, Contract | Reduction | Store):
            bound = () if isinstance(term, Store) else term.over
            points: Extent = 1
            for axis in {*term.axes, *bound}:
                points = points * kernel.extents[axis]
            total = total + points * (2 if isinstance(term, Contract) else 1)
    return total
