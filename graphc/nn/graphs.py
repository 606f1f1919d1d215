"""Graph layers on edge lists; names, arguments and parameters are PyTorch Geometric's.

x is [N, in_channels], ``edge_index`` [2, E] (sources, then targets). A layer adds to each node what
its neighbours send::

    x_i' = update(x_i, aggregate over edges (j -> i) of message(x_i, x_j, e_ji))
"""

from __future__ import annotations

from collections.abc import Callable

from graphc import ops
from graphc.dsl import parameter, state
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.functional.graphs import AGGREGATIONS, ends
from graphc.nn.layers import Linear
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import float32

__all__ = [
    "GCNConv",
    "GINConv",
    "MessagePassing",
    "MetaLayer",
    "SAGEConv",
    "VirtualNode",
]


def glorot(columns: int, rows: int, dtype: object) -> Linear:
    """A linear map without bias whose weight starts as Glorot and Bengio's."""
    layer = Linear(columns, rows, bias=False, dtype=dtype)
    layer.weight = parameter((rows, columns), dtype, init=init.xavier_uniform)
    return layer


class MessagePassing(Module):
    """Base of graph layers: write ``message`` and ``update``, call ``propagate``.

    ``aggr`` is "sum", "mean", "max", "min" or "softmax". The message of an edge j -> i is x_j
    unless ``message`` says otherwise; the update is what was gathered.

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
        check_nodes(self._own_name, x)
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
        self.lin = glorot(in_channels, out_channels, dtype)
        self.bias = parameter((out_channels,), dtype) if bias else None

    def forward(self, x: Value, edge_index: Value, edge_weight: Value | None = None) -> Value:
        """x [N, in], edge_index [2, E], edge_weight [E] (ones) -> [N, out]."""
        check_nodes(self._own_name, x)
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
        check_nodes(self._own_name, x)
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
        check_nodes(self._own_name, x)
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
        check_nodes(self._own_name, x)
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


def check_nodes(name: str, x: Value) -> None:
    """Refuse what is no table of nodes."""
    if x.ndim != 2:
        raise ShapeError(f"{name}: x is {x.type}, it must be [nodes, channels]", here())
