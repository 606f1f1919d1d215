"""The graph of pieces: what lowering makes of a graph, and what fusion groups into kernels.

::

    slot   := a tensor in memory: an argument, a state, a constant, or what a piece computes
    piece  := slot[index] = term, checks            one value as a function of its own fresh axes
    region := pieces that run as one kernel

A piece's term loads slots by ``slot.key``. Axes are named apart over the whole program (``i7``), an
axis of extent 1 is the index 0. Pieces that only move data, and the cheapest others, do not exist:
their terms are written into the pieces that read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graphc.graph import Node
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Contract,
    Load,
    Reduction,
    Result,
    Scan,
    Term,
    postorder,
)
from graphc.records import dataclass
from graphc.routines import Routine
from graphc.types import Extent, SourceLoc, TensorType

__all__ = [
    "Control",
    "Inline",
    "Piece",
    "Program",
    "Slot",
    "Step",
    "elements",
    "flops_of",
    "loads_of",
    "nbytes",
    "reach",
    "work_of",
]

#: operations that cost more than one, in additions
_COSTS = {
    **dict.fromkeys(("/", "sqrt", "rsqrt", "//", "%"), 4),
    **dict.fromkeys(("exp", "exp2", "expm1", "log", "log2", "log1p", "tanh", "sigmoid"), 12),
    **dict.fromkeys(("sin", "cos", "tan", "atan", "erf", "erfc", "pow", "bits", "derive"), 20),
}
#: what a size that is bound at the call counts as in estimates, where its dim has no maximum
_ASSUMED = 1024


@dataclass(frozen=True)
class Step:
    """The run-time scalar that counts a loop's iterations from 0; ``slot`` is the cell that holds
    it.
    """

    name: str
    slot: Slot
    last: Extent


@dataclass(frozen=True, eq=False)
class Slot:
    """A tensor in memory. ``kind`` is "argument", "state", "constant" or "computed"; ``origin``
    made it.
    """

    key: str
    name: str
    type: TensorType
    kind: str
    origin: Node | None = None
    data: NDArray[np.generic] | None = None

    def __repr__(self) -> str:
        return f"<{self.key} {self.name}: {self.type}, {self.kind}>"


@dataclass(frozen=True, eq=False)
class Piece:
    """``slot[index] = term``; ``extents`` of its own axes, bound ones included."""

    slot: Slot
    index: tuple[Term, ...]
    term: Term
    extents: Mapping[str, Extent]
    serial: int
    checks: tuple[tuple[Term, str], ...] = ()
    source: SourceLoc | None = None
    block: str = ""
    nodes: tuple[Node, ...] = field(default=(), repr=False)
    control: Control | None = field(default=None, repr=False)

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The axes of its result, in order of the dimensions; those of extent 1 have none."""
        named: dict[str, None] = {}
        for term in self.index:
            if isinstance(term, AxisIndex):
                named[term.axis] = None
            else:
                named.update(dict.fromkeys(a for a in self.extents if a in term.axes))
        return tuple(named)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """Every term of it, operands before users."""
        return reach((*self.index, self.term, *(pred for pred, _ in self.checks)))

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        return tuple(t for t in self.terms if isinstance(t, Load))

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The keys of the slots that it loads, each once."""
        return tuple(dict.fromkeys(load.tensor for load in self.loads))

    @cached_property
    def bound(self) -> frozenset[str]:
        """The axes that it reduces, contracts or scans."""
        found: set[str] = set()
        for term in self.terms:
            if isinstance(term, Reduction | Contract):
                found.update(term.over)
            elif isinstance(term, Scan):
                found.add(term.over)
        return frozenset(found)

    @cached_property
    def apart(self) -> frozenset[str]:
        """The axes whose points share an axis that is reduced: its bounds are read from memory, as
        those of a graph's edges by node.
        """
        found: set[str] = set()
        for term in self.terms:
            if isinstance(term, Reduction) and term.where is not None:
                loads = (t for t in reach((term.where,)) if isinstance(t, Load))
                found.update(a for load in loads for a in load.axes if a not in term.over)
        return frozenset(found)

    @cached_property
    def contracts(self) -> bool:
        return any(isinstance(t, Contract) for t in self.terms)

    @property
    def again(self) -> bool:
        """Whether it repeats what another piece computes, to save that one's memory."""
        return self.slot.origin is not None and self.slot.origin.again > 0

    @property
    def backward(self) -> bool:
        """Whether it belongs to a derivative."""
        return any(n.primal is not None for n in self.nodes)

    @cached_property
    def work(self) -> int:
        """Additions an element, not counting what it reduces over."""
        return work_of(self.term)

    @cached_property
    def tail(self) -> str | None:
        """The monoid where the result is nothing but one reduction whose partial states combine by
        itself.
        """
        term = self.term
        if not isinstance(term, Result) or not isinstance(term.of, Reduction):
            return None
        of = term.of
        plain = of.monoid in ("sum", "max", "min", "prod", "any", "all") and len(of.args) == 1
        return of.monoid if plain and not of.merge and not self.checks else None

    def __repr__(self) -> str:
        return f"<piece {self.slot.name}[{', '.join(self.axes)}]>"


