"""Schedule -> what runs after what, and a map of the memory that it takes.

Above, a row for each launch, over the steps between barriers; a bar is as long as the launch's
estimated work. Below, the arena: each buffer over the steps it lives, at its offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from graphc.drawing.charts import ROW, Bar, Row, heading, row_marks, stripes
from graphc.drawing.kernels import KernelNotes, Place, launches_of
from graphc.drawing.naming import bytes_text
from graphc.drawing.scene import Mark, Scene, Text, line, rectangle
from graphc.drawing.style import (
    BACKGROUND,
    GRID,
    INK,
    MUTED,
    NOTE,
    PHASES,
    SMALL,
    WORKERS,
    clipped,
    text_width,
)
from graphc.records import dataclass
from graphc.schedule import Buffer, Commit, Launch, Schedule, walk

__all__ = ["Memory", "schedule_scene"]

_LEFT, _WIDTH, _TOP = 18.0, 640.0, 62.0
_NAMES_MIN, _NAMES_MAX = 60.0, 250.0
_MAP_HEIGHT = 240.0
#: bytes moved that cost about as much as one operation
_BYTES_PER_OPERATION = 0.5


class Memory(Protocol):
    """A memory plan: offsets by buffer, and the arena's size."""

    @property
    def offsets(self) -> Mapping[str, int]: ...

    @property
    def peak(self) -> int: ...

    def by_source(self, schedule: Any) -> dict[str, int]: ...


@dataclass(frozen=True)
class _Steps:
    """Where each step between barriers begins and ends on the chart."""

    edges: tuple[float, ...]
    scale: float  # points an operation

    def span(self, step: int) -> tuple[float, float]:
        return self.edges[step], self.edges[step + 1]


def schedule_scene(
    schedule: Schedule,
    memory: Memory | None = None,
    notes: KernelNotes | None = None,
    *,
    title: str = "",
) -> Scene:
    """The chart of a schedule, and with ``memory`` its map."""
    places = launches_of(schedule.body)
    notes = notes or KernelNotes()
    names = _names_width(places)
    left = _LEFT + names
    right = left + _WIDTH
    steps = _steps(schedule, places, left, right)
    rows = [_row(schedule, place, n, steps, notes) for n, place in enumerate(places)]
    low = _TOP + ROW * len(rows)
    kernels = len({p.statement.kernel for p in places if isinstance(p.statement, Launch)})
    note = f"{len(places)} launches of {kernels} kernels; a bar is as long as its estimated work"
    marks: list[Mark] = heading(title, note, _LEFT, 30)
    marks += stripes(len(rows), _LEFT, _TOP, right)
    marks += _barriers(schedule, places, steps, _TOP - 8, low)
    marks += row_marks(rows, left, _TOP, right, names)
    marks += _phase_legend(rows, places, schedule, notes, left, low + 18)
    height = low + 34
    if memory is not None and memory.peak > 0:
        marks += _memory_map(schedule, memory, places, steps, left, right, height + 34)
        height += 34 + _MAP_HEIGHT + 30
    return Scene(right + _LEFT, height, tuple(marks), title)


def launch_name(place: Place) -> str:
    """The kernel's name, indented under the loops around it."""
    statement = place.statement
    name = statement.kernel if isinstance(statement, Launch) else f"copy {statement.source}"
    return "  " * len(place.around) + name


def _names_width(places: Sequence[Place]) -> float:
    widest = max((text_width(launch_name(p), SMALL) for p in places), default=0.0)
    return min(max(widest + 12, _NAMES_MIN), _NAMES_MAX)


def work_of(schedule: Schedule, place: Place) -> float:
    """Operations, and the bytes moved as operations; an estimate that only orders things."""
    statement = place.statement
    if isinstance(statement, Launch):
        touched = (*statement.inputs, *statement.outputs)
        flops = statement.flops if isinstance(statement.flops, int) else 0
    else:
        touched, flops = (statement.source, statement.target), 0
    moved = sum(_nbytes(schedule.buffer[name]) for name in touched)
    return flops + moved * _BYTES_PER_OPERATION


def _nbytes(buffer: Buffer) -> int:
    size = buffer.type.nbytes
    return size if isinstance(size, int) else 0


