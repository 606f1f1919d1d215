"""Program 10: an energy whose minimum over y is the prediction; trained through the descent."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops

DTYPE, STEPS, RATE = gc.float64, 20, 0.1
rng = np.random.default_rng(12)
X, Y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))


class Energy(nn.Module):
    def __init__(self) -> None:
        gc.manual_seed(9)
        self.inner = nn.Linear(5, 6, dtype=DTYPE)
        self.outer = nn.Linear(6, 1, dtype=DTYPE)

    def forward(self, x: gc.Value, y: gc.Value) -> gc.Value:
        h = ops.tanh(self.inner(ops.concat([x, y], 1)))
        return self.outer(h)[:, 0] + 0.5 * (y * y).sum(1)


def descend(energy: Energy, x: gc.Value, y0: gc.Value) -> gc.Value:
    def step(y: gc.Value, _: None) -> Any:
        return y - RATE * gc.grad(energy(x, y).sum(), y), None

    return gc.scan(step, y0, length=STEPS)[0]


def torch_energy(torch: Any, energy: Energy) -> Any:
    w = {k: torch.tensor(v, requires_grad=True) for k, v in energy.state_dict().items()}

    def of(x: Any, y: Any) -> Any:
        h = torch.tanh(torch.cat([x, y], 1) @ w["inner.weight"].T + w["inner.bias"])
        return (h @ w["outer.weight"].T + w["outer.bias"])[:, 0] + 0.5 * (y * y).sum(1)

    return w, of


def torch_descent(torch: Any, of: Any, x: Any, y: Any) -> Any:
    for _ in range(STEPS):
        (slope,) = torch.autograd.grad(of(x, y).sum(), y, create_graph=True)
        y = y - RATE * slope
    return y


@pytest.mark.parametrize("through", [True, False])
def test_training_follows_pytorch(through: bool) -> None:
    """Differentiating through the descent is a second derivative through the scan."""
    torch = pytest.importorskip("torch")
    energy = Energy()
    x, y = gc.observed("x", (4, 3), DTYPE), gc.observed("y", (4, 2), DTYPE)
    yhat = descend(energy, x, y * 0.0)
    if not through:
        yhat = gc.stop_gradient(yhat)
    loss = (energy(x, y) - energy(x, yhat) + ((y - yhat) ** 2).sum(1)).mean()
    run = gc.compile([x, y], (loss, yhat, gc.grad(loss, energy)), mode="train")
    ours = run(X, Y)
    w, of = torch_energy(torch, energy)
    tx, ty = torch.tensor(X), torch.tensor(Y)
    that = torch_descent(torch, of, tx, torch.zeros_like(ty, requires_grad=True))
    that = that if through else that.detach()
    wanted = (of(tx, ty) - of(tx, that) + ((ty - that) ** 2).sum(1)).mean()
    wanted.backward()
    np.testing.assert_allclose(ours[0], wanted.item(), rtol=1e-10)
    np.testing.assert_allclose(ours[1], that.detach().numpy(), rtol=1e-9, atol=1e-12)
    for name, slope in ours[2].items():
        np.testing.assert_allclose(slope, w[name].grad, rtol=1e-8, atol=1e-12)


def test_a_prediction_is_where_the_slope_ends() -> None:
    energy = Energy()
    x = gc.observed("x", (4, 3), DTYPE)
    yhat = descend(energy, x, ops.zeros((4, 2), DTYPE))
    slope = gc.grad(energy(x, yhat).sum(), yhat)
    first = gc.grad(energy(x, yhat * 0.0).sum(), yhat, unused="zero")
    at_end = gc.compile([x], slope)(X)
    assert np.abs(at_end).max() < 0.2
    assert np.isfinite(gc.compile([x], first)(X)).all()


def test_adversarial_inputs_and_interactive_inference() -> None:
    energy = Energy()
    x, y = gc.observed("x", (4, 3), DTYPE), gc.observed("y", (4, 2), DTYPE)
    total = energy(x, y).sum()
    adv = gc.compile([x, y], x + 0.1 * ops.sign(gc.grad(total, x)))(X, Y)
    np.testing.assert_allclose(np.abs(adv - X), 0.1, rtol=1e-9)
    plain = gc.compile([x, y], energy(x, y))
    assert (plain(adv, Y) > plain(X, Y)).all()
    # the state is the guess: every call is one step downhill
    guess = gc.state(np.zeros((4, 2)), DTYPE)
    cost = energy(x, guess).sum()
    step = gc.compile([x], cost, {guess: guess - RATE * gc.grad(cost, guess)}, mode="eval")
    costs = [float(step(X)) for _ in range(STEPS)]
    assert all(a > b for a, b in itertools.pairwise(costs))
    whole = gc.compile([x], descend(energy, x, ops.zeros((4, 2), DTYPE)))(X)
    np.testing.assert_allclose(guess.numpy(), whole, rtol=1e-12)


def test_an_integer_target_is_refused_with_the_remedy() -> None:
    y = gc.observed("y", (4, 2), gc.int64)
    with pytest.raises(gc.GradError, match=r"is int64, which has no derivative; declare"):
        gc.grad((y * 2.0).sum(), y)
