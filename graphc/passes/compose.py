"""A region of pieces -> one kernel: what was a load of a piece's slot becomes that piece's term.

    m[i1] = max x[i1, k2] over k2     e[i3, j4] = exp(x[i3, j4] - load m[i3])
    ->  axes i j;  a = load x[i, j];  m = reduce max a over j;  store e[i, j] = exp(a - m)

A slot that is read at its own axes gives its term itself, so the value is shared; read at another
index, its term is rewritten for that index. An axis that is cut into chunks becomes ``block*io +
ii``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count

from graphc.kernel import build
from graphc.kernel.terms import (
    AxisIndex,
    Check,
    Kernel,
    KernelTensor,
    Load,
    Scalar,
    ScalarValue,
    SizeSymbol,
    SizeValue,
    Statement,
    Store,
    Term,
)
from graphc.passes.chunks import ceil_div
from graphc.passes.fuse import Fused
from graphc.passes.lowering import masked
from graphc.passes.numbers import Numbers
from graphc.passes.pieces import Control, Piece, Program, Slot, Step, reach
from graphc.passes.regions import Region
from graphc.passes.term_table import Substitution, TermTable
from graphc.records import dataclass
from graphc.routines import Routine
from graphc.types import Dim, Extent, Size, SourceLoc, bool_, int64

__all__ = ["Block", "Call", "ControlCall", "KernelCall", "RoutineCall", "compose"]


@dataclass(frozen=True, eq=False)
class KernelCall:
    """One kernel and the slots that it reads and writes, in the order of its tensors."""

    kernel: Kernel
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    sizes: tuple[Dim, ...]
    region: Region
    check_sources: tuple[SourceLoc | None, ...] = ()
    scalars: tuple[Slot, ...] = ()
    numbers: Numbers | None = None


@dataclass(frozen=True, eq=False)
class ControlCall:
    """A loop or branch, and the calls of its bodies in the order of ``control.bodies``."""

    control: Control
    blocks: tuple[Block, ...]

    @property
    def inputs(self) -> tuple[Slot, ...]:
        return self.control.reads

    @property
    def outputs(self) -> tuple[Slot, ...]:
        return self.control.results


@dataclass(frozen=True, eq=False)
class RoutineCall:
    """One run of a routine."""

    control: Control

    @property
    def routine(self) -> Routine:
        assert self.control.routine is not None  # what makes it one
        return self.control.routine

    @property
    def inputs(self) -> tuple[Slot, ...]:
        return self.control.reads

    @property
    def outputs(self) -> tuple[Slot, ...]:
        return self.control.results


Call = KernelCall | ControlCall | RoutineCall


@dataclass(frozen=True, eq=False)
class Block:
    """The calls of a program, or of a body, in a topological order."""

    program: Program
    fused: Fused
    calls: tuple[Call, ...]


def compose(fused: Fused, region: Region) -> KernelCall:
    """The kernel of ``region``."""
    return replace(_Composition(fused, region).call(), numbers=fused.numbers[region])


class _Composition:
    def __init__(self, fused: Fused, region: Region) -> None:
        self.regions = fused.regions
        self.region = region
        self.slots = fused.regions.program.slots
        self.table = TermTable()
        self.own = {p.slot.key: p for p in region.pieces}
        self.stored = [p for p in region.pieces if self._needed(p)]
        self.extents: dict[str, Extent] = {}
        self._axis: dict[str, Term] = {}  # by root
        self._bound: dict[str, tuple[str, ...]] = {}
        self._guards: dict[str, Term] = {}
        self._values: dict[tuple[str, tuple[Term, ...] | None], Term] = {}
        self._read: dict[str, KernelTensor] = {}
        self._name_axes()
        self._names = _Names({*build.RESERVED, *self.extents})

    def _needed(self, piece: Piece) -> bool:
        key = piece.slot.key
        if key in self.regions.wanted:
            return True
        return any(p.slot.key not in self.own for p in self.regions.readers.get(key, ()))

    # ---- axes

    def _name_axes(self) -> None:
        root = self.regions.axes.root
        first = sorted(self.stored, key=lambda p: -len(p.axes))
        order = [a for p in (*first, *self.region.pieces) for a in p.axes]
        order += [a for p in self.region.pieces for a in p.extents]
        cut = None if self.region.chunk is None else root(self.region.chunk)
        free = iter([*"ijklmnpq", *(f"a{n}" for n in range(len(order)))])
        for axis in dict.fromkeys(map(root, order)):
            name, extent = next(free), self.regions.axes.extents[axis]
            if axis == cut:
                self._cut(axis, name, extent)
            else:
                self._axis[axis] = self.table.axis(name, extent)
                self._bound[axis] = (name,)
                self.extents[name] = extent

    def _cut(self, axis: str, name: str, extent: Extent) -> None:
        """``i -> block*io + ii``, guarded where the last block is not whole."""
        block = self.region.block
        outer, inner = f"{name}o", f"{name}i"
        blocks = ceil_div(extent, block)
        self.extents[outer], self.extents[inner] = blocks, block
        start = self.table.apply(
            "*", (self.table.axis(outer, blocks), self.table.const(block)), int64
        )
        index = self.table.apply("+", (start, self.table.axis(inner, block)), int64)
        self._axis[axis], self._bound[axis] = index, (inner,)
        if blocks * block != extent:
            inside = self.table.apply("<", (index, self.table.size(extent)), bool_)
            self._guards[axis] = inside

    # ---- values

    def _substitution(self, piece: Piece) -> Substitution:
        root = self.regions.axes.root
        axes = {a: self._axis[root(a)] for a in piece.extents}
        bound = {a: self._bound[root(a)] for a in piece.extents}
        guards = {a: self._guards[root(a)] for a in piece.extents if root(a) in self._guards}
        return Substitution(axes, bound, guards, self._load)

    def _index(self, piece: Piece) -> tuple[Term, ...]:
        axes = {a: self._axis[self.regions.axes.root(a)] for a in piece.axes}
        return tuple(self.table.substitute(t, Substitution(axes)) for t in piece.index)

    def _value(self, piece: Piece) -> Term:
        key = (piece.slot.key, None)
        if key not in self._values:
            self._values[key] = self.table.substitute(piece.term, self._substitution(piece))
        return self._values[key]

    def _load(self, load: Load) -> Term:
        """What stands for a load whose operands are this kernel's terms already."""
        piece = self.own.get(load.tensor)
        if piece is None or load.tensor in self.region.partial:
            tensor = self._tensor(load.tensor)
            return self._guarded(load, tensor)
        value = self._value(piece)
        if load.index != self._index(piece):
            value = self._moved(piece, load.index)
        if load.pred is None:
            return value
        fill = load.fill or self.table.const(0, load.dtype)
        return masked(self.table, value, load.pred, fill)

    def _guarded(self, load: Load, tensor: KernelTensor) -> Term:
        """A load from memory; where a ragged chunk may run over the end, only inside."""
        pred = load.pred
        for axis, guard in self._guards.items():
            if self._axis[axis].axes & load.axes:
                pred = self.table.both(pred, guard)
        return self.table.load(tensor.name, load.index, load.dtype, pred, load.fill)

    def _moved(self, piece: Piece, index: tuple[Term, ...]) -> Term:
        """The term of ``piece`` at another index."""
        key = (piece.slot.key, index)
        if key not in self._values:
            pairs = zip(self._index(piece), index, strict=True)
            axes = {own.axis: to for own, to in pairs if isinstance(own, AxisIndex)}
            self._values[key] = self.table.substitute(self._value(piece), Substitution(axes))
        return self._values[key]

    def _tensor(self, key: str) -> KernelTensor:
        found = self._read.get(key)
        if found is None:
            slot = self._slot(key)
            found = KernelTensor(self._names.fresh(slot.name), slot.type)
            self._read[key] = found
        return found

    def _slot(self, key: str) -> Slot:
        piece = self.regions.piece.get(key)
        return self.slots[key] if piece is None else piece.slot

    # ---- the kernel

    def call(self) -> KernelCall:
        for piece in self.region.pieces:
            self._value(piece)  # producers first: no value is found by deep recursion
        statements: list[Statement] = []
        sources: list[SourceLoc | None] = []
        for piece in self.region.pieces:
            how = self._substitution(piece)
            for pred, message in piece.checks:
                statements.append(Check(self.table.substitute(pred, how), message))
                sources.append(piece.source)
        outputs = []
        for piece in self.stored:
            value = self._value(piece)
            tensor = KernelTensor(self._names.fresh(piece.slot.name), piece.slot.type)
            outputs.append(tensor)
            statements.append(self._store(piece, tensor, value))
        used = {a for s in statements for t in reach(s.operands) for a in _named(t)}
        renamed = {a: e for a, e in self.table.extents.items() if a not in self.extents}
        self.extents |= {a: e for a, e in renamed.items() if a in used}
        steps = self._steps(statements)
        dims = self._dims(outputs, statements, steps)
        kernel = build.kernel(
            "_".join(dict.fromkeys(p.slot.name for p in self.stored[-3:])),
            [(a, e) for a, e in self.extents.items() if a in used],
            self._read.values(),
            outputs,
            statements,
            sizes=[SizeSymbol(d.name, d.min, d.max, d.multiple_of) for d in dims],
            scalars=[Scalar(s.name, int64, 0, s.last) for s in steps],
        )
        lines = dict.fromkeys(p.source for p in self.region.pieces if p.source is not None)
        return KernelCall(
            replace(kernel, sources=tuple(lines)),
            tuple(self._slot(key) for key in self._read),
            tuple(p.slot for p in self.stored),
            dims,
            self.region,
            tuple(sources),
            tuple(s.slot for s in steps),
        )

    def _store(self, piece: Piece, tensor: KernelTensor, value: Term) -> Store:
        index = self._index(piece)
        root = self.regions.axes.root
        if piece.slot.key in self.region.partial:
            assert self.region.chunk is not None
            (outer,) = self._axis[root(self.region.chunk)].axes - set(
                self._bound[root(self.region.chunk)]
            )
            return Store(tensor.name, (self.table.axis(outer), *index), value)
        pred = None
        for axis in piece.axes:
            pred = self.table.both(pred, self._guards.get(root(axis)))
        return Store(tensor.name, index, value, pred)

    def _steps(self, statements: list[Statement]) -> list[Step]:
        """The loops' counters that the kernel reads, by name."""
        terms = (t for s in statements for t in reach(s.operands))
        names = {t.name for t in terms if isinstance(t, ScalarValue)}
        return [self.regions.program.steps[name] for name in sorted(names)]

    def _dims(
        self, outputs: list[KernelTensor], statements: list[Statement], steps: list[Step]
    ) -> tuple[Dim, ...]:
        shapes = [e for t in (*self._read.values(), *outputs) for e in t.type.shape]
        values = [
            t.extent for s in statements for t in reach(s.operands) if isinstance(t, SizeValue)
        ]
        found: dict[str, Dim] = {}
        for extent in (*self.extents.values(), *shapes, *values, *(s.last for s in steps)):
            if isinstance(extent, Size):
                found.update({d.name: d for d in extent.dims})
        return tuple(found[name] for name in sorted(found))


class _Names:
    """Identifiers, each given once."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken

    def fresh(self, wanted: str) -> str:
        name = wanted
        for n in count(1):
            if name not in self._taken:
                break
            name = f"{wanted}{n}"
        self._taken.add(name)
        return name


def _named(term: Term) -> Mapping[str, None]:
    """The axes that a term names itself."""
    if isinstance(term, AxisIndex):
        return {term.axis: None}
    over = getattr(term, "over", ())
    return dict.fromkeys((over,) if isinstance(over, str) else over)
