"""The Schedule: what runs, in which order, over which bytes. Plain data that every backend walks.

Grammar of its text (``graphc.schedule_text`` prints and parses it; ``#`` starts a comment)::

    schedule  := "schedule" NAME  {size} {buffer} {check} {routine} {kernel} "run" body
    size      := "size" NAME MIN ".." [MAX] ["by" MULTIPLE]            run-time extents
    buffer    := kind NAME type ["in" NAME] ["at" OFFSET] ["align" BYTES]
    kind      := "argument" | "output" | "state" | "constant" | "arena" | "cell" | "kept"
    type      := DTYPE "[" extents "]"                                  f32[B,128]
    check     := "check" ID STRING ["source" source]                    ids count from 0
    routine   := a line of graphc.routines, once for each distinct routine
    kernel    := the text of graphc.kernel.text, once for each distinct kernel
    body      := "{" {statement} "}"
    statement := "launch" KERNEL "(" names "->" names ")"           or the name of a routine
                     ["sizes" "(" extents ")"] ["scalars" "(" names ")"]
                     ["checks" ID] ["flops" extent] ["block" STRING] ["source" source]
               | "copy" NAME "->" NAME
               | "loop" CELL "<" extent body                            CELL counts 0, 1, ..
               | "while" CELL ["counter" CELL] ["max" extent] body      runs while CELL is not zero
               | "if" CELL body ["else" body]
               | "renew" "(" names ")" body                 runs where one of these states changed
               | "barrier" | "commit"
    source    := STRING ":" LINE [STRING]                               file, line, function
    extent    := ints and size names with + - * // % and parentheses

**Order.** Launches and copies between two barriers are independent and may run at the same time.
A ``loop``, ``while``, ``if``, ``renew`` or ``commit`` is a barrier before and after itself, also
around its body.

**Memory.** Arguments and outputs change address from call to call, states live as long as their
owner, constants as long as the executable. ``y f32[4] in x`` lies where the argument x lies, whose
caller donated it: outputs and arena buffers do. ``arena`` buffers lie at fixed byte offsets of one
block (``None`` until planned) and may overlap where their lifetimes do not. A ``cell`` is 8 bytes,
zero at the start of a call, of a 0-d type: loop counters (``i64``), predicates, run-time scalars
of kernels. A loop changes which slice is used through cells only.

**State.** Nothing before ``commit`` writes a state; ``commit`` ends the call when a check has
failed or an interrupt came; nothing after it can fail. So a call does all of its updates or none.

**Kept.** ``renew (w) { launch pack(w -> packed) }`` comes first. Its body runs where a state that
it names has another version than when it last ran to its end; else the ``kept`` buffers that it
writes hold what they did. So work of states alone, which no statement of this schedule writes, is
done once a version instead of once a call. Running it at each call gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from functools import cached_property
from typing import Any, Union

from graphc.errors import OutOfMemoryError
from graphc.kernel.terms import Kernel
from graphc.records import dataclass
from graphc.routines import Routine
from graphc.types import Dim, Extent, SourceLoc, TensorType

__all__ = [
    "BUFFER_KINDS",
    "Barrier",
    "Body",
    "Buffer",
    "CheckInfo",
    "Commit",
    "Copy",
    "If",
    "Launch",
    "Loop",
    "Renew",
    "Schedule",
    "Statement",
    "While",
    "bind_sizes",
    "evaluate_extent",
    "evaluate_type",
    "place_buffers",
    "reads_and_writes",
    "substitute_extent",
    "walk",
]

BUFFER_KINDS = ("argument", "output", "state", "constant", "arena", "cell", "kept")


@dataclass(frozen=True)
class Buffer:
    """A named piece of memory holding one tensor, dense and row-major.

    ``offset`` (arena only) is in bytes from the arena's start, ``None`` until memory is planned.
    ``alignment`` in bytes is what kernels may rely on: by default 64, for a cell 8, and for an
    argument and what lies in it its element's own, which is all that a user's array promises.
    ``place`` (outputs and arena) names the donated argument whose memory this is.
    """

    name: str
    kind: str
    type: TensorType
    offset: int | None = None
    alignment: int = 0
    place: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in BUFFER_KINDS:
            kinds = ", ".join(BUFFER_KINDS)
            raise ValueError(f"buffer {self.name!r}: kind {self.kind!r} is none of {kinds}")
        if not self.alignment:
            ours = 8 if self.kind == "cell" else 64
            theirs = self.kind == "argument" or self.place is not None
            alignment = self.type.dtype.itemsize if theirs else ours
            object.__setattr__(self, "alignment", alignment)


@dataclass(frozen=True)
class CheckInfo:
    """What to say when a check fails, and the user's line that asked for it."""

    message: str
    source: SourceLoc | None = None


