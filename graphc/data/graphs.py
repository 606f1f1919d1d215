"""Several graphs as one: what layers on edge lists take for a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["batch_graphs"]


def batch_graphs(graphs: Sequence[Mapping[str, ArrayLike]]) -> dict[str, NDArray[Any]]:
    """Graphs side by side in one: arrays joined along axis 0, node numbers shifted.

    A graph is a mapping with ``x`` [N, ...], ``edge_index`` [2, E], and whatever else it has: an
    array each of nodes, edges or the graph as a whole (then with an axis of 1 in front). The result
    has ``batch`` [sum of N] besides, the number of each node's graph. Raises ValueError for graphs
    that differ in what they have, and for edges that end outside of their graph.

    >>> one = {"x": np.zeros((2, 3)), "edge_index": [[0, 1], [1, 0]]}
    >>> both = batch_graphs([one, one])
    >>> both["edge_index"].tolist(), both["batch"].tolist()
    ([[0, 1, 2, 3], [1, 0, 3, 2]], [0, 0, 1, 1])
    """
    if not graphs:
        raise ValueError("batch_graphs: there is no graph")
    names = set(graphs[0])
    for place, graph in enumerate(graphs):
        if set(graph) != names or not {"x", "edge_index"} <= names or "batch" in names:
            raise ValueError(
                f"batch_graphs: graph {place} has {', '.join(sorted(graph))}; each must have x, "
                f"edge_index and the same others as the first ({', '.join(sorted(names))})"
            )
    counts = [len(np.asarray(graph["x"])) for graph in graphs]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    edges = [
        _shifted(place, np.asarray(graph["edge_index"]), count, start)
        for place, (graph, count, start) in enumerate(zip(graphs, counts, starts, strict=True))
    ]
    others = sorted(names - {"edge_index"})
    joined = {name: np.concatenate([np.asarray(g[name]) for g in graphs]) for name in others}
    batch = np.repeat(np.arange(len(graphs)), counts)
    return joined | {"edge_index": np.concatenate(edges, axis=1), "batch": batch}


def _shifted(place: int, edges: NDArray[Any], count: int, start: int) -> NDArray[np.int64]:
    """Edges of graph ``place``, its first node being ``start``."""
    if edges.size == 0:
        return np.zeros((2, 0), np.int64)
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(
            f"batch_graphs: edge_index of graph {place} is {edges.dtype}{list(edges.shape)}, it "
            "must be integers [2, E]"
        )
    if edges.min() < 0 or edges.max() >= count:
        raise ValueError(f"batch_graphs: an edge of graph {place} ends outside of 0..{count - 1}")
    return edges.astype(np.int64) + start
