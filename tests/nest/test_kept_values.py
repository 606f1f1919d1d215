"""Values that are kept between loops are read as they were written."""

from __future__ import annotations

import numpy as np

from graphc.kernel.interpret import interpret
from graphc.kernel.parser import parse_kernel
from graphc.kernel.verify import verify
from graphc.nest import Tiling
from tests.llvm.run_kernel import run_kernel

#: a quotient of two axes, each of which runs in lanes in some loop
KERNEL = """kernel both
  axes i:3 j:5 k:2 l:3
  in ids i64[5], x f64[3,5,2], y f64[3,5]
  out q f64[3,5,2], rows f64[3,5], groups f64[3,3]
  id = load ids[j]
  a = load x[i, j, k]
  b = load y[i, j]
  v = b / (a * a + 1.0)
  store q[i, j, k] = v
  s = reduce sum v over k
  store rows[i, j] = s
  t = reduce sum v * a over k
  g = reduce sum t over j where id == l
  store groups[i, l] = g
"""


def test_loops_read_kept_values_in_lanes_of_other_axes() -> None:
    kernel = verify(parse_kernel(KERNEL))
    generator = np.random.default_rng(1)
    inputs = {
        "ids": np.array([2, 0, 1, 2, 0]),
        "x": generator.normal(size=(3, 5, 2)),
        "y": generator.normal(size=(3, 5)),
    }
    wanted = interpret(kernel, inputs)
    lanes = frozenset({"j", "k", "l"})
    for vector in (lanes, frozenset({"j"}), frozenset({"k"}), frozenset()):
        tiling = Tiling({}, {}, vector, ("i", "j", "k", "l"), frozenset({"v"}), frozenset())
        got, _ = run_kernel(kernel, inputs, tiling=tiling)
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-12, err_msg=f"{name}, {vector}")
