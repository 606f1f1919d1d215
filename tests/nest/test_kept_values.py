"""Values that are kept between loops are read as they were written."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.kernel.interpret import interpret
from graphc.kernel.parser import parse_kernel
from graphc.kernel.verify import verify
from graphc.nest import Tiling, build_nest, print_nest
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


#: sums that a scan reads point by point, a maximum in its own loop, and a store in lanes
TWICE = """kernel twice
  axes i:6 j:11 k:29
  in x f32[6,11,29], w f32[29]
  out first bool[6,11], largest bool[6,11]
  a = load x[i, j, k]
  b = load w[k]
  {fold}
  m = scan max s over j
  store first[i, j] = s == m
  t = reduce max s over j
  store largest[i, j] = s == t
"""
FOLDS = {
    "sum": "s = reduce sum a * b over k",
    "contract": "s = contract a, b over k",
    "prod": "s = reduce prod a * b over k",
    "expsum": "n, s = reduce expsum a; b over k",
    "welford": "c, e, s = reduce welford a over k",
}


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("tile", [{}, {"j": 2, "k": 4}, {"i": 4, "k": 2}], ids=str)
def test_a_value_that_is_computed_in_two_places_equals_itself(
    fold: str, tile: dict[str, int]
) -> None:
    kernel = verify(parse_kernel(TWICE.format(fold=FOLDS[fold])))
    generator = np.random.default_rng(2)
    inputs = {
        "x": generator.normal(size=(6, 11, 29)).astype(np.float32),
        "w": generator.normal(size=29).astype(np.float32),
    }
    for vector in (frozenset({"j", "k"}), frozenset({"k"}), frozenset({"i", "k"})):
        tiling = Tiling({}, tile, vector, ("i", "j", "k"), frozenset(), frozenset())
        got, _ = run_kernel(kernel, inputs, tiling=tiling)
        assert got["first"][:, 0].all(), vector
        assert got["largest"].any(1).all(), vector


def test_sums_that_are_folded_alike_keep_their_lanes() -> None:
    """Both loops over j run in lanes: nothing is to be mended."""
    text = TWICE.format(fold=FOLDS["sum"]).replace("  m = scan max s over j\n", "")
    kernel = verify(parse_kernel(text.replace("s == m", "s == 0.0")))
    tiling = Tiling({}, {"k": 4}, frozenset({"j"}), ("i", "k", "j"))
    nest = print_nest(build_nest(kernel, tiling))
    assert nest.count("begin sum over k") == 2
    assert nest.count("for k (points x4)") == 2
