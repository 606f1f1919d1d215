"""JAX: jitted functions on arrays that are already on the device; the training step donates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Call, last_result
from benchmarks.settings import ADAM, CHECKED_STEPS, HEAD

Inputs = dict[str, NDArray[Any]]


def versions() -> dict[str, str]:
    return {"jax": jax.__version__}


def _call(f: Callable[..., Any], inputs: Inputs) -> Call:
    jitted = jax.jit(f)
    arrays = [jnp.asarray(a) for a in inputs.values()]
    run = lambda: jitted(*arrays).block_until_ready()  # noqa: E731
    return Call(run, last_result(run))


def _matmul(inputs: Inputs, threads: int) -> Call:
    return _call(jnp.matmul, inputs)


def _softmax(inputs: Inputs, threads: int) -> Call:
    return _call(lambda x: jax.nn.softmax(x, axis=-1), inputs)


def _layer_norm(inputs: Inputs, threads: int) -> Call:
    def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        variance = x.var(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * weight + bias

    return _call(layer_norm, inputs)


def _chain(inputs: Inputs, threads: int) -> Call:
    def chain(x: Any, a: Any, b: Any) -> Any:
        return jnp.tanh(x * a + b) * jax.nn.sigmoid(x) + jax.nn.gelu(x, approximate=False)

    return _call(chain, inputs)


def _conv(inputs: Inputs, threads: int) -> Call:
    return _call(lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME"), inputs)


Parameters = dict[str, Any]
Loss = Callable[[Parameters, Any, Any], Any]


def _cross_entropy(logits: Any, labels: Any) -> Any:
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()


def _mlp_loss(p: Parameters, x: Any, y: Any) -> Any:
    for i in range(2):
        x = jax.nn.relu(x @ p[f"w{i}"].T + p[f"b{i}"])
    return _cross_entropy(x @ p["w2"].T + p["b2"], y)


def _cnn_loss(p: Parameters, x: Any, y: Any) -> Any:
    for i in range(4):
        x = jax.lax.conv(x, p[f"c{i}"], (1, 1), "SAME") + p[f"d{i}"][:, None, None]
        x = jax.nn.relu(x)
        if i % 2:
            size = (1, 1, 2, 2)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, size, size, "VALID")
    x = jax.nn.relu(x.reshape(len(x), -1) @ p["w0"].T + p["b0"])
    return _cross_entropy(x @ p["w1"].T + p["b1"], y)


def _lstm_loss(p: Parameters, x: Any, y: Any) -> Any:
    width = p["w_hh"].shape[1]

    def cell(carry: Any, given: Any) -> Any:
        h, c = carry
        gates = given @ p["w_ih"].T + p["b_ih"] + h @ p["w_hh"].T + p["b_hh"]
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[1], width))
    _, hidden = jax.lax.scan(cell, (zero, zero), p["embedding"][x])
    return _cross_entropy(hidden.reshape(-1, width) @ p["w"].T + p["b"], y.reshape(-1))


def _encoder_layer(p: Parameters, x: Any) -> Any:
    batch, length, width = x.shape

    def linear(name: str, x: Any) -> Any:
        return x @ p[f"w_{name}"].T + p[f"b_{name}"]

    def norm(n: int, x: Any) -> Any:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p[f"g_{n}"] + p[f"s_{n}"]

    heads = (batch, length, width // HEAD, HEAD)
    q, k, v = (linear(name, x).reshape(heads) for name in "qkv")
    mixed = jax.nn.dot_product_attention(q, k, v).reshape(batch, length, width)
    h = norm(1, x + linear("o", mixed))
    return norm(2, h + linear("down", jax.nn.gelu(linear("up", h), approximate=False)))


def _layer_loss(p: Parameters, x: Any, y: Any) -> Any:
    return ((_encoder_layer(p, x) - y) ** 2).mean()


def _stepped(of: Loss) -> Callable[..., Any]:
    """One Adam step on (parameters, first moments, second moments, count)."""

    def step(state: Any, x: Any, y: Any) -> Any:
        parameters, first, second, count = state
        loss, gradients = jax.value_and_grad(of)(parameters, x, y)
        count = count + 1
        b1, b2 = ADAM["beta1"], ADAM["beta2"]
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, second, gradients)
        rate = ADAM["lr"] / (1 - b1**count)

        def updated(p: Any, m: Any, v: Any) -> Any:
            return p - rate * m / (jnp.sqrt(v / (1 - b2**count)) + ADAM["eps"])

        parameters = jax.tree.map(updated, parameters, first, second)
        return loss, (parameters, first, second, count)

    return jax.jit(step, donate_argnums=0)


def _parameters(inputs: Inputs) -> Parameters:
    return {name: jnp.array(a) for name, a in inputs.items() if name not in ("x", "y")}


def _trained(of: Loss) -> Callable[[Inputs, int], Call]:
    """The builder of a training step; integers are JAX's 32-bit ones."""

    def build(inputs: Inputs, threads: int) -> Call:
        x, y = (
            jnp.asarray(a.astype(np.int32) if a.dtype == np.int64 else a)
            for a in (inputs["x"], inputs["y"])
        )
        step = _stepped(of)

        def first() -> Any:
            parameters = _parameters(inputs)
            zeros = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
            return (parameters, *zeros, jnp.float32(0))

        state = first()

        def reset() -> None:
            nonlocal state
            state = jax.block_until_ready(first())

        def run() -> Any:
            nonlocal state
            loss, state = step(state, x, y)
            return jax.block_until_ready((loss, state))[0]

        return Call(run, lambda: np.array([float(run()) for _ in range(CHECKED_STEPS)]), reset)

    return build


def _layer_forward(inputs: Inputs, threads: int) -> Call:
    jitted, parameters, x = jax.jit(_encoder_layer), _parameters(inputs), jnp.asarray(inputs["x"])
    run = lambda: jitted(parameters, x).block_until_ready()  # noqa: E731
    return Call(run, last_result(run))


BUILDERS = {
    "matmul": _matmul,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "chain": _chain,
    "conv": _conv,
    "mlp_train": _trained(_mlp_loss),
    "cnn_train": _trained(_cnn_loss),
    "lstm_train": _trained(_lstm_loss),
    "layer_forward": _layer_forward,
    "layer_train": _trained(_layer_loss),
}
