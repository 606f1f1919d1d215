"""graphc through its public surface, as a user writes it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphc as gc
from benchmarks.peers import Call, last_result
from benchmarks.settings import ADAM, CHECKED_STEPS, HEAD
from graphc import nn, optim

Inputs = dict[str, NDArray[Any]]


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("graphc", "llvmlite", "numpy")}


def _observed(inputs: Inputs) -> list[Any]:
    return [gc.observed(name, array.shape, array.dtype) for name, array in inputs.items()]


def _call(values: list[Any], out: Any, inputs: Inputs) -> Call:
    executable = gc.compile(values, out)
    arrays = list(inputs.values())
    run = lambda: executable(*arrays)  # noqa: E731
    return Call(run, last_result(run))


def _matmul(inputs: Inputs, threads: int) -> Call:
    a, b = _observed(inputs)
    return _call([a, b], a @ b, inputs)


def _softmax(inputs: Inputs, threads: int) -> Call:
    (x,) = _observed(inputs)
    return _call([x], nn.functional.softmax(x, -1), inputs)


def _layer_norm(inputs: Inputs, threads: int) -> Call:
    x, weight, bias = _observed(inputs)
    return _call([x, weight, bias], nn.functional.layer_norm(x, x.shape[-1:], weight, bias), inputs)


def _chain(inputs: Inputs, threads: int) -> Call:
    x, a, b = _observed(inputs)
    out = gc.ops.tanh(x * a + b) * gc.ops.sigmoid(x) + nn.functional.gelu(x)
    return _call([x, a, b], out, inputs)


def _conv(inputs: Inputs, threads: int) -> Call:
    x, weight = _observed(inputs)
    return _call([x, weight], gc.ops.convolution(x, weight, padding=1), inputs)


def train_step(inputs: Inputs) -> Any:
    """The MLP's training step, compiled, its parameters those of ``inputs``."""
    batch = len(inputs["x"])
    x = gc.observed("x", (batch, 784))
    y = gc.observed("y", (batch,), gc.int64)
    layers = [nn.Linear(784, 512), nn.Linear(512, 512), nn.Linear(512, 10)]
    for i, layer in enumerate(layers):
        layer.load_state_dict({"weight": inputs[f"w{i}"], "bias": inputs[f"b{i}"]})
    net = layers[0] >> nn.ReLU() >> layers[1] >> nn.ReLU() >> layers[2]
    loss = nn.CrossEntropyLoss()(net(x), y)
    return _stepping(x, y, loss)


def _adam() -> optim.Adam:
    return optim.Adam(lr=ADAM["lr"], betas=(ADAM["beta1"], ADAM["beta2"]), eps=ADAM["eps"])


def _loaded(layer: nn.Module, inputs: Inputs, **names: str) -> nn.Module:
    """``layer`` with its parameters taken from ``inputs``, by the names that they have there."""
    layer.load_state_dict({own: inputs[name] for own, name in names.items()})
    return layer


def _trained(made: Callable[[Inputs], gc.Executable]) -> Callable[[Inputs, int], Call]:
    """The builder of a training step."""

    def build(inputs: Inputs, threads: int) -> Call:
        step, x, y = made(inputs), inputs["x"], inputs["y"]
        first: list[tuple[Any, NDArray[Any]]] = []
        run = lambda: step(x, y)  # noqa: E731

        def result() -> NDArray[Any]:
            first[:] = [(state, state.numpy()) for state in step.states]
            return np.array([float(run()) for _ in range(CHECKED_STEPS)])

        def reset() -> None:
            for state, value in first:
                state.set(value)

        return Call(run, result, reset)

    return build


def _stepping(x: Any, y: Any, loss: Any) -> Any:
    return gc.compile([x, y], loss, _adam().minimize(loss))


