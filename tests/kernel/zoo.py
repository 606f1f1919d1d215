"""Every kernel of the zoo: the same list for the interpreter and for each backend.

``ZOO`` holds ``Case``s; those with ``golden`` are written in goldens/NAME.kernel, the others are
the same kernels at odd sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.kernel.case import Arrays, Case
from tests.kernel.zoo_contract import CONTRACT
from tests.kernel.zoo_index import INDEX
from tests.kernel.zoo_reduce import REDUCE
from tests.kernel.zoo_rows import ROWS
from tests.kernel.zoo_sizes import SIZES
from tests.kernel.zoo_types import TYPES

__all__ = ["ZOO", "assert_agrees"]

ZOO: list[Case] = [*ROWS, *CONTRACT, *INDEX, *SIZES, *REDUCE, *TYPES]


def assert_agrees(case: Case, got: Arrays, want: Arrays, seed: int) -> None:
    """Fail, naming case, output and seed, where ``got`` is not ``want`` within the case's
    tolerance.
    """
    for name, expected in want.items():
        actual, expected = np.asarray(got[name]), np.asarray(expected)
        label = f"{case.name}: {name}, seed {seed}"
        assert actual.shape == expected.shape, f"{label}: {actual.shape} and {expected.shape}"
        if actual.dtype.kind in "biu":
            assert np.array_equal(actual, expected), f"{label}: integers differ"
            continue
        a, b = actual.astype(np.float64), expected.astype(np.float64)
        finite = np.isfinite(b)
        assert np.array_equal(a[~finite], b[~finite], equal_nan=True), f"{label}: inf or nan"
        if finite.any():
            worst = _worst(a[finite], b[finite])
            assert worst <= case.tolerance, f"{label}: off by {worst:.2e} > {case.tolerance:.0e}"


def _worst(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))
