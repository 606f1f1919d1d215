"""``while`` and ``cond``; see ``graphc.ops.loop`` for how bodies take their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, GradError, ShapeError
from graphc.graph import (
    Graph,
    Node,
    Value,
    apply,
    apply_all,
    inline,
)
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
from graphc.ops.lifting import who
from graphc.ops.loop import (
    argument,
    check_body,
    close_body,
    floats,
    given_or_zero,
    is_fallible,
    lane_by_lane,
    settled_lanes,
)
from graphc.types import DType, TensorType, bool_, float32, float64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


# ---- while


def _while_type(types: Types, attrs: Attrs) -> Types:
    pred = check_body("while", "the predicate", attrs["pred"], types)
    body = check_body("while", "the body", attrs["body"], types)
    if [v.type for v in pred.outputs] != [TensorType(bool_, ())]:
        raise DTypeError(f"{who('while')}: the predicate must be one bool[]")
    carried = types[: attrs["carries"]]
    results = tuple(v.type for v in body.outputs)
    if results != carried:
        raise ShapeError(f"{who('while')}: the body makes {list(results)} of {list(carried)}")
    return carried


def _while_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    pred, body, count = attrs["pred"], attrs["body"], attrs["carries"]
    state, captured = list(arrays[:count]), list(arrays[count:])
    while True:
        given = [*state, *captured]
        (go,) = run_nodes(pred.nodes, dict(zip(pred.inputs, given, strict=True)), pred.outputs)
        if not go:
            return state
        state = run_nodes(body.nodes, dict(zip(body.inputs, given, strict=True)), body.outputs)


def _while_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    raise GradError(
        "while_loop has no reverse derivative without a bound: give it max_steps=", node.source
    )


def _while_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    """Values and tangents go round together; the predicate sees the values."""
    body, pred, count = node.attrs["body"], node.attrs["pred"], node.attrs["carries"]
    smooth = floats(node.inputs)
    plain = [argument(v.type) for v in node.inputs]
    moving = {i: argument(node.inputs[i].type) for i in smooth}
    results = inline(body, plain)
    float_results = [v for v in results if v.dtype.is_float]
    wrt = [plain[i] for i in smooth]
    flows = transform.jvp(float_results, wrt, [moving[i] for i in smooth])
    t_carried = [moving[i] for i in smooth if i < count]
    t_shared = [moving[i] for i in smooth if i >= count]
    arguments = (*plain[:count], *t_carried, *plain[count:], *t_shared)
    new_body, more = close_body([*results, *flows], arguments)
    padding = tuple(argument(v.type) for v in more)
    (go,) = inline(pred, plain)
    new_pred = Graph((*arguments, *padding), (go,))
    starts = {i: given_or_zero(tangents[i], node.inputs[i]) for i in smooth}
    out = apply_all(
        "while",
        *node.inputs[:count],
        *(starts[i] for i in smooth if i < count),
        *node.inputs[count:],
        *(starts[i] for i in smooth if i >= count),
        *more,
        pred=new_pred,
        body=new_body,
        carries=count + len(t_carried),
    )
    found = iter(out[count:])
    return [next(found) if v.dtype.is_float else None for v in node.outputs]


def _while_graphs() -> dict[str, Any]:
    """Double x until it exceeds the limit."""
    x, limit = argument(tensor(())), argument(tensor(()))
    y, bound = argument(tensor(())), argument(tensor(()))
    return {
        "pred": Graph((x, limit), (apply("<", x, limit),)),
        "body": Graph((y, bound), (apply("+", y, y),)),
        "carries": 1,
    }


def _while_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """Where the lanes agree when to stop, one loop for all. Else it goes on as long as any lane
    does, and a lane that is done keeps its carry; bodies that may fail run lane by lane.
    """
    pred, body, count = node.attrs["pred"], node.attrs["body"], node.attrs["carries"]
    captured = lanes.batched[count:]

    def made(part: Graph, has: Sequence[bool], wanted: Sequence[bool]) -> Any:
        return lanes.body(part, (*has, *captured), wanted)

    has = settled_lanes(lanes.batched[:count], lambda flags: made(body, flags, flags)[1])
    go, (differs,) = made(pred, has, (False,))
    step, _ = made(body, has, has)
    if differs:
        if is_fallible(body) or is_fallible(pred):
            return lane_by_lane(node, inputs, lanes)
        has = (True,) * count
        go, _ = made(pred, has, (True,))
        step = _where_going(go, made(body, has, has)[0], count)
        going = apply("reduce", go.outputs[0], monoid="any", axes=(0,))
        go = Graph(go.inputs, (going,))
    starts = [
        v if old or not wanted else lanes.spread(v)
        for v, old, wanted in zip(inputs[:count], lanes.batched, has, strict=False)
    ]
    out = apply_all("while", *starts, *inputs[count:], pred=go, body=step, carries=count)
    return [v if flag else lanes.spread(v) for v, flag in zip(out, has, strict=True)]



def _where_going(pred: Graph, body: Graph, count: int) -> Graph:
    """``body`` in the lanes where ``pred`` holds; the carry itself in the others."""
    (going,) = inline(pred, body.inputs)
    results = tuple(
        _chosen(going, new, old) for new, old in zip(body.outputs, body.inputs[:count], strict=True)
    )
    return Graph(body.inputs, results)


def _chosen(choice: Value, yes: Value, no: Value) -> Value:
    """``yes`` in the lanes where ``choice`` [lanes] holds, else ``no``."""
    return apply("where", apply("broadcast", choice, shape=yes.shape, axes=(0,)), yes, no)


register(
    Op(
        "while",
        "Iterations as long as the predicate holds.",
        _while_type,
        _while_reference,
        _while_vjp,
        _while_jvp,
        kind="region",
        samples=(
            Sample(
                (tensor(()), tensor(())),
                _while_graphs(),
                arrays={0: np.float32(0.75), 1: np.float32(5.0)},
                differentiable=False,
            ),
        ),
        error_samples=(
            ErrorSample(
                (tensor(()), tensor((1,))), _while_graphs(), ShapeError, "the predicate takes"
            ),
        ),
        batch=_while_batch,
    )
)


# ---- cond


def _cond_type(types: Types, attrs: Attrs) -> Types:
    if not types or types[0] != TensorType(bool_, ()):
        raise DTypeError(f"{who('cond')}: the condition must be bool[], got {types[:1]}")
    then = check_body("cond", "the first branch", attrs["then"], types[1:])
    otherwise = check_body("cond", "the second branch", attrs["otherwise"], types[1:])
    first, second = (tuple(v.type for v in g.outputs) for g in (then, otherwise))
    if first != second:
        raise ShapeError(f"{who('cond')}: the branches give {list(first)} and {list(second)}")
    return first


def _cond_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    branch: Graph = attrs["then" if arrays[0] else "otherwise"]
    known = dict(zip(branch.inputs, arrays[1:], strict=True))
    return run_nodes(branch.nodes, known, branch.outputs)


def _cond_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    condition, *arguments = node.inputs
    smooth = floats(arguments)
    used = [i for i in floats(node.outputs) if cotangents[i] is not None]
    given = [ct for i, ct in enumerate(cotangents) if i in used and ct is not None]

    def pulled(branch: Graph) -> Graph:
        plain = [argument(v.type) for v in arguments]
        ct = [argument(node.outputs[i].type) for i in used]
        results = inline(branch, plain)
        found = transform.vjp([results[i] for i in used], [plain[i] for i in smooth], ct)
        return Graph((*plain, *ct), tuple(found))

    out = apply_all("cond", condition, *arguments, *given, **_branches(node, pulled))
    flows: list[Value | None] = [None] * len(node.inputs)
    for place, value in zip(smooth, out, strict=True):
        flows[1 + place] = value
    return flows


def _cond_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    condition, *arguments = node.inputs
    smooth = floats(arguments)
    given = [given_or_zero(tangents[1 + i], arguments[i]) for i in smooth]

    def pushed(branch: Graph) -> Graph:
        plain = [argument(v.type) for v in arguments]
        moving = [argument(arguments[i].type) for i in smooth]
        results = [v for v in inline(branch, plain) if v.dtype.is_float]
        found = transform.jvp(results, [plain[i] for i in smooth], moving)
        return Graph((*plain, *moving), tuple(found))

    out = iter(apply_all("cond", condition, *arguments, *given, **_branches(node, pushed)))
    return [next(out) if v.dtype.is_float else None for v in node.outputs]


def _branches(node: Node, rule: Any) -> dict[str, Graph]:
    return {name: rule(node.attrs[name]) for name in ("then", "otherwise")}


def _cond_graphs(dtype: DType = float32) -> dict[str, Any]:
    x, y = argument(tensor((3,), dtype)), argument(tensor((3,), dtype))
    return {
        "then": Graph((x,), (apply("*", x, x),)),
        "otherwise": Graph((y,), (apply("sin", y),)),
    }


def _cond_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """Where all lanes take one branch, a branch of them all. Else both are computed and each lane
    chooses; branches that may fail run lane by lane.
    """
    then, otherwise = node.attrs["then"], node.attrs["otherwise"]
    wanted = (True,) * len(node.outputs)
    if lanes.batched[0] and (is_fallible(then) or is_fallible(otherwise)):
        return lane_by_lane(node, inputs, lanes)
    first, second = (lanes.body(g, lanes.batched[1:], wanted)[0] for g in (then, otherwise))
    if not lanes.batched[0]:
        return apply_all("cond", *inputs, then=first, otherwise=second)
    pairs = zip(inline(first, inputs[1:]), inline(second, inputs[1:]), strict=True)
    return [_chosen(inputs[0], a, b) for a, b in pairs]



register(
    Op(
        "cond",
        "The results of one of two branches; only that one runs.",
        _cond_type,
        _cond_reference,
        _cond_vjp,
        _cond_jvp,
        kind="region",
        samples=tuple(
            Sample(
                (tensor((), bool_), tensor((3,), dtype)),
                _cond_graphs(dtype),
                arrays={0: np.asarray(choice)},
                differentiable=dtype == float64,
            )
            for dtype in (float32, float64)
            for choice in (True, False)
        ),
        error_samples=(
            ErrorSample((tensor(()), tensor((3,))), _cond_graphs(), DTypeError, "must be bool"),
        ),
        batch=_cond_batch,
    )
)
