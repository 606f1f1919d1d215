"""Run a graph with NumPy, op by op, through each op's reference: slow, plain, the oracle of every
other level.

Values are kept in their own dtype, so float32 stays float32. States are read before anything runs
and written after everything has, as in an executable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.closing import bind_dims, bind_graph
from graphc.errors import BindError
from graphc.graph import Graph, Value
from graphc.op import Array, run_nodes
from graphc.types import Dim

__all__ = ["interpret"]


def interpret(
    graph: Graph,
    arguments: Sequence[Any],
    states: Mapping[Value, Array] | None = None,
    sizes: Mapping[Dim, int] | None = None,
) -> tuple[list[Array], dict[Value, Array]]:
    """The outputs, and the new value of every updated state.

    ``arguments`` are in the order of ``graph.inputs``; dims are bound by their shapes (``sizes``
    adds those that no input has). ``states`` gives values of states and parameters; the others are
    read from their cells. No cell is written. Raises BindError where an argument does not fit.

    >>> from graphc.graph import Graph, source_value
    >>> from graphc.types import TensorType, float32
    >>> import graphc.ops
    >>> x = source_value("observed", TensorType(float32, (Dim("B"),)), "x")
    >>> outputs, _ = interpret(Graph((x,), (x * 2.0,)), [[1.0, 2.0]])
    >>> outputs[0]
    array([2., 4.], dtype=float32)
    """
    if len(arguments) != len(graph.inputs):
        raise BindError(f"the graph takes {len(graph.inputs)} inputs, got {len(arguments)}")
    arrays = [_coerced(a, v) for a, v in zip(arguments, graph.inputs, strict=True)]
    dims = bind_dims([v.type for v in graph.inputs], [a.shape for a in arrays])
    bound, _ = bind_graph(graph, {**dims, **(sizes or {})})
    known = dict(zip(bound.inputs, arrays, strict=True))
    for state in bound.states:
        given = None if states is None else states.get(state)
        cell = state.node.attrs["state"]
        known[state] = np.asarray(cell.numpy() if given is None else given)
    results = run_nodes(bound.nodes, known, bound.results)
    count = len(bound.outputs)
    new = {s: r for (s, _), r in zip(bound.updates, results[count:], strict=True)}
    return results[:count], new


def _coerced(argument: Any, value: Value) -> Array:
    array = np.asarray(argument)
    if array.dtype != value.dtype.numpy:
        array = array.astype(value.dtype.numpy)
    if array.ndim != value.ndim:
        raise BindError(f"{value!r}: got an array of shape {array.shape}")
    return array
