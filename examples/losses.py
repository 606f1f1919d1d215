"""Losses and their slopes over the error and over the margin, and a line fitted beside an outlier.

A quadratic loss pulls at a point in proportion to its error, so that one far point turns the line;
an absolute or a Huber loss pulls at most with force 1. Of two classes what counts is the margin,
the score times the label 1 or -1: right answers lie to the right of 0. Hinge losses rest there,
logistic ones never quite do, and the squared error punishes answers that are "too right".

    python examples/losses.py --out demo-output/losses
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from plots import save, subplots

import graphc as gc
from graphc import nn, ops, optim

Curve = Callable[[gc.Value], gc.Value]

#: name -> loss of each prediction x [n] where 0 is right
OF_ERROR: dict[str, Curve] = {
    "MSE": lambda x: nn.MSELoss("none")(x, ops.zeros_like(x)),
    "L1": lambda x: nn.L1Loss("none")(x, ops.zeros_like(x)),
    "SmoothL1, beta 0.3": lambda x: nn.SmoothL1Loss("none", beta=0.3)(x, ops.zeros_like(x)),
    "Huber, delta 1": lambda x: nn.HuberLoss("none", delta=1.0)(x, ops.zeros_like(x)),
}


def two_scores(margin: gc.Value) -> tuple[gc.Value, gc.Value]:
    """Scores [n, 2] whose difference is the margin, and their labels [n]."""
    scores = ops.stack([margin, ops.zeros_like(margin)], -1)
    return scores, ops.zeros(margin.shape, gc.int64)


#: name -> loss of each margin x [n] of the label 1
OF_MARGIN: dict[str, Curve] = {
    "MSE to 1": lambda x: nn.MSELoss("none")(x, ops.ones_like(x)),
    "SoftMargin = CrossEntropy": lambda x: nn.CrossEntropyLoss(reduction="none")(*two_scores(x)),
    "MultiMargin": lambda x: nn.MultiMarginLoss(reduction="none")(*two_scores(x)),
    "MultiMargin, p=2": lambda x: nn.MultiMarginLoss(p=2, reduction="none")(*two_scores(x)),
}


def draw_curves(losses: dict[str, Curve], axes: Any, names: tuple[str, str]) -> None:
    """Each loss and its slope from -3 to 3; prints the slopes far out."""
    points = np.linspace(-3.0, 3.0, 241, dtype=np.float32)
    x = gc.observed("x", points.shape)
    made = {name: (loss(x), gc.grad(loss(x).sum(), x)) for name, loss in losses.items()}
    for name, curves in gc.compile([x], made)(points).items():
        click.echo(f"{name:28} slope {curves[1][0]:6.2f} at -3, {curves[1][-1]:6.2f} at 3")
        for place, curve in enumerate(curves):
            if axes is not None:
                axes[place].plot(points, curve, label=name)
    for place, what in enumerate(("loss", "slope")):
        if axes is not None:
            axes[place].set(title=f"{what} over the {names[0]}", xlabel=names[1])
            axes[place].axvline(0.0, color="gray", lw=0.5)
    if axes is not None:
        axes[0].set_ylim(-0.2, 5.0)
        axes[0].legend(fontsize=7)


def fitted(x: Any, y: Any, steps: int) -> dict[str, Any]:
    """Lines by each loss for every row of y [rows, n] over x [n]: slopes and heights [rows, 2]."""
    lines, cost = {}, gc.constant(np.float32(0.0))
    for name, loss in OF_ERROR.items():
        lines[name] = gc.parameter((len(y), 2))
        predicted = lines[name][:, :1] * gc.constant(x) + lines[name][:, 1:]
        cost = cost + ops.mean(loss(predicted - gc.constant(y)), 1).sum()  # a line for each row
    rate = optim.schedules.cosine(0.1, steps)
    step = gc.compile([], cost, optim.Adam(lr=rate).minimize(cost))
    for _ in range(steps):
        step()
    return {name: line.numpy() for name, line in lines.items()}


@click.command()
@click.option("--out", default="demo-output/losses", help="where the picture goes")
@click.option("--quick", is_flag=True, help="fewer steps")
def main(out: str, quick: bool) -> None:
    """Draw the losses; fit y = x through 20 points of which the last one moves away."""
    figure, axes = subplots(6, "losses", columns=3)
    if axes is not None:
        figure.set_size_inches(13, 7)
    draw_curves(OF_ERROR, axes if axes is None else axes[[0, 3]], ("error", "prediction - target"))
    draw_curves(OF_MARGIN, axes if axes is None else axes[[1, 4]], ("margin", "label x score"))
    x = np.linspace(-1.0, 1.0, 20, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0.0, 0.1, 20).astype(np.float32)
    away = np.linspace(0.0, 10.0, 11, dtype=np.float32)
    y = np.tile(x + noise, (len(away), 1))
    y[:, -1] -= away
    lines = fitted(x, y, 200 if quick else 1000)
    for name, line in lines.items():
        click.echo(f"{name:28} slope {line[0, 0]:.2f} alone, {line[5, 0]:.2f} beside the outlier")
        if axes is not None:
            axes[2].plot(x, line[5, 0] * x + line[5, 1], label=name)
            axes[5].plot(away, line[:, 0], ".-", label=name)
    if axes is not None:
        axes[2].plot(x, y[5], "k.")
        axes[2].set(title="lines beside an outlier", xlabel="x")
        axes[5].set(title="slope found; 1 is right", xlabel="how far the outlier moved")
    turned = np.abs(lines["MSE"][5, 0] - 1) / np.abs(lines["Huber, delta 1"][5, 0] - 1)
    click.echo(f"turned: {turned:.1f} times as far by MSE as by Huber")
    save(figure, Path(out) / "losses.png")


if __name__ == "__main__":
    main()
