"""Weight norm and spectral norm beside PyTorch's, parametrized tensors, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim
from graphc.nn.utils import parametrizations, parametrize
from tests.blocks.checking import refuses
from tests.evaluating import evaluate

F64 = {"dtype": "float64"}
LAYERS: list[tuple[str, str, tuple[Any, ...], tuple[int, ...], dict[str, Any]]] = [
    ("weight_norm", "Linear", (4, 3), (5, 4), {}),
    ("weight_norm", "Linear", (4, 3), (5, 4), {"dim": 1}),
    ("weight_norm", "Conv2d", (2, 3, 2), (2, 2, 4, 4), {"dim": None}),
    ("spectral_norm", "Linear", (4, 3), (5, 4), {}),
    ("spectral_norm", "Conv2d", (2, 3, 2), (2, 2, 4, 4), {"n_power_iterations": 3}),
    ("spectral_norm", "ConvTranspose1d", (2, 3, 2), (2, 2, 4), {}),
]


@pytest.mark.torch
@pytest.mark.parametrize(("norm", "kind", "args", "shape", "options"), LAYERS)
def test_three_training_calls(
    norm: str, kind: str, args: Any, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Outputs, gradients and buffers through power iterations; then mode eval."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    wrap = getattr(torch.nn.utils.parametrizations, norm)
    theirs = wrap(getattr(torch.nn, kind)(*args).double(), **options)
    ours = getattr(parametrizations, norm)(getattr(nn, kind)(*args, **F64), **options)
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    x = gc.observed("x", shape, "float64")
    out = ours(x)
    slopes = gc.grad((out**3).sum(), ours.parameters())
    train = gc.compile([x], [out, slopes], mode="train")
    rng = np.random.default_rng(0)
    for _ in range(3):
        at = rng.normal(size=shape)
        got, by_weight = train(at)
        wanted = theirs(torch.tensor(at))
        np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-9)
        grads = torch.autograd.grad((wanted**3).sum(), list(theirs.parameters()))
        for array, tensor in zip(by_weight, grads, strict=True):
            np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-8, atol=1e-10)
    held = ours.state_dict()
    assert list(held) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(held[name], tensor.numpy(), rtol=1e-9, err_msg=name)
    wanted = theirs.eval()(torch.tensor(at)).detach().numpy()
    np.testing.assert_allclose(evaluate(out, {x: at}, "eval"), wanted, rtol=1e-9)


def test_what_is_computed_starts_as_the_weight_was() -> None:
    gc.manual_seed(0)
    plain = nn.Linear(4, 3).state_dict()["weight"]
    gc.manual_seed(0)
    layer = parametrizations.weight_norm(nn.Linear(4, 3))
    np.testing.assert_allclose(evaluate(layer.weight), plain, rtol=1e-6)
    parametrize.remove_parametrizations(layer, "weight")
    np.testing.assert_allclose(layer.weight.numpy(), plain, rtol=1e-6)
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    assert not parametrize.is_parametrized(layer)


def test_spectral_norm_starts_near_one() -> None:
    gc.manual_seed(2)
    layer = parametrizations.spectral_norm(nn.Linear(8, 6))
    assert np.linalg.norm(evaluate(layer.weight, mode="eval"), 2) == pytest.approx(1.0, rel=0.02)


class Symmetric(nn.Module):
    """(x + x') / 2."""

    def forward(self, x: gc.Value) -> gc.Value:
        """The same shape."""
        return (x + x.T) / 2.0


class Doubled(nn.Module):
    """2 x."""

    def forward(self, x: gc.Value) -> gc.Value:
        """The same shape."""
        return x * 2.0

    def right_inverse(self, x: gc.Value) -> gc.Value:
        """x / 2."""
        return x / 2.0


def test_parametrizations_one_after_the_other_train() -> None:
    layer = nn.Linear(3, 3)
    before = layer.weight
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "weight", Doubled())
    assert parametrize.is_parametrized(layer, "weight")
    first = before.numpy()
    np.testing.assert_allclose(evaluate(layer.weight), first + first.T, rtol=1e-6)
    x = gc.observed("x", (2, 3))
    step = gc.compile([x], (), optim.SGD(lr=0.1).minimize((layer(x) ** 2).sum()))
    step(np.ones((2, 3), np.float32))
    moved = evaluate(layer.weight)
    assert not np.allclose(moved, first + first.T)
    np.testing.assert_allclose(moved, moved.T, rtol=1e-6)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    np.testing.assert_allclose(layer.weight.numpy(), before.numpy())


