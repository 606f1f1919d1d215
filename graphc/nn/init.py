"""First values of parameters: ``init(shape, dtype, key) -> array``, by the names of
``torch.nn.init``.

A key is two 32-bit words; the same key gives the same numbers on every machine. What ``parameter``
takes is a function of shape, dtype and key: ``constant(0.1)``, ``uniform(-1, 1)``,
``kaiming_uniform()`` make one. The layout is PyTorch's: ``(out, in, *kernel)``; leading
``batch_axes`` (one matrix per expert, say) do not count towards the fans.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.philox import Key, normal_float64
from graphc.philox import uniform as uniform_bits
from graphc.state import Initializer
from graphc.types import DType

__all__ = [
    "calculate_gain",
    "constant",
    "fans",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

_GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75}


def constant(value: float) -> Initializer:
    """Every element ``value``."""

    def initialize(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
        return np.full(shape, value, dtype.numpy)

    return initialize


def zeros(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
    """Zeros."""
    return np.zeros(shape, dtype.numpy)


def ones(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
    """Ones."""
    return np.ones(shape, dtype.numpy)


def uniform(low: float = 0.0, high: float = 1.0) -> Initializer:
    """Uniform in [low, high)."""

    def initialize(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
        unit = uniform_bits(key, shape)
        return (np.float32(low) + np.float32(high - low) * unit).astype(dtype.numpy)

    return initialize


def normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    """Normal with the given mean and standard deviation."""

    def initialize(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
        return (mean + std * normal_float64(key, shape)).astype(dtype.numpy)

    return initialize


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity (``torch.nn.init.calculate_gain``).

    ``param`` is the negative slope of ``leaky_relu`` (0.01 unless said).

    >>> calculate_gain("relu") == math.sqrt(2)
    True
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1.0 + slope**2))
    if nonlinearity not in _GAINS:
        known = ", ".join([*_GAINS, "leaky_relu"])
        raise ValueError(f"no gain for {nonlinearity!r}; one of {known}")
    return _GAINS[nonlinearity]


def fans(shape: tuple[int, ...], batch_axes: tuple[int, ...] = ()) -> tuple[int, int]:
    """(fan in, fan out) of a weight ``(out, in, *kernel)``, its batch axes left out.

    >>> fans((64, 3, 5, 5)), fans((8, 256, 1024), batch_axes=(0,))
    ((75, 1600), (1024, 256))
    """
    kept = [n for axis, n in enumerate(shape) if axis not in batch_axes]
    if len(kept) < 2:
        raise ValueError(f"fans need at least two axes (out, in, ...), got shape {shape}")
    window = math.prod(kept[2:])
    return kept[1] * window, kept[0] * window


def kaiming_uniform(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    batch_axes: tuple[int, ...] = (),
) -> Initializer:
    """Uniform within ``gain * sqrt(3 / fan)`` (He et al., "Delving Deep into Rectifiers", 2015).

    ``a`` is the negative slope after the layer; ``a=sqrt(5)`` is PyTorch's default for Linear and
    convolutions and means a bound of ``1 / sqrt(fan_in)``.
    """

    def initialize(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
        bound = math.sqrt(3.0) * _kaiming_std(shape, a, mode, nonlinearity, batch_axes)
        return uniform(-bound, bound)(shape, dtype, key)

    return initialize


def kaiming_normal(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    batch_axes: tuple[int, ...] = (),
) -> Initializer:
    """Normal with standard deviation ``gain / sqrt(fan)`` (He et al. 2015)."""

    def initialize(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
        return normal(0.0, _kaiming_std(shape, a, mode, nonlinearity, batch_axes))(
            shape, dtype, key
        )

    return initialize


def _kaiming_std(
    shape: tuple[int, ...], a: float, mode: str, nonlinearity: str, batch_axes: tuple[int, ...]
) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is 'fan_in' or 'fan_out', not {mode!r}")
    fan = fans(shape, batch_axes)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def xavier_uniform(gain: float = 1.0, batch_axes: tuple[int, ...] = ()) -> Initializer:
    """Uniform within ``gain * sqrt(6 / (fan_in + fan_out))`` (Glorot, Bengio 2010)."""

    def initialize(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
        bound = gain * math.sqrt(6.0 / max(sum(fans(shape, batch_axes)), 1))
        return uniform(-bound, bound)(shape, dtype, key)

    return initialize


def xavier_normal(gain: float = 1.0, batch_axes: tuple[int, ...] = ()) -> Initializer:
    """Normal with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot 2010)."""

    def initialize(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
        std = gain * math.sqrt(2.0 / max(sum(fans(shape, batch_axes)), 1))
        return normal(0.0, std)(shape, dtype, key)

    return initialize
