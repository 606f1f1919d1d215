"""Program 3: a GAN. Both players step at once, or the generator sees the new discriminator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim

DTYPE = gc.float64
rng = np.random.default_rng(4)


def bce(logits: gc.Value, wanted: float) -> gc.Value:
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted)


class Game:
    """Both networks, their losses and optimizers; the noise is drawn inside."""

    def __init__(self) -> None:
        gc.manual_seed(3)
        self.batch = gc.Dim("B")
        self.x = gc.observed("x", (self.batch, 6), DTYPE)
        self.g = (
            nn.Linear(4, 8, dtype=DTYPE)
            >> nn.BatchNorm1d(8, dtype=DTYPE)
            >> nn.ReLU()
            >> nn.Linear(8, 6, dtype=DTYPE)
        ).named("G")
        self.d = (
            nn.Linear(6, 8, dtype=DTYPE)
            >> nn.BatchNorm1d(8, dtype=DTYPE)
            >> nn.LeakyReLU(0.2)
            >> nn.Linear(8, 1, dtype=DTYPE)
        ).named("D")
        self.z = gc.random.normal((self.batch, 4), dtype=DTYPE)
        self.fake = self.g(self.z)
        self.d_loss = bce(self.d(self.x), 1.0) + bce(self.d(gc.stop_gradient(self.fake)), 0.0)
        self.g_loss = bce(self.d(self.fake), 1.0)
        self.opt_d = optim.Adam(lr=2e-2, betas=(0.5, 0.999))
        self.opt_g = optim.Adam(lr=1e-2, betas=(0.5, 0.999))
        self.d_up = self.opt_d.minimize(self.d_loss, wrt=self.d)


class Theirs:
    """The same game in PyTorch."""

    def __init__(self, torch: Any, game: Game) -> None:
        self.torch = torch
        layers = torch.nn
        self.g = layers.Sequential(
            layers.Linear(4, 8), layers.BatchNorm1d(8), layers.ReLU(), layers.Linear(8, 6)
        )
        self.d = layers.Sequential(
            layers.Linear(6, 8), layers.BatchNorm1d(8), layers.LeakyReLU(0.2), layers.Linear(8, 1)
        )
        for theirs, ours in ((self.g, game.g), (self.d, game.d)):
            theirs.double()
            state = {name: torch.from_numpy(array) for name, array in ours.state_dict().items()}
            theirs.load_state_dict(state)
        options = {"betas": (0.5, 0.999)}
        self.opt_d = torch.optim.Adam(self.d.parameters(), lr=2e-2, **options)
        self.opt_g = torch.optim.Adam(self.g.parameters(), lr=1e-2, **options)

    def bce(self, logits: Any, wanted: float) -> Any:
        target = self.torch.full_like(logits, wanted)
        return self.torch.nn.functional.binary_cross_entropy_with_logits(logits, target)

    def step(self, x: Any, z: Any, *, at_once: bool) -> tuple[float, float]:
        x, z = self.torch.from_numpy(x), self.torch.from_numpy(z)
        fake = self.g(z)
        d_loss = self.bce(self.d(x), 1.0) + self.bce(self.d(fake.detach()), 0.0)
        self.opt_d.zero_grad()
        d_loss.backward()
        if not at_once:
            self.opt_d.step()
        g_loss = self.bce(self.d(fake), 1.0)
        self.opt_g.zero_grad()
        kept = [p.grad.clone() for p in self.d.parameters()]
        g_loss.backward()  # adds to D's gradients too, which are put back
        for parameter, gradient in zip(self.d.parameters(), kept, strict=True):
            parameter.grad = gradient
        self.opt_g.step()
        if at_once:
            self.opt_d.step()
        return d_loss.item(), g_loss.item()


def same(ours: nn.Module, theirs: Any) -> None:
    for name, tensor in theirs.state_dict().items():
        got = ours.state_dict()[name]
        np.testing.assert_allclose(got, tensor.numpy(), rtol=1e-7, atol=1e-9, err_msg=name)


def play(game: Game, theirs: Theirs, call: Any, *, at_once: bool) -> None:
    for rows in (8, 8, 8, 5, 8, 8):
        at = rng.normal(size=(rows, 6)) + 2.0
        d_loss, g_loss, z = call(at)
        assert z.shape == (rows, 4)
        wanted = theirs.step(at, z, at_once=at_once)
        np.testing.assert_allclose((d_loss, g_loss), wanted, rtol=1e-8)
    same(game.d, theirs.d)
    same(game.g, theirs.g)
    assert game.d[1].num_batches_tracked.numpy() == 18, "D ran three times a step"


@pytest.mark.torch
def test_both_at_once_see_the_old_discriminator() -> None:
    torch = pytest.importorskip("torch")
    game = Game()
    theirs = Theirs(torch, game)
    g_up = game.opt_g.minimize(game.g_loss, wrt=game.g)
    assert set(g_up).isdisjoint(game.d_up)
    both = gc.compile([game.x], [game.d_loss, game.g_loss, game.z], game.d_up | g_up)
    play(game, theirs, both, at_once=True)


@pytest.mark.torch
def test_alternating_the_generator_sees_the_new_discriminator() -> None:
    torch = pytest.importorskip("torch")
    game = Game()
    theirs = Theirs(torch, game)
    g_loss = gc.substitute(game.g_loss, game.d_up)
    g_up = game.opt_g.minimize(g_loss, wrt=game.g)
    call = gc.compile([game.x], [game.d_loss, g_loss, game.z], game.d_up | g_up)
    play(game, theirs, call, at_once=False)


def test_samples_of_any_number() -> None:
    game = Game()
    sample = gc.compile([game.batch], game.fake)
    assert sample(5).shape == (5, 6)
    assert not np.array_equal(sample(5), sample(5))
    gc.manual_seed(7)
    first = sample(3)
    gc.manual_seed(7)
    np.testing.assert_array_equal(sample(3), first)
    assert game.g[1].num_batches_tracked.numpy() == 0, "sampling moves no statistics"
