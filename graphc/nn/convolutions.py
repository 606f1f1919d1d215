"""Convolution layers over one, two and three axes. Names, arguments and layouts are PyTorch's."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from graphc import ops
from graphc.dsl import parameter
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.module import Module
from graphc.ops.products import per_axis
from graphc.types import float32

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

#: an int for all axes, or one for each
PerAxis = int | Sequence[int]


class _Convolution(Module):
    """What all six share: weight and bias, and where they start."""

    #: how many axes it moves along
    rank = 0
    _transposed = False

    def _set(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        groups: int,
        bias: bool,
        dtype: object,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{self._own_name}: {groups} groups do not divide {in_channels} and {out_channels} "
                "channels"
            )
        kernel = (kernel_size,) * self.rank if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(kernel) != self.rank:
            raise ValueError(
                f"{self._own_name}: kernel_size is an int or {self.rank} ints, got {kernel_size}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.groups = kernel, groups
        first, second = in_channels, out_channels
        if not self._transposed:
            first, second = second, first
        shape = (first, second // groups, *kernel)
        draw_weight = functools.partial(init.kaiming_uniform, a=math.sqrt(5.0))
        self.weight = parameter(shape, dtype, init=draw_weight)
        fan_in, _ = init.fans(shape)
        bound = 1.0 / math.sqrt(fan_in) if fan_in else 0.0
        draw_bias = functools.partial(init.uniform, low=-bound, high=bound)
        self.bias = parameter((out_channels,), dtype, init=draw_bias) if bias else None


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: PerAxis | str = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: object = float32,
    ) -> None:
        if padding_mode not in _PADDING_MODES:
            raise ValueError(
                f"{self._own_name}: padding_mode is one of {', '.join(_PADDING_MODES)}, "
                f"not {padding_mode!r}"
            )
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.padding_mode = padding_mode
        self._set(in_channels, out_channels, kernel_size, groups, bias, dtype)

    def _bordered(self, x: Value) -> tuple[Value, PerAxis | str]:
        """x with its border, and the padding that is left to the convolution."""
        if self.padding_mode == "zeros":
            return x, self.padding
        given = self.padding, self.kernel_size, self.stride, self.dilation
        rims = functional.convolutions.rims_of(self._own_name, *given)
        around = [(0, 0)] * (x.ndim - self.rank)
        return ops.pad(x, [*around, *rims], mode=self.padding_mode), 0

    def _describe(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}"
        )


class Conv1d(_Conv):
    """Cross-correlation over one axis: [N, C, L] to [N, O, L'], of one sample [C, L] to [O, L'].

    ``weight`` [O, C / groups, K] and ``bias`` [O] start uniform within 1 / sqrt(C K / groups), as
    PyTorch's. ``padding`` is "valid", "same" or widths (see ``functional.conv1d``), of what
    ``padding_mode`` says: "zeros", "reflect", "replicate" or "circular".
    """

    rank = 1

    def forward(self, x: Value) -> Value:
        """[N, C, L] -> [N, O, L']."""
        x, padding = self._bordered(x)
        given = self.stride, padding, self.dilation, self.groups
        return functional.conv1d(x, self.weight, self.bias, *given)


class Conv2d(_Conv):
    """As Conv1d, over two axes: [N, C, H, W] to [N, O, H', W'].

    >>> import graphc as gc
    >>> layer = Conv2d(3, 8, 3, padding=1)
    >>> layer.weight.shape, layer(gc.observed("x", (4, 3, 9, 9))).shape
    ((8, 3, 3, 3), (4, 8, 9, 9))
    """

    rank = 2

    def forward(self, x: Value) -> Value:
        """[N, C, H, W] -> [N, O, H', W']."""
        x, padding = self._bordered(x)
        given = self.stride, padding, self.dilation, self.groups
        return functional.conv2d(x, self.weight, self.bias, *given)


class Conv3d(_Conv):
    """As Conv1d, over three axes: [N, C, D, H, W] to [N, O, D', H', W']."""

    rank = 3

    def forward(self, x: Value) -> Value:
        """[N, C, D, H, W] -> [N, O, D', H', W']."""
        x, padding = self._bordered(x)
        given = self.stride, padding, self.dilation, self.groups
        return functional.conv3d(x, self.weight, self.bias, *given)


class _ConvTranspose(_Convolution):
    _transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: PerAxis = 0,
        output_padding: PerAxis = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: PerAxis = 1,
        padding_mode: str = "zeros",
        *,
        dtype: object = float32,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f"{self._own_name}: padding_mode is 'zeros', not {padding_mode!r}")
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.output_padding = output_padding
        self._set(in_channels, out_channels, kernel_size, groups, bias, dtype)

    def _options(
        self, x: Value, output_size: Sequence[int] | None
    ) -> tuple[PerAxis, PerAxis, PerAxis, int, PerAxis]:
        more = self.output_padding if output_size is None else self._padding_to(x, output_size)
        return self.stride, self.padding, more, self.groups, self.dilation

    def _padding_to(self, x: Value, output_size: Sequence[int]) -> list[int]:
        """The output padding that makes an image of this size: with a stride, several sizes give
        ``x`` when they are convolved.
        """
        wanted = list(output_size)
        if len(wanted) not in (self.rank, x.ndim):
            raise ValueError(
                f"{self._own_name}: output_size has {self.rank} or {x.ndim} ints, got {output_size}"
            )
        shape = x.shape[x.ndim - self.rank :]
        steps, rims, gaps = (
            per_axis(self._own_name, name, given, self.rank)
            for name, given in (
                ("stride", self.stride), ("padding", self.padding), ("dilation", self.dilation)
            )
        )  # fmt: skip
        found: list[int] = []
        for axis, size in enumerate(wanted[-self.rank :]):
            extent = shape[axis]
            if not isinstance(extent, int):
                raise ValueError(
                    f"{self._own_name}: output_size needs a known size, {x.type} has {extent}"
                )
            least = (
                (extent - 1) * steps[axis] - 2 * rims[axis]
                + gaps[axis] * (self.kernel_size[axis] - 1) + 1
            )  # fmt: skip
            if not least <= size < least + steps[axis]:
                raise ValueError(
                    f"{self._own_name}: output_size {output_size} asks for {size} elements; from "
                    f"{extent} on that axis it makes {least} to {least + steps[axis] - 1}"
                )
            found.append(size - least)
        return found

    def _describe(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, output_padding={self.output_padding}"
        )


