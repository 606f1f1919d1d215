"""The words of a nest: tilings, passes, buffers, and the steps a block runs::

    nest  := block axes, step*
    step  := Let term                                 compute here (operands come earlier)
           | Loop axis from..to by tile [vector] step*
           | Begin pass | Update pass | UpdateHeld reduction state | End pass
           | Accumulate scan | Keep term buffer | Recall term buffer
           | Fill tensor | Write store | Verify check

A *pass* is one trip over the same axes for all reductions that can share it. States whose axes are
not all open where their pass runs are *held*: they live in a scratch buffer over the missing axes
(flash attention's output row).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Union

from graphc.kernel.terms import Check, Contract, Kernel, Reduction, Scan, Store, Term
from graphc.records import dataclass

__all__ = [
    "Accumulate",
    "Begin",
    "Buffer",
    "End",
    "Fill",
    "Folding",
    "Keep",
    "Let",
    "Loop",
    "Nest",
    "Pass",
    "Recall",
    "Step",
    "Tiling",
    "Update",
    "UpdateHeld",
    "Verify",
    "Write",
]

Folding = Union[Reduction, Contract]


@dataclass(frozen=True)
class Tiling:
    """How a kernel runs; its meaning does not depend on it.

    ``block``: points of a parallel axis in one grid block (an axis not named stays whole in each
    block). ``tile``: points (vectors, on a vector axis) of an axis that are computed at once, in
    registers. ``vector``: axes that run in SIMD lanes where they are looped; of nested ones only
    the outermost open does. ``order``: the axes in nesting order, outermost first. ``hold``: names
    of definitions kept in scratch when first computed inside a reduction's loop, instead of being
    computed again in later loops. ``stream``: outputs so large that they are written past the
    caches.
    """

    block: Mapping[str, int] = field(default_factory=dict)
    tile: Mapping[str, int] = field(default_factory=dict)
    vector: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()
    hold: frozenset[str] = frozenset()
    stream: frozenset[str] = frozenset()

    def __str__(self) -> str:
        parts = []
        if self.block:
            parts.append("block " + " ".join(f"{a}:{n}" for a, n in self.block.items()))
        if self.tile:
            parts.append("tile " + " ".join(f"{a}:{n}" for a, n in self.tile.items()))
        if self.vector:
            parts.append("vector " + " ".join(sorted(self.vector)))
        if self.order:
            parts.append("order " + " ".join(self.order))
        if self.hold:
            parts.append("hold " + " ".join(sorted(self.hold)))
        if self.stream:
            parts.append("stream " + " ".join(sorted(self.stream)))
        return "; ".join(parts) or "plain"


@dataclass(frozen=True, eq=False)
class Buffer:
    """Scratch memory of one worker over ``axes`` (the vector axis last), for a kept term or a held
    state.
    """

    name: str
    term: Term
    axes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Pass:
    """Reductions and contractions that share one trip over ``over``.

    ``where`` is what is left of the predicate once loop bounds are taken from it. ``lanes`` is the
    axis of ``over`` that runs in lanes: then each lane has a state of its own, and the end merges
    them. ``held`` maps the number of a state to its buffer, per reduction.
    """

    members: tuple[Folding, ...]
    over: tuple[str, ...]
    where: Term | None
    lanes: str | None
    held: Mapping[tuple[Folding, int], Buffer] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Let:
    term: Term


@dataclass(frozen=True, eq=False)
class Begin:
    of: Pass


@dataclass(frozen=True, eq=False)
class Update:
    of: Pass


@dataclass(frozen=True, eq=False)
class UpdateHeld:
    of: Pass
    member: Folding
    state: int
    buffer: Buffer


@dataclass(frozen=True, eq=False)
class End:
    of: Pass


@dataclass(frozen=True, eq=False)
class Accumulate:
    """Advance a scan by one point inside its loop and keep its results."""

    scan: Scan
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True, eq=False)
class Keep:
    term: Term
    buffer: Buffer


@dataclass(frozen=True, eq=False)
class Recall:
    term: Term
    buffer: Buffer


@dataclass(frozen=True, eq=False)
class Fill:
    """Set an output (the part that the open parallel axes name) to its ``init``."""

    tensor: str
    free: tuple[int, ...]  # the dimensions to loop over
    index: tuple[Term | None, ...]  # the open axis of the other dimensions


@dataclass(frozen=True, eq=False)
class Write:
    store: Store


@dataclass(frozen=True, eq=False)
class Verify:
    check: Check


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop over ``axis``: its whole extent, its part in the grid block (``blocked``), or from
    lower to upper.

    ``passes`` and ``scans`` are carried through it.
    """

    axis: str
    tile: int
    vector: bool
    blocked: bool
    reverse: bool
    lower: Term | None
    upper: Term | None
    passes: tuple[Pass, ...]
    scans: tuple[Scan, ...]
    body: tuple[Step, ...]


Step = Union[
    Let, Begin, Update, UpdateHeld, End, Accumulate, Keep, Recall, Fill, Write, Verify, Loop
]


@dataclass(frozen=True, eq=False)
class Nest:
    """The steps of one grid block (after the ``prologue`` that every worker runs once)."""

    kernel: Kernel
    tiling: Tiling
    grid: tuple[str, ...]
    prologue: tuple[Step, ...]
    body: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
