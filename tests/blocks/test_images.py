"""What a table cannot say of convolution and pooling: receptive fields, unpooling, refusals."""

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

NETS: list[nn.Module] = [
    nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.SiLU(), nn.AvgPool1d(2), nn.Conv1d(1, 1, 3)),
    nn.Conv1d(1, 1, 4, stride=2, padding=1) >> nn.Tanh() >> nn.Conv1d(1, 1, 3, dilation=3),
    nn.Sequential(nn.Conv1d(1, 1, 5, padding="same", dilation=2), nn.AvgPool1d(3, 2, 1)),
    nn.Residual(nn.Conv1d(1, 1, 3, padding=1) >> nn.Softplus() >> nn.Conv1d(1, 1, 5, padding=2)),
    nn.Parallel(nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 7, padding=3), merge="sum")
    >> nn.BatchNorm1d(1),
]


@pytest.mark.parametrize("net", NETS, ids=repr)
def test_receptive_field_is_what_the_derivative_sees(net: nn.Module) -> None:
    x = gc.observed("x", (1, 1, 40))
    out = net.with_mode("eval")(x)
    seen = gc.receptive_field(net)
    (size,), (stride,), (start,) = seen
    at = np.random.default_rng(0).normal(size=(1, 1, 40))
    for j in (out.shape[2] // 2, out.shape[2] // 2 - 1):
        slope = evaluate(gc.grad(out[0, 0, j], x), {x: at}, "eval")[0, 0]
        places = np.flatnonzero(slope)
        assert places[0] == j * stride + start
        assert places[-1] == j * stride + start + size - 1


def test_receptive_field_of_images() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, (3, 5), padding=(1, 2)), nn.Dropout(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)
    )
    assert gc.receptive_field(net) == ((8, 10), (2, 2), (-1, -2))


@pytest.mark.torch
def test_of_equal_maxima_adaptive_pooling_takes_the_first_row_major() -> None:
    torch = pytest.importorskip("torch")
    at = np.random.default_rng(3).integers(0, 2, (2, 3, 7, 8)).astype(np.float64)
    x = gc.observed("x", at.shape, gc.float64)
    pooled, places = nn.AdaptiveMaxPool2d((3, 3), return_indices=True)(x)
    weights = gc.observed("w", pooled.shape, gc.float64)
    slopes = np.random.default_rng(4).normal(size=(2, 3, 3, 3))
    slope = gc.grad((pooled * weights).sum(), x)
    got = gc.compile([x, weights], [pooled, places, slope])(at, slopes)
    theirs = torch.tensor(at, requires_grad=True)
    maxima, wanted = torch.nn.AdaptiveMaxPool2d((3, 3), return_indices=True)(theirs)
    (maxima * torch.tensor(slopes)).sum().backward()
    np.testing.assert_array_equal(got[0], maxima.detach().numpy())
    np.testing.assert_array_equal(got[1], wanted.numpy())
    np.testing.assert_allclose(got[2], theirs.grad.numpy(), rtol=1e-12)


def test_unpooling_puts_maxima_back() -> None:
    x = gc.observed("x", (2, 3, 6, 5))
    pooled, places = nn.MaxPool2d(2, return_indices=True)(x)
    back = nn.MaxUnpool2d(2)(pooled, places, output_size=(2, 3, 6, 5))
    at = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    maxima, image = gc.compile([x], [pooled, back])(at)
    assert image.shape == at.shape
    kept = image != 0
    np.testing.assert_array_equal(image[kept], at[kept])
    np.testing.assert_array_equal(np.sort(image[kept]), np.sort(maxima.ravel()))


def test_pooling_of_an_empty_batch() -> None:
    x = gc.observed("x", (0, 2, 5))
    pooled = nn.AdaptiveMaxPool1d(2)(x), nn.MaxPool1d(2)(x), nn.AdaptiveAvgPool1d(3)(x)
    assert [a.shape for a in evaluate(pooled, {x: np.zeros((0, 2, 5))})] == [
        (0, 2, 2), (0, 2, 2), (0, 2, 3),
    ]  # fmt: skip


def test_fold_is_the_transpose_of_unfold() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(2, 12, 12))
    columns = functional.unfold(gc.constant(x), 2)
    image = functional.fold(gc.constant(y), (5, 4), 2)
    assert evaluate((columns * y).sum()) == pytest.approx(evaluate((image * x).sum()), rel=1e-12)


