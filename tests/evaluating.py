"""Run programs in the graph interpreter: values, one training step, numerical derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphc as gc
from graphc.closing import close
from graphc.interpret import interpret

Array = NDArray[Any]
Feeds = Mapping[gc.Value, Any]


def evaluate(outputs: Any, feeds: Feeds | None = None, mode: str = "train") -> Any:
    """The values of a structure of graph values; nothing is written."""
    return _run(outputs, {}, feeds or {}, mode)[0]


def step(
    updates: Mapping[gc.Value, gc.Value], outputs: Any = (), feeds: Feeds | None = None
) -> Any:
    """The outputs of one training step; then every state is set to its new value."""
    results, new = _run(outputs, updates, feeds or {}, "train")
    for state, value in new.items():
        state.node.attrs["state"].set(value)
    return results


_closed: dict[tuple[Any, ...], tuple[Any, gc.Graph]] = {}


def _close(leaves: list[gc.Value], updates: Mapping[gc.Value, gc.Value], mode: str) -> gc.Graph:
    """The closed graph, made once; the values are kept, so that their ids stay theirs."""
    pairs = tuple(updates.items())
    key = (mode, *map(id, leaves), *((id(s), id(v)) for s, v in pairs))
    if key not in _closed:
        _closed[key] = (leaves, pairs), close(leaves, pairs, mode=mode)
    return _closed[key][1]


def _run(outputs: Any, updates: Mapping[gc.Value, gc.Value], feeds: Feeds, mode: str) -> Any:
    leaves, form = gc.tree.flatten(outputs)
    graph = _close(leaves, updates, mode)
    with np.errstate(all="ignore"):
        results, new = interpret(graph, [feeds[v] for v in graph.inputs])
    return form.build(results), new


def numerical_gradient(f: Callable[[Array], float], x: Array, h: float = 1e-6) -> Array:
    """Central differences of a scalar function in float64."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        gradient[index] = (f(up) - f(down)) / (2 * h)
    return gradient
