"""Loops and branches. Their bodies are Graphs in attrs; what a body uses from outside is an
explicit input.

::

    loop(*carries, *xs, *captures; body, carries, scanned, length, reverse) -> *carries, *ys
        body(index, *carries, *slices of xs, *captures) -> *new carries, *elements of ys
    while(*carries, *captures; pred, body, carries) -> *carries
        pred(*carries, *captures) -> bool[];  body(*carries, *captures) -> *new carries
    cond(p, *arguments; then, otherwise) -> *results of the branch

``index`` is the position in xs and ys, an int64 scalar; with ``reverse`` it runs from the end.

The derivative of a loop is a loop the other way. It computes an iteration again from the carries as
they were before it, but for its products, which are dear: every loop is made with both as its last
ys (``with_history``), and closing drops ys that nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.graph import (
    STATES,
    Graph,
    Node,
    Value,
    ancestors,
    apply,
    apply_all,
    copy_with_types,
    inline,
    source_value,
)
from graphc.op import (
    Array,
    Cotangents,
    ErrorSample,
    Lanes,
    Op,
    Sample,
    Transform,
    int_shape,
    register,
    run_nodes,
    tensor,
)
from graphc.ops.lifting import full, who
from graphc.types import DType, Extent, TensorType, float32, float64, int64

__all__ = [
    "argument",
    "check_body",
    "close_body",
    "floats",
    "given_or_zero",
    "is_fallible",
    "lane_by_lane",
    "read_once",
    "settled_lanes",
    "with_history",
]

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]
_SCALAR_INDEX = TensorType(int64, ())


# ---- bodies


def argument(type: TensorType, name: str | None = None) -> Value:
    """A new input of a body."""
    return source_value("argument", type, name)


def read_once(value: Value) -> Value:
    """The value itself; of a state what it holds now, so that a body's types are plain."""
    return apply("read", value) if value.node.op in STATES else value


def close_body(
    outputs: Sequence[Value], arguments: Sequence[Value], begin: int | None = None
) -> tuple[Graph, tuple[Value, ...]]:
    """The graph of a body, and its captures: outside values, which become its last inputs.

    ``arguments`` are the argument sources that the body was traced with. What depends on none of
    them and on nothing else outside (constants made inside) stays in the body. So do ``while``
    loops made after node ``begin``, if it is given: they may not end where the body does not run.
    """
    nodes = ancestors(outputs)
    given = {id(v) for v in arguments}
    inside: set[Node] = {v.node for v in arguments}
    local: set[Node] = set()
    for node in nodes:
        held = node.op == "while" and begin is not None and node.serial > begin
        if held or any(v.node in inside for v in node.inputs):
            inside.add(node)
        elif all(v.node in local for v in node.inputs) and _is_local(node) and node not in inside:
            local.add(node)
    captures: dict[Value, Value] = {}
    replaced: dict[Value, Value] = {}

    def inner(value: Value) -> Value:
        if value in replaced:
            return replaced[value]
        if id(value) in given or value.node in inside or value.node in local:
            return value
        if value not in captures:
            captures[value] = argument(value.type, value.name)
        return captures[value]

    for node in nodes:
        if node not in inside or not node.inputs:
            continue
        if node.op == "attach":
            raise ShapeError(
                "a state is updated where only values can leave: return its new value and attach "
                "the update outside",
                node.source,
            )
        inputs = tuple(inner(v) for v in node.inputs)
        if any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            new = copy_with_types(node, inputs, node.attrs, node.types)
            replaced.update(zip(node.outputs, new.outputs, strict=True))
    results = tuple(inner(v) for v in outputs)
    return Graph((*arguments, *captures.values()), results), tuple(captures)


def _is_local(node: Node) -> bool:
    """Values that cost nothing to make again inside of a body."""
    if node.op == "constant":
        return not node.types[0].shape
    return node.op in ("full", "iota", "size", "broadcast", "reshape", "cast")


