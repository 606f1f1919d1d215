"""Activations, norms and losses against PyTorch: values and gradients, and their refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.nn import functional
from tests.evaluating import evaluate

rng = np.random.default_rng(5)


def both(name: str, *arrays: Any, **options: Any) -> None:
    """Value and gradient of ``functional.name`` equal PyTorch's, in float64."""
    torch = pytest.importorskip("torch")
    x = gc.observed("x", arrays[0].shape, gc.float64)
    rest = [gc.constant(a) for a in arrays[1:]]
    out = getattr(functional, name)(x, *rest, **options)
    weights = rng.normal(size=out.shape)
    got, slope = evaluate((out, gc.grad((out * weights).sum(), x)), {x: arrays[0]})
    tx = torch.tensor(arrays[0], requires_grad=True)
    tout = getattr(torch.nn.functional, name)(tx, *map(torch.tensor, arrays[1:]), **options)
    (tout * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(got, tout.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slope, tx.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("relu", {}),
        ("leaky_relu", {"negative_slope": 0.2}),
        ("gelu", {}),
        ("gelu", {"approximate": "tanh"}),
        ("sigmoid", {}),
        ("tanh", {}),
        ("silu", {}),
        ("softplus", {}),
    ],
)
def test_activations(name: str, options: dict[str, Any]) -> None:
    both(name, rng.normal(size=(3, 50)) * 3, **options)


@pytest.mark.torch
def test_linear_and_layer_norm() -> None:
    x = rng.normal(size=(2, 5, 4))
    both("linear", x, rng.normal(size=(3, 4)), rng.normal(size=3))
    torch = pytest.importorskip("torch")
    weight, bias = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    ours = functional.layer_norm(x, (5, 4), gc.constant(weight), gc.constant(bias))
    theirs = torch.nn.functional.layer_norm(*map(torch.tensor, (x,)), (5, 4), *map(torch.tensor, (weight, bias)))  # fmt: skip  # noqa: E501
    np.testing.assert_allclose(evaluate(ours), theirs.numpy(), rtol=1e-10)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
def test_softmax_along_an_axis_by_its_name(name: str) -> None:
    both(name, rng.normal(size=(2, 5, 4)), dim=1)


CROSS_ENTROPY: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.1, "reduction": "none"},
    {"ignore_index": 3},
]


@pytest.mark.torch
@pytest.mark.parametrize("options", CROSS_ENTROPY)
@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3), (5,)])
def test_cross_entropy(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    labels = rng.integers(0, 5, [n for i, n in enumerate(shape) if i != (len(shape) > 1)])
    if labels.size > 1:
        labels.flat[1] = options.get("ignore_index", -100)
    both("cross_entropy", rng.normal(size=shape) * 4, labels, **options)


@pytest.mark.torch
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_with_class_weights(smoothing: float, reduction: str) -> None:
    x, labels = rng.normal(size=(6, 5)), np.array([0, 1, -100, 4, 4, 2])
    weight = rng.uniform(0.5, 2, 5)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    both("cross_entropy", x, labels, weight, **options)


@pytest.mark.torch
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_with_probabilities(smoothing: float) -> None:
    x = rng.normal(size=(6, 5))
    target = rng.dirichlet(np.ones(5), 6)
    both("cross_entropy", x, target, label_smoothing=smoothing)
    both("cross_entropy", x, target, rng.uniform(0.5, 2, 5), label_smoothing=smoothing)


@pytest.mark.torch
def test_other_losses() -> None:
    x = rng.normal(size=(4, 3)) * 20
    for reduction in ("mean", "sum", "none"):
        both("mse_loss", x, rng.normal(size=(4, 3)), reduction=reduction)
        target = rng.uniform(size=(4, 3))
        both("binary_cross_entropy_with_logits", x, target, reduction=reduction)


def test_cross_entropy_is_safe_with_large_logits() -> None:
    x, y = gc.observed("x", (3, 3)), gc.observed("y", (3,), gc.int64)
    loss = functional.cross_entropy(x, y, reduction="none")
    at = np.array([[1e4, 0, -1e4], [-np.inf, 5.0, 5.0], [3e38, 3e38, 0]], np.float32)
    got, slope = evaluate((loss, gc.grad(loss.sum(), x)), {x: at, y: [2, 1, 0]})
    np.testing.assert_allclose(got, [2e4, np.log(2), np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(slope, [[1, 0, -1], [0, -0.5, 0.5], [-0.5, 0.5, 0]], atol=1e-6)


def test_a_label_out_of_range_is_an_error() -> None:
    x, y = gc.observed("x", (2, 3)), gc.observed("y", (2,), gc.int64)
    loss = functional.cross_entropy(x, y)
    for wrong in (3, -1, -99):
        with pytest.raises(gc.RuntimeCheckError, match=r"outside 0\.\.2"):
            evaluate(loss, {x: np.zeros((2, 3)), y: [0, wrong]})
    assert np.isnan(evaluate(loss, {x: np.zeros((2, 3)), y: [-100, -100]}))


def test_dims() -> None:
    batch, classes = gc.Dim("B"), gc.Dim("C")
    x, y = gc.observed("x", (batch, classes)), gc.observed("y", (batch,), gc.int64)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)(x, y)
    at = np.zeros((4, 5), np.float32)
    assert evaluate(loss, {x: at, y: [0, 1, 2, 3]}) == pytest.approx(np.log(5), rel=1e-6)


def test_refusals() -> None:
    x, y = gc.observed("x", (4, 3)), gc.observed("y", (4, 1), gc.int64)
    with pytest.raises(gc.ShapeError, match=r"labels of shape \(4,\), got i64\[4,1\]"):
        nn.CrossEntropyLoss()(x, y)
    with pytest.raises(gc.ShapeError, match="shapes must agree"):
        nn.MSELoss()(x, gc.observed("t", (4,)))
    with pytest.raises(ValueError, match="reduction"):
        nn.MSELoss("median")(x, x)
    with pytest.raises(gc.ShapeError, match="in_features, 5"):
        nn.Linear(5, 2)(x)
    with pytest.raises(gc.ShapeError, match="last axes"):
        nn.LayerNorm(4)(x)
