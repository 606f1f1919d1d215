"""Derivatives as graph transforms: reverse mode (``vjp``, ``grad``), forward mode (``jvp``),
``hvp``.

::

    vjp: for nodes from the last to the first:  ct[inputs]  += op.vjp(node, ct[outputs])
    jvp: for nodes from the first to the last:  t[outputs]   = op.jvp(node, t[inputs])

Only nodes between ``wrt`` and the results are visited, so both are linear in the graph. The rules
build graph, never numbers, so the modes apply to each other's results to any order. Every node
made for the derivative of a forward node keeps that node as ``primal``, its block and its line.
Derivatives are total: the one towards an intermediate value counts all of its uses.

An op without a rule (comparisons, rounding, ``stop_gradient``) cuts: its derivative is zero in
``vjp``, ``jvp`` and ``hvp``, and ``grad`` says where the cut is when nothing else connects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from graphc import tree
from graphc.errors import DTypeError, GradError, ShapeError
from graphc.graph import Node, Value, ancestors, differentiating
from graphc.op import OPS, Op
from graphc.ops.lifting import broadcast_to, constant, full
from graphc.source import here
from graphc.types import TensorType

__all__ = ["grad", "gradients", "hvp", "jvp", "vjp"]


def grad(cost: Value, wrt: Any, *, unused: str = "error") -> Any:
    """The gradient of a scalar ``cost``, shaped like ``wrt``: a Value, a structure, or a Module.

    ``wrt`` may be anything the cost is computed from: parameters, states, inputs, targets,
    intermediate values. Of a Module: a dict of its parameters' gradients by name. A ``wrt`` that
    is an integer, or that no differentiable path joins to the cost, is a GradError; with
    ``unused="zero"`` the latter has a gradient of zeros.

    >>> import graphc as gc
    >>> x = gc.observed("x", (3,))
    >>> gc.grad((x * x).sum(), x).type
    f32[3]
    """
    if unused not in ("error", "zero"):
        raise GradError(f"grad: unused is 'error' or 'zero', not {unused!r}", here())
    _check_cost(cost)
    values, form = tree.flatten(wrt)
    _check_wrt(values, form)
    found = gradients(cost, values)
    if unused == "error":
        missing = [v for v, ct in zip(values, found, strict=True) if ct is None]
        if missing:
            raise _disconnected(cost, missing[0])
    return form.build(_or_zeros(values, found))


def gradients(cost: Value, values: Sequence[Value]) -> list[Value | None]:
    """The gradients of a scalar cost, None where no differentiable path joins a value to it."""
    _check_cost(cost)
    with differentiating(cost.node):  # so that closing a graph finds what the cost attaches
        seed = _filled(cost.type, 1)
    return _reverse([cost], values, [seed])


def vjp(outputs: Any, wrt: Any, cotangents: Any) -> Any:
    """Vector-Jacobian product: ``sum over outputs of cotangent * d output / d wrt``, like ``wrt``.

    ``cotangents`` has the structure of ``outputs``, leaf by leaf the same type. Where nothing
    connects, and for integers, the result is zeros.
    """
    ends, end_form = tree.flatten(outputs)
    values, form = tree.flatten(wrt)
    seeds = _seeds(tree.matching_leaves(cotangents, end_form, "cotangents"), ends, "cotangent")
    return form.build(_or_zeros(values, _reverse(ends, values, seeds)))


def jvp(outputs: Any, wrt: Any, tangents: Any) -> Any:
    """Jacobian-vector product: ``sum over wrt of d output / d wrt * tangent``, like ``outputs``.

    ``tangents`` has the structure of ``wrt``. The directions are independent even where one
    ``wrt`` is computed from another.
    """
    ends, end_form = tree.flatten(outputs)
    values, form = tree.flatten(wrt)
    seeds = _seeds(tree.matching_leaves(tangents, form, "tangents"), values, "tangent")
    return end_form.build(_or_zeros(ends, _forward(ends, values, seeds)))


def hvp(cost: Value, wrt: Any, v: Any) -> Any:
    """Hessian-vector product of a scalar cost, like ``wrt``: forward mode over its gradient.

    Costs a small multiple of the gradient and never forms the Hessian (Pearlmutter 1994).
    """
    return jvp(grad(cost, wrt, unused="zero"), wrt, v)


# ---- the two sweeps


def _reverse(
    outputs: Sequence[Value], wrt: Sequence[Value], cotangents: Sequence[Value | None]
) -> list[Value | None]:
    nodes = ancestors(outputs)
    active = _active(nodes, wrt)
    pending: dict[Value, list[Value]] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if cotangent is not None and output in active:
            pending.setdefault(output, []).append(cotangent)
    total: dict[Value, Value] = {}
    for node in reversed(nodes):
        if not any(output in pending for output in node.outputs):
            continue
        with differentiating(node):
            for output in node.outputs:
                if output in pending:
                    total[output] = _sum(pending.pop(output))
            if any(v in active for v in node.inputs):
                _pull(node, [total.get(v) for v in node.outputs], active, pending)
    return [total.get(v) for v in wrt]


def _pull(
    node: Node,
    cotangents: list[Value | None],
    active: set[Value],
    pending: dict[Value, list[Value]],
) -> None:
    """Hand the cotangents of the node's results on to its inputs."""
    rule = OPS[node.op].vjp
    if rule is None or all(ct is None for ct in cotangents):
        return
    given = rule(node, cotangents, TRANSFORM)
    for slot, (value, ct) in enumerate(zip(node.inputs, given, strict=True)):
        if ct is None or value not in active:
            continue
        if ct.type != value.type:
            raise GradError(
                f"the vjp rule of {node.op!r} gave {ct.type} for its input {slot} of {value.type}; "
                "a cotangent has its value's type",
                node.source,
            )
        pending.setdefault(value, []).append(ct)