@dataclass(frozen=True, eq=False)
class Inline:
    """A value that has no slot: its term over its own axes."""

    index: tuple[Term, ...]
    term: Term
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """A lowered graph: pieces in program order, and what its results are.

    ``updates`` pairs the slot of a state (in a body: of a carry or a branch's result) with the slot
    that holds its new value; ``stacked`` are those that a loop's body fills one element at a time.
    """

    arguments: tuple[Slot, ...]
    pieces: tuple[Piece, ...]
    outputs: tuple[Slot, ...]
    updates: tuple[tuple[Slot, Slot], ...] = ()
    slots: Mapping[str, Slot] = field(default_factory=dict)
    stacked: tuple[Slot, ...] = ()
    steps: Mapping[str, Step] = field(default_factory=dict)

    @cached_property
    def wanted(self) -> frozenset[Slot]:
        """The computed slots that must exist in memory after the call."""
        return frozenset((*self.outputs, *self.stacked, *(new for _, new in self.updates)))


@dataclass(frozen=True, eq=False)
class Control:
    """What is no part of a kernel: a loop or branch, with programs for the schedule to run, or a
    routine.

    ``reads`` and ``results`` are the slots outside of the bodies; ``starts`` pairs a carry with its
    first value. ``bodies`` are (body), (predicate, body) or (then, otherwise); ``counter`` counts a
    loop's iterations, ``predicate`` is the cell that a while or branch looks at, ``choice`` what is
    put there for a branch. A ``routine`` reads and results its tensors, in order, at ``sizes``.
    """

    kind: str
    node: Node
    reads: tuple[Slot, ...]
    results: tuple[Slot, ...]
    starts: tuple[tuple[Slot, Slot], ...]
    bodies: tuple[Program, ...]
    counter: Slot | None = None
    predicate: Slot | None = None
    choice: Slot | None = None
    length: Extent = 0
    routine: Routine | None = None
    sizes: tuple[Extent, ...] = ()


def reach(roots: tuple[Term, ...]) -> tuple[Term, ...]:
    """The terms that ``roots`` need, operands before users, each once."""
    return tuple(postorder(roots))


def loads_of(term: Term) -> tuple[Load, ...]:
    """The loads that ``term`` needs."""
    return tuple(t for t in reach((term,)) if isinstance(t, Load))


def work_of(term: Term) -> int:
    """Additions that an element of ``term`` costs: indices, and what was reduced before, count
    nothing.
    """
    total, seen = 0, set[Term]()
    stack = [term]
    while stack:
        term = stack.pop()
        if term in seen:
            continue
        seen.add(term)
        if isinstance(term, Apply):
            total += _COSTS.get(term.op, 1)
            stack.extend(term.args)
        elif isinstance(term, Load):
            stack.extend(t for t in (term.pred, term.fill) if t is not None)
        else:
            stack.extend(term.operands)
    return total


def flops_of(pieces: Sequence[Piece]) -> Extent:
    """Operations of a kernel, roughly: every value at all points that it is computed at."""
    total: Extent = 0
    for piece in pieces:
        points: Extent = 1
        for axis, extent in piece.extents.items():
            points = points if axis in piece.apart else points * extent
        total = total + points * (2 if piece.contracts else max(1, piece.work))
    return total


def nbytes(slot: Slot) -> int:
    """Bytes of a slot; an estimate where sizes are bound at the call."""
    return slot.type.dtype.itemsize * elements(*slot.type.shape)


def elements(*extents: Extent) -> int:
    """How many points axes of these extents have; an estimate where sizes are bound at the call."""
    total = 1
    for extent in extents:
        total *= _estimated(extent)
    return total


def _estimated(extent: Extent) -> int:
    if isinstance(extent, int):
        return extent
    value = extent.evaluate({dim: dim.max or max(dim.min, _ASSUMED) for dim in extent.dims})
    assert isinstance(value, int)  # every dim was replaced
    return value
