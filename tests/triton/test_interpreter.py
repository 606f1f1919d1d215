"""The interpreter itself: each fault that is worked around, and what the sanitizer sees."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

from tests.triton.interpreter import run

HEAD = "import triton\nimport triton.language as tl\nfrom triton.language.extra import libdevice\n"


def kernel(body: str, arguments: str) -> str:
    lines = "\n".join(f"    {line}" for line in body.strip().split("\n"))
    return f"{HEAD}\n@triton.jit\ndef k({arguments}):\n{lines}\n"


def execute(body: str, *arrays: Any, grid: int = 1, directory: Any) -> None:
    names = [f"x{n}" for n in range(len(arrays))]
    run(kernel(body, ", ".join(names)), "k", grid, list(arrays), directory)


def test_short_floats_are_rounded_to_nearest_and_computed_as_numbers(tmp_path) -> None:
    x = np.float32([1.0039062, 3.1415927, -2.7182817, 1e-3])
    half, total = np.zeros(4, ml_dtypes.bfloat16), np.zeros(4, ml_dtypes.bfloat16)
    execute(
        "i = tl.arange(0, 4)\na = tl.load(x0 + i).to(tl.bfloat16)\ntl.store(x1 + i, a)\n"
        "tl.store(x2 + i, a + a)",
        x, half, total, directory=tmp_path,
    )  # fmt: skip
    np.testing.assert_array_equal(half, x.astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(total, half + half)


def test_constants_of_short_floats_are_their_values(tmp_path) -> None:
    out = np.zeros(4, ml_dtypes.bfloat16)
    execute(
        "i = tl.arange(0, 4)\ntl.store(x0 + i, tl.full([4], 2.72, tl.bfloat16))",
        out, directory=tmp_path,
    )  # fmt: skip
    np.testing.assert_array_equal(out, np.full(4, 2.72, ml_dtypes.bfloat16))


def test_products_of_short_floats_are_of_their_values(tmp_path) -> None:
    a = np.arange(256).reshape(16, 16).astype(ml_dtypes.bfloat16)
    out = np.zeros((16, 16), np.float32)
    execute(
        "i = tl.arange(0, 16)\nat = i[:, None] * 16 + i[None, :]\na = tl.load(x0 + at)\n"
        "tl.store(x1 + at, tl.dot(a, a))",
        a, out, directory=tmp_path,
    )  # fmt: skip
    np.testing.assert_array_equal(out, a.astype(np.float32) @ a.astype(np.float32))


def test_a_splatted_bool_masks(tmp_path) -> None:
    x, out = np.arange(4, dtype=np.float32), np.full(4, 7, np.float32)
    execute(
        "i = tl.arange(0, 4)\nnone = tl.program_id(0) > 0\n"
        "a = tl.load(x0 + i, mask=none, other=5.0)\ntl.store(x1 + i, a)",
        x, out, directory=tmp_path,
    )  # fmt: skip
    assert out.tolist() == [5, 5, 5, 5]


def test_loops_to_a_loaded_bound_and_own_reductions(tmp_path) -> None:
    n, out = np.array([3], np.int64), np.zeros(1, np.float32)
    body = (
        "total = 0.0\nstop = tl.load(x0).to(tl.int32)\nfor i in range(0, stop, 1):\n"
        "    total = total + i\ntl.store(x1, total)"
    )
    execute(body, n, out, directory=tmp_path)
    assert out[0] == 3


def test_external_functions_are_numpys(tmp_path) -> None:
    x, out = np.linspace(-1, 1, 8, dtype=np.float32), np.zeros(8, np.float32)
    execute(
        "i = tl.arange(0, 8)\ntl.store(x1 + i, libdevice.tanh(tl.load(x0 + i)))", x, out,
        directory=tmp_path,
    )  # fmt: skip
    np.testing.assert_array_equal(out, np.tanh(x))


@pytest.mark.parametrize(
    ("body", "grid", "message"),
    [
        ("tl.store(x1 + tl.arange(0, 8), 1.0)", 1, "store outside of every buffer, 4 lanes"),
        ("tl.store(x1, tl.load(x0 + 4))", 1, "load outside of every buffer"),
        ("tl.store(x1 + tl.arange(0, 4), 1.0)", 2, "where another wrote"),
        ("p = tl.program_id(0)\ntl.store(x1 + p, tl.load(x1 + 1 - p))", 2, "where another"),
        ("tl.store(x1 + tl.arange(0, 4) // 2, 1.0)", 1, "two lanes"),
    ],
)
def test_the_sanitizer_sees(body, grid, message, tmp_path) -> None:
    x, out = np.ones(4, np.float32), np.zeros(4, np.float32)
    with pytest.raises(Exception, match=message):
        execute(body, x, out, grid=grid, directory=tmp_path)


def test_the_sanitizer_sees_misaligned_addresses(tmp_path) -> None:
    raw = np.zeros(64, np.uint8)
    odd = raw[1:17].view(np.float32)
    with pytest.raises(Exception, match="misaligned"):
        execute("tl.store(x1, tl.load(x0))", odd, np.zeros(4, np.float32), directory=tmp_path)
