"""Layers that add noise in mode train and are the identity in mode eval."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.module import Module

__all__ = [
    "AlphaDropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "GaussianNoise",
]


class _Noise(Module):
    """A function of (x, p)."""

    _function: ClassVar[Callable[[object, float], Value]]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"{type(self).__name__}: p is a probability in [0, 1], not {p}")
        self.p = p

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return type(self)._function(x, self.p)

    def _describe(self) -> str:
        return f"p={self.p}"


class Dropout1d(_Noise):
    """Whole channels of [N, C, L] dropped; see ``functional.dropout1d``."""

    _function = staticmethod(functional.dropout1d)


class Dropout2d(_Noise):
    """Whole channels of [N, C, H, W] dropped; see ``functional.dropout2d``."""

    _function = staticmethod(functional.dropout2d)


class Dropout3d(_Noise):
    """Whole channels of [N, C, D, H, W] dropped; see ``functional.dropout3d``."""

    _function = staticmethod(functional.dropout3d)


class AlphaDropout(_Noise):
    """Dropout that keeps mean and variance behind SELU; see ``functional.alpha_dropout``."""

    _function = staticmethod(functional.alpha_dropout)


class FeatureAlphaDropout(_Noise):
    """AlphaDropout of whole channels; see ``functional.feature_alpha_dropout``."""

    _function = staticmethod(functional.feature_alpha_dropout)


class GaussianNoise(Module):
    """``x + std * normal`` in mode train; see ``functional.gaussian_noise``.

    On a weight it is a parametrization:
    ``nn.utils.parametrize.register_parametrization(layer, "weight", GaussianNoise(0.01))``.

    >>> import graphc as gc
    >>> GaussianNoise(0.2)(gc.observed("x", (2, 3))).shape
    (2, 3)
    """

    def __init__(self, std: float = 0.1, relative: bool = False) -> None:
        if not std >= 0.0:
            raise ValueError(f"GaussianNoise: std is at least 0, not {std}")
        self.std, self.relative = std, relative

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.gaussian_noise(x, self.std, self.relative)

    def _describe(self) -> str:
        return f"std={self.std}, relative={self.relative}"
