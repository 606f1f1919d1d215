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
from benchmarks.settings import ADAM, CHECKED_STEPS, HEAD

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


def _filled(layer: torch.nn.Module, inputs: Inputs, **names: str) -> torch.nn.Module:
    """``layer`` with its parameters taken from ``inputs``, by the names that they have there."""
    state = {own: torch.from_numpy(inputs[name]) for own, name in names.items()}
    layer.load_state_dict(state)
    return layer


#: a network and its loss for inputs and targets
Network = tuple[torch.nn.Module, Callable[[Any, Any], torch.Tensor]]


def training_step(
    network: Network, x: torch.Tensor, y: torch.Tensor, *, capturable: bool = False
) -> tuple[Callable[[], torch.Tensor], Callable[[], None]]:
    """A step of fused Adam on one batch (``capturable`` in a CUDA graph), and what begins anew."""
    net, loss = network
    optimizer = torch.optim.Adam(
        net.parameters(), lr=ADAM["lr"], betas=(ADAM["beta1"], ADAM["beta2"]), eps=ADAM["eps"],
        fused=True, capturable=capturable,
    )

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=not capturable)
        value = loss(x, y)
        value.backward()
        optimizer.step()
        return value.detach()

    first = {name: value.clone() for name, value in net.state_dict().items()}

    def reset() -> None:
        net.load_state_dict(first)
        for kept in optimizer.state.values():
            for value in kept.values():
                value.zero_()

    return step, reset


def _trained(made: Callable[[Inputs], Network]) -> Callable[[Inputs, int], Call]:
    """The builder of a training step."""

    def build(inputs: Inputs, threads: int) -> Call:
        torch.set_num_threads(threads)
        x, y = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["y"])
        step, reset = training_step(made(inputs), x, y)
        run = torch.compile(step) if COMPILE else step
        return Call(run, lambda: np.array([run().item() for _ in range(CHECKED_STEPS)]), reset)

    return build


def _linear(inputs: Inputs, weight: str, bias: str) -> torch.nn.Module:
    outer, inner = inputs[weight].shape
    return _filled(torch.nn.Linear(inner, outer), inputs, weight=weight, bias=bias)


def _mlp(inputs: Inputs) -> Network:
    layers = [_linear(inputs, f"w{i}", f"b{i}") for i in range(3)]
    relu = torch.nn.ReLU()
    net = torch.nn.Sequential(layers[0], relu, layers[1], relu, layers[2])
    return net, lambda x, y: F.cross_entropy(net(x), y)


def _cnn(inputs: Inputs) -> Network:
    layers: list[torch.nn.Module] = []
    for i in range(4):
        outer, inner = inputs[f"c{i}"].shape[:2]
        conv = torch.nn.Conv2d(inner, outer, 3, padding=1)
        layers += [_filled(conv, inputs, weight=f"c{i}", bias=f"d{i}"), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool2d(2)] if i % 2 else []
    layers += [torch.nn.Flatten(), _linear(inputs, "w0", "b0"), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, _linear(inputs, "w1", "b1"))
    return net, lambda x, y: F.cross_entropy(net(x), y)


class _Letters(torch.nn.Module):
    """An embedding, torch's own LSTM, a linear layer."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        letters, width = inputs["embedding"].shape
        embedding = torch.nn.Embedding(letters, width)
        self.embedding = _filled(embedding, inputs, weight="embedding")
        names = {f"weight_{n}_l0": f"w_{n}" for n in ("ih", "hh")}
        names |= {f"bias_{n}_l0": f"b_{n}" for n in ("ih", "hh")}
        self.lstm = _filled(torch.nn.LSTM(width, width), inputs, **names)
        self.head = _linear(inputs, "w", "b")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.embedding(x))
        logits: torch.Tensor = self.head(hidden)
        return logits.reshape(-1, logits.shape[-1])


def _lstm(inputs: Inputs) -> Network:
    net = _Letters(inputs)
    return net, lambda x, y: F.cross_entropy(net(x), y.reshape(-1))


def _encoder_layer(inputs: Inputs) -> torch.nn.Module:
    width = len(inputs["w_q"])
    layer = torch.nn.TransformerEncoderLayer(
        width, width // HEAD, 4 * width, dropout=0.0, activation="gelu", batch_first=True
    )
    joined = dict(inputs)
    for kind in "wb":
        joined[f"{kind}_in"] = np.concatenate([inputs[f"{kind}_{name}"] for name in "qkv"])
    names = {"self_attn.in_proj_weight": "w_in", "self_attn.in_proj_bias": "b_in"}
    for own, name in (("self_attn.out_proj", "o"), ("linear1", "up"), ("linear2", "down")):
        names |= {f"{own}.weight": f"w_{name}", f"{own}.bias": f"b_{name}"}
    for n in (1, 2):
        names |= {f"norm{n}.weight": f"g_{n}", f"norm{n}.bias": f"s_{n}"}
    return _filled(layer, joined, **names)


def _layer_forward(inputs: Inputs, threads: int) -> Call:
    torch.set_num_threads(threads)
    return _call(_encoder_layer(inputs).eval(), torch.from_numpy(inputs["x"]))


def _layer(inputs: Inputs) -> Network:
    layer = _encoder_layer(inputs)
    return layer, lambda x, y: F.mse_loss(layer(x), y)


NETWORKS = {"mlp_train": _mlp, "cnn_train": _cnn, "lstm_train": _lstm, "layer_train": _layer}


BUILDERS = {
    "matmul": _matmul,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "chain": _chain,
    "conv": _conv,
    "layer_forward": _layer_forward,
    **{kind: _trained(made) for kind, made in NETWORKS.items()},
}
