"""Loops and branches become those of the schedule, with their bodies' kernels inside."""

from __future__ import annotations

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.control import cond, scan, while_loop
from graphc.schedule import Copy, If, Launch, Loop, While, walk
from tests.passes.levels import check_levels


def _statements(compiled: object, kind: type) -> int:
    body = compiled.scheduled.schedule.body  # type: ignore[attr-defined]
    return sum(isinstance(s, kind) for s in walk(body))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 5])
def test_a_scan_carries_and_stacks(reverse: bool, length: int) -> None:
    x, h0 = gc.observed("x", (length, 3)), gc.observed("h0", (2, 3))
    w = gc.parameter(np.float32([[0.5, 0.1, 0], [0, 0.5, 0], [0.2, 0, 0.3]])).named("w")

    def step(h: gc.Value, v: gc.Value) -> tuple[gc.Value, gc.Value]:
        new = ops.tanh(h @ w + v)
        return new, h * 2.0

    h, ys = scan(step, h0, x, reverse=reverse)
    compiled = check_levels([h0, x], [h, ys, ys.T])
    assert _statements(compiled, Loop) == 1


def test_a_step_is_one_kernel_and_slices_nothing() -> None:
    x, h0 = gc.observed("x", (5, 3)), gc.observed("h0", (2, 3))
    w = gc.parameter((3, 3)).named("w")
    h, ys = scan(lambda h, v: (ops.tanh(h @ w + v),) * 2, h0, x)
    compiled = check_levels([h0, x], [h, ys])
    (loop,) = [s for s in compiled.scheduled.schedule.body if isinstance(s, Loop)]
    assert sum(isinstance(s, Launch) for s in walk(loop.body)) == 1
    assert sum(isinstance(s, Copy) for s in walk(loop.body)) == 1  # h is read by other points


def test_an_elementwise_carry_is_written_in_place() -> None:
    v = gc.observed("v", (4,))
    out, _ = scan(lambda a, _: (a * 0.5 + v, None), v, length=3)
    compiled = check_levels([v], [out])
    (loop,) = [s for s in compiled.scheduled.schedule.body if isinstance(s, Loop)]
    assert not any(isinstance(s, Copy) for s in walk(loop.body))


def test_gradients_through_a_scan() -> None:
    x, h0 = gc.observed("x", (5, 3)), gc.observed("h0", (2, 3))
    w = gc.parameter(np.float32(np.eye(3) * 0.5)).named("w")
    _, ys = scan(lambda h, v: (ops.tanh(h @ w + v),) * 2, h0, x)
    cost = (ys * ys).sum()
    check_levels([h0, x], [cost, *gc.grad(cost, [h0, w, x])], rtol=1e-3)


def test_loops_nest() -> None:
    x = gc.observed("x", (5, 3))

    def outer(carry: gc.Value, row: gc.Value) -> tuple[gc.Value, gc.Value]:
        inner, _ = scan(lambda a, _: (a * 0.5 + row, None), carry, length=3)
        return inner, inner.sum()

    total, sums = scan(outer, ops.zeros(3), x)
    compiled = check_levels([x], [total, sums])
    assert _statements(compiled, Loop) == 2


def test_while_runs_until_its_predicate_fails() -> None:
    v = gc.observed("v", ())
    a, b, c = while_loop(
        lambda s: s[0] < 100.0, lambda s: (s[1] * 2.0 + 1.0, s[0] + 3.0, s[2]), (v, v * v, 7.0)
    )
    compiled = check_levels([v], [a, b, c])
    assert _statements(compiled, While) == 1


def test_while_that_never_runs() -> None:
    v = gc.observed("v", ())
    out = while_loop(lambda a: a > 1e9, lambda a: a * 2.0, v)
    check_levels([v], [out])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_branch_runs(sign: float) -> None:
    x = gc.observed("x", (3, 4))
    y = cond((x * sign).sum() > 0.0, lambda a: a * 2.0, lambda a: ops.exp(-a), x)
    compiled = check_levels([x], [y, y.sum()])
    assert _statements(compiled, If) == 1


def test_a_branch_that_gives_back_its_argument() -> None:
    x = gc.observed("x", (3,))
    check_levels([x], [cond(x.sum() > 0.0, lambda a: a, lambda a: a * 0.0, x)])


def test_a_bounded_while_has_a_gradient() -> None:
    v = gc.observed("v", ())
    out = while_loop(lambda a: a < 20.0, lambda a: a * 3.0, v, max_steps=6)
    check_levels([v], [out, gc.grad(out, v)])


def test_a_state_is_read_in_a_loop_and_written_after_it() -> None:
    s = gc.state(np.float32([1, 2, 3])).named("s")
    out, _ = scan(lambda a, _: (a + s, None), ops.zeros(3), length=4)
    check_levels([], [out], {s: out})


def test_what_a_loop_stacks_shares_no_bytes_with_what_its_body_needs() -> None:
    x, w = gc.observed("x", (4, 16, 16)), gc.observed("w", (16, 16))

    def step(h: gc.Value, v: gc.Value) -> tuple[gc.Value, gc.Value]:
        first = ops.tanh(h @ w)  # products: what is between them needs memory of its own
        second = ops.tanh(first @ w)
        new = ops.tanh(second @ w + v)
        return new, new[0]  # small: it fits where ``first`` was

    h, ys = scan(step, ops.zeros((16, 16)), x)
    total = ops.exp(ys) @ w  # ys is read after the loop and is no output
    check_levels([x, w], [h, total], rtol=1e-3)
