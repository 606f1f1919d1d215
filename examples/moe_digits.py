"""Mixtures of experts on handwritten digits: soft, and with each image sent to two of eight.

Top-2 with a load-balancing loss computes a quarter of what the soft mixture does, whatever the
number of experts; which expert gets which digit is printed.

    python examples/moe_digits.py --out demo-output/moe

With the default options, some 30 seconds on two cores, the soft mixture gets 96.9% of the test
images and the sparse one 97.5%.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from digits import load_images

import graphc as gc
from graphc import data, nn, ops, optim, train

EXPERTS, HIDDEN, BATCH, BALANCE = 8, 32, 64, 0.02


class Soft(nn.Module):
    """All experts answer."""

    def __init__(self) -> None:
        experts = [nn.Linear(64, HIDDEN) >> nn.ReLU() >> nn.Linear(HIDDEN, 64)
                   for _ in range(EXPERTS)]  # fmt: skip
        self.mixture = nn.MixtureOfExperts(experts, nn.Linear(64, EXPERTS))
        self.head = nn.Linear(64, 10)

    def forward(self, x: gc.Value) -> gc.Value:
        """Images [B, 64] to logits [B, 10]."""
        return self.head(ops.relu(self.mixture(x)))


class Sparse(nn.Module):
    """Two experts answer each image."""

    def __init__(self) -> None:
        self.mixture = nn.SparseMixtureOfExperts(64, HIDDEN, 64, EXPERTS, top_k=2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: gc.Value) -> gc.Value:
        """Images [B, 64] to logits [B, 10]."""
        return self.head(ops.relu(self.mixture(x)))


def run(kind: type[nn.Module], epochs: int) -> tuple[float, nn.Module, gc.Value]:
    """Accuracy on the test images, the net, its loss."""
    gc.manual_seed(0)
    images, labels = load_images()
    train_set, test_set = data.split(images, labels, stratify=labels)
    batch = gc.Dim("B")
    x, y = gc.observed("x", (batch, 64)), gc.observed("y", (batch,), gc.int64)
    net = kind()
    logits = net(x)
    loss = nn.CrossEntropyLoss()(logits, y)
    for balance in gc.marked(logits, "aux_loss"):
        loss = loss + BALANCE * balance
    step = gc.compile([x, y], loss, optim.AdamW(lr=2e-3).minimize(loss))
    test = gc.compile([x, y], {"accuracy": train.accuracy(logits, y)})
    batches = data.batches(*train_set, BATCH, shuffle=True, drop_last=True)
    train.fit(step, batches, epochs=epochs)
    return train.evaluate(test, data.batches(*test_set, 120))["accuracy"], net, loss


def busy(net: Any) -> Any:
    """How often each expert is first choice for each digit, [digits, experts]."""
    images, labels = load_images()
    x = gc.observed("x", images.shape)
    first = gc.compile([x], ops.argmax(net.mixture.gate(x), -1))(images)
    counts = np.zeros((10, EXPERTS), int)
    np.add.at(counts, (labels, first), 1)
    return counts


@click.command()
@click.option("--quick", is_flag=True, help="A few epochs.")
@click.option("--epochs", default=40, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output/moe"))
def main(quick: bool, epochs: int, out: Path) -> None:
    """Train both, compare, show who does what."""
    out.mkdir(parents=True, exist_ok=True)
    for kind in (Soft, Sparse):
        accuracy, net, loss = run(kind, 4 if quick else epochs)
        click.echo(f"{kind.__name__.lower()}: {accuracy:.2%} of the test images")
        path = gc.draw(loss, out / f"{kind.__name__.lower()}.svg", depth=2)
        click.echo(f"wrote {path}")
    counts = busy(net)
    click.echo("digit: images sent first to expert 0, 1, ...")
    for digit, row in enumerate(counts):
        click.echo(f"    {digit}: " + " ".join(f"{count:4d}" for count in row))
    used = counts.sum(0) / counts.sum()
    click.echo(f"the busiest expert is first for {used.max():.0%}, the idlest for {used.min():.0%}")


if __name__ == "__main__":
    main()
