"""NumPy references of the scalar ops that NumPy does not have, or leaves undefined somewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.types import DType, dtype_of

__all__ = [
    "cast_to",
    "derive_key",
    "divide",
    "erf",
    "erfc",
    "fused_multiply_add",
    "philox",
    "power",
    "random_bits",
    "reciprocal_sqrt",
    "shift_left",
    "shift_right",
    "sigmoid",
]

Array = NDArray[Any]

_erf64 = np.vectorize(math.erf, otypes=[np.float64])
_erfc64 = np.vectorize(math.erfc, otypes=[np.float64])


def divide(a: Array, b: Array) -> Array:
    """a / b; integers are converted to f32 first."""
    if a.dtype.kind in "iu":
        return np.divide(a.astype(np.float32), b.astype(np.float32))
    return np.divide(a, b)


def power(base: Array, exponent: Array) -> Array:
    """base ** exponent; an integer with a negative exponent rounds towards zero (0 for base 0)."""
    if base.dtype.kind in "iu":
        return _integer_power(base, exponent)
    if exponent.dtype.kind in "iu":
        wide = np.power(base.astype(np.float64), exponent.astype(np.float64))
        return wide.astype(base.dtype)
    return np.power(base, exponent)


def _integer_power(base: Array, exponent: Array) -> Array:
    negative = exponent < 0
    powers = np.power(base, np.where(negative, -exponent, exponent).astype(exponent.dtype))
    unit = (base == 1) | (base == -1) if base.dtype.kind == "i" else base == 1
    rounded = np.where(negative & ~unit, np.zeros((), base.dtype), powers)
    return np.asarray(rounded, base.dtype)


def reciprocal_sqrt(x: Array) -> Array:
    """1 / sqrt(x)."""
    return np.divide(np.ones((), x.dtype), np.sqrt(x))


def erf(x: Array) -> Array:
    """The error function, computed in f64."""
    return np.asarray(_erf64(x)).astype(x.dtype)


def erfc(x: Array) -> Array:
    """1 - erf(x), computed in f64 without cancellation."""
    return np.asarray(_erfc64(x)).astype(x.dtype)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow on either side."""
    small = np.exp(-np.abs(x))
    one = np.ones((), x.dtype)
    return np.asarray(np.where(x >= 0, one / (one + small), small / (one + small)), x.dtype)


def shift_left(a: Array, count: Array) -> Array:
    """a << count; 0 where count is outside 0..bits-1."""
    inside, safe = _shift_count(a, count)
    return np.where(inside, np.left_shift(a, safe), np.zeros((), a.dtype)).astype(a.dtype)


def shift_right(a: Array, count: Array) -> Array:
    """a >> count, arithmetic for signed types; 0 or -1 where count is outside 0..bits-1."""
    inside, safe = _shift_count(a, count)
    emptied = np.where(a < 0, np.array(-1).astype(a.dtype), np.zeros((), a.dtype))
    return np.where(inside, np.right_shift(a, safe), emptied).astype(a.dtype)


def _shift_count(a: Array, count: Array) -> tuple[Array, Array]:
    inside = (count >= 0) & (count < a.dtype.itemsize * 8)
    return inside, np.where(inside, count, 0).astype(a.dtype)


# ---- fused multiply-add: exact product, one rounding


def fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded once.

    Narrow types: the product is exact in f64 and the sum is rounded to odd there, so that the
    rounding to the narrow type is the only one that counts. f64: Boldo and Melquiond, "Emulation of
    FMA and correctly rounded sums", 2008.
    """
    x, y, z = (v.astype(np.float64) for v in np.broadcast_arrays(a, b, c))
    if a.dtype != np.float64:
        total, error = _two_sum(x * y, z)
        return _rounded_to_odd(total, error).astype(a.dtype)
    high, low = _two_product(x, y)
    inner, inner_error = _two_sum(z, low)
    outer, outer_error = _two_sum(high, inner)
    exact = outer + _rounded_to_odd(*_two_sum(outer_error, inner_error))
    return np.where(np.isfinite(exact), exact, x * y + z)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    product = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _split(a: Array) -> tuple[Array, Array]:
    scaled = a * np.float64(2**27 + 1)
    high = scaled - (scaled - a)
    return high, a - high


def _rounded_to_odd(total: Array, error: Array) -> Array:
    """The sum ``total`` + ``error``, given its nearest value and rest, rounded to an odd last
    bit.
    """
    bits = np.asarray(total).view(np.int64)
    even = (bits & 1) == 0
    away = np.where((error > 0) == (total > 0), 1, -1)
    moved = (bits + away).view(np.float64)
    inexact = np.isfinite(total) & np.isfinite(error) & (error != 0) & (total != 0)
    return np.where(inexact & even, moved, total)


# ---- casts


def cast_to(dtype: DType) -> Callable[[Array], Array]:
    """The conversion to ``dtype``: floats saturate in integers, integers wrap in integers."""
    if dtype.kind == "b":
        return lambda x: np.asarray(x != np.zeros((), x.dtype))

    def convert(x: Array) -> Array:
        if dtype.is_integer and dtype_of(x.dtype).is_float:
            return _saturated(x.astype(np.float64), dtype)
        return x.astype(dtype.numpy)

    return convert


def _saturated(x: Array, dtype: DType) -> Array:
    lowest, highest = int(np.iinfo(dtype.numpy).min), int(np.iinfo(dtype.numpy).max)
    whole = np.trunc(x)
    below, above = whole <= float(lowest), whole >= float(highest)
    inside = np.where(below | above | np.isnan(x), 0.0, whole).astype(dtype.numpy)
    limits = np.where(below, np.array(lowest, dtype.numpy), np.array(highest, dtype.numpy))
    return np.where(below | above, limits, inside)


# ---- random bits


def philox(key: Array, counter: tuple[Array, Array, Array, Array]) -> tuple[Array, ...]:
    """The four words of Philox4x32-10 ("as easy as 1, 2, 3", Salmon et al., 2011).

    ``key`` is 64 bits, low word first; the counter's words are u32 values in u64 arrays.

    >>> zero = np.uint64(0)
    >>> [hex(int(w)) for w in philox(zero, (zero, zero, zero, zero))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    key = np.asarray(key).astype(np.uint64)
    low, high = key & mask, key >> half
    c0, c1, c2, c3 = counter
    with np.errstate(over="ignore"):
        for _ in range(10):
            p, q = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
            c0, c1, c2, c3 = (q >> half) ^ c1 ^ low, q & mask, (p >> half) ^ c3 ^ high, p & mask
            low = (low + np.uint64(0x9E3779B9)) & mask
            high = (high + np.uint64(0xBB67AE85)) & mask
    return c0, c1, c2, c3


def _words(value: Array) -> tuple[Array, Array]:
    wide = np.asarray(value).astype(np.uint64)
    return wide & np.uint64(0xFFFFFFFF), wide >> np.uint64(32)


def random_bits(key: Array, n: Array) -> Array:
    """Word n % 4 of the block at counter n // 4: element n of the stream of ``key``."""
    wide = np.asarray(n).astype(np.uint64)
    low, high = _words(wide >> np.uint64(2))
    zero = np.zeros_like(low)
    words = np.broadcast_arrays(*philox(key, (low, high, zero, zero)), wide & np.uint64(3))
    return np.choose(words[4].astype(np.int64), list(words[:4])).astype(np.uint32)


def derive_key(key: Array, a: Array, b: Array) -> Array:
    """A new 64-bit key: words 0 and 1 of the block at counter (a lo, a hi, b lo, b hi)."""
    words = philox(key, (*_words(a), *_words(b)))
    return np.asarray(words[0] | (words[1] << np.uint64(32))).astype(np.int64)
