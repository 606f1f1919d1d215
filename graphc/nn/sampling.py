"""Images of other sizes, patches and borders, as modules. Names and arguments are PyTorch's; the
formulas stand in ``nn.functional``.
"""

from __future__ import annotations

from typing import Any

from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.module import Module

__all__ = [
    "ChannelShuffle",
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "Fold",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "Unfold",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class Upsample(Module):
    """x at another size; see ``functional.interpolate``."""

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        antialias: bool = False,
    ) -> None:
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor
        self.antialias = antialias

    def forward(self, x: Value) -> Value:
        """[N, C, *space] -> [N, C, *space']."""
        return functional.interpolate(
            x,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
            self.antialias,
        )

    def _describe(self) -> str:
        to = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{to}, mode={self.mode!r}" + (", antialias=True" if self.antialias else "")


class UpsamplingNearest2d(Upsample):
    """Upsample of images with mode "nearest"."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """Upsample of images with mode "bilinear" and aligned corners."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "bilinear", align_corners=True)


class PixelShuffle(Module):
    """Channels become pixels: [.., C r^2, H, W] to [.., C, H r, W r]."""

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = upscale_factor

    def forward(self, x: Value) -> Value:
        """[.., C r^2, H, W] -> [.., C, H r, W r]."""
        return functional.pixel_shuffle(x, self.upscale_factor)

    def _describe(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Pixels become channels: the inverse of PixelShuffle."""

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = downscale_factor

    def forward(self, x: Value) -> Value:
        """[.., C, H r, W r] -> [.., C r^2, H, W]."""
        return functional.pixel_unshuffle(x, self.downscale_factor)

    def _describe(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Channels of ``groups`` groups dealt out in turn."""

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.channel_shuffle(x, self.groups)

    def _describe(self) -> str:
        return f"groups={self.groups}"


class Unfold(Module):
    """Patches as columns: [N, C, H, W] to [N, C k k, L]."""

    def __init__(
        self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ) -> None:
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    @property
    def _options(self) -> tuple[Any, Any, Any, Any]:
        return self.kernel_size, self.dilation, self.padding, self.stride

    def forward(self, x: Value) -> Value:
        """[N, C, H, W] -> [N, C k k, L]."""
        return functional.unfold(x, *self._options)

    def _describe(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"


class Fold(Unfold):
    """Columns back to patches that add up: [N, C k k, L] to [N, C, *output_size]."""

    def __init__(
        self,
        output_size: Any,
        kernel_size: Any,
        dilation: Any = 1,
        padding: Any = 0,
        stride: Any = 1,
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, x: Value) -> Value:
        """[N, C k k, L] -> [N, C, H, W]."""
        return functional.fold(x, self.output_size, *self._options)

    def _describe(self) -> str:
        return f"{self.output_size}, {super()._describe()}"


# ---- borders


class _Pad(Module):
    _rank, _mode = 0, "constant"

    def __init__(self, padding: Any) -> None:
        given = (padding,) * (2 * self._rank) if isinstance(padding, int) else tuple(padding)
        if len(given) != 2 * self._rank:
            raise ValueError(
                f"{self._own_name}: padding is an int or {2 * self._rank} ints, low and high from "
                f"the last axis on; got {padding}"
            )
        self.padding = given
        self.value: float | None = None

    def forward(self, x: Value) -> Value:
        """[.., *space] -> [.., *space'], larger by the border."""
        return functional.pad(x, self.padding, self._mode, self.value)

    def _describe(self) -> str:
        value = "" if self.value is None else f", value={self.value}"
        return f"{self.padding}{value}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value


class ConstantPad1d(_ConstantPad):
    """A border of ``value`` around the last axis."""

    _rank = 1


class ConstantPad2d(_ConstantPad):
    """A border of ``value`` around the last two axes."""

    _rank = 2


class ConstantPad3d(_ConstantPad):
    """A border of ``value`` around the last three axes."""

    _rank = 3


class ZeroPad1d(_Pad):
    """A border of zeros around the last axis."""

    _rank = 1


class ZeroPad2d(_Pad):
    """A border of zeros around the last two axes."""

    _rank = 2


class ZeroPad3d(_Pad):
    """A border of zeros around the last three axes."""

    _rank = 3


class ReflectionPad1d(_Pad):
    """A border that mirrors what is inside around the last axis."""

    _rank, _mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """A border that mirrors what is inside around the last two axes."""

    _rank, _mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """A border that mirrors what is inside around the last three axes."""

    _rank, _mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """A border of the outermost elements around the last axis."""

    _rank, _mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """A border of the outermost elements around the last two axes."""

    _rank, _mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """A border of the outermost elements around the last three axes."""

    _rank, _mode = 3, "replicate"


class CircularPad1d(_Pad):
    """A border of the other end's elements around the last axis."""

    _rank, _mode = 1, "circular"


class CircularPad2d(_Pad):
    """A border of the other end's elements around the last two axes."""

    _rank, _mode = 2, "circular"


class CircularPad3d(_Pad):
    """A border of the other end's elements around the last three axes."""

    _rank, _mode = 3, "circular"
