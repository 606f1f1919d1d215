"""Random programs: every level gives the oracle's numbers."""

from __future__ import annotations

import pytest

import graphc as gc
from graphc import ops
from tests.passes.levels import check_levels
from tests.passes.programs import needed, program


@pytest.mark.parametrize("seed", range(150))
def test_every_level_agrees(seed: int) -> None:
    inputs, outputs = program(seed)
    check_levels(inputs, outputs, seed=seed)


@pytest.mark.parametrize("seed", range(1000, 1030))
def test_gradients_of_random_programs_agree(seed: int) -> None:
    inputs, outputs = program(seed, 3, 10)
    if not inputs:
        return
    cost = ops.tanh(outputs[0]).sum() + ops.tanh(outputs[1]).sum()
    grads = gc.grad(cost, inputs, unused="zero")
    check_levels(needed([cost, *grads]), [cost, *grads], seed=seed, rtol=1e-3)
