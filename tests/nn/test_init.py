"""First values: distributions, bounds, orthogonality, and PyTorch's where they are fixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.nn import init
from graphc.types import float32, float64

KEY = (7, 1)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (20, 3, 2, 2), (25, 25)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    drawn = init.orthogonal(shape, float64, KEY, gain=2.0).reshape(shape[0], -1)
    square = drawn @ drawn.T if drawn.shape[0] <= drawn.shape[1] else drawn.T @ drawn
    np.testing.assert_allclose(square, 4.0 * np.eye(len(square)), atol=1e-12)


def test_orthogonal_is_uniform() -> None:
    """The first element's mean is 0 and its mean square 1 / n over many draws."""
    firsts = [init.orthogonal((3, 3), float64, (k, 0))[0, 0] for k in range(2000)]
    assert abs(np.mean(firsts)) < 4 * math.sqrt(1 / 3 / 2000)
    assert np.mean(np.square(firsts)) == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [(0, 1, -2, 2), (0.5, 2, -1, 1), (0, 1, 1.5, 3), (1, 0.1, 0.95, 1.02), (0, 1, -9, 9)],
)
def test_trunc_normal(mean: float, std: float, a: float, b: float) -> None:
    """Quantiles of the truncated distribution, from torch's exact inverse."""
    torch = pytest.importorskip("torch")
    count = 40_000
    drawn = np.sort(init.trunc_normal((200, 200), float64, KEY, mean=mean, std=std, a=a, b=b), None)
    assert drawn[0] >= a
    assert drawn[-1] <= b
    normal = torch.distributions.Normal(mean, std)
    low, high = (normal.cdf(torch.tensor(float(v), dtype=torch.float64)) for v in (a, b))
    share = (normal.cdf(torch.tensor(drawn)) - low) / (high - low)
    expected = (np.arange(count) + 0.5) / count
    # Kolmogorov and Smirnov's bound at 1e-4
    assert np.abs(share.numpy() - expected).max() < 2.2 / math.sqrt(count)


def test_sparse() -> None:
    drawn = init.sparse((50, 20), float32, KEY, sparsity=0.33, std=0.5)
    assert ((drawn == 0).sum(0) == 17).all()
    assert drawn[drawn != 0].std() == pytest.approx(0.5, rel=0.1)
    assert len({tuple(column) for column in (drawn == 0).T}) > 1


@pytest.mark.torch
def test_identity_and_dirac_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(
        init.eye((3, 5), float32, KEY), torch.nn.init.eye_(torch.empty(3, 5)).numpy()
    )
    for shape, groups in (((4, 3, 3), 1), ((6, 2, 3, 4), 3), ((4, 8, 1, 3, 5), 2)):
        wanted = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
        np.testing.assert_array_equal(init.dirac(shape, float32, KEY, groups=groups), wanted)


@pytest.mark.torch
def test_gains_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    names = ["linear", "conv1d", "conv_transpose3d", "sigmoid", "tanh", "relu", "selu"]
    for name in names:
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))


def test_lecun() -> None:
    shape = (300, 20, 3, 3)
    for draw in (init.lecun_normal, init.lecun_uniform):
        assert draw(shape, float32, KEY).std() == pytest.approx(1 / math.sqrt(180), rel=0.02)
    bound = math.sqrt(3 / 180)
    assert np.abs(init.lecun_uniform(shape, float32, KEY)).max() <= bound * (1 + 1e-6)


def test_as_first_values_of_a_parameter() -> None:
    """By experts: each matrix is orthogonal, and they differ."""
    experts = gc.parameter((3, 4, 4), init=init.orthogonal, batch_axes=(0,)).numpy()
    for matrix in experts:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(4), atol=1e-5)
    assert not np.allclose(experts[0], experts[1])
    narrow = partial(init.trunc_normal, std=0.02, a=-0.04, b=0.04)
    assert np.abs(gc.parameter((50, 50), init=narrow).numpy()).max() <= 0.04


REFUSALS: list[tuple[Callable[..., Any], tuple[int, ...], dict[str, Any], str]] = [
    (init.orthogonal, (3,), {}, "at least two axes"),
    (init.trunc_normal, (3,), {"std": 0.0}, "std > 0"),
    (init.trunc_normal, (3,), {"a": 5.0, "b": 6.0}, "within 2 std"),
    (init.sparse, (3, 3, 3), {"sparsity": 0.5}, "two axes"),
    (init.sparse, (3, 3), {"sparsity": 1.5}, "0 <= sparsity <= 1"),
    (init.eye, (3,), {}, "two axes"),
    (init.dirac, (3, 3), {}, "shape of a convolution"),
    (init.dirac, (3, 3, 1), {"groups": 2}, "2 groups"),
    (init.lecun_normal, (3,), {}, "at least two axes"),
]


@pytest.mark.parametrize(("draw", "shape", "options", "match"), REFUSALS)
def test_refusals(
    draw: Callable[..., Any], shape: tuple[int, ...], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        draw(shape, float32, KEY, **options)
