"""A running total that is read at other places than it is computed at keeps a kernel of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from tests.passes.levels import check_levels

Program = Callable[[Any, Any], Any]


def _both_ways(m: Any, x: Any) -> Any:
    if m is np:
        return x.cumsum(0) * x[::-1].cumsum(0)[::-1]
    return ops.cumsum(x) * ops.cumulative_sum(x, reverse=True)


PROGRAMS: dict[str, Program] = {
    "flipped": lambda m, x: m.flip(_both_ways(m, x) * 0.5, 0) * x,
    "padded": lambda m, x: m.pad(m.flip(_both_ways(m, x), 0) + 1.0, (2, 1)),
    "rolled twice": lambda m, x: m.roll(m.sin(_both_ways(m, x)) * 2.0, 2, 0) - x,
    "shifted": lambda m, x: (m.cos(_both_ways(m, x)) * x)[1:] + x[:-1],
    "doubled": lambda m, x: m.concatenate([_both_ways(m, x) * 2.0, x])[::2],
}


class _Ours:
    def __getattr__(self, name: str) -> Any:
        return getattr(ops, {"concatenate": "concat"}.get(name, name))


@pytest.mark.parametrize("name", PROGRAMS)
def test_running_totals_read_elsewhere(name: str) -> None:
    x = gc.observed("x", (7,), gc.float64)
    array = np.random.default_rng(3).normal(size=7)
    value = PROGRAMS[name](_Ours(), x)
    check_levels([x], [value, gc.grad(value.sum(), x)], arrays=[array], rtol=1e-10)
    got = gc.compile([x], value)(array)
    np.testing.assert_allclose(got, PROGRAMS[name](np, array), rtol=1e-10)


@pytest.mark.parametrize("length", [3, 7])
def test_the_gradient_of_a_product_of_moved_elements(length: int) -> None:
    x = gc.observed("x", (7,), gc.float64)
    array = np.random.default_rng(length).normal(size=7)
    cost = ops.prod(ops.tanh(ops.flip(x[:length], 0)))
    gradient = gc.grad(cost, x)
    check_levels([x], [cost, gradient], arrays=[array], rtol=1e-10)
    part = np.tanh(array[:length])
    wanted = np.zeros(7)
    for place in range(length):
        wanted[place] = np.delete(part, place).prod() * (1 - part[place] ** 2)
    np.testing.assert_allclose(gc.compile([x], gradient)(array), wanted, rtol=1e-10)
