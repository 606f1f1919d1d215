"""Packing changes where a contraction reads, never what it gives."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.llvm.emit import emit_kernel
from graphc.backends.llvm.pack import pack_operands
from graphc.backends.llvm.target import host_target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.kernel.interpret import interpret
from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Kernel
from graphc.kernel.verify import verify
from tests.llvm.run_kernel import run_kernel


def run_all(kernels: tuple[Kernel, ...], inputs: dict) -> dict:
    known = dict(inputs)
    for kernel in kernels:
        verify(kernel)
        outputs, failed = run_kernel(kernel, {t.name: known[t.name] for t in kernel.inputs})
        assert failed == 0
        known |= outputs
    return outputs


def matmul(m: int, n: int, k: int, left: str, right: str) -> Kernel:
    sizes = {"m": m, "n": n, "k": k}
    shape = {name: ",".join(str(sizes[c]) for c in name) for name in (left, right)}
    return parse_kernel(f"""kernel product
  axes m:{m} n:{n} k:{k}
  in x f32[{shape[left]}], w f32[{shape[right]}], b f32[{n}]
  out y f32[{m},{n}]
  a = load x[{", ".join(left)}]
  v = load w[{", ".join(right)}]
  c = contract a, v over k
  bias = load b[n]
  store y[m, n] = max(c + bias, 0.0)""")


@pytest.mark.parametrize(
    ("left", "right"), [("mk", "kn"), ("mk", "nk"), ("km", "kn"), ("km", "nk")]
)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(193, 130, 257), (400, 48, 64), (97, 1000, 33), (250, 17, 300)]
)
def test_packed_products_equal_numpy(m: int, n: int, k: int, left: str, right: str) -> None:
    rng = np.random.default_rng(3)
    kernel = matmul(m, n, k, left, right)
    inputs = {t.name: rng.standard_normal(t.type.shape, np.float32) for t in kernel.inputs}
    outputs = run_all(pack_operands(kernel, host_target()), inputs)
    x = inputs["x"] if left == "mk" else inputs["x"].T
    w = inputs["w"] if right == "kn" else inputs["w"].T
    want = np.maximum(x.astype(np.float64) @ w + inputs["b"], 0)
    np.testing.assert_allclose(outputs["y"], want, rtol=2e-5, atol=2e-4)


def test_large_products_are_packed_and_small_ones_are_not() -> None:
    target = host_target()
    assert [k.name for k in pack_operands(matmul(512, 512, 512, "mk", "kn"), target)] == [
        "product_pack",
        "product",
    ]
    assert len(pack_operands(matmul(512, 512, 512, "mk", "nk"), target)) == 2
    assert len(pack_operands(matmul(33, 512, 512, "mk", "nk"), target)) == 1
    assert len(pack_operands(matmul(40, 30, 20, "mk", "kn"), target)) == 1


def test_the_smaller_operand_is_packed() -> None:
    """Few rows in lanes, what they are multiplied with in rows: results are turned in registers."""
    target = host_target()
    width = 2 * target.vector_bits // 32
    copy, product = pack_operands(matmul(2 * width, 512, 512, "mk", "nk"), target)
    assert [t.name for t in copy.inputs] == ["x"]
    assert copy.outputs[0].type.shape == (2, 512, width)
    assert choose_tiling(product, target).vector == {"mi"}
    text = emit_kernel(product, choose_tiling(product, target), target)
    assert text.count("store <6 x float>") > 0
    assert "store float" not in text
    # a square product gains nothing by it
    assert [t.name for t in pack_operands(matmul(512, 512, 512, "mk", "nk"), target)[0].inputs] == [
        "w"
    ]


def test_columns_far_apart_are_turned_where_nothing_is_packed() -> None:
    """The other operand runs in lanes as it is: 65 features, side by side."""
    kernel = matmul(1024, 65, 512, "km", "kn")
    turn, product = pack_operands(kernel, host_target())
    assert [t.name for t in turn.inputs] == ["x"]
    assert turn.outputs[0].type.shape == (1024, 512)
    assert {t.name for t in product.inputs} == {"turned", "w", "b"}
    rng = np.random.default_rng(4)
    inputs = {t.name: rng.standard_normal(t.type.shape, np.float32) for t in kernel.inputs}
    outputs = run_all((turn, product), inputs)
    want = np.maximum(inputs["x"].T.astype(np.float64) @ inputs["w"] + inputs["b"], 0)
    np.testing.assert_allclose(outputs["y"], want, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("rows", [96, 128, 133, 194])
@pytest.mark.parametrize("k", [16, 100])
def test_turned_products_equal_numpy(rows: int, k: int) -> None:
    """Tiles of six rows, of what is left of them, and a mask of bytes beside the result."""
    width = 2 * host_target().vector_bits // 32
    kernel = parse_kernel(f"""kernel product
  axes m:{2 * width} n:{rows} k:{k}
  in x f32[{2 * width},{k}], w f32[{rows},{k}], b f32[{rows}], scale f32[{2 * width}]
  out y f32[{2 * width},{rows}], negative bool[{2 * width},{rows}]
  a = load x[m, k]
  r = load w[n, k]
  c = contract a, r over k
  bias = load b[n]
  by = load scale[m]
  v = (c + bias) * by
  store negative[m, n] = v < 0.0
  store y[m, n] = v""")
    kernels = pack_operands(kernel, host_target())
    rng = np.random.default_rng(5)
    inputs = {t.name: rng.standard_normal(t.type.shape, np.float32) for t in kernel.inputs}
    x, w, b, scale = (inputs[n].astype(np.float64) for n in ("x", "w", "b", "scale"))
    want = (x @ w.T + b) * scale[:, None]
    outputs = run_all(kernels, inputs)
    assert len(kernels) == (2 if rows >= 128 else 1)
    np.testing.assert_allclose(outputs["y"], want, rtol=2e-5, atol=2e-4)
    np.testing.assert_array_equal(outputs["negative"], outputs["y"] < 0)


@pytest.mark.parametrize(
    ("height", "width", "stride", "dilation"), [(9, 14, 1, 1), (13, 7, 2, 1), (12, 12, 1, 2)]
)
def test_bordered_convolutions_equal_the_interpreter(
    height: int, width: int, stride: int, dilation: int
) -> None:
    rng = np.random.default_rng(4)
    rows = (height + 4 - 2 * dilation - 1) // stride + 1
    columns = (width + 4 - 2 * dilation - 1) // stride + 1
    kernel = parse_kernel(f"""kernel conv
  axes n:2 o:7 y:{rows} x:{columns} c:5 p:3 q:3
  in im f32[2,5,{height},{width}], w f32[7,5,3,3]
  out r f32[2,7,{rows},{columns}]
  a = load im[n, c, {stride}*y + {dilation}*p - 2, {stride}*x + {dilation}*q - 2] else 0.0
  v = load w[o, c, p, q]
  s = contract a, v over c, p, q
  store r[n, o, y, x] = s""")
    kernels = pack_operands(kernel, host_target())
    assert kernels[0].name == "conv_border"
    assert not any(t.fill for t in kernels[-1].terms if hasattr(t, "fill"))
    inputs = {t.name: rng.standard_normal(t.type.shape, np.float32) for t in kernel.inputs}
    want = interpret(kernel, inputs)["r"]
    np.testing.assert_allclose(run_all(kernels, inputs)["r"], want, rtol=1e-5, atol=1e-4)


def test_a_batch_axis_is_kept_apart() -> None:
    kernel = parse_kernel("""kernel batched
  axes b:3 m:120 n:40 k:70
  in x f32[3,120,70], w f32[3,40,70]
  out y f32[3,120,40]
  a = load x[b, m, k]
  v = load w[b, n, k]
  c = contract exp(a), v * 2.0 over k
  store y[b, m, n] = c""")
    rng = np.random.default_rng(5)
    inputs = {t.name: rng.standard_normal(t.type.shape, np.float32) for t in kernel.inputs}
    kernels = pack_operands(kernel, host_target())
    assert len(kernels) == 2
    want = np.einsum("bmk,bnk->bmn", np.exp(inputs["x"].astype(np.float64)), 2.0 * inputs["w"])
    np.testing.assert_allclose(run_all(kernels, inputs)["y"], want, rtol=2e-5, atol=1e-3)
