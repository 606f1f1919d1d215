"""From values to a closed, pure graph: modes chosen, reads and attached updates resolved; and dims
bound.

::

    by_mode(train, eval)     ->  the branch of the mode
    read(state)              ->  the state, or what the last attached update before it wrote
    attach(v, states, new)   ->  v, and (state, new) among the graph's updates
    mark(v)                  ->  v
    custom(x)                ->  its function's body
    remat(*ys, *xs)          ->  ys
    site()                   ->  the hash of its block's name in this graph: where a number is drawn
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from graphc.contraction import ContractSpec
from graphc.errors import BindError, StateError
from graphc.graph import (
    SOURCES,
    STATES,
    Graph,
    Node,
    Value,
    ancestors,
    check_scope,
    copy_with_types,
    inline,
)
from graphc.types import Dim, Size, TensorType, evaluate, int64

__all__ = ["bind_dims", "bind_graph", "close", "depends_on_mode", "needed_nodes", "prune_loops"]


def needed_nodes(
    roots: Sequence[Value], mode: str | None = None, *, since: int = 0
) -> list[Node]:
    """What ``roots`` need in program order, looking only into the branch that ``mode`` chooses, and
    only at nodes made after serial ``since``.

    A derivative needs its forward node: what is attached to that happens too.
    """
    seen: set[Node] = set()
    stack = [v.node for v in roots]
    while stack:
        node = stack.pop()
        if node not in seen and node.serial > since:
            seen.add(node)
            stack.extend(v.node for v in _followed(node, mode))
            if node.primal is not None:
                stack.append(node.primal)
    return sorted(seen, key=lambda n: n.serial)


def _followed(node: Node, mode: str | None) -> tuple[Value, ...]:
    if node.op == "by_mode" and mode is not None:
        return (node.inputs[0 if mode == "train" else 1],)
    if node.op == "remat":
        return node.inputs[: node.attrs["results"]]
    return node.inputs[:1] if node.op == "mark" else node.inputs


def depends_on_mode(roots: Sequence[Value]) -> bool:
    """Whether some by_mode is needed, in bodies too."""
    return any(
        node.op == "by_mode" or any(depends_on_mode(body.outputs) for body in bodies(node))
        for node in needed_nodes(roots)
    )


def bodies(node: Node) -> list[Graph]:
    """The graphs among a node's attrs: bodies of loops and branches."""
    return [value for value in node.attrs.values() if isinstance(value, Graph)]


def _close_bodies(node: Node, mode: str | None) -> dict[str, Any]:
    """The node's attrs, modes and marks of its bodies resolved."""
    attrs = dict(node.attrs)
    for key, body in attrs.items():
        if isinstance(body, Graph):
            replaced, _ = _resolve(needed_nodes(body.outputs, mode), mode)
            outputs = tuple(replaced.get(v, v) for v in body.outputs)
            attrs[key] = prune_loops(Graph(body.inputs, outputs))
    return attrs


def close(
    outputs: Sequence[Value],
    updates: Mapping[Value, Value] | Sequence[tuple[Value, Value]] = (),
    inputs: Sequence[Value] | None = None,
    *,
    mode: str | None = None,
) -> Graph:
    """The graph that computes ``outputs`` and writes ``updates``, and what is attached to what they
    need.

    ``inputs`` default to the observed values needed, in program order. With ``mode`` None,
    ``by_mode`` nodes stay. Attached updates of one state compose in program order; an optimizer's
    step of a parameter, made of what was attached to it, comes after that. Raises StateError where
    a state is otherwise updated both ways, BindError where an observed value is needed that is no
    input, ScopeError where a body's value is used outside.
    """
    explicit = list(updates.items() if isinstance(updates, Mapping) else updates)
    roots = [*outputs, *(new for _, new in explicit)]
    nodes = needed_nodes(roots, mode)
    replaced, attached = _resolve(nodes, mode)
    stepped = [(state, replaced.get(new, new)) for state, new in explicit]
    for state, new in stepped:
        if state in attached and not _goes_on(state, attached.pop(state), new):
            raise StateError(
                f"{state!r} is updated explicitly and by an attached update: keep one of them",
                state.node.source,
            )
    results = tuple(replaced.get(v, v) for v in outputs)
    written = (*attached.items(), *stepped)
    needed = ancestors([*results, *(new for _, new in written)])
    observed = [n.outputs[0] for n in needed if n.op == "observed"]
    given = tuple(observed if inputs is None else inputs)
    _check_given(observed, given)
    graph = Graph(given, results, written)
    check_scope(graph)
    return _number_sites(prune_loops(graph))