@dataclass(frozen=True)
class Launch:
    """One run of a kernel over its whole grid, or of a routine over all rows.

    ``kernel`` names either. ``inputs`` and ``outputs`` are buffer names in the order of its
    tensors, ``sizes`` extents in the order of ``kernel.sizes``, ``scalars`` names of 0-d buffers in
    the order of ``kernel.scalars``. The kernel's n-th check has id ``check_base + n``. ``flops`` is
    an estimate. How many blocks the grid has is not said here: that is the Tiling's matter.
    """

    kernel: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: tuple[Extent, ...] = ()
    scalars: tuple[str, ...] = ()
    check_base: int = 0
    flops: Extent = 0
    block: str = ""
    source: SourceLoc | None = None


@dataclass(frozen=True)
class Copy:
    """``target = source``: the bytes of a buffer into another one of the same type."""

    source: str
    target: str


@dataclass(frozen=True)
class Barrier:
    """What comes after it sees what came before."""


@dataclass(frozen=True)
class Commit:
    """End the call here if a check failed or an interrupt came; from here on states are written."""


@dataclass(frozen=True)
class Loop:
    """``for counter in range(length): body``; ``counter`` is an int64 cell."""

    counter: str
    length: Extent
    body: Body


@dataclass(frozen=True)
class While:
    """``while predicate and count < max_steps: body``; the body computes ``predicate`` anew.

    ``counter``, if given, is an int64 cell that holds the number of finished steps.
    """

    predicate: str
    body: Body
    counter: str | None = None
    max_steps: Extent | None = None


@dataclass(frozen=True)
class If:
    """``if predicate: then, else: otherwise``."""

    predicate: str
    then: Body
    otherwise: Body = ()


@dataclass(frozen=True)
class Renew:
    """Make what is kept from ``states`` anew where one of them was written since."""

    states: tuple[str, ...]
    body: Body


Statement = Union[Launch, Copy, Barrier, Commit, Loop, While, If, Renew]
Body = tuple[Statement, ...]


@dataclass(frozen=True)
class Schedule:
    """A whole program. Arguments and outputs are in the order of ``buffers``.

    >>> from graphc.types import TensorType, float32
    >>> cell = Buffer("x", "argument", TensorType(float32, (4,)))
    >>> Schedule("nothing", (cell,)).arguments
    (Buffer(name='x', kind='argument', type=f32[4], offset=None, alignment=4, place=None),)
    """

    name: str
    buffers: tuple[Buffer, ...]
    kernels: tuple[Kernel, ...] = ()
    body: Body = ()
    checks: tuple[CheckInfo, ...] = ()
    sizes: tuple[Dim, ...] = field(default=())
    routines: tuple[Routine, ...] = ()

    @cached_property
    def buffer(self) -> Mapping[str, Buffer]:
        """Buffers by name."""
        return {b.name: b for b in self.buffers}

    @cached_property
    def kernel(self) -> Mapping[str, Kernel]:
        """Kernels by name."""
        return {k.name: k for k in self.kernels}

    @cached_property
    def routine(self) -> Mapping[str, Routine]:
        """Routines by name."""
        return {r.name: r for r in self.routines}

    def launched(self, name: str) -> Kernel | Routine:
        """The kernel or routine that a launch names."""
        found = self.kernel.get(name)
        return self.routine[name] if found is None else found

    def of_kind(self, kind: str) -> tuple[Buffer, ...]:
        """The buffers of one kind, in order."""
        return tuple(b for b in self.buffers if b.kind == kind)

    @property
    def arguments(self) -> tuple[Buffer, ...]:
        return self.of_kind("argument")

    @property
    def outputs(self) -> tuple[Buffer, ...]:
        return self.of_kind("output")

    @property
    def states(self) -> tuple[Buffer, ...]:
        return self.of_kind("state")

    @cached_property
    def written_states(self) -> frozenset[str]:
        """The names of the states that some statement writes."""
        written = {name for s in walk(self.body) for name in reads_and_writes(s)[1]}
        return frozenset(b.name for b in self.states if b.name in written)

    @cached_property
    def arena_bytes(self) -> int:
        """Bytes of the arena, once sizes are bound and memory is planned."""
        arena = [b for b in self.of_kind("arena") if b.place is None]
        ends = [_planned(b) + _nbytes(b) for b in arena]
        return max(ends, default=0)


def walk(body: Body) -> Iterator[Statement]:
    """Every statement of a body and of the bodies inside it, in program order."""
    for statement in body:
        yield statement
        if isinstance(statement, (Loop, While, Renew)):
            yield from walk(statement.body)
        elif isinstance(statement, If):
            yield from walk(statement.then)
            yield from walk(statement.otherwise)


