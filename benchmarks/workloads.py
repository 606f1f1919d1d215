"""What is timed: inputs drawn from a seed, a float64 reference in NumPy, floors.

Peers look a workload up by ``kind`` and build a call from its inputs; shapes are PyTorch's (weights
``[out, in]``, images NCHW).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from benchmarks.networks import (
    Gradients,
    adam_losses,
    cnn_gradients,
    convolution,
    layer_forward,
    layer_gradients,
    lstm_gradients,
    mlp_gradients,
)
from benchmarks.settings import CHECKED_STEPS, MLP_SIZES

__all__ = [
    "WORKLOADS", "Workload", "cnn_workload", "layer_workload", "lstm_workload", "mlp_workload",
    "train_reference",
]  # fmt: skip

Array = NDArray[Any]
Inputs = dict[str, Array]


@dataclass(frozen=True)
class Workload:
    """One row of the table. ``flops`` and ``nbytes`` are the compulsory ones of a call."""

    name: str
    kind: str
    title: str
    inputs: Callable[[np.random.Generator], Inputs]
    reference: Callable[[Inputs], Array]
    tolerance: float  # relative to the largest element of the reference
    flops: float = 0.0
    nbytes: float = 0.0
    goal: str = ""  # peer time / ours that is aimed at, and by which peers
    options: Mapping[str, Any] = field(default_factory=dict)

    def draw(self, seed: int = 0) -> Inputs:
        """The inputs, the same in every process."""
        return self.inputs(np.random.default_rng((seed, *self.name.encode())))


def _normal(generator: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return (generator.standard_normal(shape, dtype=np.float32) * np.float32(scale)).astype(
        np.float32
    )


# ---- references, in float64


def _matmul(inputs: Inputs) -> Array:
    return inputs["a"].astype(np.float64) @ inputs["b"].astype(np.float64)


def _softmax(inputs: Inputs) -> Array:
    x = inputs["x"].astype(np.float64)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _layer_norm(inputs: Inputs) -> Array:
    x = inputs["x"].astype(np.float64)
    centered = x - x.mean(axis=-1, keepdims=True)
    scaled = centered / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return scaled * inputs["weight"] + inputs["bias"]


def _chain(inputs: Inputs) -> Array:
    x, a, b = (inputs[name].astype(np.float64) for name in "xab")
    gelu = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    return np.tanh(x * a + b) / (1 + np.exp(-x)) + gelu


def _conv(inputs: Inputs) -> Array:
    return convolution(inputs["x"].astype(np.float64), inputs["weight"].astype(np.float64))


def train_reference(inputs: Inputs, steps: int = CHECKED_STEPS) -> Array:
    """Losses of ``steps`` Adam steps of the MLP."""
    return adam_losses(inputs, ("x", "y"), mlp_gradients, steps)


def _trained(gradients: Gradients) -> Callable[[Inputs], Array]:
    return lambda inputs: adam_losses(inputs, ("x", "y"), gradients)


# ---- inputs


def _mlp_inputs(generator: np.random.Generator, batch: int) -> Inputs:
    drawn: Inputs = {
        "x": generator.random((batch, 784), dtype=np.float32),
        "y": generator.integers(0, 10, batch, dtype=np.int64),
    }
    for i, (inner, outer) in enumerate(itertools.pairwise(MLP_SIZES)):
        drawn[f"w{i}"] = _normal(generator, outer, inner, scale=(2 / inner) ** 0.5)
        drawn[f"b{i}"] = np.zeros(outer, np.float32)
    return drawn


def _cnn_inputs(
    generator: np.random.Generator, batch: int, size: int, channels: tuple[int, ...], hidden: int
) -> Inputs:
    drawn: Inputs = {
        "x": _normal(generator, batch, channels[0], size, size),
        "y": generator.integers(0, 10, batch, dtype=np.int64),
    }
    for i, (inner, outer) in enumerate(itertools.pairwise(channels)):
        drawn[f"c{i}"] = _normal(generator, outer, inner, 3, 3, scale=(2 / (9 * inner)) ** 0.5)
        drawn[f"d{i}"] = _normal(generator, outer, scale=0.1)
    sizes = (channels[-1] * (size // 4) ** 2, hidden, 10)
    for i, (inner, outer) in enumerate(itertools.pairwise(sizes)):
        drawn[f"w{i}"] = _normal(generator, outer, inner, scale=inner**-0.5)
        drawn[f"b{i}"] = _normal(generator, outer, scale=0.1)
    return drawn


def _lstm_inputs(
    generator: np.random.Generator, steps: int, batch: int, letters: int, width: int
) -> Inputs:
    drawn: Inputs = {
        name: generator.integers(0, letters, (steps, batch), dtype=np.int64) for name in "xy"
    }
    drawn["embedding"] = _normal(generator, letters, width)
    for name in ("ih", "hh"):
        drawn[f"w_{name}"] = _normal(generator, 4 * width, width, scale=width**-0.5)
        drawn[f"b_{name}"] = _normal(generator, 4 * width, scale=0.1)
    drawn["w"] = _normal(generator, letters, width, scale=width**-0.5)
    return drawn | {"b": _normal(generator, letters, scale=0.1)}


def _layer_inputs(
    generator: np.random.Generator, batch: int, length: int, width: int, target: bool
) -> Inputs:
    names = "xy" if target else "x"
    drawn: Inputs = {name: _normal(generator, batch, length, width) for name in names}
    shapes = dict.fromkeys("qkvo", (width, width))
    shapes |= {"up": (4 * width, width), "down": (width, 4 * width)}
    for name, (outer, inner) in shapes.items():
        drawn[f"w_{name}"] = _normal(generator, outer, inner, scale=inner**-0.5)
        drawn[f"b_{name}"] = _normal(generator, outer, scale=0.1)
    for n in (1, 2):
        drawn[f"g_{n}"] = 1 + _normal(generator, width, scale=0.1)
        drawn[f"s_{n}"] = _normal(generator, width, scale=0.1)
    return drawn


def _matmul_workload(n: int) -> Workload:
    return Workload(
        f"matmul-{n}",
        "matmul",
        f"matmul {n}x{n}x{n}",
        lambda g: {"a": _normal(g, n, n), "b": _normal(g, n, n)},
        _matmul,
        tolerance=1e-5,
        flops=2.0 * n**3,
        nbytes=12.0 * n * n,
        goal=">= 1.0 of torch and NumPy, >= 85% of FMA peak",
    )


def _chain_workload(elements: int, label: str, goal: str) -> Workload:
    return Workload(
        f"chain-{label}",
        "chain",
        f"tanh(x*a+b)*sigmoid(x)+gelu(x), {label} elements",
        lambda g: {name: _normal(g, elements) for name in "xab"},
        _chain,
        tolerance=2e-6,
        nbytes=16.0 * elements,
        goal=goal,
    )


def mlp_workload(batch: int, goal: str = "") -> Workload:
    multiplies = batch * (784 * 512 + 512 * 512 + 512 * 10)
    parameters = 784 * 512 + 512 * 512 + 512 * 10 + 512 + 512 + 10
    return Workload(
        f"mlp-train-{batch}",
        "mlp_train",
        f"MLP 784-512-512-10 train step, Adam, batch {batch}",
        lambda g: _mlp_inputs(g, batch),
        train_reference,
        tolerance=1e-4,
        flops=6.0 * multiplies - 2.0 * batch * 784 * 512,  # no gradient towards x
        nbytes=24.0 * parameters,  # weights and two moments, read and written
        goal=goal,
        options={"batch": batch},
    )


def cnn_workload(
    batch: int = 64,
    size: int = 32,
    channels: tuple[int, ...] = (3, 32, 32, 64, 64),
    hidden: int = 256,
) -> Workload:
    """Four convolutions, two linear layers: as networks for CIFAR's images are."""
    areas = [size**2, size**2, size**2 // 4, size**2 // 4]
    pairs = itertools.pairwise(channels)
    products = [9.0 * a * b * area for (a, b), area in zip(pairs, areas, strict=True)]
    products += [channels[-1] * (size // 4) ** 2 * hidden, hidden * 10]
    return Workload(
        f"cnn-train-{batch}",
        "cnn_train",
        f"CNN {size}x{size}, train step, Adam, batch {batch}",
        lambda g: _cnn_inputs(g, batch, size, channels, hidden),
        _trained(cnn_gradients),
        tolerance=1e-4,
        flops=2.0 * batch * (3 * sum(products) - products[0]),  # no gradient towards x
        goal=">= 1.0 of torch",
    )


def lstm_workload(
    steps: int = 64, batch: int = 32, letters: int = 65, width: int = 256
) -> Workload:
    """An embedding, one LSTM, a linear layer on letters; in graphc a plain scan."""
    return Workload(
        "lstm-train",
        "lstm_train",
        f"LSTM {letters}-{width}, {steps} steps, batch {batch}, train step, Adam",
        lambda g: _lstm_inputs(g, steps, batch, letters, width),
        _trained(lstm_gradients),
        tolerance=1e-4,
        flops=6.0 * steps * batch * (8 * width * width + width * letters),
        goal=">= 1.5 of JAX's scan",
    )


def layer_workload(
    train: bool, batch: int = 8, length: int = 128, width: int = 768
) -> Workload:
    """A transformer's encoder layer, heads of 64, post-norm, exact GELU, no dropout."""
    weights, scores = 12.0 * width * width, 2.0 * length * width
    forward = 2.0 * batch * length * (weights + scores)
    towards_x = 2.0 * batch * length * 3 * width * width
    return Workload(
        "layer-train" if train else "layer-forward",
        "layer_train" if train else "layer_forward",
        f"encoder layer {width}, {length} x {batch}, {'train step, Adam' if train else 'forward'}",
        lambda g: _layer_inputs(g, batch, length, width, train),
        _trained(layer_gradients) if train else layer_forward,
        tolerance=1e-4 if train else 1e-5,
        flops=3 * forward - towards_x if train else forward,
        goal=">= 1.0 of torch" if train else ">= 0.9 of torch",
    )


_ROWS, _COLUMNS = 8192, 1024

WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        _matmul_workload(256),
        _matmul_workload(1024),
        _matmul_workload(2048),
        Workload(
            "softmax",
            "softmax",
            f"softmax {_ROWS}x{_COLUMNS}",
            lambda g: {"x": _normal(g, _ROWS, _COLUMNS)},
            _softmax,
            tolerance=1e-5,
            nbytes=8.0 * _ROWS * _COLUMNS,
            goal=">= 1.0 of torch without allocation",
        ),
        Workload(
            "layer-norm",
            "layer_norm",
            f"layer norm {_ROWS}x{_COLUMNS}",
            lambda g: {
                "x": _normal(g, _ROWS, _COLUMNS),
                "weight": 1 + _normal(g, _COLUMNS, scale=0.1),
                "bias": _normal(g, _COLUMNS, scale=0.1),
            },
            _layer_norm,
            tolerance=1e-5,
            nbytes=8.0 * _ROWS * _COLUMNS,
            goal=">= 1.0 of torch without allocation",
        ),
        _chain_workload(1 << 24, "16M", ">= 2 of torch.compile"),
        _chain_workload(4096, "4096", "<= 8 us a whole call from Python"),
        Workload(
            "conv3x3",
            "conv",
            "conv 3x3, N32 C64 32x32 K64",
            lambda g: {
                "x": _normal(g, 32, 64, 32, 32),
                "weight": _normal(g, 64, 64, 3, 3, scale=(2 / 576) ** 0.5),
            },
            _conv,
            tolerance=1e-5,
            flops=2.0 * 32 * 64 * 64 * 9 * 32 * 32,
            nbytes=4.0 * (2 * 32 * 64 * 32 * 32 + 64 * 64 * 9),
            goal=">= 0.9 of torch (direct)",
        ),
        mlp_workload(128, ">= 1.3 of JAX's jitted step"),
        mlp_workload(32, ">= 1.5 of JAX's jitted step"),
        cnn_workload(),
        lstm_workload(),
        layer_workload(train=False),
        layer_workload(train=True),
    )
}