def _forward(
    outputs: Sequence[Value], wrt: Sequence[Value], tangents: Sequence[Value | None]
) -> list[Value | None]:
    nodes = ancestors(outputs)
    active = _active(nodes, wrt)
    found: dict[Value, Value] = {}
    seeds: dict[Value, list[Value]] = {}
    for value, tangent in zip(wrt, tangents, strict=True):
        if tangent is not None and value in active:
            seeds.setdefault(value, []).append(tangent)
    for node in nodes:
        if not any(v in active for v in node.outputs):
            continue
        with differentiating(node):
            pushed = _push(node, [found.get(v) for v in node.inputs])
            for output, tangent in zip(node.outputs, pushed, strict=True):
                parts = ([] if tangent is None else [tangent]) + seeds.get(output, [])
                if parts:
                    found[output] = _sum(parts)
    return [found.get(v) for v in outputs]


def _push(node: Node, tangents: list[Value | None]) -> Sequence[Value | None]:
    """The tangents of the node's results."""
    rule = OPS[node.op].jvp
    if rule is None or all(t is None for t in tangents):
        return [None] * len(node.outputs)
    return rule(node, tangents, TRANSFORM)


def _active(nodes: Iterable[Node], wrt: Iterable[Value]) -> set[Value]:
    """The values through which a derivative with respect to ``wrt`` flows."""
    active = {v for v in wrt if v.dtype.is_float}
    for node in nodes:
        if any(v in active for v in node.inputs) and _has_rule(OPS[node.op]):
            active.update(v for v in node.outputs if v.dtype.is_float)
    return active


def _has_rule(op: Op) -> bool:
    return op.vjp is not None or op.jvp is not None


def _sum(parts: list[Value]) -> Value:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


