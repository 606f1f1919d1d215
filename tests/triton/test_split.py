"""Long sums of few products are cut by the shapes alone, and mean the same."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.triton.split import split_products
from graphc.kernel.interpret import interpret
from graphc.kernel.parser import parse_kernel
from graphc.kernel.verify import verify

WEIGHT_GRADIENT = """kernel weight_gradient
  axes o:16 c:4 p:3 q:3 n:10 y:14 x:14
  in im f32[10,4,16,16], dr f32[10,16,14,14], w f32[16,4,3,3]
  out dw f32[16,4,3,3]
  a = load im[n, c, y + p, x + q]
  d = load dr[n, o, y, x]
  s = contract d, a over n, y, x
  old = load w[o, c, p, q]
  store dw[o, c, p, q] = old - 0.1 * s"""

PRODUCT = """kernel product
  axes m:{m} n:{n} k:{k}
  in x f32[{m},{k}], w f32[{k},{n}]
  out y f32[{m},{n}]
  a = load x[m, k]
  v = load w[k, n]
  c = contract a, v over k
  store y[m, n] = c"""


def test_a_convolutions_weight_gradient_is_cut_along_the_batch() -> None:
    kernel = parse_kernel(WEIGHT_GRADIENT)
    partials, whole = split_products(kernel, "ieee")
    verify(partials)
    verify(whole)
    generator = np.random.default_rng(0)
    arrays = {
        t.name: generator.standard_normal(t.type.shape).astype(np.float32) for t in kernel.inputs
    }
    wanted = interpret(kernel, arrays)["dw"]
    for one in (partials, whole):
        arrays |= interpret(one, {t.name: arrays[t.name] for t in one.inputs})
    np.testing.assert_allclose(arrays["dw"], wanted, rtol=1e-4, atol=1e-3)
    assert whole.name == kernel.name


@pytest.mark.parametrize(
    ("m", "n", "k", "kernels"),
    [(32, 32, 8192, 2), (32, 32, 300, 1), (4096, 4096, 8192, 1), (64, 10, 3136, 2)],
)
def test_what_fills_the_device_or_is_short_stays_whole(m, n, k, kernels) -> None:
    assert len(split_products(parse_kernel(PRODUCT.format(m=m, n=n, k=k)), "ieee")) == kernels
