"""Forward values that the backward pass computes again, where memory is short.

::

    forward  a -> b -> c -> d                        forward  a -> b -> c -> d
    backward reads a, b, c, d        keep a, c:      backward reads a, b', c, d'
                                                     b' = b of a, d' = d of c, right before they
                                                     are read

What is kept decides everything: the rest of what the backward pass reads is computed again from it.
The choices, the one with the least work first:

- **cut**: a minimum cut between the arguments and the backward pass, capacities in bytes; nothing
  that costs much for each byte it makes (a large product, a loop) is computed again;
- **segments and a cut**: the forward pass in 4, 8, 16... parts, each ending where few bytes cross;
  what crosses is kept too, so that no chain is computed again from its very start;
- **segments**: all inside a part is computed again, products too, but for the last part (Chen et
  al. 2016).

Above ``CUT_LIMIT`` forward values a cut takes too long, and there are only the segments.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

from graphc.contraction import ContractSpec
from graphc.graph import Graph, Node, Value, copy_with_types
from graphc.ops.sizes import product
from graphc.records import dataclass

__all__ = ["recomputations"]

#: forward values up to which a minimum cut is tried
CUT_LIMIT = 4000
#: operations for each element read or written that are too many to do twice in a cut
DEAR = 16
_PARTS = (4, 8, 16, 32, 64, 128)


def recomputations(graph: Graph) -> Iterator[Graph]:
    """``graph`` (its sizes bound) with more and more computed again; none where nothing can be."""
    forward = _forward(graph)
    if not forward.wanted:
        return
    tried: set[frozenset[Value]] = set()
    for kept in _choices(forward):
        again = _cone(forward, kept)
        if again and again not in tried:
            tried.add(again)
            yield _rewritten(graph, forward, again)


# ---- what is forward, and what the backward pass reads of it


@dataclass
class _Forward:
    """Forward nodes in program order; ``wanted`` are their values that the backward pass reads."""

    nodes: list[Node] = field(default_factory=list)
    values: dict[Value, None] = field(default_factory=dict)
    wanted: dict[Value, None] = field(default_factory=dict)
    late: set[Node] = field(default_factory=set)


def _forward(graph: Graph) -> _Forward:
    found = _Forward()
    for node in graph.nodes:
        follows = any(v.node in found.late for v in node.inputs)
        if follows or node.again or node.primal is not None:
            found.late.add(node)
            if node.primal is not None:
                found.wanted.update((v, None) for v in node.inputs if v in found.values)
        elif node.inputs:
            found.nodes.append(node)
            found.values.update((v, None) for v in node.outputs)
    return found


def _bytes(value: Value) -> int:
    size = value.type.nbytes
    assert isinstance(size, int)  # sizes are bound
    return size


def _operations(node: Node) -> int:
    """What a node costs, roughly: every point of a contraction, every element read or written."""
    spec = node.attrs.get("spec")
    if isinstance(spec, ContractSpec):
        return _int(product(list(spec.extents.values())))
    return _elements(node)


def _elements(node: Node) -> int:
    return sum(_int(v.type.elements) for v in (*node.inputs, *node.outputs))


def _int(extent: Any) -> int:
    assert isinstance(extent, int)
    return extent


def _is_region(node: Node) -> bool:
    return any(isinstance(value, Graph) for value in node.attrs.values())


# ---- what is kept


def _choices(forward: _Forward) -> Iterator[set[Value]]:
    """Sets of kept values, the one with the least work to repeat first."""
    small = len(forward.values) <= CUT_LIMIT
    if small:
        yield _minimum_cut(forward, set())
    sizes = list(itertools.takewhile(lambda n: n <= 2 * len(forward.wanted), _PARTS))
    between = [_between_segments(forward, parts) for parts in sizes]
    if small:
        for kept in between:
            yield kept | _minimum_cut(forward, kept)
    yield from between


def _minimum_cut(forward: _Forward, kept: set[Value]) -> set[Value]:
    """The fewest bytes from which, and from the arguments and the kept values, all that is wanted
    follows by cheap operations.
    """
    # a value is an edge from 2n to 2n + 1: cutting it is keeping it
    number = {v: 2 * n for n, v in enumerate(forward.values)}
    import networkx  # heavy, and only programs with a budget need it

    flow: networkx.DiGraph[Any] = networkx.DiGraph()
    flow.add_nodes_from(("start", "end"))
    for node in forward.nodes:
        sources = [] if _is_dear(node) else [v for v in node.inputs if v in number]
        for value in node.outputs:
            capacity = 0 if value in kept else _bytes(value) + 1
            flow.add_edge(number[value], number[value] + 1, capacity=capacity)
            if not sources and _is_dear(node):
                flow.add_edge("start", number[value])
            flow.add_edges_from((number[v] + 1, number[value]) for v in sources)
    flow.add_edges_from((number[v] + 1, "end") for v in forward.wanted)
    _, (reached, _) = networkx.minimum_cut(flow, "start", "end")
    return {v for v, n in number.items() if n in reached and n + 1 not in reached}


def _is_dear(node: Node) -> bool:
    return _is_region(node) or _operations(node) > DEAR * _elements(node)


def _between_segments(forward: _Forward, parts: int) -> set[Value]:
    """What crosses from a part of the forward pass to a later one, and all of the last part."""
    borders = _borders(forward, parts)
    part = {
        v: bisect.bisect_right(borders, place)
        for place, node in enumerate(forward.nodes)
        for v in node.outputs
    }
    last = max(part.values())
    kept = {v for v, here in part.items() if here == last or _is_region(v.node)}
    for node in forward.nodes:
        here = part[node.outputs[0]]
        kept.update(v for v in node.inputs if v in part and part[v] != here)
    return kept


def _borders(forward: _Forward, parts: int) -> list[int]:
    """Places in the forward pass that cut the wanted bytes evenly, each where the least crosses."""
    crossing, before = _crossing(forward), _wanted_before(forward)
    total = before[-1]
    found: set[int] = set()
    for n in range(1, parts):
        first, middle, end = (
            bisect.bisect_left(before, total * (2 * n + side) // (2 * parts)) for side in (-1, 0, 1)
        )
        window = range(max(1, first), max(first, end) + 1)
        inside = [p for p in window if p < len(forward.nodes)]
        if inside:
            found.add(min(inside, key=lambda p: (crossing[p], abs(p - middle))))
    return sorted(found)


def _crossing(forward: _Forward) -> list[int]:
    """Bytes made before each place that a forward node at it or later reads."""
    place = {node: n for n, node in enumerate(forward.nodes)}
    change = [0] * (len(forward.nodes) + 1)
    ends: dict[Value, int] = {}
    for n, node in enumerate(forward.nodes):
        ends.update((v, n) for v in node.inputs if v in forward.values)
    for value, end in ends.items():
        change[place[value.node] + 1] += _bytes(value)
        change[end + 1] -= _bytes(value)
    return list(itertools.accumulate(change))


def _wanted_before(forward: _Forward) -> list[int]:
    """Bytes of wanted values made before each place."""
    sizes = (sum(_bytes(v) for v in n.outputs if v in forward.wanted) for n in forward.nodes)
    return list(itertools.accumulate(sizes, initial=0))


def _cone(forward: _Forward, kept: set[Value]) -> frozenset[Value]:
    """What is computed again: all that is wanted and not kept, and what that needs, up to the
    kept.
    """
    found: set[Value] = set()
    stack = [v for v in forward.wanted if v not in kept]
    while stack:
        value = stack.pop()
        if value not in found:
            found.add(value)
            stack.extend(v for v in value.node.inputs if v in forward.values and v not in kept)
    return frozenset(found)


# ---- the rewritten graph


def _rewritten(graph: Graph, forward: _Forward, again: frozenset[Value]) -> Graph:
    """Each value of ``again`` made a second time, before the first late node that reads it."""
    replaced: dict[Value, Value] = {}
    moved: dict[Node, Node] = {}
    repeated: dict[Value, Value] = {}
    for node in graph.nodes:
        if node not in forward.late:
            continue
        inputs = tuple(replaced.get(v, v) for v in node.inputs)
        if node.primal is not None:
            _repeat(inputs, again, repeated)
            inputs = tuple(repeated.get(v, v) for v in inputs)
        new = copy_with_types(node, inputs, node.attrs, node.types, moved=moved)
        moved[node] = new
        replaced.update(zip(node.outputs, new.outputs, strict=True))
    outputs = tuple(replaced.get(v, v) for v in graph.outputs)
    updates = tuple((state, replaced.get(v, v)) for state, v in graph.updates)
    return Graph(graph.inputs, outputs, updates)


def _repeat(
    values: Sequence[Value], again: frozenset[Value], repeated: dict[Value, Value]
) -> None:
    """Make the copies that ``values`` need and that are not there yet, in program order."""
    needed: set[Node] = set()
    stack = [v.node for v in values if v in again and v not in repeated]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(v.node for v in node.inputs if v in again and v not in repeated)
    for node in sorted(needed, key=lambda n: n.serial):
        inputs = tuple(repeated.get(v, v) for v in node.inputs)
        copied = copy_with_types(node, inputs, node.attrs, node.types, again=1)
        repeated.update(zip(node.outputs, copied.outputs, strict=True))