def reads_and_writes(statement: Statement) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The buffers that a statement itself (not the body inside it) reads and writes."""
    match statement:
        case Launch():
            return statement.inputs + statement.scalars, statement.outputs
        case Copy():
            return (statement.source,), (statement.target,)
        case Loop():
            return (), (statement.counter,)
        case While():
            return (statement.predicate,), () if statement.counter is None else (statement.counter,)
        case If():
            return (statement.predicate,), ()
        case Renew():
            return statement.states, ()
        case Barrier() | Commit():
            return (), ()


def substitute_extent(extent: Extent, sizes: Mapping[str, Extent]) -> Extent:
    """An extent with its dims replaced, by name, by other extents.

    >>> b = Dim("B")
    >>> substitute_extent((Dim("n") + 3) // 4, {"n": 8 * b + 1})
    2*B+1
    """
    if isinstance(extent, int):
        return extent
    # ``evaluate`` multiplies and adds whatever it is given: extents as well as ints
    replaced: Mapping[Dim, Any] = {dim: sizes[dim.name] for dim in extent.dims}
    return extent.evaluate(replaced)


def evaluate_extent(extent: Extent, sizes: Mapping[str, int]) -> int:
    """An extent with its dims replaced by name.

    >>> evaluate_extent(4 * Dim("B") + 1, {"B": 3})
    13
    """
    if isinstance(extent, int):
        return extent
    if isinstance(extent, Dim):
        return sizes[extent.name]
    value = extent.evaluate({dim: sizes[dim.name] for dim in extent.dims})
    assert isinstance(value, int)  # every dim was replaced
    return value


def evaluate_type(type_: TensorType, sizes: Mapping[str, int]) -> TensorType:
    """A tensor type with its dims replaced by name."""
    return TensorType(type_.dtype, tuple(evaluate_extent(e, sizes) for e in type_.shape))


def bind_sizes(schedule: Schedule, sizes: Mapping[str, int]) -> Schedule:
    """The schedule with run-time extents replaced by ints.

    Kernels stay as they are: their sizes are passed at launch.
    """
    if not schedule.sizes:
        return schedule
    types: dict[int, TensorType] = {}  # by identity: many share one

    def bound(buffer: Buffer) -> Buffer:
        if all(isinstance(extent, int) for extent in buffer.type.shape):
            return buffer
        type_ = types.get(id(buffer.type))
        if type_ is None:
            type_ = types[id(buffer.type)] = evaluate_type(buffer.type, sizes)
            if isinstance(type_.nbytes, int) and type_.nbytes >= 2**63:
                raise OutOfMemoryError(f"{buffer.name}: {type_} has {type_.nbytes:.1e} bytes")
        b = buffer
        return Buffer(b.name, b.kind, type_, b.offset, b.alignment, b.place)

    buffers = tuple(bound(b) for b in schedule.buffers)
    return replace(schedule, buffers=buffers, body=_bound_body(schedule.body, sizes), sizes=())


def place_buffers(schedule: Schedule, offsets: Mapping[str, int]) -> Schedule:
    """The schedule with a memory plan's offsets: of arena buffers, in bytes from the arena's
    start.
    """
    buffers = tuple(
        Buffer(b.name, b.kind, b.type, offsets[b.name], b.alignment) if b.name in offsets else b
        for b in schedule.buffers
    )
    return replace(schedule, buffers=buffers)


def _bound_body(body: Body, sizes: Mapping[str, int]) -> Body:
    return tuple(_bound_statement(s, sizes) for s in body)


def _bound_statement(statement: Statement, sizes: Mapping[str, int]) -> Statement:
    match statement:
        case Launch():
            if not statement.sizes and isinstance(statement.flops, int):
                return statement
            s = statement  # by its fields: ``replace`` took a third of the time
            extents = tuple(evaluate_extent(e, sizes) for e in s.sizes)
            return Launch(
                s.kernel, s.inputs, s.outputs, extents, s.scalars, s.check_base,
                evaluate_extent(s.flops, sizes), s.block, s.source,
            )  # fmt: skip
        case Loop():
            length = evaluate_extent(statement.length, sizes)
            return replace(statement, length=length, body=_bound_body(statement.body, sizes))
        case While():
            limit = statement.max_steps
            return replace(
                statement,
                max_steps=None if limit is None else evaluate_extent(limit, sizes),
                body=_bound_body(statement.body, sizes),
            )
        case If():
            then, otherwise = statement.then, statement.otherwise
            return replace(
                statement, then=_bound_body(then, sizes), otherwise=_bound_body(otherwise, sizes)
            )
        case Renew():
            return replace(statement, body=_bound_body(statement.body, sizes))
        case Copy() | Barrier() | Commit():
            return statement


def _planned(buffer: Buffer) -> int:
    if buffer.offset is None:
        raise ValueError(f"arena buffer {buffer.name!r} has no offset: plan memory first")
    return buffer.offset


def _nbytes(buffer: Buffer) -> int:
    nbytes = buffer.type.nbytes
    if not isinstance(nbytes, int):
        raise ValueError(f"buffer {buffer.name!r}: {buffer.type} has unbound sizes")
    return nbytes
