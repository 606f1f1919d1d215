"""graphc through its public surface, as a user writes it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphc as gc
from benchmarks.peers import Call, last_result
from benchmarks.settings import ADAM, CHECKED_STEPS
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
    adam = optim.Adam(lr=ADAM["lr"], betas=(ADAM["beta1"], ADAM["beta2"]), eps=ADAM["eps"])
    return gc.compile([x, y], loss, adam.minimize(loss))


def _mlp_train(inputs: Inputs, threads: int) -> Call:
    step = train_step(inputs)
    x, y = inputs["x"], inputs["y"]
    run = lambda: step(x, y)  # noqa: E731
    return Call(run, lambda: np.array([float(run()) for _ in range(CHECKED_STEPS)]))


BUILDERS = {
    "matmul": _matmul,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "chain": _chain,
    "conv": _conv,
    "mlp_train": _mlp_train,
}
