"""Algebra that changes no bit of any result.

::

    x * 1, x / 1, x - 0, x + -0.0, pow(x, 1)      ->  x      (x + 0.0 is 0.0 for x = -0.0: it stays)
    x + 0, x * 0, x & 0  of integers              ->  x, 0, 0
    -(-x), not not x                              ->  x
    where(true, a, b), where(c, a, a)             ->  a
    reshape(reshape(x)), permute(permute(x)),
    broadcast(broadcast(x))                       ->  one of them
    cast(cast(x; wider); x's own dtype)           ->  x
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.graph import Graph, Node, Value, apply, rebuild
from graphc.passes.canonicalize import moves_nothing

__all__ = ["simplify"]


def simplify(graph: Graph) -> Graph:
    """``graph`` with every rule applied where it fits."""
    return rebuild(graph, _simplified)


def _simplified(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    rule = _RULES.get(node.op)
    found = None if rule is None else rule(node, inputs)
    if found is None and len(inputs) == 1 and moves_nothing(node, inputs[0]):
        found = inputs[0]
    return None if found is None else [found]


def _number(value: Value) -> bool | int | float | None:
    """The number that every element of ``value`` is, if that is known."""
    return value.node.attrs["value"] if value.node.op == "full" else None


def _is(value: Value, number: int) -> bool:
    """Whether every element is ``number``, and not its negative zero."""
    known = _number(value)
    return known is not None and repr(float(known)) == repr(float(number))


def _add(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    x, y = inputs
    neutral = repr(-0.0) if x.dtype.is_float else repr(0.0)
    known = _number(y)
    return x if known is not None and repr(float(known)) == neutral else None


def _subtract(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    return inputs[0] if _is(inputs[1], 0) else None


def _multiply(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    x, y = inputs
    if _is(y, 1):
        return x
    return y if not x.dtype.is_float and _is(y, 0) else None


def _divide(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    x, y = inputs
    return x if x.dtype == node.types[0].dtype and _is(y, 1) else None


def _power(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    x, exponent = inputs
    if _is(exponent, 1):
        return x
    return apply("*", x, x) if _is(exponent, 2) and x.dtype.is_float else None


def _twice(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    inner = inputs[0].node
    return inner.inputs[0] if inner.op == node.op else None


def _where(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    condition, yes, no = inputs
    known = _number(condition)
    if known is not None:
        return yes if known else no
    return yes if yes is no else None


def _reshape(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    inner = inputs[0].node
    if inner.op != "reshape":
        return None
    x, shape = inner.inputs[0], node.attrs["shape"]
    return x if x.shape == shape else apply("reshape", x, shape=shape)


def _permute(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    inner = inputs[0].node
    if inner.op != "permute":
        return None
    order = tuple(inner.attrs["order"][i] for i in node.attrs["order"])
    x = inner.inputs[0]
    return x if order == tuple(range(x.ndim)) else apply("permute", x, order=order)


def _broadcast(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    inner = inputs[0].node
    if inner.op != "broadcast":
        return None
    axes = tuple(node.attrs["axes"][i] for i in inner.attrs["axes"])
    return apply("broadcast", inner.inputs[0], shape=node.attrs["shape"], axes=axes)


def _cast(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    inner = inputs[0].node
    if inner.op != "cast":
        return None
    x, middle, last = inner.inputs[0], inputs[0].dtype, node.types[0].dtype
    holds = x.dtype.kind == middle.kind and x.dtype.itemsize <= middle.itemsize
    halves = {x.dtype.name, middle.name} == {"float16", "bfloat16"}
    return x if x.dtype == last and holds and not halves else None


_Rule = Callable[[Node, tuple[Value, ...]], Value | None]
_RULES: dict[str, _Rule] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "pow": _power,
    "neg": _twice,
    "not": _twice,
    "~": _twice,
    "where": _where,
    "reshape": _reshape,
    "permute": _permute,
    "broadcast": _broadcast,
    "cast": _cast,
}
