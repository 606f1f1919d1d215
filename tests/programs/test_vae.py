"""Program 4: a variational autoencoder. Explicit noise is no matter of mode; one draw is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim

DTYPE = gc.float64
rng = np.random.default_rng(6)


class Encoder(nn.Module):
    def __init__(self) -> None:
        self.body = nn.Linear(12, 8, dtype=DTYPE)
        self.mu, self.logvar = nn.Linear(8, 3, dtype=DTYPE), nn.Linear(8, 3, dtype=DTYPE)

    def forward(self, x: gc.Value) -> Any:
        h = nn.functional.gelu(self.body(x))
        return self.mu(h), self.logvar(h)


class Model:
    def __init__(self, rng: gc.Rng | None = None) -> None:
        gc.manual_seed(5)
        self.batch = gc.Dim("B")
        self.x = gc.observed("x", (self.batch, 12), DTYPE)
        self.encoder = Encoder()
        self.decoder = nn.Linear(3, 8, dtype=DTYPE) >> nn.GELU() >> nn.Linear(8, 12, dtype=DTYPE)
        self.mu, logvar = self.encoder(self.x)
        self.noise = gc.random.normal(self.mu.shape, dtype=DTYPE, rng=rng)
        z = self.mu + ops.exp(0.5 * logvar) * self.noise
        logits = self.decoder(z)
        recon = nn.BCEWithLogitsLoss(reduction="sum")(logits, self.x)
        kl = -0.5 * (1.0 + logvar - self.mu**2 - ops.exp(logvar)).sum()
        self.loss = (recon + kl) / self.batch
        self.opt = optim.Adam(lr=1e-2)


@pytest.mark.torch
def test_steps_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    model = Model()
    step = gc.compile([model.x], [model.loss, model.noise], model.opt.minimize(model.loss))
    encode = gc.compile([model.x], model.mu)
    weights = {
        f"{root}.{name}": torch.tensor(array, requires_grad=True)
        for root, net in (("e", model.encoder), ("d", model.decoder))
        for name, array in net.state_dict().items()
    }

    def linear(name: str, x: Any) -> Any:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    optimizer = torch.optim.Adam(weights.values(), lr=1e-2)
    for rows in (6, 6, 6, 6):
        at = (rng.uniform(size=(rows, 12)) > 0.5).astype(float)
        got, noise = step(at)
        x = torch.from_numpy(at)
        h = functional.gelu(linear("e.body", x))
        mu, logvar = linear("e.mu", h), linear("e.logvar", h)
        z = mu + (0.5 * logvar).exp() * torch.from_numpy(noise)
        logits = linear("d.2", functional.gelu(linear("d.0", z)))
        recon = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        loss = (recon - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()) / rows
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(got, loss.item(), rtol=1e-9)
    h = functional.gelu(linear("e.body", x))
    np.testing.assert_allclose(encode(at), linear("e.mu", h).detach().numpy(), rtol=1e-7)


def test_noise_in_evaluation_and_its_state(tmp_path: Any) -> None:
    """Sampling advances the generator; its state, saved with the model, repeats the samples."""
    mine = gc.Rng(seed=11)
    model = Model(mine)
    z = gc.random.normal((model.batch, 3), dtype=DTYPE, rng=mine)
    sample = gc.compile([model.batch], model.decoder(z))
    gc.save(tmp_path / "vae", encoder=model.encoder, decoder=model.decoder, rng=mine)
    first, second = sample(4), sample(4)
    assert first.shape == (4, 12)
    assert not np.array_equal(first, second)
    gc.restore(tmp_path / "vae", decoder=model.decoder, rng=mine)
    np.testing.assert_array_equal(sample(4), first)
    np.testing.assert_array_equal(sample(4), second)
    evaluate = gc.compile([model.x], [model.loss, model.noise])
    at = np.zeros((2, 12))
    assert evaluate(at)[0] != evaluate(at)[0], "an explicit draw is not a matter of mode"


def test_one_draw_used_twice_and_two_draws() -> None:
    noise, other = gc.random.normal((4,)), gc.random.normal((4,))
    zero, apart = gc.compile([], [noise - noise, noise - other])()
    assert not zero.any()
    assert apart.all()
