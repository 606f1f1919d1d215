"""Mixed precision on the interpreter's device, beside the CPU backend.

Training in float16 with loss scaling, and a step that overflows, are in ``tests/gpu``, which
``test_rehearsal.py`` runs too.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import nn, ops, optim


def trained(backend: str, dtype) -> tuple[list[float], list[np.ndarray]]:
    gc.manual_seed(5)
    x, y = gc.observed("x", (16, 1, 4, 4)), gc.observed("y", (16,), gc.int64)
    net = nn.Conv2d(1, 4, 3) >> nn.ReLU() >> nn.Flatten() >> nn.Linear(16, 16) >> nn.Tanh()
    loss = nn.CrossEntropyLoss()((net >> nn.Linear(16, 4))(x), y)
    cost = gc.autocast(loss, dtype)
    step = gc.compile([x, y], cost, optim.SGD(lr=0.1).minimize(cost), backend=backend)
    data = np.random.default_rng(3)
    losses = [
        float(step(data.standard_normal((16, 1, 4, 4)).astype(np.float32),
                   data.integers(0, 4, 16)))
        for _ in range(2)
    ]  # fmt: skip
    return losses, [cell.numpy() for cell in step.states]


@pytest.mark.parametrize(
    "dtype", [gc.bfloat16, pytest.param(gc.float16, marks=pytest.mark.slow)], ids=str
)
def test_training_equals_the_cpu(device, dtype) -> None:
    ours, states = trained("triton", dtype)
    theirs, others = trained("llvm", dtype)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)  # some sums round the other way
    for mine, other in zip(states, others, strict=True):
        np.testing.assert_allclose(mine, other, rtol=5e-3, atol=5e-4)
    kernels = [text for node in device.graphs.values() for text in texts(node)]
    half = {gc.bfloat16: "tl.bfloat16", gc.float16: "tl.float16"}[dtype]
    assert any(half in text and "tl.dot(" in text for text in kernels)


def texts(graph) -> list[str]:
    return [rest[1].handle.emitted.text for _, _, kind, *rest in graph if kind == "kernel"]


def test_operands_are_rounded_once(device) -> None:
    x, w = gc.observed("x", (64, 48)), gc.observed("w", (48, 32))
    data = np.random.default_rng(0)
    a, b = (data.standard_normal(v.shape).astype(np.float32) for v in (x, w))
    out = gc.autocast(ops.tanh(x) @ w, gc.bfloat16)
    got = np.asarray(gc.compile([x, w], out, backend="triton")(a, b))
    half = gc.bfloat16.numpy
    wanted = np.tanh(a).astype(half).astype(np.float64) @ b.astype(half).astype(np.float64)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-3)
    assert np.median(np.abs(got - wanted)) < 1e-5
