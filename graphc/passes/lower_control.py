"""Loops, branches and routines: what is no part of a kernel.

::

    loop(carry, xs, captures; body)   ->  carry slots, copied from the first values; the body reads
                                          xs[step], writes ys[step], and the carries' new values
    while(carry, captures)            ->  the predicate into a cell, before and after each body
    cond(p, args; then, otherwise)    ->  p into a cell; both branches store to the same slots
    argsort(x)                        ->  a routine that reads and writes whole slots

Bodies are programs that share slots with the one around them. A body's captures are the slots
outside themselves, and its slices of xs are loads at the step: only carries have memory of their
own.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.graph import Graph, Node, Value
from graphc.kernel.terms import Load, ScalarValue, Term
from graphc.op import OPS
from graphc.passes.lowering import Lowering
from graphc.passes.pieces import Control, Inline, Program, Slot, Step, reach
from graphc.types import Extent, TensorType, bool_, int64

__all__ = ["lower_control"]


def lower_control(outer: Lowering, node: Node) -> None:
    """Lower a loop, while, cond or routine to a Control and a piece for each of its results."""
    match node.op:
        case "loop":
            control = _loop(outer, node)
        case "while":
            control = _while(outer, node)
        case "cond":
            control = _cond(outer, node)
        case _:
            control = _routine(outer, node)
    table = outer.table
    loads = tuple(table.load(s.key, (), s.type.dtype) for s in control.reads)
    for value, slot in zip(node.outputs, control.results, strict=True):
        context = outer.context()
        index = outer.axes(value, context)
        term = table.opaque(f"{node.op}{node.serial}", loads, value.dtype)
        outer.where[value] = slot
        outer.made.add(slot.key)
        outer.piece(slot, index, term, context, node, (node,), control)


def _loop(outer: Lowering, node: Node) -> Control:
    body: Graph = node.attrs["body"]
    count, scanned = node.attrs["carries"], node.attrs["scanned"]
    length: Extent = node.attrs["length"]
    carried, xs = node.inputs[:count], node.inputs[count : count + scanned]
    step = _step(outer, node, length)
    inner = outer.inside(body)
    at = _position(outer, step, length, reverse=node.attrs["reverse"])
    carries = _carries(outer, node, count)
    inner.where[body.inputs[0]] = Inline((), at)
    inner.where.update(zip(body.inputs[1:], carries, strict=False))
    reads = _given(outer, inner, body.inputs[1 + count + scanned :], node.inputs[count + scanned :])
    for argument, whole in zip(body.inputs[1 + count :], xs, strict=False):
        reads += _slice(outer, inner, argument, whole, at)
    inner.run()
    updates = _new_carries(inner, body.outputs[:count], carries)
    stacked = [
        _stack(outer, inner, value, node.outputs[count + n], at)
        for n, value in enumerate(body.outputs[count:])
    ]
    program = inner.program((), updates, tuple(stacked))
    starts = _starts(outer, carried, carries)
    return Control(
        "loop",
        node,
        _unique([*reads, *(s for s, _ in starts)]),
        (*carries, *stacked),
        starts,
        (program,),
        counter=step.slot,
        length=length,
    )


def _while(outer: Lowering, node: Node) -> Control:
    count = node.attrs["carries"]
    carries = _carries(outer, node, count)
    go = outer.space.slot("go", TensorType(bool_, ()), "cell", node)
    programs: list[Program] = []
    reads: list[Slot] = []
    for part in ("pred", "body"):
        graph: Graph = node.attrs[part]
        inner = outer.inside(graph)
        inner.where.update(zip(graph.inputs, carries, strict=False))
        reads += _given(outer, inner, graph.inputs[count:], node.inputs[count:])
        inner.run()
        if part == "pred":
            updates: tuple[tuple[Slot, Slot], ...] = ((go, inner.stored(graph.outputs[0])),)
        else:
            updates = _new_carries(inner, graph.outputs, carries)
        programs.append(inner.program((), updates))
    starts = _starts(outer, node.inputs[:count], carries)
    reads += [s for s, _ in starts]
    return Control(
        "while", node, _unique(reads), tuple(carries), starts, tuple(programs), predicate=go
    )


def _cond(outer: Lowering, node: Node) -> Control:
    go = outer.space.slot("go", TensorType(bool_, ()), "cell", node)
    choice = outer.stored(node.inputs[0])
    results = tuple(outer.slot(v, "carry") for v in node.outputs)
    programs: list[Program] = []
    reads = [choice]
    for part in ("then", "otherwise"):
        graph: Graph = node.attrs[part]
        inner = outer.inside(graph)
        reads += _given(outer, inner, graph.inputs, node.inputs[1:])
        inner.run()
        updates = tuple(
            (result, inner.stored(v)) for result, v in zip(results, graph.outputs, strict=True)
        )
        programs.append(inner.program((), updates))
    return Control(
        "cond", node, _unique(reads), results, (), tuple(programs), predicate=go, choice=choice
    )


def _routine(outer: Lowering, node: Node) -> Control:
    rule = OPS[node.op].routine
    assert rule is not None  # ops of this kind have one
    routine, sizes = rule(node)
    reads = tuple(_held(outer, v) for v in node.inputs)
    results = tuple(outer.slot(v, "carry") for v in node.outputs)
    return Control("routine", node, reads, results, (), (), routine=routine, sizes=sizes)


# ---- parts


def _step(outer: Lowering, node: Node, length: Extent) -> Step:
    name = f"step{len(outer.space.steps) or ''}"
    cell = outer.space.slot(name, TensorType(int64, ()), "cell", node)
    step = outer.space.steps[name] = Step(name, cell, length - 1)
    return step


def _position(outer: Lowering, step: Step, length: Extent, *, reverse: bool) -> Term:
    """Where in xs and ys an iteration is."""
    table = outer.table
    term = table.share(ScalarValue(dtype=int64, axes=frozenset(), name=step.name))
    if not reverse:
        return term
    return table.apply("-", (table.size(length - 1), term), int64)


def _carries(outer: Lowering, node: Node, count: int) -> list[Slot]:
    return [outer.slot(v, "carry") for v in node.outputs[:count]]


def _given(
    outer: Lowering, inner: Lowering, arguments: Sequence[Value], values: Sequence[Value]
) -> list[Slot]:
    """A body's arguments are what holds the values outside; the slots that this reads."""
    reads: list[Slot] = []
    for argument, value in zip(arguments, values, strict=True):
        where = inner.where[argument] = outer.where[value]
        reads += _slots(outer, where)
    return reads


