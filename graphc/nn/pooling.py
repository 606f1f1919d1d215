"""Pooling layers over one, two and three axes. Names and arguments are PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.module import Module

__all__ = ["AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d"]

#: an int for all axes, or one for each
PerAxis = int | Sequence[int]


class _MaxPool(Module):
    def __init__(
        self,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: PerAxis = 0,
        dilation: PerAxis = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.return_indices, self.ceil_mode = dilation, return_indices, ceil_mode

    def _with_indices(self, x: Value, rank: int, pooled: Value) -> Any:
        """The maxima, and with ``return_indices`` where they are in the image, row-major."""
        if not self.return_indices:
            return pooled
        return pooled, functional.max_pool_indices(x, *self._options, rank=rank)

    @property
    def _options(self) -> tuple[PerAxis, PerAxis | None, PerAxis, PerAxis, bool]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def _describe(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool1d(_MaxPool):
    """The largest of each window over the last axis of [N, C, L] (or [C, L]).

    ``stride`` defaults to ``kernel_size``; ``padding``, at most half of it, is never the largest;
    ``ceil_mode`` keeps a last window that reaches beyond the end. Of equal elements the first one
    has the derivative. With ``return_indices`` a pair: the maxima and their places, for MaxUnpool.
    """

    def forward(self, x: Value) -> Any:
        """[..., L] -> [..., L']."""
        return self._with_indices(x, 1, functional.max_pool1d(x, *self._options))


class MaxPool2d(_MaxPool):
    """As MaxPool1d, over the last two axes of [N, C, H, W] (or [C, H, W]).

    >>> import graphc as gc
    >>> MaxPool2d(2)(gc.observed("x", (4, 3, 8, 8))).shape
    (4, 3, 4, 4)
    """

    def forward(self, x: Value) -> Any:
        """[..., H, W] -> [..., H', W']."""
        return self._with_indices(x, 2, functional.max_pool2d(x, *self._options))


class MaxPool3d(_MaxPool):
    """As MaxPool1d, over the last three axes of [N, C, D, H, W] (or [C, D, H, W])."""

    def forward(self, x: Value) -> Any:
        """[..., D, H, W] -> [..., D', H', W']."""
        return self._with_indices(x, 3, functional.max_pool3d(x, *self._options))


class _AvgPool(Module):
    def __init__(
        self,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: PerAxis = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    @property
    def _options(self) -> tuple[PerAxis, PerAxis | None, PerAxis, bool, bool]:
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad

    def _describe(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """The mean of each window over the last axis of [N, C, L] (or [C, L]).

    ``stride`` defaults to ``kernel_size``; ``padding`` adds zeros, which count as elements unless
    ``count_include_pad`` is False; ``ceil_mode`` keeps a last window that reaches beyond the end.
    """

    def forward(self, x: Value) -> Value:
        """[..., L] -> [..., L']."""
        return functional.avg_pool1d(x, *self._options)


class _AvgPoolOfSpace(_AvgPool):
    def __init__(
        self,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: PerAxis = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.divisor_override = divisor_override


class AvgPool2d(_AvgPoolOfSpace):
    """As AvgPool1d, over the last two axes of [N, C, H, W] (or [C, H, W]); ``divisor_override``
    takes the place of the count.

    >>> import graphc as gc
    >>> AvgPool2d(3, stride=2, padding=1)(gc.observed("x", (4, 3, 8, 8))).shape
    (4, 3, 4, 4)
    """

    def forward(self, x: Value) -> Value:
        """[..., H, W] -> [..., H', W']."""
        return functional.avg_pool2d(x, *self._options, self.divisor_override)


class AvgPool3d(_AvgPoolOfSpace):
    """As AvgPool2d, over the last three axes of [N, C, D, H, W] (or [C, D, H, W])."""

    def forward(self, x: Value) -> Value:
        """[..., D, H, W] -> [..., D', H', W']."""
        return functional.avg_pool3d(x, *self._options, self.divisor_override)
