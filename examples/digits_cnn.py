"""Handwritten digits with a small convolutional network: batch norm, pooling, noise in training.

Three 3x3 convolutions with batch norm, the last one at half size, then dropout and a linear layer;
the learning rate rises and falls as half a cosine.
digits.py has the data and the run: the same split and the same shifts as digits_mlp.py.

    python examples/digits_cnn.py --seeds 5 --out demo-output/cnn
"""

from __future__ import annotations

from typing import Any

import click
from digits import Program, demo, options

import graphc as gc
from graphc import nn, optim, train

EPOCHS = 20
STEPS = EPOCHS * 41  # 1,293 training images in batches of 32
LEARNING_RATE = optim.schedules.warmup_cosine(4e-3, STEPS // 20, STEPS)
NOISE = 0.1


class Net(nn.Module):
    """Images [B, 64] to logits [B, 10]."""

    def __init__(self) -> None:
        self.body = (
            self.block(1, 16)
            >> self.block(16, 16)
            >> nn.MaxPool2d(2)
            >> self.block(16, 32)
            >> nn.Flatten()
            >> nn.Dropout(0.3)
        )
        self.head = nn.Linear(32 * 4 * 4, 10)

    @staticmethod
    def block(channels: int, features: int) -> nn.Module:
        """A convolution that keeps the size, normalized."""
        convolution = nn.Conv2d(channels, features, 3, padding="same", bias=False)
        return convolution >> nn.BatchNorm2d(features) >> nn.ReLU()

    def forward(self, x: gc.Value) -> gc.Value:
        """Noise where it trains; then the layers."""
        x = gc.by_mode(train=x + NOISE * gc.random.normal(x.shape), eval=x)
        return self.head(self.body(x.reshape(x.shape[0], 1, 8, 8)))


def build(seed: int) -> Program:
    """The same block diagram for training, testing and prediction."""
    gc.manual_seed(seed)
    batch = gc.Dim("B")
    x = gc.observed("x", (batch, 64))
    y = gc.observed("y", (batch,), gc.int64)
    net = Net()
    logits = net(x)
    loss = nn.CrossEntropyLoss()(logits, y)
    opt = optim.AdamW(LEARNING_RATE)
    return Program(
        net=net,
        opt=opt,
        loss=loss,
        step=gc.compile([x, y], loss, opt.minimize(loss)),
        test=gc.compile([x, y], {"loss": loss, "accuracy": train.accuracy(logits, y)}),
        predict=gc.compile([x], logits),
    )


@click.command()
@options(epochs=EPOCHS, out="demo-output/cnn")
def main(**options: Any) -> None:
    """Train a convolutional network on handwritten digits; draw all five levels."""
    demo(build, **options)


if __name__ == "__main__":
    main()