def _slots(outer: Lowering, where: Slot | Inline) -> list[Slot]:
    if isinstance(where, Slot):
        return [where]
    return [outer.slots[t.tensor] for t in reach((where.term,)) if isinstance(t, Load)]


def _slice(outer: Lowering, inner: Lowering, argument: Value, whole: Value, at: Term) -> list[Slot]:
    """The body's slice is the whole's element at the step."""
    context = outer.context()
    index = outer.axes(argument, context)
    term = outer.table.share(outer.access(whole, context)((at, *index)))
    inner.where[argument] = Inline(index, term)
    return _slots(outer, outer.where[whole])


def _stack(outer: Lowering, inner: Lowering, element: Value, whole: Value, at: Term) -> Slot:
    """``ys[step, i] = element[i]``."""
    slot = outer.slot(whole, "carry")
    context = inner.context()
    index = inner.axes(element, context)
    term = inner.table.share(inner.access(element, context)(index))
    first = inner.table.const(0) if whole.shape[0] == 1 else at
    inner.piece(slot, (first, *index), term, context, element.node, (element.node,))
    return slot


def _new_carries(
    inner: Lowering, values: Sequence[Value], carries: Sequence[Slot]
) -> tuple[tuple[Slot, Slot], ...]:
    pairs = zip(carries, values, strict=True)
    return tuple((slot, inner.stored(v)) for slot, v in pairs if inner.where[v] is not slot)


def _starts(
    outer: Lowering, values: Sequence[Value], carries: Sequence[Slot]
) -> tuple[tuple[Slot, Slot], ...]:
    """Each carry's first value, in memory."""
    return tuple((_held(outer, v), slot) for v, slot in zip(values, carries, strict=True))


def _held(outer: Lowering, value: Value) -> Slot:
    """The slot that holds a value, which is stored where it has none."""
    where = outer.where[value]
    return where if isinstance(where, Slot) else outer.stored(value)


def _unique(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    kept = [s for s in slots if s.kind not in ("cell",)]
    return tuple(dict.fromkeys(kept))
