"""Program 14: an op with a gradient of its own, and one written in the Kernel IR."""

from __future__ import annotations

import numpy as np

import graphc as gc
from graphc import nn, ops, optim


@gc.custom_gradient
def ste(x: gc.Value) -> gc.Value:
    return ops.round(x)


@ste.backward
def _(x: gc.Value, out: gc.Value, ct: gc.Value) -> tuple[gc.Value]:
    return (ct * (ops.abs(x) <= 1.0),)


_clip = gc.kernel("""kernel softclip
  size n 1..
  size m 1..
  axes i:n j:m
  in x f32[n,m], limit f32[]
  out y f32[n,m]
  a = load x[i, j]
  l = load limit[]
  store y[i, j] = a / (1.0 + abs(a) / l)
""")


@gc.custom_gradient
def softclip(x: gc.Value, limit: gc.Value) -> gc.Value:
    return _clip(x, limit)  # type: ignore[no-any-return]


@softclip.backward
def _(inputs: tuple[gc.Value, gc.Value], out: gc.Value, ct: gc.Value) -> tuple[gc.Value, None]:
    x, limit = inputs
    return ct / ops.square(1.0 + ops.abs(x) / limit), None


class Quantized(nn.Module):
    """Weights rounded to quarters on the way, trained through the rounding."""

    def __init__(self) -> None:
        self.weight = gc.parameter(np.full((3, 2), 0.1, np.float32))

    def forward(self, x: gc.Value) -> gc.Value:
        return softclip(x, 4.0) @ (ste(self.weight * 4.0) / 4.0)


def test_a_network_of_both_trains_as_numpy_does() -> None:
    net = Quantized()
    x, y = gc.observed("x", (5, 3)), gc.observed("y", (5, 2))
    loss = ((net(x) - y) ** 2).sum()
    step = gc.compile([x, y], loss, optim.SGD(lr=0.01).minimize(loss))
    rng = np.random.default_rng(0)
    at = rng.normal(size=(5, 3)).astype(np.float32) * 3
    to = rng.normal(size=(5, 2)).astype(np.float32)
    w = np.full((3, 2), 0.1)
    h = at / (1 + np.abs(at) / 4.0)
    for _ in range(10):
        rounded = np.round(w * 4) / 4
        error = h @ rounded - to
        np.testing.assert_allclose(step(at, to), (error**2).sum(), rtol=1e-4)
        w = w - 0.01 * 2 * (h.T @ error) * (np.abs(w * 4) <= 1)
        np.testing.assert_allclose(net.weight.numpy(), w, rtol=1e-4, atol=1e-5)


def test_the_slope_by_hand_is_the_slope() -> None:
    x = gc.observed("x", (4, 3))
    run = gc.compile([x], (softclip(x, 2.0), gc.grad(softclip(x, 2.0).sum(), x)))
    at = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    out, slope = run(at)
    exact = at.astype(np.float64)
    up, down = (v / (1 + np.abs(v) / 2) for v in (exact + 1e-5, exact - 1e-5))
    np.testing.assert_allclose(out, exact / (1 + np.abs(exact) / 2), rtol=1e-6)
    np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-5)
