"""Philox4x32-10 in NumPy: the bits behind initial values, and the reference of every random op.

Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A counter-based
generator: the bits are a pure function of a key (two 32-bit words) and a counter (four), so any
element can be drawn alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Key", "draw_bits", "draw_key", "key_of_seed", "normal_float64", "philox", "uniform"]

Key = tuple[int, int]
Words = NDArray[np.uint32]

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_ROUNDS = 10
#: counters that are worked on at a time, so that what NumPy makes on the way stays in the cache
_CACHED = 8192


def philox(key: tuple[ArrayLike, ArrayLike], counter: tuple[ArrayLike, ...]) -> tuple[Words, ...]:
    """The four output words of Philox4x32-10; key words and counter words broadcast against each
    other.

    >>> [hex(int(w)) for w in philox((0, 0), (0, 0, 0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    low = np.uint64(_MASK)
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ k0,
            product1 & low,
            (product0 >> np.uint64(32)) ^ c3 ^ k1,
            product0 & low,
        )
        k0 = (k0 + np.uint64(_WEYL[0])) & low
        k1 = (k1 + np.uint64(_WEYL[1])) & low
    return tuple(np.asarray(word).astype(np.uint32) for word in (c0, c1, c2, c3))


def key_of_seed(seed: int) -> Key:
    """The key of a seed: its low and high 32 bits (negative seeds as two's complement).

    >>> key_of_seed(2**32 + 5)
    (5, 1)
    """
    return seed & _MASK, (seed >> 32) & _MASK


def draw_key(key: Key, counter: tuple[int, int, int, int]) -> Key:
    """Words 0 and 1 of Philox(key, counter): a new key."""
    words = philox(key, counter)
    return int(words[0]), int(words[1])


def draw_bits(key: Key, count: int) -> Words:
    """The first ``count`` words of a key: word n is word n%4 at counter (n//4 low, n//4 high, 0,
    0). uint32[count].
    """
    counters = -(-count // 4)
    bits = np.empty((counters, 4), np.uint32)
    for start in range(0, counters, _CACHED):
        n = np.arange(start, min(start + _CACHED, counters), dtype=np.uint64)
        words = philox(key, (n & np.uint64(_MASK), n >> np.uint64(32), 0, 0))
        for place, word in enumerate(words):
            bits[start : start + len(n), place] = word
    return bits.reshape(-1)[:count]


def uniform(key: Key, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 in [0, 1): (bits >> 8) * 2^-24, row-major; the same numbers on every machine."""
    bits = draw_bits(key, math.prod(shape))
    bits >>= np.uint32(8)
    drawn = bits.astype(np.float32)
    drawn *= np.float32(2.0**-24)
    return drawn.reshape(shape)


def normal_float64(key: Key, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard normal: Box-Muller on words 2n and 2n+1, in float64 (round it to the wanted type).

    ``sqrt(-2 log(1 - u)) cos(2 pi w)`` with u, w the float32 uniforms of the two words.
    """
    pairs = uniform(key, (math.prod(shape), 2)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log1p(-pairs[:, 0]))
    return np.asarray(radius * np.cos(2.0 * np.pi * pairs[:, 1])).reshape(shape)