def _steps(schedule: Schedule, places: Sequence[Place], left: float, right: float) -> _Steps:
    """Steps side by side, as wide as their longest launch, and none too narrow to see."""
    count = max((p.step for p in places), default=0) + 1
    longest = [0.0] * count
    for place in places:
        longest[place.step] = max(longest[place.step], work_of(schedule, place))
    least = min(26.0, (right - left) / (2 * count))
    scale = max(right - left - least * count, 0.0) / max(sum(longest), 1.0)
    edges = [left]
    for work in longest:
        edges.append(edges[-1] + least + work * scale)
    return _Steps(tuple(edges), scale)


def _phase(schedule: Schedule, place: Place, number: int, notes: KernelNotes) -> str:
    statement = place.statement
    writes = statement.outputs if isinstance(statement, Launch) else (statement.target,)
    if any(schedule.buffer[name].kind == "state" for name in writes):
        return "update"
    return notes.phases[number] if number < len(notes.phases) else "forward"


def _row(schedule: Schedule, place: Place, number: int, steps: _Steps, notes: KernelNotes) -> Row:
    phase = PHASES[_phase(schedule, place, number, notes)]
    start, end = steps.span(place.step)
    work = work_of(schedule, place)
    left = start + 3
    right = min(left + 5 + work * steps.scale, end - 2)
    statement = place.statement
    loops = " in " + ", ".join(label for _, label in place.around) if place.around else ""
    where = ""
    operations = "copy"
    if isinstance(statement, Launch):
        where = f"; {statement.source}" if statement.source else ""
        operations = f"{_count(statement.flops)} operation{'' if statement.flops == 1 else 's'}"
    tip = f"{launch_name(place).strip()}: {operations}{loops}{where}"
    bar = Bar(left, right, phase.fill, phase.line, tip)
    return Row(launch_name(place), (bar,), operations, tip, notes.links.get(launch_name(place), ""))


def _count(n: Any) -> str:
    if not isinstance(n, int):
        return str(n)
    for letter, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= scale:
            return f"{n / scale:.3g}{letter}"
    return str(n)


def _barriers(
    schedule: Schedule, places: Sequence[Place], steps: _Steps, top: float, low: float
) -> list[Mark]:
    """A line at each barrier; the commit, after which states are written, is drawn strongly."""
    marks: list[Mark] = []
    used = {place.step for place in places}
    commit = _commit_step(schedule)
    for step, x in enumerate(steps.edges[1:-1]):
        if step == commit:
            continue
        if step in used:
            marks.append(line([(x, top), (x, low)], colour=MUTED, stroke=0.7, dash="dotted"))
    if commit is not None and 0 <= commit < len(steps.edges) - 1:
        x = steps.edges[commit + 1]
        marks.append(line([(x, top - 6), (x, low)], colour=INK, stroke=1.6, tip="commit"))
        marks.append(Text((x, top - 9), "commit: states are written from here", NOTE, INK))
    return marks


def _commit_step(schedule: Schedule) -> int | None:
    """The step before the commit, counted as ``launches_of`` does."""
    step = 0
    for statement in schedule.body:
        if isinstance(statement, Commit):
            return step
        if not isinstance(statement, Launch) and type(statement).__name__ != "Copy":
            inner = [s for s in walk((statement,)) if s is not statement]
            step += 2 if inner else 1
    return None


def _phase_legend(
    rows: Sequence[Row],
    places: Sequence[Place],
    schedule: Schedule,
    notes: KernelNotes,
    x: float,
    y: float,
) -> list[Mark]:
    present = [_phase(schedule, p, n, notes) for n, p in enumerate(places)]
    marks: list[Mark] = []
    for name in dict.fromkeys(present):
        phase = PHASES[name]
        marks.append(rectangle(x, y - 7, 12, 9, line=phase.line, fill=phase.fill, stroke=0.8))
        marks.append(Text((x + 16, y), name, NOTE, MUTED, "start"))
        x += 16 + text_width(name, NOTE) + 16
    return marks


# ---- memory