X = gc.observed("x", (2, 3, 8, 8))
ROW = gc.observed("row", (2, 3, 8))
WIDE = gc.observed("wide", (2, 3, gc.Dim("H"), 8))
IDS = gc.observed("ids", (2, 3, 4), gc.int64)
REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.Conv2d(3, 4, 9)(X), gc.ShapeError, "spans 9, which exceeds 8 .* pad by 1 more"),
    (lambda: functional.conv2d(X, gc.ops.zeros((4, 3, 2, 2)), gc.ops.zeros(1)), gc.ShapeError,
     r"conv2d: bias is f32\[1\], it must be \[4\]"),
    (lambda: functional.conv_transpose1d(ROW, gc.ops.zeros((3, 2, 2)), gc.ops.zeros((2, 1))),
     gc.ShapeError, r"conv_transpose1d: bias is f32\[2,1\], it must be \[2\]"),
    (lambda: nn.ConvTranspose2d(3, 4, 2, padding_mode="reflect"), ValueError, "is 'zeros', not"),
    (lambda: nn.AvgPool2d(2, divisor_override=0)(X), ValueError, "must not be 0"),
    (lambda: nn.MaxPool2d(3, dilation=5)(X), gc.ShapeError, "spans 11, .* pad by 3 more"),
    (lambda: nn.AdaptiveAvgPool2d(0)(X), gc.ShapeError, "an int > 0 or 2 of them"),
    (lambda: nn.AdaptiveMaxPool1d((2, 2))(ROW), gc.ShapeError, "1 of them"),
    (lambda: nn.AdaptiveAvgPool1d(2)(X), gc.ShapeError, "3 axes, or of one sample 2"),
    (lambda: nn.AdaptiveAvgPool2d(2)(WIDE), gc.ShapeError, "known extents"),
    (lambda: nn.LPPool1d(0, 2), ValueError, "norm_type must not be 0"),
    (lambda: functional.lp_pool1d(ROW, 0, 2), ValueError, "norm_type must not be 0"),
    (lambda: nn.MaxUnpool1d(2)(ROW, IDS), gc.ShapeError, "integers of its shape"),
    (lambda: functional.max_unpool1d(ROW, gc.observed("i", (2, 3, 8), gc.int64), 2,
                                     output_size=(30,)), gc.ShapeError, "within a stride"),
    (lambda: functional.interpolate(X), ValueError, "size or scale_factor"),
    (lambda: functional.interpolate(X, 3, 2.0), ValueError, "size or scale_factor"),
    (lambda: functional.interpolate(X, 3, mode="cubic"), ValueError, "not 'cubic'"),
    (lambda: functional.interpolate(X, 3, mode="linear"), gc.ShapeError, "linear takes"),
    (lambda: functional.interpolate(X, 3, align_corners=True), ValueError, "align_corners goes"),
    (lambda: functional.interpolate(X, scale_factor=-1.0), ValueError, "numbers > 0"),
    (lambda: functional.interpolate(X, scale_factor=0.1), gc.ShapeError, "below 1"),
    (lambda: functional.interpolate(X, 3, mode="nearest", antialias=True), ValueError,
     "antialias goes with mode bilinear or bicubic, not 'nearest'"),
    (lambda: nn.Upsample(3, mode="linear", antialias=True)(ROW), ValueError, "not 'linear'"),
    (lambda: functional.interpolate(WIDE, 3), gc.ShapeError, "must be ints"),
    (lambda: nn.PixelShuffle(2)(X), gc.ShapeError, r"C 2\^2, H, W"),
    (lambda: nn.PixelUnshuffle(3)(X), gc.ShapeError, "C, H 3, W 3"),
    (lambda: nn.ChannelShuffle(2)(X), gc.ShapeError, "2 groups do not divide"),
    (lambda: nn.Unfold(2)(X[0, 0]), gc.ShapeError, r"not \[N, C, H, W\]"),
    (lambda: nn.Fold((4, 4), 2)(ROW), gc.ShapeError, r"not \[N, C 4, L\]"),
    (lambda: nn.Fold((5, 4), (3, 1))(ROW), gc.ShapeError, "12 places .* has 8 columns"),
    (lambda: nn.ZeroPad2d((1, 1)), ValueError, "an int or 4 ints"),
    (lambda: functional.pad(X, [1]), gc.ShapeError, "pairs from the last axis"),
    (lambda: functional.pad(X, [1, 1], mode="mirror"), ValueError, "not 'mirror'"),
    (lambda: functional.pad(X, [1, 1], mode="reflect", value=1.0), ValueError, "value goes with"),
    (lambda: nn.ReflectionPad1d(8)(ROW), gc.ShapeError, "at most 7"),
    (lambda: gc.receptive_field(nn.ReLU()), gc.ShapeError, "no convolution"),
    (lambda: gc.receptive_field(nn.Linear(2, 2)), gc.ShapeError, "Linear sees is not known"),
    (lambda: gc.receptive_field(nn.Softmax(-1)), gc.ShapeError, "is not known"),
    (lambda: gc.receptive_field(nn.Conv1d(1, 1, 2) >> nn.Conv2d(1, 1, 2)), gc.ShapeError, "2 axes"),
    (lambda: gc.receptive_field(nn.Parallel(nn.Conv1d(1, 1, 2), nn.MaxPool1d(2))), gc.ShapeError,
     "have strides"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "match"), REFUSALS)
def test_refusals(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    refuses(make, error, match)


def test_an_index_outside_of_the_image_fails_the_call() -> None:
    x, i = gc.observed("x", (1, 1, 2)), gc.observed("i", (1, 1, 2), gc.int64)
    out = nn.MaxUnpool1d(2)(x, i)
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        evaluate(out, {x: np.zeros((1, 1, 2)), i: [[[0, 4]]]})
