"""Executable -> what its pictures say beyond the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphc.drawing.kernels import KernelNotes
from graphc.passes.compose import KernelCall, RoutineCall
from graphc.passes.pieces import Slot
from graphc.schedule import Launch, walk

if TYPE_CHECKING:
    from graphc.executable import Executable

__all__ = ["notes_of"]


def notes_of(executable: Executable) -> KernelNotes:
    """Phases, fused values, blocks and refusals of the program that was used last."""
    explanation = executable.explain()
    launches = [s for s in walk(executable.schedule.body) if isinstance(s, Launch)]
    names = executable.graph.block_names
    return KernelNotes(
        phases=[_phase(call) for call in executable.compiled.calls],
        members=[
            () if is_copy(call) else entry.values
            for call, entry in zip(executable.compiled.calls, explanation.kernels, strict=True)
        ],
        blocks=[
            tuple(dict.fromkeys(names.get(b, _plain(b)) for b in entry.blocks))
            for entry in explanation.kernels
        ],
        refusals={
            (buffer, edge.consumer): str(edge.refusal)
            for edge in explanation.edges
            for launch in launches
            if launch.kernel == edge.producer
            for buffer in launch.outputs
            if _same(buffer, edge.value)
        },
    )


def _phase(call: KernelCall | RoutineCall) -> str:
    """Backward where a result of it is a derivative; a copy is what it is made for."""
    slots: Sequence[Slot] = call.outputs
    if not isinstance(call, RoutineCall) and is_copy(call):
        slots = [p.slot for p in call.region.pieces]
    origins = [slot.origin for slot in slots if slot.origin is not None]
    return "backward" if any(node.primal is not None for node in origins) else "forward"


def is_copy(call: KernelCall | RoutineCall) -> bool:
    """Whether a kernel only arranges what another one reads, so that it stores no value."""
    if isinstance(call, RoutineCall):
        return False
    own = {piece.slot.key for piece in call.region.pieces}
    return not any(slot.key in own for slot in call.outputs)


def _same(buffer: str, value: str) -> bool:
    """Buffers are named after values, with a number where a name comes again."""
    stem, _, number = buffer.rpartition("_")
    return buffer == value or (stem == value and number.isdigit())


def _plain(path: str) -> str:
    """A block's path without the process-wide number of its root."""
    root, slash, rest = path.partition("/")
    return root.partition("#")[0] + slash + rest
