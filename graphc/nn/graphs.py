"""Graph layers on edge lists; names, arguments and parameters are PyTorch Geometric's.

x is [N, in_channels], ``edge_index`` [2, E] (sources, then targets). A layer adds to each node what
its neighbours send::

    x_i' = update(x_i, aggregate over edges (j -> i) of message(x_i, x_j, e_ji))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc import ops
from graphc.dsl import parameter, state
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.functional.graphs import AGGREGATIONS, ends
from graphc.nn.layers import Linear
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import Extent, float32

__all__ = [
    "GATConv",
    "GATv2Conv",
    "GCNConv",
    "GINConv",
    "MessagePassing",
    "MetaLayer",
    "SAGEConv",
    "VirtualNode",
]


def _glorot(columns: int, rows: int, dtype: object) -> Linear:
    """A linear map without bias whose weight starts as Glorot and Bengio's."""
    layer = Linear(columns, rows, bias=False, dtype=dtype)
    layer.weight = parameter((rows, columns), dtype, init=init.xavier_uniform)
    return layer


class MessagePassing(Module):
    """Base of graph layers: write ``message`` and ``update``, call ``propagate``.

    ``aggr`` is "sum", "mean", "max" or "softmax". The message of an edge j -> i is x_j unless
    ``message`` says otherwise; the update is what was gathered.

    >>> import graphc as gc
    >>> class Difference(MessagePassing):
    ...     def forward(self, x, edge_index): return self.propagate(x, edge_index)
    ...     def message(self, x_i, x_j, edge_attr): return x_j - x_i
    >>> Difference("max")(gc.observed("x", (5, 3)), gc.observed("e", (2, 8), gc.int64)).shape
    (5, 3)
    """

    def __init__(self, aggr: str = "sum") -> None:
        if aggr not in AGGREGATIONS:
            raise ValueError(
                f"{type(self).__name__}: aggr is one of {', '.join(AGGREGATIONS)}, not {aggr!r}"
            )
        self.aggr = aggr

    def message(self, x_i: Value, x_j: Value, edge_attr: Value | None) -> Value:
        """What goes from the source j to the target i along each edge: [E, ...]."""
        return x_j

    def update(self, gathered: Value, x: Value) -> Value:
        """A node's new features from what arrived, [N, ...], and its old ones."""
        return gathered

    def propagate(self, x: Value, edge_index: Value, edge_attr: Value | None = None) -> Value:
        """Messages along all edges, gathered at their targets, and the update."""
        _check_nodes(self._own_name, x)
        source, target = ends(self._own_name, edge_index)
        sent = self.message(ops.take(x, target, 0), ops.take(x, source, 0), edge_attr)
        return self.update(functional.aggregate(sent, target, x.shape[0], self.aggr), x)


