"""What a loop leaves may address memory after it."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.kernel.parser import parse_kernel
from graphc.kernel.verify import verify
from tests.llvm.run_kernel import run_kernel

#: the reduction stands before the grid, or inside it; its length is one tile, or several
KERNEL = """kernel last
  axes {axes}
  in ids i64[{n}], values f32[{n}], old f32[{m}]
  out new f32[{m}]
  id = load ids[j]
  m = reduce max where(id == {own}, j, -1) over j
  found = m >= 0
  value = load values[m] if found else 0.0
  kept = load old[{own}]
  store new[{own}] = where(found, value, kept)
"""


@pytest.mark.parametrize("n", [1, 3, 5, 8, 21])
@pytest.mark.parametrize("m", [1, 6])
def test_a_maximum_is_the_place_of_a_load(n: int, m: int) -> None:
    axes = f"i:{m} j:{n}" if m > 1 else f"j:{n}"
    text = KERNEL.format(axes=axes, n=n, m=m, own="i" if m > 1 else "0")
    kernel = verify(parse_kernel(text))
    generator = np.random.default_rng(n)
    ids = generator.integers(0, 2 * m, n)
    values, old = (generator.normal(size=k).astype(np.float32) for k in (n, m))
    got, _ = run_kernel(kernel, {"ids": ids, "values": values, "old": old})
    wanted = old.copy()
    for place, value in zip(ids, values, strict=True):
        if place < m:
            wanted[place] = value
    np.testing.assert_array_equal(got["new"], wanted)