def check_body(name: str, part: str, graph: object, types: Types) -> Graph:
    """``graph``, where it is a Graph that takes ``types``."""
    if not isinstance(graph, Graph):
        raise ShapeError(f"{who(name)}: {part} must be a Graph, got {type(graph).__name__}")
    wanted = tuple(v.type for v in graph.inputs)
    if wanted != types:
        raise ShapeError(f"{who(name)}: {part} takes {list(wanted)}, it is given {list(types)}")
    return graph


# ---- loop


def _parts(attrs: Attrs, count: int) -> tuple[slice, slice, slice]:
    """Where carries, xs and captures stand among the inputs."""
    carries, scanned = attrs["carries"], attrs["scanned"]
    return slice(0, carries), slice(carries, carries + scanned), slice(carries + scanned, count)


def _loop_type(types: Types, attrs: Attrs) -> Types:
    carried, scanned, captured = (types[p] for p in _parts(attrs, len(types)))
    length = attrs["length"]
    for x in scanned:
        if not x.shape or x.shape[0] != length:
            raise ShapeError(f"{who('loop')}: {x} is scanned over {length} steps")
    slices = tuple(TensorType(x.dtype, x.shape[1:]) for x in scanned)
    inputs = (_SCALAR_INDEX, *carried, *slices, *captured)
    body = check_body("loop", "the body", attrs["body"], inputs)
    results = tuple(v.type for v in body.outputs)
    for i, (before, after) in enumerate(zip(carried, results, strict=False)):
        if before != after:
            raise ShapeError(
                f"{who('loop')}: carry {i} is {before} before an iteration and {after} after it: "
                "make them agree"
            )
    if len(results) < len(carried):
        raise ShapeError(
            f"{who('loop')}: the body returns {len(results)} of {len(carried)} carries"
        )
    stacked = (TensorType(y.dtype, (length, *y.shape)) for y in results[len(carried) :])
    return (*carried, *stacked)


def _loop_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    body: Graph = attrs["body"]
    carried, scanned, captured = (list(arrays[p]) for p in _parts(attrs, len(arrays)))
    ys = [np.zeros(int_shape(t), t.dtype.numpy) for t in types[len(carried) :]]
    order = range(attrs["length"])
    for i in reversed(order) if attrs["reverse"] else order:
        given = [np.asarray(i, np.int64), *carried, *(x[i] for x in scanned), *captured]
        known = dict(zip(body.inputs, given, strict=True))
        results = run_nodes(body.nodes, known, body.outputs)
        carried = results[: len(carried)]
        for y, element in zip(ys, results[len(carried) :], strict=True):
            y[i] = element
    return (*carried, *ys)


def with_history(body: Graph, carries: int) -> Graph:
    """``body`` that also returns what its derivative reads, where it does not yet: every carry as
    it was before the iteration, and every product of what depends on one.
    """
    found = list(body.outputs)
    for value in _remembered(body, carries):
        if not any(y is value for y in body.outputs[carries:]):
            found.append(value)
    return Graph(body.inputs, tuple(found))


def _remembered(body: Graph, carries: int) -> list[Value]:
    before = list(body.inputs[1 : 1 + carries])
    carried = {id(v) for v in before}
    products: list[Value] = []
    for node in body.nodes:
        if any(id(v) in carried for v in node.inputs):
            carried.update(id(v) for v in node.outputs)
            products += [v for v in node.outputs if node.op == "contract" and v.dtype.is_float]
    return [*before, *products]


def _history(node: Node) -> list[tuple[Value, Value]]:
    """What a body remembers (its carries first), and the same of all iterations."""
    count, body = node.attrs["carries"], node.attrs["body"]
    source, full_body = node, with_history(body, count)
    if len(full_body.outputs) > len(body.outputs):
        source = apply_all("loop", *node.inputs, **{**node.attrs, "body": full_body})[0].node
    outputs = full_body.outputs
    found = []
    for value in _remembered(body, count):
        place = next(i for i in range(count, len(outputs)) if outputs[i] is value)
        found.append((value, source.outputs[place]))
    return found


