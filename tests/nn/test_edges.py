"""Where a formula could overflow, vanish or hide a NaN: values and slopes as PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.nn import functional

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

inf, nan = np.inf, np.nan
POINTS = np.float32([nan, inf, -inf, 0, -0.0, 1e-30, 1e30, -1e30, 0.5, -0.5, 1, -1, 88, -88])


def both(name: str, *arrays: Any, **options: Any) -> tuple[Any, Any]:
    """Value and slope by the first array, of ours and of PyTorch's function."""
    inputs = [gc.observed(f"x{place}", a.shape) for place, a in enumerate(arrays)]
    out = getattr(functional, name)(*inputs, **options)
    ours = gc.compile(inputs, (out, gc.grad(out.sum(), inputs[0])))(*arrays)
    first, *rest = (torch.from_numpy(a) for a in arrays)
    first.requires_grad_()
    wanted = getattr(torch.nn.functional, name)(first, *rest, **options)
    wanted.sum().backward()
    return ours, (wanted.detach().numpy(), first.grad.numpy())


@pytest.mark.parametrize(
    ("name", "options"),
    [("threshold", {"threshold": 0.5, "value": 9.0}), ("softshrink", {}), ("hardshrink", {})],
)
def test_nan_is_not_hidden(name: str, options: dict[str, float]) -> None:
    (value, slope), (wanted, wanted_slope) = both(name, POINTS, **options)
    assert np.isnan(value[0])
    np.testing.assert_array_equal(value, wanted)
    np.testing.assert_array_equal(slope[1:], wanted_slope[1:])


@pytest.mark.parametrize("name", ["huber_loss", "smooth_l1_loss"])
def test_far_errors_have_a_slope(name: str) -> None:
    far = np.float32([inf, -inf, 1e30, -1e30, 0.25, nan])
    (value, slope), (wanted, wanted_slope) = both(name, far, 0 * POINTS[3:9], reduction="none")
    np.testing.assert_array_equal(value, wanted)
    np.testing.assert_array_equal(slope[:-1], wanted_slope[:-1])


def test_sure_and_wrong_probabilities_learn() -> None:
    p, t = np.float32([0, 1e-40, 1e-20, 1e-7, 0.5, 1, 1]), np.float32([1, 1, 1, 1, 1, 0, 0.5])
    ours, wanted = both("binary_cross_entropy", p, t, reduction="none")
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    outside, _ = both_without_torch("binary_cross_entropy", np.float32([-0.5, 1.5, nan]), t[:3])
    assert np.isnan(outside).all()


def both_without_torch(name: str, *arrays: Any) -> Any:
    inputs = [gc.observed(f"x{place}", a.shape) for place, a in enumerate(arrays)]
    out = getattr(functional, name)(*inputs, reduction="none")
    return gc.compile(inputs, (out, gc.grad(out.sum(), inputs[0])))(*arrays)


@pytest.mark.parametrize("p", [3.0, 4.0, 8.0])
def test_norms_of_small_and_large_vectors(p: float) -> None:
    rows = np.float32([[0, 0, 0], [1, -2, 3], [nan, 1, 1]])
    ours, wanted = both("normalize", rows, p=p)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    # the power of these is 0 or inf in float32: PyTorch's answers are no directions
    for scale in (1e-11, 1e15):
        value, slope = gc.compile([], _normalized(rows[1:2] * np.float32(scale), p))()
        exact = rows[1].astype(np.float64)
        np.testing.assert_allclose(value[0], exact / (abs(exact) ** p).sum() ** (1 / p), rtol=1e-5)
        assert np.isfinite(slope).all()
    same = functional.pairwise_distance(gc.constant(rows[:2]), gc.constant(rows[:2]), p)
    np.testing.assert_allclose(gc.compile([], same)(), 1e-6 * 3 ** (1 / p), rtol=1e-4)


def _normalized(rows: Any, p: float) -> Any:
    x = gc.parameter(rows)
    out = functional.normalize(x, p)
    return out, gc.grad(out.sum(), x)


def test_scales_are_never_broadcast() -> None:
    x, one = gc.observed("x", (2, 4, 3)), gc.parameter((1,))
    for make in (
        lambda: functional.layer_norm(x, 3, one),
        lambda: functional.layer_norm(x, 3, None, one),
        lambda: functional.rms_norm(x, 3, one),
        lambda: functional.group_norm(x, 2, one),
        lambda: functional.group_norm(x, 2, None, one),
    ):
        with pytest.raises(gc.ShapeError, match=r"one for each|as many as"):
            make()
    with pytest.raises(ValueError, match="num_groups is at least 1, not 0"):
        functional.group_norm(x, 0)


def test_lengths_beyond_the_sequence_fail_the_call() -> None:
    x, y = gc.observed("x", (5, 2, 3)), gc.observed("y", (2, 2), gc.int64)
    n, m = gc.observed("n", (2,), gc.int64), gc.observed("m", (2,), gc.int64)
    loss = gc.compile([x, y, n, m], functional.ctc_loss(x, y, n, m))
    log_p = np.log(np.full((5, 2, 3), 1 / 3, np.float32))
    labels = np.array([[1, 2], [2, 1]])
    arguments = (log_p, labels, np.array([5, 4]), np.array([2, 1]))
    wanted = torch.nn.functional.ctc_loss(*map(torch.from_numpy, arguments))
    np.testing.assert_allclose(loss(*arguments), wanted.item(), rtol=1e-5)
    for steps, counts in (([6, 4], [2, 1]), ([5, 4], [3, 1]), ([5, -1], [2, 1])):
        with pytest.raises(gc.GraphcError):
            loss(log_p, labels, np.array(steps), np.array(counts))


def test_identity() -> None:
    x = gc.observed("x", (2, 3))
    assert nn.Identity(1, some="thing")(x) is x
    assert nn.Identity().state_dict() == {}


def test_numbers_outside_of_their_range_are_refused() -> None:
    x = gc.observed("x", (2, 1, 5))
    for p in (-0.1, 1.5, nan):
        with pytest.raises(ValueError, match=r"dropout: p is a probability in \[0, 1\]"):
            functional.dropout(x, p)
    with pytest.raises(gc.ShapeError, match=r"pad: \[-3, -3\] cut off more than axis 2"):
        functional.pad(x, (-3, -3))
    assert functional.pad(x, (-3, -2)).shape == (2, 1, 0)
