"""Tensors of more elements than 32 bits count. Their memory is asked for and hardly touched."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc.backends.triton import program as module
from graphc.backends.triton.emit import emit_kernel
from graphc.backends.triton.tiling import choose_tiling
from graphc.kernel.parser import parse_kernel
from tests.triton.interpreter import _run as run  # without the sanitizer's maps of all bytes

SIDE = 46_400  # its square is above 2**31
LENGTH = 2**31 + 2048
DIAGONAL = f"""kernel diagonal
  axes i:{SIDE}
  in x i8[{SIDE},{SIDE}]
  out y i8[{SIDE}]
  a = load x[i, i]
  store y[i] = a + i8(1)"""
LINE = f"""kernel line
  axes i:{LENGTH}
  in x i8[{LENGTH}]
  out y i8[{LENGTH}]
  a = load x[i]
  store y[i] = a + i8(1)"""
COLUMN = """kernel column
  size B 1..{most}
  axes i:B
  in x f32[B,4096]
  out y f32[B]
  a = load x[i, 5]
  store y[i] = a"""


def emitted(text: str) -> Any:
    kernel = parse_kernel(text)
    return emit_kernel(kernel, choose_tiling(kernel))


def last_block(made: Any) -> str:
    """The text of a kernel whose only block is the last of its grid."""
    return str(made.text).replace("tl.program_id(0)", f"tl.full([], {made.grid - 1}, tl.int32)")


def untouched(count: int) -> Any:
    """Zeros that take memory where they are written."""
    return np.frombuffer(mmap.mmap(-1, count), np.int8)


def test_an_offset_of_64_bits(tmp_path: Path) -> None:
    made = emitted(DIAGONAL)
    x, y = untouched(SIDE * SIDE), np.zeros(SIDE, np.int8)
    x[:: SIDE + 1][-5:] = 1, 2, 3, 4, 5
    run(last_block(made), made.symbol, 1, [x, y], tmp_path)
    np.testing.assert_array_equal(y[-6:], [1, 2, 3, 4, 5, 6])
    assert y[: SIDE // 2].max() == 0


def test_a_place_of_64_bits(tmp_path: Path) -> None:
    made = emitted(LINE)
    x, y = untouched(LENGTH), untouched(LENGTH)
    x[-3:] = 1, 2, 3
    run(last_block(made), made.symbol, 1, [x, y], tmp_path)
    np.testing.assert_array_equal(y[-4:], [1, 2, 3, 4])
    assert y[:4096].max() == 0


def test_sizes_are_wide_where_their_bound_is_large() -> None:
    small, large, open_ = (
        emitted(COLUMN.format(most=most)).text for most in (1000, 2**20, "")
    )
    assert "tl.int64" not in small
    assert "tl.cast(" in large
    assert "tl.int64" in large
    assert open_ == small


def test_a_size_without_a_bound_that_turns_out_large_is_refused(device: Any) -> None:
    open_, bound = gc.Dim("B", specialize=False), gc.Dim("C", specialize=False, max=2**20)
    for size, refused in ((open_, True), (bound, False)):
        x = gc.observed("x", (size, 4096))
        loaded = gc.compile([x], x[:, 5], backend="triton")._current.loaded
        schedule, sizes = loaded.schedule, {str(size): 2**20}
        large = module.bind_sizes(schedule, sizes)
        if refused:
            with pytest.raises(gc.BackendError, match=r"x has 4,294,967,296 elements.*max="):
                loaded.rebind(sizes)
        else:
            module._check_addressed(schedule, large)
