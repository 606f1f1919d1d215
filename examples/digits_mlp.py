"""Handwritten digits: one block diagram, trained by one native call a step, drawn at five levels.

Trains a 64-256-10 network on scikit-learn's scans of 8x8 pixels, once for each seed; digits.py has
the data and the run.

    python examples/digits_mlp.py --seeds 5 --out demo-output/mlp

With ``--checkpoint DIR`` a run that was stopped, by Ctrl-C or otherwise, goes on with ``--resume``
from its last whole epoch, to the same bits as without the stop.
"""

from __future__ import annotations

from typing import Any

import click
from digits import Program, demo, options

import graphc as gc
from graphc import nn, optim, train

HIDDEN = 256
LEARNING_RATE = 2e-3


def build(seed: int) -> Program:
    """The same block diagram for training, testing and prediction."""
    gc.manual_seed(seed)
    batch = gc.Dim("B")
    x = gc.observed("x", (batch, 64))
    y = gc.observed("y", (batch,), gc.int64)
    net = nn.Linear(64, HIDDEN) >> nn.ReLU() >> nn.Linear(HIDDEN, 10)
    logits = net(x)
    loss = nn.CrossEntropyLoss()(logits, y)
    opt = optim.Adam(lr=LEARNING_RATE)
    return Program(
        net=net,
        opt=opt,
        loss=loss,
        step=gc.compile([x, y], loss, opt.minimize(loss)),
        test=gc.compile([x, y], {"loss": loss, "accuracy": train.accuracy(logits, y)}),
        predict=gc.compile([x], logits),
    )


@click.command()
@options(epochs=60, out="demo-output/mlp")
def main(**options: Any) -> None:
    """Train a multilayer perceptron on handwritten digits; draw all five levels."""
    demo(build, **options)


if __name__ == "__main__":
    main()
