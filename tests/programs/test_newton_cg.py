"""Program 9: damped Newton steps by conjugate gradients, with a line search; all in one call."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc as gc
from graphc import nn, tree

DTYPE, DAMP = gc.float64, 0.05


class Solve(NamedTuple):
    i: Any
    d: Any
    r: Any
    p: Any
    rr: Any


class Search(NamedTuple):
    a: Any
    tries: Any


def dot(u: Any, v: Any) -> Any:
    return sum(tree.leaves(tree.map(lambda a, b: (a * b).sum(), u, v)))


def plus(u: Any, scale: Any, v: Any) -> Any:
    return tree.map(lambda a, b: a + scale * b, u, v)


def program() -> tuple[gc.Executable, nn.Module]:
    gc.manual_seed(5)
    net = nn.Linear(3, 5, dtype=DTYPE) >> nn.Tanh() >> nn.Linear(5, 2, dtype=DTYPE)
    x, y = gc.observed("x", (30, 3), DTYPE), gc.observed("y", (30, 2), DTYPE)
    loss = nn.MSELoss()(net(x), y)
    ps = net.parameters()
    g = gc.grad(loss, ps)

    def step(s: Solve) -> Solve:
        ap = plus(gc.hvp(loss, ps, s.p), DAMP, s.p)
        alpha = s.rr / dot(s.p, ap)
        r = plus(s.r, -alpha, ap)
        rr = dot(r, r)
        return Solve(s.i + 1, plus(s.d, alpha, s.p), r, plus(r, rr / s.rr, s.p), rr)

    r0 = [-v for v in g]
    start = Solve(0, [v * 0.0 for v in g], r0, r0, dot(r0, r0))
    solved = gc.while_loop(lambda s: (s.i < 50) & (s.rr > 1e-18), step, start)
    slope = dot(g, solved.d)

    def too_far(s: Search) -> Any:
        moved = gc.substitute(loss, dict(zip(ps, plus(ps, s.a, solved.d), strict=True)))
        return (moved > loss + 1e-4 * s.a * slope) & (s.tries < 20)

    one = gc.constant(1.0, DTYPE)
    found = gc.while_loop(too_far, lambda s: Search(s.a * 0.5, s.tries + 1), Search(one, 0))
    new = dict(zip(ps, plus(ps, found.a, solved.d), strict=True))
    return gc.compile([x, y], (loss, solved.i, found.a), new), net


def theirs(torch: Any, weights: dict[str, Any], x: Any, y: Any, steps: int) -> list[Any]:
    """The same algorithm over one flat vector in PyTorch."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    net = net.double()
    net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    shapes = [(k, v.shape, v.numel()) for k, v in net.named_parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])

    def loss(w: Any) -> Any:
        parts, at = {}, 0
        for name, shape, n in shapes:
            parts[name], at = w[at : at + n].reshape(shape), at + n
        return ((torch.func.functional_call(net, parts, (x,)) - y) ** 2).mean()

    found = []
    for _ in range(steps):
        at = flat.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(at), at, create_graph=True)
        g = slope.detach()
        d, r = torch.zeros_like(g), -g
        p, rr, i = r, r @ r, 0
        while i < 50 and rr > 1e-18:
            (curved,) = torch.autograd.grad(slope, at, p, retain_graph=True)
            ap = curved + DAMP * p
            alpha = rr / (p @ ap)
            d, r = d + alpha * p, r - alpha * ap
            p, rr, i = r + (r @ r) / rr * p, r @ r, i + 1
        a, cost = 1.0, loss(flat)
        while loss(flat + a * d) > cost + 1e-4 * a * (g @ d) and a > 2.0**-20:
            a *= 0.5
        found.append((float(cost), i, a))
        flat = flat + a * d
    return [found, flat.numpy()]


def test_a_step_is_one_call_that_follows_pytorch() -> None:
    torch = pytest.importorskip("torch")
    run, net = program()
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30, 3))
    y = np.stack([np.sin(x[:, 0]) * x[:, 1], np.tanh(x[:, 2])], 1)
    assert run.mode == "train"
    weights = net.state_dict()
    ours = [run(x, y) for _ in range(5)]
    wanted, flat = theirs(torch, weights, torch.tensor(x), torch.tensor(y), 5)
    losses = [float(o[0]) for o in ours]
    np.testing.assert_allclose(losses, [w[0] for w in wanted], rtol=1e-6)
    assert [float(o[2]) for o in ours] == [w[2] for w in wanted]
    mine = np.concatenate([p.numpy().reshape(-1) for p in net.parameters()])
    np.testing.assert_allclose(mine, flat, rtol=1e-4, atol=1e-6)
    assert losses[-1] < losses[0]


def test_and_between_values_is_refused_with_the_remedy() -> None:
    x = gc.observed("x", ())
    with pytest.raises(TypeError, match=r"& \| ~ instead of and, or, not"):
        gc.while_loop(lambda s: s > 0.0 and s < 5.0, lambda s: s + 1.0, x)
