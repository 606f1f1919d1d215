"""Every kernel of the zoo through Triton's interpreter: equal to its independent reference."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

from graphc.kernel.parser import parse_kernel
from tests.kernel.zoo import ZOO, assert_agrees
from tests.triton.run_kernel import run_kernel

SEED = 20


@pytest.mark.parametrize("case", ZOO, ids=str)
def test_interpreted_kernel_equals_its_reference(case, tmp_path) -> None:
    inputs = case.make_inputs(np.random.default_rng(SEED))
    kernel = parse_kernel(case.text)
    outputs, failed = run_kernel(kernel, inputs, case.sizes, case.scalars, directory=tmp_path)
    assert failed == 0
    assert_agrees(case, outputs, case.reference(inputs), SEED)
