"""Where a formula could overflow, vanish or hide a NaN: values and slopes as PyTorch's."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.nn import functional
from graphc.nn.utils.parametrizations import spectral_norm, weight_norm
from graphc.nn.utils.parametrize import register_parametrization

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
    p = np.float32([0, 1e-40, 1e-20, 1e-7, 0.5, 1, 1, 0, 1, 1e-13, 0])
    t = np.float32([1, 1, 1, 1, 1, 0, 0.5, 0, 1, 0, 0.3])
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


def test_a_clone_of_a_rematerialized_module_has_its_own_weights() -> None:
    layer, x = nn.Linear(3, 2), gc.observed("x", (4, 3))
    other = nn.clone(gc.remat(layer))
    at = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    got = gc.compile([x], other(x))(at)
    np.testing.assert_allclose(got, at @ other.weight.numpy().T + other.bias.numpy(), rtol=1e-5)
    assert not np.allclose(other.weight.numpy(), layer.weight.numpy())
    assert other.ports == layer.ports == ("x",)
    with pytest.raises(nn.PortError, match="its ports are x"):
        other(x, x)


def test_clones_of_computed_weights_start_from_their_own() -> None:
    layer = nn.clone(weight_norm(nn.Linear(3, 5)))
    held = layer.state_dict()
    length, direction = (held[f"parametrizations.weight.original{i}"] for i in (0, 1))
    np.testing.assert_allclose(length, np.linalg.norm(direction, axis=1, keepdims=True), rtol=1e-6)
    twin = nn.clone(spectral_norm(nn.Linear(8, 8, bias=False)))
    weight = gc.compile([], twin.weight)()
    np.testing.assert_allclose(np.linalg.svd(weight)[1][0], 1.0, atol=0.05)


class _Pair(NamedTuple):
    low: Any
    high: Any


class _Holder(nn.Module):
    """Modules and parameters in every container, and a method of its own as a value."""

    def __init__(self) -> None:
        self.pair = _Pair(gc.parameter((2,)), nn.Linear(2, 2))
        self.named = OrderedDict(a=nn.Linear(2, 2, bias=False))
        self.listed = [(gc.parameter((2, 2)),)]
        self.mix = self.mixed
        self.scale = functools.partial(gc.ops.multiply, self.pair.low)

    def mixed(self, x: Any) -> Any:
        return self.scale(self.pair.high(x) + self.named["a"](x) @ self.listed[0][0])

    def forward(self, x: Any) -> Any:
        return self.mix(x)


def test_clones_share_nothing_whatever_holds_it() -> None:
    first = _Holder()
    second, x = nn.clone(first), gc.observed("x", (1, 2))
    shared = set(first.parameters()) & set(second.parameters())
    assert not shared
    assert list(second.state_dict()) == list(first.state_dict())
    assert type(second.named) is OrderedDict
    assert type(second.pair) is _Pair
    for parameter in second.parameters():
        parameter.set(np.zeros(parameter.shape, np.float32))
    np.testing.assert_array_equal(gc.compile([x], second(x))(np.ones((1, 2), np.float32)), 0.0)


class _Twice(nn.Module):
    def forward(self, weight: Any) -> Any:
        return weight * 2.0


class _Summed(nn.Module):
    def forward(self, weight: Any) -> Any:
        return weight.sum()


def test_a_refused_parametrization_leaves_the_module_as_it_was() -> None:
    layer = register_parametrization(nn.Linear(3, 2), "weight", _Twice())
    names = list(layer.state_dict())
    with pytest.raises(gc.ShapeError, match="it must keep shape"):
        register_parametrization(layer, "weight", _Summed())
    assert list(layer.state_dict()) == names
    assert layer(gc.observed("x", (4, 3))).shape == (4, 2)


def test_a_part_of_a_series_keeps_its_names() -> None:
    ours = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
    )
    for part in (slice(1, None), slice(None, 2), slice(None, None, -1), slice(5, 6)):
        assert list(ours[part].state_dict()) == list(theirs[part].state_dict())
    named = nn.Sequential({"first": nn.Linear(3, 3), "last": nn.Linear(3, 2)})
    assert list(named[1:].state_dict()) == ["last.weight", "last.bias"]
    assert list((named[1:] >> nn.ReLU()).state_dict()) == ["0.weight", "0.bias"]


def test_the_state_of_a_single_sample() -> None:
    cell, x, h = nn.GRUCell(3, 4), gc.observed("x", (3,)), gc.observed("h", (4,))
    theirs = torch.nn.GRUCell(3, 4)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in cell.state_dict().items()})
    at, before = np.float32([1, -2, 3]), np.float32([0.1, 0.2, 0.3, 0.4])
    wanted = theirs(torch.from_numpy(at), torch.from_numpy(before)).detach().numpy()
    np.testing.assert_allclose(gc.compile([x, h], cell(x, h))(at, before), wanted, rtol=1e-5)
    with pytest.raises(gc.ShapeError, match=r"GRUCell: hx is f32\[1,4\], it must be \[4\]"):
        cell(x, gc.observed("rows", (1, 4)))


def test_batches_of_none_and_of_one() -> None:
    """Stacks on 0 samples and on 1, in float64, beside PyTorch."""
    layer = {"d_model": 6, "nhead": 2, "dim_feedforward": 8, "batch_first": True}
    pairs = [
        (nn.TransformerEncoderLayer(**layer, dtype="float64"),
         torch.nn.TransformerEncoderLayer(**layer), 1),
        (nn.TransformerDecoderLayer(**layer, norm_first=True, dtype="float64"),
         torch.nn.TransformerDecoderLayer(**layer, norm_first=True), 2),
        (nn.LSTMCell(6, 4, dtype="float64"), torch.nn.LSTMCell(6, 4), 1),
    ]  # fmt: skip
    for mine, theirs, count in pairs:
        theirs.double().eval()
        theirs.load_state_dict({k: torch.from_numpy(v) for k, v in mine.state_dict().items()})
        for shape in ((0, 3, 6), (1, 1, 6)):
            cut = shape[:1] + shape[2:] if isinstance(mine, nn.LSTMCell) else shape
            at = np.random.default_rng(0).normal(size=cut)
            inputs = [gc.observed(f"x{i}", cut, gc.float64) for i in range(count)]
            got = gc.compile(inputs, mine(*inputs), mode="eval")(*[at] * count)
            wanted = theirs(*[torch.from_numpy(at)] * count)
            got, wanted = (v if isinstance(v, tuple) else (v,) for v in (got, wanted))
            for a, b in zip(got, wanted, strict=True):
                assert a.dtype == np.float64
                np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_modules_that_do_not_fit_are_refused() -> None:
    x, relu = gc.observed("x", (2, 3)), nn.ReLU()
    layer = nn.TransformerEncoderLayer(6, 2, 8)
    for make, error, match in (
        (lambda: nn.Residual(nn.Linear(3, 1))(x), gc.ShapeError, "one shape on both sides"),
        (lambda: nn.Residual(nn.Flatten(0))(x), gc.ShapeError, "one shape on both sides"),
        (lambda: nn.Parallel(merge="sum"), nn.PortError, "nothing to merge"),
        (lambda: nn.Parallel(relu, merge="max"), ValueError, "not 'max'"),
        (lambda: nn.Parallel(relu, abs), nn.PortError, "Parallel: element 1 is builtin"),
        (lambda: nn.Sequential({"a.b": relu}), nn.PortError, "'a.b' names no module"),
        (lambda: nn.Sequential({1: relu}), nn.PortError, "1 names no module"),  # type: ignore[dict-item]
        (lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 9, [2.5]), ValueError, "cutoffs are increasing"),  # type: ignore[list-item]
        (lambda: nn.LuongAttention(0), ValueError, "query_size is a positive int, not 0"),
        (lambda: nn.BahdanauAttention(2, 2, 0), ValueError, "hidden_size is a positive int"),
        (lambda: nn.TransformerEncoder(layer, 1.5), ValueError, "num_layers is a positive int"),  # type: ignore[arg-type]
        (lambda: nn.scheduled_sampling(lambda v, c: (v, c), x, x[0], 1.5, abs), ValueError,
         r"p is a probability in \[0, 1\], not 1.5"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            make()
