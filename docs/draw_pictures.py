"""Draws the pictures of README.md and TOUR.md into ``docs/pictures`` (``make pictures``); needs
Graphviz.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import classifier

import graphc as gc
from graphc import nn, optim

FOLDER = Path(__file__).with_name("pictures")


def main() -> None:
    """The network of the README at its five levels, and the tour's classifier."""
    gc.manual_seed(0)
    batch = gc.Dim("B")
    x = gc.observed("x", (batch, 64))
    y = gc.observed("y", (batch,), gc.int64)
    net = nn.Linear(64, 128) >> nn.ReLU() >> nn.Linear(128, 10)
    loss = nn.CrossEntropyLoss()(net(x), y)
    step = gc.compile([x, y], loss, optim.SGD(lr=0.1).minimize(loss), name="step")
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((128, 64), np.float32), generator.integers(0, 10, 128)
    # a call that the machine did not interrupt, after those that touch memory first
    profile = min((step.profile(*rows) for _ in range(200)), key=lambda p: p.seconds)
    pictures = {
        "diagram": gc.draw(loss, FOLDER / "diagram.svg"),
        "backward": gc.draw(loss, FOLDER / "backward.svg", backward=True),
        "kernels": gc.draw(step, FOLDER / "kernels.svg", level="kernels"),
        "schedule": gc.draw(step, FOLDER / "schedule.svg", level="schedule"),
        "measured": gc.draw(profile, FOLDER / "measured.svg"),
        "tour": gc.draw(classifier.loss, FOLDER / "tour.svg"),
        "tour-graph": gc.draw(classifier.loss, FOLDER / "tour-graph.svg", level="graph"),
    }
    for path in pictures.values():
        print(f"wrote {path.relative_to(FOLDER.parent.parent)}")


if __name__ == "__main__":
    main()
