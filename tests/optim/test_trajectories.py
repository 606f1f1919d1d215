"""Twenty compiled steps with groups and schedules follow torch.optim's, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim

#: name, options of all, a schedule of ours, the same for LambdaLR (a factor of the rate 0.05)
TRAJECTORIES: list[tuple[str, dict[str, Any], Any, Callable[[int], float]]] = [
    ("SGD", {"momentum": 0.9}, optim.schedules.exponential(0.05, 0.9), lambda t: 0.9**t),
    ("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
     optim.schedules.multi_step(0.05, (3, 11), 0.3), lambda t: 0.3 ** ((t >= 3) + (t >= 11))),
    ("Adam", {"betas": (0.8, 0.95)},
     optim.schedules.step(0.05, 6, 0.5), lambda t: 0.5 ** (t // 6)),
    ("AdamW", {"weight_decay": 0.05, "amsgrad": True},
     optim.schedules.linear(0.05, 0.2, 1.0, 8), lambda t: 0.2 + 0.8 * min(t, 8) / 8),
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(("name", "options", "schedule", "factor"), TRAJECTORIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_twenty_steps_equal_torch(
    name: str, options: dict[str, Any], schedule: Any, factor: Callable[[int], float], dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    gc.manual_seed(4)
    net = nn.Linear(4, 5, dtype=dtype) >> nn.Tanh() >> nn.Linear(5, 2, dtype=dtype)
    x = gc.observed("x", (8, 4), dtype)
    cost = ((net(x) - x[:, :2]) ** 2).mean()
    groups = {"*.bias": {"weight_decay": 0.0, "lr": 0.01}, "2.*": {"weight_decay": 0.1}}
    ours = getattr(optim, name)(schedule, groups=groups, **options)
    step = gc.compile([x], cost, ours.minimize(cost))

    theirs = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    theirs.to(getattr(torch, dtype))
    theirs.load_state_dict({n: torch.from_numpy(array) for n, array in net.state_dict().items()})
    first, _, last = theirs
    optimizer = getattr(torch.optim, name)(
        [
            {"params": [first.bias, last.bias], "weight_decay": 0.0, "lr": 0.01},
            {"params": [last.weight], "weight_decay": 0.1},
            {"params": [first.weight]},
        ],
        lr=0.05,
        **options,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda t: 1.0, factor, factor])
    tolerance = (
        {"rtol": 1e-9, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-3, "atol": 1e-5}
    )
    rng = np.random.default_rng(0)
    for _ in range(20):
        at = rng.normal(size=(8, 4)).astype(dtype)
        tx = torch.from_numpy(at)
        wanted = ((theirs(tx) - tx[:, :2]) ** 2).mean()
        optimizer.zero_grad()
        wanted.backward()
        optimizer.step()
        scheduler.step()
        np.testing.assert_allclose(step(at), wanted.item(), **tolerance)
        for key, tensor in theirs.state_dict().items():
            np.testing.assert_allclose(
                net.state_dict()[key], tensor.numpy(), err_msg=key, **tolerance
            )
    assert ours.steps == 20
