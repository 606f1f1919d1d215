"""Loops and branches run in the native schedule: values and gradients, against the graph
interpreter, the schedule's interpreter and NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.closing import close
from graphc.interpret import interpret
from graphc.schedule import If, Launch, Loop, While, walk
from graphc.schedule_interpret import interpret_schedule
from tests.acceptance.programs import Array

STEPS, WIDTH = 7, 5


def _count(f: gc.Executable, kind: type) -> int:
    return sum(isinstance(s, kind) for s in walk(f.schedule.body))


def _check(inputs: list[gc.Value], outputs: list[gc.Value], arrays: list[Array]) -> gc.Executable:
    """Native = the schedule's interpreter = the graph interpreter."""
    f = gc.compile(inputs, outputs)
    got = f(*arrays)
    with np.errstate(all="ignore"):
        expected, _ = interpret(close(outputs, {}, inputs), arrays)
    buffers = {b.name: a for b, a in zip(f.schedule.arguments, arrays, strict=True)}
    scheduled = f.compiled.scheduled
    buffers |= dict(scheduled.constants)
    buffers |= {name: cell.numpy() for name, cell in scheduled.cells.items()}
    interpreted = interpret_schedule(f.schedule, buffers)
    middle = [interpreted[b.name] for b in f.schedule.outputs]
    for one, between, right in zip(got, middle, expected, strict=True):
        np.testing.assert_allclose(one, right, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(between, right, rtol=1e-4, atol=1e-5)
    return f


def _recurrent(seed: int) -> tuple[list[gc.Value], list[Array]]:
    rng = np.random.default_rng(seed)
    shapes = {"xs": (STEPS, 2, WIDTH), "h": (2, WIDTH), "w": (WIDTH, WIDTH), "u": (WIDTH, WIDTH)}
    inputs = [gc.observed(name, shape) for name, shape in shapes.items()]
    arrays = [rng.standard_normal(s).astype(np.float32) * 0.5 for s in shapes.values()]
    return inputs, arrays


def _forward(xs: Array, h: Array, w: Array, u: Array) -> list[Array]:
    states = [h]
    for x in xs:
        states.append(np.tanh(states[-1] @ w + x @ u))
    return states


def test_a_recurrent_network_forward_and_backward() -> None:
    inputs, arrays = _recurrent(0)
    xs, h, w, u = inputs
    last, states = gc.scan(lambda c, x: (ops.tanh(c @ w + x @ u),) * 2, h, xs)
    cost = (states * states).sum() + last.sum()
    f = _check(inputs, [cost, last, states, *gc.grad(cost, inputs)], arrays)
    assert _count(f, Loop) >= 2, "forward and backward"
    inside = [s for loop in f.schedule.body if isinstance(loop, Loop) for s in walk(loop.body)]
    assert any(isinstance(s, Launch) for s in inside)
    assert _count(f, Launch) < STEPS * 4, "it is not unrolled"
    # NumPy, in float64
    a = [array.astype(np.float64) for array in arrays]
    kept = _forward(*a)
    got = f(*arrays)
    np.testing.assert_allclose(got[1], kept[-1], rtol=1e-4)
    np.testing.assert_allclose(got[2], np.stack(kept[1:]), rtol=1e-4, atol=1e-6)
    back = np.ones_like(kept[0])
    into_w, into_u, into_xs = np.zeros_like(a[2]), np.zeros_like(a[3]), np.zeros_like(a[0])
    for t in reversed(range(STEPS)):
        inner = (back + 2 * kept[t + 1]) * (1 - kept[t + 1] ** 2)
        into_w += kept[t].T @ inner
        into_u += a[0][t].T @ inner
        into_xs[t] = inner @ a[3].T
        back = inner @ a[2].T
    for gradient, right in zip(got[3:], (into_xs, back, into_w, into_u), strict=True):
        np.testing.assert_allclose(gradient, right, rtol=1e-3, atol=1e-4)


def test_a_training_step_runs_the_forward_loop_once() -> None:
    inputs, _ = _recurrent(0)
    xs, h, w, u = inputs
    last, _ = gc.scan(lambda c, x: (ops.tanh(c @ w + x @ u), None), h, xs)
    cost = last.sum()
    assert _count(gc.compile(inputs, [cost, gc.grad(cost, w)]), Loop) == 2


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 2, 9])
def test_a_scan_of_any_length(length: int, reverse: bool) -> None:
    xs, start = gc.observed("xs", (length, 4)), gc.observed("s", (4,))

    def step(carry: Any, x: gc.Value) -> tuple[Any, Any]:
        total, count = carry["total"], carry["count"]
        return {"total": total * 0.5 + x, "count": count + 1}, (total, total.max())

    last, (totals, tops) = gc.scan(step, {"total": start, "count": 0}, xs, reverse=reverse)
    rng = np.random.default_rng(length)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((length, 4), (4,))]
    f = _check([xs, start], [last["total"], last["count"], totals, tops], arrays)
    got = f(*arrays)
    assert got[1] == length
    assert got[2].shape == (length, 4)


