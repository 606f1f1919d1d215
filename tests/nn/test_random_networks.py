"""Random chains of layers, compiled: outputs and gradients equal PyTorch's, in both modes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

Chosen = tuple[str, tuple[Any, ...], dict[str, Any]]
PLAIN = {"ReLU", "Tanh", "Sigmoid", "SiLU", "GELU", "LeakyReLU", "Flatten"}


def choose(rng: np.random.Generator, shape: tuple[int, ...]) -> Chosen:
    """A layer that fits x [N, C, *space], and keeps every axis at least 2 long."""
    channels, space = shape[1], shape[2:]
    rank, shortest = len(space), min(space)
    pick = str(rng.choice(["conv", "transposed", "pool", "norm", "norm", "plain", "plain"]))
    if pick == "conv":
        size = int(rng.integers(1, min(4, shortest) + 1))
        groups = int(rng.choice([g for g in (1, 2, 3) if channels % g == 0]))
        made = groups * int(rng.integers(1, 4))
        padding = int(rng.integers(0, 2))
        wide = shortest + 2 * padding - size >= 4
        options = {"stride": int(rng.integers(1, 3)) if wide else 1, "padding": padding}
        options |= {"groups": groups, "bias": bool(rng.integers(2))}
        return f"Conv{rank}d", (channels, made, size), options
    if pick == "transposed":
        stride = int(rng.integers(1, 3))
        options = {"stride": stride, "output_padding": int(rng.integers(0, stride))}
        return f"ConvTranspose{rank}d", (channels, int(rng.integers(1, 4)), 2), options
    if pick == "pool" and shortest >= 4:
        size, kind = int(rng.integers(2, 4)), str(rng.choice(["MaxPool", "AvgPool"]))
        options = {"stride": int(rng.integers(1, 3)), "padding": int(rng.integers(0, 2))}
        return f"{kind}{rank}d", (size,), options | {"ceil_mode": bool(rng.integers(2))}
    if pick == "norm":
        kind = str(rng.choice(["batch", "group", "layer"]))
        if kind == "batch":
            return f"BatchNorm{rank}d", (channels,), {}
        if kind == "layer":
            return "LayerNorm", (space[-1],), {}
        groups = int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
        return "GroupNorm", (groups, channels), {}
    return str(rng.choice(sorted(PLAIN - {"Flatten"}))), (), {}


def build(seed: int) -> tuple[Any, Any, tuple[int, ...]]:
    """PyTorch's network in float64, the names and arguments of its layers, the input's shape."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 3))
    first = (int(rng.integers(2, 6)), int(rng.integers(1, 5)), *rng.integers(5, 12, rank).tolist())
    chosen, layers, flow = [], [], torch.zeros(first, dtype=torch.float64)
    torch.manual_seed(seed)
    while len(layers) < 6:
        name, args, options = choose(rng, tuple(flow.shape))
        layer = getattr(torch.nn, name)(*args, **options).double()
        after = layer(flow)
        if min(after.shape[2:]) < 2 or after.numel() > 4000:
            continue
        chosen.append((name, args, options))
        layers.append(layer)
        flow = after.detach()
    width = flow[0].numel()
    chosen += [("Flatten", (), {}), ("Linear", (width, 3), {})]
    layers += [torch.nn.Flatten(), torch.nn.Linear(width, 3).double()]
    for layer in layers:
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
        if "Norm" in type(layer).__name__:  # off zero, where rounding would choose ReLU's side
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, 0.1, 0.5)
    return torch.nn.Sequential(*layers), chosen, first


def _layer(name: str, args: tuple[Any, ...], options: dict[str, Any], dtype: str) -> nn.Module:
    typed = {} if name in PLAIN or "Pool" in name else {"dtype": dtype}
    made: nn.Module = getattr(nn, name)(*args, **options, **typed)
    return made


def compare(seed: int, dtype: str) -> None:
    theirs, chosen, shape = build(seed)
    note = f"seed {seed}, {dtype}: x {list(shape)} {theirs}"
    ours = nn.Sequential(*(_layer(*given, dtype) for given in chosen))
    ours.load_state_dict(theirs.state_dict())
    x = gc.observed("x", shape, dtype)
    out = ours(x)
    weights = np.random.default_rng(seed).normal(size=out.shape).astype(dtype)
    cost = (out * weights).sum() + 0.5 * (out * out).sum()
    train = gc.compile([x], [out, gc.grad(cost, [x, *ours.parameters()])], mode="train")
    test = gc.compile([x], out, mode="eval")
    at = np.random.default_rng(seed + 1).normal(size=shape).astype(dtype)

    tx = torch.tensor(at.astype(np.float64), requires_grad=True)
    tout = theirs(tx)
    ((tout * torch.tensor(weights)).sum() + 0.5 * (tout * tout).sum()).backward()
    got, slopes = train(at)
    exact = dtype == "float64"
    pairs = [(got, tout), (slopes[0], tx.grad)]
    pairs += zip(slopes[1:], (p.grad for p in theirs.parameters()), strict=True)
    for array, tensor in [*pairs, (test(at), theirs.eval()(tx))]:
        wanted = tensor.detach().numpy()
        # of the largest element: batch norm of few values amplifies what rounding did before it
        close = (1e-9 if exact else 2e-3) * max(np.abs(wanted).max(), 1.0)
        np.testing.assert_allclose(array, wanted, rtol=0, atol=close, err_msg=note)


@pytest.mark.parametrize("seed", range(12))
def test_random_network(seed: int) -> None:
    compare(seed, "float32" if seed % 3 else "float64")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1000 + int(os.environ.get("NETWORKS", "150"))))
def test_many_random_networks(seed: int) -> None:
    compare(seed, "float32" if seed % 2 else "float64")