def _reading(
    outputs: Sequence[Value], given: Mapping[Value, Value]
) -> tuple[tuple[Value, ...], list[bool]]:
    """The outputs computed from other values in place of some, and which of those are needed."""
    replaced, read = dict(given), {id(v) for v in outputs}
    for node in ancestors(outputs, given):
        read.update(id(v) for v in node.inputs)
        inputs = tuple(replaced.get(v, v) for v in node.inputs)
        if any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            new = copy_with_types(node, inputs, node.attrs, node.types)
            replaced.update(zip(node.outputs, new.outputs, strict=True))
    return tuple(replaced.get(v, v) for v in outputs), [id(v) in read for v in given]


def floats(values: Sequence[Value]) -> list[int]:
    """Where the floating values stand: only they have derivatives."""
    return [i for i, v in enumerate(values) if v.dtype.is_float]


def _zero(value: Value | TensorType) -> Value:
    return full(value.shape, 0, value.dtype)


def given_or_zero(flow: Value | None, like: Value) -> Value:
    """A cotangent or tangent, zeros where there is none."""
    return _zero(like) if flow is None else flow


def _loop_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    """A loop the other way over (carry before, slices, cotangents of ys), carrying cotangents of
    carries and captures.
    """
    body: Graph = node.attrs["body"]
    carried, scanned, captured = (node.inputs[p] for p in _parts(node.attrs, len(node.inputs)))
    count = len(carried)
    smooth_carries, smooth_xs = floats(carried), floats(scanned)
    smooth_captures = floats(captured)
    ys = node.outputs[count:]
    used_ys = [i for i in floats(ys) if cotangents[count + i] is not None]

    index = argument(_SCALAR_INDEX)
    ct_carries = [argument(carried[i].type) for i in smooth_carries]
    sums = [argument(captured[i].type) for i in smooth_captures]
    before = [argument(v.type) for v in carried]
    slices = [argument(TensorType(v.dtype, v.shape[1:])) for v in scanned]
    ct_ys = [argument(body.outputs[count + i].type) for i in used_ys]
    shared = [argument(v.type) for v in captured]

    history = _history(node)
    products = history[count:]
    full = Graph(body.inputs, (*body.outputs, *(v for v, _ in products)))
    results = inline(full, (index, *before, *slices, *shared))
    outputs = [results[i] for i in smooth_carries] + [results[count + i] for i in used_ys]
    wrt = [before[i] for i in smooth_carries] + [slices[i] for i in smooth_xs]
    wrt += [shared[i] for i in smooth_captures]
    found = transform.vjp(outputs, wrt, [*ct_carries, *ct_ys])
    split = len(smooth_carries) + len(smooth_xs)
    new_sums = [a + b for a, b in zip(sums, found[split:], strict=True)]
    new = [*found[: len(smooth_carries)], *new_sums, *found[len(smooth_carries) : split]]
    computed = results[len(body.outputs) :]
    known = [argument(v.type) for v in computed]
    new_outputs, needed = _reading(new, dict(zip(computed, known, strict=True)))
    kept = list(compress(known, needed))
    arguments = (index, *ct_carries, *sums, *before, *slices, *ct_ys, *kept, *shared)
    backward, more = close_body(new_outputs, arguments)

    start = [given_or_zero(cotangents[i], carried[i]) for i in smooth_carries]
    start += [_zero(captured[i]) for i in smooth_captures]
    xs = [
        *(v for _, v in history[:count]),
        *scanned,
        *(given_or_zero(cotangents[count + i], ys[i]) for i in used_ys),
        *compress((stacked for _, stacked in products), needed),
    ]
    out = apply_all(
        "loop",
        *start,
        *xs,
        *captured,
        *more,
        body=with_history(backward, len(start)),
        carries=len(start),
        scanned=len(xs),
        length=node.attrs["length"],
        reverse=not node.attrs["reverse"],
    )
    places = [
        *smooth_carries,
        *(count + len(scanned) + i for i in smooth_captures),
        *(count + i for i in smooth_xs),
    ]
    flows: list[Value | None] = [None] * len(node.inputs)
    for place, value in zip(places, out[: len(places)], strict=True):  # the rest is its history
        flows[place] = value
    return flows


