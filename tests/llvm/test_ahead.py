"""What a product's loop fetches for the steps after it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from graphc.backends.llvm.emit import emit_kernel
from graphc.backends.llvm.target import host_target
from graphc.kernel.text import parse_kernel
from graphc.nest import Tiling
from tests.llvm.run_kernel import run_kernel

MOMENT = """kernel moment
  axes i:{rows} j:48 k:{inner}
  parallel i j
  in a f32[{rows},{inner}], b f32[{inner},48], m f32[{rows},48]
  out n f32[{rows},48]
  a = load a[i, k]
  b = load b[k, j]
  dot = contract a, b over k
  m = load m[i, j]
  store n[i, j] = m + (dot - m) * 0.1
"""
TWO_AXES = """kernel moment
  axes i:12 j:48 k:8 l:8
  parallel i j
  in a f32[12,8,8], b f32[8,8,48], m f32[12,48]
  out n f32[12,48]
  a = load a[i, k, l]
  b = load b[k, l, j]
  dot = contract a, b over k, l
  m = load m[i, j]
  store n[i, j] = m + (dot - m) * 0.1
"""
ROWS = Tiling({}, {"i": 4}, frozenset({"j"}), ("j", "k", "i"))


def text_of(kernel: str, tiling: Tiling = ROWS, stream: frozenset[str] = frozenset()) -> str:
    return emit_kernel(parse_kernel(kernel), replace(tiling, stream=stream), host_target())


def fetches(text: str) -> int:
    return len(re.findall(r"call void @llvm\.prefetch", text))


def test_a_row_of_every_tensor_at_each_point_of_the_loop() -> None:
    """One fetch for ``m`` and one for ``n``, in the loop over ``k``, whatever the tile's height."""
    text = text_of(MOMENT.format(rows=12, inner=64))
    assert fetches(text) == 2
    assert fetches(text_of(MOMENT.format(rows=12, inner=64), stream=frozenset({"n"}))) == 1
    row = re.search(r"lshr i64 (%\w+), 4", text)  # 64 points, 4 rows: 16 points share one
    assert row is not None
    assert re.search(rf"{row[1]} = phi i64", text)  # of a loop that counts the points,
    assert text.count("= phi i64", 0, row.start()) == 4  # inside of blocks, columns, rows


def test_all_at_once_where_the_loop_has_two_axes() -> None:
    text = text_of(TWO_AXES, Tiling({}, {"i": 4}, frozenset({"j"}), ("j", "k", "l", "i")))
    assert fetches(text) == 8  # four rows of two tensors
    assert "lshr" not in text


def test_nothing_where_the_loop_is_too_short_to_hide_it() -> None:
    assert fetches(text_of(MOMENT.format(rows=12, inner=31))) == 0


def test_same_values_where_the_last_rows_lie_past_the_end() -> None:
    """Seven rows in tiles of four, 37 points: shares that do not divide, and a fetch past ``m``."""
    generator = np.random.default_rng(7)
    shapes = (7, 37), (37, 48), (7, 48)
    a, b, m = (generator.standard_normal(s).astype(np.float32) for s in shapes)
    kernel = parse_kernel(MOMENT.format(rows=7, inner=37))
    outputs, _ = run_kernel(kernel, {"a": a, "b": b, "m": m}, tiling=ROWS)
    dot = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(outputs["n"], m + (dot - m) * 0.1, rtol=1e-5, atol=1e-6)
