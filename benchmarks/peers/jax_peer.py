"""JAX: jitted functions on arrays that are already on the device; the training step donates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Call, last_result
from benchmarks.settings import ADAM, CHECKED_STEPS

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


def _loss(parameters: list[tuple[Any, Any]], x: Any, y: Any) -> Any:
    for weight, bias in parameters[:-1]:
        x = jax.nn.relu(x @ weight.T + bias)
    weight, bias = parameters[-1]
    log_p = jax.nn.log_softmax(x @ weight.T + bias)
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()


def train_step(state: Any, x: Any, y: Any) -> Any:
    """One Adam step on (parameters, first moments, second moments, count)."""
    parameters, first, second, count = state
    loss, gradients = jax.value_and_grad(_loss)(parameters, x, y)
    count = count + 1
    b1, b2 = ADAM["beta1"], ADAM["beta2"]
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, gradients)
    second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, second, gradients)
    rate = ADAM["lr"] / (1 - b1**count)

    def updated(p: Any, m: Any, v: Any) -> Any:
        return p - rate * m / (jnp.sqrt(v / (1 - b2**count)) + ADAM["eps"])

    parameters = jax.tree.map(updated, parameters, first, second)
    return loss, (parameters, first, second, count)


def initial_state(inputs: Inputs) -> Any:
    parameters = [(jnp.asarray(inputs[f"w{i}"]), jnp.asarray(inputs[f"b{i}"])) for i in range(3)]
    zeros = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
    return parameters, *zeros, jnp.float32(0)


def _mlp_train(inputs: Inputs, threads: int) -> Call:
    x, y = jnp.asarray(inputs["x"]), jnp.asarray(inputs["y"].astype(np.int32))
    step = jax.jit(train_step, donate_argnums=0)
    state = initial_state(inputs)

    def run() -> Any:
        nonlocal state
        loss, state = step(state, x, y)
        return jax.block_until_ready((loss, state))[0]

    return Call(run, lambda: np.array([float(run()) for _ in range(CHECKED_STEPS)]))


BUILDERS = {
    "matmul": _matmul,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "chain": _chain,
    "conv": _conv,
    "mlp_train": _mlp_train,
}
