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

from graphc.philox import Key, draw_key, normal_float64
from graphc.philox import uniform as uniform_bits
from graphc.types import DType

__all__ = [
    "calculate_gain",
    "constant",
    "dirac",
    "eye",
    "fans",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "sparse",
    "trunc_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

_GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75}
_GAINS |= {f"conv{t}{n}d": 1.0 for t in ("", "_transpose") for n in (1, 2, 3)}


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


def trunc_normal(
    shape: tuple[int, ...],
    dtype: DType,
    key: Key,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
) -> NDArray[Any]:
    """Normal, within [a, b]: what falls outside is drawn again. a and b are values, not deviations.

    Where [a, b] is narrow, uniform numbers are accepted by the density instead. The mean must lie
    within two standard deviations of [a, b], so that neither takes long.

    >>> from graphc.types import float32
    >>> bool(abs(trunc_normal((1000,), float32, (0, 0), std=0.02, a=-0.04, b=0.04)).max() <= 0.04)
    True
    """
    if not std > 0.0 or not a < b or not a - 2.0 * std <= mean <= b + 2.0 * std:
        raise ValueError(
            "trunc_normal: need std > 0, a < b and a mean within 2 std of [a, b]; got "
            f"mean={mean}, std={std}, a={a}, b={b}"
        )
    low, high = (a - mean) / std, (b - mean) / std
    nearest = min(max(low, 0.0), high)  # where the density is largest
    found = np.empty(math.prod(shape))
    missing, round = np.arange(found.size), 0
    while missing.size:
        drawn, chance = draw_key(key, (round, 0, 0, 3)), draw_key(key, (round, 0, 0, 4))
        if high - low > 2.0:
            z = normal_float64(drawn, missing.shape)
            good = (low <= z) & (z <= high)
        else:
            z = low + (high - low) * uniform_bits(drawn, missing.shape).astype(np.float64)
            density = np.exp((nearest * nearest - z * z) / 2.0)
            good = uniform_bits(chance, missing.shape) < density
        found[missing[good]] = mean + std * z[good]
        missing, round = missing[~good], round + 1
    return np.clip(found, a, b).reshape(shape).astype(dtype.numpy)


def orthogonal(
    shape: tuple[int, ...], dtype: DType, key: Key, *, gain: float = 1.0
) -> NDArray[Any]:
    """``gain`` times a random matrix with orthonormal rows or columns, whichever are fewer.

    All axes after the first count as columns. Saxe, McClelland, Ganguli, "Exact solutions to the
    nonlinear dynamics of learning in deep linear neural networks", 2014.
    """
    if len(shape) < 2:
        raise ValueError(f"orthogonal: needs at least two axes, got shape {shape}")
    rows, columns = shape[0], math.prod(shape[1:])
    drawn = normal_float64(key, (max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q = q * np.where(np.diag(r) < 0.0, -1.0, 1.0)  # makes the distribution uniform
    return (gain * (q.T if rows < columns else q)).reshape(shape).astype(dtype.numpy)


def sparse(
    shape: tuple[int, ...], dtype: DType, key: Key, *, sparsity: float, std: float = 0.01
) -> NDArray[Any]:
    """Normal, but in each column of a matrix the share ``sparsity`` is zero, at random places.

    Martens, "Deep learning via Hessian-free optimization", 2010.
    """
    if len(shape) != 2 or not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"sparse: needs two axes and 0 <= sparsity <= 1; got {shape}, {sparsity}")
    drawn = normal(shape, dtype, key, std=std)
    order = np.argsort(uniform_bits(draw_key(key, (0, 0, 0, 3)), shape), axis=0, kind="stable")
    zeros = order[: math.ceil(sparsity * shape[0])]
    np.put_along_axis(drawn, zeros, np.zeros((), drawn.dtype), axis=0)
    return drawn


def eye(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
    """The identity matrix, as far as it fits: a layer that begins by passing its input on."""
    if len(shape) != 2:
        raise ValueError(f"eye: needs two axes, got shape {shape}")
    return np.eye(*shape, dtype=dtype.numpy)


def dirac(shape: tuple[int, ...], dtype: DType, key: Key, *, groups: int = 1) -> NDArray[Any]:
    """A convolution (out, in, *kernel) that passes its channels on, in each of ``groups``."""
    if len(shape) not in (3, 4, 5) or groups < 1 or shape[0] % groups:
        raise ValueError(
            f"dirac: needs the shape of a convolution whose channels fall into {groups} groups, "
            f"got {shape}"
        )
    weight: NDArray[Any] = np.zeros(shape, dtype.numpy)
    each = shape[0] // groups
    for i in range(shape[0]):
        if i % each < shape[1]:
            weight[(i, i % each, *(k // 2 for k in shape[2:]))] = 1
    return weight


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


def lecun_uniform(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
    """Uniform within ``sqrt(3 / fan_in)``: variance 1 / fan_in (LeCun et al. 1998)."""
    bound = math.sqrt(3.0 / max(fans(shape)[0], 1))
    return uniform(shape, dtype, key, low=-bound, high=bound)


def lecun_normal(shape: tuple[int, ...], dtype: DType, key: Key) -> NDArray[Any]:
    """Normal with standard deviation ``1 / sqrt(fan_in)``: what SELU needs (Klambauer 2017)."""
    return normal(shape, dtype, key, std=1.0 / math.sqrt(max(fans(shape)[0], 1)))
