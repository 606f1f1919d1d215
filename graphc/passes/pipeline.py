"""The visible list: every pass from a closed graph to a schedule, in order.

::

    graph  -> expand, canonicalize, fold, simplify, share            GRAPH_PASSES
           -> lower -> fuse -> compose                       one kernel a region
           -> refine                                         copies that the backend reads better
           -> schedule                                       buffers, order, commit
           -> keep                                           work of states alone, once a version
           -> donate                                         results in arguments given away
           -> plan memory                                    offsets (again for every run-time size)

Each pass is a pure function. With ``GRAPHC_VERIFY=1`` what it made is verified; with
``GRAPHC_DUMP=dir`` the text of every level is written there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from graphc.errors import ShapeError
from graphc.graph import Graph, with_bodies
from graphc.kernel.text import print_kernel
from graphc.kernel.verify import verify as verify_kernel
from graphc.passes.canonicalize import canonicalize
from graphc.passes.compose import Block, Call, ControlCall, KernelCall, RoutineCall, compose
from graphc.passes.donate import reuse_arguments
from graphc.passes.expand import expand
from graphc.passes.fold import fold_constants
from graphc.passes.fuse import Fused, fuse
from graphc.passes.hoist import hoist
from graphc.passes.keep import keep_results
from graphc.passes.lower import lower
from graphc.passes.numbers import LIMITS, Limits
from graphc.passes.pieces import Program
from graphc.passes.refine import Refine, leave_loop, refine
from graphc.passes.regions import Regions
from graphc.passes.schedule import Scheduled, make_schedule
from graphc.passes.share import share
from graphc.passes.simplify import simplify
from graphc.passes.term_table import TermTable
from graphc.records import dataclass
from graphc.schedule_text import print_schedule
from graphc.schedule_verify import verify_schedule, verifying
from graphc.verify import verify as verify_graph

__all__ = ["GRAPH_PASSES", "Compiled", "compile_graph", "optimize"]

_MOST_BYTES = 2**63 - 1

GraphPass = Callable[[Graph], Graph]

#: graph -> graph, in order; each must leave the graph's results as they are
GRAPH_PASSES: tuple[tuple[str, GraphPass], ...] = (
    ("expand", expand),
    ("canonicalize", canonicalize),
    ("fold constants", fold_constants),
    ("hoist", hoist),
    ("simplify", simplify),
    ("share", share),
)


@dataclass(frozen=True)
class Compiled:
    """What every level made of a graph; ``calls`` are its kernels and routines in order of their
    launches.
    """

    graph: Graph
    block: Block
    calls: tuple[KernelCall | RoutineCall, ...]
    scheduled: Scheduled

    @property
    def program(self) -> Program:
        return self.block.program

    @property
    def fused(self) -> Fused:
        return self.block.fused


def optimize(
    graph: Graph,
    program: str = "program",
    passes: Sequence[tuple[str, GraphPass]] = GRAPH_PASSES,
) -> Graph:
    """``graph`` after the graph passes; ``program`` names it in dumps."""
    for name, rewrite in passes:
        graph = rewrite(graph)
        if verifying():
            verify_graph(graph)
        _dump(program, f"graph.{name.replace(' ', '_')}.txt", graph.text)
    return graph


def compile_graph(
    graph: Graph,
    name: str,
    *,
    check_nan: bool = False,
    rewrite: Refine = lambda kernel, lasting: (kernel,),
    blocks: int = LIMITS.parallelism,
    donated: Sequence[int] = (),
    keep: bool = False,
) -> Compiled:
    """A closed graph -> its schedule, with the arena not planned yet; ``rewrite`` is the backend's
    part of it, ``donated`` are the numbers of the inputs whose memory it may take. ``keep`` what
    follows from parameters alone from call to call.
    """
    _refuse_endless(graph)
    graph = optimize(graph, name)
    lowered = lower(graph, check_nan=check_nan)
    limits = replace(LIMITS, parallelism=blocks)
    lasting = _lasting(lowered.program) if keep else set()
    block = _block(lowered.program, lowered.table, rewrite, limits, lasting)
    made = make_schedule(block, name)
    made = keep_results(made) if keep else made
    scheduled = replace(made, schedule=reuse_arguments(made.schedule, donated))
    if verifying():
        for call in scheduled.calls:
            if isinstance(call, KernelCall):
                verify_kernel(call.kernel)
        verify_schedule(scheduled.schedule)
    _dump(name, "kernels.txt", lambda: "\n".join(map(_text, scheduled.calls)))
    _dump(name, "schedule.txt", lambda: print_schedule(scheduled.schedule))
    return Compiled(graph, block, scheduled.calls, scheduled)


def _refuse_endless(graph: Graph) -> None:
    """Raises ShapeError for a value whose bytes 64 bits do not count."""
    for node in with_bodies(graph):
        for type_ in node.types:
            if isinstance(type_.nbytes, int) and type_.nbytes > _MOST_BYTES:
                raise ShapeError(
                    f"{node.op}: {type_} has {type_.nbytes:.1e} bytes; no machine counts so far",
                    node.source,
                )


def _lasting(program: Program) -> set[str]:
    """The keys of slots that more copies pay for: what a program without updates does not compute.
    One with updates is part of a training, which writes parameters before the next call of it.
    """
    if program.updates:
        return set()
    return {s.key for s in program.slots.values() if s.kind in ("state", "constant")}


def _block(
    program: Program, table: TermTable, rewrite: Refine, limits: Limits,
    lasting: set[str] | None = None,
) -> Block:
    """The calls of a program, those of its loops' and branches' bodies included."""
    fused = fuse(Regions(program), table, limits)
    calls: list[Call] = []
    for control, group in groupby(fused.regions, key=lambda r: r.pieces[0].control):
        if control is None:
            made = [compose(fused, region) for region in group]
            calls += refine(made, rewrite, lasting)
        elif control.routine is not None:
            calls.append(RoutineCall(control))
        else:
            bodies = tuple(_block(body, table, rewrite, limits) for body in control.bodies)
            if control.kind == "loop":
                copies, loop = leave_loop(control, bodies[0])
                calls += [*copies, loop]
            else:
                calls.append(ControlCall(control, bodies))
    return Block(program, fused, tuple(calls))


def _text(call: KernelCall | RoutineCall) -> str:
    return print_kernel(call.kernel) if isinstance(call, KernelCall) else f"{call.routine}\n"


def _dump(program: str, name: str, text: Callable[[], str]) -> None:
    directory = os.environ.get("GRAPHC_DUMP")
    if directory:
        path = Path(directory) / re.sub(r"[^\w. -]", "_", program).lstrip(".")  # not out of it
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text(), encoding="utf-8")
