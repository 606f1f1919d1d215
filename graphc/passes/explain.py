"""What was fused, and for each edge that was not, why, with the number that decided.

>>> import graphc as gc
>>> x = gc.observed("x", (64, 100))
>>> print(gc.compile([x], x - x.mean()).explain())  # doctest: +ELLIPSIS
program: 2 kernels...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field

from graphc.passes.compose import Block, ControlCall, KernelCall, RoutineCall
from graphc.passes.fuse import Fused
from graphc.passes.memory import MemoryPlan
from graphc.passes.numbers import Refusal
from graphc.passes.pieces import elements, nbytes
from graphc.passes.pipeline import Compiled
from graphc.records import dataclass
from graphc.schedule import Launch, Renew, Schedule, walk
from graphc.types import SourceLoc

__all__ = ["Edge", "Explanation", "Kept", "KernelEntry", "Repeated", "explain"]


@dataclass(frozen=True)
class KernelEntry:
    """One launch. ``values`` are all it computes, ``stored`` those that leave it; bytes and
    operations are estimates.

    ``grid`` are the axes whose points are independent, ``passes`` how often it goes over the
    others.
    """

    name: str
    values: tuple[str, ...]
    stored: tuple[str, ...]
    blocks: tuple[str, ...]
    sources: tuple[SourceLoc, ...]
    grid: tuple[str, ...]
    parallelism: int
    passes: int
    held: int
    flops: int
    bytes_read: int
    bytes_written: int

    def __str__(self) -> str:
        traffic = f"{_size(self.bytes_read)} in, {_size(self.bytes_written)} out"
        lines = ", ".join(dict.fromkeys(f"{s.file}:{s.line}" for s in self.sources))
        passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
        return (
            f"{self.name}: {len(self.values)} values -> {', '.join(self.stored)}; "
            f"{self.parallelism} points in parallel, {passes}; {traffic}, "
            f"{_count(self.flops)} operations; {lines}"
        )


@dataclass(frozen=True)
class Edge:
    """A value that goes through memory from one kernel to another, and why."""

    value: str
    producer: str
    consumer: str
    bytes: int
    refusal: Refusal

    def __str__(self) -> str:
        return (
            f"{self.value} goes through memory ({_size(self.bytes)}) "
            f"from {self.producer} to {self.consumer}: {self.refusal}"
        )


@dataclass(frozen=True)
class Repeated:
    """A value that the backward pass computes a second time, not kept since the forward pass."""

    value: str
    bytes: int
    kernel: str

    def __str__(self) -> str:
        return f"{self.value} ({_size(self.bytes)}) in {self.kernel}"


@dataclass(frozen=True)
class Kept:
    """A result that stays from call to call, and the states whose change has it made anew."""

    value: str
    bytes: int
    kernel: str
    states: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.value} ({_size(self.bytes)}) by {self.kernel} of {', '.join(self.states)}"


@dataclass(frozen=True)
class Explanation:
    """What ``Executable.explain()`` answers; its text is for people."""

    name: str
    kernels: tuple[KernelEntry, ...]
    edges: tuple[Edge, ...]
    peak: int | None = None
    peak_by_source: Mapping[str, int] = field(default_factory=dict)
    repeated: tuple[Repeated, ...] = ()
    bound: int | None = None
    reused: Mapping[str, int] = field(default_factory=dict)
    control: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()
    assumed: Mapping[str, int] = field(default_factory=dict)  # of run-time sizes, in all figures

    def __str__(self) -> str:
        count = len({e.name for e in self.kernels})
        lines = [f"{self.name}: {len(self.kernels)} kernels, {count} of them distinct"]
        if self.assumed:
            sizes = ", ".join(f"{name} = {size}" for name, size in self.assumed.items())
            lines.append(f"sizes that only a call knows count as {sizes}")
        lines += [f"  {entry}" for entry in self.kernels]
        if self.edges:
            lines.append("not fused:")
            lines += [f"  {edge}" for edge in self.edges]
        if self.control:
            lines.append("loops and branches:")
            lines += [f"  {line}" for line in self.control]
        if self.repeated:
            total = _size(sum(r.bytes for r in self.repeated))
            lines.append(f"computed again in the backward pass, instead of keeping {total}:")
            lines += [f"  {value}" for value in self.repeated]
        if self.kept:
            total = _size(sum(k.bytes for k in self.kept))
            lines.append(f"kept from call to call, {total}, made anew when a state changes:")
            lines += [f"  {value}" for value in self.kept]
        if self.peak is not None:
            line = f"intermediate results: {_size(self.peak)} at the peak"
            if self.bound is not None and self.bound < self.peak:
                line += f", {_size(self.bound)} alive at once"
            lines.append(line)
            lines += [f"  {n} ({_size(b)}) in a donated argument" for n, b in self.reused.items()]
            lines += [f"  {_size(n)} from {where}" for where, n in self.peak_by_source.items()]
        return "\n".join(lines)


def explain(
    compiled: Compiled, memory: MemoryPlan | None = None, control: tuple[str, ...] = ()
) -> Explanation:
    """The explanation of a compiled program; ``control`` is what its backend says of loops and
    branches.
    """
    schedule = compiled.scheduled.schedule
    launches = [s for s in walk(schedule.body) if isinstance(s, Launch)]
    pairs = list(zip(launches, compiled.calls, strict=True))
    kernels = tuple(_entry(launch, call) for launch, call in pairs)
    peak, bound = (None, None) if memory is None else (memory.peak, memory.bound)
    by_source = {} if memory is None else memory.by_source(schedule)
    edges = _edges(compiled, pairs)
    reused = {} if memory is None else memory.reused
    return Explanation(
        schedule.name, kernels, edges, peak, by_source, _repeated(pairs), bound, reused,
        control, _kept(schedule), {d.name: elements(d) for d in schedule.sizes},
    )  # fmt: skip


def _kept(schedule: Schedule) -> tuple[Kept, ...]:
    nbytes = {b.name: b.type.nbytes for b in schedule.of_kind("kept")}
    return tuple(
        Kept(name, elements(nbytes[name]), launch.kernel, renew.states)
        for renew in schedule.body if isinstance(renew, Renew)
        for launch in renew.body if isinstance(launch, Launch)
        for name in launch.outputs if name in nbytes
    )


def _repeated(
    pairs: list[tuple[Launch, KernelCall | RoutineCall]],
) -> tuple[Repeated, ...]:
    """What kernels compute again; copies of it for other kernels count nothing."""
    found: dict[str, Repeated] = {}
    for launch, call in pairs:
        pieces = call.region.pieces if isinstance(call, KernelCall) else []
        if any(p.slot in call.outputs for p in pieces):
            for piece in (p for p in pieces if p.again):
                repeated = Repeated(piece.slot.name, nbytes(piece.slot), launch.kernel)
                found.setdefault(piece.slot.key, repeated)
    return tuple(found.values())


def _entry(launch: Launch, call: KernelCall | RoutineCall) -> KernelEntry:
    if isinstance(call, RoutineCall):
        return _routine_entry(launch, call)
    numbers = call.numbers
    assert numbers is not None  # compose measured it
    pieces = call.region.pieces
    flops = launch.flops
    return KernelEntry(
        launch.kernel,
        tuple(p.slot.name for p in pieces),
        tuple(s.name for s in call.outputs),
        tuple(dict.fromkeys(p.block for p in pieces if p.block)),
        call.kernel.sources,
        call.kernel.parallel,
        numbers.parallelism,
        numbers.passes,
        numbers.held,
        elements(flops),
        sum(nbytes(s) for s in call.inputs),
        sum(nbytes(s) for s in call.outputs),
    )


def _routine_entry(launch: Launch, call: RoutineCall) -> KernelEntry:
    names = tuple(s.name for s in call.outputs)
    rows = elements(launch.sizes[0])
    return KernelEntry(
        launch.kernel,
        names,
        names,
        (launch.block,) if launch.block else (),
        () if launch.source is None else (launch.source,),
        (call.routine.sizes[0].name,),
        rows,
        1,
        0,
        elements(launch.flops),
        sum(nbytes(s) for s in call.inputs),
        sum(nbytes(s) for s in call.outputs),
    )


def _edges(
    compiled: Compiled, pairs: list[tuple[Launch, KernelCall | RoutineCall]]
) -> tuple[Edge, ...]:
    kernel_of = {
        slot.key: launch.kernel
        for launch, call in pairs
        for slot in (
            (p.slot for p in call.region.pieces) if isinstance(call, KernelCall) else call.outputs
        )
    }
    edges: dict[tuple[str, str, str], Edge] = {}
    for fused in _levels(compiled.block):
        regions = fused.regions
        for (key, reader), why in fused.refusals.items():
            consumer, producer = kernel_of.get(reader), kernel_of.get(key)
            piece = regions.piece.get(key)
            apart = piece is not None and regions.of[key] is not regions.of.get(reader)
            if piece is None or consumer is None or producer is None or not apart:
                continue
            edge = Edge(piece.slot.name, producer, consumer, nbytes(piece.slot), why)
            edges.setdefault((key, producer, consumer), edge)
    return tuple(edges.values())


def _levels(block: Block) -> Iterator[Fused]:
    """The fusions of a program and of the bodies inside it."""
    yield block.fused
    for call in block.calls:
        if isinstance(call, ControlCall):
            for body in call.blocks:
                yield from _levels(body)


def _size(n: int) -> str:
    for unit, scale in (("GB", 30), ("MB", 20), ("KB", 10)):
        if n >= 1 << scale:
            return f"{n / (1 << scale):.1f} {unit}"
    return f"{n} B"


def _count(n: int) -> str:
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= scale:
            return f"{n / scale:.1f}{unit}"
    return str(n)
