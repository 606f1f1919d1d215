"""A schedule with known sizes -> the walker's table. New sizes, threads or memory plans come
through here only.

A group of independent launches becomes one phase. Its work, estimated from bytes and operations,
is cut into chunks across the launches' blocks in order, which threads claim one by one from both
ends; the nearer to where caller and workers will meet, the smaller they are, so that all end at the
same time. Where a group is too small to gain from workers it is marked serial.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from graphc.backends.llvm import walker
from graphc.errors import BackendError
from graphc.memory import address_of, allocate
from graphc.records import dataclass
from graphc.schedule import (
    Barrier,
    Body,
    Commit,
    Copy,
    If,
    Launch,
    Loop,
    Renew,
    Schedule,
    Statement,
    While,
    evaluate_extent,
    walk,
)
from graphc.types import Extent

__all__ = ["LoadedKernel", "Table", "build_table", "estimate_nanoseconds", "int_extent"]

_BYTES_PER_NANOSECOND = 16.0  # one core's share of a cache or of memory
_FLOPS_PER_NANOSECOND = 48.0
PHASE_WORTH_SHARING = 2_500.0  # ns: some times a hand-over between awake threads
PROGRAM_WORTH_SHARING = 3_000.0  # ns: with workers who are awake, or called back to back
PROGRAM_WORTH_WAKING = 100_000.0  # ns: waking a sleeping thread takes some tens of microseconds
CHUNK_WORTH_CLAIMING = 1_000.0  # ns: fifty times a claim
#: claims in which a thread would take its share of what is left; a chunk is no smaller than a part
#: of a thread's share of the whole
CHUNKS_A_SHARE, FINEST_CHUNK = 3, 1 / 64
_POLL_FROM = 200_000.0  # ns: shorter programs end before anybody misses an answer to Ctrl-C
_FOREVER = (1 << 63) - 1


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel's address in this process and its number of grid blocks (in its own sizes)."""

    address: int
    grid: Extent


@dataclass
class Table:
    """``words`` is what the walker reads; ``slots`` says where each movable buffer's address goes.

    ``launches[id]`` is the statement that events name by ``id``; ``nanoseconds`` is the estimate;
    ``wakes`` whether a call is worth waking sleeping workers for.
    """

    words: NDArray[np.int64]
    arguments: NDArray[np.int64]
    slots: dict[str, list[int]]
    launches: tuple[Launch | Copy, ...]
    nanoseconds: float
    wakes: bool

    @property
    def address(self) -> int:
        return address_of(self.words)


#: a launch's place in its group, and the first and last + 1 of some of its blocks
_Part = tuple[int, int, int]


