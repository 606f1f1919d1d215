"""Program 12: accumulation, clipping, averages, schedule, groups and freezing in one step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim

DTYPE = gc.float64
rng = np.random.default_rng(9)


class Net(nn.Module):
    """A body that stays as it is, batch norm included, and a head that learns."""

    def __init__(self) -> None:
        self.body = nn.Linear(5, 7, dtype=DTYPE) >> nn.BatchNorm1d(7, dtype=DTYPE)
        self.neck = nn.Linear(7, 7, dtype=DTYPE)
        self.head = nn.Linear(7, 3, dtype=DTYPE)

    def forward(self, x: gc.Value) -> gc.Value:
        h = nn.functional.tanh(self.body.with_mode("eval")(x))
        return self.head(nn.functional.tanh(self.neck(h)))


class Theirs:
    """The same in PyTorch: the body in mode eval and without gradients."""

    def __init__(self, torch: Any, net: Net) -> None:
        layers = torch.nn
        self.body = layers.Sequential(layers.Linear(5, 7), layers.BatchNorm1d(7))
        self.neck, self.head = layers.Linear(7, 7), layers.Linear(7, 3)
        self.all = layers.ModuleDict({"body": self.body, "neck": self.neck, "head": self.head})
        self.all.double()
        self.all.load_state_dict({n: torch.from_numpy(a) for n, a in net.state_dict().items()})
        self.body.eval().requires_grad_(False)

    def parameters(self) -> list[Any]:
        return [*self.neck.parameters(), *self.head.parameters()]

    def __call__(self, x: Any) -> Any:
        return self.head(self.neck(self.body(x).tanh()).tanh())


def warmup_cosine(step: int) -> float:
    """As ``optim.schedules.warmup_cosine(1, 3, 12)``, written anew."""
    if step < 3:
        return (step + 1) / 3
    return 0.5 * (1 + math.cos(math.pi * (step - 3) / (12 - 3)))


def batch(rows: int = 6) -> tuple[Any, Any]:
    return rng.normal(size=(rows, 5)) + 1.0, rng.integers(0, 3, rows)


@pytest.mark.torch
def test_twelve_steps_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    gc.manual_seed(1)
    net = Net()
    net.body[1].running_mean.set(rng.normal(size=7))
    x, y = gc.observed("x", (6, 5), DTYPE), gc.observed("y", (6,), gc.int64)
    loss = nn.CrossEntropyLoss()(net(x), y)
    ps = net.parameters(exclude="body.*")
    grads = optim.clip_by_global_norm(gc.grad(loss, ps), 0.3)
    opt = optim.AdamW(
        lr=optim.schedules.warmup_cosine(1e-2, 3, 12),
        groups={"*.bias": {"weight_decay": 0.0}, "head.*": {"lr": 3e-3, "weight_decay": 0.1}},
    )
    ema = optim.EMA(ps, 0.8)
    updates = opt.updates(ps, grads)
    step = gc.compile([x, y], loss, updates | ema.after(updates))
    averaged = gc.compile([x], ema.apply(net(x)))

    theirs = Theirs(torch, net)
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs.neck.bias, theirs.head.bias], "weight_decay": 0.0},
            {"params": [theirs.head.weight], "lr": 3e-3, "weight_decay": 0.1},
            {"params": [theirs.neck.weight]},
        ],
        lr=1e-2,
    )
    rates = [warmup_cosine, lambda step: 1.0, warmup_cosine]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
    shadows = [p.detach().clone() for p in theirs.parameters()]
    before = net.state_dict()
    for _ in range(12):
        at, labels = batch()
        optimizer.zero_grad()
        wanted = torch.nn.functional.cross_entropy(
            theirs(torch.from_numpy(at)), torch.from_numpy(labels)
        )
        wanted.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
        optimizer.step()
        scheduler.step()
        for shadow, parameter in zip(shadows, theirs.parameters(), strict=True):
            shadow.mul_(0.8).add_(0.2 * parameter.detach())
        np.testing.assert_allclose(step(at, labels), wanted.item(), rtol=1e-8)
    for name, tensor in theirs.all.state_dict().items():
        got = net.state_dict()[name]
        np.testing.assert_allclose(got, tensor.numpy(), rtol=1e-7, atol=1e-9, err_msg=name)
        if name.startswith("body"):
            np.testing.assert_array_equal(got, before[name])
    for parameter, shadow in zip(ps, shadows, strict=True):
        np.testing.assert_allclose(ema.shadow(parameter).numpy(), shadow.numpy(), rtol=1e-7)
    with torch.no_grad():
        for parameter, shadow in zip(theirs.parameters(), shadows, strict=True):
            parameter.copy_(shadow)
    at, _ = batch()
    wanted = theirs(torch.from_numpy(at)).detach().numpy()
    np.testing.assert_allclose(averaged(at), wanted, rtol=1e-7)


@pytest.mark.torch
def test_accumulated_batches_equal_torch() -> None:
    """Three small batches, then one step along their mean; the rate is changed in between."""
    torch = pytest.importorskip("torch")
    gc.manual_seed(2)
    net = Net()
    x, y = gc.observed("x", (6, 5), DTYPE), gc.observed("y", (6,), gc.int64)
    loss = nn.CrossEntropyLoss()(net(x), y)
    ps = net.parameters(exclude="body.*")
    acc = optim.Accumulate(gc.grad(loss, ps))
    opt = optim.SGD(lr=0.5, momentum=0.9, nesterov=True)
    micro = gc.compile([x, y], loss, acc.add())
    apply = gc.compile([], [], opt.updates(ps, acc.mean()) | acc.zero())

    theirs = Theirs(torch, net)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    for large in range(4):
        optimizer.zero_grad()
        for _ in range(3):
            at, labels = batch()
            wanted = torch.nn.functional.cross_entropy(
                theirs(torch.from_numpy(at)), torch.from_numpy(labels)
            )
            (wanted / 3).backward()
            np.testing.assert_allclose(micro(at, labels), wanted.item(), rtol=1e-9)
        if large == 2:
            opt.lr = 0.05
            optimizer.param_groups[0]["lr"] = 0.05
        optimizer.step()
        assert list(apply()) == []
    for name, tensor in theirs.all.state_dict().items():
        np.testing.assert_allclose(net.state_dict()[name], tensor.numpy(), rtol=1e-8, err_msg=name)
    assert opt.steps == 4
