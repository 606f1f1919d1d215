"""Random chains of movements and reductions: reference, kernel IR and derivative against NumPy."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import graphc as gc
from graphc import autodiff, ops
from graphc.graph import Graph, source_value
from graphc.interpret import interpret
from graphc.types import TensorType, float64
from graphc.verify import verify
from tests.ops.random_programs import OURS, THEIRS, moved


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, Any]]]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    start, steps = shape, []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(
            st.sampled_from(["reshape", "permute", "slice", "pad", "flip", "expand", "sum"])
        )
        argument: Any = None
        if kind == "reshape":
            argument = _factors(draw, math.prod(shape))
            shape = argument
        elif kind == "permute":
            argument = tuple(draw(st.permutations(range(len(shape)))))
            shape = tuple(shape[i] for i in argument)
        elif kind == "slice":
            argument = tuple(_slice(draw, extent) for extent in shape)
            shape = tuple(len(range(e)[s]) for e, s in zip(shape, argument, strict=True))
        elif kind == "pad":
            argument = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape]
            shape = tuple(a + e + b for e, (a, b) in zip(shape, argument, strict=True))
        elif kind == "flip" and shape:
            argument = draw(st.integers(0, len(shape) - 1))
        elif kind == "expand":
            argument = (draw(st.integers(1, 3)), *shape)
            shape = argument
        elif kind == "sum" and len(shape) > 1:
            argument = draw(st.integers(0, len(shape) - 1))
            shape = shape[:argument] + shape[argument + 1 :]
        if argument is None or math.prod(shape) == 0 or math.prod(shape) > 500:
            return start, steps
        steps.append((kind, argument))
    return start, steps


def _factors(draw: st.DrawFn, count: int) -> tuple[int, ...]:
    """A random shape of ``count`` elements."""
    found = []
    while count > 1 and len(found) < 3:
        by = draw(st.sampled_from([d for d in range(1, count + 1) if count % d == 0]))
        found.append(by)
        count //= by
    return (*found, count)


def _slice(draw: st.DrawFn, extent: int) -> slice:
    start = draw(st.integers(0, extent - 1))
    stop = draw(st.integers(start + 1, extent))
    return slice(start, stop, draw(st.integers(1, 3)))


def follow(module: Any, x: Any, steps: list[tuple[str, Any]]) -> Any:
    for kind, argument in steps:
        if kind == "slice":
            x = x[argument]
        elif kind == "permute":
            x = x.transpose(argument)
        elif kind == "expand":
            x = module.broadcast_to(x, argument)
        else:
            x = getattr(module, kind)(x, argument)
    return x


@given(chains())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_chains_are_numpys(case: tuple[tuple[int, ...], list[tuple[str, Any]]]) -> None:
    shape, steps = case
    note(f"{shape} {steps}")
    array = np.random.default_rng(5).normal(size=shape)
    x = source_value("observed", TensorType(float64, shape), "x")
    y = follow(ops, x, steps)
    weight = np.random.default_rng(6).normal(size=y.shape)
    cost = (y * weight).sum()
    graph = verify(Graph((x,), (y, autodiff.grad(cost, x))))
    (got, gradient), _ = interpret(graph, [array])
    wanted = follow(np, array, steps)
    np.testing.assert_allclose(got, wanted, atol=1e-12)
    # a chain is linear: <grad, direction> is the cost of the direction
    direction = np.random.default_rng(8).normal(size=shape)
    linear = (follow(np, direction, steps) * weight).sum()
    affine = (follow(np, np.zeros(shape), steps) * weight).sum()
    np.testing.assert_allclose((gradient * direction).sum(), linear - affine, atol=1e-9)


# ---- in machine code: more kinds of movement


def chain(m: Any, seed: int, x: Any) -> Any:
    """One to six random movements; the same on both sides."""
    r = random.Random(seed)
    for _ in range(r.randint(1, 6)):
        x = moved(m, r, x if x.ndim else m.expand_dims(x, 0))
    return x


def start_of(seed: int) -> tuple[int, ...]:
    r = random.Random(-seed - 1)
    return tuple(r.choice([1, 2, 3, 4, 5]) for _ in range(r.randint(1, 3)))


def check_chain(seed: int) -> None:
    """Elements go where NumPy puts them; a chain is linear, so its gradient is its transpose."""
    shape, generator = start_of(seed), np.random.default_rng(seed)
    array, direction = generator.normal(size=(2, *shape))
    wanted, along = chain(THEIRS, seed, array), chain(THEIRS, seed, direction)
    weight = generator.normal(size=wanted.shape)
    x = gc.observed("x", shape, gc.float64)
    y = chain(OURS, seed, x)
    tangent = gc.jvp(y, x, gc.constant(direction, gc.float64))
    gradient = gc.grad((y * gc.constant(weight, gc.float64)).sum(), x)
    got, pushed, pulled = gc.compile([x], [y, tangent, gradient])(array)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(pushed, along)
    np.testing.assert_allclose((pulled * direction).sum(), (along * weight).sum(), atol=1e-9)


def _checked(seed: int) -> None:
    try:
        check_chain(seed)
    except Exception as error:
        call = f"from tests.ops.test_movement_chains import check_chain; check_chain({seed})"
        raise AssertionError(f"seed {seed}; run it again with: python -c '{call}'") from error


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_chains_in_machine_code(first: int) -> None:
    for seed in range(first, first + 10):
        _checked(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 3100, 100))
def test_many_chains_in_machine_code(first: int) -> None:
    for seed in range(first, first + 100):
        _checked(seed)
