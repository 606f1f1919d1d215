"""Reductions that share a trip over an axis, one of them also wanted by another trip."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.kernel.text import parse_kernel
from tests.llvm.run_kernel import run_kernel

ACCURACY_AND_LOSS = """kernel accuracy_and_loss
  axes i:{rows} j:{columns}
  in x f32[{rows},{columns}], y i64[{rows}]
  out mean f32[], loss f32[]
  y = load y[i]
  x = load x[i, j]
  m, at = reduce argmax x; j over j
  s = reduce sum f32(at == y) over i
  store mean[] = s / {rows}.0
  m1 = reduce max x over j
  s1 = reduce sum exp(x - m1) over j
  s2 = reduce sum log(s1) over i
  store loss[] = s2
"""


@pytest.mark.parametrize(("rows", "columns"), [(32, 10), (7, 33)])
def test_accuracy_and_loss_of_the_same_logits(rows: int, columns: int) -> None:
    """The argmax may run with the maximum, never again inside the trip that needs the maximum."""
    generator = np.random.default_rng(rows)
    x = generator.standard_normal((rows, columns)).astype(np.float32)
    y = generator.integers(0, columns, rows)
    kernel = parse_kernel(ACCURACY_AND_LOSS.format(rows=rows, columns=columns))
    outputs, failed = run_kernel(kernel, {"x": x, "y": y})
    assert failed == 0
    wide = x.astype(np.float64)
    centered = np.exp(wide - wide.max(1, keepdims=True))
    np.testing.assert_allclose(outputs["mean"], (x.argmax(1) == y).mean(), rtol=1e-6)
    np.testing.assert_allclose(outputs["loss"], np.log(centered.sum(1)).sum(), rtol=1e-5)