def test_a_right_inverse_keeps_the_first_value() -> None:
    layer = nn.Linear(2, 2)
    first = layer.weight
    parametrize.register_parametrization(layer, "weight", Doubled())
    np.testing.assert_allclose(evaluate(layer.weight), first.numpy(), rtol=1e-6)


X = gc.observed("x", (4, 3))


def _twice_removed() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 3))
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.InstanceNorm1d(3)(X[None, None]), gc.ShapeError, "3 axes, axis 1 being 3"),
    (lambda: nn.InstanceNorm2d(4)(X[None]), gc.ShapeError, "4 channels"),
    (lambda: nn.functional.instance_norm(X), gc.ShapeError, "it needs places"),
    (lambda: nn.InstanceNorm2d(3)(gc.observed("one", (2, 3, 1, 1))), gc.ShapeError,
     r"more than one place to normalize over\n"),
    (lambda: nn.InstanceNorm1d(3, track_running_stats=True)(gc.observed("one", (2, 3, 1))),
     gc.ShapeError, r"more than one place .* \(pinned to mode eval"),
    (lambda: nn.RMSNorm(4)(X), gc.ShapeError, r"its last axes must be \(4,\)"),
    (lambda: nn.LocalResponseNorm(0), ValueError, "at least 1"),
    (lambda: nn.functional.local_response_norm(X, 0), ValueError, "at least 1"),
    (lambda: nn.functional.local_response_norm(X[0], 2), gc.ShapeError, r"\[N, C, \*space\]"),
    (lambda: parametrizations.weight_norm(nn.ReLU()), gc.StateError, "no parameter 'weight'"),
    (lambda: parametrizations.spectral_norm(nn.ReLU()), gc.StateError, "no parameter 'weight'"),
    (lambda: parametrizations.spectral_norm(nn.Linear(3, 3), "bias"), gc.ShapeError, "no matrix"),
    (lambda: parametrizations.spectral_norm(nn.Linear(3, 3), n_power_iterations=0), ValueError,
     ">= 1, got 0"),
    (lambda: parametrize.register_parametrization(nn.Linear(2, 3), "weight", nn.Flatten(0)),
     gc.ShapeError, "must keep shape"),
    (lambda: parametrize.remove_parametrizations(nn.Linear(2, 2), "weight"), gc.StateError,
     "is not parametrized"),
    (_twice_removed, gc.StateError, "several tensors"),
]  # fmt: skip


@pytest.mark.torch
def test_one_place_is_normalized_by_running_statistics() -> None:
    torch = pytest.importorskip("torch")
    options = {"track_running_stats": True, "affine": True}
    theirs = torch.nn.InstanceNorm1d(3, **options).double().eval()
    with torch.no_grad():
        for tensor in (theirs.running_mean, theirs.running_var, theirs.weight):
            tensor.uniform_(0.5, 2.0)
    ours = nn.InstanceNorm1d(3, **options, **F64)
    ours.load_state_dict(theirs.state_dict())
    at = np.random.default_rng(0).normal(size=(2, 3, 1))
    got = evaluate(ours.with_mode("eval")(gc.constant(at)), {})
    np.testing.assert_allclose(got, theirs(torch.tensor(at)).detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize(("make", "error", "match"), REFUSALS)
def test_refusals(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    refuses(make, error, match)