@dataclass
class _Writer:
    """Words under construction; addresses of the table and of the argument blocks are added at
    the end.
    """

    schedule: Schedule
    kernels: Mapping[str, LoadedKernel]
    addresses: Mapping[str, int]
    errors: int
    spare_cells: Sequence[int]
    threads: int
    parallel: bool
    polling: bool
    nbytes: Mapping[str, int]  # of every buffer
    kept: Iterator[int]  # addresses of what renewals note, in their order
    words: list[int] = field(default_factory=list)
    # words that count from the table's start
    in_table: list[int] = field(default_factory=list)
    in_arguments: list[int] = field(default_factory=list)  # words that count from the arguments'
    arguments: list[int] = field(default_factory=list)
    movable: dict[str, list[int]] = field(default_factory=dict)
    launches: list[Launch | Copy] = field(default_factory=list)
    spare_used: int = 0
    quiet: bool = False  # nothing may end the call here: it would be half done
    grids: dict[tuple[str, tuple[Extent, ...]], int] = field(default_factory=dict)

    def body(self, body: Body) -> None:
        group: list[Launch | Copy] = []
        for statement in body:
            if isinstance(statement, (Launch, Copy)):
                group.append(statement)
                continue
            self.phase(group)
            group = []
            self.control(statement)
        self.phase(group)

    def control(self, statement: Statement) -> None:
        match statement:
            case Commit():
                self.emit(walker.COMMIT)
                self.quiet = True
            case Loop():
                self.loop(
                    self.addresses[statement.counter], int_extent(statement.length), statement.body
                )
            case While():
                counter = statement.counter
                limit = _FOREVER if statement.max_steps is None else int_extent(statement.max_steps)
                cell = self.spare() if counter is None else self.addresses[counter]
                self.loop(cell, limit, statement.body, statement.predicate)
            case If():
                self.branch(statement)
            case Renew():
                self.renewal(statement)
            case Barrier() | Launch() | Copy():
                pass

    def loop(self, cell: int, length: int, body: Body, predicate: str | None = None) -> None:
        leave = [self.emit(walker.LOOP, cell, length, jump=True)]
        start = len(self.words)
        if predicate is not None:
            leave.append(self.unless(predicate))
        self.body(body)
        if self.polling and not self.quiet:
            self.emit(walker.POLL)
        self.emit(walker.NEXT, cell, length, 8 * start, jump=True)
        for place in leave:
            self.words[place] = 8 * len(self.words)

    def branch(self, statement: If) -> None:
        otherwise = self.unless(statement.predicate)
        self.body(statement.then)
        if statement.otherwise:
            end = self.emit(walker.JUMP, jump=True)
            self.words[otherwise] = 8 * len(self.words)
            self.body(statement.otherwise)
            self.words[end] = 8 * len(self.words)
        else:
            self.words[otherwise] = 8 * len(self.words)

    def renewal(self, statement: Renew) -> None:
        kept, count = next(self.kept), len(statement.states)
        leave = self.emit(walker.RENEW, kept, count, jump=True)
        self.quiet = True
        self.body(statement.body)
        self.quiet = False
        self.emit(walker.KEPT, kept, count)
        self.words[leave] = 8 * len(self.words)

    def unless(self, predicate: str) -> int:
        bits = 8 * self.schedule.buffer[predicate].type.dtype.itemsize
        mask = -1 if bits == 64 else (1 << bits) - 1
        return self.emit(walker.UNLESS, self.addresses[predicate], mask, jump=True)

    def spare(self) -> int:
        self.spare_used += 1
        return self.spare_cells[self.spare_used - 1]

    def emit(self, op: int, a: int = 0, b: int = 0, c: int = 0, *, jump: bool = False) -> int:
        """Write an instruction; the index of its last word, to be filled in when its target is
        known.
        """
        self.words += [op, a, b, c]
        place = len(self.words) - 1
        if jump:
            self.in_table.append(place)
        return place

    def phase(self, group: Sequence[Launch | Copy]) -> None:
        grids = [self.grid(s) for s in group]
        running = [(s, g) for s, g in zip(group, grids, strict=True) if g > 0]
        if not running:
            return
        weights = [estimate_nanoseconds(self.nbytes, s) for s, _ in running]
        chunks = self.chunks([grid for _, grid in running], weights)
        head = self.emit(walker.PHASE, len(chunks), int(len(chunks) == 1), jump=True)
        self.in_table += range(len(self.words), len(self.words) + len(chunks) + 1)
        first = len(self.words)
        self.words += [0] * (len(chunks) + 1)
        blocks = [
            (self.function(s), self.argument_block(s), len(self.launches) + i)
            for i, (s, _) in enumerate(running)
        ]
        for number, chunk in enumerate(chunks):
            self.words[first + number] = 8 * len(self.words)
            for launch, begin, end in chunk:
                function, arguments, name = blocks[launch]
                self.in_arguments.append(len(self.words) + 1)
                self.words += [function, arguments, name, begin, end]
        self.words[first + len(chunks)] = self.words[head] = 8 * len(self.words)
        self.launches += [s for s, _ in running]
        if self.polling and not self.quiet:
            self.emit(walker.POLL)

    def chunks(self, grids: Sequence[int], weights: Sequence[float]) -> list[list[_Part]]:
        """The chunks of a phase; one where it is not worth sharing."""
        total = sum(weights)
        together = self.parallel and total >= PHASE_WORTH_SHARING
        least = CHUNK_WORTH_CLAIMING / total
        return _cut(grids, weights, _tapered(self.threads, least) if together else [])

    def grid(self, statement: Launch | Copy) -> int:
        if isinstance(statement, Copy):
            return -(-self.nbytes[statement.source] // walker.COPY_BLOCK)
        key = statement.kernel, statement.sizes
        grid = self.grids.get(key)
        if grid is None:
            names = (size.name for size in self.schedule.launched(statement.kernel).sizes)
            sizes = dict(zip(names, map(int_extent, statement.sizes), strict=True))
            grid = evaluate_extent(self.kernels[statement.kernel].grid, sizes)
            self.grids[key] = grid
        return grid

    def function(self, statement: Launch | Copy) -> int:
        name = "" if isinstance(statement, Copy) else statement.kernel
        return self.kernels[name].address

    def argument_block(self, statement: Launch | Copy) -> int:
        start = 8 * len(self.arguments)
        if isinstance(statement, Copy):
            self.pointer(statement.source)
            self.pointer(statement.target)
            self.arguments.append(self.nbytes[statement.source])
            return start
        for name in (*statement.inputs, *statement.outputs):
            self.pointer(name)
        self.arguments.extend(map(int_extent, statement.sizes))
        for name in statement.scalars:
            self.pointer(name)
        self.arguments += [self.errors, statement.check_base]
        return start

    def pointer(self, name: str) -> None:
        name = self.schedule.buffer[name].place or name
        address = self.addresses.get(name)
        if address is None:
            self.movable.setdefault(name, []).append(len(self.arguments))
        self.arguments.append(address or 0)


def build_table(
    schedule: Schedule,
    kernels: Mapping[str, LoadedKernel],
    addresses: Mapping[str, int],
    *,
    errors: int,
    spare_cells: Sequence[int],
    threads: int,
    kept: Sequence[int] = (),
) -> Table:
    """The table of a schedule whose sizes are bound and whose memory is planned.

    ``kernels`` has the copy routine under ``""``. ``addresses`` are those of states, constants,
    arena buffers and cells; all other buffers are movable. ``spare_cells`` are addresses of cells
    for loops without a counter of their own (``spare_cells_needed``), ``kept`` those of what
    renewals note, in order.
    """
    nbytes = {b.name: int_extent(b.type.nbytes) for b in schedule.buffers}
    total = estimate_program(schedule.body, nbytes)
    loops = any(isinstance(s, (Loop, While)) for s in walk(schedule.body))
    parallel = threads > 1 and (loops or total >= PROGRAM_WORTH_SHARING)
    wakes = loops or total >= PROGRAM_WORTH_WAKING
    polling = loops or total >= _POLL_FROM
    writer = _Writer(
        schedule, kernels, addresses, errors, spare_cells, threads, parallel, polling, nbytes,
        iter(kept),
    )
    writer.body(schedule.body)
    writer.emit(walker.END)
    words = allocate(8 * len(writer.words)).view(np.int64)
    arguments = allocate(8 * max(len(writer.arguments), 1)).view(np.int64)
    words[:] = writer.words
    arguments[: len(writer.arguments)] = writer.arguments
    words[writer.in_table] += address_of(words)
    words[writer.in_arguments] += address_of(arguments)
    base = address_of(arguments)
    slots = {name: [base + 8 * i for i in places] for name, places in writer.movable.items()}
    return Table(words, arguments, slots, tuple(writer.launches), total, wakes)


def spare_cells_needed(schedule: Schedule) -> int:
    """Loops that need a hidden counter."""
    return sum(isinstance(s, While) and s.counter is None for s in walk(schedule.body))


def estimate_nanoseconds(nbytes: Mapping[str, int], statement: Launch | Copy) -> float:
    """Time of a launch on one core, roughly: the larger of its bytes' and its FLOPs' time.

    ``nbytes`` are the sizes of buffers by name.
    """
    if isinstance(statement, Copy):
        return 2 * nbytes[statement.source] / _BYTES_PER_NANOSECOND
    moved = sum(nbytes[name] for name in (*statement.inputs, *statement.outputs))
    flops = int_extent(statement.flops)
    return max(moved / _BYTES_PER_NANOSECOND, flops / _FLOPS_PER_NANOSECOND, 1.0)


def estimate_program(body: Body, nbytes: Mapping[str, int]) -> float:
    """Time of all launches, loops of known length counted, on one core."""
    total = 0.0
    for statement in body:
        match statement:
            case Launch() | Copy():
                total += estimate_nanoseconds(nbytes, statement)
            case Loop():
                passes = max(int_extent(statement.length), 0)
                total += passes * estimate_program(statement.body, nbytes)
            case While():
                total += estimate_program(statement.body, nbytes)
            case If():
                branches = statement.then, statement.otherwise
                total += max(estimate_program(branch, nbytes) for branch in branches)
            case Renew() | Barrier() | Commit():
                pass  # a renewal is rare
    return total


def _tapered(threads: int, least: float) -> list[float]:
    """Where to cut a phase, from 0 to 1, into chunks of at least ``least``: each is a part of what
    is left when it will be claimed (guided self-scheduling, Polychronopoulos and Kuck 1987), the
    caller's from the front, all others' from the back.

    >>> [round(cut, 2) for cut in _tapered(2, 0.1)]
    [0.17, 0.28, 0.38, 0.48, 0.66, 0.76, 0.86]
    """
    least = min(max(least, FINEST_CHUNK / threads), 0.5)
    front, back = 0.0, 1.0
    cuts: list[float] = []
    for claim in itertools.count():
        left = back - front
        if left < 2 * least:
            return sorted(cuts)
        part = max(left / (CHUNKS_A_SHARE * threads), least)
        if claim % threads:
            back -= part
            cuts.append(back)
        else:
            front += part
            cuts.append(front)
    raise AssertionError("what is left shrinks with each claim")


def _cut(
    grids: Sequence[int], weights: Sequence[float], shares: Sequence[float]
) -> list[list[_Part]]:
    """Blocks of launches in order, cut where these shares of the weight are passed.

    >>> _cut([8], [1.0], [1 / 3, 2 / 3])
    [[(0, 0, 3)], [(0, 3, 5)], [(0, 5, 8)]]
    >>> _cut([4, 4], [3.0, 1.0], [0.5])
    [[(0, 0, 3)], [(0, 3, 4), (1, 0, 4)]]
    """
    total = sum(weights)
    places = [total * share for share in shares]
    chunks: list[list[_Part]] = [[]]
    number, before = 0, 0.0
    for launch, (grid, weight) in enumerate(zip(grids, weights, strict=True)):
        begin = 0
        while number < len(places) and places[number] < before + weight:
            end = min(int((places[number] - before) / weight * grid + 0.5), grid)
            if begin < end:
                chunks[-1].append((launch, begin, end))
                begin = end
            chunks.append([])
            number += 1
        if begin < grid:
            chunks[-1].append((launch, begin, grid))
        before += weight
    return [chunk for chunk in chunks if chunk]


def int_extent(extent: Extent) -> int:
    """A size that must be known by now."""
    if not isinstance(extent, int):
        raise BackendError(f"the size {extent} is not bound")
    return extent
