"""The data of the Kernel IR: what a kernel *means*. How it runs is a Tiling's matter
(``graphc/nest``).

A kernel is SSA over named axes. A term is a total function of its axes; there are no loops::

    kernel  := name, sizes, scalars, axes, inputs, outputs, definitions (name, term), statements
    term    := Const | AxisIndex | SizeValue | ScalarValue | Apply op terms
             | Load tensor[terms] if pred else fill
             | Reduction monoid terms over axes where pred     (its results are Result(reduction,
             i)) | Contract a, b over axes where pred in dtype
             | Scan monoid terms over axis reverse exclusive   (its results are Result(scan, i))
    stmt    := Store [add] tensor[terms] = term if pred | Check pred "message"

Terms are immutable and compare by identity; sharing a term object is sharing its value. Build them
with the functions of ``graphc.kernel.build``, which derive ``dtype`` and ``axes``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from functools import cached_property

from graphc.records import dataclass
from graphc.types import DType, Extent, SourceLoc, TensorType

__all__ = [
    "Apply",
    "AxisIndex",
    "Check",
    "Const",
    "Contract",
    "Kernel",
    "KernelTensor",
    "Load",
    "Reduction",
    "Result",
    "Scalar",
    "ScalarValue",
    "Scan",
    "SizeSymbol",
    "SizeValue",
    "Statement",
    "Store",
    "Term",
    "postorder",
]


@dataclass(frozen=True, eq=False, kw_only=True)
class Term:
    """A value: ``dtype``, and the axes it depends on."""

    dtype: DType
    axes: frozenset[str]

    @property
    def operands(self) -> tuple[Term, ...]:
        """The terms it is computed from, in order of the text."""
        return ()


@dataclass(frozen=True, eq=False)
class Const(Term):
    value: bool | int | float


@dataclass(frozen=True, eq=False)
class AxisIndex(Term):
    """An axis name used as a value: its index, int64."""

    axis: str


@dataclass(frozen=True, eq=False)
class SizeValue(Term):
    """A run-time extent used as a value, int64."""

    extent: Extent


@dataclass(frozen=True, eq=False)
class ScalarValue(Term):
    """A run-time scalar (``scalar pos i64 0..63``) used as a value."""

    name: str


@dataclass(frozen=True, eq=False)
class Apply(Term):
    """A scalar op of ``graphc.kernel.scalar_ops`` on terms."""

    op: str
    args: tuple[Term, ...]

    @property
    def operands(self) -> tuple[Term, ...]:
        return self.args


@dataclass(frozen=True, eq=False)
class Load(Term):
    """``load tensor[index] [if pred] [else fill]``.

    Without pred and fill the index is proved inside. ``fill`` is the value where pred is false or
    the index is outside; with a pred and no fill it is 0.
    """

    tensor: str
    index: tuple[Term, ...]
    pred: Term | None = None
    fill: Term | None = None

    @property
    def operands(self) -> tuple[Term, ...]:
        if self.pred is None and self.fill is None:
            return self.index
        return self.index + tuple(t for t in (self.pred, self.fill) if t is not None)


@dataclass(frozen=True, eq=False)
class Reduction(Term):
    """``reduce monoid args over axes [where pred]``; ``merge`` combines partial states instead of
    elements.

    ``axes`` are those of the key state; the i-th result may have more (see ``Result``). A reduction
    is never used as an operand itself, its ``Result``s are.
    """

    monoid: str
    args: tuple[Term, ...]
    over: tuple[str, ...]
    where: Term | None = None
    merge: bool = False

    @property
    def operands(self) -> tuple[Term, ...]:
        return self.args + (() if self.where is None else (self.where,))


@dataclass(frozen=True, eq=False)
class Scan(Term):
    """``scan monoid args over axis [reverse] [exclusive]``; its ``Result``s keep the axis."""

    monoid: str
    args: tuple[Term, ...]
    over: str
    reverse: bool = False
    exclusive: bool = False

    @property
    def operands(self) -> tuple[Term, ...]:
        return self.args


@dataclass(frozen=True, eq=False)
class Result(Term):
    """The ``index``-th state of a reduction or scan."""

    of: Reduction | Scan
    index: int

    @property
    def operands(self) -> tuple[Term, ...]:
        return (self.of,)


@dataclass(frozen=True, eq=False)
class Contract(Term):
    """``contract a, b over axes [where pred] [in dtype]``: the sum of a*b; ``dtype`` is what it
    accumulates in.
    """

    a: Term
    b: Term
    over: tuple[str, ...]
    where: Term | None = None

    @property
    def operands(self) -> tuple[Term, ...]:
        return (self.a, self.b) + (() if self.where is None else (self.where,))


@dataclass(frozen=True)
class KernelTensor:
    """A tensor argument. ``init`` (outputs only) fills it before any store: needed by ``store
    add``.
    """

    name: str
    type: TensorType
    init: int | float | None = None


@dataclass(frozen=True)
class SizeSymbol:
    """``size B 1..4096 by 8``: a run-time extent."""

    name: str
    min: int = 1
    max: int | None = None
    multiple_of: int = 1


@dataclass(frozen=True)
class Scalar:
    """``scalar pos i64 0..63``: a run-time scalar; bounds (inclusive) are for integers, and prove
    indices. The greatest value may hang on sizes: ``scalar step i64 0..T-1``.
    """

    name: str
    dtype: DType
    min: int | None = None
    max: Extent | None = None


@dataclass(frozen=True, eq=False)
class Store:
    """``store [add] tensor[index] = value [if pred]``."""

    tensor: str
    index: tuple[Term, ...]
    value: Term
    pred: Term | None = None
    add: bool = False

    @property
    def operands(self) -> tuple[Term, ...]:
        return (*self.index, self.value) + (() if self.pred is None else (self.pred,))

    @property
    def axes(self) -> frozenset[str]:
        return frozenset().union(*(t.axes for t in self.operands))


@dataclass(frozen=True, eq=False)
class Check:
    """``check pred "message"``: sets the error word where pred is false; stores and checked loads
    obey it.
    """

    pred: Term
    message: str

    @property
    def operands(self) -> tuple[Term, ...]:
        return (self.pred,)

    @property
    def axes(self) -> frozenset[str]:
        return self.pred.axes


Statement = Store | Check


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel. ``axes`` are ordered and carry extents; ``definitions`` name the shared terms for
    the text.
    """

    name: str
    axes: tuple[tuple[str, Extent], ...]
    inputs: tuple[KernelTensor, ...]
    outputs: tuple[KernelTensor, ...]
    statements: tuple[Statement, ...]
    definitions: tuple[tuple[str, Term], ...] = ()
    sizes: tuple[SizeSymbol, ...] = ()
    scalars: tuple[Scalar, ...] = ()
    sources: tuple[SourceLoc, ...] = field(default=(), repr=False)

    @cached_property
    def extents(self) -> dict[str, Extent]:
        return dict(self.axes)

    @cached_property
    def tensors(self) -> dict[str, KernelTensor]:
        return {t.name: t for t in (*self.inputs, *self.outputs)}

    @property
    def stores(self) -> tuple[Store, ...]:
        return tuple(s for s in self.statements if isinstance(s, Store))

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(s for s in self.statements if isinstance(s, Check))

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """Every term that a statement needs, operands before users, each once."""
        return tuple(postorder(t for s in self.statements for t in s.operands))

    @cached_property
    def bound_axes(self) -> frozenset[str]:
        """The axes that a reduction, contraction or scan binds."""
        bound: set[str] = set()
        for term in self.terms:
            if isinstance(term, (Reduction, Contract)):
                bound.update(term.over)
            elif isinstance(term, Scan):
                bound.add(term.over)
        return frozenset(bound)

    @cached_property
    def parallel(self) -> tuple[str, ...]:
        """The axes in every store that nothing reduces or scans: their points are independent.

        A ``store add`` whose index does not name the axis plainly makes the axis sequential as
        well.
        """
        free = frozenset(a for a, _ in self.axes) - self.bound_axes
        for store in self.stores:
            free &= store.axes
            if store.add:
                free &= {t.axis for t in store.index if isinstance(t, AxisIndex)}
        return tuple(a for a, _ in self.axes if a in free)


def postorder(roots: Iterable[Term]) -> list[Term]:
    """Every term that ``roots`` need, operands before users, each once."""
    order: list[Term] = []
    seen: set[Term] = set()
    started: list[Term] = []
    stack: list[Term | None] = [*reversed([*roots])]  # None: what started last has its operands
    while stack:
        term = stack.pop()
        if term is None:
            order.append(started.pop())
        elif term not in seen:
            seen.add(term)
            operands = term.operands
            if operands:
                started.append(term)
                stack += (None, *operands[::-1])
            else:
                order.append(term)
    return order
