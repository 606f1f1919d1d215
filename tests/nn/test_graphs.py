"""Message passing, updates of edges, nodes and graphs, pooling, batches; tests/blocks has equality
with PyTorch Geometric.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import data, nn, ops
from graphc.nn import functional
from tests.blocks.graphs import EDGES, NODES
from tests.evaluating import evaluate

rng = np.random.default_rng(4)
F64 = "float64"


def inputs(channels: int = 3) -> tuple[gc.Value, gc.Value, dict[Any, Any]]:
    x, edges = gc.observed("x", (NODES, channels), F64), gc.observed("e", (2, 7), gc.int64)
    return x, edges, {x: rng.normal(size=(NODES, channels)), edges: EDGES}


class Weighed(nn.MessagePassing):
    """Edges with features, which scale what the target lacks."""

    def forward(self, x: Any, edges: Any, attr: Any) -> Any:
        return self.propagate(x, edges, attr)

    def message(self, x_i: Any, x_j: Any, edge_attr: Any) -> Any:
        return (x_j - x_i) * edge_attr

    def update(self, gathered: Any, x: Any) -> Any:
        return x + gathered


@pytest.mark.parametrize("aggr", ["sum", "mean", "max", "softmax"])
def test_messages_along_edges(aggr: str) -> None:
    x, edges, feeds = inputs()
    attr = gc.observed("attr", (7, 1), F64)
    at, weights = feeds[x], rng.normal(size=(7, 1))
    got = evaluate(Weighed(aggr)(x, edges, attr), feeds | {attr: weights})
    wanted = at.copy()
    for i in range(NODES):
        sent = [(at[j] - at[i]) * w for j, k, w in zip(*EDGES, weights, strict=True) if k == i]
        if not sent:
            continue
        messages = np.array(sent)
        if aggr == "softmax":
            share = np.exp(messages) / np.exp(messages).sum(0)
            wanted[i] += (share * messages).sum(0)
        else:
            wanted[i] += getattr(messages, aggr)(0)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


class Joined(nn.Module):
    """A linear map of all that a model is given, side by side; of a graph, of its nodes' mean."""

    def __init__(self, kind: str, width: int) -> None:
        self.kind, self.linear = kind, nn.Linear(width, 3, dtype=F64)

    def forward(self, *parts: Any) -> Any:
        if self.kind == "edge":
            source, target, attr, u, batch = parts
            return self.linear(ops.concat([source, target, attr, ops.take(u, batch, 0)], 1))
        x, edge_index, attr, u, batch = parts
        if self.kind == "node":
            arrived = functional.aggregate(attr, edge_index[1], x.shape[0])
            return self.linear(ops.concat([x, arrived, ops.take(u, batch, 0)], 1))
        return self.linear(ops.concat([u, functional.global_mean_pool(x, batch, 2)], 1))


@pytest.mark.torch
def test_edges_nodes_and_graphs_update_each_other() -> None:
    torch = pytest.importorskip("torch")
    geometric = pytest.importorskip("torch_geometric.nn")
    x, edges, feeds = inputs(3)
    attr, u = gc.observed("attr", (7, 2), F64), gc.observed("u", (2, 2), F64)
    batch = gc.observed("batch", (NODES,), gc.int64)
    feeds |= {attr: rng.normal(size=(7, 2)), u: rng.normal(size=(2, 2)), batch: [0, 0, 0, 0, 1]}
    models = Joined("edge", 10), Joined("node", 8), Joined("graph", 5)
    got = evaluate(nn.MetaLayer(*models)(x, edges, attr, u, batch), feeds)

    class Theirs(torch.nn.Module):
        def __init__(self, ours: Joined) -> None:
            super().__init__()
            self.kind, state = ours.kind, ours.linear.state_dict()
            self.weight, self.bias = (torch.tensor(state[n]) for n in ("weight", "bias"))

        def forward(self, *parts: Any) -> Any:
            if self.kind == "edge":
                source, target, attr, u, batch = parts
                joined = torch.cat([source, target, attr, u[batch]], 1)
            else:
                x, edge_index, attr, u, batch = parts
                arrived = torch.zeros(NODES, attr.shape[1], dtype=attr.dtype)
                arrived.index_add_(0, edge_index[1], attr)
                joined = torch.cat([x, arrived, u[batch]], 1)
                if self.kind == "graph":
                    joined = torch.cat([u, geometric.global_mean_pool(x, batch)], 1)
            return joined @ self.weight.T + self.bias

    given = [torch.tensor(np.asarray(feeds[v])) for v in (x, edges, attr, u, batch)]
    wanted = geometric.MetaLayer(*map(Theirs, models))(*given)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-10, atol=1e-12)
    unchanged = nn.MetaLayer()(x, edges, attr, u, batch)
    assert all(a is b for a, b in zip(unchanged, (x, attr, u), strict=True))


