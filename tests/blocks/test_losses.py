"""What a table cannot say of losses: extremes, brute force, and refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.nn import functional
from tests.blocks.checking import refuses
from tests.evaluating import evaluate, numerical_gradient

Array = np.ndarray[Any, Any]


def _collapsed(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """Repeats joined, blanks dropped."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def test_ctc_sums_over_every_path() -> None:
    rng = np.random.default_rng(0)
    log_p = np.log(rng.dirichlet(np.ones(3), (4, 1)))
    x = gc.observed("x", (4, 1, 3), gc.float64)
    target = [1, 1]
    loss = functional.ctc_loss(x, gc.constant([target]), [4], [2], blank=0, reduction="sum")
    total = sum(
        np.exp(sum(log_p[t, 0, label] for t, label in enumerate(path)))
        for path in itertools.product(range(3), repeat=4)
        if _collapsed(path, 0) == tuple(target)
    )
    assert evaluate(loss, {x: log_p}) == pytest.approx(-np.log(total), rel=1e-12)


def test_the_derivative_of_ctc_is_that_of_its_value() -> None:
    """PyTorch's is another: what log_softmax makes of it. This one holds for any input."""
    rng = np.random.default_rng(1)
    x = gc.observed("x", (5, 2, 3), gc.float64)
    loss = functional.ctc_loss(x, gc.constant([[1, 2], [2, 0]]), [5, 4], [2, 1])
    at = rng.normal(size=(5, 2, 3))
    slope = evaluate(gc.grad(loss, x), {x: at})
    wanted = numerical_gradient(lambda a: float(evaluate(loss, {x: a})), at)
    np.testing.assert_allclose(slope, wanted, atol=1e-8)
    v = rng.normal(size=at.shape)
    twice = evaluate(gc.hvp(loss, x, gc.constant(v)), {x: at})

    def along(a: Array) -> float:
        return float((evaluate(gc.grad(loss, x), {x: a}) * v).sum())

    np.testing.assert_allclose(twice, numerical_gradient(along, at), atol=1e-7)


def test_a_sequence_too_short_for_its_labels() -> None:
    x = gc.observed("x", (2, 1, 3))
    given = gc.constant([[1, 1]]), [2], [2]
    at = np.zeros((2, 1, 3), np.float32)
    assert evaluate(functional.ctc_loss(x, *given), {x: at}) == np.inf
    zero = functional.ctc_loss(x, *given, zero_infinity=True)
    value, slope = evaluate((zero, gc.grad(zero, x)), {x: at})
    assert value == 0.0
    np.testing.assert_array_equal(slope, np.zeros_like(at))


def test_zero_vectors_have_finite_derivatives() -> None:
    x, y = gc.observed("x", (2, 3)), gc.observed("y", (2, 3))
    feeds = {x: np.zeros((2, 3)), y: np.ones((2, 3))}
    for loss in (
        functional.cosine_similarity(x, y),
        functional.normalize(x),
        functional.pairwise_distance(x, x),
        functional.cosine_embedding_loss(x, y, gc.constant([1.0, -1.0], gc.float32)),
    ):
        assert np.isfinite(evaluate(gc.grad(loss.sum(), x), feeds)).all()


def test_probabilities_outside_of_0_and_1_are_named() -> None:
    x, y = gc.observed("x", (3,)), gc.observed("y", (3,))
    loss = nn.BCELoss()(x, y)
    inside = np.float32([0.0, 1.0, 0.5])
    call = gc.compile([x, y], [loss, gc.grad(loss, x)], check="nan")
    value, slope = call(inside, np.float32([0.0, 1.0, 0.5]))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert call(inside, 1 - inside)[0] == pytest.approx((100 + 100 + np.log(2)) / 3)
    for wrong in (-0.5, 1.5):
        with pytest.raises(gc.RuntimeCheckError, match="made a NaN"):
            call(np.float32([0.5, wrong, 0.5]), inside)


