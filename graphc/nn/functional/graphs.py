"""What graph layers are made of: edges with features, aggregated at the nodes that they point to.

An edge list is ``edge_index`` [2, E], integers: row 0 the sources, row 1 the targets. Sizes of
nodes and edges may be run-time ones, so that one program serves all graphs.
"""

from __future__ import annotations

import math

from graphc import ops
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value
from graphc.op import composite
from graphc.ops.lifting import lift_one
from graphc.source import here
from graphc.types import Extent

__all__ = [
    "aggregate",
    "gcn_norm",
    "global_add_pool",
    "global_max_pool",
    "global_mean_pool",
    "segment_softmax",
    "with_self_loops",
]

AGGREGATIONS = ("sum", "add", "mean", "max", "min", "softmax")


@composite
def aggregate(
    messages: Value, index: Value, count: Extent, aggr: str = "sum", t: float | Value = 1.0
) -> Value:
    """Messages [E, ...] gathered at the nodes ``index`` [E]: [count, ...].

    ``aggr`` is "sum" (or "add"), "mean", "max", "min", or "softmax": the mean with weights
    softmax(t messages), element by element (Li et al., "DeeperGCN", 2020). A node without messages
    has 0.

    >>> import graphc as gc
    >>> aggregate(gc.observed("m", (7, 3)), gc.observed("to", (7,), gc.int64), 4, "max").shape
    (4, 3)
    """
    if aggr not in AGGREGATIONS:
        raise ValueError(f"aggregate: aggr is one of {', '.join(AGGREGATIONS)}, not {aggr!r}")
    if aggr in ("sum", "add"):
        return ops.segment_sum(messages, index, count)
    if aggr == "mean":
        return ops.segment_mean(messages, index, count)
    if aggr == "max":
        largest = ops.segment_max(messages, index, count)
        return ops.where(largest == -math.inf, 0.0, largest)
    if aggr == "min":
        least = ops.segment_min(messages, index, count)
        return ops.where(least == math.inf, 0.0, least)
    weights = segment_softmax(messages * t, index, count)
    return ops.segment_sum(messages * weights, index, count)


@composite
def segment_softmax(scores: Value, index: Value, count: Extent) -> Value:
    """``exp(s) / sum exp(s)`` over the elements that share an index: scores [E, ...] to the same.

    An element of -inf has weight 0, also where all of its segment are.

    >>> import graphc as gc
    >>> segment_softmax(gc.observed("s", (7,)), gc.observed("to", (7,), gc.int64), 4).shape
    (7,)
    """
    highest = ops.stop_gradient(ops.segment_max(scores, index, count))
    highest = ops.where(highest == -math.inf, 0.0, highest)
    raised = ops.exp(scores - ops.take(highest, index, 0))
    total = ops.segment_sum(raised, index, count)
    total = ops.where(total == 0.0, 1.0, total)
    return raised / ops.take(total, index, 0)


def with_self_loops(edge_index: Value, nodes: Extent) -> tuple[Value, Value, Value]:
    """Sources and targets [E + nodes] of the edges and one loop at each node, and which of them
    count, bool [E + nodes]: not the loops that there were. So the number of edges is known.
    """
    source, target = ends("with_self_loops", edge_index)
    loops = ops.arange(nodes).astype(source.dtype)
    counts = ops.concat([source != target, ops.ones((nodes,)) > 0.0])
    return ops.concat([source, loops]), ops.concat([target, loops]), counts


@composite
def gcn_norm(
    edge_index: Value,
    edge_weight: Value | None,
    nodes: Extent,
    improved: bool = False,
    add_self_loops: bool = True,
    dtype: object = None,
) -> tuple[Value, Value, Value]:
    """Sources, targets and weights of the edges of ``D^-1/2 (A + I) D^-1/2``.

    D holds the sums of the weights that arrive at each node; ``improved`` adds 2 I. A node's own
    loop keeps its weight. Kipf, Welling, "Semi-Supervised Classification with Graph Convolutional
    Networks", 2017.
    """
    source, target = ends("gcn_norm", edge_index)
    kind = dtype if edge_weight is None else edge_weight.dtype
    weight = ops.ones(source.shape, kind) if edge_weight is None else edge_weight
    if weight.shape != source.shape:
        raise ShapeError(f"gcn_norm: edge_weight is {weight.type}, edges {edge_index.type}", here())
    if add_self_loops:
        is_loop = source == target
        # behind the nodes stands one more, for the edges that are no loops
        place = ops.where(is_loop, source, lift_one("gcn_norm", nodes))
        own = ops.full((nodes + 1,), 2.0 if improved else 1.0, weight.dtype)
        own = own.at[place].set(ops.where(is_loop, weight, 0.0))[:nodes]
        weight = ops.concat([ops.where(is_loop, 0.0, weight), own])
        source, target, _ = with_self_loops(edge_index, nodes)
    degree = ops.segment_sum(weight, target, nodes)
    alone = degree == 0.0  # below 0, by negative weights, there is no root: NaN
    scale = ops.where(alone, 0.0, ops.rsqrt(ops.where(alone, 1.0, degree)))
    return source, target, ops.take(scale, source, 0) * weight * ops.take(scale, target, 0)


def ends(name: str, edge_index: Value) -> tuple[Value, Value]:
    """Sources and targets [E], checked."""
    if edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise ShapeError(f"{name}: edge_index is {edge_index.type}, it must be [2, E]", here())
    if edge_index.dtype.kind not in "iu":
        raise DTypeError(f"{name}: edge_index holds integers, got {edge_index.type}", here())
    return edge_index[0], edge_index[1]


# ---- from nodes to graphs


@composite
def global_add_pool(x: Value, batch: Value, size: Extent) -> Value:
    """The sum over each graph's nodes: x [N, ...], ``batch`` [N] says whose a node is: [size, ...].

    >>> import graphc as gc
    >>> global_add_pool(gc.observed("x", (9, 3)), gc.observed("batch", (9,), gc.int64), 4).shape
    (4, 3)
    """
    return aggregate(x, batch, size, "sum")


@composite
def global_mean_pool(x: Value, batch: Value, size: Extent) -> Value:
    """The mean over each graph's nodes, 0 where there are none."""
    return aggregate(x, batch, size, "mean")


@composite
def global_max_pool(x: Value, batch: Value, size: Extent) -> Value:
    """The maximum over each graph's nodes, 0 where there are none."""
    return aggregate(x, batch, size, "max")
