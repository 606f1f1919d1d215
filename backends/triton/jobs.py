"""What a schedule's launches and copies ask to be compiled."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.backends.triton.compiler import Job
from graphc.backends.triton.gates import gate_kernel
from graphc.backends.triton.routines import Launches, routine_kernels
from graphc.backends.triton.tiling import GpuTiling
from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Kernel
from graphc.records import dataclass
from graphc.schedule import Barrier, Body, Commit, Copy, If, Launch, Loop, Schedule, While, walk
from graphc.types import Extent

__all__ = ["Key", "Launching", "Part", "jobs_of", "kernels_of", "key_of_part", "parts_of",
           "scratch_of"]

_COPY = """kernel copy
  size N 1..
  axes i:N
  in x {0}[N]
  out y {0}[N]
  a = load x[i]
  store y[i] = a"""

#: a kernel's or routine's name, the number of its part, and whether it is guarded
Key = tuple[str, int, bool]

#: statements that launch kernels; loops and branches launch their gates
Launching = Launch | Copy | While | If


def jobs_of(
    schedule: Schedule,
    precision: str = "ieee",
    tilings: Mapping[str, GpuTiling] | None = None,
) -> dict[Key, Job]:
    """What to compile: each kernel as it is launched, guarded or not.

    ``tilings`` by kernel's name replace those that would be chosen.
    """
    given = tilings or {}
    return {
        key: Job(kernel, key[-1], precision, given.get(kernel.name))
        for key, kernel in kernels_of(schedule).items()
    }


def kernels_of(schedule: Schedule) -> dict[Key, Kernel]:
    """Every kernel that a schedule launches, once for each way to launch it."""
    found: dict[Key, Kernel] = {}
    for statement, guarded in _placed(schedule.body, bool(schedule.checks), False):
        for part in parts_of(schedule, statement):
            found.setdefault(key_of_part(schedule, statement, part, guarded), part.kernel)
    return found


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


def parts_of(schedule: Schedule, statement: Launching) -> tuple[Part, ...]:
    """The kernels that a launch or copy runs, one after the other's start; the gate of a loop or a
    branch, whose cells are the caller's.
    """
    if isinstance(statement, (While, If)):
        kernel = gate_kernel(statement, schedule.buffer[statement.predicate].type.dtype)
        return (Part(kernel, (statement.predicate,), ()),)
    if isinstance(statement, Copy):
        short = schedule.buffer[statement.source].type.dtype.short
        kernel = parse_kernel(_COPY.format(short))
        return (Part(kernel, (statement.source,), (statement.target,)),)
    launched = schedule.launched(statement.kernel)
    if isinstance(launched, Kernel):
        return (Part(launched, statement.inputs, statement.outputs),)
    # one choice for all sizes: with run-time ones no length counts as known
    length = None if schedule.sizes else statement.sizes[1]
    written = (*statement.outputs, scratch_name(statement))
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


def scratch_name(launch: Launch) -> str:
    """A name that no buffer has, for what a routine needs beside its outputs."""
    return f"{launch.outputs[0]} scratch"


def scratch_of(schedule: Schedule, bound: Schedule) -> dict[str, Extent]:
    """The bytes of each buffer that routines need besides their outputs, at ``bound`` sizes."""
    found: dict[str, Extent] = {}
    for statement, sized in zip(walk(schedule.body), walk(bound.body), strict=True):
        if isinstance(sized, Launch) and sized.kernel in schedule.routine:
            assert isinstance(statement, Launch)
            name = scratch_name(sized)
            if any(name in part.outputs for part in parts_of(schedule, statement)):
                found[name] = 8 * sized.sizes[0] * sized.sizes[1]
    return found


def key_of_part(schedule: Schedule, statement: Launching, part: Part, guarded: bool) -> Key:
    """The key of what a statement launches, where it lies. Gates are not guarded: they decide."""
    match statement:
        case Launch():
            return statement.kernel, part.number, guarded
        case Copy():
            short = schedule.buffer[statement.source].type.dtype.short
            return f"copy {short}", part.number, guarded
        case While() | If():
            short = schedule.buffer[statement.predicate].type.dtype.short
            return f"{part.kernel.name} {short}", part.number, False


def _placed(body: Body, checked: bool, guarded: bool) -> list[tuple[Launching, bool]]:
    """What a body launches, and whether it is guarded: in loops and branches that the device
    decides, and after the commit where there are checks.
    """
    found: list[tuple[Launching, bool]] = []
    for statement in body:
        match statement:
            case Launch() | Copy():
                found.append((statement, guarded))
            case Commit():
                guarded = guarded or checked
            case Loop():
                found += _placed(statement.body, checked, guarded)
            case While():
                found += [(statement, False), *_placed(statement.body, checked, True)]
            case If():
                found.append((statement, False))
                for side in (statement.then, statement.otherwise):
                    found += _placed(side, checked, True)
            case Barrier():
                pass
    return found