def test_large_logits() -> None:
    x = gc.observed("x", (4,))
    at = np.float32([1e4, -1e4, 200.0, -200.0])
    y = gc.constant([0.0, 1.0, 1.0, 0.0], gc.float32)
    loss = functional.binary_cross_entropy_with_logits(x, y, reduction="none")
    signs = gc.constant([-1.0, 1.0, 1.0, -1.0], gc.float32)
    margin = functional.soft_margin_loss(x, signs, reduction="none")
    for each in (loss, margin):
        value, slope = evaluate((each, gc.grad(each.sum(), x)), {x: at})
        np.testing.assert_allclose(value, [1e4, 1e4, 0, 0], atol=1e-6)
        np.testing.assert_allclose(slope, [1, -1, 0, 0], atol=1e-6)


@pytest.mark.torch
def test_adaptive_softmax_predicts() -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 10], div_value=2.0)
    ours = nn.AdaptiveLogSoftmaxWithLoss(8, 20, [4, 10], div_value=2.0)
    ours.load_state_dict(theirs.state_dict())
    x = gc.observed("x", (9, 8))
    at = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    got, best = gc.compile([x], [ours.log_prob(x), ours.predict(x)])(at)
    np.testing.assert_allclose(
        got, theirs.log_prob(torch.tensor(at)).detach().numpy(), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(np.exp(got).sum(1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(best, theirs.predict(torch.tensor(at)).numpy())


def test_clip_learns_its_temperature() -> None:
    image, text = gc.observed("image", (4, 3)), gc.observed("text", (4, 3))
    loss_of = nn.CLIPLoss()
    loss = loss_of(image, text)
    rng = np.random.default_rng(0)
    feeds = {image: rng.normal(size=(4, 3)), text: rng.normal(size=(4, 3))}
    plain = functional.info_nce_loss(image, text, 0.07, symmetric=True)
    value, wanted = evaluate((loss, plain), feeds)
    assert value == pytest.approx(wanted, rel=1e-5)
    assert abs(evaluate(gc.grad(loss, loss_of.logit_scale), feeds)) > 1e-3
    loss_of.logit_scale.set(50.0)
    capped = functional.info_nce_loss(image, text, 0.01, symmetric=True)
    assert np.subtract(*evaluate((loss, capped), feeds)) == pytest.approx(0.0, abs=1e-4)


def test_labels_out_of_range_are_errors() -> None:
    x, y = gc.observed("x", (2, 3)), gc.observed("y", (2,), gc.int64)
    for loss in (nn.NLLLoss()(x, y), nn.MultiMarginLoss()(x, y)):
        for wrong in (3, -1):
            with pytest.raises(gc.RuntimeCheckError, match=r"outside 0\.\.2"):
                evaluate(loss, {x: np.zeros((2, 3)), y: [0, wrong]})
    many = gc.observed("many", (2, 3), gc.int64)
    with pytest.raises(gc.RuntimeCheckError, match=r"outside 0\.\.2"):
        evaluate(nn.MultiLabelMarginLoss()(x, many), {x: np.zeros((2, 3)), many: [[3, -1, 0]] * 2})
    sequence = gc.observed("s", (4, 2, 3))
    loss = functional.ctc_loss(sequence, many, [4, 4], [2, 2])
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        evaluate(loss, {sequence: np.zeros((4, 2, 3)), many: [[3, 1, 0]] * 2})


X, ROW = gc.observed("x", (4, 3)), gc.observed("row", (4,))
LABELS, CUBE = gc.observed("y", (4,), gc.int64), gc.observed("cube", (4, 3, 2))
REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.L1Loss("median"), ValueError, "'mean', 'sum', 'none', not 'median'"),
    (lambda: nn.KLDivLoss("batchmeans"), ValueError, "'batchmean'"),
    (lambda: nn.MSELoss("batchmean"), ValueError, "not 'batchmean'"),
    (lambda: functional.l1_loss(X, ROW), gc.ShapeError, r"input is f32\[4,3\], target f32\[4\]"),
    (lambda: functional.mse_loss(X, X, weight=ROW), gc.ShapeError, "one for each element"),
    (lambda: functional.smooth_l1_loss(X, X, beta=-1.0), ValueError, "beta must be >= 0"),
    (lambda: functional.huber_loss(X, X, delta=0.0), ValueError, "delta must be > 0"),
    (lambda: nn.BCELoss(np.ones(2))(X, X), gc.ShapeError, "cross_entropy': f32"),
    (lambda: nn.BCELoss(np.ones((2, 4, 3)))(X, X), gc.ShapeError, "does not broadcast to"),
    (lambda: functional.gaussian_nll_loss(X, X, CUBE), gc.ShapeError, "var is f32"),
    (lambda: functional.gaussian_nll_loss(X, X, X, eps=0.0), ValueError, "eps must be > 0"),
    (lambda: nn.NLLLoss()(X, ROW), gc.DTypeError, "labels are integers, got float32"),
    (lambda: nn.NLLLoss(np.ones(4))(X, LABELS), gc.ShapeError, "one for each of 3 classes"),
    (lambda: nn.MultiMarginLoss(3), ValueError, "p is 1 or 2"),
    (lambda: functional.multi_margin_loss(X, LABELS, p=0), ValueError, "p is 1 or 2"),
    (lambda: nn.MultiMarginLoss()(CUBE, LABELS), gc.ShapeError, r"not \[N, C\]"),
    (lambda: nn.MultiLabelMarginLoss()(X, X), gc.ShapeError, "the target of integers"),
    (lambda: nn.CrossEntropyLoss(label_smoothing=2.0), ValueError, r"in \[0, 1\]"),
    (lambda: nn.CosineEmbeddingLoss()(X, X, X), gc.ShapeError, "with a target"),
    (lambda: nn.CosineEmbeddingLoss(2.0)(X, X, ROW), ValueError, r"margin must be in \[-1, 1\]"),
    (lambda: nn.TripletMarginLoss(0.0), ValueError, "margin must be > 0"),
    (lambda: nn.TripletMarginWithDistanceLoss(margin=0.0), ValueError, "margin must be > 0"),
    (lambda: functional.triplet_margin_loss(X, X, X, 0.0), ValueError, "margin must be > 0"),
    (lambda: functional.pairwise_distance(X, X, p=0.0), ValueError, "p must be > 0"),
    (lambda: nn.InfoNCELoss(0.0), ValueError, "temperature must be > 0"),
    (lambda: functional.info_nce_loss(X, X, -1.0), ValueError, "temperature must be > 0"),
    (lambda: nn.InfoNCELoss()(CUBE, CUBE), gc.ShapeError, r"are \[N, D\]"),
    (lambda: functional.kl_div(1.0, 1.0, "batchmean"), gc.ShapeError, "needs a first axis"),
    (lambda: functional.ctc_loss(X, X, LABELS, LABELS), gc.ShapeError, "ctc_loss"),
    (lambda: functional.ctc_loss(CUBE, X, ROW, ROW), gc.ShapeError, "of 3 samples"),
    (lambda: functional.ctc_loss(CUBE, CUBE, 1, 1), gc.ShapeError, r"targets \[N, S\]"),
    (lambda: functional.ctc_loss(CUBE, [[1]] * 3, [4] * 3, [0.5] * 3), gc.DTypeError, "integers"),
    (lambda: functional.ctc_loss(CUBE, [[1]] * 3, [4] * 3, [1] * 3, 2), ValueError, "not 2"),
    (lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 9, [5, 4]), ValueError, "increasing ints"),
    (lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 9, [9]), ValueError, "n_classes - 1 = 8"),
    (lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 30, [2, 4, 6]), ValueError, "0 features"),
    (lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 9, [5])(X, X), gc.ShapeError, "target"),
]


@pytest.mark.parametrize(("make", "error", "match"), REFUSALS)
def test_refusals(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    refuses(make, error, match)
