"""Copies that transpose write whole vectors, turned in registers."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.llvm.emit import emit_kernel
from graphc.backends.llvm.pack import pack_operands
from graphc.backends.llvm.target import host_target, named_target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Kernel
from tests.llvm.run_kernel import run_kernel


def transposing(rows: int, columns: int, dtype: str = "f32") -> Kernel:
    return parse_kernel(f"""kernel turn
  axes i:{rows} j:{columns}
  in x {dtype}[{columns},{rows}]
  out y {dtype}[{rows},{columns}]
  a = load x[j, i]
  store y[i, j] = a""")


@pytest.mark.parametrize("dtype", ["f32", "f64", "i8", "i64", "bf16", "bool"])
@pytest.mark.parametrize(("rows", "columns"), [(64, 48), (33, 40), (129, 17), (8, 8), (1, 30)])
def test_every_element_arrives(rows: int, columns: int, dtype: str) -> None:
    kernel = transposing(rows, columns, dtype)
    type_ = kernel.inputs[0].type.dtype.numpy
    values = np.arange(rows * columns).reshape(columns, rows) % 251
    x = (values % 2 == 0) if dtype == "bool" else values.astype(type_)
    outputs, failed = run_kernel(kernel, {"x": x})
    assert failed == 0
    np.testing.assert_array_equal(outputs["y"], x.T)


@pytest.mark.parametrize(("name", "lanes"), [("sse", 4), ("avx2", 8), ("avx512", 16)])
def test_no_lane_is_stored_alone(name: str, lanes: int) -> None:
    """lanes x log2(lanes) shuffles for each block of lanes x lanes, and whole vectors stored."""
    target = named_target(name)
    kernel = transposing(64, 64)
    text = emit_kernel(kernel, choose_tiling(kernel, target), target)
    assert text.count("shufflevector") == lanes * (lanes.bit_length() - 1)
    assert "extractelement" not in text
    assert text.count(f"store <{lanes} x float>") == lanes


def test_far_rows_of_a_product_are_turned_first() -> None:
    """d[k, i] is read down a column of 2 KB rows: the product reads a copy of it by rows."""
    kernel = parse_kernel("""kernel product
  axes i:512 j:256 k:128
  in d f32[128,512], x f32[128,256]
  out y f32[512,256]
  a = load d[k, i]
  b = load x[k, j]
  c = contract a, b over k
  store y[i, j] = c""")
    made = pack_operands(kernel, host_target())
    assert [k.name for k in made] == ["product_pack", "product_turn", "product"]
    rng = np.random.default_rng(0)
    known = {t.name: rng.standard_normal(t.type.shape, np.float32) for t in kernel.inputs}
    for step in made:
        outputs, _ = run_kernel(step, {t.name: known[t.name] for t in step.inputs})
        known |= outputs
    want = known["d"].T.astype(np.float64) @ known["x"]
    np.testing.assert_allclose(known["y"], want, rtol=2e-5, atol=2e-4)


def test_what_follows_a_long_product_is_fetched_while_it_multiplies() -> None:
    def text(k: int) -> str:
        kernel = parse_kernel(f"""kernel step
  axes i:64 j:64 k:{k}
  in a f32[64,{k}], b f32[{k},64], m f32[64,64]
  out n f32[64,64]
  x = load a[i, k]
  y = load b[k, j]
  old = load m[i, j]
  c = contract x, y over k
  store n[i, j] = old * 0.9 + c""")
        target = named_target("avx2")
        return emit_kernel(kernel, choose_tiling(kernel, target), target)

    long, short = text(128), text(8)
    assert long.index("@llvm.prefetch.p0(") < long.index("@llvm.fma")
    assert "prefetch" not in short
