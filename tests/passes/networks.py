"""Training steps of ordinary networks, as people write them: what passes are measured on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graphc as gc
from graphc import nn, ops, optim

__all__ = ["NETWORKS", "Network"]

#: inputs, outputs, updates
Network = tuple[list[gc.Value], list[gc.Value], Any]


def mlp(batch: int = 64) -> Network:
    """A perceptron with Adam."""
    x, y = gc.observed("x", (batch, 64)), gc.observed("y", (batch,), gc.int64)
    net = nn.Linear(64, 96) >> nn.ReLU() >> nn.Linear(96, 96) >> nn.ReLU() >> nn.Linear(96, 10)
    loss = nn.CrossEntropyLoss()(net(x), y)
    return [x, y], [loss], optim.Adam(lr=1e-3).minimize(loss)


def cnn(batch: int = 16) -> Network:
    """Convolutions with batch norm and pooling, SGD with momentum."""
    x, y = gc.observed("x", (batch, 3, 16, 16)), gc.observed("y", (batch,), gc.int64)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 16, 10)),
    )
    loss = nn.CrossEntropyLoss()(net(x), y)
    return [x, y], [loss], optim.SGD(lr=0.1, momentum=0.9).minimize(loss)


def lstm(steps: int = 12, batch: int = 8, hidden: int = 32) -> Network:
    """One recurrent layer as a plain scan."""
    x, y = gc.observed("x", (steps, batch, 24)), gc.observed("y", (batch,), gc.int64)
    inner, outer = nn.Linear(24, 4 * hidden), nn.Linear(hidden, 4 * hidden)

    def step(carry: Any, row: gc.Value) -> Any:
        h, c = carry
        i, f, g, o = ops.split(inner(row) + outer(h), 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return (h, c), h

    start = (ops.zeros((batch, hidden)), ops.zeros((batch, hidden)))
    (h, _), _ = gc.scan(step, start, x)
    loss = nn.CrossEntropyLoss()(nn.Linear(hidden, 10)(h), y)
    return [x, y], [loss], optim.Adam(lr=1e-3).minimize(loss)


class Encoder(nn.Module):
    """A transformer's layer: attention and a perceptron, each behind a norm and in a residual."""

    def __init__(self, width: int, heads: int) -> None:
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width) >> nn.GELU() >> nn.Linear(4 * width, width)

    def forward(self, x: gc.Value) -> gc.Value:
        x = x + self.attention(self.first(x))
        return x + self.wide(self.second(x))

    def attention(self, x: gc.Value) -> gc.Value:
        rows, steps, width = x.shape
        size = int(width) // self.heads  # type: ignore[call-overload]

        def split(v: gc.Value) -> gc.Value:
            return ops.permute_dims(v.reshape(rows, steps, self.heads, size), (0, 2, 1, 3))

        q, k, v = (split(part(x)) for part in (self.query, self.key, self.value))
        weights = ops.softmax(q @ ops.matrix_transpose(k) / size**0.5, -1)
        mixed = ops.permute_dims(weights @ v, (0, 2, 1, 3))
        return self.out(mixed.reshape(rows, steps, width))


def transformer(batch: int = 2, steps: int = 32, width: int = 64, heads: int = 4) -> Network:
    """One encoder layer, trained to give its targets."""
    x = gc.observed("x", (batch, steps, width))
    y = gc.observed("y", (batch, steps, width))
    loss = nn.MSELoss()(Encoder(width, heads)(x), y)
    return [x, y], [loss], optim.AdamW(lr=1e-3).minimize(loss)


NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lstm": lstm,
    "transformer": transformer,
}
