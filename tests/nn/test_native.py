"""The same programs compiled: one native call a step, against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from tests.evaluating import evaluate, step

rng = np.random.default_rng(3)


def test_a_training_step_equals_the_interpreter() -> None:
    """Schedules, clipping, decay, dropout's bits, smoothing: ten steps of both stay together."""
    batch = gc.Dim("B")
    x, y = gc.observed("x", (batch, 12)), gc.observed("y", (batch,), gc.int64)
    at = rng.normal(size=(16, 12)).astype(np.float32)
    labels = rng.integers(0, 4, 16)
    labels[3] = -100

    def train(run: Any) -> tuple[list[float], dict[str, Any]]:
        gc.manual_seed(3)
        net = nn.Linear(12, 8) >> nn.Dropout(0.5) >> nn.GELU() >> nn.LayerNorm(8) >> nn.Linear(8, 4)
        loss = nn.CrossEntropyLoss(label_smoothing=0.1)(net(x), y)
        opt = optim.AdamW(lr=optim.schedules.warmup_cosine(1e-2, 3, 12))
        grads = optim.clip_by_global_norm(gc.grad(loss, net.parameters()), 0.5)
        call = run(loss, opt.updates(net.parameters(), grads))
        return [float(call(at, labels)) for _ in range(10)], net.state_dict()

    native, weights = train(lambda loss, updates: gc.compile([x, y], loss, updates))
    oracle, wanted = train(lambda loss, updates: lambda a, b: step(updates, loss, {x: a, y: b}))
    np.testing.assert_allclose(native, oracle, rtol=1e-4)
    assert native[-1] < native[0]
    for name, array in weights.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-3, atol=1e-5)
    gc.manual_seed(0)


def test_default_modes() -> None:
    w, h = gc.parameter((2,)), gc.state((2,))
    x = gc.observed("x", (2,))
    out = gc.by_mode(train=x * 2.0, eval=x)
    at = np.ones(2, np.float32)
    assert gc.compile([x], out)(at).tolist() == [1, 1]
    assert gc.compile([x], out, optim.SGD(lr=0.1).minimize((w * x).sum()))(at).tolist() == [2, 2]
    assert gc.compile([x], out, {w: w + 1.0})(at).tolist() == [2, 2]
    assert gc.compile([x], out, optim.Accumulate([x]).add())(at).tolist() == [2, 2]
    with pytest.raises(gc.ModeError):
        gc.compile([x], out, {h: h + 1.0})
    assert gc.compile([x], out, {h: h + 1.0}, mode="eval")(at).tolist() == [1, 1]


def test_a_failing_label_changes_nothing() -> None:
    x, y = gc.observed("x", (4, 3)), gc.observed("y", (4,), gc.int64)
    w = gc.parameter(np.ones(3)).named("w")
    loss = nn.CrossEntropyLoss()(x * w, y)
    opt = optim.Adam(lr=0.1)
    call = gc.compile([x, y], loss, opt.minimize(loss))
    at = rng.normal(size=(4, 3)).astype(np.float32)
    for wrong in (3, -1, 2**40):
        with pytest.raises(gc.RuntimeCheckError, match="outside"):
            call(at, np.array([0, 1, 2, wrong]))
        assert w.numpy().tolist() == [1, 1, 1]
        assert opt.steps == 0
    call(at, np.array([0, 1, 2, -100]))
    assert opt.steps == 1
    assert w.numpy().tolist() != [1, 1, 1]


def test_random_bits_are_the_interpreter_s() -> None:
    gc.manual_seed(11)
    u = gc.random.uniform((3, 7))
    _, inside = gc.scan(lambda c, _: (c, gc.random.uniform(5)), 0.0, length=3)
    wanted = [step({}, (u, inside)) for _ in range(3)]
    gc.manual_seed(11)
    call = gc.compile([], [u, inside])
    for a, b in wanted:
        got = call()
        np.testing.assert_array_equal(got[0], a)
        np.testing.assert_array_equal(got[1], b)
    gc.manual_seed(0)


def test_the_gradient_of_a_scan() -> None:
    xs, w = gc.observed("xs", (5, 3)), gc.parameter(np.eye(3) * 0.5)
    out, ys = gc.scan(lambda h, v: (ops.tanh(h @ w + v), h), ops.zeros(3), xs)
    cost = (ys**2).sum() + out.sum()
    both = [cost, gc.grad(cost, w)]
    at = rng.normal(size=(5, 3)).astype(np.float32)
    for a, b in zip(gc.compile([xs], both)(at), evaluate(both, {xs: at}), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
