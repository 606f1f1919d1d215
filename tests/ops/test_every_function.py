"""Every public function in machine code: NumPy's values, its derivatives, in lanes.

One program a row of the table computes the value, the gradient by every float input, the tangent
along a direction, and the function on two lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from tests.ops.function_table import ELSEWHERE, ROWS, Row, array_of, value_of

STEP = 1e-6


def test_no_function_is_forgotten() -> None:
    assert {row.name for row in ROWS} | ELSEWHERE == set(ops.__all__)
    assert not {row.name for row in ROWS} & ELSEWHERE


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_values_derivatives_and_lanes(row: Row) -> None:
    generator = np.random.default_rng(len(row.name))
    arrays = [array_of(spec, generator) for spec in row.inputs]
    others = [array_of(spec, generator) for spec in row.inputs]
    values = [value_of(f"x{n}", a) for n, a in enumerate(arrays)]
    lanes = [value_of(f"l{n}", np.stack([a, a])) for n, a in enumerate(arrays)]
    out = row.ours(*values)
    moving = [n for n, v in enumerate(values) if v.dtype.is_float]
    smooth = row.smooth and out.dtype.is_float and bool(moving)
    weight = generator.normal(size=tuple(out.shape))
    directions = {n: generator.normal(size=arrays[n].shape) for n in moving}
    gradients, tangents = [], []
    if smooth:
        wrt = [values[n] for n in moving]
        gradients = list(gc.grad((out * weight).sum(), wrt, unused="zero"))
        tangents = [gc.jvp(out, wrt, [gc.constant(directions[n], gc.float64) for n in moving])]
    mapped = gc.vmap(row.ours)(*lanes)
    outputs = [out, mapped, *gradients, *tangents]
    program = gc.compile([*values, *lanes], outputs, unused="ignore")
    stacked = [np.stack(pair) for pair in zip(arrays, others, strict=True)]
    got, in_lanes, *flows = program(*arrays, *stacked)
    wanted = np.asarray(row.theirs(*arrays))
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(in_lanes[0], got, rtol=1e-12, atol=1e-12)
    second = np.asarray(row.theirs(*others))
    np.testing.assert_allclose(in_lanes[1], second, rtol=2e-6, atol=1e-9)
    if smooth:
        _check_flows(row, arrays, moving, directions, weight, flows)


def _check_flows(
    row: Row, arrays: Any, moving: Any, directions: Any, weight: Any, flows: Any
) -> None:
    """Gradient and tangent against central differences of NumPy's function."""

    def shifted(step: float) -> Any:
        moved = [a + step * directions[n] if n in moving else a for n, a in enumerate(arrays)]
        return np.asarray(row.theirs(*moved), np.float64)

    slope = (shifted(STEP) - shifted(-STEP)) / (2 * STEP)
    *gradients, tangent = flows
    np.testing.assert_allclose(tangent, slope, rtol=2e-5, atol=1e-6)
    pulled = sum(float((g * directions[n]).sum()) for n, g in zip(moving, gradients, strict=True))
    assert pulled == pytest.approx(float((slope * weight).sum()), rel=2e-5, abs=1e-5)
    for n, g in zip(moving, gradients, strict=True):
        assert g.shape == arrays[n].shape
