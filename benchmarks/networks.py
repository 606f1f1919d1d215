"""Training steps in float64, written out by hand: what the networks' rows are checked against.

Each network has its inputs (arrays by name, in PyTorch's layouts) and its gradients, a function of
inputs and parameters to the loss and one gradient a parameter. All sizes are read off the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from benchmarks.settings import ADAM, CHECKED_STEPS, HEAD

__all__ = [
    "Gradients",
    "adam_losses",
    "cnn_gradients",
    "convolution",
    "layer_forward",
    "layer_gradients",
    "lstm_gradients",
    "mlp_gradients",
]

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Gradients = Callable[[Arrays, Arrays], tuple[float, dict[str, Array]]]
_ROOT_2, _ROOT_2_PI = np.sqrt(2.0), np.sqrt(2.0 * np.pi)


def adam_losses(
    inputs: Arrays, data: tuple[str, ...], gradients: Gradients, steps: int = CHECKED_STEPS
) -> Array:
    """Losses of ``steps`` Adam steps on one batch, ``data``; the first is before any update.

    All other inputs are parameters.
    """
    given = {name: inputs[name] for name in data}
    parameters = {n: a.astype(np.float64) for n, a in inputs.items() if n not in data}
    first = {n: np.zeros_like(p) for n, p in parameters.items()}
    second = {n: np.zeros_like(p) for n, p in parameters.items()}
    losses = []
    for count in range(1, steps + 1):
        loss, found = gradients(given, parameters)
        losses.append(loss)
        for name, p in parameters.items():
            g, m, v = found[name], first[name], second[name]
            m += (1 - ADAM["beta1"]) * (g - m)
            v += (1 - ADAM["beta2"]) * (g * g - v)
            corrected = np.sqrt(v / (1 - ADAM["beta2"] ** count)) + ADAM["eps"]
            p -= ADAM["lr"] / (1 - ADAM["beta1"] ** count) * m / corrected
    return np.array(losses)


def _cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """The mean loss of rows, and its gradient by the logits."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    d = np.exp(log_p)
    d[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), d / len(labels)


def mlp_gradients(given: Arrays, p: Arrays) -> tuple[float, dict[str, Array]]:
    """Three linear layers ``w0, b0 .. w2, b2`` with ReLU between them."""
    x = given["x"].astype(np.float64)
    h0 = np.maximum(x @ p["w0"].T + p["b0"], 0)
    h1 = np.maximum(h0 @ p["w1"].T + p["b1"], 0)
    loss, d2 = _cross_entropy(h1 @ p["w2"].T + p["b2"], given["y"])
    d1 = (d2 @ p["w2"]) * (h1 > 0)
    d0 = (d1 @ p["w1"]) * (h0 > 0)
    found = {"w0": d0.T @ x, "w1": d1.T @ h0, "w2": d2.T @ h1}
    return loss, found | {"b0": d0.sum(0), "b1": d1.sum(0), "b2": d2.sum(0)}


# ---- convolutions


def _windows(x: Array) -> Array:
    """[N,C,H,W] to its 3x3 windows with a border of zeros, [3,3,N,C,H,W]."""
    _, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    places = range(3)
    return np.stack(
        [
            np.stack([padded[:, :, i : i + height, j : j + width] for j in places])
            for i in places
        ]
    )


def convolution(x: Array, weight: Array) -> Array:
    """3x3, stride 1, padding 1: nine shifted matrix products."""
    return np.einsum("kcij,ijnchw->nkhw", weight, _windows(x), optimize=True)


