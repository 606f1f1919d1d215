"""Graph layers, against PyTorch Geometric's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc import nn
from tests.blocks.sample import Block, Input, array, normal, swept, uniform

NODES, IN, OUT = 5, 3, 4
#: node 4 has no edges, 1 -> 2 comes twice, 3 has a loop
EDGES = np.array([[0, 1, 1, 2, 3, 0, 3], [1, 2, 2, 0, 3, 3, 1]])
_NODES, _EDGES = normal(NODES, IN), array(EDGES, "int")


def geometric() -> Any:
    """The reference, where there is one."""
    return pytest.importorskip("torch_geometric.nn", reason="needs PyTorch Geometric")


def _conv(name: str, *args: Any, weights: Input | None = None, **options: Any) -> Block:
    inputs = (_NODES, _EDGES) if weights is None else (_NODES, _EDGES, weights)
    return Block(name, (IN, OUT, *args), options, inputs,
                 counterpart=lambda torch: noisy(
                     torch, getattr(geometric(), name)(IN, OUT, *args, **options)),
                 formula="PyTorch Geometric's", within=1e-8,
                 how="" if weights is None else "with edge_weight")  # fmt: skip


def _attentive(
    name: str, *args: Any, ins: Any = IN, attr: Input | None = None, **options: Any
) -> Block:
    """With features of edges, or between 5 sources and 4 targets."""
    nodes = [_NODES] if isinstance(ins, int) else [normal(5, ins[0]), normal(4, ins[1])]
    count = len(nodes)

    def call(block: Any, *given: Any) -> Any:
        return block(given[0] if count == 1 else given[:count], *given[count:])

    inputs = (*nodes, _EDGES, *(() if attr is None else (attr,)))
    return Block(name, (ins, OUT, *args), options, inputs, call=call,
                 counterpart=lambda torch: noisy(
                     torch, getattr(geometric(), name)(ins, OUT, *args, **options)),
                 formula="PyTorch Geometric's", within=1e-8,
                 how="" if attr is None else "with edge_attr")  # fmt: skip


def noisy(torch: Any, block: Any) -> Any:
    """Biases of zero would hide a mistake."""
    with torch.no_grad():
        for tensor in block.parameters():
            tensor.add_(0.3 * torch.randn_like(tensor))
    return block


def _isomorphism(train_eps: bool) -> Block:
    options = {"eps": 0.3, "train_eps": train_eps}

    def made(torch: Any) -> Any:
        return geometric().GINConv(torch.nn.Linear(IN, OUT), **options)

    def ours(block: Any, x: Any, edges: Any) -> Any:
        return block(x, edges)

    return Block("GINConv", (Perceptron(),), options, (_NODES, _EDGES), counterpart=made,
                 formula="PyTorch Geometric's", call=ours)  # fmt: skip


class Perceptron(nn.Linear):
    """The net inside of GINConv; in the dtype that its graph layer has."""

    def __init__(self) -> None:
        super().__init__(IN, OUT, dtype="float64")

    def forward(self, x: Any) -> Any:
        weight, bias = self.weight, self.bias
        return nn.functional.linear(x, weight.astype(x.dtype), bias.astype(x.dtype))

    def __repr__(self) -> str:
        return f"Linear({IN}, {OUT})"


def _aggregation(aggr: str) -> Block:
    def reference(torch: Any, messages: Any, index: Any) -> Any:
        made = geometric().aggr
        kind = {"sum": made.SumAggregation, "mean": made.MeanAggregation,
                "max": made.MaxAggregation, "min": made.MinAggregation,
                "softmax": made.SoftmaxAggregation}  # fmt: skip
        return kind[aggr]()(messages, index, dim_size=NODES)

    return Block("aggregate", (NODES, aggr), {}, (normal(7, IN), array(EDGES[1], "int")),
                 reference=reference, formula="PyTorch Geometric's aggregations")  # fmt: skip


def _softmax(torch: Any, scores: Any, index: Any) -> Any:
    geometric()
    from torch_geometric.utils import softmax

    return softmax(scores, index, num_nodes=NODES)


GRAPHS = [
    _conv("GCNConv"),
    # without weights PyTorch Geometric forgets that it is improved
    _conv("GCNConv", improved=True, bias=False, weights=uniform(7, low=0.2, high=2.0)),
    _conv("GCNConv", weights=uniform(7, low=0.2, high=2.0)),
    _conv("GCNConv", add_self_loops=False),
    _conv("GCNConv", normalize=False, weights=normal(7)),
    _conv("GATConv"),
    _conv("GATConv", 2, concat=False, negative_slope=0.3),
    _conv("GATConv", 3, add_self_loops=False, bias=False),
    _conv("GATv2Conv", 2),
    _conv("GATv2Conv", 2, concat=False, share_weights=True),
    # what both share becomes machine code in turns
    *(
        block if place % 2 == turn else swept(block)
        for turn, name in enumerate(("GATConv", "GATv2Conv"))
        for place, block in enumerate((
            _attentive(name, 2, concat=False, edge_dim=2, residual=True, attr=normal(7, 2)),
            _attentive(name, 2, residual=True),
            _attentive(name, edge_dim=1, fill_value="max", attr=normal(7)),
            _attentive(name, edge_dim=2, fill_value=0.5, bias=False, attr=normal(7, 2)),
            _attentive(name, edge_dim=2),
            _attentive(name, edge_dim=2, fill_value="min", attr=normal(7, 2)),
            _attentive(name, 2, ins=(2, 3), edge_dim=2, fill_value="sum", residual=True,
                       attr=normal(7, 2)),
            _attentive(name, 2, edge_dim=2, add_self_loops=False, attr=normal(7, 2)),
            _attentive(name, ins=(3, 3), add_self_loops=False, concat=False),
            _attentive(name, 2, ins=(3, 2)),
        ))
    ),
    swept(_attentive("GATv2Conv", ins=(3, 3), share_weights=True)),
    _conv("SAGEConv"),
    _conv("SAGEConv", aggr="max", normalize=True),
    _conv("SAGEConv", aggr="sum", project=True, root_weight=False, bias=False),
    _isomorphism(False),
    _isomorphism(True),
    *map(_aggregation, ("sum", "mean", "max", "min", "softmax")),
    Block("segment_softmax", (NODES,), {}, (normal(7, 2), array(EDGES[1], "int")),
          reference=_softmax, formula="PyTorch Geometric's softmax"),
]  # fmt: skip
