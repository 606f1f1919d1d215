"""Tilings: sides that are powers of two and fit, for kernels of every shape."""

from __future__ import annotations

import itertools

import pytest

from graphc.backends.triton.prepare import prepare
from graphc.backends.triton.tiling import choose_tiling
from graphc.kernel.parser import parse_kernel
from tests.kernel.zoo import ZOO
from tests.triton.test_compile import PRODUCT

SIDES = (10, 64, 100, 512, 1024, 4096)


def _check(tiling) -> None:
    for axis, size in tiling.nest.tile.items():
        assert size & (size - 1) == 0, (axis, tiling)
    for axis, size in tiling.nest.block.items():
        assert size == tiling.nest.tile.get(axis, 1)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_products_of_every_shape(precision) -> None:
    for m, n, k in itertools.product(SIDES, SIDES, SIDES):
        text = PRODUCT.format("f32").replace("m:256 n:256 k:256", f"m:{m} n:{n} k:{k}")
        text = text.replace("x f32[256,256], w f32[256,256]", f"x f32[{m},{k}], w f32[{n},{k}]")
        tiling = choose_tiling(parse_kernel(text.replace("y f32[256,256]", f"y f32[{m},{n}]")),
                               precision)
        _check(tiling)
        tile = tiling.nest.tile
        assert min(tile[a] for a in "mnk") >= 16
        assert tile["m"] * tile["n"] <= 128 * 256
        held = 4 * tiling.stages * tile["k"] * (tile["m"] + tile["n"])
        assert held <= 232_448, tiling


@pytest.mark.parametrize("case", ZOO, ids=str)
def test_kernels_of_the_zoo(case) -> None:
    _check(choose_tiling(prepare(parse_kernel(case.text))))