def _loop_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    """One loop that carries values and tangents together."""
    body: Graph = node.attrs["body"]
    parts = _parts(node.attrs, len(node.inputs))
    carried, scanned, captured = (node.inputs[p] for p in parts)
    count = len(carried)
    smooth = [floats(v) for v in (carried, scanned, captured)]
    index = argument(_SCALAR_INDEX)
    plain = [argument(v.type) for v in body.inputs[1:]]
    offsets = (0, count, count + len(scanned))
    places = [o + i for o, found in zip(offsets, smooth, strict=True) for i in found]
    moving = [argument(plain[i].type) for i in places]
    results = inline(body, (index, *plain))
    float_results = [v for v in results if v.dtype.is_float]
    flows = transform.jvp(float_results, [plain[i] for i in places], moving)

    sizes = [len(found) for found in smooth]
    t_carry, t_xs, t_shared = (
        moving[: sizes[0]],
        moving[sizes[0] : sizes[0] + sizes[1]],
        moving[sizes[0] + sizes[1] :],
    )
    carry_args, x_args, shared_args = plain[:count], plain[count : offsets[2]], plain[offsets[2] :]
    arguments = (index, *carry_args, *t_carry, *x_args, *t_xs, *shared_args, *t_shared)
    t_new, t_ys = flows[: sizes[0]], flows[sizes[0] :]
    tangent_body, more = close_body([*results[:count], *t_new, *t_ys], arguments)
    starts = [
        [given_or_zero(tangents[o + i], group[i]) for i in found]
        for o, group, found in zip(offsets, (carried, scanned, captured), smooth, strict=True)
    ]
    out = apply_all(
        "loop",
        *carried,
        *starts[0],
        *scanned,
        *starts[1],
        *captured,
        *starts[2],
        *more,
        body=with_history(tangent_body, count + sizes[0]),
        carries=count + sizes[0],
        scanned=len(scanned) + sizes[1],
        length=node.attrs["length"],
        reverse=node.attrs["reverse"],
    )
    found = iter(out[count:])  # the history comes last
    return [next(found) if v.dtype.is_float else None for v in node.outputs]


# ---- samples: bodies to run


def _recurrence_body(dtype: DType = float32) -> Graph:
    """carry, x, w -> tanh(carry * w + x), carry * x."""
    index, type = argument(_SCALAR_INDEX), tensor((2,), dtype)
    carry, x, w = argument(type), argument(type), argument(type)
    new = apply("tanh", apply("+", apply("*", carry, w), x))
    return Graph((index, carry, x, w), (new, apply("*", carry, x)))


def _counting_body() -> Graph:
    index, carry = argument(_SCALAR_INDEX), argument(_SCALAR_INDEX)
    return Graph((index, carry), (apply("+", carry, index),))


def _loop_attrs(
    body: Graph, carries: int, scanned: int, length: Extent, reverse: bool = False
) -> Any:
    return {
        "body": body,
        "carries": carries,
        "scanned": scanned,
        "length": length,
        "reverse": reverse,
    }


def _loop_samples() -> tuple[Sample, ...]:
    made = [Sample((_SCALAR_INDEX,), _loop_attrs(_counting_body(), 1, 0, 4))]
    for dtype in (float32, float64):
        for length, reverse in ((3, False), (3, True), (1, False), (0, False)):
            types = (tensor((2,), dtype), tensor((length, 2), dtype), tensor((2,), dtype))
            attrs = _loop_attrs(_recurrence_body(dtype), 1, 1, length, reverse)
            made.append(Sample(types, attrs, differentiable=dtype == float64))
    return tuple(made)


