"""Graph layers whose nodes choose whom they listen to; names, arguments and parameters are PyTorch
Geometric's. Nodes, edges and their sizes are as in ``graphc.nn.graphs``.

Both layers take edges with features, and bipartite graphs: x is a pair, what sends [S, ..] and what
listens [T, ..], and an edge goes from one of the S to one of the T.
"""

from __future__ import annotations

from typing import Any

from graphc import ops
from graphc.dsl import parameter
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.functional.graphs import ends
from graphc.nn.graphs import check_nodes, glorot
from graphc.nn.layers import Linear
from graphc.nn.module import Module
from graphc.records import dataclass
from graphc.source import here
from graphc.types import Extent, float32

__all__ = ["GATConv", "GATv2Conv"]

_FILLS = ("mean", "sum", "add", "max", "min")


@dataclass(frozen=True)
class _Edges:
    """Sources and targets [E'], which of them count (None: all), their features [E', D]."""

    source: Value
    target: Value
    counts: Value | None
    features: Value | None


class _Attentive(Module):
    """What both attention layers share: loops, scores of edges to weights, heads joined."""

    bias: Any
    lin_edge: Linear | None
    res: Linear | None

    def _take_options(
        self, out_channels: int, heads: int, concat: bool, negative_slope: float, dropout: float,
        add_self_loops: bool, edge_dim: int | None, fill_value: float | str,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        if heads < 1:
            raise ValueError(f"{name}: heads is a positive int, not {heads}")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"{name}: dropout is a probability in [0, 1], not {dropout}")
        if isinstance(fill_value, str) and fill_value not in _FILLS:
            raise ValueError(
                f"{name}: fill_value is a number or one of {', '.join(_FILLS)}, not {fill_value!r}"
            )
        self.out_channels, self.heads, self.concat = out_channels, heads, concat
        self.negative_slope, self.dropout = negative_slope, dropout
        self.add_self_loops = add_self_loops
        self.edge_dim, self.fill_value = edge_dim, fill_value

    def _attention(self, dtype: object) -> Value:
        """One vector for each head."""
        shape = (1, self.heads, self.out_channels)
        return parameter(shape, dtype, init=_glorot_of_last_axes)

    def _bias(self, bias: bool, dtype: object) -> Value | None:
        width = self.out_channels * (self.heads if self.concat else 1)
        return parameter((width,), dtype) if bias else None

    def _edge_and_residual(self, target_channels: int, residual: bool, dtype: object) -> None:
        width = self.heads * self.out_channels
        joined = width if self.concat else self.out_channels
        self.lin_edge = None if self.edge_dim is None else glorot(self.edge_dim, width, dtype)
        self.res = glorot(target_channels, joined, dtype) if residual else None

    def _ends(self, x: Value | tuple[Value, Value]) -> tuple[Value, Value]:
        """What sends and what listens, checked; of a plain graph the same nodes."""
        pair = x if isinstance(x, tuple) else (x, x)
        if len(pair) != 2:
            raise ShapeError(
                f"{self._own_name}: a bipartite x is (sources, targets), got {len(pair)}", here()
            )
        for nodes in pair:
            check_nodes(self._own_name, nodes)
        return pair

    def _edges(
        self, sources: Extent, targets: Extent, edge_index: Value, edge_attr: Value | None
    ) -> _Edges:
        """The edges; with ``add_self_loops`` those from i to i are replaced by one each."""
        source, target = ends(self._own_name, edge_index)
        features = self._features(edge_attr, source)
        if not self.add_self_loops:
            return _Edges(source, target, None, features)
        both = self._in_common(sources, targets)
        all_sources, all_targets, counts = functional.with_self_loops(edge_index, both)
        if features is not None:
            of_loops = self._of_loops(features, source, target, targets)[:both]
            features = ops.concat([features, of_loops])
        return _Edges(all_sources, all_targets, counts, features)

    def _in_common(self, sources: Extent, targets: Extent) -> Extent:
        """How many numbers stand for a source and for a target."""
        if sources == targets:
            return sources
        if isinstance(sources, int) and isinstance(targets, int):
            return min(sources, targets)
        raise ShapeError(
            f"{self._own_name}: {sources} sources and {targets} targets: which numbers have loops "
            "is known for ints only; make the layer with add_self_loops=False",
            here(),
        )

    def _features(self, edge_attr: Value | None, source: Value) -> Value | None:
        """[E, edge_dim], checked."""
        if edge_attr is None:
            return None
        if self.edge_dim is None:
            raise ShapeError(
                f"{self._own_name}: edge_attr {edge_attr.type} needs a layer with "
                "edge_dim=, how many features an edge has",
                here(),
            )
        features = edge_attr if edge_attr.ndim > 1 else ops.expand_dims(edge_attr, -1)
        if features.shape != (source.shape[0], self.edge_dim):
            raise ShapeError(
                f"{self._own_name}: edge_attr is {edge_attr.type}, it must be "
                f"[{source.shape[0]}, {self.edge_dim}], a row for each edge",
                here(),
            )
        return features

    def _of_loops(
        self, features: Value, source: Value, target: Value, targets: Extent
    ) -> Value:
        """The features of each target's loop: a number, or what arrives there by other edges."""
        if not isinstance(self.fill_value, str):
            return ops.full((targets, features.shape[1]), self.fill_value, features.dtype)
        # behind the targets stands one more, for the loops that there were
        place = ops.where(source != target, target, targets)
        return functional.aggregate(features, place, targets + 1, self.fill_value)[:targets]

    def _attended(
        self, scores: Value, sent: Value, edges: _Edges, listening: Value, with_weights: bool
    ) -> Any:
        """scores [E', H] and what is sent [E', H, C] to [T, H C], or the heads' mean [T, C]; with
        them, where asked, the edges [2, E'] and their weights [E', H].
        """
        target, nodes = edges.target, listening.shape[0]
        if edges.counts is not None:
            scores = ops.where(ops.expand_dims(edges.counts, -1), scores, -float("inf"))
        weights = functional.dropout(
            functional.segment_softmax(scores, target, nodes), self.dropout
        )
        out = ops.segment_sum(ops.expand_dims(weights, -1) * sent, target, nodes)
        width = self.heads * self.out_channels
        out = ops.reshape(out, (nodes, width)) if self.concat else ops.mean(out, 1)
        out = out if self.res is None else out + self.res(listening)
        out = out if self.bias is None else out + self.bias
        return (out, (ops.stack([edges.source, target]), weights)) if with_weights else out

    def _by_head(self, x: Value) -> Value:
        return ops.reshape(x, (x.shape[0], self.heads, self.out_channels))

    def _describe(self) -> str:
        return f"out_channels={self.out_channels}, heads={self.heads}"


