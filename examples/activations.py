"""A gallery of activations, each with its derivative; those that saturate are marked.

A function saturates where its derivative is below 1e-3 far out, at x = -1000 or at x = 1000: what
lies behind it learns nothing there. Those that let elements compete are drawn of x and one more.

    python examples/activations.py --out demo-output/activations
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from plots import save, subplots

import graphc as gc
from graphc import nn

GALLERY = [
    *(nn.ReLU(), nn.LeakyReLU(0.1), nn.PReLU(), nn.RReLU(), nn.ReLU6(), nn.ELU(), nn.CELU(2.0)),
    *(nn.SELU(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Softplus(), nn.LogSigmoid()),
    *(nn.Sigmoid(), nn.Hardsigmoid(), nn.Tanh(), nn.Hardtanh(), nn.Softsign(), nn.Tanhshrink()),
    *(nn.Softshrink(), nn.Hardshrink(), nn.Threshold(-1.0, -1.0)),
]


def curves(x: gc.Value) -> dict[str, gc.Value]:
    """What is drawn, by its title."""
    drawn = {repr(module): module(x) for module in GALLERY}
    others = {"0": gc.ops.zeros_like(x), "x": x, "-x": -x}
    for module, name in (
        *((nn.Softmax(-1), "0"), (nn.Softmin(-1), "0"), (nn.LogSoftmax(-1), "0")),
        *((nn.GLU(), "x"), (nn.Maxout(2), "-x")),
    ):
        both = gc.ops.stack([x, others[name]], -1)
        drawn[f"{type(module).__name__} of x and {name}"] = module(both)[..., 0]
    pair = gc.ops.stack([x, others["0"]], 0)
    drawn["Softmax2d of x and 0"] = nn.Softmax2d()(pair[:, :, None])[0, :, 0]
    # noise of its own at each x
    drawn["gumbel_softmax of x and 0"] = nn.functional.gumbel_softmax(pair, dim=0)[0]
    return drawn


@click.command()
@click.option("--out", default="demo-output/activations", help="where the picture goes")
@click.option("--quick", is_flag=True, help="fewer points")
def main(out: str, quick: bool) -> None:
    """Compute all of them in one program, draw them, and say which ones saturate."""
    points = np.linspace(-6.0, 6.0, 121 if quick else 1201, dtype=np.float32)
    points = np.concatenate([points, np.float32([-1000.0, 1000.0])])
    x = gc.observed("x", points.shape)
    pairs = {name: (y, gc.grad(y.sum(), x)) for name, y in curves(x).items()}
    drawn = gc.compile([x], pairs, mode="eval")(points)
    figure, axes = subplots(len(drawn), "activations")
    count = 0
    for place, (name, (y, slope)) in enumerate(drawn.items()):
        ends = [side for side, s in zip("<>", slope[-2:], strict=True) if abs(s) < 1e-3]
        count += bool(ends)
        mark = {"": "", "<": "flat to the left", ">": "flat to the right"}.get("".join(ends))
        mark = "flat on both sides" if mark is None else mark
        print(f"{name:40} {mark}")
        if axes is not None:
            axes[place].plot(points[:-2], y[:-2], label="f")
            axes[place].plot(points[:-2], slope[:-2], "--", label="f'")
            axes[place].set_title(name, fontsize=8)
            axes[place].text(0.02, 0.9, mark, transform=axes[place].transAxes, color="crimson")
            axes[place].set_ylim(-2.5, 4.0)
    print(f"saturate: {count} of {len(drawn)}")
    save(figure, Path(out) / "activations.png")


if __name__ == "__main__":
    main()
