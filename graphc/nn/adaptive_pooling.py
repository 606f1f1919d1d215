"""Pooling to a given size, by powers, and back, as modules. Names and arguments are PyTorch's."""

from __future__ import annotations

from typing import Any

from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.module import Module

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]


class _Adaptive(Module):
    def __init__(self, output_size: Any) -> None:
        self.output_size = output_size

    def _describe(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """The mean of each of ``output_size`` bins of the last axis."""

    def forward(self, x: Value) -> Value:
        """[..., L] -> [..., L']."""
        return functional.adaptive_avg_pool1d(x, self.output_size)


class AdaptiveAvgPool2d(_Adaptive):
    """The mean of each of ``output_size`` bins of the last two axes."""

    def forward(self, x: Value) -> Value:
        """[..., H, W] -> [..., H', W']."""
        return functional.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveAvgPool3d(_Adaptive):
    """The mean of each of ``output_size`` bins of the last three axes."""

    def forward(self, x: Value) -> Value:
        """[..., D, H, W] -> [..., D', H', W']."""
        return functional.adaptive_avg_pool3d(x, self.output_size)


class _AdaptiveMax(_Adaptive):
    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices


class AdaptiveMaxPool1d(_AdaptiveMax):
    """The largest of each of ``output_size`` bins of the last axis.

    With ``return_indices`` a pair: the maxima, and where they are in the image, row-major.
    """

    def forward(self, x: Value) -> Any:
        """[..., L] -> [..., L']."""
        return functional.adaptive_max_pool1d(x, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMax):
    """The largest of each of ``output_size`` bins of the last two axes; as AdaptiveMaxPool1d.

    >>> import graphc as gc
    >>> pool = AdaptiveMaxPool2d((3, 2), return_indices=True)
    >>> [part.shape for part in pool(gc.observed("x", (2, 3, 7, 5)))]
    [(2, 3, 3, 2), (2, 3, 3, 2)]
    """

    def forward(self, x: Value) -> Any:
        """[..., H, W] -> [..., H', W']."""
        return functional.adaptive_max_pool2d(x, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(_AdaptiveMax):
    """The largest of each of ``output_size`` bins of the last three axes; as AdaptiveMaxPool1d."""

    def forward(self, x: Value) -> Any:
        """[..., D, H, W] -> [..., D', H', W']."""
        return functional.adaptive_max_pool3d(x, self.output_size, self.return_indices)


class _LPPool(Module):
    def __init__(
        self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
    ) -> None:
        if norm_type == 0:
            raise ValueError(f"{self._own_name}: norm_type must not be 0")
        self.norm_type, self.kernel_size = norm_type, kernel_size
        self.stride, self.ceil_mode = stride, ceil_mode

    @property
    def _options(self) -> tuple[float, Any, Any, bool]:
        return self.norm_type, self.kernel_size, self.stride, self.ceil_mode

    def _describe(self) -> str:
        return f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}"


class LPPool1d(_LPPool):
    """``(sum x^p)^(1/p)`` of each window over the last axis."""

    def forward(self, x: Value) -> Value:
        """[..., L] -> [..., L']."""
        return functional.lp_pool1d(x, *self._options)


class LPPool2d(_LPPool):
    """``(sum x^p)^(1/p)`` of each window over the last two axes."""

    def forward(self, x: Value) -> Value:
        """[..., H, W] -> [..., H', W']."""
        return functional.lp_pool2d(x, *self._options)


class LPPool3d(_LPPool):
    """``(sum x^p)^(1/p)`` of each window over the last three axes."""

    def forward(self, x: Value) -> Value:
        """[..., D, H, W] -> [..., D', H', W']."""
        return functional.lp_pool3d(x, *self._options)


class _MaxUnpool(Module):
    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    @property
    def _options(self) -> tuple[Any, Any, Any]:
        return self.kernel_size, self.stride, self.padding

    def _describe(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Zeros, and each maximum at its index, over the last axis."""

    def forward(self, x: Value, indices: Value, output_size: Any = None) -> Value:
        """[..., L'] and indices of its shape -> [..., L]."""
        return functional.max_unpool1d(x, indices, *self._options, output_size)


class MaxUnpool2d(_MaxUnpool):
    """Zeros, and each maximum at its index, over the last two axes."""

    def forward(self, x: Value, indices: Value, output_size: Any = None) -> Value:
        """[..., H', W'] and indices of its shape -> [..., H, W]."""
        return functional.max_unpool2d(x, indices, *self._options, output_size)


class MaxUnpool3d(_MaxUnpool):
    """Zeros, and each maximum at its index, over the last three axes."""

    def forward(self, x: Value, indices: Value, output_size: Any = None) -> Value:
        """[..., D', H', W'] and indices of its shape -> [..., D, H, W]."""
        return functional.max_unpool3d(x, indices, *self._options, output_size)