class GATConv(_Attentive):
    """Neighbours weighed by attention, ``heads`` times side by side::

        a_ji = softmax over j of leaky_relu(att_src . W x_j + att_dst . W x_i + att_edge . W_e e_ji)
        x_i' = sum_j a_ji W x_j

    with W_e where edges have features, ``edge_dim`` of them. Of a pair ``in_channels`` each end has
    a W of its own. Loops are replaced by one at each node, its features ``fill_value``: a number,
    or the "mean", "sum", "max" or "min" of those that arrive. ``residual`` adds a linear map of
    x_i; ``return_attention_weights`` gives the edges too, the E given and behind them a loop at
    each node, and their weights: those of the loops that were replaced are 0.
    Velickovic et al., "Graph Attention Networks", 2018.

    >>> import graphc as gc
    >>> GATConv(3, 4, heads=2)(gc.observed("x", (5, 3)), gc.observed("e", (2, 8), gc.int64)).shape
    (5, 8)
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: float | str = "mean",
        bias: bool = True,
        residual: bool = False,
        *,
        dtype: object = float32,
    ) -> None:
        self._take_options(out_channels, heads, concat, negative_slope, dropout, add_self_loops,
                           edge_dim, fill_value)  # fmt: skip
        self.att_src, self.att_dst = self._attention(dtype), self._attention(dtype)
        self.att_edge = None if edge_dim is None else self._attention(dtype)
        self.bias = self._bias(bias, dtype)
        width = heads * out_channels
        if isinstance(in_channels, int):
            self.lin = glorot(in_channels, width, dtype)
        else:
            self.lin_src, self.lin_dst = (glorot(c, width, dtype) for c in in_channels)
        self._is_pair = not isinstance(in_channels, int)
        last = in_channels if isinstance(in_channels, int) else in_channels[1]
        self._edge_and_residual(last, residual, dtype)

    def forward(
        self,
        x: Value | tuple[Value, Value],
        edge_index: Value,
        edge_attr: Value | None = None,
        return_attention_weights: bool = False,
    ) -> Any:
        """x [N, in] or ([S, in], [T, in']), edge_index [2, E], edge_attr [E, edge_dim] ->
        [T, heads * out], without ``concat`` [T, out]; with ``return_attention_weights`` that and
        (edges [2, E'], weights [E', heads]).
        """
        sending, listening = self._ends(x)
        edges = self._edges(sending.shape[0], listening.shape[0], edge_index, edge_attr)
        maps = (self.lin_src, self.lin_dst) if self._is_pair else (self.lin, self.lin)
        flow = heard = self._by_head(maps[0](sending))
        if self._is_pair or listening is not sending:
            heard = self._by_head(maps[1](listening))
        from_source = ops.sum(flow * self.att_src, -1)
        from_target = ops.sum(heard * self.att_dst, -1)
        scores = ops.take(from_source, edges.source, 0) + ops.take(from_target, edges.target, 0)
        if edges.features is not None and self.lin_edge is not None:
            scores = scores + ops.sum(
                self._by_head(self.lin_edge(edges.features)) * self.att_edge, -1
            )
        scores = functional.leaky_relu(scores, self.negative_slope)
        return self._attended(scores, ops.take(flow, edges.source, 0), edges, listening,
                              return_attention_weights)  # fmt: skip


class GATv2Conv(_Attentive):
    """As GATConv, but each query ranks the neighbours by itself::

        a_ji = softmax over j of att . leaky_relu(W_l x_j + W_r x_i + W_e e_ji)
        x_i' = sum_j a_ji W_l x_j

    Brody, Alon, Yahav, "How Attentive are Graph Attention Networks?", 2022.

    >>> import graphc as gc
    >>> layer = GATv2Conv((3, 2), 4, heads=2, concat=False, add_self_loops=False)
    >>> users, films = gc.observed("users", (5, 3)), gc.observed("films", (7, 2))
    >>> layer((users, films), gc.observed("e", (2, 8), gc.int64)).shape
    (7, 4)
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: float | str = "mean",
        bias: bool = True,
        share_weights: bool = False,
        residual: bool = False,
        *,
        dtype: object = float32,
    ) -> None:
        self._take_options(out_channels, heads, concat, negative_slope, dropout, add_self_loops,
                           edge_dim, fill_value)  # fmt: skip
        both = (in_channels, in_channels) if isinstance(in_channels, int) else in_channels
        if share_weights and both[0] != both[1]:
            raise ValueError(f"GATv2Conv: share_weights takes ends of one width, not {both}")
        self.att = self._attention(dtype)
        self.bias = self._bias(bias, dtype)
        self.lin_l = self._end(both[0], bias, dtype)
        self.lin_r = self.lin_l if share_weights else self._end(both[1], bias, dtype)
        self._edge_and_residual(both[1], residual, dtype)

    def _end(self, channels: int, bias: bool, dtype: object) -> Linear:
        layer = glorot(channels, self.heads * self.out_channels, dtype)
        layer.bias = parameter((self.heads * self.out_channels,), dtype) if bias else None
        return layer

    def forward(
        self,
        x: Value | tuple[Value, Value],
        edge_index: Value,
        edge_attr: Value | None = None,
        return_attention_weights: bool = False,
    ) -> Any:
        """x [N, in] or ([S, in], [T, in']), edge_index [2, E], edge_attr [E, edge_dim] ->
        [T, heads * out], without ``concat`` [T, out]; with ``return_attention_weights`` that and
        (edges [2, E'], weights [E', heads]).
        """
        sending, listening = self._ends(x)
        edges = self._edges(sending.shape[0], listening.shape[0], edge_index, edge_attr)
        sent = ops.take(self._by_head(self.lin_l(sending)), edges.source, 0)
        asked = sent + ops.take(self._by_head(self.lin_r(listening)), edges.target, 0)
        if edges.features is not None and self.lin_edge is not None:
            asked = asked + self._by_head(self.lin_edge(edges.features))
        scores = ops.sum(functional.leaky_relu(asked, self.negative_slope) * self.att, -1)
        return self._attended(scores, sent, edges, listening, return_attention_weights)


def _glorot_of_last_axes(shape: tuple[int, ...], dtype: Any, key: Any) -> Any:
    """Uniform within sqrt(6 / (a + b)) of the last two axes a, b."""
    bound = (6.0 / (shape[-2] + shape[-1])) ** 0.5
    return init.uniform(shape, dtype, key, low=-bound, high=bound)
