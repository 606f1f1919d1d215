"""PyTorch: eager without allocation where it can, or ``torch.compile`` (BENCHMARK_MODE=compile)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.peers import Call
from benchmarks.settings import ADAM, CHECKED_STEPS

Inputs = dict[str, NDArray[Any]]
COMPILE = os.environ.get("BENCHMARK_MODE") == "compile"


def versions() -> dict[str, str]:
    return {"torch": torch.__version__}


def _call(f: Callable[..., torch.Tensor], *tensors: torch.Tensor, eager: Any = None) -> Call:
    """``f`` compiled, or ``eager`` (``f`` itself where that is the same)."""
    chosen = torch.compile(f) if COMPILE else (eager or f)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return chosen(*tensors)

    return Call(run, lambda: run().numpy().copy())


def _tensors(inputs: Inputs, threads: int) -> list[torch.Tensor]:
    torch.set_num_threads(threads)
    return [torch.from_numpy(a) for a in inputs.values()]


def _matmul(inputs: Inputs, threads: int) -> Call:
    a, b = _tensors(inputs, threads)
    out = torch.empty(a.shape[0], b.shape[1])
    return _call(torch.matmul, a, b, eager=lambda a, b: torch.matmul(a, b, out=out))


def _softmax(inputs: Inputs, threads: int) -> Call:
    (x,) = _tensors(inputs, threads)
    out = torch.empty_like(x)
    return _call(
        lambda x: torch.softmax(x, -1), x, eager=lambda x: torch.softmax(x, -1, out=out)
    )


def _layer_norm(inputs: Inputs, threads: int) -> Call:
    x, weight, bias = _tensors(inputs, threads)
    shape = [x.shape[-1]]
    out, mean, rstd = torch.empty_like(x), torch.empty(len(x), 1), torch.empty(len(x), 1)
    native = torch.ops.aten.native_layer_norm.out

    def eager(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        native(x, shape, weight, bias, 1e-5, out0=out, out1=mean, out2=rstd)
        return out

    return _call(lambda x, w, b: F.layer_norm(x, shape, w, b), x, weight, bias, eager=eager)


def _chain(inputs: Inputs, threads: int) -> Call:
    x, a, b = _tensors(inputs, threads)
    return _call(lambda x, a, b: torch.tanh(x * a + b) * torch.sigmoid(x) + F.gelu(x), x, a, b)


def _conv(inputs: Inputs, threads: int) -> Call:
    x, weight = _tensors(inputs, threads)
    return _call(lambda x, w: F.conv2d(x, w, padding=1), x, weight)


def _mlp_train(inputs: Inputs, threads: int) -> Call:
    torch.set_num_threads(threads)
    x, y = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["y"])
    layers = [
        torch.nn.Linear(784, 512),
        torch.nn.ReLU(),
        torch.nn.Linear(512, 512),
        torch.nn.ReLU(),
        torch.nn.Linear(512, 10),
    ]
    net = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for i, layer in enumerate(layers[::2]):
            layer.weight.copy_(torch.from_numpy(inputs[f"w{i}"]))  # type: ignore[operator]
            layer.bias.copy_(torch.from_numpy(inputs[f"b{i}"]))  # type: ignore[operator]
    optimizer = torch.optim.Adam(
        net.parameters(), lr=ADAM["lr"], betas=(ADAM["beta1"], ADAM["beta2"]), eps=ADAM["eps"],
        fused=True,
    )

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    run = torch.compile(step) if COMPILE else step
    return Call(run, lambda: np.array([run().item() for _ in range(CHECKED_STEPS)]))


BUILDERS = {
    "matmul": _matmul,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "chain": _chain,
    "conv": _conv,
    "mlp_train": _mlp_train,
}
