"""Lifetimes -> offsets in one arena.

::

    group 0   a ----            a at 0
    group 1   a ---- b ----     b behind a
    group 2          b ---- c   c where a was

Groups are what stands between barriers. A buffer lives from the group that first touches it to the
last, over a whole loop where the loop carries it. What a kernel computes may lie where the kernel's
input lies, if that is not needed any more and each point is read before it is written.

No arena is smaller than the buffers of the fullest group together: the *bound* of a plan. Buffers
are placed by time, each into the best fitting gap; where that wastes bytes, also by time backwards
and by size, and the smallest arena counts.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import field

from graphc.passes.schedule import may_share
from graphc.records import dataclass
from graphc.routines import Routine
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
)

__all__ = ["MemoryPlan", "plan_memory"]

ALIGNMENT = 64
#: buffers up to which each is compared with all others
_SORTED_BY_SIZE = 512


@dataclass(frozen=True)
class MemoryPlan:
    """``offsets`` in bytes by buffer name; ``peak`` is the arena's size.

    ``lives`` maps a buffer to its first and last group, ``at_peak`` the buffers alive in the
    fullest group to their bytes, ``reused`` those that lie in donated arguments to theirs, ``kept``
    those that stay from call to call: they are no part of the arena.
    """

    offsets: Mapping[str, int]
    peak: int
    lives: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    at_peak: Mapping[str, int] = field(default_factory=dict)
    reused: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)

    def by_source(self, schedule: Schedule) -> dict[str, int]:
        """Bytes alive at the peak by the user's line that made them."""
        lines: dict[str, int] = {}
        for statement in _flat(schedule.body):
            if isinstance(statement, Launch):
                for name in statement.outputs:
                    if name in self.at_peak:
                        line = str(statement.source or "?")
                        lines[line] = lines.get(line, 0) + self.at_peak[name]
        return dict(sorted(lines.items(), key=lambda item: -item[1]))

    @property
    def bound(self) -> int:
        """Bytes that any arena for these lifetimes needs: what is alive in the fullest group."""
        return sum(self.at_peak.values())


def plan_memory(schedule: Schedule) -> MemoryPlan:
    """Offsets for the arena buffers of a schedule whose sizes are bound."""
    lives = Lives(schedule)
    arena = [b for b in schedule.of_kind("arena") if b.place is None]
    nbytes = {b.name: _padded(b) for b in arena}
    shared = _shared(schedule, lives, nbytes)
    owners = [n for n in nbytes if n in lives.span and n not in shared]
    span = dict(lives.span)
    for name, owner in shared.items():
        first, last = span[owner]
        span[owner] = (min(first, lives.span[name][0]), max(last, lives.span[name][1]))
    at_peak = _at_peak(owners, span, nbytes)
    offsets = _placed(owners, span, nbytes, sum(at_peak.values()))
    for name, owner in shared.items():
        offsets[name] = offsets[owner]
    for name in nbytes:
        offsets.setdefault(name, 0)
    reused = {b.name: _bytes(b) for b in schedule.buffers if b.place is not None}
    kept = {b.name: _bytes(b) for b in schedule.of_kind("kept")}
    return MemoryPlan(offsets, _top(offsets, nbytes), lives.span, at_peak, reused, kept)


def _top(offsets: Mapping[str, int], nbytes: Mapping[str, int]) -> int:
    return max((offset + nbytes[n] for n, offset in offsets.items()), default=0)


