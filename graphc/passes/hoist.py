"""Products that a loop repeats leave it: many small ones become one large one.

::

    before  contract(x[t], w)               ->  contract(xs, w) for all t; the loop reads its slices
    behind  sum += contract(d[t], h[t])     ->  the loop stacks ds; contract(ds, hs) sums over t too
            ys[t] = contract(d[t], w)       ->  the loop stacks ds; contract(ds, w) for all t

What depends on no carry can run before the loop for all iterations at once, by the batching rules
of its ops; what no iteration needs can run behind it. A recurrent network keeps the one product
per step that is recurrent, and its weights' gradients are single products over all steps. Sums
over iterations are taken in another order than the loop's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from typing import Any

from graphc.contraction import ContractSpec, axis
from graphc.graph import Graph, Node, Value, ancestors, apply, apply_all, clone, rebuild
from graphc.op import OPS, Lanes
from graphc.ops.loop import argument
from graphc.records import dataclass
from graphc.types import Extent, int64

__all__ = ["hoist"]

#: bytes that a value of all iterations may take
LIMIT = 1 << 28
#: what a size that is bound at the call counts as
_ASSUMED = 64
#: ops that only move elements: they follow what they move
_MOVES = frozenset({"permute", "reshape", "broadcast", "slice", "flip"})


def hoist(graph: Graph) -> Graph:
    """``graph`` with products moved out of its loops, inner loops first."""
    return rebuild(graph, _hoisted)


def _hoisted(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    attrs = {k: hoist(v) if isinstance(v, Graph) else v for k, v in node.attrs.items()}
    bodies = [(v, attrs[k]) for k, v in node.attrs.items() if isinstance(v, Graph)]
    same = all(_identical(old.outputs, new.outputs) for old, new in bodies)
    if node.op != "loop":
        return None if same else clone(node, inputs, attrs).outputs
    loop = _parts(attrs, inputs)
    ahead = _ahead(loop)
    behind = _behind(ahead.loop)
    if same and not ahead.found and not behind:
        return None
    return _assembled(ahead, behind)


def _identical(a: Sequence[Value], b: Sequence[Value]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


# ---- a loop in parts


@dataclass(frozen=True, eq=False)
class _Carry:
    argument: Value
    start: Value
    after: Value


@dataclass(frozen=True, eq=False)
class _Loop:
    """A loop node's body and operands. ``slices`` and ``captures`` map the body's arguments to the
    values outside.
    """

    index: Value
    carries: tuple[_Carry, ...]
    slices: dict[Value, Value]
    captures: dict[Value, Value]
    ys: tuple[Value, ...]
    length: Extent
    reverse: bool

    @property
    def results(self) -> tuple[Value, ...]:
        return (*(c.after for c in self.carries), *self.ys)

    def graph(self) -> Graph:
        """The body."""
        arguments = [c.argument for c in self.carries]
        return Graph((self.index, *arguments, *self.slices, *self.captures), self.results)

    def make(self) -> tuple[Value, ...]:
        """The loop as a node, without the operands that its body does not read."""
        read = set(ancestors(self.results))
        slices = {a: v for a, v in self.slices.items() if a.node in read}
        captures = {a: v for a, v in self.captures.items() if a.node in read}
        return apply_all(
            "loop",
            *(c.start for c in self.carries),
            *slices.values(),
            *captures.values(),
            body=replace(self, slices=slices, captures=captures).graph(),
            carries=len(self.carries),
            scanned=len(slices),
            length=self.length,
            reverse=self.reverse,
        )


def _parts(attrs: dict[str, Any], inputs: tuple[Value, ...]) -> _Loop:
    body, count, scanned = attrs["body"], attrs["carries"], attrs["scanned"]
    arguments = body.inputs[1:]
    triples = zip(arguments[:count], inputs[:count], body.outputs[:count], strict=True)
    middle = count + scanned
    return _Loop(
        body.inputs[0],
        tuple(_Carry(*triple) for triple in triples),
        dict(zip(arguments[count:middle], inputs[count:middle], strict=True)),
        dict(zip(arguments[middle:], inputs[middle:], strict=True)),
        body.outputs[count:],
        attrs["length"],
        attrs["reverse"],
    )


@dataclass
class _Outside:
    """Values of the body for all iterations at once, outside of it.

    ``lanes`` have the iterations as axis 0, ``plain`` are the same in all of them.
    """

    length: Extent
    lanes: dict[Value, Value] = field(default_factory=dict)
    plain: dict[Value, Value] = field(default_factory=dict)

    @staticmethod
    def of(loop: _Loop) -> _Outside:
        """What is there without computing."""
        return _Outside(loop.length, dict(loop.slices), dict(loop.captures))

    def value(self, of: Value) -> Value:
        """``of`` outside, computed by its ops' batching rules from what is there."""
        stack = [of]
        while stack:
            missing = [v for v in stack[-1].node.inputs if not self._is_there(v)]
            if self._is_there(stack[-1]):
                stack.pop()
            elif missing:
                stack.extend(missing)
            else:
                self._compute(stack.pop().node)
        return self.lanes.get(of, self.plain.get(of, of))

    def _is_there(self, value: Value) -> bool:
        return value in self.lanes or value in self.plain or not value.node.inputs

    def _compute(self, node: Node) -> None:
        has = tuple(v in self.lanes for v in node.inputs)
        inputs = tuple(self.lanes.get(v, self.plain.get(v, v)) for v in node.inputs)
        if not any(has):
            new = node if _identical(inputs, node.inputs) else clone(node, inputs)
            self.plain.update(zip(node.outputs, new.outputs, strict=True))
            return
        rule = OPS[node.op].batch
        assert rule is not None
        results = rule(node, inputs, Lanes(self.length, has, _no_bodies))
        self.lanes.update(zip(node.outputs, results, strict=True))


