"""Graph -> pieces, which fusing groups into kernels.

How one value is lowered is told in ``graphc.passes.lowering``, loops and branches in
``graphc.passes.lower_control``.
"""

from __future__ import annotations

from graphc.graph import Graph
from graphc.passes.lower_control import lower_control
from graphc.passes.lowering import Lowering, Space
from graphc.passes.pieces import Program
from graphc.passes.term_table import TermTable
from graphc.records import dataclass

__all__ = ["Lowered", "lower"]


@dataclass(frozen=True)
class Lowered:
    """The pieces of a graph, and the table that their terms are shared in."""

    program: Program
    table: TermTable


def lower(graph: Graph, *, check_nan: bool = False) -> Lowered:
    """The pieces of ``graph``, whose nodes are all resolved to ops that have a lowering rule.

    With ``check_nan`` every piece that computes floats checks that it is no NaN.
    """
    work = Lowering(graph, Space(lower_control, check_nan=check_nan))
    for value in graph.inputs:
        work.arguments.append(work.slot(value, "argument"))
        work.where[value] = work.arguments[-1]
    work.run()
    outputs = tuple(work.stored(v) for v in graph.outputs)
    updates = tuple((work.slot_of_state(s), work.stored(new)) for s, new in graph.updates)
    return Lowered(work.program(outputs, updates), work.table)
