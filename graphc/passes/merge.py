"""Merge independent loops of one length into one, so that they meet at half as many barriers.

::

    loop 8 { a | b }  loop 8 { c | d }   ->   loop 8 { a, c | b, d }

The two directions of a recurrent network are such loops, and so are their derivatives. Where an
iteration has much to do for all workers, barriers are nothing, and two loops' data would share the
caches: such loops stay apart.

Contractions that share an operand are not merged: side by side between two barriers they keep all
workers busy as one would, the operand is packed once for them all, and joining their other
operands is a copy (``python -m benchmarks choices`` measures all three).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.passes.compose import Block, ControlCall, KernelCall
from graphc.passes.pieces import elements, flops_of
from graphc.types import Extent

__all__ = ["joined", "together"]

#: operations of one iteration from which a loop runs alone
SHORT_ITERATION = 1 << 22


def together(controls: Sequence[ControlCall]) -> list[list[ControlCall]]:
    """``controls``, which are independent of each other, with loops that run as one in a group."""
    groups: list[list[ControlCall]] = []
    by_length: dict[Extent, list[ControlCall]] = {}
    for call in controls:
        small = call.control.kind == "loop" and _is_short(call.blocks[0])
        if small and call.control.length in by_length:
            by_length[call.control.length].append(call)
            continue
        groups.append([call])
        if small:
            by_length[call.control.length] = groups[-1]
    return groups


def _is_short(body: Block) -> bool:
    """Whether an iteration is so little work that its barriers count."""
    if any(isinstance(c, ControlCall) for c in body.calls):
        return False
    pieces = [p for c in body.calls if isinstance(c, KernelCall) for p in c.region.pieces]
    return elements(flops_of(pieces)) <= SHORT_ITERATION


def joined(blocks: Sequence[Block]) -> Block:
    """The bodies of loops as one body."""
    if len(blocks) == 1:
        return blocks[0]
    programs = [b.program for b in blocks]
    program = replace(
        programs[0],
        pieces=tuple(p for each in programs for p in each.pieces),
        outputs=tuple(s for each in programs for s in each.outputs),
        updates=tuple(u for each in programs for u in each.updates),
        stacked=tuple(s for each in programs for s in each.stacked),
    )
    return Block(program, blocks[0].fused, tuple(c for b in blocks for c in b.calls))
