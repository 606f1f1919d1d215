"""Independent loops of one length run as one; all others stay apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.passes import merge
from graphc.schedule import Barrier, Loop, Schedule, walk
from tests.passes.levels import check_levels

WIDTH = 3


def _loops(schedule: Schedule) -> list[Loop]:
    return [s for s in walk(schedule.body) if isinstance(s, Loop)]


def _weights(seed: int, *shape: int) -> gc.Value:
    return gc.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.4)


def _direction(x: gc.Value, seed: int, *, reverse: bool = False, rows: int = 2) -> gc.Value:
    """h <- tanh(h w + x), the results of all steps."""
    w = _weights(seed, WIDTH, WIDTH)

    def step(h: gc.Value, v: gc.Value) -> tuple[gc.Value, gc.Value]:
        new = ops.tanh(h @ w + v)
        return new, new

    return gc.scan(step, ops.zeros((rows, WIDTH)), x, reverse=reverse)[1]


def test_the_two_directions_of_a_network_run_as_one_loop() -> None:
    x = gc.observed("x", (5, 2, WIDTH))
    both = ops.concat([_direction(x, 0), _direction(x, 1, reverse=True)], -1)
    compiled = check_levels([x], [both])
    (loop,) = _loops(compiled.scheduled.schedule)
    assert len([s for s in loop.body if not isinstance(s, Barrier)]) >= 2


def test_their_derivatives_run_as_one_too() -> None:
    x = gc.observed("x", (4, 2, WIDTH))
    both = ops.concat([_direction(x, 0), _direction(x, 1, reverse=True)], -1)
    cost = (both * both).sum()
    compiled = check_levels([x], [cost, gc.grad(cost, x)], rtol=1e-3)
    assert len(_loops(compiled.scheduled.schedule)) == 2


def test_machine_code_runs_merged_loops_as_numpy_does() -> None:
    x = gc.observed("x", (6, 2, WIDTH))
    program = gc.compile([x], [_direction(x, 0), _direction(x, 1, reverse=True)])
    assert len(_loops(program.schedule)) == 1
    given = np.random.default_rng(3).normal(size=(6, 2, WIDTH)).astype(np.float32)
    for seed, got in enumerate(program(given)):
        rows = given[::-1] if seed else given
        w = np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)).astype(np.float32) * 0.4
        h, wanted = np.zeros((2, WIDTH)), []
        for row in rows:
            h = np.tanh(h @ w.astype(np.float64) + row)
            wanted.append(h)
        stacked = np.stack(wanted[::-1] if seed else wanted)
        np.testing.assert_allclose(got, stacked, rtol=1e-5, atol=1e-6)


def test_loops_of_other_lengths_or_that_depend_on_each_other_stay_apart() -> None:
    x, y = gc.observed("x", (5, 2, WIDTH)), gc.observed("y", (4, 2, WIDTH))
    compiled = check_levels([x, y], [_direction(x, 0), _direction(y, 1)])
    assert len(_loops(compiled.scheduled.schedule)) == 2
    compiled = check_levels([x], [_direction(_direction(x, 0), 1)])
    assert len(_loops(compiled.scheduled.schedule)) == 2


def test_layers_of_both_directions_are_one_loop_each() -> None:
    x = gc.observed("x", (5, 2, WIDTH))
    first = _direction(x, 0) + _direction(x, 1, reverse=True)
    second = _direction(first, 2) * _direction(first, 3, reverse=True)
    compiled = check_levels([x], [second])
    assert len(_loops(compiled.scheduled.schedule)) == 2


def test_loops_with_much_to_do_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "SHORT_ITERATION", 10)
    x = gc.observed("x", (5, 2, WIDTH))
    compiled = check_levels([x], [_direction(x, 0), _direction(x, 1)])
    assert len(_loops(compiled.scheduled.schedule)) == 2


def test_loops_around_loops_stay_apart() -> None:
    x = gc.observed("x", (3, 2))

    def nested(by: float) -> gc.Value:
        def outer(c: gc.Value, v: gc.Value) -> Any:
            inner, _ = gc.scan(lambda a, _: (a * by + v, None), c, length=2)
            return inner, inner.sum()

        return gc.scan(outer, ops.zeros((2,)), x)[1]

    compiled = check_levels([x], [nested(0.5), nested(0.25)])
    assert len(_loops(compiled.scheduled.schedule)) == 4


def test_merged_loops_of_a_run_time_length() -> None:
    steps = gc.Dim("T", specialize=False)
    x = gc.observed("x", (steps, 2, WIDTH))
    program = gc.compile([x], [_direction(x, 0), _direction(x, 0, reverse=True)])
    assert len(_loops(program.schedule)) == 1
    for length in (1, 4):
        given = np.random.default_rng(length).normal(size=(length, 2, WIDTH)).astype(np.float32)
        ahead, back = program(given)
        again, _ = program(np.ascontiguousarray(given[::-1]))
        np.testing.assert_allclose(again[::-1], back, rtol=1e-6)
        assert ahead.shape == back.shape


def test_states_updated_in_merged_loops_count_once() -> None:
    """Two counters, each attached in a loop of its own."""
    x = gc.observed("x", (4,))
    counts = [gc.state(np.float32(0)).named(f"n{n}") for n in range(2)]

    def counting(state: gc.Value, by: float) -> gc.Value:
        def step(total: gc.Value, v: gc.Value) -> Any:
            new = gc.attach_updates(total + v * by, {state: state + by})
            return new, None

        return gc.scan(step, ops.zeros(()), x)[0]

    program = gc.compile([x], [counting(counts[0], 1.0), counting(counts[1], 2.0)], mode="train")
    assert len(_loops(program.schedule)) == 1
    first, second = program(np.float32([1, 2, 3, 4]))
    assert (first, second) == (10.0, 20.0)
    assert [float(c.numpy()) for c in counts] == [4.0, 8.0]
