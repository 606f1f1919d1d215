"""Schedule -> the picture of its kernels: what was fused, and why the rest was not.

::

    argument --> [kernel: values, axes, reductions, blocks]
                         --> (buffer: bytes, refusal) --> [kernel]

Buffers between kernels carry their bytes and the reason why the two kernels are not one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from graphc.drawing.naming import bytes_text, short_list
from graphc.drawing.picture import Cluster, Edge, Item, Line, Picture
from graphc.kernel.terms import Contract, Kernel, Reduction, Scan
from graphc.records import dataclass
from graphc.routines import Routine
from graphc.schedule import Buffer, Copy, If, Launch, Loop, Renew, Schedule, Statement, While

__all__ = ["KernelNotes", "Place", "kernels_picture", "launches_of"]

#: more states than this are named inside the kernels that use them
_FEW_STATES = 8
_FEW_REASONS = 2


@dataclass(frozen=True)
class KernelNotes:
    """What the compiler knows beyond the schedule: phases and members by position of the launch,
    refusals by (buffer, consumer kernel).
    """

    phases: Sequence[str] = ()
    members: Sequence[Sequence[str]] = ()
    blocks: Sequence[Sequence[str]] = ()
    refusals: Mapping[tuple[str, str], str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A launch or copy, the step between barriers it stands in, and the loops around it."""

    statement: Launch | Copy
    step: int
    around: tuple[tuple[str, str], ...] = ()  # (key, label) from the outermost


def launches_of(body: Iterable[Statement]) -> list[Place]:
    """Every launch and copy of a body in program order, with its step and loops."""
    found: list[Place] = []
    _collect(tuple(body), (), [0], found)
    return found


def _collect(
    body: Iterable[Statement],
    around: tuple[tuple[str, str], ...],
    step: list[int],
    found: list[Place],
) -> None:
    for statement in body:
        if isinstance(statement, Launch | Copy):
            found.append(Place(statement, step[0], around))
            continue
        step[0] += 1
        for label, inner in _bodies(statement):
            key = f"{len(found)}.{step[0]}"
            _collect(inner, (*around, (key, label)), step, found)
            step[0] += 1


def _bodies(statement: Statement) -> list[tuple[str, tuple[Statement, ...]]]:
    match statement:
        case Loop():
            return [(f"loop × {statement.length}", statement.body)]
        case While():
            limit = "" if statement.max_steps is None else f", at most {statement.max_steps} ×"
            return [(f"while {statement.predicate}{limit}", statement.body)]
        case If():
            otherwise = [("else", statement.otherwise)] if statement.otherwise else []
            return [(f"if {statement.predicate}", statement.then), *otherwise]
        case Renew():
            return [(f"when {' or '.join(statement.states)} changed", statement.body)]
        case _:
            return []


def kernels_picture(
    schedule: Schedule, notes: KernelNotes | None = None, *, title: str = ""
) -> Picture:
    """The kernels of a schedule in order of launch, and the buffers between them."""
    return _Drawing(schedule, notes or KernelNotes()).picture(title)


