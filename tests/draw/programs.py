"""The programs that the tests draw."""

from __future__ import annotations

from typing import Any

import graphc as gc
from graphc import nn, optim
from graphc.closing import close, prune_loops
from graphc.graph import Graph, Value, ancestors
from graphc.kernel.text import parse_kernel
from graphc.passes.memory import MemoryPlan, plan_memory
from graphc.schedule import Barrier, Buffer, Commit, Copy, Launch, Loop, Schedule
from graphc.types import SourceLoc, TensorType, float32, int64


def closed(*outputs: Value, updates: Any = ()) -> Graph:
    """The graph of values and updates, its inputs what they observe."""
    pairs = tuple(updates)
    nodes = ancestors([*outputs, *(new for _, new in pairs)])
    observed = tuple(n.outputs[0] for n in nodes if n.op == "observed")
    return prune_loops(Graph(observed, outputs, pairs))


def mlp() -> tuple[nn.Module, Value]:
    """A network of three layers and its mean squared error."""
    batch = gc.Dim("B")
    x, y = gc.observed("x", (batch, 8)), gc.observed("y", (batch, 4))
    net = nn.Linear(8, 16) >> nn.ReLU() >> nn.Linear(16, 4)
    return net, nn.MSELoss()(net(x).named("prediction"), y).named("loss")


def mlp_step() -> Graph:
    """A training step: forward, backward and Adam."""
    _, loss = mlp()
    return closed(loss, updates=optim.Adam(lr=1e-3).minimize(loss).items())


def noisy_step() -> Graph:
    """A training step through batch norm and dropout, its modes resolved as ``compile`` does."""
    x = gc.observed("x", (gc.Dim("B"), 8))
    net = nn.Linear(8, 16) >> nn.BatchNorm1d(16) >> nn.Dropout(0.5) >> nn.Linear(16, 4)
    loss = (net(x) ** 2).mean()
    return close([loss], optim.SGD(lr=0.1).minimize(loss), mode="train")


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Value) -> Value:
        return x + self.linear(self.norm(x))


class Tower(nn.Module):
    """Residual blocks whose last layers share their weight, and a head."""

    def __init__(self, width: int, count: int) -> None:
        self.blocks = [Block(width) for _ in range(count)]
        self.head = nn.Linear(width, 3)
        for block in self.blocks[1:]:
            block.linear.weight = self.blocks[0].linear.weight

    def forward(self, x: Value) -> Value:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def tower(count: int = 2) -> Value:
    return Tower(8, count)(gc.observed("x", (gc.Dim("B"), 8))).named("scores")


class Running(nn.Module):
    """Centres by the batch in training, by a running mean otherwise."""

    def __init__(self, width: int) -> None:
        self.mean = gc.state((width,))

    def forward(self, x: Value) -> Value:
        mean = x.mean(axis=0)
        centred = gc.attach_updates(x - mean, {self.mean: self.mean * 0.9 + mean * 0.1})
        return gc.by_mode(train=centred, eval=x - self.mean)


def recurrent() -> Value:
    """A recurrent network over 20 steps."""
    inputs, hidden = gc.observed("x", (20, 2, 3)), gc.observed("h0", (2, 4))
    into, back = nn.Linear(3, 4).named("into"), nn.Linear(4, 4).named("back")

    def step(h: Value, x: Value) -> tuple[Value, Value]:
        new = gc.ops.tanh(into(x) + back(h))
        return new, new

    _, states = gc.scan(step, hidden, inputs)
    return states.named("states")


def primitive() -> Value:
    """A cost of primitives only."""
    x, w = gc.observed("x", (3, 5)), gc.parameter((3, 5)).named("w")
    return (gc.ops.tanh(x * w) + 0.5).sum().named("cost")


_SCALE = """
kernel scale
  axes i:{n}
  parallel i
  in  x f32[{n}]
  out y f32[{n}]
  v = load x[i]
  store y[i] = v * 2.0
"""
_TOTAL = """
kernel total
  axes i:{n}
  in  x f32[{n}]
  out s f32[]
  v = load x[i]
  t = reduce sum v over i
  store s[] = t
"""


def schedule(n: int = 1024) -> tuple[Schedule, MemoryPlan]:
    """Two launches, a loop with a third, a commit and a copy into a state."""
    vector, scalar = TensorType(float32, (n,)), TensorType(float32, ())
    buffers = (
        Buffer("x", "argument", vector),
        Buffer("loss", "output", scalar),
        Buffer("w", "state", vector),
        Buffer("a", "arena", vector),
        Buffer("b", "arena", vector),
        Buffer("i", "cell", TensorType(int64, ())),
    )
    where = SourceLoc("model.py", 7, "forward")
    twice = Launch("scale", ("x",), ("a",), flops=n, block="net/0", source=where)
    again = Launch("scale", ("a",), ("b",), flops=n, block="net/1", source=where)
    total = Launch("total", ("b",), ("loss",), flops=n, block="cost", source=where)
    body = (
        twice,
        Barrier(),
        Loop("i", 3, (again,)),
        Barrier(),
        total,
        Commit(),
        Copy("b", "w"),
    )
    kernels = tuple(parse_kernel(text.format(n=n)) for text in (_SCALE, _TOTAL))
    made = Schedule("step", buffers, kernels, body)
    return made, plan_memory(made)
