"""Program 13: a gradient for each sample, clipped one by one and summed with noise (DP-SGD)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim, tree

rng = np.random.default_rng(21)
X, Y = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 3, 6)
cross = nn.CrossEntropyLoss()


def network() -> Any:
    gc.manual_seed(2)
    return nn.Linear(4, 8) >> nn.Tanh() >> nn.Linear(8, 3)


def per_sample(net: Any, x: gc.Value, y: gc.Value) -> Any:
    return gc.vmap(lambda xi, yi: gc.grad(cross(net(xi), yi), net.parameters()))(x, y)


def test_each_is_the_gradient_of_a_batch_of_one() -> None:
    net = network()
    rows = gc.Dim("B")
    x, y = gc.observed("x", (rows, 4)), gc.observed("y", (rows,), gc.int64)
    lanes = gc.compile([x, y], per_sample(net, x, y))(X, Y)
    single = gc.compile([x, y], gc.grad(cross(net(x), y), net.parameters()))
    for i in range(6):
        for many, one in zip(lanes, single(X[i : i + 1], Y[i : i + 1]), strict=True):
            np.testing.assert_allclose(many[i], one, rtol=1e-5, atol=1e-7)
    mean = single(X, Y)
    for many, one in zip(lanes, mean, strict=True):
        np.testing.assert_allclose(many.mean(0), one, rtol=1e-4, atol=1e-6)


def test_a_private_step_follows_numpy() -> None:
    net = network()
    x, y = gc.observed("x", (6, 4)), gc.observed("y", (6,), gc.int64)
    grads = per_sample(net, x, y)
    norms = ops.sqrt(sum((g * g).reshape(6, -1).sum(1) for g in grads))
    scale = ops.minimum(1.0, 0.5 / norms)
    clipped = [(g * scale.reshape(6, *(1,) * (g.ndim - 1))).mean(0) for g in grads]
    step = gc.compile([x, y], norms, optim.SGD(lr=0.3).updates(net.parameters(), clipped))
    before = [p.numpy().astype(np.float64) for p in net.parameters()]
    got = step(X, Y)
    slopes = [_numpy_gradient(before, X[i].astype(np.float64), Y[i]) for i in range(6)]
    wanted = np.array([np.sqrt(sum((g**2).sum() for g in s)) for s in slopes])
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert (wanted > 0.5).any(), "something is clipped"
    for n, p in enumerate(net.parameters()):
        kept = np.minimum(1, 0.5 / wanted)
        mean = np.mean([kept[i] * slopes[i][n] for i in range(6)], axis=0)
        np.testing.assert_allclose(p.numpy(), before[n] - 0.3 * mean, rtol=1e-4, atol=1e-6)


def _numpy_gradient(parameters: list[Any], x: Any, y: int) -> list[Any]:
    w1, b1, w2, b2 = parameters
    h = np.tanh(w1 @ x + b1)
    z = w2 @ h + b2
    p = np.exp(z - z.max())
    dz = p / p.sum() - np.eye(3)[y]
    dh = (w2.T @ dz) * (1 - h * h)
    return [np.outer(dh, x), dh, np.outer(dz, h), dz]


def test_batch_norm_is_refused_and_dropout_draws_for_each_sample() -> None:
    x, y = gc.observed("x", (6, 4)), gc.observed("y", (6,), gc.int64)
    norm = nn.LayerNorm(4) >> nn.Dropout(0.5) >> nn.Linear(4, 3)
    run = gc.compile([x, y], per_sample(norm, x, y), mode="train")
    same = run(np.repeat(X[:1], 6, 0), np.repeat(Y[:1], 6))
    weight = tree.leaves(same)[2]
    assert len({row.tobytes() for row in weight}) > 3, "the same sample under other noise"
    batch = nn.BatchNorm1d(2)
    with pytest.raises(gc.StateError, match=r"vmap: .*would be updated in every lane"):
        gc.vmap(lambda xi: batch(xi.reshape(2, 2)))(x)