def _cnn_step(inputs: Inputs) -> Any:
    x, y = (gc.observed(n, inputs[n].shape, inputs[n].dtype) for n in "xy")
    net: nn.Module = nn.Sequential()
    for i in range(4):
        outer, inner = inputs[f"c{i}"].shape[:2]
        layer = nn.Conv2d(inner, outer, 3, padding=1)
        net = net >> _loaded(layer, inputs, weight=f"c{i}", bias=f"d{i}") >> nn.ReLU()
        if i % 2:
            net = net >> nn.MaxPool2d(2)
    net = net >> nn.Flatten()
    for i in range(2):
        outer, inner = inputs[f"w{i}"].shape
        net = net >> _loaded(nn.Linear(inner, outer), inputs, weight=f"w{i}", bias=f"b{i}")
        if i == 0:
            net = net >> nn.ReLU()
    return _stepping(x, y, nn.CrossEntropyLoss()(net(x), y))


def _lstm_step(inputs: Inputs) -> Any:
    """A plain scan over the steps; the cell is written out."""
    x, y = (gc.observed(n, inputs[n].shape, inputs[n].dtype) for n in "xy")
    letters, width = inputs["embedding"].shape
    embedding = _loaded(nn.Embedding(letters, width), inputs, weight="embedding")
    into = _loaded(nn.Linear(width, 4 * width), inputs, weight="w_ih", bias="b_ih")
    back = _loaded(nn.Linear(width, 4 * width), inputs, weight="w_hh", bias="b_hh")
    head = _loaded(nn.Linear(width, letters), inputs, weight="w", bias="b")

    def cell(carry: Any, given: gc.Value) -> Any:
        h, c = carry
        i, f, g, o = gc.ops.split(into(given) + back(h), 4, axis=-1)
        c = gc.ops.sigmoid(f) * c + gc.ops.sigmoid(i) * gc.ops.tanh(g)
        h = gc.ops.sigmoid(o) * gc.ops.tanh(c)
        return (h, c), h

    zero = gc.ops.zeros((x.shape[1], width))
    _, hidden = gc.scan(cell, (zero, zero), embedding(x))
    logits = head(hidden).reshape(-1, letters)
    return _stepping(x, y, nn.CrossEntropyLoss()(logits, y.reshape(-1)))


class EncoderLayer(nn.Module):
    """Attention and two linear layers, each added to its input and normalized."""

    def __init__(self, inputs: Inputs) -> None:
        for name in ("q", "k", "v", "o", "up", "down"):
            outer, inner = inputs[f"w_{name}"].shape
            linear = nn.Linear(inner, outer)
            setattr(self, name, _loaded(linear, inputs, weight=f"w_{name}", bias=f"b_{name}"))
        for n in (1, 2):
            norm = nn.LayerNorm(len(inputs[f"g_{n}"]))
            setattr(self, f"norm{n}", _loaded(norm, inputs, weight=f"g_{n}", bias=f"s_{n}"))

    def forward(self, x: gc.Value) -> gc.Value:
        h = self.norm1(x + self.o(self.attention(x)))
        return self.norm2(h + self.down(nn.functional.gelu(self.up(h))))

    def attention(self, x: gc.Value) -> gc.Value:
        batch, length, width = x.shape

        def split(v: gc.Value) -> gc.Value:
            return v.reshape(batch, length, width // HEAD, HEAD).permute(0, 2, 1, 3)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        scores = (q @ k.permute(0, 1, 3, 2)) * HEAD**-0.5
        mixed = gc.ops.softmax(scores, -1) @ v
        return mixed.permute(0, 2, 1, 3).reshape(batch, length, width)


def _layer_forward(inputs: Inputs, threads: int) -> Call:
    x = gc.observed("x", inputs["x"].shape)
    executable = gc.compile([x], EncoderLayer(inputs)(x))
    run = lambda: executable(inputs["x"])  # noqa: E731
    return Call(run, last_result(run))


def _layer_step(inputs: Inputs) -> Any:
    x, y = (gc.observed(n, inputs[n].shape) for n in "xy")
    return _stepping(x, y, nn.MSELoss()(EncoderLayer(inputs)(x), y))


#: executables of training steps, their parameters those of the inputs
STEPS = {
    "mlp_train": train_step, "cnn_train": _cnn_step, "lstm_train": _lstm_step,
    "layer_train": _layer_step,
}  # fmt: skip

BUILDERS = {
    "matmul": _matmul,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "chain": _chain,
    "conv": _conv,
    "layer_forward": _layer_forward,
    **{kind: _trained(made) for kind, made in STEPS.items()},
}