def _memory_map(
    schedule: Schedule,
    memory: Memory,
    places: Sequence[Place],
    steps: _Steps,
    left: float,
    right: float,
    top: float,
) -> list[Mark]:
    lives = _lives(schedule, places)
    low = top + _MAP_HEIGHT
    scale = _MAP_HEIGHT / memory.peak
    heaviest = next(iter(memory.by_source(schedule).items()), None)
    most = f"; most of it, {bytes_text(heaviest[1])}, from {heaviest[0]}" if heaviest else ""
    note = f"peak {bytes_text(memory.peak)}{most}"
    marks: list[Mark] = heading("memory of intermediate results", note, _LEFT, top - 14)
    marks.append(rectangle(left, top, right - left, _MAP_HEIGHT, line=GRID, fill=BACKGROUND))
    marks += _offset_axis(memory.peak, left, right, top, low, scale)
    for number, buffer in enumerate(schedule.of_kind("arena")):
        offset = memory.offsets.get(buffer.name, buffer.offset)
        if offset is None or buffer.name not in lives:
            continue
        first, last = lives[buffer.name]
        x0, x1 = steps.span(first)[0] + 1, steps.span(last)[1] - 1
        size = max(_nbytes(buffer), 1)
        height = max(size * scale, 0.8)
        y = low - offset * scale - height
        tip = f"{buffer.name}: {buffer.type}, {bytes_text(size)} at {offset}"
        marks += _block(x0, y, x1 - x0, height, buffer.name, size, WORKERS[number % 4], tip)
    peak = _fullest(schedule, lives)
    if peak is not None:
        x0, x1 = steps.span(peak)
        band = rectangle(x0, top, x1 - x0, _MAP_HEIGHT, line=INK, stroke=1.4, dash="dashed")
        marks += [band, Text(((x0 + x1) / 2, low + 12), "peak", NOTE, INK, bold=True)]
    return sorted(marks, key=lambda mark: isinstance(mark, Text))  # names over all lines


def _block(
    x: float, y: float, width: float, height: float, name: str, size: int, colour: str, tip: str
) -> list[Mark]:
    fill = _pale(colour)
    marks: list[Mark] = [
        rectangle(x, y, width, height, line=colour, fill=fill, stroke=0.6, tip=tip)
    ]
    if height >= 10 and width >= 24:
        label = clipped(f"{name} {bytes_text(size)}", NOTE, width - 6)
        at = (x + width / 2, y + height / 2 + 3)
        marks.append(Text(at, label, NOTE, INK, tip=tip, halo=fill))
    return marks


def _pale(colour: str) -> str:
    """Three quarters of the way to white."""
    parts = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - (255 - p) * 0.3):02x}" for p in parts)


def _offset_axis(
    peak: int, left: float, right: float, top: float, low: float, scale: float
) -> list[Mark]:
    marks: list[Mark] = []
    for part in range(5):
        offset = peak * part // 4
        y = low - offset * scale
        marks.append(line([(left, y), (right, y)], colour=GRID, stroke=0.5))
        marks.append(Text((left - 6, y + 3), bytes_text(offset), NOTE, MUTED, "end"))
    return marks


def _lives(schedule: Schedule, places: Sequence[Place]) -> dict[str, tuple[int, int]]:
    """The first and last step that touches each arena buffer; all of a loop that it outlives."""
    touched: dict[str, list[Place]] = {}
    for place in places:
        statement = place.statement
        names = (
            (*statement.inputs, *statement.outputs)
            if isinstance(statement, Launch)
            else (statement.source, statement.target)
        )
        for name in names:
            touched.setdefault(name, []).append(place)
    loops: dict[str, list[int]] = {}
    for place in places:
        for key, _ in place.around:
            loops.setdefault(key, []).append(place.step)
    found = {}
    for buffer in schedule.of_kind("arena"):
        at = touched.get(buffer.name, [])
        if not at:
            continue
        steps = [p.step for p in at]
        arounds = {p.around for p in at}
        if len(arounds) > 1:
            for around in arounds:
                for key, _ in around:
                    steps += loops[key]
        found[buffer.name] = (min(steps), max(steps))
    return found


def _fullest(schedule: Schedule, lives: Mapping[str, tuple[int, int]]) -> int | None:
    """The step with the most bytes alive."""
    if not lives:
        return None
    last = max(end for _, end in lives.values())
    alive = [
        sum(_nbytes(schedule.buffer[name]) for name, (a, b) in lives.items() if a <= step <= b)
        for step in range(last + 1)
    ]
    return alive.index(max(alive))
