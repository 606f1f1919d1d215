"""Whole programs as users write them, run in the graph interpreter."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim, tree
from graphc.closing import close
from tests.evaluating import evaluate, step

rng = np.random.default_rng(7)


def test_digits_step_graph() -> None:
    """The thin line's program: one graph, with a Dim, that lowers the loss."""
    gc.manual_seed(0)
    batch = gc.Dim("B")
    x, y = gc.observed("x", (batch, 64)), gc.observed("y", (batch,), gc.int64)
    net = nn.Linear(64, 128) >> nn.ReLU() >> nn.Linear(128, 10)
    loss = nn.CrossEntropyLoss()(net(x), y)
    updates = optim.Adam(lr=1e-2).minimize(loss)
    graph = close([loss], updates, mode="train")
    assert [v.name for v in graph.inputs] == ["x", "y"]
    assert len(graph.updates) == 4 * 3 + 1
    centers = rng.normal(size=(10, 64))
    labels = rng.integers(0, 10, 32)
    at = {x: centers[labels] + 0.1 * rng.normal(size=(32, 64)), y: labels}
    losses = [float(step(updates, loss, at)) for _ in range(15)]
    assert losses[0] == pytest.approx(np.log(10), rel=0.2)
    assert losses[-1] < 0.1 * losses[0]


def test_gan_simultaneous_and_alternating() -> None:
    """Two optimizers in one step: both see the old D, or G sees the new one, as in PyTorch."""

    def bce(logits: gc.Value, wanted: float) -> gc.Value:
        return nn.functional.binary_cross_entropy_with_logits(logits, wanted)

    d_net = (nn.Linear(3, 4) >> nn.Tanh() >> nn.Linear(4, 1)).named("D")
    g_net = (nn.Linear(2, 3)).named("G")
    x, z = gc.observed("x", (5, 3)), gc.observed("z", (5, 2))
    fake = g_net(z)
    d_loss = bce(d_net(x), 1.0) + bce(d_net(gc.stop_gradient(fake)), 0.0)
    g_loss = bce(d_net(fake), 1.0)
    opt_d, opt_g = optim.SGD(lr=0.5), optim.SGD(lr=0.5)
    d_up = opt_d.minimize(d_loss)  # the fake is cut, so these are D's alone
    assert set(d_up) - {s for s in d_up if s.node.op == "state"} == set(d_net.parameters())
    g_up = opt_g.minimize(g_loss, wrt=g_net)
    g_after = optim.SGD(lr=0.5).minimize(gc.substitute(g_loss, d_up), wrt=g_net)
    feeds = {x: rng.normal(size=(5, 3)), z: rng.normal(size=(5, 2))}
    start = d_net.state_dict(), g_net.state_dict()

    step(d_up | g_up, (d_loss, g_loss), feeds)
    simultaneous = g_net.state_dict()
    d_net.load_state_dict(start[0])
    g_net.load_state_dict(start[1])
    step(d_up | g_after, (), feeds)
    alternating = g_net.state_dict()
    d_net.load_state_dict(start[0])
    g_net.load_state_dict(start[1])
    step(d_up, (), feeds)
    step(g_up, (), feeds)
    for name, array in g_net.state_dict().items():
        np.testing.assert_allclose(alternating[name], array, rtol=1e-5, atol=1e-7)
        assert not np.allclose(simultaneous[name], array, rtol=1e-5)


