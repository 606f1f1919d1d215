"""Donated arguments: what may lie in their memory.

::

    group 0   read x                  argument x f32[4]       donated
    group 1   write h                 arena h f32[4] in x     nothing reads x any more
    group 2   read h, write y         output y f32[4] in x    each point reads h, then writes y

An output of an argument's size comes first, since it saves the caller the memory of a whole result;
an argument that no output takes is a place for intermediate results, one after the other. What a
kernel computes may lie where it reads where each point is read before it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphc.passes.memory import Lives
from graphc.passes.schedule import may_share
from graphc.routines import Routine
from graphc.schedule import Buffer, Launch, Schedule

__all__ = ["reuse_arguments"]


def reuse_arguments(schedule: Schedule, donated: Iterable[int]) -> Schedule:
    """The schedule with outputs and arena buffers placed in the arguments of these numbers.

    >>> from graphc.schedule_text import parse_schedule
    >>> s = parse_schedule('''schedule twice
    ...   argument x f32[4]
    ...   output y f32[4]
    ... kernel double
    ...   axes i:4
    ...   in a f32[4]
    ...   out b f32[4]
    ...   v = load a[i]
    ...   store b[i] = v + v
    ... run {
    ...   launch double(x -> y)
    ... }''')
    >>> reuse_arguments(s, [0]).outputs[0].place
    'x'
    """
    arguments = [schedule.arguments[n] for n in donated]
    if not arguments:
        return schedule
    tracked = [b.name for b in schedule.buffers if b.kind in ("argument", "output", "arena")]
    lives = Lives(schedule, tracked)
    places: dict[str, str] = {}
    left: list[Buffer] = []
    for argument in arguments:
        fitting = [b for b in schedule.outputs if _alike(b, argument) and b.name not in places]
        taker = next((b for b in fitting if _follows(schedule, lives, argument, b)), None)
        if taker is None:
            left.append(argument)
        else:
            places[taker.name] = argument.name
    for argument in left:
        places |= dict.fromkeys(_intermediates(schedule, lives, argument, places), argument.name)
    buffers = tuple(
        Buffer(b.name, b.kind, b.type, place=places[b.name]) if b.name in places else b
        for b in schedule.buffers
    )
    return replace(schedule, buffers=buffers)


def _alike(buffer: Buffer, argument: Buffer) -> bool:
    """Whether a result may be an array over the argument's memory."""
    same = buffer.type.elements == argument.type.elements
    return same and buffer.type.dtype == argument.type.dtype and buffer.type.elements != 0


def _intermediates(
    schedule: Schedule, lives: Lives, argument: Buffer, placed: dict[str, str]
) -> list[str]:
    """Arena buffers of the argument's size that live one after the other, from its last use on."""
    size = argument.type.nbytes
    fitting = [
        b for b in schedule.of_kind("arena")
        if b.type.nbytes == size and b.name in lives.span and b.name not in placed
    ]  # fmt: skip
    found: list[str] = []
    for buffer in sorted(fitting, key=lambda b: lives.span[b.name]):
        after = _follows(schedule, lives, argument, buffer)
        if after and (not found or lives.span[buffer.name][0] > lives.span[found[-1]][1]):
            found.append(buffer.name)
    return found


def _follows(schedule: Schedule, lives: Lives, argument: Buffer, buffer: Buffer) -> bool:
    """Whether a buffer is written only when the argument is not needed any more."""
    last = lives.span.get(argument.name, (-1, -1))[1]
    first = lives.span[buffer.name][0]
    return first > last or (first == last and _in_place(schedule, lives, argument, buffer))


def _in_place(schedule: Schedule, lives: Lives, argument: Buffer, buffer: Buffer) -> bool:
    """Whether the one launch that reads the argument last is the one that writes the buffer, and
    each point of it reads before it writes. In a loop the next iteration would read again.
    """
    group = lives.span[buffer.name][0]
    outside = {id(s) for s in schedule.body}
    touching: Sequence[Launch] = [
        launch for g, launch in lives.launches
        if g == group and {argument.name, buffer.name} & {*launch.inputs, *launch.outputs}
    ]  # fmt: skip
    if len(touching) != 1 or id(touching[0]) not in outside or argument.type != buffer.type:
        return False
    (launch,) = touching
    kernel = schedule.launched(launch.kernel)
    both = launch.inputs.count(argument.name) == launch.outputs.count(buffer.name) == 1
    if isinstance(kernel, Routine) or not both or argument.name in launch.scalars:
        return False
    source = kernel.inputs[launch.inputs.index(argument.name)].name
    target = kernel.outputs[launch.outputs.index(buffer.name)].name
    return may_share(kernel, source, target)
