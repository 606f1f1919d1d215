"""First values of parameters: ``init(shape, dtype, key) -> array``, by the names of
``torch.nn.init``.

A key is two 32-bit words; the same key gives the same numbers on every machine. Options are bound
with ``functools.partial(nn.init.normal, std=0.02)``. Weights are laid out as PyTorch's:
``(out, in, *kernel)``. Batch axes (one matrix per expert, say) are ``parameter``'s business: it
calls the initializer once per batch element, so the fans stay right.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.philox import Key, normal_float64
from graphc.philox import uniform as uniform_bits
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


def constant(shape: tuple[int, ...], dtype: DType, key: Key, *, value: float) -> NDArray[Any]:
    """Every element ``value``."""
    return np.full(shape, value, dtype.numpy)


def zeros(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
    """Zeros."""
    return np.zeros(shape, dtype.numpy)


def ones(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
    """Ones."""
    return np.ones(shape, dtype.numpy)


def uniform(
    shape: tuple[int, ...], dtype: DType, key: Key, *, low: float = 0.0, high: float = 1.0
) -> NDArray[Any]:
    """Uniform in [low, high).

    >>> from graphc.types import float32
    >>> uniform((2,), float32, (0, 0), low=-1.0)
    array([-0.20190716,  0.76104033], dtype=float32)
    """
    drawn = uniform_bits(key, shape)
    drawn *= np.float32(high - low)
    drawn += np.float32(low)
    return drawn.astype(dtype.numpy, copy=False)


def normal(
    shape: tuple[int, ...], dtype: DType, key: Key, *, mean: float = 0.0, std: float = 1.0
) -> NDArray[Any]:
    """Normal with the given mean and standard deviation."""
    return (mean + std * normal_float64(key, shape)).astype(dtype.numpy)


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


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan in, fan out) of a weight ``(out, in, *kernel)``.

    >>> fans((64, 3, 5, 5))
    (75, 1600)
    """
    if len(shape) < 2:
        raise ValueError(f"fans need at least two axes (out, in, ...), got shape {shape}")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def kaiming_uniform(
    shape: tuple[int, ...],
    dtype: DType,
    key: Key,
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
) -> NDArray[Any]:
    """Uniform within ``gain * sqrt(3 / fan)`` (He et al., "Delving Deep into Rectifiers", 2015).

    ``a`` is the negative slope after the layer; ``a=sqrt(5)`` is PyTorch's default for Linear and
    convolutions and means a bound of ``1 / sqrt(fan_in)``.
    """
    bound = math.sqrt(3.0) * _kaiming_std(shape, a, mode, nonlinearity)
    return uniform(shape, dtype, key, low=-bound, high=bound)


def kaiming_normal(
    shape: tuple[int, ...],
    dtype: DType,
    key: Key,
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
) -> NDArray[Any]:
    """Normal with standard deviation ``gain / sqrt(fan)`` (He et al. 2015)."""
    return normal(shape, dtype, key, std=_kaiming_std(shape, a, mode, nonlinearity))


def _kaiming_std(shape: tuple[int, ...], a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is 'fan_in' or 'fan_out', not {mode!r}")
    fan = fans(shape)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def xavier_uniform(
    shape: tuple[int, ...], dtype: DType, key: Key, *, gain: float = 1.0
) -> NDArray[Any]:
    """Uniform within ``gain * sqrt(6 / (fan_in + fan_out))`` (Glorot, Bengio 2010)."""
    bound = gain * math.sqrt(6.0 / max(sum(fans(shape)), 1))
    return uniform(shape, dtype, key, low=-bound, high=bound)


def xavier_normal(
    shape: tuple[int, ...], dtype: DType, key: Key, *, gain: float = 1.0
) -> NDArray[Any]:
    """Normal with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot 2010)."""
    return normal(shape, dtype, key, std=gain * math.sqrt(2.0 / max(sum(fans(shape)), 1)))
