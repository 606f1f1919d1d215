"""What noise draws, mixtures, gates, hyper-networks, features; tests/blocks has the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.nn import functional
from tests.evaluating import evaluate

rng = np.random.default_rng(12)


@pytest.mark.parametrize(("name", "shape"), [
    ("dropout1d", (40, 50, 4)), ("dropout2d", (40, 50, 2, 3)), ("dropout3d", (40, 50, 2, 1, 2)),
])  # fmt: skip
def test_channels_are_dropped_as_a_whole(name: str, shape: tuple[int, ...]) -> None:
    gc.manual_seed(1)
    at = rng.uniform(1, 2, shape).astype(np.float32)
    x = gc.observed("x", shape)
    ratio = (evaluate(getattr(functional, name)(x, 0.25), {x: at}) / at).round(3)
    ratio = ratio.reshape(2000, -1)
    assert (ratio.min(1) == ratio.max(1)).all()
    np.testing.assert_allclose(np.unique(ratio), [0, 1.333], atol=1e-6)
    assert (ratio[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_alpha_dropout_keeps_mean_and_variance(p: float) -> None:
    gc.manual_seed(2)
    at = rng.normal(size=(200, 500)).astype(np.float32)
    x = gc.observed("x", at.shape)
    got = evaluate(functional.alpha_dropout(x, p), {x: at})
    assert got.mean() == pytest.approx(0, abs=0.02)
    assert got.std() == pytest.approx(1, abs=0.02)
    a = ((1 - p) * (1 + p * 1.7580993408473766**2)) ** -0.5
    fixed = -a * 1.7580993408473766 * (1 - p)  # what was dropped stands at one value
    assert np.isclose(got, fixed, atol=1e-5).mean() == pytest.approx(p, abs=0.01)
    cube = ops.expand_dims(x, -1) * gc.constant(np.float32([1, 2, 3]))
    dropped = np.isclose(evaluate(functional.feature_alpha_dropout(cube, p), {x: at}), fixed)
    assert dropped.all(2).mean() == pytest.approx(p, abs=0.01)
    assert (dropped.any(2) == dropped.all(2)).mean() > 0.999


def test_gaussian_noise() -> None:
    gc.manual_seed(3)
    at = np.full((100, 100), 4.0, np.float32)
    x = gc.observed("x", at.shape)
    for relative, std in ((False, 0.5), (True, 2.0)):
        layer = nn.GaussianNoise(0.5, relative)
        got = evaluate(layer(x), {x: at})
        assert got.mean() == pytest.approx(4, abs=0.1)
        assert got.std() == pytest.approx(std, rel=0.05)
        np.testing.assert_array_equal(evaluate(layer(x), {x: at}, "eval"), at)
    layer = nn.utils.parametrize.register_parametrization(
        nn.Linear(4, 3), "weight", nn.GaussianNoise(0.1)
    )
    y = gc.observed("y", (2, 4))
    out, feeds = layer(y), {y: np.ones((2, 4), np.float32)}
    assert (evaluate(out, feeds) != evaluate(out, feeds, "eval")).any()


def test_mixtures_gates_and_hyper_networks() -> None:
    x, z = gc.observed("x", (5, 3), "float64"), gc.observed("z", (5, 2), "float64")
    f64 = {"dtype": "float64"}
    feeds = {x: rng.normal(size=(5, 3)), z: rng.normal(size=(5, 2))}

    def run(layer: nn.Linear, at: Any) -> Any:
        return at @ layer.weight.numpy().T + layer.bias.numpy()

    experts, gate = [nn.Linear(3, 4, **f64) for _ in range(3)], nn.Linear(3, 3, **f64)
    mixture = nn.MixtureOfExperts(experts, gate)
    assert "experts.2.weight" in mixture.state_dict()
    odds = np.exp(run(gate, feeds[x]))
    odds /= odds.sum(1, keepdims=True)
    wanted = sum(odds[:, [i]] * run(e, feeds[x]) for i, e in enumerate(experts))
    np.testing.assert_allclose(evaluate(mixture(x), feeds), wanted, rtol=1e-10)
    gated = nn.Gated(experts[0], experts[1])
    wanted = run(experts[0], feeds[x]) / (1 + np.exp(-run(experts[1], feeds[x])))
    np.testing.assert_allclose(evaluate(gated(x), feeds), wanted, rtol=1e-10)
    hyper = nn.Linear(2, 16, **f64)
    made = run(hyper, feeds[z])
    wanted = np.einsum("noi,ni->no", made[:, :12].reshape(5, 4, 3), feeds[x]) + made[:, 12:]
    got = evaluate(nn.HyperLinear(3, 4, hyper)(x, z), feeds)
    np.testing.assert_allclose(got, wanted, rtol=1e-10)


def test_experts_are_balanced_by_the_marked_loss() -> None:
    """Its value is 1 where all are used alike, E where one does all; it is found deep inside."""
    experts = nn.SparseMixtureOfExperts(3, 4, 2, num_experts=4, top_k=1)
    net = nn.Linear(3, 3) >> experts
    x = gc.observed("x", (8, 3))
    (found,) = gc.marked(net(x), "aux_loss")
    assert found.shape == ()
    even = np.eye(4)[np.arange(8) % 4]
    one = np.eye(4)[np.zeros(8, int)]
    for odds, value in ((even, 1.0), (one, 4.0)):
        loss = nn.load_balance(gc.constant(odds), gc.constant(odds.argmax(1)[:, None]))
        assert evaluate(loss) == pytest.approx(value)
    # and to descend it evens the experts out
    rows = rng.normal(size=(64, 3)).astype(np.float32) + 2.0
    wide = gc.observed("wide", (64, 3))
    (balance,) = gc.marked(experts(wide), "aux_loss")
    step = gc.compile([wide], balance, optim.Adam(lr=0.05).minimize(balance))
    values = [float(step(rows)) for _ in range(60)]
    assert values[0] > 1.2 > 1.1 > values[-1]


def test_run_time_rows_of_sparse_experts() -> None:
    batch = gc.Dim("B")
    x = gc.observed("x", (batch, 2, 3))
    layer = nn.SparseMixtureOfExperts(3, 5, 4, num_experts=3)
    run = gc.compile([x], layer(x))
    flat = gc.observed("flat", (8, 3))
    at = rng.normal(size=(4, 2, 3)).astype(np.float32)
    wanted = evaluate(layer(flat), {flat: at.reshape(8, 3)})
    np.testing.assert_allclose(run(at).reshape(8, 4), wanted, rtol=1e-5, atol=1e-6)
    bounded = nn.SparseMixtureOfExperts(3, 5, 4, num_experts=3, capacity_factor=1.0)
    with pytest.raises(gc.ShapeError, match="needs a known number of rows"):
        bounded(x)


def test_features() -> None:
    sklearn = pytest.importorskip("sklearn.preprocessing", reason="the reference of polynomials")
    at = rng.normal(size=(5, 4))
    x = gc.observed("x", at.shape, "float64")
    for degree, only, bias in ((3, False, True), (3, True, False), (1, False, True)):
        theirs = sklearn.PolynomialFeatures(degree, interaction_only=only, include_bias=bias)
        ours = nn.PolynomialFeatures(degree, only, bias)
        np.testing.assert_allclose(
            evaluate(ours(x), {x: at}), theirs.fit_transform(at), rtol=1e-12
        )
    gc.manual_seed(0)
    near = rng.normal(size=(12, 4)) * 0.5
    y = gc.observed("y", near.shape, "float64")
    features = evaluate(nn.RandomFourierFeatures(4, 20000, 0.7, dtype="float64")(y), {y: near})
    kernel = np.exp(-0.7 * ((near[:, None] - near) ** 2).sum(-1))
    np.testing.assert_allclose(features @ features.T, kernel, atol=0.04)
    wide = rng.normal(size=(10, 300))
    w = gc.observed("w", wide.shape, "float64")
    flat = evaluate(nn.RandomProjection(300, 2000, dtype="float64")(w), {w: wide})
    apart = [((v[:, None] - v) ** 2).sum(-1)[np.triu_indices(10, 1)] for v in (wide, flat)]
    np.testing.assert_allclose(apart[1], apart[0], rtol=0.2)
    basis = nn.RadialBasis(4, 3, gamma=2.0)
    np.testing.assert_allclose(np.exp(basis.log_gamma.numpy()), 2.0, rtol=1e-6)


def test_tied_weights_are_one_parameter() -> None:
    embed, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    head.weight = embed.weight
    net = embed >> head
    ids = gc.observed("ids", (4,), gc.int64)
    (slope,) = gc.grad(net(ids).sum(), net.parameters())
    assert list(net.state_dict()) == ["0.weight", "1.weight"]
    at = np.array([0, 0, 2, 4])
    table = embed.weight.numpy()
    through_head = np.tile(table[at].sum(0), (5, 1))
    through_embedding = np.bincount(at, minlength=5)[:, None] * table.sum(0)
    got = evaluate(slope, {ids: at})
    np.testing.assert_allclose(got, through_head + through_embedding, rtol=1e-5, atol=1e-5)


def test_refusals() -> None:
    x = gc.observed("x", (4, 3))
    for name in ("Dropout1d", "AlphaDropout"):
        with pytest.raises(ValueError, match=r"probability in \[0, 1\], not 1\.5"):
            getattr(nn, name)(1.5)
    with pytest.raises(ValueError, match=r"probability in \[0, 1\], not -1"):
        functional.alpha_dropout(x, -1)
    with pytest.raises(gc.ShapeError, match=r"dropout3d: x is .* it must have 4 or 5 axes"):
        nn.Dropout3d()(x)
    with pytest.raises(ValueError, match="std is at least 0, not -1"):
        nn.GaussianNoise(-1)
    with pytest.raises(ValueError, match="std is at least 0"):
        functional.gaussian_noise(x, float("nan"))
    with pytest.raises(gc.ShapeError, match=r"they must be \[\.\.\., 3\] and \[\.\.\., 2\]"):
        nn.Bilinear(3, 2, 4)(x, x)
    with pytest.raises(ValueError, match="sizes are positive ints, not 0"):
        nn.Bilinear(3, 0, 4)
    with pytest.raises(gc.ShapeError, match=r"out \* in \+ out = 8"):
        nn.HyperLinear(3, 2, nn.Linear(3, 5))(x, x)
    with pytest.raises(ValueError, match="there is no expert"):
        nn.MixtureOfExperts([], nn.Linear(3, 3))
    with pytest.raises(gc.ShapeError, match="for 1 experts"):
        nn.MixtureOfExperts([nn.Linear(3, 2)], nn.Linear(3, 3))(x)
    with pytest.raises(ValueError, match=r"top_k 5 is not in 1\.\.4"):
        nn.SparseMixtureOfExperts(3, 2, 2, 4, top_k=5)
    with pytest.raises(ValueError, match="capacity_factor 0"):
        nn.SparseMixtureOfExperts(3, 2, 2, 4, capacity_factor=0)
    for kind in (nn.RadialBasis, nn.RandomFourierFeatures):
        with pytest.raises(ValueError, match="gamma is positive, not -1"):
            kind(3, 2, -1)
    some = gc.observed("some", (3, gc.Dim("D")))
    with pytest.raises(gc.ShapeError, match="is not known"):
        nn.PolynomialFeatures()(some)
    with pytest.raises(gc.ShapeError, match="is not known"):
        nn.load_balance(some, some)
    assert nn.Dropout1d(0.2)._describe() == "p=0.2"
    assert nn.GaussianNoise()._describe() == "std=0.1, relative=False"
    assert repr(nn.PolynomialFeatures()) == "PolynomialFeatures(degree=2, interaction_only=False)"
    assert nn.SparseMixtureOfExperts(3, 2, 2, 4)._describe() == "num_experts=4, top_k=2"
