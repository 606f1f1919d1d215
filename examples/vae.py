"""A variational autoencoder of handwritten digits: what it learned to draw.

    x -> mu, log variance [8] -> z = mu + exp(log variance / 2) noise -> logits of pixels

The loss is the negative evidence lower bound, in nats an image (Kingma, Welling 2014); pixels are
gray values in [0, 1] taken as probabilities.

    python examples/vae.py --out demo-output/vae

After 150 epochs, some 20 seconds on two cores, a test image costs 24.5 nats; taking each pixel for
itself, with its mean over the training images, costs 27.4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from digits import load_images
from pictures import write_grid

import graphc as gc
from graphc import data, nn, ops, optim, train

PIXELS, HIDDEN, LATENT, BATCH = 64, 128, 8, 64


class Autoencoder(nn.Module):
    """Images [B, 64] to logits of pixels, mean and log variance of the code."""

    def __init__(self) -> None:
        self.encoder = nn.Linear(PIXELS, HIDDEN) >> nn.ReLU() >> nn.Linear(HIDDEN, 2 * LATENT)
        self.decoder = nn.Linear(LATENT, HIDDEN) >> nn.ReLU() >> nn.Linear(HIDDEN, PIXELS)

    def encode(self, x: gc.Value) -> tuple[gc.Value, gc.Value]:
        """Mean and log variance [B, LATENT]."""
        code = self.encoder(x)
        return code[:, :LATENT], code[:, LATENT:]

    def forward(self, x: gc.Value) -> tuple[gc.Value, gc.Value, gc.Value]:
        """One draw of the code for each image."""
        mu, logvar = self.encode(x)
        z = mu + ops.exp(0.5 * logvar) * gc.random.normal(mu.shape)
        return self.decoder(z), mu, logvar


def bound(x: gc.Value, logits: gc.Value, mu: gc.Value, logvar: gc.Value) -> dict[str, gc.Value]:
    """Nats an image: of the pixels given the code, of the code, and their sum."""
    pixels = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    pixels = ops.mean(ops.sum(pixels, 1))
    code = ops.mean(0.5 * ops.sum(mu * mu + ops.exp(logvar) - 1.0 - logvar, 1))
    return {"nats": pixels + code, "pixels": pixels, "code": code}


def pixelwise(images: Any, of: Any) -> float:
    """Nats an image of ``of`` with each pixel's mean over ``images``."""
    p = np.clip(images.mean(0, dtype=np.float64), 1e-3, 1 - 1e-3)
    return float(-(of * np.log(p) + (1 - of) * np.log(1 - p)).sum(1).mean())


@click.command()
@click.option("--quick", is_flag=True, help="A few epochs.")
@click.option("--epochs", default=150, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output/vae"))
def main(quick: bool, epochs: int, out: Path) -> None:
    """Train, test, draw."""
    gc.manual_seed(0)
    images, labels = load_images()
    (x_train, _), (x_test, _) = data.split(images, labels, stratify=labels)
    batch = gc.Dim("B")
    x = gc.observed("x", (batch, PIXELS))
    net = Autoencoder()
    costs = bound(x, *net(x))
    step = gc.compile([x], costs, optim.Adam(lr=2e-3).minimize(costs["nats"]))
    test = gc.compile([x], costs)
    drawn = gc.compile([batch], ops.sigmoid(net.decoder(gc.random.normal((batch, LATENT)))))
    rebuilt = gc.compile([x], ops.sigmoid(net.decoder(net.encode(x)[0])))
    train.fit(
        step,
        data.batches(x_train, BATCH, shuffle=True, drop_last=True),
        epochs=10 if quick else epochs,
    )
    measures = train.evaluate(test, data.batches(x_test, len(x_test)))
    click.echo(f"test: {measures['nats']:.2f} nats an image, {measures['code']:.2f} of them code")
    click.echo(f"pixel by pixel: {pixelwise(x_train, x_test):.2f} nats an image")
    shown = np.stack([x_test[:20], rebuilt(x_test[:20])], 1).reshape(-1, 8, 8)
    click.echo(f"wrote {write_grid(out / 'rebuilt.png', shown)}")
    click.echo(f"wrote {write_grid(out / 'drawn.png', drawn(40).reshape(-1, 8, 8))}")
    click.echo(f"wrote {gc.draw(costs['nats'], out / 'vae.svg', depth=2)}")


if __name__ == "__main__":
    main()
