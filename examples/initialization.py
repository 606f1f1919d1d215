"""The variance of activations through 30 layers, for right and for wrong first values.

Right ones keep it near 1; with wrong ones it dies out or explodes, and with it every gradient.

    python examples/initialization.py --out demo-output/initialization
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from plots import save, subplots

import graphc as gc
from graphc.nn import functional, init

DEPTH = 30

#: label -> activation, first values of the weights
CHOICES: dict[str, tuple[Any, Any]] = {
    "relu, Kaiming": (functional.relu, partial(init.kaiming_normal, nonlinearity="relu")),
    "relu, Xavier": (functional.relu, init.xavier_normal),
    "relu, normal 0.01": (functional.relu, partial(init.normal, std=0.01)),
    "relu, normal 0.2": (functional.relu, partial(init.normal, std=0.2)),
    "relu, orthogonal": (functional.relu, partial(init.orthogonal, gain=2**0.5)),
    "tanh, Xavier": (functional.tanh, partial(init.xavier_normal, gain=5 / 3)),
    "tanh, LeCun": (functional.tanh, init.lecun_normal),
    "tanh, normal 0.01": (functional.tanh, partial(init.normal, std=0.01)),
    "selu, LeCun": (functional.selu, init.lecun_normal),
    "selu, Kaiming": (functional.selu, partial(init.kaiming_normal, nonlinearity="relu")),
}


def mean_squares(activation: Any, first: Any, width: int, x: gc.Value) -> gc.Value:
    """[DEPTH]: the mean square of what leaves each layer, before the activation."""
    squares = []
    for _ in range(DEPTH):
        x = x @ gc.parameter((width, width), init=first).T
        squares.append((x * x).mean())
        x = activation(x)
    return gc.ops.stack(squares)


@click.command()
@click.option("--out", default="demo-output/initialization", help="where the picture goes")
@click.option("--quick", is_flag=True, help="narrow layers")
def main(out: str, quick: bool) -> None:
    """Send noise of variance 1 through every choice, print and draw the variances."""
    gc.manual_seed(0)
    width = 128 if quick else 512
    x = gc.observed("x", (64, width))
    at = np.random.default_rng(0).standard_normal((64, width)).astype(np.float32)
    made = {name: mean_squares(*choice, width, x) for name, choice in CHOICES.items()}
    found = gc.compile([x], made)(at)
    figure, axes = subplots(1, f"mean square through {DEPTH} layers of {width}")
    for name, squares in found.items():
        print(f"{name:20} layer 1: {squares[0]:9.2e}   layer {DEPTH}: {squares[-1]:9.2e}")
        if axes is not None:
            axes[0].semilogy(range(1, DEPTH + 1), np.maximum(squares, 1e-45), label=name)
    if axes is not None:
        figure.set_size_inches(8, 5)
        axes[0].set_xlabel("layer")
        axes[0].legend(fontsize=7)
    kept = found["relu, Kaiming"][-1] / found["relu, Kaiming"][0]
    print(f"kept: {kept:.3f} of the first layer's by relu with Kaiming's")
    save(figure, Path(out) / "initialization.png")


if __name__ == "__main__":
    main()
