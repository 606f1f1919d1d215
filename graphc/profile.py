"""What a profiled call measured: when each worker ran its share of each launch.

``Executable.profile(*args)`` makes one. It prints as a table, draws as the fifth level, and
``trace`` writes it for Chrome's and Perfetto's viewers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from graphc.records import dataclass
from graphc.schedule import Copy, Launch, Schedule, walk

__all__ = ["LaunchTime", "Profile", "Timed", "profile_of"]


class Timed(Protocol):
    """One worker's share of one launch, as a backend reports it: nanoseconds from the first."""

    @property
    def statement(self) -> Launch | Copy: ...

    @property
    def begin(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def worker(self) -> int: ...


@dataclass(frozen=True)
class LaunchTime:
    """A worker's share of a launch. ``number`` counts launches in order of the schedule; times in
    seconds from the first one's begin.
    """

    name: str
    number: int
    worker: int
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class Profile:
    """The times of one call of ``schedule``, and its ``result``.

    >>> one = Profile("step", (LaunchTime("relu", 0, 0, 0.0, 2e-6),))
    >>> print(one)
    step: 2.0 µs, 1 worker
      relu      2.0 µs  100%
    """

    name: str
    launches: tuple[LaunchTime, ...]
    schedule: Schedule | None = None
    result: Any = None

    @property
    def seconds(self) -> float:
        """From the first launch's begin to the last one's end."""
        return max((t.end for t in self.launches), default=0.0)

    @property
    def workers(self) -> tuple[int, ...]:
        """The workers that ran anything."""
        return tuple(sorted({t.worker for t in self.launches}))

    def by_kernel(self) -> dict[str, float]:
        """Seconds from begin to end of each kernel's launches, summed, the longest first."""
        spans: dict[tuple[str, int], tuple[float, float]] = {}
        for t in self.launches:
            begin, end = spans.get((t.name, t.number), (t.begin, t.end))
            spans[t.name, t.number] = (min(begin, t.begin), max(end, t.end))
        totals: dict[str, float] = {}
        for (name, _), (begin, end) in spans.items():
            totals[name] = totals.get(name, 0.0) + end - begin
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def trace(self, path: str | os.PathLike[str]) -> Path:
        """Write the times as a Chrome trace (open it at ui.perfetto.dev): the file's path."""
        events = [
            {
                "name": t.name,
                "ph": "X",
                "ts": t.begin * 1e6,
                "dur": t.seconds * 1e6,
                "pid": 0,
                "tid": t.worker,
                "args": {"launch": t.number},
            }
            for t in self.launches
        ]
        target = Path(path)
        target.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}))
        return target

    def __str__(self) -> str:
        total = self.seconds
        workers = f"{len(self.workers)} worker{'s' if len(self.workers) != 1 else ''}"
        unit, scale = ("µs", 1e6) if total < 1e-2 else ("ms", 1e3)
        lines = [f"{self.name}: {total * scale:.1f} {unit}, {workers}"]
        totals = self.by_kernel()
        width = max(map(len, totals), default=0)
        for name, seconds in totals.items():
            share = seconds / total if total else 0.0
            lines.append(f"  {name:<{width}}  {seconds * scale:>7.1f} {unit}  {share:4.0%}")
        return "\n".join(lines)


def profile_of(schedule: Schedule, times: Iterable[Timed], result: Any = None) -> Profile:
    """A profile of the times that a backend reports for a call of ``schedule``."""
    numbers: dict[Launch | Copy, int] = {}
    for statement in walk(schedule.body):
        if isinstance(statement, Launch | Copy):
            numbers.setdefault(statement, len(numbers))
    found = []
    for t in times:
        label = f"copy {t.statement.source}"
        if isinstance(t.statement, Launch):
            label = t.statement.kernel
        number = numbers.get(t.statement, -1)
        found.append(LaunchTime(label, number, t.worker, t.begin * 1e-9, t.end * 1e-9))
    return Profile(schedule.name, tuple(found), schedule, result)
