"""Paths of optimizers down four landscapes: a badly conditioned bowl, a saddle, a plateau and
Rosenbrock's valley.

All optimizers of a landscape are one program: each has a point of its own, and one call moves them
all.

    python examples/optimizers.py --out demo-output/optimizers
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from plots import save, subplots

import graphc as gc
from graphc import ops, optim

#: name -> cost of a point [2], where to start, its lowest points, and what the picture shows
LANDSCAPES: dict[str, tuple[Callable[[Any], Any], tuple[float, float], Any, tuple[float, ...]]] = {
    "bowl": (lambda p: 0.5 * (p[0] ** 2 + 25.0 * p[1] ** 2), (-4.0, 1.5), [(0, 0)], (-5, 2, -3, 3)),
    "saddle": (
        lambda p: 0.25 * p[0] ** 4 - p[0] ** 2 + p[1] ** 2,
        (0.01, 1.5),
        [(2**0.5, 0), (-(2**0.5), 0)],
        (-2, 2, -2, 2),
    ),
    "plateau": (
        lambda p: 1.0 - ops.exp(-0.25 * (p[0] ** 2 + p[1] ** 2)),
        (-3.5, 1.5),
        [(0, 0)],
        (-5, 2, -3, 3),
    ),
    "Rosenbrock": (
        lambda p: (1.0 - p[0]) ** 2 + 20.0 * (p[1] - p[0] ** 2) ** 2,
        (-1.2, 1.0),
        [(1, 1)],
        (-2, 2, -1, 3),
    ),
}

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: optim.SGD(0.01),
    "momentum": lambda: optim.Momentum(0.005, beta=0.9),
    "Nesterov": lambda: optim.Momentum(0.005, beta=0.9, nesterov=True),
    "gains": lambda: optim.AdaptiveGains(0.005),
    "Rprop": lambda: optim.Rprop(0.05),
    "RMSprop": lambda: optim.RMSprop(0.03, alpha=0.95),
    "Adam": lambda: optim.Adam(0.1),
    "NAdam": lambda: optim.NAdam(0.1),
    "Lion": lambda: optim.Lion(0.03),
    "L-BFGS": lambda: optim.LBFGS(0.5, max_iter=1, history_size=5),
    "conjugate": lambda: optim.ConjugateGradient(),
    "Newton": lambda: optim.Newton(),
}


def paths(cost: Callable[[Any], Any], start: tuple[float, float], steps: int) -> dict[str, Any]:
    """Name -> points [steps + 1, 2]."""
    points, updates = {}, optim.Updates()
    for name, make in OPTIMIZERS.items():
        points[name] = gc.parameter(np.float32(start)).named(name.replace("-", "_"))
        updates = updates | make().minimize(cost(points[name]), wrt=points[name])
    call = gc.compile([], (), updates)
    seen = {name: [point.numpy()] for name, point in points.items()}
    for _ in range(steps):
        call()
        for name, point in points.items():
            seen[name].append(point.numpy())
    return {name: np.array(path) for name, path in seen.items()}


@click.command()
@click.option("--out", default="demo-output/optimizers", help="where the picture goes")
@click.option("--quick", is_flag=True, help="fewer steps")
def main(out: str, quick: bool) -> None:
    """Walk, draw, and count the steps until a point is within 0.05 of a lowest one."""
    steps = 100 if quick else 400
    figure, axes = subplots(len(LANDSCAPES) + 1, f"{steps} steps", columns=3)
    x = gc.observed("x", (2, 60, 60))
    arrived = 0
    print(f"steps to a lowest point {'':12}" + "".join(f"{name:>12}" for name in LANDSCAPES))
    reached: dict[str, list[str]] = {name: [] for name in OPTIMIZERS}
    for place, (title, (cost, start, lowest, window)) in enumerate(LANDSCAPES.items()):
        walked = paths(cost, start, steps)
        left, right, bottom, top = window
        if axes is not None:
            grid = np.meshgrid(np.linspace(left, right, 60), np.linspace(bottom, top, 60))
            heights = gc.compile([x], cost(x))(np.float32(grid))
            axes[place].contour(*grid, np.log(heights - heights.min() + 0.05), 15, alpha=0.4)
        for number, (name, path) in enumerate(walked.items()):
            away = np.min([np.linalg.norm(path - np.array(p), axis=1) for p in lowest], axis=0)
            near = np.flatnonzero(away < 0.05)
            arrived += len(near) > 0
            reached[name].append(str(near[0]) if len(near) else "-")
            if axes is not None:
                stroke = ".-" if number < 10 else ".:"  # there are ten colours
                axes[place].plot(path[:, 0], path[:, 1], stroke, markersize=2, label=name)
        if axes is not None:
            axes[place].set_title(title)
            axes[place].set_xlim(left, right)
            axes[place].set_ylim(bottom, top)
    if axes is not None:
        axes[-1].axis("off")
        axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center", fontsize=9)
    for name, counts in reached.items():
        print(f"{name:36}" + "".join(f"{count:>12}" for count in counts))
    print(f"arrived: {arrived} of {len(LANDSCAPES) * len(OPTIMIZERS)}")
    save(figure, Path(out) / "optimizers.png")


if __name__ == "__main__":
    main()
