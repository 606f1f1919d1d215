"""Every kernel of the zoo, compiled: equal to its independent reference, at odd sizes and on every
vector width.
"""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.llvm.target import Target, host_target, named_target
from graphc.kernel.parser import parse_kernel
from graphc.nest import Tiling
from tests.kernel.zoo import ZOO, assert_agrees
from tests.llvm.run_kernel import run_kernel

SEED = 20
TARGETS = [t for t in (named_target("sse"), named_target("avx2"), named_target("avx512"))
           if t.vector_bits < host_target().vector_bits]


@pytest.mark.parametrize("case", ZOO, ids=str)
def test_compiled_kernel_equals_its_reference(case) -> None:
    inputs = case.make_inputs(np.random.default_rng(SEED))
    outputs, failed = run_kernel(parse_kernel(case.text), inputs, case.sizes, case.scalars)
    assert failed == 0
    assert_agrees(case, outputs, case.reference(inputs), SEED)


@pytest.mark.parametrize("case", [c for c in ZOO if c.golden], ids=str)
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_narrower_vectors_give_the_same(case, target: Target) -> None:
    inputs = case.make_inputs(np.random.default_rng(SEED))
    outputs, _ = run_kernel(
        parse_kernel(case.text), inputs, case.sizes, case.scalars, target=target
    )
    assert_agrees(case, outputs, case.reference(inputs), SEED)


@pytest.mark.parametrize("case", [c for c in ZOO if c.golden], ids=str)
def test_a_plain_tiling_means_the_same(case) -> None:
    inputs = case.make_inputs(np.random.default_rng(SEED))
    outputs, _ = run_kernel(
        parse_kernel(case.text), inputs, case.sizes, case.scalars, tiling=Tiling()
    )
    assert_agrees(case, outputs, case.reference(inputs), SEED)
