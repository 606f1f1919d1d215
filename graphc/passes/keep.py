"""What follows from states alone, and is the same until somebody writes them, is kept.

::

    launch pack(w -> packed)                renew (w) { launch pack(w -> packed) }
    barrier                           ->    launch product(x, packed -> y)
    launch product(x, packed -> y)

Packed weights of a program that only reads them, weights divided by their length, masks of a frozen
layer: launches that read only states (those that this schedule does not write), constants, and what
such launches wrote. Those that read each other's results become one ``Renew``; what others read of
them is ``kept``, the rest stays in the arena. What can fail, and what depends on sizes that a call
binds, is done at each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.passes.schedule import Scheduled
from graphc.schedule import (
    Barrier,
    Body,
    Buffer,
    Commit,
    If,
    Launch,
    Loop,
    Renew,
    Schedule,
    Statement,
    While,
    reads_and_writes,
    walk,
)

__all__ = ["keep_results"]


def keep_results(scheduled: Scheduled) -> Scheduled:
    """The schedule with such launches first, each group under its ``Renew``."""
    schedule = scheduled.schedule
    groups = _groups(schedule, _lasting(schedule))
    if not groups:
        return scheduled
    moved = {id(launch) for group in groups for launch in group}
    rest = _tidy([s for s in schedule.body if id(s) not in moved])
    outside = {name for s in walk(rest) for name in reads_and_writes(s)[0]}
    kept = {name for group in groups for s in group for name in s.outputs if name in outside}
    buffers = tuple(
        Buffer(b.name, "kept", b.type) if b.name in kept else b for b in schedule.buffers
    )
    renewals = tuple(_renew(schedule, group) for group in groups)
    kept_schedule = replace(schedule, buffers=buffers, body=(*renewals, *rest))
    before = [s for s in walk(schedule.body) if isinstance(s, Launch)]
    call = {id(s): c for s, c in zip(before, scheduled.calls, strict=True)}
    after = [s for s in walk(kept_schedule.body) if isinstance(s, Launch)]
    return replace(scheduled, schedule=kept_schedule, calls=tuple(call[id(s)] for s in after))


def _lasting(schedule: Schedule) -> list[Launch]:
    """The launches of the outermost body whose results follow from lasting buffers, in order."""
    lasting = {b.name for b in schedule.of_kind("constant")}
    lasting |= {b.name for b in schedule.states if b.name not in schedule.written_states}
    writers: dict[str, int] = {}
    for statement in walk(schedule.body):
        for name in reads_and_writes(statement)[1]:
            writers[name] = writers.get(name, 0) + 1
    found = []
    for statement in schedule.body:
        if not isinstance(statement, Launch) or statement.scalars or statement.sizes:
            continue
        if not statement.inputs or schedule.launched(statement.kernel).checks:
            continue
        own = [schedule.buffer[name] for name in statement.outputs]
        alone = all(b.kind == "arena" and writers[b.name] == 1 and _is_fixed(b) for b in own)
        if alone and lasting.issuperset(statement.inputs):
            found.append(statement)
            lasting.update(statement.outputs)
    return found


def _is_fixed(buffer: Buffer) -> bool:
    return all(isinstance(extent, int) for extent in buffer.type.shape)


def _groups(schedule: Schedule, launches: Sequence[Launch]) -> list[list[Launch]]:
    """Launches that read each other's results, together and in order; those of constants alone are
    left out.
    """
    group_of: dict[str, list[Launch]] = {}  # by what it writes
    for launch in launches:
        near = {id(g): g for name in launch.inputs if (g := group_of.get(name)) is not None}
        group = [*(s for g in near.values() for s in g), launch]
        group_of |= {name: group for s in group for name in s.outputs}
    place = {id(s): n for n, s in enumerate(launches)}
    groups = {id(g): sorted(g, key=lambda s: place[id(s)]) for g in group_of.values()}
    return [group for group in groups.values() if _states(schedule, group)]


def _states(schedule: Schedule, group: Sequence[Launch]) -> tuple[str, ...]:
    names = dict.fromkeys(name for launch in group for name in launch.inputs)
    return tuple(name for name in names if schedule.buffer[name].kind == "state")


def _renew(schedule: Schedule, group: Sequence[Launch]) -> Renew:
    """A group by distance from the states."""
    level: dict[str, int] = {}
    levels: list[list[Statement]] = []
    for launch in group:
        distance = max((level.get(name, 0) for name in launch.inputs), default=0)
        level |= dict.fromkeys(launch.outputs, distance + 1)
        levels += [[] for _ in range(distance + 1 - len(levels))]
        levels[distance].append(launch)
    body = [s for group in levels for s in (Barrier(), *group)]
    return Renew(_states(schedule, group), tuple(body[1:]))


def _tidy(body: Sequence[Statement]) -> Body:
    """Without barriers that nothing stands before, or nothing that needs one."""
    tidied: list[Statement] = []
    for statement in body:
        behind = tidied[-1] if tidied else Barrier()
        if isinstance(statement, Barrier) and isinstance(
            behind, Barrier | Commit | Loop | While | If
        ):
            continue
        tidied.append(statement)
    return tuple(tidied[:-1] if tidied and isinstance(tidied[-1], Barrier) else tidied)