class GCNConv(Module):
    """``D^-1/2 (A + I) D^-1/2 X W^T + b``: a neighbourhood's mean, weighed by degrees.

    ``lin.weight`` [out, in], ``bias`` [out]. See ``functional.gcn_norm``. Kipf, Welling 2017.

    >>> import graphc as gc
    >>> GCNConv(3, 4)(gc.observed("x", (5, 3)), gc.observed("e", (2, 8), gc.int64)).shape
    (5, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        improved: bool = False,
        *,
        add_self_loops: bool = True,
        normalize: bool = True,
        bias: bool = True,
        dtype: object = float32,
    ) -> None:
        self.improved, self.add_self_loops, self.normalize = improved, add_self_loops, normalize
        self.lin = _glorot(in_channels, out_channels, dtype)
        self.bias = parameter((out_channels,), dtype) if bias else None

    def forward(self, x: Value, edge_index: Value, edge_weight: Value | None = None) -> Value:
        """x [N, in], edge_index [2, E], edge_weight [E] (ones) -> [N, out]."""
        _check_nodes(self._own_name, x)
        nodes, flow = x.shape[0], self.lin(x)
        weight = edge_weight
        if self.normalize:
            options = self.improved, self.add_self_loops, x.dtype
            source, target, weight = functional.gcn_norm(edge_index, edge_weight, nodes, *options)
        else:
            source, target = ends(self._own_name, edge_index)
        sent = ops.take(flow, source, 0)
        sent = sent if weight is None else sent * ops.expand_dims(weight, -1)
        gathered = ops.segment_sum(sent, target, nodes)
        return gathered if self.bias is None else gathered + self.bias


class _Attentive(Module):
    """What both attention layers share: scores of edges to weights, heads joined."""

    heads: int
    out_channels: int
    concat: bool
    dropout: float
    add_self_loops: bool
    bias: Any

    def _edges(self, x: Value, edge_index: Value) -> tuple[Value, Value, Value | None]:
        """Sources, targets, and which edges count."""
        if self.add_self_loops:
            return functional.with_self_loops(edge_index, x.shape[0])
        return (*ends(self._own_name, edge_index), None)

    def _attended(
        self, scores: Value, sent: Value, target: Value, counts: Value | None, nodes: Extent
    ) -> Value:
        """scores [E, H] and what is sent [E, H, C] to [N, H C], or the heads' mean [N, C]."""
        if counts is not None:
            scores = ops.where(ops.expand_dims(counts, -1), scores, -float("inf"))
        weights = functional.dropout(
            functional.segment_softmax(scores, target, nodes), self.dropout
        )
        out = ops.segment_sum(ops.expand_dims(weights, -1) * sent, target, nodes)
        width = self.heads * self.out_channels
        out = ops.reshape(out, (nodes, width)) if self.concat else ops.mean(out, 1)
        return out if self.bias is None else out + self.bias

    def _by_head(self, x: Value) -> Value:
        return ops.reshape(x, (x.shape[0], self.heads, self.out_channels))

    def _describe(self) -> str:
        return f"out_channels={self.out_channels}, heads={self.heads}"


class GATConv(_Attentive):
    """Neighbours weighed by attention, ``heads`` times side by side::

        a_ji = softmax over j of leaky_relu(att_src . W x_j + att_dst . W x_i)
        x_i' = sum_j a_ji W x_j

    Loops are replaced by one at each node. Velickovic et al., "Graph Attention Networks", 2018.

    >>> import graphc as gc
    >>> GATConv(3, 4, heads=2)(gc.observed("x", (5, 3)), gc.observed("e", (2, 8), gc.int64)).shape
    (5, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        *,
        bias: bool = True,
        dtype: object = float32,
    ) -> None:
        _check_attention("GATConv", heads, dropout)
        self.out_channels, self.heads, self.concat = out_channels, heads, concat
        self.negative_slope, self.dropout = negative_slope, dropout
        self.add_self_loops = add_self_loops
        self.att_src = parameter((1, heads, out_channels), dtype, init=_glorot_of_last_axes)
        self.att_dst = parameter((1, heads, out_channels), dtype, init=_glorot_of_last_axes)
        width = heads * out_channels
        self.bias = parameter((width if concat else out_channels,), dtype) if bias else None
        self.lin = _glorot(in_channels, width, dtype)

    def forward(self, x: Value, edge_index: Value) -> Value:
        """x [N, in], edge_index [2, E] -> [N, heads * out], without ``concat`` [N, out]."""
        _check_nodes(self._own_name, x)
        source, target, counts = self._edges(x, edge_index)
        flow = self._by_head(self.lin(x))
        from_source = ops.sum(flow * self.att_src, -1)
        from_target = ops.sum(flow * self.att_dst, -1)
        scores = ops.take(from_source, source, 0) + ops.take(from_target, target, 0)
        scores = functional.leaky_relu(scores, self.negative_slope)
        return self._attended(scores, ops.take(flow, source, 0), target, counts, x.shape[0])


class GATv2Conv(_Attentive):
    """As GATConv, but each query ranks the neighbours by itself::

        a_ji = softmax over j of att . leaky_relu(W_l x_j + W_r x_i)
        x_i' = sum_j a_ji W_l x_j

    Brody, Alon, Yahav, "How Attentive are Graph Attention Networks?", 2022.

    >>> import graphc as gc
    >>> layer = GATv2Conv(3, 4, heads=2, concat=False)
    >>> layer(gc.observed("x", (5, 3)), gc.observed("e", (2, 8), gc.int64)).shape
    (5, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        *,
        bias: bool = True,
        share_weights: bool = False,
        dtype: object = float32,
    ) -> None:
        _check_attention("GATv2Conv", heads, dropout)
        self.out_channels, self.heads, self.concat = out_channels, heads, concat
        self.negative_slope, self.dropout = negative_slope, dropout
        self.add_self_loops = add_self_loops
        self.att = parameter((1, heads, out_channels), dtype, init=_glorot_of_last_axes)
        width = heads * out_channels
        self.bias = parameter((width if concat else out_channels,), dtype) if bias else None
        self.lin_l = _glorot(in_channels, width, dtype)
        self.lin_l.bias = parameter((width,), dtype) if bias else None
        if share_weights:
            self.lin_r = self.lin_l
            return
        self.lin_r = _glorot(in_channels, width, dtype)
        self.lin_r.bias = parameter((width,), dtype) if bias else None

    def forward(self, x: Value, edge_index: Value) -> Value:
        """x [N, in], edge_index [2, E] -> [N, heads * out], without ``concat`` [N, out]."""
        _check_nodes(self._own_name, x)
        source, target, counts = self._edges(x, edge_index)
        sent = ops.take(self._by_head(self.lin_l(x)), source, 0)
        asked = ops.take(self._by_head(self.lin_r(x)), target, 0)
        scores = functional.leaky_relu(sent + asked, self.negative_slope)
        scores = ops.sum(scores * self.att, -1)
        return self._attended(scores, sent, target, counts, x.shape[0])


