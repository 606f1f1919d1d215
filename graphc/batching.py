"""``vmap``: a function of one thing, on many at once.

::

    f(x) on lanes x[0], x[1], ...   ->   the nodes of f, each batched by its op's own rule

The function is called once, on symbols without the lane axis, so shapes, errors and derivatives
inside speak of one lane. What depends on no lane (captured values, parameters) is computed once.
Batched values have the lanes as axis 0; the forward node that a backward node belongs to is
batched with it, so derivatives inside stay paired.

A draw of random numbers inside depends on the lane, as it does on a loop's iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graphc import tree
from graphc.closing import needed_nodes
from graphc.control import LANE, inside
from graphc.errors import ShapeError
from graphc.graph import Graph, Node, Value, apply, copy_with_types, follow, standing
from graphc.op import OPS, Lanes
from graphc.ops.lifting import constant
from graphc.ops.loop import argument, read_once
from graphc.source import here
from graphc.types import Extent, TensorType, int64

__all__ = ["vmap"]


def vmap(f: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """``f`` over lanes: axis ``in_axes`` of its arguments, axis ``out_axes`` of its results.

    Both are an int for everything, or a structure of ints that begins like the arguments (a tuple,
    one for each) or the results. None as an argument's axis gives it whole to every lane; as a
    result's axis it says that the result is the same in all lanes. Captured values and parameters
    have no lanes.

    Raises ShapeError where no argument has lanes, or they differ in number; StateError where f
    attaches an update that depends on a lane.

    >>> import graphc as gc
    >>> a, b = gc.observed("a", (5, 3)), gc.observed("b", (3,))
    >>> gc.vmap(lambda x: (x * b).sum())(a).type
    f32[5]
    """
    if not callable(f):
        raise ShapeError(f"vmap: takes a function, got {f!r}", here())
    name = str(getattr(f, "__name__", type(f).__name__))

    def mapped(*args: Any) -> Any:
        leaves, form = tree.flatten(args)
        values = [read_once(v if isinstance(v, Value) else constant(v)) for v in leaves]
        paths = _paths(form, "argument")
        axes = _axes("in_axes", in_axes, form, [v.ndim for v in values], paths)
        size = _size(values, axes, paths, name)
        lane = argument(TensorType(int64, ()), "lane")
        symbols = [_symbol(v, axis) for v, axis in zip(values, axes, strict=True)]
        with inside(lane, LANE):
            made, made_form = tree.flatten(f(*form.build(symbols)))
        results = [read_once(v if isinstance(v, Value) else constant(v)) for v in made]
        lanes = {lane: apply("iota", shape=(size,), axis=0, dtype=int64)}
        for value, symbol, axis in zip(values, symbols, axes, strict=True):
            if axis is not None:
                lanes[symbol] = _moved(value, axis, 0)
        plain = _batch(needed_nodes(results, since=lane.node.serial), lanes, size)
        ranks = [v.ndim + 1 for v in results]
        out_paths = _paths(made_form, "result")
        chosen = _axes("out_axes", out_axes, made_form, ranks, out_paths)
        triples = zip(results, chosen, out_paths, strict=True)
        return made_form.build(_result(v, a, p, lanes, plain, size) for v, a, p in triples)

    return mapped


# ---- arguments and results


def _axes(
    what: str, given: Any, form: tree.Structure, ranks: Sequence[int], paths: Sequence[str]
) -> list[int | None]:
    """One axis for every leaf, counted from the left."""
    spread = _spread(what, given, form, form)
    found: list[int | None] = []
    for axis, rank, path in zip(spread, ranks, paths, strict=True):
        if axis is not None and (not isinstance(axis, int) or isinstance(axis, bool)):
            raise ShapeError(f"vmap: {what} of {path} is {axis!r}; it is an int or None", here())
        if axis is not None and not -rank <= axis < rank:
            raise ShapeError(f"vmap: {what} of {path} is {axis}, it has {rank} axes", here())
        found.append(None if axis is None else axis % rank)
    return found


def _paths(form: tree.Structure, what: str) -> list[str]:
    """``argument [0].x``; a result that is one value is ``the result``."""
    return [f"{what} {path}" if path else f"the {what}" for path in form.paths()]


def _spread(what: str, given: Any, form: tree.Structure, whole: tree.Structure) -> list[Any]:
    """``given``, a structure that begins like ``form``, repeated for the leaves under its ends."""
    if given is None or isinstance(given, int) or form.kind is None:
        return [given] * form.count
    children: Mapping[Any, Any] | None = None
    if isinstance(given, dict):
        children = given
    elif isinstance(given, (tuple, list)):
        children = dict(zip(form.keys, given, strict=False)) if len(given) == len(form.keys) else {}
    if children is None or set(children) != set(form.keys):
        count = len(whole.children)
        like = f"the function's {count} arguments" if what == "in_axes" else "its results"
        raise ShapeError(
            f"vmap: {what} is {given!r}; it is an int or None, or a structure of these like {like}",
            here(),
        )
    found: list[Any] = []
    for key, child in zip(form.keys, form.children, strict=True):
        found += _spread(what, children[key], child, whole)
    return found


def _size(
    values: Sequence[Value], axes: Sequence[int | None], paths: Sequence[str], name: str
) -> Extent:
    found: tuple[Extent, str] | None = None
    for value, axis, path in zip(values, axes, paths, strict=True):
        if axis is None:
            continue
        extent = value.shape[axis]
        if found is None:
            found = extent, path
        elif extent != found[0]:
            raise ShapeError(
                f"vmap: {path} of {name} is {value.type}, with {extent} lanes along axis {axis}; "
                f"{found[1]} has {found[0]}",
                here(),
            )
    if found is None:
        raise ShapeError(f"vmap: no argument of {name} has lanes: give one an axis", here())
    return found[0]


def _symbol(value: Value, axis: int | None) -> Value:
    if axis is None:
        return value
    shape = (*value.shape[:axis], *value.shape[axis + 1 :])
    return argument(TensorType(value.dtype, shape), value.name)


def _moved(value: Value, axis: int, to: int) -> Value:
    """Axis ``axis`` as axis ``to``; the others keep their order."""
    if axis == to:
        return value
    order = [i for i in range(value.ndim) if i != axis]
    order.insert(to, axis)
    return apply("permute", value, order=tuple(order))


def _result(
    value: Value,
    axis: int | None,
    path: str,
    lanes: Mapping[Value, Value],
    plain: Mapping[Value, Value],
    size: Extent,
) -> Value:
    if axis is None:
        if value in lanes:
            raise ShapeError(
                f"vmap: out_axes of {path} is None, but {value!r} differs from lane to lane", here()
            )
        return plain.get(value, value)
    if value in lanes:
        return _moved(lanes[value], 0, axis)
    shape = (*value.shape[:axis], size, *value.shape[axis:])
    axes = tuple(i for i in range(len(shape)) if i != axis)
    return apply("broadcast", plain.get(value, value), shape=shape, axes=axes)


# ---- nodes and bodies


def _batch(nodes: Iterable[Node], lanes: dict[Value, Value], size: Extent) -> dict[Value, Value]:
    """Extend ``lanes`` by every value that depends on a lane.

    Returns what stands for values that depend on none and had to be made anew, since the forward
    node that they belong to was batched.
    """
    plain: dict[Value, Value] = {}
    moved: dict[Node, Node] = {}
    with standing() as stand_at:
        for node in nodes:
            has = tuple(v in lanes for v in node.inputs)
            inputs = tuple(lanes[v] if v in lanes else plain.get(v, v) for v in node.inputs)
            if any(has):
                stand_at(node, moved)
                rule = OPS[node.op].batch
                assert rule is not None  # it has inputs, so a rule
                results = rule(node, inputs, Lanes(size, has, _body_rule(size)))
                _enter(node, results, lanes, moved)
            elif node.primal in moved or any(v in plain for v in node.inputs):
                primal = follow(moved, node.primal)
                new = copy_with_types(node, inputs, node.attrs, node.types, moved=moved)
                assert new.primal is primal
                _enter(node, new.outputs, plain, moved)
    return plain


def _enter(
    node: Node, results: Sequence[Value], into: dict[Value, Value], moved: dict[Node, Node]
) -> None:
    for old, new in zip(node.outputs, results, strict=True):
        into[old] = new
        new.name = new.name or old.name
    if results:
        moved[node] = results[0].node


def _body_rule(
    size: Extent,
) -> Callable[[Graph, Sequence[bool], Sequence[bool]], tuple[Graph, tuple[bool, ...]]]:
    """Bodies of loops and branches, batched like any graph."""

    def batched(
        graph: Graph, has: Sequence[bool], wanted: Sequence[bool]
    ) -> tuple[Graph, tuple[bool, ...]]:
        inputs = [
            argument(TensorType(v.dtype, (size, *v.shape)), v.name) if lane else v
            for v, lane in zip(graph.inputs, has, strict=True)
        ]
        lanes = {
            old: new for old, new, lane in zip(graph.inputs, inputs, has, strict=True) if lane
        }
        plain = _batch(graph.nodes, lanes, size)
        spread = Lanes(size, (), batched).spread
        outputs, flags = [], []
        for value, must in zip(graph.outputs, wanted, strict=True):
            single = plain.get(value, value)
            outputs.append(lanes[value] if value in lanes else spread(single) if must else single)
            flags.append(value in lanes or must)
        return Graph(tuple(inputs), tuple(outputs)), tuple(flags)

    return batched
