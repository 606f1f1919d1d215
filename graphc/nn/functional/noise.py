"""Noise that regularizes: whole channels dropped, alpha dropout, Gaussian noise."""

from __future__ import annotations

import math

from graphc import ops, random
from graphc.dsl import by_mode
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.op import composite
from graphc.ops.lifting import lift_one
from graphc.source import here
from graphc.types import Extent

__all__ = [
    "alpha_dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "gaussian_noise",
]

#: where SELU's negative side ends: -scale * alpha (Klambauer et al. 2017)
_SATURATED = -1.7580993408473766


def _channels(name: str, x: Value, ranks: tuple[int, ...], without: int) -> tuple[Extent, ...]:
    """The shape of one draw for each channel: x's, the axes behind the channels 1."""
    if x.ndim not in ranks:
        axes = " or ".join(map(str, ranks))
        raise ShapeError(f"{name}: x is {x.type}, it must have {axes} axes", here())
    lead = 1 if x.ndim == without else 2
    return (*x.shape[:lead], *(1 for _ in x.shape[lead:]))


def _probability(name: str, p: float) -> float:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name}: p is a probability in [0, 1], not {p}")
    return p


def _dropped(x: Value, shape: tuple[Extent, ...], p: float) -> Value:
    """In mode train zero where a draw of ``shape`` is below ``p``, else scaled."""
    if p == 0.0:
        return x
    scale = 0.0 if p == 1.0 else 1.0 / (1.0 - p)
    kept = ops.where(random.uniform(shape) >= p, x * scale, 0.0)
    chosen: Value = by_mode(train=kept, eval=x)
    return chosen


@composite
def dropout1d(x: object, p: float = 0.5) -> Value:
    """As dropout, but a channel [L] of [N, C, L] (or [C, L]) is kept or dropped as a whole.

    Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2015.

    >>> import graphc as gc
    >>> dropout1d(gc.observed("x", (2, 3, 5))).shape
    (2, 3, 5)
    """
    value = lift_one("dropout1d", x)
    shape = _channels("dropout1d", value, (2, 3), 2)
    return _dropped(value, shape, _probability("dropout1d", p))


@composite
def dropout2d(x: object, p: float = 0.5) -> Value:
    """As dropout1d, of channels [H, W] of [N, C, H, W].

    PyTorch takes three axes as [N, C, L]; so does this.
    """
    value = lift_one("dropout2d", x)
    shape = _channels("dropout2d", value, (3, 4), 0)
    return _dropped(value, shape, _probability("dropout2d", p))


@composite
def dropout3d(x: object, p: float = 0.5) -> Value:
    """As dropout1d, of channels [D, H, W] of [N, C, D, H, W] (or [C, D, H, W])."""
    value = lift_one("dropout3d", x)
    shape = _channels("dropout3d", value, (4, 5), 4)
    return _dropped(value, shape, _probability("dropout3d", p))


@composite
def alpha_dropout(x: object, p: float = 0.5) -> Value:
    """In mode train each element becomes SELU's saturation with probability ``p``, and all are
    scaled and shifted so that mean 0 and variance 1 stay: ``a (x or s) + b``,
    ``a = 1 / sqrt((1 - p)(1 + p s^2))``, ``b = -a p s``.

    Klambauer et al., "Self-Normalizing Neural Networks", 2017.

    >>> import graphc as gc
    >>> alpha_dropout(gc.observed("x", (2, 3))).shape
    (2, 3)
    """
    value = lift_one("alpha_dropout", x)
    return _saturated(value, value.shape, _probability("alpha_dropout", p))


@composite
def feature_alpha_dropout(x: object, p: float = 0.5) -> Value:
    """As alpha_dropout, a channel [...] of [N, C, ...] as a whole."""
    value = lift_one("feature_alpha_dropout", x)
    shape = _channels("feature_alpha_dropout", value, (2, 3, 4, 5), 0)
    return _saturated(value, shape, _probability("feature_alpha_dropout", p))


def _saturated(x: Value, shape: tuple[Extent, ...], p: float) -> Value:
    if p == 0.0:
        return x
    if p == 1.0:
        gone: Value = by_mode(train=x * 0.0, eval=x)
        return gone
    a = 1.0 / math.sqrt((1.0 - p) * (1.0 + p * _SATURATED**2))
    mixed = ops.where(random.uniform(shape) >= p, x, _SATURATED)
    chosen: Value = by_mode(train=a * mixed - a * p * _SATURATED, eval=x)
    return chosen


@composite
def gaussian_noise(x: object, std: float = 0.1, relative: bool = False) -> Value:
    """In mode train ``x + std * normal``, with ``relative`` ``x (1 + std * normal)``; in eval x.

    Of an input it is data augmentation, of a weight a smoother minimum (Graves 2011; Srivastava et
    al. 2014 for the relative form).

    >>> import graphc as gc
    >>> gaussian_noise(gc.observed("x", (2, 3))).shape
    (2, 3)
    """
    value = lift_one("gaussian_noise", x)
    if not std >= 0.0:
        raise ValueError(f"gaussian_noise: std is at least 0, not {std}")
    noise = std * random.normal(value.shape, dtype=value.dtype)
    chosen: Value = by_mode(train=value + (value * noise if relative else noise), eval=value)
    return chosen
