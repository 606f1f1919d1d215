"""The rules that every schedule keeps, checked.

- Names are declared once and used in their kind; launches fit their kernels' tensors, sizes,
scalars and checks.
- Statements between two barriers do not touch what another of them writes; bytes of overlapping
arena buffers count.
- Everything is written before it is read. Writing an arena buffer destroys those that overlap it;
only a kernel that
  reads and writes exactly the same bytes may do so in place.
- A buffer in an argument is an output or an intermediate result of its size; writing it ends what
the argument held.
- States are written after the one ``commit`` of the outermost body only, and nothing after it can
fail.
- What is kept is written by a ``renew`` alone: it comes first, cannot fail, and depends on its
states and constants, which nothing writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field

from graphc.errors import VerifyError
from graphc.kernel.terms import Kernel
from graphc.nest import Nest, why_not_in_place
from graphc.records import dataclass
from graphc.routines import Routine, verify_routine
from graphc.schedule import (
    Barrier,
    Body,
    Buffer,
    Commit,
    Copy,
    If,
    Launch,
    Loop,
    Renew,
    Schedule,
    Statement,
    While,
    reads_and_writes,
    substitute_extent,
    walk,
)
from graphc.schedule_text import print_statement
from graphc.types import Extent, TensorType, int64

__all__ = ["verify_in_place", "verify_schedule", "verifying"]

_READ_ONLY = ("argument", "constant")
_WRITTEN_AT_START = ("argument", "state", "constant", "cell")


def verifying() -> bool:
    """Whether ``GRAPHC_VERIFY`` asks to verify what each pass made."""
    return os.environ.get("GRAPHC_VERIFY", "") not in ("", "0")


def verify_schedule(schedule: Schedule) -> None:
    """Raise a VerifyError that shows the statement which breaks a rule.

    >>> from graphc.types import float32
    >>> x = Buffer("x", "argument", TensorType(float32, (4,)))
    >>> verify_schedule(Schedule("bad", (x,), body=(Copy("x", "x"),)))
    Traceback (most recent call last):
    graphc.errors.VerifyError: bad: writes the argument 'x'
      copy x -> x
    """
    _verify_declarations(schedule)
    for statement in walk(schedule.body):
        _verify_statement(schedule, statement)
    _verify_commit(schedule)
    _verify_kept(schedule)
    flow = _Flow(schedule, _overlaps(schedule))
    written = flow.body(schedule.body, {b.name for b in schedule.buffers if _starts_written(b)})
    for output in schedule.outputs:
        if output.name not in written:
            raise VerifyError(f"{schedule.name}: nothing writes the output {output.name!r}")


def verify_in_place(schedule: Schedule, nest_of: Callable[[Kernel], Nest]) -> None:
    """Raise a VerifyError where a launch writes over what its loops read again.

    ``schedule`` has its buffers' offsets; ``nest_of`` gives the loops that a backend runs for a
    kernel. What two launches do to each other's buffers is ``verify_schedule``'s.
    """
    overlaps = _overlaps(schedule)
    nests: dict[str, Nest] = {}
    for launch in walk(schedule.body):
        if not isinstance(launch, Launch):
            continue
        kernel = schedule.launched(launch.kernel)
        for target, written in zip(kernel.outputs, launch.outputs, strict=True):
            near = {written, *overlaps.get(written, ())}
            over = [
                t.name for t, read in zip(kernel.inputs, launch.inputs, strict=True) if read in near
            ]
            if near.intersection(launch.scalars) or (over and isinstance(kernel, Routine)):
                raise _fail(schedule, f"writes {written!r} over what each block reads", launch)
            for source in over:
                assert isinstance(kernel, Kernel)
                nest = nests.setdefault(kernel.name, nest_of(kernel))
                reason = why_not_in_place(nest, source, target.name)
                if reason is not None:
                    raise _fail(schedule, f"writes {written!r} in place, but {reason}", launch)


def _starts_written(buffer: Buffer) -> bool:
    return buffer.kind in _WRITTEN_AT_START or buffer.type.elements == 0


def _fail(schedule: Schedule, message: str, statement: Statement | None = None) -> VerifyError:
    source = statement.source if isinstance(statement, Launch) else None
    shown = "" if statement is None else "\n  " + print_statement(statement).split("\n", 1)[0]
    return VerifyError(f"{schedule.name}: {message}{shown}", source)


# ---- declarations


def _verify_declarations(schedule: Schedule) -> None:
    launchable: list[Kernel | Routine] = [*schedule.kernels, *schedule.routines]
    for what, names in (
        ("buffer", [b.name for b in schedule.buffers]),
        ("kernel or routine", [r.name for r in launchable]),
        ("size", [d.name for d in schedule.sizes]),
    ):
        twice = {n for n in names if names.count(n) > 1} if len(set(names)) < len(names) else ()
        if twice:
            raise _fail(schedule, f"{what} {sorted(twice)[0]!r} is declared twice")
    for routine in schedule.routines:
        verify_routine(routine)
    known = {d.name for d in schedule.sizes}
    for buffer in schedule.buffers:
        for extent in buffer.type.shape:
            dims = () if isinstance(extent, int) else extent.dims
            for dim in (d for d in dims if d.name not in known):
                raise _fail(schedule, f"buffer {buffer.name!r}: the size {dim} is not declared")
        if buffer.kind == "cell" and (buffer.type.ndim or buffer.type.dtype.itemsize > 8):
            raise _fail(schedule, f"cell {buffer.name!r} is {buffer.type}, not a scalar of 8 bytes")
        _verify_place(schedule, buffer)
        offset = buffer.offset
        if offset is not None and (buffer.kind != "arena" or offset % buffer.alignment):
            raise _fail(schedule, f"buffer {buffer.name!r}: a wrong offset, {buffer.offset}")


def _verify_place(schedule: Schedule, buffer: Buffer) -> None:
    if buffer.place is None:
        return
    argument = schedule.buffer.get(buffer.place)
    if argument is None or argument.kind != "argument":
        raise _fail(schedule, f"buffer {buffer.name!r}: {buffer.place!r} is no argument")
    if buffer.kind not in ("output", "arena") or buffer.offset is not None:
        raise _fail(schedule, f"buffer {buffer.name!r}: it cannot lie in an argument")
    if argument.type.nbytes != buffer.type.nbytes:
        message = f"is {buffer.type}, its place {buffer.place!r} is {argument.type}"
        raise _fail(schedule, f"buffer {buffer.name!r}: {message}")


# ---- statements by themselves


def _verify_statement(schedule: Schedule, statement: Statement) -> None:
    reads, writes = reads_and_writes(statement)
    for name in (*reads, *writes):
        if name not in schedule.buffer:
            raise _fail(schedule, f"no buffer {name!r}", statement)
    for name in writes:
        kind = schedule.buffer[name].kind
        if kind in _READ_ONLY:
            raise _fail(schedule, f"writes the {kind} {name!r}", statement)
    match statement:
        case Launch():
            _verify_launch(schedule, statement)
        case Copy(source, target):
            if schedule.buffer[source].type != schedule.buffer[target].type:
                raise _fail(schedule, "copies between different types", statement)
        case Loop(counter=counter, body=body):
            _verify_counter(schedule, statement, counter, body)
        case While():
            _verify_predicate(schedule, statement, statement.predicate)
            if statement.counter is not None:
                _verify_counter(schedule, statement, statement.counter, statement.body)
        case If():
            _verify_predicate(schedule, statement, statement.predicate)
        case Renew() | Barrier() | Commit():
            pass


def _verify_counter(schedule: Schedule, statement: Statement, counter: str, body: Body) -> None:
    buffer = schedule.buffer[counter]
    if buffer.kind != "cell" or buffer.type != TensorType(int64, ()):
        raise _fail(schedule, f"the counter {counter!r} is no i64 cell", statement)
    if any(counter in reads_and_writes(s)[1] for s in walk(body)):
        raise _fail(schedule, f"the body writes its counter {counter!r}", statement)


def _verify_predicate(schedule: Schedule, statement: Statement, predicate: str) -> None:
    buffer = schedule.buffer[predicate]
    if buffer.kind != "cell" or buffer.type.dtype.is_float:
        raise _fail(schedule, f"the predicate {predicate!r} is no bool or integer cell", statement)


def _verify_launch(schedule: Schedule, launch: Launch) -> None:
    if launch.kernel not in schedule.kernel and launch.kernel not in schedule.routine:
        raise _fail(schedule, f"no kernel or routine {launch.kernel!r}", launch)
    kernel = schedule.launched(launch.kernel)
    for what, expected, got in (
        ("inputs", kernel.inputs, launch.inputs),
        ("outputs", kernel.outputs, launch.outputs),
        ("sizes", kernel.sizes, launch.sizes),
        ("scalars", kernel.scalars, launch.scalars),
    ):
        if len(expected) != len(got):
            raise _fail(schedule, f"{len(expected)} {what} wanted, {len(got)} given", launch)
    sizes = {s.name: e for s, e in zip(kernel.sizes, launch.sizes, strict=True)}
    names = (*launch.inputs, *launch.outputs)
    for tensor, name in zip((*kernel.inputs, *kernel.outputs), names, strict=True):
        wanted, has = _with_sizes(tensor.type, sizes), schedule.buffer[name].type
        if isinstance(kernel, Routine) and wanted.elements == has.elements:
            has = TensorType(has.dtype, wanted.shape)  # dense: seen in the routine's shape
        if has != wanted:
            raise _fail(schedule, f"{tensor.name} wants {wanted}, {name!r} is {has}", launch)
    for scalar, name in zip(kernel.scalars, launch.scalars, strict=True):
        if schedule.buffer[name].type != TensorType(scalar.dtype, ()):
            message = f"scalar {scalar.name} wants {scalar.dtype}[], {name!r} is not"
            raise _fail(schedule, message, launch)
    _verify_checks(schedule, launch, kernel)


def _verify_checks(schedule: Schedule, launch: Launch, kernel: Kernel | Routine) -> None:
    last = launch.check_base + len(kernel.checks)
    if kernel.checks and last > len(schedule.checks):
        raise _fail(schedule, f"check {last - 1} is not declared", launch)


def _with_sizes(type_: TensorType, sizes: Mapping[str, Extent]) -> TensorType:
    """A kernel's type with its sizes replaced by the launch's."""
    return TensorType(type_.dtype, tuple(substitute_extent(e, sizes) for e in type_.shape))


# ---- commit


def _verify_commit(schedule: Schedule) -> None:
    inner = [s for s in schedule.body if isinstance(s, (Loop, While, If, Renew))]
    if any(isinstance(s, Commit) for outer in inner for s in walk((outer,))):
        raise _fail(schedule, "commit inside a loop or branch", Commit())
    commits = [i for i, s in enumerate(schedule.body) if isinstance(s, Commit)]
    if len(commits) > 1:
        raise _fail(schedule, "a second commit", Commit())
    cut = commits[0] if commits else len(schedule.body)
    for statement in walk(schedule.body[:cut]):
        for name in reads_and_writes(statement)[1]:
            if schedule.buffer[name].kind == "state":
                raise _fail(schedule, f"writes the state {name!r} before commit", statement)
    for statement in walk(schedule.body[cut:]):
        if isinstance(statement, Launch) and schedule.launched(statement.kernel).checks:
            raise _fail(schedule, "can fail after commit", statement)


# ---- what is kept


def _verify_kept(schedule: Schedule) -> None:
    first = [s for s in schedule.body if isinstance(s, Renew)]
    if list(schedule.body[: len(first)]) != first:
        raise _fail(schedule, "something comes before a renew", schedule.body[0])
    for statement in walk(schedule.body[len(first) :]):
        if isinstance(statement, Renew):
            raise _fail(schedule, "renew inside of another statement", statement)
        for name in reads_and_writes(statement)[1]:
            if schedule.buffer[name].kind == "kept":
                raise _fail(schedule, f"writes {name!r}, which is kept, each time", statement)
    made: set[str] = set()
    for renew in first:
        _verify_renew(schedule, renew, made)


def _verify_renew(schedule: Schedule, renew: Renew, made: set[str]) -> None:
    """``made`` are the kept buffers of those before it, to which its own are added."""
    for name in renew.states:
        if schedule.buffer[name].kind != "state" or name in schedule.written_states:
            raise _fail(schedule, f"{name!r} is no state that only others write", renew)
    if not renew.states:
        raise _fail(schedule, "nothing says when to renew", renew)
    inside: set[str] = set()
    for statement in renew.body:
        if isinstance(statement, Barrier):
            continue
        if not isinstance(statement, Launch) or schedule.launched(statement.kernel).checks:
            raise _fail(schedule, "a renew only launches what cannot fail", statement)
        reads, writes = reads_and_writes(statement)
        for name in (n for n in reads if n not in inside and n not in renew.states):
            if schedule.buffer[name].kind != "constant":
                raise _fail(schedule, f"{name!r} may change without a renewal", statement)
        for name in writes:
            if schedule.buffer[name].kind not in ("kept", "arena") or name in made:
                raise _fail(schedule, f"{name!r} is not kept by this renew alone", statement)
        inside.update(writes)
    made |= {name for name in inside if schedule.buffer[name].kind == "kept"}


# ---- what is written when


def _overlaps(schedule: Schedule) -> dict[str, dict[str, bool]]:
    """For each buffer the others that share bytes with it, in the arena or in an argument; True
    where all bytes are the same.
    """
    spans: list[tuple[int, int, str]] = []
    for buffer in schedule.of_kind("arena"):
        nbytes = buffer.type.nbytes
        if buffer.offset is not None and isinstance(nbytes, int) and nbytes:
            spans.append((buffer.offset, buffer.offset + nbytes, buffer.name))
    found: dict[str, dict[str, bool]] = {}
    open_: list[tuple[int, int, str]] = []
    for span in sorted(spans):
        open_ = [o for o in open_ if o[1] > span[0]]
        for other in open_:
            same = other[:2] == span[:2]
            found.setdefault(span[2], {})[other[2]] = same
            found.setdefault(other[2], {})[span[2]] = same
        open_.append(span)
    for argument in schedule.arguments:
        placed = [b.name for b in schedule.buffers if b.place == argument.name]
        together = [argument.name, *placed] if placed else []
        for name in together:
            found.setdefault(name, {}).update({o: True for o in together if o != name})
    return found


@dataclass
class _Flow:
    """Follows the statements with the set of buffers that hold a value."""

    schedule: Schedule
    overlaps: Mapping[str, Mapping[str, bool]]
    group_reads: set[str] = field(default_factory=set)
    group_writes: set[str] = field(default_factory=set)

    def body(self, body: Body, written: set[str]) -> set[str]:
        self.barrier()
        for statement in body:
            written = self.statement(statement, written)
        self.barrier()
        return written

    def barrier(self) -> None:
        self.group_reads, self.group_writes = set(), set()

    def statement(self, statement: Statement, written: set[str]) -> set[str]:
        reads, writes = reads_and_writes(statement)
        if not isinstance(statement, (Launch, Copy)):
            self.barrier()
        self.check_reads(statement, reads, written)
        match statement:
            case Launch() | Copy():
                self.check_group(statement, reads, writes)
                self.check_in_place(statement, reads, writes)
                return self.after_writes(written, writes)
            case Loop():
                inside = self.after_writes(written, writes)
                once = self.body(statement.body, inside)
                if statement.length == 1:
                    return once  # no later turn reads what this one destroyed
                again = self.body(statement.body, once)
                least = statement.length if isinstance(statement.length, int) else 1
                return again if least > 0 else inside & again
            case While():
                inside = self.after_writes(written, writes)
                once = self.body(statement.body, set(inside))
                self.check_reads(statement, reads, once)
                return inside & once & self.body(statement.body, once)
            case If():
                then = self.body(statement.then, set(written))
                return then & self.body(statement.otherwise, set(written))
            case Renew():
                after = self.body(statement.body, set(written))
                return written | {n for n in after if self.schedule.buffer[n].kind == "kept"}
            case Barrier() | Commit():
                return written

    def check_reads(self, statement: Statement, reads: Iterable[str], written: set[str]) -> None:
        for name in reads:
            if name not in written:
                message = f"reads {name!r}, which holds no value here"
                raise _fail(self.schedule, message, statement)

    def touching(self, name: str) -> set[str]:
        return {name, *self.overlaps.get(name, ())}

    def check_group(
        self, statement: Statement, reads: tuple[str, ...], writes: tuple[str, ...]
    ) -> None:
        for name in reads:
            if self.group_writes & self.touching(name):
                message = f"reads {name!r}, written since the last barrier"
                raise _fail(self.schedule, message, statement)
        for name in writes:
            if (self.group_writes | self.group_reads) & self.touching(name):
                message = f"writes {name!r}, used since the last barrier"
                raise _fail(self.schedule, message, statement)
        self.group_reads.update(reads)
        self.group_writes.update(writes)

    def check_in_place(
        self, statement: Statement, reads: tuple[str, ...], writes: tuple[str, ...]
    ) -> None:
        for i, name in enumerate(writes):
            near = self.overlaps.get(name, {})
            if name in writes[:i] or any(other in near for other in writes):
                raise _fail(self.schedule, f"two outputs share bytes of {name!r}", statement)
            for other in reads:
                if near.get(other) is False:
                    message = f"{name!r} and {other!r} share some of their bytes"
                    raise _fail(self.schedule, message, statement)

    def after_writes(self, written: set[str], writes: Iterable[str]) -> set[str]:
        after = set(written)
        for name in writes:
            after -= self.overlaps.get(name, {}).keys()
        return after | set(writes)
