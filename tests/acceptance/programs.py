"""The programs that the acceptance tests compile: small networks and what they were fed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphc as gc
from graphc import nn, optim
from graphc.closing import close
from graphc.graph import Graph
from graphc.interpret import interpret
from graphc.state import StateCell

Array = NDArray[Any]

FEATURES, HIDDEN, CLASSES = 12, 16, 5


@dataclass(frozen=True)
class Training:
    """A classifier and its training step."""

    net: nn.Module
    optimizer: optim.Optimizer
    inputs: tuple[gc.Value, gc.Value]
    loss: gc.Value
    updates: gc.Updates
    step: gc.Executable

    @property
    def predict(self) -> gc.Executable:
        """The logits, compiled anew; it shares the parameters with the step."""
        return gc.compile([self.inputs[0]], self.net(self.inputs[0]), name="predict")

    @property
    def graph(self) -> Graph:
        """The closed graph of the step."""
        return close([self.loss], self.updates, self.inputs, mode="train")


def training(
    batch: gc.Dim | int | None = None,
    *,
    seed: int = 0,
    optimizer: optim.Optimizer | None = None,
    hidden: int = HIDDEN,
) -> Training:
    """A two-layer classifier of vectors with its compiled step; equal seeds give equal weights."""
    gc.manual_seed(seed)
    rows = gc.Dim("B") if batch is None else batch
    x = gc.observed("x", (rows, FEATURES))
    y = gc.observed("y", (rows,), gc.int64)
    net = nn.Linear(FEATURES, hidden) >> nn.ReLU() >> nn.Linear(hidden, CLASSES)
    loss = nn.CrossEntropyLoss()(net(x), y)
    chosen = optimizer or optim.Adam(lr=1e-2)
    updates = chosen.minimize(loss)
    step = gc.compile([x, y], loss, updates, name="step")
    return Training(net, chosen, (x, y), loss, updates, step)


def data(rows: int, seed: int = 0) -> tuple[Array, Array]:
    """Vectors [rows, FEATURES] and labels [rows]."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, FEATURES), dtype=np.float32)
    return x, rng.integers(0, CLASSES, rows)


def bits(array: Array) -> bytes:
    """The bytes, by which NaNs and signed zeros compare too."""
    return np.ascontiguousarray(array).tobytes()


def contents(*executables: gc.Executable) -> dict[StateCell, tuple[bytes, int]]:
    """Bits and version of every state that the executables use: step counters and rates too."""
    cells = {cell for executable in executables for cell in executable.states}
    return {cell: (bits(cell.numpy()), cell.version) for cell in cells}


def oracle(run: Training, x: Array, y: Array) -> tuple[Array, dict[gc.Value, Array]]:
    """The loss and the new states by the graph interpreter; no state is written."""
    with np.errstate(all="ignore"):
        (loss,), new = interpret(run.graph, [x, y])
    return loss, new