# ---- lanes


def lane_by_lane(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """A loop over the lanes that applies ``node`` to one after the other: for what cannot run on
    all at once.
    """
    scanned = [v for v, has in zip(inputs, lanes.batched, strict=True) if has]
    shared = [v for v, has in zip(inputs, lanes.batched, strict=True) if not has]
    index = argument(_SCALAR_INDEX)
    slices = [argument(TensorType(v.dtype, v.shape[1:])) for v in scanned]
    held = [argument(v.type) for v in shared]
    left, right = iter(slices), iter(held)
    given = [next(left) if has else next(right) for has in lanes.batched]
    body = Graph((index, *slices, *held), apply_all(node.op, *given, **node.attrs))
    attrs = _loop_attrs(body, 0, len(scanned), lanes.size)
    return apply_all("loop", *scanned, *shared, **attrs)


def is_fallible(graph: Graph) -> bool:
    """Whether an element may be out of range: where a lane has no use for a body, its check must
    not fail the others.
    """
    return any(
        node.op in _FALLIBLE
        or any(is_fallible(v) for v in node.attrs.values() if isinstance(v, Graph))
        for node in graph.nodes
    )


_FALLIBLE = frozenset({"gather", "scatter", "dynamic_slice", "dynamic_update", "kernel"})


def settled_lanes(
    carries: Sequence[bool], results: Callable[[Sequence[bool]], Sequence[bool]]
) -> tuple[bool, ...]:
    """Which carries have lanes: those that start with them, and those that an iteration gives
    them.
    """
    has = tuple(carries)
    while True:
        found = tuple(a or b for a, b in zip(has, results(has), strict=False))
        if found == has:
            return has
        has = found


def _loop_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """The iterations are those of one lane: each does what it does for all lanes."""
    parts = _parts(node.attrs, len(inputs))
    has_carry, has_x, has_capture = (lanes.batched[p] for p in parts)
    carried, scanned, captured = (inputs[p] for p in parts)
    count, body = len(carried), node.attrs["body"]
    stacked = len(body.outputs) - count

    def made(has: Sequence[bool]) -> tuple[Graph, tuple[bool, ...]]:
        flags = (False, *has, *has_x, *has_capture)
        return lanes.body(body, flags, (*has, *(False,) * stacked))

    has = settled_lanes(has_carry, lambda flags: made(flags)[1])
    new, flags = made(has)
    starts = [
        v if old or not wanted else lanes.spread(v)
        for v, old, wanted in zip(carried, has_carry, has, strict=True)
    ]
    xs = [_swapped(v) if x else v for v, x in zip(scanned, has_x, strict=True)]
    out = apply_all("loop", *starts, *xs, *captured, **{**node.attrs, "body": new})
    return [
        lanes.spread(v) if not flag else v if i < count else _swapped(v)
        for i, (v, flag) in enumerate(zip(out, flags, strict=True))
    ]


def _swapped(value: Value) -> Value:
    """The first two axes exchanged: lanes and iterations."""
    return apply("permute", value, order=(1, 0, *range(2, value.ndim)))



register(
    Op(
        "loop",
        "A known number of iterations: carries go round, xs are read and ys written one element "
        "at a time.",
        _loop_type,
        _loop_reference,
        _loop_vjp,
        _loop_jvp,
        kind="region",
        samples=_loop_samples(),
        error_samples=(
            ErrorSample(
                (tensor((2,)), tensor((4, 2)), tensor((2,))),
                _loop_attrs(_recurrence_body(), 1, 1, 3),
                ShapeError,
                "is scanned over 3 steps",
            ),
            ErrorSample(
                (tensor((3,)), tensor((3, 2)), tensor((2,))),
                _loop_attrs(_recurrence_body(), 1, 1, 3),
                ShapeError,
                "the body takes",
            ),
        ),
        batch=_loop_batch,
    )
)
