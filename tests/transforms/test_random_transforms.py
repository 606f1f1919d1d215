"""Random programs under the transforms: in lanes as lane by lane, recomputed to the very bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.closing import close
from graphc.interpret import interpret
from graphc.passes.rematerialize import recomputations
from tests.passes.levels import draw
from tests.passes.programs import program

LANES = 3


def _values(outputs: Any, inputs: list[gc.Value], arrays: list[Any]) -> list[Any]:
    with np.errstate(all="ignore"):
        return interpret(close(gc.tree.leaves(outputs), inputs=inputs, mode="train"), arrays)[0]


def _as_function(inputs: list[gc.Value], outputs: Any) -> Any:
    return lambda *xs: gc.substitute(outputs, dict(zip(inputs, xs, strict=True)))


def _cost(outputs: list[gc.Value]) -> gc.Value:
    return ops.tanh(outputs[0]).sum() + ops.tanh(outputs[1]).sum()


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("what", ["values", "gradients"])
def test_in_lanes_as_lane_by_lane(what: str, seed: int) -> None:
    inputs, outputs = program(seed + 5000, 3, 12)
    if not inputs:
        return
    made = outputs if what == "values" else [gc.grad(_cost(outputs), inputs, unused="zero")]
    rng = np.random.default_rng(seed)
    versions = [draw(inputs, rng) for _ in range(LANES)]
    has = rng.random(len(inputs)) < 0.7
    has[rng.integers(len(inputs))] = True
    given = [
        gc.observed(f"lanes{i}", (LANES, *v.shape), v.dtype) if lane else v
        for i, (v, lane) in enumerate(zip(inputs, has, strict=True))
    ]
    arrays = [
        np.stack([v[i] for v in versions]) if lane else versions[0][i] for i, lane in enumerate(has)
    ]
    axes = tuple(0 if lane else None for lane in has)
    got = _values(gc.vmap(_as_function(inputs, made), axes)(*given), given, arrays)
    for lane in range(LANES):
        own = [versions[lane if b else 0][i] for i, b in enumerate(has)]
        for a, b in zip(got, _values(made, inputs, own), strict=True):
            np.testing.assert_allclose(
                a[lane].astype(np.float64), b.astype(np.float64), 1e-4, 1e-5, err_msg=f"seed {seed}"
            )


@pytest.mark.parametrize("seed", range(40))
def test_recomputed_to_the_very_bits(seed: int) -> None:
    inputs, outputs = program(seed + 7000, 4, 14)
    if not inputs:
        return
    again = gc.remat(_as_function(inputs, outputs))(*inputs)
    both = [(c, gc.grad(c, inputs, unused="zero")) for c in (_cost(outputs), _cost(again))]
    arrays = draw(inputs, np.random.default_rng(seed))
    plain, repeated = (_values(one, inputs, arrays) for one in both)
    for a, b in zip(plain, repeated, strict=True):
        assert a.tobytes() == b.tobytes(), f"seed {seed}"
    graph = close(gc.tree.leaves(both[0]), inputs=inputs, mode="train")
    for choice in recomputations(graph):
        with np.errstate(all="ignore"):
            found = interpret(choice, arrays)[0]
        for a, b in zip(plain, found, strict=True):
            assert a.tobytes() == b.tobytes(), f"seed {seed}"