def test_a_master_node_joins_what_is_far() -> None:
    """Without it node 4, which has no edges, hears from nobody; with it, in two layers."""
    x, edges, feeds = inputs(3)
    batch, u = gc.constant(np.zeros(NODES, np.int64)), ops.zeros((1, 3), F64)
    layer = nn.VirtualNode(nn.GCNConv(3, 3, dtype=F64), nn.Linear(3, 3, dtype=F64))
    first, shared = layer(x, u, edges, batch)
    second, _ = layer(first, shared, edges, batch)
    far = [gc.grad(out[4].sum(), x)[0] for out in (first, second)]
    near, reached = evaluate(far, feeds)
    assert not near.any()
    assert reached.any()
    pooled = evaluate(functional.global_add_pool(first, batch, 1), feeds)
    weight, bias = layer.mlp.weight.numpy(), layer.mlp.bias.numpy()
    np.testing.assert_allclose(evaluate(shared, feeds), pooled @ weight.T + bias, rtol=1e-10)


@pytest.mark.parametrize("kind", ["GCNConv", "GATConv"])
def test_batches_are_graphs_side_by_side(kind: str) -> None:
    """One program for all sizes; each graph has what it has alone, and pooling tells them apart."""
    count, edge_count = gc.Dim("N", specialize=False), gc.Dim("E", min=0, specialize=False)
    graphs = gc.Dim("G", specialize=False)
    x, edges = gc.observed("x", (count, 3)), gc.observed("e", (2, edge_count), gc.int64)
    batch = gc.observed("batch", (count,), gc.int64)
    u = gc.observed("u", (graphs, 1))
    out = getattr(nn, kind)(3, 4)(x, edges)
    pools = [getattr(functional, f"global_{how}_pool")(out, batch, u.shape[0]) for how in
             ("add", "mean", "max")]  # fmt: skip
    run = gc.compile([x, edges, batch, u], [out, pools], unused="ignore")
    sizes = ((5, 9), (3, 2), (1, 0))
    alone = []
    for nodes, links in sizes:
        features = rng.normal(size=(nodes, 3)).astype(np.float32)
        alone.append((features, rng.integers(0, nodes, (2, links))))
    together = data.batch_graphs([{"x": f, "edge_index": e} for f, e in alone])
    joined, (total, mean, largest) = run(
        together["x"], together["edge_index"], together["batch"], np.zeros((3, 1), np.float32)
    )
    start = 0
    for place, (features, links) in enumerate(alone):
        nodes = len(features)
        own, _ = run(features, links, np.zeros(nodes, np.int64), np.zeros((1, 1), np.float32))
        np.testing.assert_allclose(joined[start : start + nodes], own, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(total[place], own.sum(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean[place], own.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(largest[place], own.max(0), rtol=1e-4, atol=1e-5)
        start += nodes


def test_an_edge_beyond_the_nodes_fails_the_call() -> None:
    x, edges, feeds = inputs()
    for layer in (nn.GCNConv(3, 2, dtype=F64), nn.GATConv(3, 2, dtype=F64)):
        for wrong in (NODES, -1):
            bad = EDGES.copy()
            bad[1, 2] = wrong
            with pytest.raises(gc.RuntimeCheckError, match="outside"):
                evaluate(layer(x, edges), feeds | {edges: bad})


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["GATConv", "GATv2Conv"])
def test_more_listen_than_send(kind: str) -> None:
    """A layer of one width takes a pair of it; three sources and five targets have three loops."""
    torch = pytest.importorskip("torch")
    geometric = pytest.importorskip("torch_geometric.nn")
    theirs = getattr(geometric, kind)(3, 4, edge_dim=2, fill_value=0.25).double()
    ours = getattr(nn, kind)(3, 4, edge_dim=2, fill_value=0.25, dtype=F64)
    ours.load_state_dict(theirs.state_dict())
    edges = np.array([[0, 1, 1, 2, 2, 0], [4, 2, 1, 0, 4, 3]])
    given = [rng.normal(size=(3, 3)), rng.normal(size=(5, 3)), edges, rng.normal(size=(6, 2))]
    source, target, index, attr = (gc.observed("v", a.shape, str(a.dtype)) for a in given)
    feeds = dict(zip((source, target, index, attr), given, strict=True))
    made = ours((source, target), index, attr, return_attention_weights=True)
    got, (links, weights) = evaluate(made, feeds)
    a, b, c, d = (torch.tensor(array) for array in given)
    with torch.no_grad():
        wanted, (kept, shares) = theirs((a, b), c, d, return_attention_weights=True)
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-10, atol=1e-12)
    # of the loop that was given, which PyTorch Geometric takes out, the weight is 0
    assert weights[2] == 0
    np.testing.assert_array_equal(np.delete(links, 2, 1), kept.numpy())
    np.testing.assert_allclose(np.delete(weights, 2, 0), shares.numpy(), rtol=1e-10, atol=1e-12)


def test_one_program_for_bipartite_graphs_of_all_sizes() -> None:
    sizes = [gc.Dim(name, specialize=False) for name in ("S", "T", "E")]
    x, y = gc.observed("x", (sizes[0], 3)), gc.observed("y", (sizes[1], 2))
    edges, attr = gc.observed("e", (2, sizes[2]), gc.int64), gc.observed("a", (sizes[2], 2))
    layer = nn.GATv2Conv((3, 2), 4, add_self_loops=False, edge_dim=2)
    call = gc.compile([x, y, edges, attr], layer((x, y), edges, attr))
    for s, t, e in ((4, 3, 6), (2, 5, 3)):
        at = rng.normal(size=(s, 3)).astype(np.float32), rng.normal(size=(t, 2)).astype(np.float32)
        links = np.stack([rng.integers(0, s, e), rng.integers(0, t, e)])
        seen = rng.normal(size=(e, 2)).astype(np.float32)
        wanted = evaluate(layer((gc.constant(at[0]), gc.constant(at[1])), gc.constant(links),
                                gc.constant(seen)), {})  # fmt: skip
        np.testing.assert_allclose(call(*at, links, seen), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(gc.ShapeError, match=r"S sources and T targets: .* add_self_loops=False"):
        nn.GATConv((3, 2), 4)((x, y), edges)


def test_a_negative_degree_has_no_root() -> None:
    """By negative weights: NaN, as PyTorch Geometric's, and only there; of degree 0 it is 0."""
    x, edges, feeds = inputs()
    weights = ops.where(gc.constant(EDGES[1] == 3), -2.0, 0.5).astype(F64)
    got = evaluate(nn.GCNConv(3, 2, add_self_loops=False, dtype=F64)(x, edges, weights), feeds)
    assert np.isnan(got[[1, 3]]).all()  # 3, and whom it sends to
    assert np.isfinite(got[[0, 2]]).all()
    assert not got[4].any()


def test_refusals() -> None:
    x, edges, _ = inputs()
    attr = gc.observed("attr", (7, 2), F64)
    for layer in (nn.GATConv, nn.GATv2Conv):
        with pytest.raises(gc.ShapeError, match=r"edge_attr f64\[7,2\] needs .* edge_dim="):
            layer(3, 2, dtype=F64)(x, edges, attr)
        with pytest.raises(gc.ShapeError, match=r"edge_attr is f64\[7,2\], it must be \[7, 3\]"):
            layer(3, 2, edge_dim=3, dtype=F64)(x, edges, attr)
        with pytest.raises(gc.ShapeError, match=r"a bipartite x is \(sources, targets\), got 3"):
            layer((3, 3), 2, dtype=F64)((x, x, x), edges)
        with pytest.raises(ValueError, match="fill_value is a number or one of mean"):
            layer(3, 2, fill_value="median")
    with pytest.raises(ValueError, match="ends of one width"):
        nn.GATv2Conv((3, 2), 2, share_weights=True)
    with pytest.raises(ValueError, match=r"aggr is one of sum, .* not 'median'"):
        nn.MessagePassing("median")
    with pytest.raises(ValueError, match="not 'median'"):
        nn.SAGEConv(3, 2, aggr="median")
    with pytest.raises(ValueError, match="not 'median'"):
        functional.aggregate(x, edges[0], 5, "median")
    with pytest.raises(ValueError, match="heads is a positive int, not 0"):
        nn.GATConv(3, 2, heads=0)
    with pytest.raises(ValueError, match=r"probability in \[0, 1\], not 2"):
        nn.GATv2Conv(3, 2, dropout=2)
    with pytest.raises(gc.ShapeError, match=r"edge_index is .* it must be \[2, E\]"):
        nn.SAGEConv(3, 2, dtype=F64)(x, edges[0])
    with pytest.raises(gc.DTypeError, match="edge_index holds integers"):
        nn.GINConv(nn.Linear(3, 2, dtype=F64), dtype=F64)(x, x.T[:2])
    with pytest.raises(gc.ShapeError, match=r"it must be \[nodes, channels\]"):
        nn.GCNConv(3, 2, dtype=F64)(x[0], edges)
    with pytest.raises(gc.ShapeError, match="edge_weight is"):
        nn.GCNConv(3, 2, dtype=F64)(x, edges, ops.ones(3, F64))
    assert repr(nn.GATConv(3, 2, 4)).startswith("GATConv(")
    assert nn.GATConv(3, 2, 4)._describe() == "out_channels=2, heads=4"
