"""Moving averages kept and loaded, rates that fall, and first values' gains and refusals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim
from graphc.nn import init
from graphc.types import float32


def test_an_average_follows_is_saved_and_loaded() -> None:
    gc.manual_seed(0)
    x, layer = gc.observed("x", (4, 3)), nn.Linear(3, 2).named("layer")
    out = layer(x)
    loss = (out * out).sum()
    updates = optim.SGD(lr=0.1).minimize(loss)
    ema = optim.EMA(layer, 0.9)
    step = gc.compile([x], loss, updates | ema.after(updates))
    averaged = gc.compile([x], ema.apply(out))
    at = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    shadow = layer.weight.numpy()
    for _ in range(5):
        step(at)
        shadow = 0.9 * shadow + 0.1 * layer.weight.numpy()
    np.testing.assert_allclose(ema.shadow(layer.weight).numpy(), shadow, rtol=1e-5)
    kept, before = ema.state_dict(), averaged(at)
    step(at)
    assert not np.array_equal(averaged(at), before)
    ema.load_state_dict(kept)
    np.testing.assert_array_equal(averaged(at), before)
    with pytest.raises(gc.StateError, match=r"EMA\.load_state_dict: .*missing: .*shadow"):
        ema.load_state_dict({})


def test_what_cannot_be_averaged() -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\], got 1\.5"):
        optim.EMA(nn.Linear(2, 2), 1.5)
    with pytest.raises(gc.StateError, match=r"<x: .*is no parameter"):
        optim.EMA([gc.observed("x", (2,))], 0.5)


@pytest.mark.parametrize(("mode", "metrics"), [("min", (3, 2, 2, 2)), ("max", (1, 2, 2, 2))])
def test_a_rate_falls_on_a_plateau(mode: str, metrics: tuple[float, ...]) -> None:
    optimizer = optim.SGD(lr=1.0)
    plateau = optim.ReduceOnPlateau(
        optimizer, mode=mode, factor=0.5, patience=1, cooldown=1, min_lr=0.3
    )
    assert [plateau.step(m) for m in metrics] == [1.0, 1.0, 1.0, 0.5]
    rates = [plateau.step(2.0) for _ in range(6)]
    assert min(rates) == 0.3
    assert optimizer.lr == pytest.approx(0.3)


def test_what_a_plateau_refuses() -> None:
    with pytest.raises(ValueError, match="'min' or 'max', not 'mean'"):
        optim.ReduceOnPlateau(optim.SGD(lr=1.0), mode="mean")
    with pytest.raises(ValueError, match=r"factor must be in \(0, 1\)"):
        optim.ReduceOnPlateau(optim.SGD(lr=1.0), factor=1.0)


@pytest.mark.parametrize(
    ("rule", "deviation"),
    [
        (partial(init.kaiming_normal, nonlinearity="relu"), np.sqrt(2 / 300)),
        (partial(init.kaiming_normal, mode="fan_out", nonlinearity="relu"), np.sqrt(2 / 200)),
        (partial(init.kaiming_uniform, a=np.sqrt(5)), 1 / np.sqrt(3 * 300)),
        (init.xavier_normal, np.sqrt(2 / 500)),
        (init.xavier_uniform, np.sqrt(2 / 500)),
        (partial(init.normal, mean=1.0, std=0.5), 0.5),
        (partial(init.uniform, low=-2.0, high=4.0), 6 / np.sqrt(12)),
    ],
)
def test_first_values_have_their_deviation(rule: Any, deviation: float) -> None:
    drawn = rule((200, 300), float32, (1, 2))
    assert drawn.dtype == np.float32
    assert drawn.std() == pytest.approx(deviation, rel=0.02)
    np.testing.assert_array_equal(drawn, rule((200, 300), float32, (1, 2)))
    assert not np.array_equal(drawn, rule((200, 300), float32, (1, 3)))


def test_constants_gains_and_refusals() -> None:
    np.testing.assert_array_equal(init.constant((2,), float32, (0, 0), value=3.0), [3, 3])
    np.testing.assert_array_equal(init.ones((2,), float32, (0, 0)), [1, 1])
    assert init.calculate_gain("leaky_relu", 0.5) == pytest.approx(np.sqrt(2 / 1.25))
    assert init.calculate_gain("tanh") == pytest.approx(5 / 3)
    with pytest.raises(ValueError, match=r"no gain for 'gelu'; one of .*leaky_relu"):
        init.calculate_gain("gelu")
    with pytest.raises(ValueError, match="fans need at least two axes"):
        init.fans((3,))
    with pytest.raises(ValueError, match="mode is 'fan_in' or 'fan_out'"):
        init.kaiming_normal((2, 2), float32, (0, 0), mode="fan")