def cnn_gradients(given: Arrays, p: Arrays) -> tuple[float, dict[str, Array]]:
    """Convolutions ``c0 .. c3`` with ReLU, 2x2 maxima behind every second one, two linear layers.

    A maximum that is reached more than once does not occur in random data, zeros aside: there the
    ReLU before it passes nothing back.
    """
    images, seen, kept = [given["x"].astype(np.float64)], [], []
    for i in range(4):
        h = np.maximum(convolution(images[-1], p[f"c{i}"]) + p[f"d{i}"][:, None, None], 0)
        seen.append(h)
        if i % 2:
            n, c, height, width = h.shape
            blocks = h.reshape(n, c, height // 2, 2, width // 2, 2)
            h = blocks.max(axis=(3, 5))
            kept.append((blocks == h[:, :, :, None, :, None]).reshape(seen[-1].shape))
        images.append(h)
    flat = images[-1].reshape(len(images[-1]), -1)
    hidden = np.maximum(flat @ p["w0"].T + p["b0"], 0)
    loss, d1 = _cross_entropy(hidden @ p["w1"].T + p["b1"], given["y"])
    d0 = (d1 @ p["w1"]) * (hidden > 0)
    found = {"w0": d0.T @ flat, "b0": d0.sum(0), "w1": d1.T @ hidden, "b1": d1.sum(0)}
    d = (d0 @ p["w0"]).reshape(images[-1].shape)
    for i in reversed(range(4)):
        if i % 2:
            d = d.repeat(2, axis=2).repeat(2, axis=3) * kept[i // 2]
        d = d * (seen[i] > 0)
        windows = _windows(images[i])
        found[f"c{i}"] = np.einsum("nkhw,ijnchw->kcij", d, windows, optimize=True)
        found[f"d{i}"] = d.sum(axis=(0, 2, 3))
        turned = p[f"c{i}"][:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
        d = convolution(d, turned) if i else d
    return loss, found


# ---- a recurrent network


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm_gradients(given: Arrays, p: Arrays) -> tuple[float, dict[str, Array]]:
    """Letters [T,B] through an embedding, an LSTM that begins at zero and a linear layer."""
    letters, width = given["x"], p["w_hh"].shape[1]
    x = p["embedding"][letters]
    h = c = np.zeros((x.shape[1], width))
    saved = []
    for x_t in x:
        gates = x_t @ p["w_ih"].T + p["b_ih"] + h @ p["w_hh"].T + p["b_hh"]
        i, f, o = (_sigmoid(gates[:, n * width : (n + 1) * width]) for n in (0, 1, 3))
        g = np.tanh(gates[:, 2 * width : 3 * width])
        before = c
        c = f * c + i * g
        h = o * np.tanh(c)
        saved.append((i, f, g, o, before, c, h))
    out = np.stack([s[-1] for s in saved])
    rows = out.reshape(-1, width)
    loss, d_logits = _cross_entropy(rows @ p["w"].T + p["b"], given["y"].reshape(-1))
    d_out = (d_logits @ p["w"]).reshape(out.shape)
    d_gates = _lstm_backward(saved, d_out, p["w_hh"])
    previous = np.concatenate([np.zeros_like(out[:1]), out[:-1]])
    d_x = d_gates @ p["w_ih"]
    embedding = np.zeros_like(p["embedding"])
    np.add.at(embedding, letters, d_x)
    bias = d_gates.sum(axis=(0, 1))
    found = {"embedding": embedding, "w": d_logits.T @ rows, "b": d_logits.sum(0)}
    found |= {"w_ih": np.einsum("tbg,tbi->gi", d_gates, x, optimize=True), "b_ih": bias}
    found |= {"w_hh": np.einsum("tbg,tbi->gi", d_gates, previous, optimize=True), "b_hh": bias}
    return loss, found


def _lstm_backward(saved: list[tuple[Array, ...]], d_out: Array, w_hh: Array) -> Array:
    """Gradients by the gates before their functions, [T,B,4H]."""
    d_h = d_c = np.zeros_like(d_out[0])
    found = []
    for (i, f, g, o, before, c, _), d in zip(reversed(saved), reversed(d_out), strict=True):
        d_h = d_h + d
        t = np.tanh(c)
        d_c = d_c + d_h * o * (1 - t * t)
        parts = (
            d_c * g * i * (1 - i),
            d_c * before * f * (1 - f),
            d_c * i * (1 - g * g),
            d_h * t * o * (1 - o),
        )
        found.append(np.concatenate(parts, axis=1))
        d_h, d_c = found[-1] @ w_hh, d_c * f
    return np.stack(found[::-1])


# ---- a transformer's encoder layer


def _normalized(x: Array) -> tuple[Array, Array]:
    """Rows with mean 0 and variance 1, and what they were multiplied with."""
    factor = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return (x - x.mean(axis=-1, keepdims=True)) * factor, factor


def _normalized_backward(d: Array, normal: Array, factor: Array) -> Array:
    middle = d.mean(axis=-1, keepdims=True)
    along = (d * normal).mean(axis=-1, keepdims=True)
    return factor * (d - middle - normal * along)


def _split(x: Array) -> Array:
    """[B,T,D] to heads [B,H,T,d]."""
    b, t, width = x.shape
    return x.reshape(b, t, width // HEAD, HEAD).transpose(0, 2, 1, 3)


def _joined(x: Array) -> Array:
    b, h, t, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b, t, h * d)


def _layer(x: Array, p: Arrays) -> dict[str, Array]:
    """All intermediate values of a layer that normalizes behind its two residual sums."""
    v: dict[str, Array] = {"x": x}
    for name in "qkv":
        v[name] = _split(x @ p[f"w_{name}"].T + p[f"b_{name}"])
    scores = v["q"] @ v["k"].swapaxes(-1, -2) / np.sqrt(HEAD)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    v["a"] = e / e.sum(axis=-1, keepdims=True)
    v["mixed"] = _joined(v["a"] @ v["v"])
    attended = x + v["mixed"] @ p["w_o"].T + p["b_o"]
    v["n1"], v["f1"] = _normalized(attended)
    v["h"] = v["n1"] * p["g_1"] + p["s_1"]
    v["u"] = v["h"] @ p["w_up"].T + p["b_up"]
    v["phi"] = 0.5 * (1 + erf(v["u"] / _ROOT_2))
    v["gelu"] = v["u"] * v["phi"]
    v["n2"], v["f2"] = _normalized(v["h"] + v["gelu"] @ p["w_down"].T + p["b_down"])
    v["out"] = v["n2"] * p["g_2"] + p["s_2"]
    return v


def layer_forward(inputs: Arrays) -> Array:
    """What the layer computes of ``x``."""
    return _layer(inputs["x"].astype(np.float64), inputs)["out"]


def layer_gradients(given: Arrays, p: Arrays) -> tuple[float, dict[str, Array]]:
    """The mean square of the layer's distance from ``y``."""
    v = _layer(given["x"].astype(np.float64), p)
    found: dict[str, Array] = {}

    def linear(name: str, d: Array, x: Array) -> Array:
        found[f"w_{name}"] = np.einsum("bto,bti->oi", d, x, optimize=True)
        found[f"b_{name}"] = d.sum(axis=(0, 1))
        return d @ p[f"w_{name}"]

    def norm(n: int, d: Array) -> Array:
        found[f"g_{n}"], found[f"s_{n}"] = (d * v[f"n{n}"]).sum((0, 1)), d.sum((0, 1))
        return _normalized_backward(d * p[f"g_{n}"], v[f"n{n}"], v[f"f{n}"])

    away = v["out"] - given["y"]
    d2 = norm(2, 2 * away / away.size)
    slope = v["phi"] + v["u"] * np.exp(-0.5 * v["u"] ** 2) / _ROOT_2_PI
    d_h = d2 + linear("up", linear("down", d2, v["gelu"]) * slope, v["h"])
    d_mixed = _split(linear("o", norm(1, d_h), v["mixed"]))
    d_a = d_mixed @ v["v"].swapaxes(-1, -2)
    d_scores = v["a"] * (d_a - (d_a * v["a"]).sum(axis=-1, keepdims=True)) / np.sqrt(HEAD)
    linear("q", _joined(d_scores @ v["k"]), v["x"])
    linear("k", _joined(d_scores.swapaxes(-1, -2) @ v["q"]), v["x"])
    linear("v", _joined(v["a"].swapaxes(-1, -2) @ d_mixed), v["x"])
    return float((away**2).mean()), found
