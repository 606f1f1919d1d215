"""Compute what depends on constants alone.

::

    full(2.0) * full(3.0)                 ->  full(6.0)       of any shape, by the op's reference
    reshape(full(1.0)), broadcast(..)     ->  full(1.0)
    exp(constant), constant[2:5]          ->  constant        up to CAP elements
    group(constant), argsort(constant)    ->  constants
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.graph import Graph, Node, Value, apply, rebuild
from graphc.kernel.scalar_ops import SCALAR_OPS
from graphc.op import OPS
from graphc.ops.lifting import constant
from graphc.types import Extent, TensorType

__all__ = ["fold_constants"]

#: elements of a folded constant
CAP = 1 << 16
_MOVEMENT = frozenset({"reshape", "permute", "broadcast", "slice", "flip"})


def fold_constants(graph: Graph) -> Graph:
    """``graph`` with what is constant computed."""
    return rebuild(graph, _fold)


def _fold(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    if not inputs:
        return None
    if len(node.types) == 1 and all(v.node.op == "full" for v in inputs):
        return _uniform(node, inputs)
    if all(v.node.op in ("full", "constant", "iota") for v in inputs):
        return _arrays(node, inputs)
    return None


def _uniform(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    """Every element is the same number, computed once."""
    type_ = node.types[0]
    if node.op in _MOVEMENT:
        return [_full(inputs[0].node.attrs["value"], type_)]
    if node.op not in SCALAR_OPS and node.op != "cast":
        return None
    reference = OPS[node.op].reference
    assert reference is not None  # every elementwise op has one
    numbers = [np.asarray(v.node.attrs["value"], v.dtype.numpy) for v in inputs]
    with np.errstate(all="ignore"):
        (result,) = reference(numbers, node.attrs, (TensorType(type_.dtype, ()),))
    return [_full(np.asarray(result).item(), type_)]


def _full(value: bool | int | float, type_: TensorType) -> Value:
    return apply("full", shape=type_.shape, value=value, dtype=type_.dtype)


def _arrays(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    op = OPS[node.op]
    known = all(_small(v.type) for v in (*inputs, *node.outputs))
    stored = any(v.node.op == "constant" for v in inputs)
    if op.reference is None or op.kind not in ("map", "routine") or not known or not stored:
        return None
    with np.errstate(all="ignore"):
        arrays = [_array(v) for v in inputs]
        results = op.reference(arrays, node.attrs, node.types)
    pairs = zip(results, node.types, strict=True)
    # a scalar is weak, so its dtype is said
    return [constant(np.asarray(r, t.dtype.numpy), t.dtype) for r, t in pairs]


def _array(value: Value) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    reference = OPS[value.node.op].reference
    assert reference is not None  # full, constant and iota have one
    return np.asarray(reference([], value.node.attrs, value.node.types)[0])


def _small(type_: TensorType) -> bool:
    elements: Extent = type_.elements
    return isinstance(elements, int) and 0 < elements <= CAP
