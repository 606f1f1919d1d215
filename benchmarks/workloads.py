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

from benchmarks.settings import ADAM, CHECKED_STEPS, MLP_SIZES

__all__ = ["WORKLOADS", "Workload", "train_reference"]

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
    """3x3, stride 1, padding 1, as nine shifted matrix products."""
    x = np.pad(inputs["x"].astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    weight = inputs["weight"].astype(np.float64)
    _, _, height, width = inputs["x"].shape
    total: Array = np.zeros((x.shape[0], weight.shape[0], height, width))
    for i in range(3):
        for j in range(3):
            window = x[:, :, i : i + height, j : j + width]
            total += np.einsum("kc,nchw->nkhw", weight[:, :, i, j], window, optimize=True)
    return total


def train_reference(inputs: Inputs, steps: int = CHECKED_STEPS) -> Array:
    """Losses of ``steps`` Adam steps of the MLP on one batch; the first is before any update."""
    weights = [inputs[f"w{i}"].astype(np.float64) for i in range(3)]
    biases = [inputs[f"b{i}"].astype(np.float64) for i in range(3)]
    parameters = [*weights, *biases]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    losses = []
    for count in range(1, steps + 1):
        loss, gradients = _mlp_gradients(inputs, weights, biases)
        losses.append(loss)
        for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
            m += (1 - ADAM["beta1"]) * (g - m)
            v += (1 - ADAM["beta2"]) * (g * g - v)
            corrected = np.sqrt(v / (1 - ADAM["beta2"] ** count)) + ADAM["eps"]
            p -= ADAM["lr"] / (1 - ADAM["beta1"] ** count) * m / corrected
    return np.array(losses)


def _mlp_gradients(
    inputs: Inputs, weights: list[Array], biases: list[Array]
) -> tuple[float, list[Array]]:
    x, labels = inputs["x"].astype(np.float64), inputs["y"]
    rows = np.arange(len(labels))
    h0 = np.maximum(x @ weights[0].T + biases[0], 0)
    h1 = np.maximum(h0 @ weights[1].T + biases[1], 0)
    logits = h1 @ weights[2].T + biases[2]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    d2 = np.exp(log_p)
    d2[rows, labels] -= 1
    d2 /= len(labels)
    d1 = (d2 @ weights[2]) * (h1 > 0)
    d0 = (d1 @ weights[1]) * (h0 > 0)
    gradients = [d0.T @ x, d1.T @ h0, d2.T @ h1, d0.sum(0), d1.sum(0), d2.sum(0)]
    return float(-log_p[rows, labels].mean()), gradients


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


def _train_workload(batch: int, goal: str) -> Workload:
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
        _train_workload(128, ">= 1.3 of JAX's jitted step"),
        _train_workload(32, ">= 1.5 of JAX's jitted step"),
    )
}
