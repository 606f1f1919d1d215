"""Dear epilogues of register tiles are loops: the same bits, a fraction of the text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.backends.cache import Cache
from graphc.backends.llvm import compiler, plain
from graphc.backends.llvm.emit import emit_kernel
from graphc.backends.llvm.target import host_target, named_target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.kernel.parser import parse_kernel
from graphc.nest import Tiling
from tests.kernel.zoo import ZOO, assert_agrees
from tests.llvm.run_kernel import run_kernel

DEAR = """
kernel dear
  axes i:{I} j:{J} k:{K}
  in x f32[{I},{K}], w f32[{K},{J}], b f32[{J}], r f32[{I}], z f32[{I},{J}]
  out y f32[{I},{J}], turned f32[{J},{I}], big bool[{I},{J}], rows f32[{I}]
  a = load x[i, k]
  v = load w[k, j]
  c = contract a, v over k
  bias = load b[j]
  scale = load r[i]
  t = tanh(c + exp(bias)) * exp(scale)
  s = sigmoid(t) + sin(c)
  old = load z[i, j] if i % 3 != 1 else 0.5
  check old < 9.0 "dear: too large"
  store y[i, j] = s * tanh(old)
  store turned[j, i] = t
  store big[i, j] = s > c
  store rows[i] = exp(scale)
"""
#: six rows of two vectors, as a product's tiles are
ROWS = Tiling({}, {"i": 6, "j": 2}, frozenset({"j"}), ("k", "j", "i"))
SIZES = [(12, 16, 8), (13, 19, 5), (7, 33, 40), (1, 24, 3), (30, 64, 64)]


def inputs(rows: int, columns: int, depth: int) -> dict[str, Any]:
    draw = np.random.default_rng(rows)
    shapes = {"x": (rows, depth), "w": (depth, columns), "b": columns, "r": rows}
    made = {n: draw.standard_normal(s, np.float32) for n, s in shapes.items()}
    return made | {"z": draw.standard_normal((rows, columns), np.float32)}


def reference(x: Any, w: Any, b: Any, r: Any, z: Any) -> dict[str, Any]:
    x, w, b, r, z = (a.astype(np.float64) for a in (x, w, b, r, z))
    c = x @ w
    t = np.tanh(c + np.exp(b)) * np.exp(r)[:, None]
    s = 1 / (1 + np.exp(-t)) + np.sin(c)
    old = np.where((np.arange(len(z)) % 3 != 1)[:, None], z, 0.5)
    return {"y": s * np.tanh(old), "turned": t.T, "rows": np.exp(r)}


@pytest.fixture
def fresh_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are kept by kernel and tiling, which a changed bound does not alter."""
    monkeypatch.setattr(compiler, "default_cache", lambda: Cache(None))


@pytest.mark.parametrize("tiling", [ROWS, None], ids=["rows", "chosen"])
@pytest.mark.parametrize(("rows", "columns", "depth"), SIZES)
@pytest.mark.usefixtures("fresh_code")
def test_a_loop_gives_the_bits_of_what_is_written_out(
    rows: int, columns: int, depth: int, tiling: Tiling | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = parse_kernel(DEAR.format(I=rows, J=columns, K=depth))
    given = inputs(rows, columns, depth)
    monkeypatch.setattr(plain, "MANY_INSTRUCTIONS", 1)
    rolled, failed = run_kernel(kernel, given, tiling=tiling)
    monkeypatch.setattr(plain, "MANY_INSTRUCTIONS", 10**9)
    written, _ = run_kernel(kernel, given, tiling=tiling)
    assert failed == 0
    for name, array in written.items():
        np.testing.assert_array_equal(rolled[name], array)
    for name, array in reference(**given).items():
        np.testing.assert_allclose(rolled[name], array, rtol=2e-4, atol=2e-5)


@pytest.mark.usefixtures("fresh_code")
def test_a_check_inside_of_the_loop_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "MANY_INSTRUCTIONS", 1)
    kernel = parse_kernel(DEAR.format(I=13, J=19, K=5))
    given = inputs(13, 19, 5)
    given["z"][11, 18] = 9.5
    assert run_kernel(kernel, given, tiling=ROWS)[1] == 1
    given["z"][11, 18], given["z"][10, 18] = 0, 9.5  # row 10 is not read
    assert run_kernel(kernel, given, tiling=ROWS)[1] == 0


@pytest.mark.parametrize("case", [c for c in ZOO if "contract" in c.text][::3], ids=str)
@pytest.mark.usefixtures("fresh_code")
def test_products_of_the_zoo_with_their_epilogues_as_loops(
    case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "MANY_INSTRUCTIONS", 1)
    given = case.make_inputs(np.random.default_rng(0))
    got, failed = run_kernel(parse_kernel(case.text), given, case.sizes, case.scalars)
    assert failed == 0
    assert_agrees(case, got, case.reference(given), 0)


@pytest.mark.parametrize("name", ["sse", "avx2", "avx512"])
def test_the_text_of_a_dear_epilogue_is_a_fraction(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, kernel = named_target(name), parse_kernel(DEAR.format(I=48, J=96, K=64))
    rolled = emit_kernel(kernel, ROWS, target).count("\n")
    monkeypatch.setattr(plain, "MANY_INSTRUCTIONS", 10**9)
    assert 2 * rolled < emit_kernel(kernel, ROWS, target).count("\n")


def test_one_activation_stays_written_out() -> None:
    kernel = parse_kernel("""kernel one
  axes i:48 j:96 k:64
  in x f32[48,64], w f32[64,96]
  out y f32[48,96]
  a = load x[i, k]
  v = load w[k, j]
  c = contract a, v over k
  store y[i, j] = tanh(c)""")
    target = host_target()
    assert "%buffer" not in emit_kernel(kernel, choose_tiling(kernel, target), target)
