"""Signed and unsigned bytes share a register type, never a value."""

from __future__ import annotations

import numpy as np

from graphc.kernel.parser import parse_kernel
from tests.llvm.run_kernel import run_kernel


def test_casts_of_one_byte_to_both_signs_stay_apart() -> None:
    kernel = parse_kernel("""kernel signs
  axes i:20
  in x i8[20]
  out s f32[20], u f32[20], below bool[20], under bool[20]
  a = load x[i]
  b = u8(a)
  store s[i] = f32(a)
  store u[i] = f32(b)
  store below[i] = a < i8(3)
  store under[i] = b < u8(3)""")
    x = np.arange(-10, 10, dtype=np.int8)
    outputs, _ = run_kernel(kernel, {"x": x})
    np.testing.assert_array_equal(outputs["s"], x.astype(np.float32))
    np.testing.assert_array_equal(outputs["u"], x.view(np.uint8).astype(np.float32))
    np.testing.assert_array_equal(outputs["below"], x < 3)
    np.testing.assert_array_equal(outputs["under"], x.view(np.uint8) < 3)