def _goes_on(state: Value, attached: Value, new: Value) -> bool:
    """Whether ``new`` is made of what the forward pass wrote into a parameter: so a step from rows
    that an embedding with ``max_norm`` has shortened keeps them short.
    """
    return state.node.op == "parameter" and attached.node in ancestors([new])


def _check_given(observed: Sequence[Value], given: Sequence[Value]) -> None:
    known = {id(v) for v in given}
    for value in observed:
        if id(value) not in known:
            raise BindError(f"{value!r} is needed and is not among the inputs", value.node.source)


def _resolve(
    nodes: Sequence[Node], mode: str | None
) -> tuple[dict[Value, Value], dict[Value, Value]]:
    """What stands for each value that changes, and the last attached value of each state."""
    replaced: dict[Value, Value] = {}
    attached: dict[Value, Value] = {}
    moved: dict[Node, Node] = {}
    for node in nodes:
        inputs = tuple(replaced.get(v, v) for v in _followed(node, mode))
        if node.op == "read":
            stands = attached.get(inputs[0], inputs[0])
        elif node.op == "attach":
            count = len(inputs) // 2
            stands = inputs[0]
            attached.update(zip(node.inputs[1 : 1 + count], inputs[1 + count :], strict=True))
        elif node.op == "custom":
            forward: Graph = _close_bodies(node, mode)["forward"]
            _stand_for(node, inline(forward, inputs), replaced, moved)
            continue
        elif node.op == "remat":
            _stand_for(node, inputs, replaced, moved)
            continue
        elif node.op == "mark" or (node.op == "by_mode" and mode is not None):
            stands = inputs[0]
        else:
            attrs = _close_bodies(node, mode) if bodies(node) else node.attrs
            _replace(node, inputs, attrs, node.types, replaced, moved)
            continue
        _stand_for(node, (stands,), replaced, moved)
    return replaced, attached


def _stand_for(
    node: Node,
    results: Sequence[Value],
    replaced: dict[Value, Value],
    moved: dict[Node, Node],
) -> None:
    """Put other values in the place of a node's results."""
    for old, new in zip(node.outputs, results, strict=True):
        replaced[old] = new
        _hand_over_name(old, new)
    if results:
        moved[node] = results[0].node


def _replace(
    node: Node,
    inputs: tuple[Value, ...],
    attrs: Mapping[str, Any],
    types: tuple[TensorType, ...],
    replaced: dict[Value, Value],
    moved: dict[Node, Node],
) -> None:
    """Put a copy in the node's place, unless nothing about it changes."""
    stays = node.op in SOURCES or node.primal not in moved  # a body's arguments are its inputs
    same = types == node.types and stays
    same = same and all(a is b for a, b in zip(inputs, node.inputs, strict=True))
    if same and all(attrs[key] is value for key, value in node.attrs.items()):
        return
    new = copy_with_types(node, inputs, attrs, types, replacing=True, moved=moved)
    moved[node] = new
    replaced.update(zip(node.outputs, new.outputs, strict=True))


def _hand_over_name(old: Value, new: Value) -> None:
    if new.name is None and new.node.op not in STATES:
        new.name = old.name


def prune_loops(graph: Graph) -> Graph:
    """Without the ys of loops that nothing reads."""
    if not any(node.op == "loop" for node in graph.nodes):
        return graph
    used = {v for node in graph.nodes for v in node.inputs} | set(graph.results)
    replaced: dict[Value, Value] = {}
    moved: dict[Node, Node] = {}
    for node in graph.nodes:
        inputs = tuple(replaced.get(v, v) for v in node.inputs)
        if node.op == "loop" and not used.issuperset(node.outputs[node.attrs["carries"] :]):
            _drop_ys(node, inputs, used, replaced, moved)
        else:
            _replace(node, inputs, node.attrs, node.types, replaced, moved)
    return _mapped(graph, replaced)


def _drop_ys(
    node: Node,
    inputs: tuple[Value, ...],
    used: set[Value],
    replaced: dict[Value, Value],
    moved: dict[Node, Node],
) -> None:
    body: Graph = node.attrs["body"]
    kept = [i for i, v in enumerate(node.outputs) if i < node.attrs["carries"] or v in used]
    attrs = {**node.attrs, "body": Graph(body.inputs, tuple(body.outputs[i] for i in kept))}
    types = tuple(node.types[i] for i in kept)
    names = [node.outputs[i].name for i in kept]
    new = moved[node] = copy_with_types(node, inputs, attrs, types, replacing=True, moved=moved)
    for place, value, name in zip(kept, new.outputs, names, strict=True):
        value.name = name
        replaced[node.outputs[place]] = value


