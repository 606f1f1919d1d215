"""Executable -> the schedule with measured times: a row for each launch, coloured by worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.drawing.charts import ROW, Bar, Row, heading, row_marks, stripes, time_axis
from graphc.drawing.kernels import launches_of
from graphc.drawing.naming import seconds_text
from graphc.drawing.scene import Mark, Scene, Text, rectangle
from graphc.drawing.schedule import launch_name
from graphc.drawing.style import INK, MUTED, NOTE, SMALL, WORKERS, text_width
from graphc.profile import LaunchTime, Profile
from graphc.schedule import Schedule

__all__ = ["executable_scene"]

Placing = Callable[[float], float]

_LEFT, _WIDTH, _TOP = 18.0, 640.0, 52.0
_NAMES_MIN, _NAMES_MAX = 60.0, 250.0
_LINKS = 58.0
#: what a unit of the axis is called, and how many of it a second has
_UNITS = ((1.0, "s", 1.0), (1e-3, "ms", 1e3), (0.0, "µs", 1e6))


def executable_scene(
    schedule: Schedule,
    profile: Profile,
    *,
    links: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    title: str = "",
) -> Scene:
    """The chart of a measured call. ``links`` are (label, address) pairs by kernel, to its code."""
    links = links or {}
    rows = _rows(schedule, profile)
    names = min(max((text_width(n, SMALL) for n, _ in rows), default=0.0) + 12, _NAMES_MAX)
    names = max(names, _NAMES_MIN)
    left = _LEFT + names + (_LINKS if links else 0.0)
    right, low = left + _WIDTH, _TOP + ROW * len(rows)
    total = max(profile.seconds, 1e-12)
    unit, scale = next((u, s) for least, u, s in _UNITS if total >= least)

    def place(seconds: float) -> float:
        return left + _WIDTH * seconds / total

    drawn = [_row(name, times, profile.workers, place) for name, times in rows]
    busy = sum(t.seconds for t in profile.launches) / (total * max(len(profile.workers), 1))
    workers = f"{len(profile.workers)} worker{'s' if len(profile.workers) != 1 else ''}"
    note = f"{seconds_text(total)} measured, {workers}, {busy:.0%} busy"
    marks: list[Mark] = heading(title, note, _LEFT, 30)
    marks += stripes(len(rows), _LEFT, _TOP, right)
    marks += time_axis(total * scale, unit, left, right, _TOP, low)
    marks += row_marks(drawn, left, _TOP, right, names)
    for number, (name, _) in enumerate(rows):
        marks += _link_marks(links.get(name.strip(), ()), _TOP + number * ROW)
    marks += _legend(profile.workers, left, low + 30)
    return Scene(right + _LEFT, low + 46, tuple(marks), title)


def _rows(schedule: Schedule, profile: Profile) -> list[tuple[str, list[LaunchTime]]]:
    """(name, times) of each launch, in order of the schedule, then what it does not know."""
    names = {n: launch_name(place) for n, place in enumerate(launches_of(schedule.body))}
    times: dict[int, list[LaunchTime]] = {}
    for time in profile.launches:
        times.setdefault(time.number, []).append(time)
    known = [(names[n], times[n]) for n in names if n in times]
    return known + [(ts[0].name, ts) for n, ts in times.items() if n not in names]


def _row(name: str, times: Sequence[LaunchTime], lanes: Sequence[int], place: Placing) -> Row:
    """A lane for each worker, so that shares which run at the same time do not hide each other."""
    bars = tuple(
        Bar(
            place(t.begin),
            place(t.end),
            WORKERS[t.worker % len(WORKERS)],
            INK,
            f"{t.name}: {seconds_text(t.seconds)} on worker {t.worker}",
            lanes.index(t.worker),
            len(lanes),
        )
        for t in times
    )
    whole = max(t.end for t in times) - min(t.begin for t in times)
    runs = len({(t.begin, t.end) for t in times if t.worker == times[0].worker})
    repeated = f", {runs} times" if runs > 1 else ""
    return Row(name, bars, seconds_text(whole) + repeated, f"{name.strip()}: {seconds_text(whole)}")


def _link_marks(links: Sequence[tuple[str, str]], y: float) -> list[Mark]:
    marks: list[Mark] = []
    x = _LEFT + 4
    for label, address in links:
        marks.append(
            Text((x, y + ROW - 5), label, NOTE, "#00639c", "start", link=address, tip=address)
        )
        x += text_width(label, NOTE) + 6
    return marks


def _legend(workers: Sequence[int], x: float, y: float) -> list[Mark]:
    marks: list[Mark] = []
    for worker in workers:
        colour = WORKERS[worker % len(WORKERS)]
        marks.append(rectangle(x, y - 7, 12, 9, line=INK, fill=colour, stroke=0.6))
        text = f"worker {worker}"
        marks.append(Text((x + 16, y), text, NOTE, MUTED, "start"))
        x += 16 + text_width(text, NOTE) + 16
    return marks
