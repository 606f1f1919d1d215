"""A value that one kernel computes in two places is the same in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

from graphc.backends.triton.tiling import GpuTiling, choose_tiling
from graphc.kernel.parser import parse_kernel
from graphc.kernel.verify import verify
from graphc.nest import Tiling
from tests.nest.test_kept_values import FOLDS, TWICE
from tests.triton.run_kernel import run_kernel


@pytest.mark.parametrize("fold", ["sum", "contract"])
@pytest.mark.parametrize("looped", [False, True])
def test_a_value_that_is_computed_in_two_places_equals_itself(
    fold: str, looped: bool, tmp_path: Path
) -> None:
    """With all of k in a tile, and with a loop over parts of it."""
    kernel = verify(parse_kernel(TWICE.format(fold=FOLDS[fold])))
    generator = np.random.default_rng(2)
    inputs = {
        "x": generator.normal(size=(6, 11, 29)).astype(np.float32),
        "w": generator.normal(size=29).astype(np.float32),
    }
    tiling = GpuTiling(Tiling({"i": 1}, {"j": 16, "k": 8})) if looped else choose_tiling(kernel)
    got, _ = run_kernel(kernel, inputs, tiling=tiling, directory=tmp_path)
    assert got["first"][:, 0].all()
    assert got["largest"].any(1).all()
