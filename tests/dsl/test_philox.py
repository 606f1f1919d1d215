"""Philox against Random123's published vectors, and what is drawn from it against plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from graphc import nn
from graphc.philox import draw_bits, draw_key, key_of_seed, normal_float64, philox, uniform
from graphc.types import float32

VECTORS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "wanted"), VECTORS)
def test_published_vectors(
    counter: tuple[int, ...], key: tuple[int, int], wanted: tuple[int, ...]
) -> None:
    assert tuple(int(word) for word in philox(key, counter)) == wanted


def test_words_are_numbered_along_counters() -> None:
    key = (7, 9)
    words = draw_bits(key, 11)
    for n, word in enumerate(words):
        assert int(word) == int(philox(key, (n // 4, 0, 0, 0))[n % 4])


def test_uniform_is_24_bits() -> None:
    bits = draw_bits((1, 2), 1000)
    wanted = [np.float32(int(b) >> 8) / np.float32(2**24) for b in bits]
    np.testing.assert_array_equal(uniform((1, 2), (10, 100)).ravel(), wanted)


def test_normal_moments_and_pairs() -> None:
    drawn = normal_float64((5, 6), (200_000,))
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    assert abs((drawn**4).mean() - 3) < 0.1
    u, w = (float(v) for v in uniform((5, 6), (2,)))
    assert drawn[0] == pytest.approx(np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * w))


def test_keys() -> None:
    assert key_of_seed(-1) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert draw_key((3, 4), (1, 0, 0, 3)) != draw_key((3, 4), (2, 0, 0, 3))


def test_initializers_have_their_moments() -> None:
    shape, key = (300, 400), (11, 12)
    cases = [
        (nn.init.kaiming_uniform, np.sqrt(2 / 400)),
        (nn.init.kaiming_normal, np.sqrt(2 / 400)),
        (nn.init.xavier_uniform, np.sqrt(2 / 700)),
        (nn.init.xavier_normal, np.sqrt(2 / 700)),
    ]
    for init, std in cases:
        assert init(shape, float32, key).std() == pytest.approx(std, rel=0.02)
        assert abs(init(shape, float32, key).mean()) < 0.001
