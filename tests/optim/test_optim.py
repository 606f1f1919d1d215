"""Optimizers against torch.optim over fifty steps, and their memory, groups, files, schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from tests.evaluating import evaluate, step

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.01, "maximize": True}),
    ("Adam", {"lr": 0.05}),
    ("Adam", {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.02}),
    ("Adam", {"lr": 0.05, "amsgrad": True}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.05, "amsgrad": True, "maximize": True, "betas": (0.0, 0.99)}),
]


def problem(dtype: Any) -> tuple[nn.Module, gc.Value, gc.Value, Callable[[int], Any]]:
    net = nn.Linear(4, 3, dtype=dtype) >> nn.Tanh() >> nn.Linear(3, 1, dtype=dtype)
    x = gc.observed("x", (8, 4), dtype)
    cost = ((net(x) - x.sum(axis=1, keepdims=True)) ** 2).mean()

    def batch(i: int) -> Any:
        return np.random.default_rng(i).normal(size=(8, 4)).astype(x.dtype.numpy)

    return net, x, cost, batch


@pytest.mark.torch
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fifty_steps_equal_torch(name: str, options: dict[str, Any], dtype: str) -> None:
    torch = pytest.importorskip("torch")
    net, x, cost, batch = problem(dtype)
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    theirs = theirs.to(getattr(torch, dtype))
    torch.manual_seed(0)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in net.state_dict().items()})
    optimizer = getattr(torch.optim, name)(theirs.parameters(), **options)
    ours = getattr(optim, name)(**options)
    updates = ours.minimize(cost)
    for i in range(50):
        loss = step(updates, cost, {x: batch(i)})
        tx = torch.from_numpy(batch(i))
        optimizer.zero_grad()
        tloss = ((theirs(tx) - tx.sum(1, keepdim=True)) ** 2).mean()
        tloss.backward()
        optimizer.step()
        rtol = 1e-10 if dtype == "float64" else 2e-4
        np.testing.assert_allclose(loss, tloss.item(), rtol=rtol, err_msg=f"step {i}")
    tolerance = (
        {"rtol": 1e-9, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-3, "atol": 1e-5}
    )
    for key, array in net.state_dict().items():
        np.testing.assert_allclose(array, theirs.state_dict()[key].numpy(), **tolerance)
    assert ours.steps == 50


def test_the_learning_rate_is_a_state() -> None:
    w = gc.parameter(np.zeros(2))
    opt = optim.SGD(lr=0.5)
    updates = opt.updates([w], [gc.constant(np.ones(2), gc.float32)])
    step(updates)
    opt.lr = 0.25
    step(updates)
    assert w.numpy().tolist() == [-0.75, -0.75]
    assert opt.lr == 0.25
    with pytest.raises(ValueError, match=">= 0"):
        optim.SGD(lr=-1.0)
    scheduled = optim.SGD(lr=optim.schedules.exponential(1.0, 0.5))
    with pytest.raises(gc.StateError, match="schedule"):
        scheduled.lr = 3.0
    with pytest.raises(gc.StateError, match="schedule"):
        scheduled.lr  # noqa: B018
    own = gc.state((), gc.float32)
    own.set(2.0)
    step(optim.SGD(lr=own).updates([w], [gc.constant(np.ones(2), gc.float32)]))
    assert w.numpy().tolist() == [-2.75, -2.75]


def test_minimize_takes_what_the_cost_reaches() -> None:
    a, b = gc.parameter((2,)).named("a"), gc.parameter((2,)).named("b")
    x = gc.observed("x", (2,))
    cost = ((a - x) ** 2).sum() + (gc.stop_gradient(b) * x).sum()
    opt = optim.SGD(lr=0.1)
    updates = opt.minimize(cost)
    assert a in updates
    assert b not in updates
    assert updates.trains
    with pytest.raises(gc.GradError, match="'stop_gradient'"):
        opt.minimize(cost, wrt=[a, b])
    with pytest.raises(gc.GradError, match="depends on no parameter"):
        opt.minimize((x * x).sum())
    with pytest.raises(gc.StateError, match="is no parameter"):
        opt.minimize((x * x).sum(), wrt=x)


def test_memory_is_made_once_and_shared() -> None:
    w = gc.parameter((2,)).named("w")
    opt = optim.Adam(lr=0.1)
    cost = ((w - 1.0) ** 2).sum()
    first, second = opt.minimize(cost), opt.minimize(cost * 2.0)
    assert set(first) == set(second)
    assert opt.slots(w)["exp_avg"] in first
    step(first)
    step(second)
    assert opt.steps == 2
    with pytest.raises(gc.StateError, match="twice"):
        first | second


def test_two_networks_of_one_optimizer_step_together() -> None:
    a, b = gc.parameter((2,)).named("w"), gc.parameter((2,)).named("w")
    opt = optim.Adam(lr=0.1)
    up = opt.minimize(((a - 1.0) ** 2).sum()) | opt.minimize(((b - 1.0) ** 2).sum())
    step(up)
    np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert set(opt.state_dict()) == {
        "lr", "steps", "steps#2", "w.exp_avg", "w.exp_avg_sq", "w#2.exp_avg", "w#2.exp_avg_sq",
    }  # fmt: skip


def test_groups() -> None:
    net = nn.Linear(2, 2) >> nn.Linear(2, 2)
    x = gc.observed("x", (1, 2))
    cost = net(x).sum()
    groups = {"*.bias": {"lr": 0.0}, "1.*": {"lr": 2.0, "weight_decay": 1.0}}
    opt = optim.SGD(lr=1.0, groups=groups)
    before = net.state_dict()
    step(opt.minimize(cost), feeds={x: [[1.0, 1.0]]})
    after = net.state_dict()
    np.testing.assert_array_equal(after["0.bias"], before["0.bias"])
    np.testing.assert_array_equal(after["1.bias"], before["1.bias"])
    assert not np.array_equal(after["0.weight"], before["0.weight"])
    assert not np.array_equal(after["1.weight"], before["1.weight"])
    with pytest.raises(gc.StateError, match="sets speed"):
        optim.SGD(groups={"*": {"speed": 1}})
    with pytest.raises(ValueError, match="nesterov"):
        optim.SGD(groups={"*": {"nesterov": True}})
    with pytest.warns(UserWarning, match="'heads' matches none"):
        optim.SGD(groups={"heads": {"lr": 1.0}}).minimize(cost)


def test_files() -> None:
    net, x, cost, batch = problem("float32")
    opt = optim.Adam(lr=0.1)
    updates = opt.minimize(cost)
    for i in range(3):
        step(updates, feeds={x: batch(i)})
    kept, weights = opt.state_dict(), net.state_dict()
    step(updates, feeds={x: batch(3)})
    wanted = net.state_dict()
    net.load_state_dict(weights)
    opt.load_state_dict(kept)
    assert opt.steps == 3
    step(updates, feeds={x: batch(3)})
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, wanted[name])
    fresh = optim.Adam(lr=0.5)
    fresh.load_state_dict(kept)  # before it knows any parameter
    net.load_state_dict(weights)
    step(fresh.minimize(cost), feeds={x: batch(3)})
    assert fresh.lr == 0.1
    assert fresh.steps == 4
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, wanted[name])


def test_clipping() -> None:
    a, b = gc.observed("a", (3,)), gc.observed("b", (2, 2))
    clipped = optim.clip_by_global_norm({"a": a, "b": [b]}, 1.0)
    big = {a: [3.0, 0, 0], b: np.full((2, 2), 2.0)}
    got = evaluate(clipped, big)
    np.testing.assert_allclose(got["a"], [0.6, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(got["b"][0], np.full((2, 2), 0.4), rtol=1e-5)
    small = {a: [0.3, 0, 0], b: np.zeros((2, 2))}
    np.testing.assert_allclose(evaluate(clipped, small)["a"], [0.3, 0, 0])
    assert evaluate(optim.clip_by_value([a], 0.5), big)[0].tolist() == [0.5, 0, 0]


def test_accumulation_equals_the_large_batch() -> None:
    net, x, cost, batch = problem("float64")
    parameters = net.parameters()
    grads = gc.grad(cost, parameters)
    opt = optim.SGD(lr=0.1)
    acc = optim.Accumulate(grads)
    apply = opt.updates(parameters, acc.mean()) | acc.zero()
    before = net.state_dict()
    for i in range(3):
        step(acc.add(), feeds={x: batch(i)})
    wanted = {
        name: before[name] - 0.1 * sum(evaluate(g, {x: batch(i)}) for i in range(3)) / 3
        for (name, _), g in zip(net.named_parameters(), grads, strict=True)
    }
    step(apply)
    for name, array in net.state_dict().items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-12)
    assert acc.add().trains
    step(acc.add(), feeds={x: batch(0)})
    np.testing.assert_allclose(evaluate(acc.mean()[0]), evaluate(grads[0], {x: batch(0)}))


def test_ema_follows_the_updated_values() -> None:
    net, x, cost, batch = problem("float64")
    ema = optim.EMA(net, 0.9)
    updates = optim.SGD(lr=0.1).minimize(cost)
    both = updates | ema.after(updates)
    shadow = net.state_dict()
    for i in range(3):
        step(both, feeds={x: batch(i)})
        shadow = {k: 0.9 * v + 0.1 * net.state_dict()[k] for k, v in shadow.items()}
    averaged = evaluate(ema.apply(cost), {x: batch(9)})
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(ema.shadow(parameter).numpy(), shadow[name], rtol=1e-12)
    net.load_state_dict(shadow)
    np.testing.assert_allclose(averaged, evaluate(cost, {x: batch(9)}))


SCHEDULES: list[tuple[str, tuple[Any, ...], str, dict[str, Any], int]] = [
    ("step", (0.5, 3, 0.1), "StepLR", {"step_size": 3, "gamma": 0.1}, 20),
    ("multi_step", (0.5, [2, 7], 0.3), "MultiStepLR", {"milestones": [2, 7], "gamma": 0.3}, 12),
    ("exponential", (0.5, 0.9), "ExponentialLR", {"gamma": 0.9}, 30),
    ("linear", (0.5, 0.2, 0.9, 6), "LinearLR",
     {"start_factor": 0.2, "end_factor": 0.9, "total_iters": 6}, 12),
    ("cosine", (0.5, 10, 0.1), "CosineAnnealingLR", {"T_max": 10, "eta_min": 0.1}, 11),
    ("cosine_restarts", (0.5, 4, 1, 0.1), "CosineAnnealingWarmRestarts",
     {"T_0": 4, "eta_min": 0.1}, 14),
    ("cosine_restarts", (0.5, 3, 2), "CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2}, 40),
    ("one_cycle", (0.5, 20), "OneCycleLR", {"max_lr": 0.5, "total_steps": 20}, 20),
    ("one_cycle", (0.5, 21, 0.4, 10.0, 100.0, "linear", True), "OneCycleLR",
     {"max_lr": 0.5, "total_steps": 21, "pct_start": 0.4, "div_factor": 10.0,
      "final_div_factor": 100.0, "anneal_strategy": "linear", "three_phase": True}, 21),
    ("cyclic", (0.1, 0.5, 4, 3), "CyclicLR",
     {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 4, "step_size_down": 3}, 20),
    ("cyclic", (0.1, 0.5, 4, 3, "triangular2"), "CyclicLR",
     {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 4, "step_size_down": 3,
      "mode": "triangular2"}, 30),
    ("cyclic", (0.1, 0.5, 3, None, "exp_range", 0.97), "CyclicLR",
     {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "mode": "exp_range", "gamma": 0.97}, 30),
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "args", "theirs", "options", "count"), SCHEDULES)
def test_schedules_equal_torch(
    name: str, args: tuple[Any, ...], theirs: str, options: dict[str, Any], count: int
) -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = getattr(torch.optim.lr_scheduler, theirs)(optimizer, **options)
    t = gc.observed("t", (), gc.int64)
    rate = getattr(optim.schedules, name)(*args)(t)
    for i in range(count):
        wanted = optimizer.param_groups[0]["lr"]
        assert evaluate(rate, {t: i}) == pytest.approx(wanted, rel=1e-9, abs=1e-14), i
        optimizer.step()
        scheduler.step()


def test_schedules_without_a_model() -> None:
    t = gc.observed("t", (), gc.int64)
    warm = optim.schedules.warmup_cosine(1.0, 4, 12, 0.1)(t)
    got = [float(evaluate(warm, {t: i})) for i in (0, 3, 4, 8, 12, 100)]
    np.testing.assert_allclose(got, [0.25, 1.0, 1.0, 0.55, 0.1, 0.1], rtol=1e-6)
    inverse = optim.schedules.inverse_time(1.0, 0.5, 2)(t)
    assert evaluate(inverse, {t: 8}) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="step_size"):
        optim.schedules.step(1.0, 0)
    with pytest.raises(ValueError, match="'triangular2' or 'exp_range', not 'sine'"):
        optim.schedules.cyclic(0.1, 1.0, mode="sine")


def test_a_schedule_sees_the_steps_made() -> None:
    w = gc.parameter(np.zeros(1))
    opt = optim.SGD(lr=lambda t: (t + 1).astype(gc.float32))
    updates = opt.updates([w], [ops.ones(1)])
    for _ in range(3):
        step(updates)
    assert w.numpy().tolist() == [-6.0]


@pytest.mark.torch
def test_plateau_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    metrics = [1.0, 0.9, 0.9, 0.9, 0.9, 0.8, 0.81, 0.82, 0.83, 0.84, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    options = {"factor": 0.5, "patience": 1, "cooldown": 1, "min_lr": 0.1}
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    ours = optim.ReduceOnPlateau(optim.SGD(lr=1.0), **options)
    for metric in metrics:
        theirs.step(metric)
        assert ours.step(metric) == optimizer.param_groups[0]["lr"]


def test_numbers_that_would_go_uphill_are_refused() -> None:
    opt = optim.SGD(lr=0.1)
    for rate in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"SGD\.lr: expected a number >= 0"):
            opt.lr = rate
    assert opt.lr == 0.1
    with pytest.raises(ValueError, match="clip_by_global_norm: expected a number >= 0, got -1"):
        optim.clip_by_global_norm([gc.observed("g", (2,))], -1.0)
    with pytest.raises(ValueError, match="betas must be in"):
        optim.Adam(betas=[0.9, 1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pct_start is a share"):
        optim.schedules.one_cycle(1.0, 10, pct_start=1.5)


@pytest.mark.parametrize(("steps", "share"), [(10, 0.1), (10, 1.0), (1, 1.0)])
def test_a_cycle_with_a_side_of_no_steps(steps: int, share: float) -> None:
    t = gc.observed("t", (), gc.int64)
    rate = gc.compile([t], optim.schedules.one_cycle(1.0, steps, share)(t))
    rates = [float(rate(np.int64(i))) for i in range(steps)]
    assert max(rates) == 1.0
    top = rates.index(1.0)
    assert top == round(share * steps) - 1, "as PyTorch's, which divides 0 by 0 there"
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_a_variance_that_rounding_made_negative() -> None:
    slopes = np.random.default_rng(0).uniform(0.1, 10.0, 64).astype(np.float32)
    w = gc.parameter(np.zeros(64, np.float32))
    cost = (w * gc.constant(slopes)).sum()
    step = gc.compile([], (), optim.RMSprop(1e-3, alpha=0.9, centered=True).minimize(cost, w))
    for _ in range(300):  # of gradients that do not change the variance is 0
        step()
    assert np.isfinite(w.numpy()).all()