class _Transform:
    """Autodiff as the rules of ops with bodies see it: flat sequences, zeros where disconnected."""

    def vjp(
        self, outputs: Sequence[Value], wrt: Sequence[Value], cotangents: Sequence[Value | None]
    ) -> tuple[Value, ...]:
        return tuple(_or_zeros(wrt, _reverse(outputs, wrt, cotangents)))

    def jvp(
        self, outputs: Sequence[Value], wrt: Sequence[Value], tangents: Sequence[Value | None]
    ) -> tuple[Value, ...]:
        return tuple(_or_zeros(outputs, _forward(outputs, wrt, tangents)))


TRANSFORM = _Transform()


# ---- seeds and zeros


def _filled(type: TensorType, value: float) -> Value:
    return full(type.shape, value, type.dtype)


def _or_zeros(like: Sequence[Value], found: Sequence[Value | None]) -> list[Value]:
    return [_filled(v.type, 0) if ct is None else ct for v, ct in zip(like, found, strict=True)]


def _seeds(given: Sequence[Any], like: Sequence[Value], what: str) -> list[Value | None]:
    return [_seed(seed, value, what) for seed, value in zip(given, like, strict=True)]


def _seed(seed: Any, value: Value, what: str) -> Value | None:
    """A cotangent or tangent of ``value``: a Value or array of its type, or a number."""
    if not value.dtype.is_float:
        return None
    if not isinstance(seed, Value):
        seed = broadcast_to(constant(seed, value.dtype), value.shape)
    if seed.shape != value.shape:
        raise ShapeError(
            f"{what} of {value!r}: expected shape {value.shape}, got {seed.shape}", here()
        )
    if seed.dtype != value.dtype:
        raise DTypeError(
            f"{what} of {value!r}: expected {value.dtype.name}, got {seed.dtype.name}; "
            f"say .astype(gc.{value.dtype.name})",
            here(),
        )
    return seed  # type: ignore[no-any-return]


# ---- what grad refuses


def _check_cost(cost: Value) -> None:
    if not isinstance(cost, Value):
        raise GradError(f"grad: the cost is a Value, got {type(cost).__name__}", here())
    if cost.shape != ():
        raise GradError(
            f"grad: the cost {cost!r} is not a scalar; reduce it (.sum(), .mean()), "
            "or give cotangents to gc.vjp",
            cost.node.source,
        )
    if not cost.dtype.is_float:
        raise GradError(
            f"grad: the cost {cost!r} is {cost.dtype.name}, which has no derivative; "
            "compute it in a floating type",
            cost.node.source,
        )


def _check_wrt(values: Sequence[Any], form: tree.Structure) -> None:
    for value, path in zip(values, form.paths("wrt"), strict=True):
        if not isinstance(value, Value):
            raise GradError(f"grad: {path} is a {type(value).__name__}, expected a Value")
        if not value.dtype.is_float:
            raise GradError(
                f"grad: {path}, {value!r}, is {value.dtype.name}, which has no derivative; "
                "declare it float32 (or leave it out of wrt)",
                value.node.source,
            )


def _disconnected(cost: Value, value: Value) -> GradError:
    """Name the op that cuts the last path from ``value`` to ``cost``, or say that there is none."""
    reached = {value}
    cut: Node | None = None
    flows = {value}
    for node in ancestors([cost]):
        if not any(v in reached for v in node.inputs):
            continue
        reached.update(node.outputs)
        smooth = [v for v in node.outputs if v.dtype.is_float and _has_rule(OPS[node.op])]
        if any(v in flows for v in node.inputs):
            flows.update(smooth)
            cut = cut if smooth else node
    if cost not in reached:
        return GradError(
            f"grad: {cost!r} is not computed from {value!r}; "
            'leave it out of wrt, or say unused="zero"',
            value.node.source,
        )
    where = f" at {cut.source}" if cut is not None and cut.source else ""
    what = cut.op if cut is not None else "an op without derivative"
    return GradError(
        f"grad: {value!r} reaches {cost!r} only through {what!r}{where}, "
        'which no derivative passes; leave it out of wrt, or say unused="zero"',
        value.node.source,
    )
