"""Program 15: several ports in and out, by position, by name and by structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops

rng = np.random.default_rng(6)


class Cross(nn.Module):
    """Attention of a query over a context; the mask is optional."""

    def __init__(self, width: int = 4) -> None:
        gc.manual_seed(1)
        self.q, self.k = (nn.Linear(width, width, bias=False) for _ in range(2))

    def forward(self, query: gc.Value, context: gc.Value, mask: Any = None) -> dict[str, gc.Value]:
        scores = self.q(query) @ self.k(context).T / np.sqrt(query.shape[-1])
        if mask is not None:
            scores = ops.where(mask, scores, -1e9)
        weights = ops.softmax(scores)
        return {"out": weights @ context, "weights": weights}


def _reference(net: Cross, q: Any, k: Any, mask: Any = None) -> tuple[Any, Any]:
    s = (q @ net.q.weight.numpy().T) @ (k @ net.k.weight.numpy().T).T / 2.0
    s = s if mask is None else np.where(mask, s, -1e9)
    e = np.exp(s - s.max(1, keepdims=True))
    w = e / e.sum(1, keepdims=True)
    return w @ k, w


def test_ports_by_position_by_name_and_from_structures() -> None:
    net = Cross()
    assert net.ports == ("query", "context", "mask")
    q, k = gc.observed("q", (3, 4)), gc.observed("k", (5, 4))
    mask = gc.observed("mask", (3, 5), gc.bool)
    made = [
        net(q, context=k),
        net(context=k, query=q),
        (q, k) >> net,
        {"query": q, "context": k} >> net,
    ]
    masked = net(q, k, mask=mask)
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((3, 4), (5, 4)))
    m = np.tril(np.ones((3, 5), bool))
    plain = gc.compile([q, k], made)(a, b)
    out, weights = _reference(net, a, b)
    for result in plain:
        np.testing.assert_allclose(result["out"], out, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(result["weights"], weights, rtol=1e-4, atol=1e-6)
    got = gc.compile([q, k, mask], masked["weights"])(a, b, m)
    np.testing.assert_allclose(got, _reference(net, a, b, m)[1], rtol=1e-4, atol=1e-6)
    assert (got[~m] == 0).all()


def test_one_value_into_two_ports_names_them() -> None:
    x = gc.observed("x", (3, 4))
    with pytest.raises(TypeError, match=r"its ports are query, context, mask"):
        x >> Cross()
    with pytest.raises(TypeError, match=r"its ports are query, context, mask"):
        (nn.Linear(4, 4) >> Cross())(x)
    with pytest.raises(TypeError, match=r"its ports are query, context, mask"):
        {"query": x, "other": x} >> Cross()


def test_a_shift_of_bits_is_one_and_wiring_is_another() -> None:
    x = gc.observed("x", (3,), gc.int64)
    assert (x >> 2).node.op == ">>"
    assert (x.astype(gc.float32) >> nn.ReLU()).shape == (3,)
    run = gc.compile([x], x >> 2)
    np.testing.assert_array_equal(run([8, -8, 5]), [2, -2, 1])


def test_parallel_branches_feed_ports_by_name() -> None:
    both = nn.Parallel(query=nn.Linear(6, 4), context=nn.Linear(6, 4)) >> Cross()
    x = gc.observed("x", (3, 6))
    made = both(x)
    assert set(made) == {"out", "weights"}
    rows = gc.compile([x], made["weights"])(rng.normal(size=(3, 6)).astype(np.float32)).sum(1)
    np.testing.assert_allclose(rows, 1, rtol=1e-5)