def test_the_length_of_a_scan_may_be_a_run_time_dim() -> None:
    t = gc.Dim("T", specialize=False)
    xs = gc.observed("xs", (t, 3))
    last, sums = gc.scan(lambda c, x: (c * 0.9 + x, c.sum()), ops.zeros(3), xs)
    f = gc.compile([xs], [last, sums])
    kernels = f.schedule.kernels
    assert _count(f, Loop) == 1
    for length in (1, 5, 40, 2):
        a = np.random.default_rng(length).standard_normal((length, 3)).astype(np.float32)
        carry, wanted = np.zeros(3), []
        for row in a:
            wanted.append(carry.sum())
            carry = carry * 0.9 + row
        got, partial = f(a)
        np.testing.assert_allclose(got, carry, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(partial, wanted, rtol=1e-4, atol=1e-5)
    assert f.schedule.kernels is kernels


def test_loops_inside_loops_and_their_gradient() -> None:
    x, w = gc.observed("x", (4, 3)), gc.observed("w", (3, 3))

    def outer(carry: gc.Value, row: gc.Value) -> tuple[gc.Value, gc.Value]:
        inner, _ = gc.scan(lambda a, _: (ops.tanh(a @ w + row), None), carry, length=3)
        return inner, inner.sum()

    last, sums = gc.scan(outer, ops.zeros(3), x)
    cost = last.sum() + (sums * sums).sum()
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) * 0.5 for s in ((4, 3), (3, 3))]
    f = _check([x, w], [cost, *gc.grad(cost, [x, w])], arrays)
    assert _count(f, Loop) >= 4, "two forward, two backward"


@pytest.mark.parametrize("start", [0.1, 50.0, 1e9])
def test_a_while_runs_as_long_as_it_must(start: float) -> None:
    v = gc.observed("v", (3,))
    out, count = gc.while_loop(
        lambda c: c[0].max() < 100.0, lambda c: (c[0] * 1.5 + 1.0, c[1] + 1), (v, 0)
    )
    a = np.float32([start, start / 2, 0])
    f = _check([v], [out, count], [a])
    assert _count(f, While) == 1
    steps, b = 0, a.astype(np.float64)
    while b.max() < 100:
        b, steps = b * 1.5 + 1, steps + 1
    got = f(a)
    np.testing.assert_allclose(got[0], b, rtol=1e-5)
    assert got[1] == steps