def _padded(buffer: Buffer) -> int:
    return -(-max(_bytes(buffer), 1) // ALIGNMENT) * ALIGNMENT


def _bytes(buffer: Buffer) -> int:
    nbytes = buffer.type.nbytes
    if not isinstance(nbytes, int):
        raise ValueError(f"buffer {buffer.name!r}: {buffer.type} has unbound sizes")
    return nbytes


# ---- lifetimes


class Lives:
    """The first and last group that touches each buffer, and who reads and writes it: of those in
    the arena, or ``tracked``. An output lives to the end.
    """

    def __init__(self, schedule: Schedule, tracked: Iterable[str] = ()) -> None:
        self.group = 0
        self.span: dict[str, tuple[int, int]] = {}
        self.launches: list[tuple[int, Launch]] = []
        self._tracked = set(tracked) or {b.name for b in schedule.of_kind("arena")}
        self._loops: list[tuple[int, int, set[str]]] = []
        self._body(schedule.body)
        self.group += 1
        self._touch(b.name for b in schedule.outputs)
        self._widen()

    def _body(self, body: Body) -> None:
        for statement in body:
            match statement:
                case Launch() | Copy():
                    reads, writes = reads_and_writes(statement)
                    self._touch((*reads, *writes))
                    if isinstance(statement, Launch):
                        self.launches.append((self.group, statement))
                case Barrier() | Commit():
                    self.group += 1
                case Loop() | While():
                    self._loop(statement.body)
                case If():
                    self.group += 1
                    self._body(statement.then)
                    self.group += 1
                    self._body(statement.otherwise)
                    self.group += 1
                case Renew():
                    self._body(statement.body)
                    self.group += 1

    def _touch(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._tracked:
                first, _ = self.span.get(name, (self.group, 0))
                self.span[name] = (first, self.group)

    def _loop(self, body: Body) -> None:
        """What a body reads before it writes, or what lives outside too, lives through it."""
        self.group += 1
        start = self.group
        written: set[str] = set()
        carried: set[str] = set()
        touched: set[str] = set()
        for statement in _flat(body):
            reads, writes = reads_and_writes(statement)
            carried.update(r for r in reads if r in self._tracked and r not in written)
            written.update(writes)
            touched.update(n for n in (*reads, *writes) if n in self._tracked)
        self._body(body)
        end = self.group
        self.group += 1
        self._loops.append((start, end, touched))
        for name in carried:
            first, last = self.span.get(name, (start, end))
            self.span[name] = (min(first, start), max(last, end))

    def _widen(self) -> None:
        """What a loop touches and is older or outlives it shares its bytes with nothing in it."""
        for start, end, touched in reversed(self._loops):  # outer loops first
            for name in touched:
                first, last = self.span[name]
                if first < start or last > end:
                    self.span[name] = (min(first, start), max(last, end))


def _flat(body: Body) -> Iterable[Statement]:
    for statement in body:
        yield statement
        if isinstance(statement, Loop | While | Renew):
            yield from _flat(statement.body)
        elif isinstance(statement, If):
            yield from _flat(statement.then)
            yield from _flat(statement.otherwise)


# ---- sharing and placing


def _shared(schedule: Schedule, lives: Lives, nbytes: Mapping[str, int]) -> dict[str, str]:
    """Outputs that may lie where an input of their kernel lies, and the owner of that place."""
    users: dict[tuple[int, str], int] = {}
    for group, launch in lives.launches:
        for name in dict.fromkeys((*launch.inputs, *launch.outputs)):
            users[group, name] = users.get((group, name), 0) + 1
    owner: dict[str, str] = {}
    given: set[str] = set()
    for group, launch in lives.launches:
        kernel = schedule.launched(launch.kernel)
        if isinstance(kernel, Routine):
            continue
        for target, out in zip(kernel.outputs, launch.outputs, strict=True):
            if out not in nbytes or lives.span[out][0] != group or out in owner:
                continue
            for source, into in zip(kernel.inputs, launch.inputs, strict=True):
                free = into in nbytes and lives.span[into][1] == group and into not in given
                alone = users.get((group, into)) == 1 and launch.inputs.count(into) == 1
                fits = free and alone and nbytes[into] == nbytes[out]
                if fits and may_share(kernel, source.name, target.name):
                    owner[out] = owner.get(into, into)
                    given.add(into)
                    break
    return owner


def _placed(
    names: list[str], span: Mapping[str, tuple[int, int]], nbytes: Mapping[str, int], bound: int
) -> dict[str, int]:
    """Offsets of few bytes in all, ``bound`` where that is found."""
    best = _by_time(names, span, nbytes)
    if _top(best, nbytes) > bound:
        end = max(last for _, last in span.values())
        mirrored = {n: (end - last, end - first) for n, (first, last) in span.items()}
        tried = [best, _by_time(names, mirrored, nbytes)]
        if len(names) <= _SORTED_BY_SIZE:
            tried.append(_by_size(names, span, nbytes))
        best = min(tried, key=lambda offsets: _top(offsets, nbytes))
    return best


def _by_size(
    names: list[str], span: Mapping[str, tuple[int, int]], nbytes: Mapping[str, int]
) -> dict[str, int]:
    """The largest first, each at the lowest place that nothing alive at its time takes."""
    placed: list[tuple[int, int, int, int]] = []  # start, end, first, last, sorted
    offsets: dict[str, int] = {}
    for name in sorted(names, key=lambda n: (-nbytes[n], span[n][0], n)):
        first, last = span[name]
        need, low = nbytes[name], 0
        for start, end, begun, done in placed:
            if begun <= last and first <= done:
                if start - low >= need:
                    break
                low = max(low, end)
        offsets[name] = low
        insort(placed, (low, low + need, first, last))
    return offsets


def _by_time(
    names: list[str], span: Mapping[str, tuple[int, int]], nbytes: Mapping[str, int]
) -> dict[str, int]:
    """Best fit in order of time: of the gaps that are large enough the smallest."""
    order = sorted(names, key=lambda n: (span[n][0], -nbytes[n], n))
    ends: list[tuple[int, str]] = sorted((span[n][1], n) for n in names)
    gaps: list[tuple[int, int]] = []  # (start, size), sorted, never adjacent
    offsets: dict[str, int] = {}
    top, done = 0, 0
    for name in order:
        while done < len(ends) and ends[done][0] < span[name][0]:
            freed = ends[done][1]
            gaps = _with_gap(gaps, offsets[freed], nbytes[freed])
            done += 1
        need = nbytes[name]
        fitting = [(size, start) for start, size in gaps if size >= need]
        if fitting:
            size, start = min(fitting)
            gaps.remove((start, size))
            if size > need:
                gaps = _with_gap(gaps, start + need, size - need)
        elif gaps and sum(gaps[-1]) == top:  # the last gap grows
            start = gaps.pop()[0]
            top = start + need
        else:
            start, top = top, top + need
        offsets[name] = start
    return offsets


def _with_gap(gaps: list[tuple[int, int]], start: int, size: int) -> list[tuple[int, int]]:
    """``gaps`` with one more, joined with its neighbours."""
    merged: list[tuple[int, int]] = []
    for first, length in sorted([*gaps, (start, size)]):
        if merged and sum(merged[-1]) == first:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((first, length))
    return merged


def _at_peak(
    names: list[str], span: Mapping[str, tuple[int, int]], nbytes: Mapping[str, int]
) -> dict[str, int]:
    """The buffers alive in the group where most bytes are."""
    change: dict[int, int] = {}
    for name in names:
        first, last = span[name]
        change[first] = change.get(first, 0) + nbytes[name]
        change[last + 1] = change.get(last + 1, 0) - nbytes[name]
    total, most, when = 0, -1, 0
    for group in sorted(change):
        total += change[group]
        if total > most:
            most, when = total, group
    return {n: nbytes[n] for n in names if span[n][0] <= when <= span[n][1]}