def _no_bodies(*_: object) -> Any:
    raise AssertionError("what has a body stays in the loop")


# ---- before the loop


@dataclass(frozen=True, eq=False)
class _Ahead:
    """The loop that is left, and the ys that need no loop, by their places."""

    loop: _Loop
    ys: dict[int, Value]
    found: bool


def _ahead(loop: _Loop) -> _Ahead:
    body = loop.graph()
    late = _reached(body.nodes, [c.argument for c in loop.carries])
    heavy = _reached(body.nodes, [v for n in body.nodes if n.op == "contract" for v in n.outputs])
    free = [n for n in body.nodes if n.inputs and not late & set(n.outputs) and _can_leave(n)]
    fixed = _reached(body.nodes, [v for n in body.nodes if n not in free for v in _made(n)])
    results = set(loop.results)
    wanted = [
        v
        for n in free
        for v in n.outputs
        if v in heavy and v not in fixed and _nbytes(v, loop.length) <= LIMIT
        if v in results or any(set(u.outputs) & late for u, _ in body.uses.get(v, ()))
    ]
    if not wanted:
        return _Ahead(loop, {}, found=False)
    outside = _Outside.of(loop)
    if any(loop.index.node in ancestors([v]) for v in wanted):
        index = apply("iota", shape=(loop.length,), axis=0, dtype=int64)
        outside.lanes[loop.index] = index
    made = {v: outside.value(v) for v in wanted}
    slices, captures, replaced = dict(loop.slices), dict(loop.captures), {}
    for value, new in made.items():
        replaced[value] = argument(value.type, value.name)
        (slices if value in outside.lanes else captures)[replaced[value]] = new
    ys = {n: made[y] for n, y in enumerate(loop.ys) if y in made and y in outside.lanes}
    kept = [y for n, y in enumerate(loop.ys) if n not in ys]
    inner = _substituted([*(c.after for c in loop.carries), *kept], replaced)
    carries = tuple(replace(c, after=v) for c, v in zip(loop.carries, inner, strict=False))
    left = replace(
        loop, carries=carries, slices=slices, captures=captures, ys=tuple(inner[len(carries) :])
    )
    return _Ahead(left, ys, found=True)


def _made(node: Node) -> tuple[Value, ...]:
    """A computing node's outputs; arguments and constants are there anywhere."""
    return node.outputs if node.inputs else ()


def _can_leave(node: Node) -> bool:
    has_body = any(isinstance(v, Graph) for v in node.attrs.values())
    return OPS[node.op].batch is not None and not has_body


def _reached(nodes: Iterable[Node], start: Sequence[Value]) -> set[Value]:
    """``start`` and what depends on it."""
    found = set(start)
    for node in nodes:
        if any(v in found for v in node.inputs):
            found.update(node.outputs)
    return found


def _substituted(outputs: Sequence[Value], replaced: dict[Value, Value]) -> list[Value]:
    """``outputs`` with inner values replaced by others."""
    stands = dict(replaced)
    for node in ancestors(outputs):
        if all(v in replaced for v in node.outputs):
            continue
        inputs = tuple(stands.get(v, v) for v in node.inputs)
        if not _identical(inputs, node.inputs):
            stands.update(zip(node.outputs, clone(node, inputs).outputs, strict=True))
    return [stands.get(v, v) for v in outputs]


def _nbytes(value: Value, length: Extent = 1) -> int:
    extents = [e if isinstance(e, int) else _ASSUMED for e in (length, *value.shape)]
    return math.prod(extents) * value.dtype.itemsize


# ---- behind the loop


