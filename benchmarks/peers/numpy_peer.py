"""NumPy, with ``out=`` where that is one call."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit

from benchmarks.peers import Call, last_result

Inputs = dict[str, NDArray[Any]]


def versions() -> dict[str, str]:
    return {"numpy": np.__version__}


def _matmul(inputs: Inputs, threads: int) -> Call:
    a, b = inputs["a"], inputs["b"]
    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    run = lambda: np.matmul(a, b, out=out)  # noqa: E731
    return Call(run, last_result(run))


def _softmax(inputs: Inputs, threads: int) -> Call:
    x = inputs["x"]
    out = np.empty_like(x)

    def run() -> NDArray[Any]:
        np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
        np.exp(out, out=out)
        return np.divide(out, out.sum(axis=-1, keepdims=True), out=out)

    return Call(run, last_result(run))


def _layer_norm(inputs: Inputs, threads: int) -> Call:
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    out = np.empty_like(x)

    def run() -> NDArray[Any]:
        np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
        variance = np.mean(np.square(out), axis=-1, keepdims=True)
        np.divide(out, np.sqrt(variance + np.float32(1e-5)), out=out)
        np.multiply(out, weight, out=out)
        return np.add(out, bias, out=out)

    return Call(run, last_result(run))


def _chain(inputs: Inputs, threads: int) -> Call:
    x, a, b = inputs["x"], inputs["a"], inputs["b"]
    half, root = np.float32(0.5), np.float32(0.5**0.5)
    run = lambda: np.tanh(x * a + b) * expit(x) + half * x * (1 + erf(x * root))  # noqa: E731
    return Call(run, last_result(run))


BUILDERS = {"matmul": _matmul, "softmax": _softmax, "layer_norm": _layer_norm, "chain": _chain}