@dataclass
class _Drawing:
    schedule: Schedule
    notes: KernelNotes
    items: dict[str, Item] = field(default_factory=dict)
    edges: dict[tuple[str, str, str], Edge] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    inside: set[str] = field(default_factory=set)  # kinds of buffers that are not drawn
    latest: dict[str, str] = field(default_factory=dict)  # buffer -> item of its newest value

    def picture(self, title: str) -> Picture:
        """All launches, then what is left to say."""
        states = self.schedule.of_kind("state")
        self.inside = {"cell", "constant"} | ({"state"} if len(states) > _FEW_STATES else set())
        for number, place in enumerate(launches_of(self.schedule.body)):
            self._add(number, place)
        legend: tuple[str, ...] = ("kernel", "buffer", "observed", "computed")
        if self.schedule.states and "state" not in self.inside:
            legend = (*legend, "state")
        kernels = f"{len(self.schedule.kernels)} kernels"
        return Picture(
            title,
            tuple(self.items.values()),
            tuple(self.edges.values()),
            tuple(self.clusters.values()),
            legend,
            kernels,
        )

    def _add(self, number: int, place: Place) -> None:
        statement = place.statement
        key = f"k{number}"
        reads, writes = _touched(statement)
        phase = self._phase(number, writes)
        cluster = self._cluster(place)
        lines = [Line(self._name(statement)), *self._lines(number, statement)]
        lines += self._states(reads, writes)
        link = self.notes.links.get(self._name(statement), "")
        tip = self._tip(number, statement)
        self.items[key] = Item(
            key, "box", tuple(lines), phase=phase, cluster=cluster, tip=tip, link=link
        )
        for name in reads:
            self._read(name, key, statement)
        for name in writes:
            self._write(name, key, cluster, phase)

    def _name(self, statement: Launch | Copy) -> str:
        return statement.kernel if isinstance(statement, Launch) else f"copy {statement.source}"

    def _phase(self, number: int, writes: Iterable[str]) -> str:
        if any(self.schedule.buffer[name].kind == "state" for name in writes):
            return "update"
        return self.notes.phases[number] if number < len(self.notes.phases) else "forward"

    def _lines(self, number: int, statement: Launch | Copy) -> list[Line]:
        if isinstance(statement, Copy):
            return []
        kernel = self.schedule.launched(statement.kernel)
        if isinstance(kernel, Routine):
            sizes = zip(kernel.sizes, statement.sizes, strict=True)
            lines = [Line(" ".join(f"{s.name}:{e}" for s, e in sizes), "detail")]
            lines.append(Line(f"routine {kernel.rule}", "detail"))
        else:
            lines = [Line(_axes_text(kernel), "detail")]
            reductions = _reductions(kernel)
            if reductions:
                lines.append(Line(short_list(reductions, 3), "detail"))
        if number < len(self.notes.members) and len(self.notes.members[number]) > 1:
            names = self.notes.members[number]
            lines.append(Line(f"{len(names)} fused: {short_list(names, 3)}", "note"))
        blocks = self.notes.blocks[number] if number < len(self.notes.blocks) else ()
        blocks = blocks or ((statement.block,) if statement.block else ())
        if blocks:
            lines.append(Line("from " + short_list(blocks, 1), "note"))
        return lines

    def _states(self, reads: Iterable[str], writes: Sequence[str]) -> list[Line]:
        held = [n for n in writes if self.schedule.buffer[n].kind in self.inside]
        used = [n for n in reads if self.schedule.buffer[n].kind in self.inside and n not in held]
        lines = [Line(f"reads {short_list(used, 3)}", "note")] if used else []
        return [*lines, Line(f"writes {short_list(held, 3)}", "note")] if held else lines

    def _tip(self, number: int, statement: Launch | Copy) -> str:
        if isinstance(statement, Copy):
            return f"{statement.source} -> {statement.target}"
        source = f", {statement.source}" if statement.source else ""
        members = self.notes.members[number] if number < len(self.notes.members) else ()
        inside = f": {', '.join(members)}" if members else ""
        return f"{statement.kernel}{inside}; {statement.flops} operations{source}"

    def _cluster(self, place: Place) -> str:
        parent = ""
        for key, label in place.around:
            self.clusters.setdefault(key, Cluster(key, label, parent))
            parent = key
        return parent

    def _read(self, name: str, key: str, statement: Launch | Copy) -> None:
        buffer = self.schedule.buffer[name]
        if buffer.kind in self.inside:
            return
        if name not in self.latest:
            self._add_source(buffer)
        tail = self.latest[name]
        consumer = self._name(statement)
        reason = self.notes.refusals.get((name, consumer), "")
        tip = f"{name}: {buffer.type}, {bytes_text(buffer.type.nbytes)}"
        if reason:
            tip += f"; not fused with {consumer}: {reason}"
            self._add_reason(tail, reason)
        self.edges.setdefault((tail, key, "flow"), Edge(tail, key, tip=tip))

    def _add_source(self, buffer: Buffer) -> None:
        key = self.latest[buffer.name] = f"b{len(self.items)}"
        shape = {"state": "state", "argument": "observed"}.get(buffer.kind, "buffer")
        lines: tuple[Line, ...] = (Line(buffer.name, "plain"),)
        size = f"{buffer.type} {bytes_text(buffer.type.nbytes)}"
        if shape == "buffer":
            lines = (*lines, Line(size, "note"))
        self.items[key] = Item(key, shape, lines, tip=f"{buffer.kind} {buffer.name}: {size}")

    def _add_reason(self, key: str, reason: str) -> None:
        item = self.items[key]
        reasons = [line for line in item.lines if line.style == "note"][1:]
        if item.shape != "buffer" or reason in (line.text for line in reasons):
            return
        if len(reasons) < _FEW_REASONS:
            added = (*item.lines, Line(reason, "note"))
            self.items[key] = Item(
                key, item.shape, added, phase=item.phase, cluster=item.cluster, tip=item.tip
            )

    def _write(self, name: str, key: str, cluster: str, phase: str) -> None:
        buffer = self.schedule.buffer[name]
        if buffer.kind in self.inside:
            return
        size = f"{buffer.type} {bytes_text(buffer.type.nbytes)}"
        if buffer.kind == "state":
            if name not in self.latest:
                self._add_source(buffer)
            head = self.latest[name]
            tip = f"writes {name}"
            self.edges[key, head, "update"] = Edge(key, head, "", "update", phase, tip=tip)
            return
        head = self.latest[name] = f"b{len(self.items)}"
        shape = "computed" if buffer.kind == "output" else "buffer"
        lines: tuple[Line, ...] = (Line(name, "plain"),)
        if shape == "buffer":
            lines = (*lines, Line(size, "note"))
        self.items[head] = Item(
            head, shape, lines, cluster=cluster, tip=f"{buffer.kind} {name}: {size}"
        )
        self.edges[key, head, "flow"] = Edge(key, head, tip=f"{name}: {size}")


def _touched(statement: Launch | Copy) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(statement, Copy):
        return (statement.source,), (statement.target,)
    return tuple(dict.fromkeys(statement.inputs + statement.scalars)), statement.outputs


def _axes_text(kernel: Kernel) -> str:
    """``i:32 j:128 | k:64``: independent axes, then those that are reduced over."""
    extents: dict[str, Any] = kernel.extents
    parallel = [f"{a}:{extents[a]}" for a in kernel.parallel]
    others = [f"{a}:{e}" for a, e in kernel.axes if a not in kernel.parallel]
    text = " ".join(parallel) or "single point"
    return f"{text} | {' '.join(others)}" if others else text


def _reductions(kernel: Kernel) -> list[str]:
    found: dict[str, None] = {}
    for term in kernel.terms:
        if isinstance(term, Reduction):
            found[f"{term.monoid} over {' '.join(term.over)}"] = None
        elif isinstance(term, Contract):
            found[f"contract over {' '.join(term.over)}"] = None
        elif isinstance(term, Scan):
            found[f"scan {term.monoid} over {term.over}"] = None
    return list(found)
