"""What optimizers are given wrongly, or at the edge: empty and 0-d parameters, NaN, tied ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim
from tests.evaluating import step

W = gc.parameter((3,)).named("w")
ONES = gc.constant(np.ones(3, np.float32))
NAN = float("nan")
REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: optim.SGD().updates([W], [gc.constant(np.ones(1, np.float32))]), gc.ShapeError,
     r"the gradient of .*w.* has shape \(1,\), not \(3,\)"),
    (lambda: optim.Adam().updates([W], [1.0]), gc.ShapeError, r"has shape \(\), not \(3,\)"),
    (lambda: optim.SGD().updates([W, W], [ONES, ONES]), gc.StateError, "given twice; add"),
    (lambda: setattr(optim.LBFGS(), "lr", NAN), ValueError, "lr must be > 0"),
    (lambda: setattr(optim.Newton(), "lr", -1.0), ValueError, "lr must be > 0"),
    (lambda: optim.clip_by_value([W], NAN), ValueError, "clip_by_value: expected a number >= 0"),
    (lambda: optim.SGD(weight_decay=NAN), ValueError, "weight_decay must be >= 0"),
    (lambda: optim.EMA([W], 0.5).shadow(gc.parameter((2,))), gc.StateError, "it averages no"),
    (lambda: optim.ReduceOnPlateau(optim.SGD(), threshold_mode="share"), ValueError, "'abs'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "match"), REFUSALS)
def test_refusals(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_a_tied_parameter_is_stepped_once() -> None:
    """Two modules that share a weight, named together: its gradient is the whole one."""
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    cost = second(first(gc.constant(np.ones((1, 2), np.float32)))).sum()
    before = first.weight.numpy()
    slope = gc.grad(cost, first.weight)
    (at,) = step({}, [slope])
    step(optim.SGD(1.0).minimize(cost, wrt=[first, second]))
    np.testing.assert_allclose(first.weight.numpy(), before - at, rtol=1e-6)
    step(optim.Newton().minimize((first.weight**2).sum(), wrt=[first, second]))
    np.testing.assert_allclose(first.weight.numpy(), 0.0, atol=1e-5)


def test_groups_may_go_up() -> None:
    w, v = gc.parameter(np.zeros(1)).named("w"), gc.parameter(np.zeros(1)).named("v")
    opt = optim.SGD(1.0, groups={"v": {"maximize": True}})
    step(opt.updates([w, v], [gc.constant(np.ones(1, np.float32))] * 2))
    assert (w.numpy()[0], v.numpy()[0]) == (-1.0, 1.0)


def test_empty_and_scalar_parameters() -> None:
    scalar, empty = gc.parameter(np.float32(3.0)), gc.parameter(np.zeros((0, 3), np.float32))
    cost = (scalar - 1.0) ** 2 + (empty * empty).sum()
    for opt in (optim.Adam(0.1), optim.Rprop(), optim.LBFGS(), optim.Newton()):
        before = scalar.numpy()
        gc.compile([], (), opt.minimize(cost, wrt=[scalar, empty]))()
        assert 1.0 <= scalar.numpy() < before or scalar.numpy() == pytest.approx(1.0)
        scalar.set(3.0)


def test_hessian_free_shortens_steps_that_leave_the_domain() -> None:
    """A cost that is NaN raises the damping: else the same step is tried forever."""
    x = gc.parameter(np.array([3.0]), gc.float64)
    opt = optim.HessianFree(damping=1e-3, lr=1.0)
    updates = opt.minimize((x - gc.ops.log(x)).sum())
    for _ in range(60):
        step(updates)
    np.testing.assert_allclose(x.numpy(), [1.0], atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau_lowers_the_rates_of_groups_as_torch(mode: str, threshold_mode: str) -> None:
    torch = pytest.importorskip("torch")
    kinds: dict[str, Any] = {
        "mode": mode, "threshold_mode": threshold_mode, "threshold": 0.05, "factor": 0.3,
        "patience": 1, "min_lr": 1e-3, "eps": 1e-4,
    }  # fmt: skip
    tensors = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": tensors[:1]}, {"params": tensors[1:], "lr": 0.01}], 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **kinds)
    opt = optim.SGD(1.0, groups={"v": {"lr": 0.01}})
    ours = optim.ReduceOnPlateau(opt, **kinds)
    for metric in np.random.default_rng(0).normal(size=60).cumsum() * 0.1:
        theirs.step(metric)
        ours.step(metric)
        wanted = [group["lr"] for group in optimizer.param_groups]
        assert [float(rate.numpy()) for rate in opt.rates()] == wanted
    assert wanted[0] < 0.5
    newton = optim.Newton()
    plateau = optim.ReduceOnPlateau(newton, patience=0, factor=0.5)
    assert [plateau.step(1.0), plateau.step(1.0)] == [1.0, 0.5]


def test_an_average_of_a_module_is_of_its_parameters() -> None:
    norm = nn.BatchNorm1d(2)
    assert list(optim.EMA(norm, 0.9).state_dict()) == ["weight.shadow", "bias.shadow"]