class SAGEConv(Module):
    """``W_l aggregate(x_j) + W_r x_i``: what the neighbours have, beside what the node has.

    ``lin_l`` with bias, ``lin_r`` without (none where ``root_weight`` is False); ``normalize``
    divides by the 2-norm; ``project`` sends relu(lin x). Hamilton, Ying, Leskovec, "Inductive
    Representation Learning on Large Graphs", 2017.

    >>> import graphc as gc
    >>> SAGEConv(3, 4)(gc.observed("x", (5, 3)), gc.observed("e", (2, 8), gc.int64)).shape
    (5, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        aggr: str = "mean",
        normalize: bool = False,
        root_weight: bool = True,
        project: bool = False,
        bias: bool = True,
        *,
        dtype: object = float32,
    ) -> None:
        if aggr not in AGGREGATIONS:
            raise ValueError(f"SAGEConv: aggr is one of {', '.join(AGGREGATIONS)}, not {aggr!r}")
        self.aggr, self.normalize = aggr, normalize
        self.lin = Linear(in_channels, in_channels, dtype=dtype) if project else None
        self.lin_l = Linear(in_channels, out_channels, bias, dtype=dtype)
        self.lin_r = Linear(in_channels, out_channels, False, dtype=dtype) if root_weight else None

    def forward(self, x: Value, edge_index: Value) -> Value:
        """x [N, in], edge_index [2, E] -> [N, out]."""
        _check_nodes(self._own_name, x)
        source, target = ends(self._own_name, edge_index)
        flow = x if self.lin is None else ops.relu(self.lin(x))
        gathered = functional.aggregate(ops.take(flow, source, 0), target, x.shape[0], self.aggr)
        out: Value = self.lin_l(gathered)
        if self.lin_r is not None:
            out = out + self.lin_r(x)
        if not self.normalize:
            return out
        squares = ops.sum(out * out, -1, keepdims=True)
        return out / ops.maximum(ops.sqrt(squares), 1e-12)


class GINConv(Module):
    """``nn((1 + eps) x_i + sum_j x_j)``: as strong as the Weisfeiler-Lehman test.

    ``eps`` [1] is a buffer, or with ``train_eps`` a parameter. Xu et al., "How Powerful are Graph
    Neural Networks?", 2019.

    >>> import graphc as gc
    >>> layer = GINConv(gc.nn.Linear(3, 4))
    >>> layer(gc.observed("x", (5, 3)), gc.observed("e", (2, 8), gc.int64)).shape
    (5, 4)
    """

    def __init__(
        self,
        nn: Callable[[Value], Value],
        eps: float = 0.0,
        train_eps: bool = False,
        *,
        dtype: object = float32,
    ) -> None:
        self.nn = nn
        self.eps = (parameter if train_eps else state)([eps], dtype)

    def forward(self, x: Value, edge_index: Value) -> Value:
        """x [N, in], edge_index [2, E] -> what ``nn`` makes of [N, in]."""
        _check_nodes(self._own_name, x)
        source, target = ends(self._own_name, edge_index)
        gathered = ops.segment_sum(ops.take(x, source, 0), target, x.shape[0])
        return self.nn(gathered + (1.0 + self.eps) * x)


class MetaLayer(Module):
    """Edges, then nodes, then whole graphs take what they see of each other::

        e' = edge_model(x[source], x[target], e, u, batch[source])
        x' = node_model(x, edge_index, e', u, batch)
        u' = global_model(x', edge_index, e', u, batch)

    ``batch`` [N] says whose a node is; a model that is None leaves its part as it was. Battaglia
    et al., "Relational Inductive Biases, Deep Learning, and Graph Networks", 2018.
    """

    def __init__(
        self,
        edge_model: Module | None = None,
        node_model: Module | None = None,
        global_model: Module | None = None,
    ) -> None:
        self.edge_model, self.node_model = edge_model, node_model
        self.global_model = global_model

    def forward(
        self,
        x: Value,
        edge_index: Value,
        edge_attr: Value | None = None,
        u: Value | None = None,
        batch: Value | None = None,
    ) -> tuple[Value, Value | None, Value | None]:
        """(x, edge_attr, u), each as its model makes it."""
        _check_nodes(self._own_name, x)
        source, target = ends(self._own_name, edge_index)
        if self.edge_model is not None:
            whose = None if batch is None else ops.take(batch, source, 0)
            from_ends = ops.take(x, source, 0), ops.take(x, target, 0)
            edge_attr = self.edge_model(*from_ends, edge_attr, u, whose)
        if self.node_model is not None:
            x = self.node_model(x, edge_index, edge_attr, u, batch)
        if self.global_model is not None:
            u = self.global_model(x, edge_index, edge_attr, u, batch)
        return x, edge_attr, u


class VirtualNode(Module):
    """A layer beside a master node that all nodes of a graph share::

        x' = conv(x + u[batch], edge_index)         u' = u + mlp(u + sum over nodes of x')

    so that two nodes are never further apart than two steps. Gilmer et al., "Neural Message Passing
    for Quantum Chemistry", 2017.

    >>> import graphc as gc
    >>> layer = VirtualNode(GCNConv(3, 3), gc.nn.Linear(3, 3))
    >>> x, e = gc.observed("x", (5, 3)), gc.observed("e", (2, 8), gc.int64)
    >>> [v.shape for v in layer(x, gc.ops.zeros((2, 3)), e, gc.observed("batch", (5,), gc.int64))]
    [(5, 3), (2, 3)]
    """

    def __init__(self, conv: Module, mlp: Module) -> None:
        self.conv, self.mlp = conv, mlp

    def forward(self, x: Value, u: Value, edge_index: Value, batch: Value) -> tuple[Value, Value]:
        """x [N, C], u [graphs, C], edge_index [2, E], batch [N] -> the new x and u."""
        x = self.conv(x + ops.take(u, batch, 0), edge_index)
        return x, u + self.mlp(u + functional.global_add_pool(x, batch, u.shape[0]))


def _glorot_of_last_axes(shape: tuple[int, ...], dtype: Any, key: Any) -> Any:
    """Uniform within sqrt(6 / (a + b)) of the last two axes a, b."""
    bound = (6.0 / (shape[-2] + shape[-1])) ** 0.5
    return init.uniform(shape, dtype, key, low=-bound, high=bound)


def _check_nodes(name: str, x: Value) -> None:
    if x.ndim != 2:
        raise ShapeError(f"{name}: x is {x.type}, it must be [nodes, channels]", here())


def _check_attention(name: str, heads: int, dropout: float) -> None:
    if heads < 1:
        raise ValueError(f"{name}: heads is a positive int, not {heads}")
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"{name}: dropout is a probability in [0, 1], not {dropout}")
