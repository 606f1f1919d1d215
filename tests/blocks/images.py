"""Convolution, pooling, and images of other sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.blocks.sample import Block, Input, array, normal


def _one(name: str, shape: tuple[int, ...], *args: Any, **options: Any) -> Block:
    return Block(name, args, options, (normal(*shape),))


def _positive(name: str, shape: tuple[int, ...], *args: Any, **options: Any) -> Block:
    drawn = Input(lambda rng: rng.uniform(0.5, 2.0, shape))
    return Block(name, args, options, (drawn,))


def _indices(block: Any, x: Any) -> Any:
    """The maxima, and their places as floats too, so that they are compared."""
    pooled, places = block(x)
    return pooled, places.astype(pooled.dtype) if hasattr(places, "node") else places.to(pooled)


def _places(block: Any, x: Any) -> Any:
    return _indices(block, x)[1]


_POOLED: dict[str, Any] = {"call": _indices, "how": "both results"}
_INFINITE = np.where(np.arange(70).reshape(1, 2, 5, 7) == 9, np.inf, 1.5)
_PLACES = array([[[[0, 3], [13, 10]]]], "int")

CONVOLUTIONS = [
    _one("Conv1d", (2, 3, 11), 3, 5, 4),
    _one("Conv1d", (2, 4, 12), 4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
    _one("Conv1d", (3, 9), 3, 5, 4, padding="same"),
    _one("Conv1d", (2, 2, 6), 2, 3, 4, padding=3, padding_mode="reflect"),
    _one("Conv2d", (2, 3, 8, 7), 3, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
    _one("Conv2d", (1, 4, 6, 5), 4, 4, 3, groups=4, padding="same", dilation=2),
    _one("Conv2d", (2, 2, 5, 6), 2, 3, 3, padding=(1, 2), padding_mode="replicate", stride=2),
    _one("Conv2d", (1, 2, 4, 5), 2, 4, 3, padding=2, padding_mode="circular", groups=2),
    _one("Conv3d", (1, 2, 3, 4, 4), 2, 2, 2, stride=2, padding=1),
    _one("ConvTranspose1d", (2, 3, 6), 3, 4, 5, stride=3, padding=1, output_padding=2),
    _one("ConvTranspose2d", (1, 4, 3, 4), 4, 2, (2, 3), stride=(2, 1), dilation=(1, 2), groups=2,
         output_padding=(1, 0)),
    # output_padding may reach a stride, below the dilation
    _one("ConvTranspose2d", (1, 2, 3, 4), 2, 4, (2, 3), output_padding=(0, 2), groups=2,
         dilation=(1, 3)),
    _one("ConvTranspose3d", (1, 2, 2, 2, 3), 2, 2, 3, stride=2, padding=1, output_padding=1),
    _one("ReflectionPad1d", (2, 3, 5), (2, 1)),
    _one("ReflectionPad2d", (2, 4, 5), (2, 1, 0, 3)),
    _one("ReflectionPad3d", (1, 2, 3, 4, 3), 1),
    _one("ReplicationPad1d", (2, 3, 5), 3),
    _one("ReplicationPad2d", (1, 2, 4, 5), (2, 1, 0, 3)),
    _one("ReplicationPad3d", (1, 2, 2, 2, 2), 1),
    _one("CircularPad1d", (2, 3, 5), (2, 1)),
    _one("CircularPad2d", (1, 2, 4, 5), (2, 1, 0, 3)),
    _one("CircularPad3d", (1, 2, 2, 2, 2), 1),
    _one("ZeroPad1d", (2, 5), 2),
    _one("ZeroPad2d", (1, 2, 4, 5), (2, -1, -2, 3)),
    _one("ZeroPad3d", (1, 2, 2, 2, 2), 1),
    _one("ConstantPad1d", (2, 5), (1, 2), 3.5),
    _one("ConstantPad2d", (1, 4, 5), 2, -1.0),
    _one("ConstantPad3d", (1, 2, 2, 2, 2), 1, 0.5),
    _one("pad", (2, 3, 4), (1, 0, 2, 1), value=2.0),
    *[_one("pad", (2, 3, 4), (2, -2), mode=m) for m in ("reflect", "replicate", "circular")],
]  # fmt: skip

POOLING = [
    _one("MaxPool1d", (2, 3, 10), 3, stride=2, padding=1),
    _one("MaxPool2d", (2, 3, 8, 5), (3, 2), stride=(2, 1), padding=1, ceil_mode=True),
    _one("MaxPool3d", (1, 2, 4, 3, 5), 2, stride=1),
    Block("MaxPool1d", (3,), {"stride": 2, "padding": 1, "return_indices": True},
          (normal(2, 3, 10),), **_POOLED),
    Block("MaxPool2d", (2,), {"return_indices": True, "ceil_mode": True, "dilation": 2},
          (normal(2, 3, 7, 8),), **_POOLED),
    Block("MaxPool3d", (2,), {"return_indices": True}, (normal(1, 2, 4, 3, 5),), **_POOLED),
    # where all is -inf the first place inside of the image
    *[
        Block("MaxPool2d", (size,), {"return_indices": True, "padding": 1, **options},
              (Input(lambda rng: np.full((1, 2, 5, 6), -np.inf), smooth=False),), call=_places,
              how="of -inf")
        for size, options in ((3, {"stride": 1}), (2, {"dilation": 2}), ((2, 3), {}))
    ],
    Block("MaxPool3d", (3,), {"return_indices": True, "padding": 1, "stride": 2},
          (Input(lambda rng: np.where(rng.random((1, 2, 4, 3, 5)) < 0.2, 1.0, -np.inf),
                 smooth=False),), call=_places, how="of -inf"),
    _one("AvgPool1d", (2, 3, 10), 3, stride=2, padding=1),
    _one("AvgPool2d", (3, 8, 5), 3, stride=2, padding=1, count_include_pad=False),
    _one("AvgPool3d", (1, 2, 5, 3, 4), 2, ceil_mode=True),
    _one("AvgPool2d", (2, 5, 4), 3, 2, padding=1, divisor_override=4),
    _positive("LPPool1d", (2, 3, 9), 2, 3, stride=2),
    _positive("LPPool2d", (2, 3, 7, 6), 3, (2, 3), ceil_mode=True),
    _positive("LPPool2d", (2, 3, 7, 6), 1.5, 2),
    _positive("LPPool2d", (3, 7, 6), 1, 2),
    _positive("LPPool3d", (1, 2, 4, 4, 3), 2, 2),
    _one("AdaptiveAvgPool1d", (2, 3, 10), 4),
    _one("AdaptiveAvgPool2d", (2, 3, 7, 6), (3, 2)),
    _one("AdaptiveAvgPool2d", (3, 5, 6), (None, 4)),
    # an infinity stays in its own bins
    Block("AdaptiveAvgPool2d", ((3, 4),), {}, (array(_INFINITE),), how="of an infinity"),
    _one("AdaptiveAvgPool3d", (1, 2, 4, 3, 5), (2, 2, 3)),
    _one("AdaptiveMaxPool1d", (2, 3, 10), 4),
    _one("AdaptiveMaxPool2d", (2, 3, 7, 6), (3, 2)),
    _one("AdaptiveMaxPool2d", (3, 5, 6), 1),
    _one("AdaptiveMaxPool3d", (1, 2, 4, 3, 5), (2, 2, 3)),
    Block("AdaptiveMaxPool1d", (4,), {"return_indices": True}, (normal(2, 3, 10),), **_POOLED),
    Block("AdaptiveMaxPool2d", ((3, None),), {"return_indices": True}, (normal(2, 3, 7, 6),),
          **_POOLED),
    Block("AdaptiveMaxPool3d", ((2, 2, 3),), {"return_indices": True}, (normal(1, 2, 4, 3, 5),),
          **_POOLED),
    Block("MaxUnpool1d", (2,), {}, (normal(1, 2, 3), array([[[0, 3, 4], [1, 2, 5]]], "int"))),
    Block("MaxUnpool2d", (2,), {}, (normal(1, 1, 2, 2), _PLACES)),
    Block("MaxUnpool2d", (3,), {"stride": 2, "padding": 1}, (normal(1, 2, 2),
          array([[[0, 2], [7, 8]]], "int"))),
    Block("MaxUnpool3d", (2,), {}, (normal(1, 1, 1, 1, 2), array([[[[[3, 12]]]]], "int"))),
]  # fmt: skip

IMAGES = [
    *[_one("interpolate", (2, 3, 5, 7), size=(8, 4), mode=m) for m in ("nearest", "nearest-exact")],
    _one("interpolate", (2, 3, 5), size=8, mode="linear"),
    _one("interpolate", (2, 3, 5), size=8, mode="linear", align_corners=True),
    *[
        _one("interpolate", (2, 2, 5, 6), mode=mode, align_corners=corners, **to)
        for mode in ("bilinear", "bicubic")
        for corners in (False, True)
        for to in ({"size": (9, 4)}, {"scale_factor": (1.7, 0.6)})
    ],
    _one("interpolate", (2, 2, 5, 6), scale_factor=1.7, mode="bilinear",
         recompute_scale_factor=True),
    _one("interpolate", (1, 2, 3, 4, 3), size=(5, 2, 4), mode="trilinear"),
    _one("interpolate", (2, 2, 5, 6), size=(2, 3), mode="area"),
    *[
        _one("interpolate", (1, 2, 7, 9), mode=mode, antialias=True, **to)
        for mode in ("bilinear", "bicubic")
        for to in (
            {"size": (3, 12)},
            {"scale_factor": (0.3, 0.7)},
            # of a width of 1 PyTorch repeats the first row
            {"size": (4, 2), "align_corners": True},
        )
    ],
    _one("interpolate", (1, 1, 9, 4), scale_factor=(0.4, 1.6), mode="bicubic", antialias=True,
         recompute_scale_factor=True),
    Block("Upsample", (), {"size": (4, 3), "mode": "bicubic", "antialias": True},
          (normal(1, 2, 9, 8),), reference=lambda torch, x: torch.nn.functional.interpolate(
              x, (4, 3), mode="bicubic", antialias=True), formula="functional.interpolate"),
    _one("Upsample", (2, 3, 4), scale_factor=2),
    _one("Upsample", (1, 2, 3, 4), size=(5, 5), mode="bicubic"),
    _one("UpsamplingNearest2d", (1, 2, 3, 4), scale_factor=2),
    _one("UpsamplingBilinear2d", (1, 2, 3, 4), size=(5, 7)),
    _one("PixelShuffle", (2, 12, 3, 4), 2),
    _one("PixelShuffle", (18, 2, 3), 3),
    _one("PixelUnshuffle", (2, 3, 6, 4), 2),
    _one("ChannelShuffle", (2, 6, 3), 3),
    _one("Unfold", (2, 3, 5, 6), 3, padding=1),
    _one("Unfold", (3, 7, 6), (2, 3), dilation=(2, 1), padding=(0, 1), stride=(1, 2)),
    _one("Fold", (2, 27, 30), (5, 6), 3, padding=1),
    _one("Fold", (12, 10), (7, 6), (2, 3), dilation=(2, 1), padding=(0, 1), stride=(1, 3)),
]  # fmt: skip