@dataclass(frozen=True, eq=False)
class _Behind:
    """A carry or a y that is computed when the loop is over: a product, or a sum of elements.

    ``place`` counts carries, then ys.
    """

    place: int
    node: Node
    sums: bool
    roots: tuple[Value, ...]  # of the body, to stack


def _behind(loop: _Loop) -> list[_Behind]:
    body = loop.graph()
    found: list[_Behind] = []
    for place, value in enumerate(loop.results):
        sums = place < len(loop.carries)
        term = _summand(loop.carries[place], body, loop) if sums else _only_result(value, body)
        if term is None or not _is_large(term.node):
            continue
        roots = _roots(term.node.inputs, loop)
        new = set(roots).difference(*(b.roots for b in found))
        if sum(_nbytes(v, loop.length) for v in new) <= LIMIT:
            found.append(_Behind(place, term.node, sums, roots))
    return found


def _summand(carry: _Carry, body: Graph, loop: _Loop) -> Value | None:
    """``f`` of a carry ``c`` that becomes ``c + f`` and is used for nothing else."""
    node = carry.after.node
    uses = body.uses.get(carry.argument, ())
    alone = len(uses) == 1 and uses[0][0] is node and carry.argument not in set(loop.results)
    if node.op != "+" or not alone or len(body.uses.get(carry.after, ())):
        return None
    if sum(v is carry.after for v in loop.results) != 1:
        return None
    return node.inputs[1 - uses[0][1]]


def _only_result(value: Value, body: Graph) -> Value | None:
    """A y that nothing in the body reads."""
    once = sum(v is value for v in body.outputs) == 1
    return value if once and not body.uses.get(value) else None


def _is_large(node: Node) -> bool:
    """A product, or a sum: both take one more axis to sum over."""
    return node.op == "contract" or (node.op == "reduce" and node.attrs["monoid"] == "sum")


def _roots(values: Iterable[Value], loop: _Loop) -> tuple[Value, ...]:
    """What the loop must stack so that values can be had outside: what moves follows."""
    varying = {loop.index, *(c.argument for c in loop.carries)}
    roots: dict[Value, None] = {}
    stack = list(values)
    while stack:
        value = stack.pop()
        if value.node.op in _MOVES:
            stack.extend(value.node.inputs)
        elif value in varying or value.node.inputs:
            roots[value] = None
    return tuple(roots)


def _assembled(ahead: _Ahead, behind: Sequence[_Behind]) -> list[Value]:
    """The results of the first loop, from the one that is left and what stands around it."""
    loop, count = ahead.loop, len(ahead.loop.carries)
    gone = {b.place for b in behind}
    carries = [n for n in range(count) if n not in gone]
    ys = [n for n in range(len(loop.ys)) if count + n not in gone]
    stacked = list(dict.fromkeys(v for b in behind for v in b.roots))
    left = replace(
        loop,
        carries=tuple(loop.carries[n] for n in carries),
        ys=(*(loop.ys[n] for n in ys), *stacked),
    )
    out = left.make()
    found = dict(zip(carries, out, strict=False))
    found |= {count + n: v for n, v in zip(ys, out[len(carries) :], strict=False)}
    outside = _Outside.of(loop)
    outside.lanes |= dict(zip(stacked, out[len(carries) + len(ys) :], strict=True))
    for part in behind:
        found[part.place] = _finished(part, loop, outside)
    results = [found[n] for n in range(count)]
    rest = iter(found[count + n] for n in range(len(loop.ys)))
    total = len(loop.ys) + len(ahead.ys)
    return results + [ahead.ys[n] if n in ahead.ys else next(rest) for n in range(total)]


def _finished(part: _Behind, loop: _Loop, outside: _Outside) -> Value:
    inputs = [outside.value(v) for v in part.node.inputs]
    has = tuple(v in outside.lanes for v in part.node.inputs)
    if not part.sums:
        rule = OPS[part.node.op].batch
        assert rule is not None
        return rule(part.node, inputs, Lanes(loop.length, has, _no_bodies))[0]
    start = loop.carries[part.place].start
    if part.node.op == "reduce":
        axes = (0, *(a + 1 for a in part.node.attrs["axes"]))
        return start + apply("reduce", inputs[0], monoid="sum", axes=axes)
    return start + apply("contract", *inputs, spec=_summed(part.node.attrs["spec"], has, loop))


def _summed(spec: ContractSpec, has: Sequence[bool], loop: _Loop) -> ContractSpec:
    """One more axis to sum over, which the operands that have lanes are read along."""
    name = "step"
    while name in spec.extents:
        name += "s"
    step = (axis(name),)
    return replace(
        spec,
        reduced=((name, loop.length), *spec.reduced),
        a_index=(*step, *spec.a_index) if has[0] else spec.a_index,
        b_index=(*step, *spec.b_index) if has[1] else spec.b_index,
    )