def test_batch_norm_as_a_user_writes_it() -> None:
    """by_mode and attached updates: three calls move the running mean in program order."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            self.mean = gc.state((2,))

        def forward(self, x: gc.Value) -> Any:
            m = x.mean(axis=0)
            y = gc.attach_updates(x - m, {self.mean: self.mean + 0.5 * (m - self.mean)})
            return gc.by_mode(train=y, eval=x - self.mean)

    norm = Norm()
    x = gc.observed("x", (4, 2))
    out = norm(x) + norm(x * 2.0) + norm(x * 4.0)
    at = rng.normal(size=(4, 2)).astype(np.float32)
    step({}, out, {x: at})
    m = at.mean(0)
    running = np.zeros(2)
    for scale in (1, 2, 4):
        running = running + 0.5 * (scale * m - running)
    np.testing.assert_allclose(norm.mean.numpy(), running, rtol=1e-5)
    wanted = 7 * at - 3 * running
    np.testing.assert_allclose(evaluate(out, {x: at}, "eval"), wanted, rtol=1e-4, atol=1e-5)
    frozen = norm.with_mode("eval")(x)
    np.testing.assert_allclose(evaluate(frozen, {x: at}, "train"), at - running, rtol=1e-5)
    assert not close([frozen], mode="train").updates


def test_newton_cg() -> None:
    """hvp inside a while_loop inside a step; the quadratic is solved at once."""

    class Search(NamedTuple):
        i: Any
        d: Any
        r: Any
        p: Any
        rr: Any

    dtype = gc.float64
    w, b = gc.parameter(np.zeros(3), dtype), gc.parameter(np.zeros(()), dtype)
    x, y = gc.observed("x", (20, 3), dtype), gc.observed("y", (20,), dtype)
    parameters = {"w": w, "b": b}
    loss = ((x @ w + b - y) ** 2).mean()
    g = gc.grad(loss, parameters)

    def dot(u: Any, v: Any) -> Any:
        return sum(tree.leaves(tree.map(lambda a, c: (a * c).sum(), u, v)))

    def body(s: Search) -> Search:
        ap = gc.hvp(loss, parameters, s.p)
        alpha = s.rr / dot(s.p, ap)
        d = tree.map(lambda a, c: a + alpha * c, s.d, s.p)
        r = tree.map(lambda a, c: a - alpha * c, s.r, ap)
        rr = dot(r, r)
        p = tree.map(lambda a, c: a + (rr / s.rr) * c, r, s.p)
        return Search(s.i + 1, d, r, p, rr)

    r0 = tree.map(lambda a: -a, g)
    zero = tree.map(lambda a: a * 0.0, g)
    start = Search(0, zero, r0, r0, dot(r0, r0))
    found = gc.while_loop(lambda s: (s.i < 50) & (s.rr > 1e-20), body, start)
    updates = {p: p + d for p, d in zip(tree.leaves(parameters), tree.leaves(found.d), strict=True)}
    true = np.array([1.0, -2.0, 3.0])
    feeds = {x: rng.normal(size=(20, 3))}
    feeds[y] = feeds[x] @ true + 4.0
    steps = step(gc.Updates(updates), found.i, feeds)
    assert steps <= 6
    np.testing.assert_allclose(w.numpy(), true, rtol=1e-8)
    assert b.numpy() == pytest.approx(4.0)


def test_freezing_clipping_and_auxiliary_losses() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            self.inner = nn.Linear(3, 3)

        def forward(self, x: gc.Value) -> gc.Value:
            h = self.inner(x)
            return gc.mark(h, "aux", (h * h).mean())

    class Net(nn.Module):
        def __init__(self) -> None:
            self.body = [Block(), Block()]
            self.head = nn.Linear(3, 1)

        def forward(self, x: gc.Value) -> gc.Value:
            for part in self.body:
                x = part(x)
            return self.head(x)

    net = Net()
    x = gc.observed("x", (4, 3))
    out = net(x)
    loss = (out * out).sum() + 0.01 * sum(gc.marked(out, "aux"))
    assert len(gc.marked(out, "aux")) == 2
    parameters = net.parameters(exclude="body.*")
    grads = optim.clip_by_global_norm(gc.grad(loss, parameters), 1e-3)
    updates = optim.SGD(lr=1.0).updates(parameters, grads)
    before = net.state_dict()
    step(updates, loss, {x: rng.normal(size=(4, 3))})
    moved = {k for k, v in net.state_dict().items() if not np.array_equal(v, before[k])}
    assert moved == {"head.weight", "head.bias"}
    total = sum(float(((net.state_dict()[k] - before[k]) ** 2).sum()) for k in moved)
    assert np.sqrt(total) == pytest.approx(1e-3, rel=1e-3)