class ConvTranspose1d(_ConvTranspose):
    """The derivative of a Conv1d towards its image, as a layer: [N, C, L] to [N, O, L'].

    L' is (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1: with a stride it
    grows, and ``output_size`` at the call says which of ``stride`` sizes is meant. ``weight``
    [C, O / groups, K] and ``bias`` [O] start uniform within 1 / sqrt(O K / groups), as PyTorch's.
    """

    rank = 1

    def forward(self, x: Value, output_size: Sequence[int] | None = None) -> Value:
        """[N, C, L] -> [N, O, L']."""
        options = self._options(x, output_size)
        return functional.conv_transpose1d(x, self.weight, self.bias, *options)


class ConvTranspose2d(_ConvTranspose):
    """As ConvTranspose1d, over two axes: [N, C, H, W] to [N, O, H', W'].

    >>> import graphc as gc
    >>> layer = ConvTranspose2d(8, 3, 4, stride=2, padding=1)
    >>> layer.weight.shape, layer(gc.observed("x", (4, 8, 7, 7))).shape
    ((8, 3, 4, 4), (4, 3, 14, 14))
    >>> layer(gc.observed("x", (4, 8, 7, 7)), output_size=(15, 14)).shape
    (4, 3, 15, 14)
    """

    rank = 2

    def forward(self, x: Value, output_size: Sequence[int] | None = None) -> Value:
        """[N, C, H, W] -> [N, O, H', W']."""
        options = self._options(x, output_size)
        return functional.conv_transpose2d(x, self.weight, self.bias, *options)


class ConvTranspose3d(_ConvTranspose):
    """As ConvTranspose1d, over three axes: [N, C, D, H, W] to [N, O, D', H', W']."""

    rank = 3

    def forward(self, x: Value, output_size: Sequence[int] | None = None) -> Value:
        """[N, C, D, H, W] -> [N, O, D', H', W']."""
        options = self._options(x, output_size)
        return functional.conv_transpose3d(x, self.weight, self.bias, *options)