def _number_sites(graph: Graph) -> Graph:
    """Draws depend on where they stand, by the names that the graph shows."""
    sites = [node for node in graph.nodes if node.op == "site"]
    if not sites:
        return graph
    replaced: dict[Value, Value] = {}
    moved: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.op == "site":
            attrs = {"shape": (), "value": _site(graph.block_names[node.block]), "dtype": int64}
            place = node.block, node.source, node.serial
            moved[node] = Node("full", (), attrs, node.types, *place)
            replaced[node.outputs[0]] = moved[node].outputs[0]
        else:
            inputs = tuple(replaced.get(v, v) for v in node.inputs)
            _replace(node, inputs, node.attrs, node.types, replaced, moved)
    return _mapped(graph, replaced)


def _site(path: str) -> int:
    """The first 32 bits, little-endian, of BLAKE2s: fixed for good, seeds hang on it."""
    return int.from_bytes(hashlib.blake2s(path.encode()).digest()[:4], "little")


def _mapped(graph: Graph, replaced: Mapping[Value, Value]) -> Graph:
    def of(values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(replaced.get(v, v) for v in values)

    updates = tuple((s, replaced.get(v, v)) for s, v in graph.updates)
    return Graph(of(graph.inputs), of(graph.outputs), updates)


# ---- dims


def bind_dims(types: Sequence[TensorType], shapes: Sequence[tuple[int, ...]]) -> dict[Dim, int]:
    """The dims' values that make ``types`` have ``shapes``; BindError where there are none.

    >>> from graphc.types import float32
    >>> bind_dims([TensorType(float32, (Dim("B"), 3))], [(5, 3)])
    {B: 5}
    """
    found: dict[Dim, int] = {}
    for type, shape in zip(types, shapes, strict=True):
        for extent, size in zip(type.shape, shape, strict=True):
            if isinstance(extent, Dim) and found.setdefault(extent, size) != size:
                raise BindError(f"{extent} is {found[extent]} in one place and {size} in another")
    for type, shape in zip(types, shapes, strict=True):
        for place, (extent, size) in enumerate(zip(type.shape, shape, strict=True)):
            known = evaluate(extent, found)
            if isinstance(known, int) and known != size:
                raise BindError(f"axis {place} of {type} is {known}, got {size}")
    return found


def bind_graph(graph: Graph, sizes: Mapping[Dim, int]) -> tuple[Graph, dict[Value, Value]]:
    """``graph`` with dims replaced by ints, in bodies too, and the value that stands for each that
    changed.
    """
    replaced: dict[Value, Value] = {}
    moved: dict[Node, Node] = {}
    if not sizes:
        return graph, replaced
    for node in graph.nodes:
        inputs = tuple(replaced.get(v, v) for v in node.inputs)
        types = tuple(_bind_type(t, sizes) for t in node.types)
        _check_sizes(node, types)
        attrs = {key: _bind_attr(value, sizes) for key, value in node.attrs.items()}
        _replace(node, inputs, attrs, types, replaced, moved)

    return _mapped(graph, replaced), replaced


def _check_sizes(node: Node, types: tuple[TensorType, ...]) -> None:
    for old, new in zip(node.types, types, strict=True):
        if any(isinstance(e, int) and e < 0 for e in new.shape):
            raise BindError(f"{node.op}: {old} would be {new} with these sizes", node.source)


def _bind_type(type: TensorType, sizes: Mapping[Dim, int]) -> TensorType:
    if all(isinstance(e, int) for e in type.shape):
        return type
    return TensorType(type.dtype, tuple(evaluate(e, sizes) for e in type.shape))


def _bind_attr(value: Any, sizes: Mapping[Dim, int]) -> Any:
    """``value`` with its sizes replaced; the very object where there is none."""
    if isinstance(value, Size):
        return value.evaluate(sizes)
    if isinstance(value, ContractSpec):
        bound = value.bound(sizes)
        return value if bound == value else bound
    if isinstance(value, Graph):
        return bind_graph(value, sizes)[0]
    if isinstance(value, tuple):
        items = tuple(_bind_attr(v, sizes) for v in value)
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    return value
