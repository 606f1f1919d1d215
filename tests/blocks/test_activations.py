"""What a table cannot say of activations: random ones in mode train, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.nn import functional
from tests.blocks.checking import refuses
from tests.evaluating import evaluate


def test_rrelu_draws_slopes_in_mode_train() -> None:
    gc.manual_seed(3)
    x = gc.observed("x", (4000,))
    out = nn.RReLU(0.1, 0.3)(x)
    at = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    got, slope = gc.compile([x], [out, gc.grad(out.sum(), x)], mode="train")(at)
    np.testing.assert_array_equal(got[at > 0], at[at > 0])
    drawn = slope[at <= 0]
    np.testing.assert_allclose(got[at <= 0], (drawn * at[at <= 0]), rtol=1e-6)
    assert drawn.min() >= 0.1
    assert drawn.max() < 0.3
    assert drawn.mean() == pytest.approx(0.2, abs=0.005)
    assert drawn.std() == pytest.approx(0.2 / np.sqrt(12), rel=0.05)


def test_gumbel_softmax_draws_classes_by_their_probability() -> None:
    gc.manual_seed(5)
    logits = gc.observed("logits", (20_000, 3))
    at = np.broadcast_to(np.log(np.float32([0.2, 0.5, 0.3])), (20_000, 3)).copy()
    soft = functional.gumbel_softmax(logits, tau=0.5)
    got = gc.compile([logits], soft)(at)
    np.testing.assert_allclose(got.sum(1), 1.0, rtol=1e-5)
    share = np.bincount(got.argmax(1), minlength=3) / 20_000
    np.testing.assert_allclose(share, [0.2, 0.5, 0.3], atol=0.012)  # 3.5 standard deviations


def test_hard_gumbel_softmax_is_one_hot_with_the_soft_ones_derivative() -> None:
    logits = gc.observed("logits", (50, 4), gc.float64)
    weights = np.random.default_rng(1).normal(size=(50, 4))
    module = nn.GumbelSoftmax(tau=0.7, hard=True)
    out = module(logits)
    at = np.random.default_rng(0).normal(size=(50, 4))
    got, slope = evaluate((out, gc.grad((out * weights).sum(), logits)), {logits: at})
    assert np.allclose(np.sort(got, 1), [0, 0, 0, 1])
    # its columns: softmax's Jacobian maps onto rows of sum 0
    np.testing.assert_allclose(slope.sum(1), 0.0, atol=1e-12)
    assert np.abs(slope).max() > 1e-3


def test_extreme_elements() -> None:
    """Infinities and NaN pass as in NumPy's formulas; no derivative is NaN where x is not."""
    x = gc.observed("x", (4,))
    at = np.float32([np.inf, -np.inf, 1e30, np.nan])
    smooth = [nn.ELU(), nn.SELU(), nn.CELU(), nn.Softplus(), nn.Mish(), nn.LogSigmoid()]
    outs = [module(x) for module in smooth]
    results = evaluate([[out, gc.grad(out.sum(), x)] for out in outs], {x: at})
    for module, (out, slope) in zip(smooth, results, strict=True):
        assert np.isnan(out[3]), module
        assert not np.isnan(slope[2]), module
    for module in (nn.ReLU6(), nn.Hardtanh(), nn.Hardsigmoid()):
        assert np.isnan(evaluate(module(x), {x: at})[3]), module


X = gc.observed("x", (2, 3, 5))
REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.PReLU(4)(X), gc.ShapeError, r"weight is f32\[4\].* for each channel"),
    (lambda: nn.PReLU(0), ValueError, "at least 1, got 0"),
    (lambda: nn.RReLU(0.5, 0.2), ValueError, "lower <= upper"),
    (lambda: functional.rrelu(X, -1.0), ValueError, "lower <= upper"),
    (lambda: nn.Hardtanh(1.0, 1.0), ValueError, "min_val < max_val"),
    (lambda: functional.hardtanh(X, 1.0, 0.0), ValueError, "min_val < max_val"),
    (lambda: nn.GLU()(X), gc.ShapeError, "axis 2 of f32\\[2,3,5\\] .* groups of 2"),
    (lambda: nn.Maxout(2, dim=1)(X), gc.ShapeError, "groups of 2"),
    (lambda: nn.Maxout(0), ValueError, "at least 1"),
    (lambda: nn.Softmax2d()(gc.observed("y", (2, 3))), gc.ShapeError, r"\[N, C, H, W\]"),
    (lambda: nn.GumbelSoftmax(0.0), ValueError, "tau must be > 0"),
    (lambda: functional.gumbel_softmax(X, -1.0), ValueError, "tau must be > 0"),
    (lambda: nn.Softshrink(-1.0)(X), ValueError, "lambd must be >= 0"),
    (lambda: functional.celu(X, 0.0), ValueError, "alpha must not be 0"),
    (lambda: functional.softplus(X, 0.0), ValueError, "beta must not be 0"),
    (lambda: functional.gelu(X, "sin"), ValueError, "'none' or 'tanh'"),
]


@pytest.mark.parametrize(("make", "error", "match"), REFUSALS)
def test_refusals(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    refuses(make, error, match)
