"""What a schedule's launches and copies ask to be compiled."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.backends.triton.compiler import Job
from graphc.backends.triton.routines import Launches, routine_kernels
from graphc.backends.triton.tiling import GpuTiling
from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Kernel
from graphc.records import dataclass
from graphc.schedule import Barrier, Body, Commit, Copy, If, Launch, Loop, Schedule, While

__all__ = ["Key", "Part", "jobs_of", "key_of_part", "parts_of"]

_COPY = """kernel copy
  size N 1..
  axes i:N
  in x {0}[N]
  out y {0}[N]
  a = load x[i]
  store y[i] = a"""

#: a kernel's or routine's name, the number of its part, and whether it is guarded
Key = tuple[str, int, bool]


def jobs_of(
    schedule: Schedule,
    precision: str = "ieee",
    tilings: Mapping[str, GpuTiling] | None = None,
) -> dict[Key, Job]:
    """What to compile: each kernel as it is launched, before the commit or (guarded) after it.

    ``tilings`` by kernel's name replace those that would be chosen.
    """
    given = tilings or {}
    jobs: dict[Key, Job] = {}
    guards = bool(schedule.checks)
    for statement, committed in _placed(schedule.body):
        for part in parts_of(schedule, statement):
            key = key_of_part(schedule, statement, part, committed)
            if key not in jobs:
                jobs[key] = Job(
                    part.kernel, committed and guards, precision, given.get(part.kernel.name)
                )
    return jobs


@dataclass(frozen=True)
class Part:
    """One kernel of a launch: several, told apart by ``number``, where it launches a routine.
    ``launches`` gives the sizes of each of several launches.
    """

    kernel: Kernel
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    number: int = 0
    launches: Launches | None = None


def parts_of(schedule: Schedule, statement: Launch | Copy) -> tuple[Part, ...]:
    """The kernels that a launch or copy runs, one after the other's start."""
    if isinstance(statement, Copy):
        short = schedule.buffer[statement.source].type.dtype.short
        kernel = parse_kernel(_COPY.format(short))
        return (Part(kernel, (statement.source,), (statement.target,)),)
    launched = schedule.launched(statement.kernel)
    if isinstance(launched, Kernel):
        return (Part(launched, statement.inputs, statement.outputs),)
    # one choice for all sizes: with run-time ones no length counts as known
    length = None if schedule.sizes else statement.sizes[1]
    written = statement.outputs
    return tuple(
        Part(
            one.kernel,
            (*(statement.inputs if one.reads_inputs else ()), *(written[n] for n in one.reads)),
            tuple(written[n] for n in one.writes),
            one.number,
            one.launches,
        )
        for one in routine_kernels(launched, length)
    )


def key_of_part(
    schedule: Schedule, statement: Launch | Copy, part: Part, committed: bool
) -> Key:
    if isinstance(statement, Launch):
        name = statement.kernel
    else:
        name = f"copy {schedule.buffer[statement.source].type.dtype.short}"
    return name, part.number, committed and bool(schedule.checks)


def _placed(body: Body) -> list[tuple[Launch | Copy, bool]]:
    """The launches and copies of a body, and whether they come after the commit."""
    found: list[tuple[Launch | Copy, bool]] = []
    committed = False
    for statement in body:
        match statement:
            case Launch() | Copy():
                found.append((statement, committed))
            case Commit():
                committed = True
            case Loop() | While():
                found += [(s, committed or after) for s, after in _placed(statement.body)]
            case If():
                inner = _placed(statement.then) + _placed(statement.otherwise)
                found += [(s, committed or after) for s, after in inner]
            case Barrier():
                pass
    return found
