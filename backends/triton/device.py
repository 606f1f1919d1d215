"""Functions that generated kernels call: what Triton's language lacks or defines otherwise.

This module is read by Triton's compiler and is imported by generated sources only.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def floor_divide(a, b):
    """Floor division of integers; 0 where ``b`` is 0. (Triton's // truncates.)"""
    safe = tl.where(b == 0, 1, b).to(a.dtype)
    quotient = a // safe
    inexact = (quotient * safe != a) & ((a < 0) != (safe < 0))
    return tl.where(b == 0, 0, tl.where(inexact, quotient - 1, quotient)).to(a.dtype)


@triton.jit
def floor_remainder(a, b):
    """What floor division leaves, with the sign of ``b``; 0 where ``b`` is 0."""
    safe = tl.where(b == 0, 1, b).to(a.dtype)
    remainder = a % safe
    moved = (remainder != 0) & ((remainder < 0) != (safe < 0))
    return tl.where(b == 0, 0, tl.where(moved, remainder + safe, remainder)).to(a.dtype)


@triton.jit
def float_remainder(a, b):
    """NumPy's ``mod`` of floats: the sign of ``b``, exact."""
    remainder = libdevice.fmod(a, b)
    moved = (remainder != 0) & ((remainder < 0) != (b < 0))
    signed = tl.where(moved, remainder + b, remainder)
    return tl.where(signed == 0, libdevice.copysign(signed, b), signed)


@triton.jit
def float_floor_divide(a, b):
    """NumPy's ``floor_divide`` of floats: the floor of the exact quotient."""
    remainder = libdevice.fmod(a, b)
    whole = (a - remainder) / b
    moved = (remainder != 0) & ((remainder < 0) != (b < 0))
    whole = tl.where(moved, whole - 1.0, whole)
    near = tl.floor(whole)
    near = tl.where(whole - near > 0.5, near + 1.0, near)
    zero = libdevice.copysign(near * 0.0, a / b)
    return tl.where(b == 0, a / b, tl.where(whole == 0, zero, near))


@triton.jit
def sign(x):
    """-1, 0 or 1; NaN stays."""
    one = tl.full([], 1, x.dtype)
    return tl.where(x > 0, one, tl.where(x < 0, -one, x))


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow on either side."""
    small = libdevice.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def integer_power(base, exponent):
    """Integer powers by squaring; a negative exponent rounds towards zero."""
    result = tl.full([], 1, base.dtype) + base * 0
    factor = base
    left = tl.where(exponent < 0, -exponent, exponent)
    for _ in range(64):
        result = tl.where((left & 1) != 0, result * factor, result)
        factor = factor * factor
        left = left >> 1
    unit = (base == 1) | (base == -1)
    return tl.where((exponent < 0) & ~unit, 0, result).to(base.dtype)


@triton.jit
def float_integer_power(base, exponent):
    """A float to an integer power, in float64."""
    return libdevice.pow(base.to(tl.float64), exponent.to(tl.float64)).to(base.dtype)


@triton.jit
def shift_left(a, count, bits: tl.constexpr):
    """``a << count``; 0 for a count outside of 0..bits-1."""
    inside = (count >= 0) & (count < bits)
    return tl.where(inside, a << tl.where(inside, count, 0).to(a.dtype), 0).to(a.dtype)


@triton.jit
def shift_right(a, count, bits: tl.constexpr):
    """``a >> count``, arithmetic for signed types; a count outside of 0..bits-1 empties it."""
    inside = (count >= 0) & (count < bits)
    emptied = tl.where(a < 0, -1, 0).to(a.dtype)
    return tl.where(inside, a >> tl.where(inside, count, 0).to(a.dtype), emptied).to(a.dtype)


@triton.jit
def to_integer(x, low: tl.constexpr, high: tl.constexpr, dtype: tl.constexpr):
    """A float as an integer: truncated, saturated, NaN as 0."""
    number = tl.where(x == x, x, 0.0)
    below = number <= low
    above = number >= high
    whole = tl.where(below | above, 0.0, number).to(tl.int64).to(dtype)
    lowest = tl.full([], low, tl.int64).to(dtype)
    highest = tl.full([], high, tl.int64).to(dtype)
    return tl.where(below, lowest, tl.where(above, highest, whole))


@triton.jit
def _philox(low, high, c0, c1, c2, c3):
    """Philox4x32-10; all words uint32."""
    for _ in tl.static_range(10):
        p_high = tl.umulhi(c0, tl.full([], 0xD2511F53, tl.uint32))
        p_low = c0 * tl.full([], 0xD2511F53, tl.uint32)
        q_high = tl.umulhi(c2, tl.full([], 0xCD9E8D57, tl.uint32))
        q_low = c2 * tl.full([], 0xCD9E8D57, tl.uint32)
        c0 = q_high ^ c1 ^ low
        c2 = p_high ^ c3 ^ high
        c1 = q_low
        c3 = p_low
        low = low + tl.full([], 0x9E3779B9, tl.uint32)
        high = high + tl.full([], 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def _low_word(x):
    return x.to(tl.int64).to(tl.uint32)


@triton.jit
def _high_word(x):
    return (x.to(tl.int64) >> 32).to(tl.uint32)


@triton.jit
def random_bits(key, n):
    """Word n % 4 of the block at counter n // 4 of the stream of ``key``: uint32."""
    n = n.to(tl.int64) + key.to(tl.int64) * 0
    key = key.to(tl.int64) + n * 0
    block = ((n >> 2) & 0x3FFFFFFFFFFFFFFF).to(tl.int64)
    zero = _low_word(n) * 0
    c0, c1, c2, c3 = _philox(
        _low_word(key), _high_word(key), _low_word(block), _high_word(block), zero, zero
    )
    place = (n & 3).to(tl.int32)
    return tl.where(place == 0, c0, tl.where(place == 1, c1, tl.where(place == 2, c2, c3)))


@triton.jit
def derive_key(key, a, b):
    """Words 0 and 1 of the block at counter (a, b): a new key, int64."""
    a = a.to(tl.int64) + (key.to(tl.int64) + b.to(tl.int64)) * 0
    b = b.to(tl.int64) + a * 0
    key = key.to(tl.int64) + a * 0
    c0, c1, _, _ = _philox(
        _low_word(key), _high_word(key), _low_word(a), _high_word(a), _low_word(b), _high_word(b)
    )
    return c0.to(tl.int64) | (c1.to(tl.int64) << 32)
