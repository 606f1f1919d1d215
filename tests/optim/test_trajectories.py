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


SCHEDULES = optim.schedules
#: optimizer, options, schedule of torch and its options, ours of the rate and of the momentum
CYCLES: list[tuple[str, dict[str, Any], str, dict[str, Any], Any, Any]] = [
    ("SGD", {"momentum": 0.9, "nesterov": True}, "CyclicLR",
     {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "step_size_down": 4, "gamma": 0.9,
      "mode": "exp_range", "base_momentum": 0.6},
     SCHEDULES.cyclic(0.01, 0.1, 3, 4, "exp_range", 0.9),
     SCHEDULES.cyclic_momentum(0.6, 0.9, 3, 4, "exp_range", 0.9)),
    ("RMSprop", {"momentum": 0.5}, "CyclicLR",
     {"base_lr": 0.001, "max_lr": 0.01, "step_size_up": 5, "mode": "triangular2"},
     SCHEDULES.cyclic(0.001, 0.01, 5, mode="triangular2"),
     SCHEDULES.cyclic_momentum(step_size_up=5, mode="triangular2")),
    ("SGD", {"momentum": 0.3, "weight_decay": 0.1}, "OneCycleLR",
     {"max_lr": 0.1, "total_steps": 20, "base_momentum": 0.5, "max_momentum": 0.8},
     SCHEDULES.one_cycle(0.1, 20), SCHEDULES.one_cycle_momentum(20, 0.5, 0.8)),
    *[
        (name, {"betas": (0.9, 0.97)}, "OneCycleLR",
         {"max_lr": 0.05, "total_steps": 20, "three_phase": True, "anneal_strategy": "linear"},
         SCHEDULES.one_cycle(0.05, 20, anneal_strategy="linear", three_phase=True),
         SCHEDULES.one_cycle_momentum(20, anneal_strategy="linear", three_phase=True))
        for name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam")
    ],
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cycles_of_momentum_equal_torch() -> None:
    """Each on a parameter of its own, in one program that is compiled once."""
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(0).normal(size=(3, 2))
    weights, updates, theirs = [], optim.Updates(), []
    for name, options, scheduler, cycle, rate, momentum in CYCLES:
        weights.append(gc.parameter(start, gc.float64))
        slope = gc.grad((gc.ops.sin(weights[-1]) ** 2).sum(), weights[-1])
        given = {**options, "momentum": momentum}
        if "betas" in options:
            given = {"betas": (momentum, options["betas"][1])}
        updates |= getattr(optim, name)(rate, **given).updates(weights[-1], slope)
        tensor = torch.tensor(start, requires_grad=True)
        optimizer = getattr(torch.optim, name)([tensor], lr=0.1, **options)
        theirs.append(
            (tensor, optimizer, getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **cycle))
        )
    call = gc.compile([], (), updates)
    for i in range(20):
        call()
        for spec, weight, (tensor, optimizer, scheduler) in zip(
            CYCLES, weights, theirs, strict=True
        ):
            optimizer.zero_grad()
            (torch.sin(tensor) ** 2).sum().backward()
            optimizer.step()
            scheduler.step()
            near = {"rtol": 1e-5} if spec[0] == "NAdam" else {"rtol": 1e-9}
            np.testing.assert_allclose(
                weight.numpy(), tensor.detach().numpy(), err_msg=f"{spec[:3]} step {i}", **near
            )


def test_a_momentum_set_between_calls_compiles_nothing() -> None:
    """As a state, as an input of the call, and of a group alone."""
    momentum, decay = gc.state((), gc.float64).named("beta"), gc.observed("d", (), gc.float64)
    a, b, c = (gc.parameter(np.ones(1)).named(name) for name in "abc")
    opt = optim.SGD(1.0, momentum=momentum, groups={"b": {"momentum": decay}, "c": {"momentum": 0}})
    one = gc.constant(np.ones(1, np.float32))
    call = gc.compile([decay], (), opt.updates([a, b, c], [one, one, one]))
    assert list(opt.slots(c)) == []
    momentum.set(0.5)
    call(0.25)
    call(0.0)
    momentum.set(2.0)
    call(1.0)
    assert a.numpy().tolist() == [1.0 - 1.0 - 1.5 - 4.0]
    assert b.numpy().tolist() == [1.0 - 1.0 - 1.0 - 2.0]
    assert c.numpy().tolist() == [-2.0]
    assert opt.state_dict()["beta"] == 2.0
    w = [gc.parameter((2,))]
    for make, error, match in [
        (lambda: optim.SGD(dampening=momentum), ValueError, "taken for lr, momentum"),
        (lambda: optim.SGD(momentum=w[0]), gc.StateError, "momentum: expected a scalar"),
        (lambda: optim.RAdam(betas=(0.9, momentum)), ValueError, r"betas\[1\] must be a number"),
        (lambda: optim.SGD(momentum=float("nan")), ValueError, "momentum must be >= 0"),
        (lambda: optim.SGD(nesterov=True), ValueError, "momentum > 0"),
        (lambda: optim.SGD(lambda t: w[0]).updates(w, w), gc.StateError, "expected a scalar"),
    ]:
        with pytest.raises(error, match=match):
            make()
    step_of = optim.SGD(lambda t: 0.5).updates([a], [one])
    gc.compile([], (), step_of)()
    assert a.numpy().tolist() == [-6.0]
