"""What the normalizations make equal, on digits; and what that does for training a deep net.

Features of images are [N, C, H, W]: rows N, channels C, places H x W. Each normalization takes away
the mean (RMSNorm does not) and divides by the deviation over other axes:

    BatchNorm      N, H, W         a channel, over the batch (in eval by running statistics)
    LayerNorm      C, H, W         an image, whatever else is in the batch
    InstanceNorm   H, W            a channel of an image
    GroupNorm      C/groups, H, W  some channels of an image
    RMSNorm        C, H, W         an image, its size alone

    python examples/normalization.py --out demo-output/normalization
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from digits import load_images
from plots import save, subplots

import graphc as gc
from graphc import data, nn, ops, optim

ROWS, CHANNELS = 16, 8

#: name -> the layer, the axes of [N, groups, C / groups, H, W] that it works over
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "BatchNorm": (nn.BatchNorm2d(CHANNELS), (0, 3, 4)),
    "LayerNorm": (nn.LayerNorm((CHANNELS, 6, 6)), (1, 2, 3, 4)),
    "InstanceNorm": (nn.InstanceNorm2d(CHANNELS), (3, 4)),
    "GroupNorm, 2 groups": (nn.GroupNorm(2, CHANNELS), (2, 3, 4)),
    "RMSNorm": (nn.RMSNorm((CHANNELS, 6, 6)), (1, 2, 3, 4)),
}

#: name -> what follows each linear layer of the deep net
DEEP: dict[str, Callable[[int], nn.Module]] = {
    "nothing": lambda width: nn.Identity(),
    "BatchNorm": nn.BatchNorm1d,
    "LayerNorm": nn.LayerNorm,
    "RMSNorm": nn.RMSNorm,
}


def draw_statistics(images: Any, axes: Any) -> None:
    """The mean and the mean square of what each layer makes of 16 digits, as [N, C] pictures."""
    x = gc.observed("x", (ROWS, 1, 8, 8))
    features = nn.Conv2d(1, CHANNELS, 3)(x)
    made = {"features": features} | {name: layer(features) for name, (layer, _) in LAYERS.items()}
    found = gc.compile([x], made, mode="train")(images[:ROWS].reshape(ROWS, 1, 8, 8))
    for place, (name, array) in enumerate(found.items()):
        if name in LAYERS:
            parts = array.reshape(ROWS, 2, CHANNELS // 2, 6, 6)
            over = LAYERS[name][1]
            means, squares = parts.mean(over), (parts**2).mean(over)
            click.echo(
                f"{name:20} {means.size:4} means within {np.abs(means).max():.1e} of 0, "
                f"mean squares within {np.abs(squares - 1).max():.1e} of 1"
            )
        if axes is not None:
            means = array.mean((2, 3))
            shown = axes[place].imshow(means, cmap="RdBu", vmin=-1.5, vmax=1.5, aspect="auto")
            axes[place].set(title=name, xlabel="channel", ylabel="image")
            axes[place].figure.colorbar(shown, ax=axes[place])


def deep_net(kind: Callable[[int], nn.Module], depth: int, width: int) -> list[nn.Module]:
    """``depth`` layers and the head."""
    columns = [64] + [width] * depth
    hidden = [
        nn.Sequential(nn.Linear(a, b), kind(b), nn.ReLU())
        for a, b in pairwise(columns)
    ]
    return [*hidden, nn.Linear(width, 10)]


def train_deep(images: Any, labels: Any, depth: int, width: int, epochs: int) -> Any:
    """Name -> the loss at each step, and the deviations behind each layer at the start."""
    x, y = gc.observed("x", (64, 64)), gc.observed("y", (64,), gc.int64)
    losses, spreads, updates = {}, {}, optim.Updates()
    for name, kind in DEEP.items():
        hidden, seen = x, []
        for layer in deep_net(kind, depth, width):
            hidden = layer(hidden)
            seen.append(ops.mean(ops.std(hidden, 0)))  # of a unit, from image to image
        losses[name] = nn.CrossEntropyLoss()(hidden, y)
        spreads[name] = ops.stack(seen[:-1])
        updates = updates | optim.SGD(lr=0.02, momentum=0.9).minimize(losses[name])
    step = gc.compile([x, y], (losses, spreads), updates)  # all nets in one program
    batches = data.batches(images, labels, 64, shuffle=True, drop_last=True)
    found = [step(*batch) for _ in range(epochs) for batch in batches]
    return {name: [each[0][name] for each in found] for name in DEEP}, found[0][1]


@click.command()
@click.option("--out", default="demo-output/normalization", help="where the picture goes")
@click.option("--quick", is_flag=True, help="a smaller net, fewer epochs")
def main(out: str, quick: bool) -> None:
    """Draw what each layer makes equal, then train with and without."""
    gc.manual_seed(0)
    images, labels = load_images()
    figure, axes = subplots(8, "what a normalization takes away: means over places", columns=4)
    draw_statistics(images, axes)
    depth, width, epochs = (6, 32, 4) if quick else (10, 64, 15)
    losses, spreads = train_deep(images, labels, depth, width, epochs)
    for name, path in losses.items():
        last = float(np.mean(path[-20:]))
        click.echo(f"{depth} layers with {name:10} loss {path[0]:.2f} -> {last:.3f}")
        if axes is not None:
            axes[6].semilogy(range(1, depth + 1), spreads[name], ".-", label=name)
            axes[7].plot(np.convolve(path, np.full(10, 0.1), "valid"), label=name)
    if axes is not None:
        figure.set_size_inches(15, 7)
        axes[6].set(title="deviation between images, untrained", xlabel="layer")
        axes[7].set(title=f"training {depth} layers", xlabel="step", ylabel="mean loss of 10 steps")
        axes[6].legend(fontsize=7)
    gained = np.mean(losses["nothing"][-20:]) - np.mean(losses["BatchNorm"][-20:])
    click.echo(f"gained: {gained:.2f} of the loss by BatchNorm")
    save(figure, Path(out) / "normalization.png")


if __name__ == "__main__":
    main()