def test_newtons_root_and_its_gradient() -> None:
    """sqrt by iteration: the derivative through a bounded while is 1 / (2 sqrt v)."""
    v = gc.observed("v", ())
    root = gc.while_loop(
        lambda r: ops.abs(r * r - v) > 1e-5 * v, lambda r: 0.5 * (r + v / r), v, max_steps=20
    )
    f = _check([v], [root, gc.grad(root, v)], [np.float32(7.0)])
    got, slope = f(np.float32(7.0))
    np.testing.assert_allclose(got, np.sqrt(7), rtol=1e-5)
    np.testing.assert_allclose(slope, 0.5 / np.sqrt(7), rtol=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_branch_and_its_gradient(sign: float) -> None:
    x, s = gc.observed("x", (3, 4)), gc.observed("s", ())
    y = gc.cond(s > 0.0, lambda a: ops.tanh(a) * 2.0, lambda a: a * a, x)
    a = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    f = _check([x, s], [y, gc.grad(y.sum(), x)], [a, np.float32(sign)])
    assert _count(f, If) >= 1
    got, slope = f(a, np.float32(sign))
    np.testing.assert_allclose(got, np.tanh(a) * 2 if sign > 0 else a * a, rtol=1e-5)
    right = 2 * (1 - np.tanh(a) ** 2) if sign > 0 else 2 * a
    np.testing.assert_allclose(slope, right, rtol=1e-5, atol=1e-6)


def test_a_while_loop_runs_in_its_branch_alone() -> None:
    """Of captured values only, and without end where the other branch is taken."""
    x = gc.observed("x", (), gc.float64)

    def doubled() -> gc.Value:
        (end,) = gc.while_loop(lambda c: c[0] < 100.0, lambda c: (c[0] * x,), (x,))
        return end + 1.0

    power = gc.cond(x > 1.0, doubled, lambda: -x)
    run = gc.compile([x], power)
    assert run(np.float64(3.0)) == 244.0
    assert run(np.float64(0.5)) == -0.5


def test_a_branch_inside_a_loop() -> None:
    xs = gc.observed("xs", (6,))

    def step(c: gc.Value, x: gc.Value) -> tuple[gc.Value, gc.Value]:
        new = gc.cond(x > 0.0, lambda a: a + x, lambda a: a * 0.5, c)
        return new, new

    last, all_of_them = gc.scan(step, 1.0, xs)
    a = np.float32([1, -1, 2, -2, -3, 4])
    f = _check([xs], [last, all_of_them, gc.grad(last, xs)], [a])
    carry = 1.0
    for x in a:
        carry = carry + x if x > 0 else carry * 0.5
    np.testing.assert_allclose(f(a)[0], carry, rtol=1e-6)


def test_a_failing_check_inside_a_loop_changes_no_state() -> None:
    places, table = gc.observed("i", (4,), gc.int64), gc.state(np.float32([1, 2, 3])).named("t")
    total, _ = gc.scan(lambda c, i: (c + ops.take(table, i, axis=0), None), ops.zeros(()), places)
    f = gc.compile([places], total, {table: table * 2.0})
    assert f(np.int64([0, 1, 2, 0])) == 7
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        f(np.int64([0, 1, 3, 0]))
    np.testing.assert_array_equal(table.numpy(), [2, 4, 6])
    assert f(np.int64([0, 0, 0, 0])) == 8


def test_a_recurrent_network_trains_natively() -> None:
    """The running sum's sign is learned: the loss falls, and each step is one native call."""
    gc.manual_seed(0)
    b = gc.Dim("B")
    xs, y = gc.observed("xs", (STEPS, b, 2)), gc.observed("y", (b,), gc.int64)
    cell = nn.Linear(2 + WIDTH, WIDTH)
    head = nn.Linear(WIDTH, 2)
    last, _ = gc.scan(
        lambda h, x: (ops.tanh(cell(ops.concat([x, h], axis=1))), None),
        ops.zeros((b, WIDTH)),
        xs,
    )
    loss = nn.CrossEntropyLoss()(head(last), y)
    step = gc.compile([xs, y], loss, optim.Adam(lr=2e-2).minimize(loss))
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(60):
        x = rng.standard_normal((STEPS, 32, 2)).astype(np.float32)
        losses.append(float(step(x, (x[:, :, 0].sum(axis=0) > 0).astype(np.int64))))
    assert _count(step, Loop) >= 2
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5]), losses
