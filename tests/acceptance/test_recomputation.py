"""What fusing would compute again for every point is kept, and the reason says how often."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from tests.acceptance.programs import Array

Program = Callable[[gc.Value, gc.Value], gc.Value]

ROWS, COLUMNS = 500, 400

DEAR: dict[str, tuple[Program, Callable[[Array, Array], Array], str]] = {
    "a map of a column used in every column": (
        lambda x, b: ops.exp(ops.tanh(x[:, 0])).reshape(-1, 1) * b,
        lambda x, b: np.exp(np.tanh(x[:, 0]))[:, None] * b,
        r"would recompute `\w+` 400×",
    ),
    "a row's sum used in every column": (
        lambda x, b: ops.exp(x).sum(axis=1).reshape(-1, 1) * b,
        lambda x, b: np.exp(x).sum(axis=1)[:, None] * b,
        r"would recompute `\w+` 400×",
    ),
}


@pytest.mark.parametrize("name", DEAR)
def test_a_dear_value_is_computed_once(name: str) -> None:
    program, reference, reason = DEAR[name]
    x, b = gc.observed("x", (ROWS, 3)), gc.observed("b", (COLUMNS,))
    f = gc.compile([x, b], program(x, b))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((ROWS, 3), (COLUMNS,))]
    np.testing.assert_allclose(f(*arrays), reference(*arrays), rtol=1e-4, atol=1e-5)
    assert len(f.schedule.kernels) == 2
    (why,) = f.compiled.fused.refusals.values()
    assert re.search(reason, str(why))


def test_a_cheap_value_is_computed_again() -> None:
    x, b = gc.observed("x", (ROWS,)), gc.observed("b", (COLUMNS,))
    f = gc.compile([x, b], (x + 1.0).reshape(-1, 1) * b)
    assert len(f.schedule.kernels) == 1
