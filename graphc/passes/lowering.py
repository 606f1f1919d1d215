"""How the values of a graph become pieces: each that is worth computing once is ``slot[index] =
term``. ``graphc.passes.lower`` is the pass; ``lower_control`` has what is no part of a kernel.

An op's own lowering rule writes the term; its inputs are loads, or the terms of values that are
written in place:

    y = exp(permute(x))          ->  y[i, j] = exp(load x[j, i])
    z = where(iota < 3, a, 0.0)  ->  z[i] = where(i < 3, load a[i], 0.0)

What is written in place is decided by what a value's term turned out to be, never by an op's name:
a load with another index, a constant, a function of axes alone, a cast of one narrow load, or a few
operations on a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field

from graphc.errors import GraphcError, VerifyError
from graphc.graph import STATES, Graph, Node, Value
from graphc.kernel.terms import Apply, AxisIndex, Const, Contract, Load, Reduction, Scan, Term
from graphc.op import OPS, Access
from graphc.passes.digits import undone
from graphc.passes.naming import readable
from graphc.passes.pieces import Control, Inline, Piece, Program, Slot, Step, reach, work_of
from graphc.passes.term_table import Substitution, TermTable
from graphc.records import dataclass
from graphc.types import DTYPES, DType, Extent, TensorType, bool_, float32

__all__ = ["Context", "Lowering", "Space", "masked"]

#: additions an element that a function of axes alone, or of scalars, may cost and still be written
#: in place
_CHEAP_WITHOUT_LOADS, _CHEAP_SCALAR = 8, 2
#: the same for what reads one element of an argument or state, which is in memory in any case
_CHEAP_OF_INPUT = 2
#: branches of a concatenation that are still written in place
_BRANCHES = 4


@dataclass
class Space:
    """What a program and the bodies in it have in common: names of slots and axes, terms, and what
    lowers a loop, branch or routine of a lowering.
    """

    control: Callable[[Lowering, Node], None]
    table: TermTable = field(default_factory=TermTable)
    slots: dict[str, Slot] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    axes: int = 0
    check_nan: bool = False

    def slot(self, name: str, type_: TensorType, kind: str, origin: Node) -> Slot:
        """A new slot."""
        key = f"s{len(self.slots)}"
        data = origin.attrs["data"].array if kind == "constant" else None
        slot = self.slots[key] = Slot(key, name, type_, kind, origin, data)
        return slot


class Lowering:
    """Lowers one graph: ``where`` says what holds each value so far."""

    def __init__(self, graph: Graph, space: Space) -> None:
        self.graph, self.space = graph, space
        self.table, self.slots = space.table, space.slots
        self.arguments: list[Slot] = []
        self.pieces: list[Piece] = []
        self.where: dict[Value, Slot | Inline] = {}
        self.made: set[str] = set()  # keys of the slots that loops and branches here leave
        self._states: dict[int, Slot] = {}
        self._stored: dict[Value, Slot] = {}
        self._results = frozenset(graph.results)
        self._new = {new: state for state, new in graph.updates}

    def run(self) -> None:
        """Lower every node whose value is not given."""
        for node in self.graph.nodes:
            if not all(v in self.where for v in node.outputs):
                self._node(node)

    def program(
        self,
        outputs: tuple[Slot, ...],
        updates: tuple[tuple[Slot, Slot], ...] = (),
        stacked: tuple[Slot, ...] = (),
    ) -> Program:
        """The pieces that results need."""
        keys = {slot.key for slot in (*outputs, *stacked, *(new for _, new in updates))}
        kept = []
        for piece in reversed(self.pieces):
            if piece.slot.key in keys:
                kept.append(piece)
                keys.update(load.tensor for load in piece.loads)
        kept.reverse()
        arguments = tuple(self.arguments)
        return Program(
            arguments, tuple(kept), outputs, updates, self.slots, stacked, self.space.steps
        )

    # ---- slots

    def slot(self, value: Value, kind: str) -> Slot:
        """A new slot for ``value``."""
        return self.space.slot(self._name(value), value.type, kind, value.node)

    def _name(self, value: Value) -> str:
        """What it is called in kernels; a new value of a state as the state."""
        state = self._new.get(value)
        if state is not None and not value.name:
            return f"new_{readable(state)}"
        block = value.node.block
        users = self.graph.uses.get(value, ())
        inside = value not in self._results and all(n.block.startswith(block) for n, _ in users)
        return readable(value, inside=inside)

    def slot_of_state(self, state: Value) -> Slot:
        """The slot of a parameter's or state's memory."""
        found = self._states.get(id(state.node.attrs["state"]))
        if found is None:
            found = self.slot(state, "state")
            self._states[id(state.node.attrs["state"])] = found
        return found

    def stored(self, value: Value) -> Slot:
        """The computed slot of a result of the graph; what has none, or is another's memory, is
        copied.
        """
        where = self.where[value]
        made = isinstance(where, Slot) and where.key in self.made
        if isinstance(where, Slot) and (where.kind == "computed" or made):
            return where
        if value not in self._stored:
            context = Context(self)
            index, term = self._turned(value, context) or self._copied(value, context)
            slot = self.slot(value, "computed")
            self._stored[value] = slot
            nodes = where.nodes if isinstance(where, Inline) else (value.node,)
            self.piece(slot, index, term, context, value.node, nodes)
        return self._stored[value]

    def _copied(self, value: Value, context: Context) -> tuple[tuple[Term, ...], Term]:
        index = self.axes(value, context)
        return index, self.table.share(self.access(value, context)(index))

    def _turned(self, value: Value, context: Context) -> tuple[tuple[Term, ...], Term] | None:
        """A copy whose store, not its load, has the moved index: so it can be an epilogue.

        y[t, c] = load x[c // 4, t, c % 4]   ->   y[t, 4*h + d] = load x[h, t, d]
        """
        where = self.where[value]
        if not isinstance(where, Inline) or not isinstance(where.term, Load):
            return None
        load = where.term
        source = self.slots[load.tensor]
        if load.pred is not None or source.kind != "computed":
            return None
        axes = tuple(
            self.table.const(0) if extent == 1 else context.axis(extent, hint)
            for extent, hint in zip(source.type.shape, _hints(source.type.ndim), strict=True)
        )
        digits = zip(load.index, axes, source.type.shape, strict=True)
        index = undone(self.table, where.index, value.shape, list(digits))
        if index is None:
            context.extents.clear()
            return None
        return index, self.table.load(source.key, axes, source.type.dtype)

    # ---- nodes

    def _node(self, node: Node) -> None:
        if node.op == "constant":
            self._constant(node.outputs[0])
        elif node.op in STATES:
            self.where[node.outputs[0]] = self.slot_of_state(node.outputs[0])
        elif node.op == "read":
            self.where[node.outputs[0]] = self.where[node.inputs[0]]
        elif node.op in OPS and OPS[node.op].kind in ("region", "routine"):
            self.space.control(self, node)
        else:
            for output, value in enumerate(node.outputs):
                self._result(node, output, value)

    def _constant(self, value: Value) -> None:
        array = value.node.attrs["data"].array
        if array.size != 1:
            self.where[value] = self.slot(value, "constant")
            return
        term = self.table.const(array.reshape(()).item(), value.dtype)
        self.where[value] = Inline(tuple(self.table.const(0) for _ in value.shape), term)

    def _result(self, node: Node, output: int, value: Value) -> None:
        op = OPS.get(node.op)
        if op is None or op.lower is None:
            raise VerifyError(
                f"{node.op}: no kernel computes it, and no pass resolved it", node.source
            )
        context = Context(self)
        index = self.axes(value, context)
        inputs = [self.access(v, context) for v in node.inputs]
        try:
            term = self.table.share(op.lower(context, node, inputs, index, output))
        except GraphcError as error:
            raise (error if error.source else type(error)(error.message, node.source)) from error
        if term.dtype != value.dtype:
            raise VerifyError(f"{node.op}: lowered to {term.dtype}, not {value.dtype}", node.source)
        if not context.checks and self._in_place(term, value):
            self.where[value] = Inline(index, term, (*context.nodes, node))
            return
        slot = self.slot(value, "computed")
        self.where[value] = slot
        self.piece(slot, index, term, context, node, (*context.nodes, node))

    def piece(
        self,
        slot: Slot,
        index: tuple[Term, ...],
        term: Term,
        context: Context,
        node: Node,
        nodes: tuple[Node, ...],
        control: Control | None = None,
    ) -> None:
        """Add ``slot[index] = term``."""
        if self.space.check_nan and term.dtype.is_float and control is None:
            same = self.table.apply("==", (term, term), bool_)
            who = f"{node.op} '{slot.name}'" if slot.name != node.op else node.op
            context.checks.append((same, f"{who} made a NaN"))
        unique = tuple(sorted(dict.fromkeys(nodes), key=lambda n: n.serial))
        self.pieces.append(
            Piece(
                slot,
                index,
                term,
                context.extents,
                len(self.pieces),
                tuple(context.checks),
                node.source,
                node.block,
                unique,
                control,
            )
        )

    def context(self) -> Context:
        """For one more piece."""
        return Context(self)

    def inside(self, body: Graph) -> Lowering:
        """The lowering of a body of this graph."""
        return Lowering(body, self.space)

    def axes(self, value: Value, context: Context) -> tuple[Term, ...]:
        """A fresh axis for each dimension; 0 where the extent is 1."""
        return tuple(
            self.table.const(0) if extent == 1 else context.axis(extent, hint)
            for extent, hint in zip(value.shape, _hints(len(value.shape)), strict=True)
        )

    def fresh_axis(self, extent: Extent, hint: str) -> AxisIndex:
        self.space.axes += 1
        # set apart: hints end with digits, and i1 the 2nd is not i the 12th
        axis = self.table.axis(f"{hint}_{self.space.axes}", extent)
        assert isinstance(axis, AxisIndex)
        return axis

    # ---- reading inputs

    def access(self, value: Value, context: Context) -> Access:
        """The value at index terms: a load of its slot, or its term written in place."""
        where = self.where[value]

        def load(index: tuple[Term, ...]) -> Term:
            shared = self._index(index, value)
            if isinstance(where, Slot):
                return self.table.load(where.key, shared, where.type.dtype)
            context.nodes.extend(where.nodes)
            pairs = zip(where.index, shared, strict=True)
            axes = {own.axis: to for own, to in pairs if isinstance(own, AxisIndex)}
            return self.table.substitute(where.term, Substitution(axes))

        return load

    def _index(self, index: tuple[Term, ...], value: Value) -> tuple[Term, ...]:
        zero = self.table.const(0)
        return tuple(
            zero if extent == 1 else self.table.share(i)
            for i, extent in zip(index, value.shape, strict=True)
        )

    # ---- what is written in place

    def _in_place(self, term: Term, value: Value) -> bool:
        terms = reach((term,))
        if any(isinstance(t, Reduction | Contract | Scan) for t in terms):
            return False
        loads = [t for t in terms if isinstance(t, Load)]
        if not loads:
            return work_of(term) <= _CHEAP_WITHOUT_LOADS
        if not term.axes and not value.shape:
            return work_of(term) <= _CHEAP_SCALAR
        if len(loads) == 1 and _is_cast(term) and loads[0].dtype.itemsize <= term.dtype.itemsize:
            return True
        if len(loads) == 1 and self.slots[loads[0].tensor].kind != "computed":
            return work_of(term) <= _CHEAP_OF_INPUT
        return _branches(term) <= _BRANCHES


def _is_cast(term: Term) -> bool:
    return isinstance(term, Apply) and term.op in DTYPES and isinstance(term.args[0], Load)


def _branches(term: Term) -> int:
    """How many loads and constants ``where``s choose from by index alone; many where anything else
    is computed.
    """
    if isinstance(term, Load | Const):
        return 1
    if isinstance(term, Apply) and term.op == "where":
        pred, yes, no = term.args
        if not any(isinstance(t, Load) for t in reach((pred,))):
            return _branches(yes) + _branches(no)
    return _BRANCHES + 1


@dataclass(eq=False)
class Context:
    """``graphc.op.LowerContext`` for one piece."""

    lowering: Lowering
    extents: dict[str, Extent] = field(default_factory=dict)
    checks: list[tuple[Term, str]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def axis(self, extent: Extent, hint: str = "k") -> Term:
        axis = self.lowering.fresh_axis(extent, hint)
        self.extents[axis.axis] = extent
        return axis

    def check(self, pred: Term, message: str) -> None:
        self.checks.append((self.lowering.table.share(pred), message))

    def scalar(self, value: bool | int | float | Extent, dtype: DType | None = None) -> Term:
        table = self.lowering.table
        if isinstance(value, bool):
            return table.const(value, dtype or bool_)
        if isinstance(value, float):
            return table.const(value, dtype or float32)
        if isinstance(value, int) and dtype is not None:
            return table.const(value, dtype)
        return table.size(value)

    def masked(self, access: Access, index: tuple[Term, ...], pred: Term, fill: Term) -> Term:
        table = self.lowering.table
        return masked(table, table.share(access(index)), table.share(pred), table.share(fill))


def masked(table: TermTable, term: Term, pred: Term, fill: Term) -> Term:
    """``term`` where ``pred``, else ``fill``; no load in it happens where ``pred`` is false.

    load x[i - 2]       ->  load x[i - 2] if i >= 2 else 0.0
    load x[load n[i-2]] ->  load x[load n[i-2] if i >= 2] if i >= 2 else 0.0
    """
    if isinstance(pred, Const):
        return term if pred.value else fill
    guarded = Substitution(guard=pred)
    if isinstance(term, Load) and term.pred is None and term.fill is None:
        index = tuple(table.substitute(t, guarded) for t in term.index)  # they may be loads too
        return table.load(term.tensor, index, term.dtype, pred, fill)
    return table.where(pred, table.substitute(term, guarded), fill)


_LETTERS = ("i", "j", "k", "l", "m", "n")


def _hints(rank: int) -> Sequence[str]:
    return _LETTERS[:rank] if rank <= len(_LETTERS) else [f"d{n}_" for n in range(rank)]
