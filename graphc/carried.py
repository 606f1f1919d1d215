"""States that a loop's or branch's body updates, made values that go through it.

::

    body:  y = attach(f(x, read(s)), s: g(read(s)))     ->  body(x, s0) = f(x, s0), g(s0)
    after: y                                            ->  attach(y, s: what came out)

What the body reads of such a state is what was last written, in an earlier iteration too, and a
constant to derivatives, as every read is. A state that is updated in one mode only is left alone
in the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.closing import needed_nodes
from graphc.graph import Node, Value, apply, copy_with_types
from graphc.ops.loop import argument
from graphc.records import dataclass

__all__ = ["Carried", "carry_states", "either", "updated_states", "written"]

_MODES = ("train", "eval")
Modes = tuple[str, ...]


@dataclass(frozen=True)
class Carried:
    """A body without attached updates: its ``outputs``, and each state's value ``after`` it.

    ``modes`` are those in which the body updates the state.
    """

    outputs: tuple[Value, ...]
    after: tuple[Value, ...]
    modes: tuple[Modes, ...]


def updated_states(
    outputs: Sequence[Value], arguments: Iterable[Value], start: int
) -> dict[Value, Value]:
    """The states that a body made after ``start`` attaches updates to, and an argument for each.

    An update that neither depends on the body's arguments nor is computed in it is none of the
    body's: it happens once, outside.
    """
    depends = {v.node for v in arguments}
    found: dict[Value, Value] = {}
    for node in needed_nodes(outputs, since=start):
        if any(v.node in depends for v in node.inputs):
            depends.add(node)
        if node.op != "attach":
            continue
        count = len(node.inputs) // 2
        states, new = node.inputs[1 : 1 + count], node.inputs[1 + count :]
        if node in depends or any(v.node.serial > start for v in new):
            for state in states:
                found.setdefault(state, argument(state.type, state.name))
    return found


def carry_states(outputs: Sequence[Value], before: dict[Value, Value], start: int) -> Carried:
    """The body of ``outputs``, made after ``start``, with ``before`` for the values of states."""
    if not before:
        return Carried(tuple(outputs), (), ())
    work = _Rewriting(outputs, before, start)
    for node in needed_nodes(outputs, since=start):
        work.node(node)
    after = tuple(work.now(state) for state in before)
    modes = tuple(tuple(m for m in _MODES if m in work.modes[s]) for s in before)
    return Carried(tuple(work.replaced.get(v, v) for v in outputs), after, modes)


def either(one: Sequence[Modes], other: Sequence[Modes]) -> tuple[Modes, ...]:
    """The modes in which one of two branches updates each state."""
    pairs = zip(one, other, strict=True)
    return tuple(tuple(m for m in _MODES if m in (*a, *b)) for a, b in pairs)


class _Rewriting:
    def __init__(self, outputs: Sequence[Value], before: dict[Value, Value], start: int) -> None:
        self.current = {m: dict(before) for m in _MODES}
        self.needed = {m: set(needed_nodes(outputs, m, since=start)) for m in _MODES}
        self.modes: dict[Value, set[str]] = {state: set() for state in before}
        self.replaced: dict[Value, Value] = {}
        self.moved: dict[Node, Node] = {}

    def now(self, state: Value) -> Value:
        """What the state holds at this place of the body."""
        train, other = (self.current[m][state] for m in _MODES)
        return train if train is other else apply("by_mode", train, other)

    def node(self, node: Node) -> None:
        inputs = tuple(self.replaced.get(v, v) for v in node.inputs)
        if node.op == "read" and node.inputs[0] in self.modes:
            state, held = node.inputs[0], self.now(node.inputs[0])
            # a state is a constant to derivatives; a parameter's go back through what was written
            constant = state.node.op == "state"
            self._stand(node, apply("stop_gradient", held) if constant else held)
        elif node.op == "attach" and node.inputs[1] in self.modes:
            self._attach(node, inputs)
        elif node.primal in self.moved or any(
            a is not b for a, b in zip(inputs, node.inputs, strict=True)
        ):
            new = copy_with_types(node, inputs, node.attrs, node.types, moved=self.moved)
            self.moved[node] = new
            self.replaced.update(zip(node.outputs, new.outputs, strict=True))

    def _attach(self, node: Node, inputs: tuple[Value, ...]) -> None:
        count = len(inputs) // 2
        pairs = list(zip(node.inputs[1 : 1 + count], inputs[1 + count :], strict=True))
        for mode in _MODES:
            if node in self.needed[mode]:
                self.current[mode].update(pairs)
                for state, _ in pairs:
                    self.modes[state].add(mode)
        self._stand(node, inputs[0])

    def _stand(self, node: Node, value: Value) -> None:
        self.replaced[node.outputs[0]] = value
        self.moved[node] = value.node


def written(
    values: Sequence[Value],
    states: Sequence[Value],
    new: Sequence[Value],
    modes: Sequence[Modes],
) -> list[Value]:
    """``values``, each of which writes the states' new values, those of one mode in that mode."""
    found = list(values)
    for wanted in (_MODES, _MODES[:1], _MODES[1:]):
        triples = zip(states, new, modes, strict=True)
        pairs = [(state, value) for state, value, of in triples if of == wanted]
        if pairs:
            found = [_attached(v, pairs, wanted) for v in found]
    return found


def _attached(value: Value, pairs: Sequence[tuple[Value, Value]], modes: Modes) -> Value:
    states, new = zip(*pairs, strict=True)
    moved = apply("attach", value, *states, *new)
    if modes == _MODES:
        return moved
    return apply("by_mode", *((moved, value) if modes == ("train",) else (value, moved)))
