"""``custom``: a function whose derivative towards its arguments is written by hand.

::

    custom(*arguments, *captures; forward, backward, arguments) -> *results
        forward(*arguments, *captures) -> *results
        backward(*arguments, *results, *cotangents, *captures) -> *cotangents of the arguments

Cotangents are those of floating results and arguments. What the function uses from outside is a
capture: towards it the derivative is that of ``forward`` itself, so no path is lost silently.
Closing a graph puts ``forward`` in the node's place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc.errors import ShapeError
from graphc.graph import Graph, Node, Value, apply, apply_all
from graphc.op import (
    Array,
    Cotangents,
    ErrorSample,
    Lanes,
    Op,
    Sample,
    Transform,
    register,
    run_nodes,
    tensor,
)
from graphc.ops.lifting import full, who
from graphc.ops.loop import argument, check_body, floats, given_or_zero
from graphc.types import DType, TensorType, float32, float64

__all__ = ["replay"]

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


def replay(graph: Graph, arguments: Sequence[Value]) -> tuple[Value, ...]:
    """The outputs of ``graph`` on other inputs, its nodes made anew in the current block and line.

    In contrast to ``inline`` the new nodes belong to whatever is being differentiated.
    """
    known = dict(zip(graph.inputs, arguments, strict=True))
    for node in graph.nodes:
        if all(v in known for v in node.outputs) or not node.inputs:
            continue
        inputs = [known.get(v, v) for v in node.inputs]
        known.update(zip(node.outputs, apply_all(node.op, *inputs, **node.attrs), strict=True))
    return tuple(known.get(v, v) for v in graph.outputs)


def _custom_type(types: Types, attrs: Attrs) -> Types:
    forward = check_body("custom", "the function", attrs["forward"], types)
    backward: Graph = attrs["backward"]
    given, captured = types[: attrs["arguments"]], types[attrs["arguments"] :]
    results = tuple(v.type for v in forward.outputs)
    flowing = tuple(t for t in results if t.dtype.is_float)
    check_body("custom", "backward", backward, (*given, *results, *flowing, *captured))
    wanted = [t for t in given if t.dtype.is_float]
    got = [v.type for v in backward.outputs]
    if got != wanted:
        raise ShapeError(f"{who('custom')}: backward gives {got}, the arguments are {wanted}")
    return results


def _custom_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    forward: Graph = attrs["forward"]
    known = dict(zip(forward.inputs, arrays, strict=True))
    return run_nodes(forward.nodes, known, forward.outputs)


def _parts(node: Node) -> tuple[list[Value], list[Value]]:
    """Its arguments and its captures."""
    count = node.attrs["arguments"]
    return list(node.inputs[:count]), list(node.inputs[count:])


def _pulled(node: Node, cotangents: Sequence[Value]) -> tuple[Value, ...]:
    """What ``backward`` says of the floating results' cotangents."""
    given, captured = _parts(node)
    return replay(node.attrs["backward"], [*given, *node.outputs, *cotangents, *captured])


def _custom_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    given, captured = _parts(node)
    smooth = floats(node.outputs)
    flowing = [given_or_zero(cotangents[i], node.outputs[i]) for i in smooth]
    flows: list[Value | None] = [None] * len(node.inputs)
    for place, flow in zip(floats(given), _pulled(node, flowing), strict=True):
        flows[place] = flow
    free = floats(captured)
    if free:
        results = replay(node.attrs["forward"], [*given, *captured])
        wrt = [captured[i] for i in free]
        found = transform.vjp([results[i] for i in smooth], wrt, flowing)
        for place, flow in zip(free, found, strict=True):
            flows[len(given) + place] = flow
    return flows


def _custom_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    """``backward`` is linear in the cotangents: its own reverse derivative towards them is J t."""
    given, captured = _parts(node)
    smooth, moving = floats(node.outputs), floats(given)
    probes = [full(node.types[i].shape, 0, node.types[i].dtype) for i in smooth]
    pushed = [given_or_zero(tangents[i], given[i]) for i in moving]
    found = transform.vjp(_pulled(node, probes), probes, pushed)
    free = [i for i in floats(captured) if tangents[len(given) + i] is not None]
    if free:
        results = replay(node.attrs["forward"], [*given, *captured])
        more = transform.jvp(
            [results[i] for i in smooth],
            [captured[i] for i in free],
            [tangents[len(given) + i] for i in free],
        )
        found = tuple(a + b for a, b in zip(found, more, strict=True))
    flows: list[Value | None] = [None] * len(node.outputs)
    for place, flow in zip(smooth, found, strict=True):
        flows[place] = flow
    return flows


def _custom_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """Both bodies on all lanes; an argument that is the same in all gets the sum of their
    cotangents.
    """
    forward, backward = node.attrs["forward"], node.attrs["backward"]
    count, results = node.attrs["arguments"], len(node.outputs)
    flowing = len(floats(node.outputs))
    has = lanes.batched
    new_forward, _ = lanes.body(forward, has, (True,) * results)
    flags = (*has[:count], *(True,) * (results + flowing), *has[count:])
    new_backward, _ = lanes.body(backward, flags, (True,) * len(backward.outputs))
    summed = tuple(
        v if has[place] else apply("reduce", v, monoid="sum", axes=(0,))
        for place, v in zip(floats(node.inputs[:count]), new_backward.outputs, strict=True)
    )
    attrs = {"forward": new_forward, "backward": Graph(new_backward.inputs, summed)}
    return apply_all("custom", *inputs, **{**node.attrs, **attrs})


def _cube(dtype: DType = float32) -> dict[str, Any]:
    """x -> x * x * w with the derivative of x said to be 2 x w: equal to the true one."""
    type = tensor((3,), dtype)
    x, w = argument(type), argument(type)
    forward = Graph((x, w), (apply("*", apply("*", x, x), w),))
    at, out, ct, shared = (argument(type) for _ in range(4))
    slope = apply("*", apply("+", at, at), shared)
    return {
        "forward": forward,
        "backward": Graph((at, out, ct, shared), (apply("*", ct, slope),)),
        "arguments": 1,
    }


register(
    Op(
        "custom",
        "A function with a derivative of its own towards its arguments.",
        _custom_type,
        _custom_reference,
        _custom_vjp,
        _custom_jvp,
        kind="graph",
        samples=(
            Sample((tensor((3,)),) * 2, _cube(), differentiable=False),
            Sample((tensor((3,), float64),) * 2, _cube(float64)),
        ),
        error_samples=(
            ErrorSample((tensor((2,)), tensor((3,))), _cube(), ShapeError, "the function takes"),
            ErrorSample(
                (tensor((3,)),) * 2, {**_cube(), "arguments": 2}, ShapeError, "backward gives"
            ),
        ),
        batch=_custom_batch,
    )
)
