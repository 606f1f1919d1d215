"""Attached updates in loops and branches: what the loop written out in Python does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops

X = np.random.default_rng(5).normal(size=(4, 6, 3))


class Running(nn.Module):
    """A batch norm of few words: centred by the batch, counted, the mean kept for evaluation."""

    def __init__(self) -> None:
        self.mean = gc.state(np.zeros(3), gc.float64)
        self.calls = gc.state(np.zeros((), np.int64))
        self.gain = gc.parameter(np.ones(3), gc.float64)

    def forward(self, x: gc.Value) -> gc.Value:
        m = x.mean(0)
        new = {self.mean: self.mean * 0.9 + m * 0.1, self.calls: self.calls + 1}
        centred = gc.attach_updates((x - m) * self.gain, new)
        return gc.by_mode(train=centred, eval=(x - self.mean) * self.gain)


def in_loop(norm: Running, x: gc.Value) -> Any:
    def body(c: gc.Value, v: gc.Value) -> Any:
        return c + norm(v).sum(0), norm(v * 2.0).max()

    return gc.scan(body, ops.zeros(3, gc.float64), x)


def written_out(norm: Running, x: gc.Value) -> Any:
    c, ys = ops.zeros(3, gc.float64), []
    for i in range(4):
        c = c + norm(x[i]).sum(0)
        ys.append(norm(x[i] * 2.0).max())
    return c, ops.stack(ys)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("outputs", ["both", "carry", "ys", "gradient"])
def test_a_scan_moves_states_as_the_loop_written_out(mode: str, outputs: str) -> None:
    """A loop whose result is needed does all of its updates, also those of results that are not."""
    found = []
    for program in (in_loop, written_out):
        norm = Running()
        norm.mean.set(np.array([0.1, -0.2, 0.3]))
        x = gc.observed("x", X.shape, gc.float64)
        carry, ys = program(norm, x)
        slope = gc.grad((carry * carry).sum() + (ys * ys).sum(), (x, norm.gain))
        wanted = {"both": (carry, ys), "carry": carry, "ys": ys, "gradient": slope}[outputs]
        everything = wanted if program is in_loop else (wanted, carry, ys)
        run = gc.compile([x], everything, mode=mode)
        made = [run(X), run(X)]
        if program is written_out:
            made = [result[0] for result in made]
        found.append((made, norm.mean.numpy(), norm.calls.numpy()))
    (one, mean, calls), (other, right, count) = found
    for a, b in zip(gc.tree.leaves(one), gc.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mean, right, rtol=1e-12)
    assert calls == count == (16 if mode == "train" else 0)


def test_no_state_is_touched_where_the_mode_updates_none() -> None:
    x = gc.observed("x", X.shape, gc.float64)
    run = gc.compile([x], in_loop(Running(), x)[0])
    assert run.graph.updates == ()


def test_nested_loops_and_a_loop_after_an_update() -> None:
    count, seen = gc.state(np.zeros(())), gc.state(np.zeros(()))
    x = gc.observed("x", ())

    def bump(v: gc.Value) -> gc.Value:
        return gc.attach_updates(v, {count: count + 1.0})

    def inner(c: gc.Value, _: None) -> Any:
        return bump(c) + count, None

    def outer(c: gc.Value, _: None) -> Any:
        return gc.scan(inner, bump(c), length=3)[0], count * 1.0

    first = bump(x)
    out, ys = gc.scan(outer, first, length=2)
    last = gc.attach_updates(out + count, {seen: count * 1.0})
    run = gc.compile([x], (last, ys))
    got, steps = run(0.0)
    # 1 before, then (bump, 3 x (bump, add count)) twice
    value, held, wanted = 0.0, 1.0, []
    for _ in range(2):
        held += 1
        for _ in range(3):
            held += 1
            value += held
        wanted.append(held)
    assert (got, count.numpy(), seen.numpy()) == (value + held, held, held)
    np.testing.assert_array_equal(steps, wanted)


def test_while_loops_and_branches() -> None:
    count, last = gc.state(np.zeros(())), gc.state(np.zeros(()))
    x, limit = gc.observed("x", ()), gc.observed("limit", ())

    def body(v: gc.Value) -> gc.Value:
        return gc.attach_updates(v * 2.0, {count: count + 1.0})

    doubled = gc.while_loop(lambda v: (v < limit) & (count < 5.0), body, x)
    chosen = gc.cond(
        doubled > 10.0,
        lambda: gc.attach_updates(doubled, {last: doubled * 1.0}),
        lambda: gc.attach_updates(-doubled, {count: count * 10.0}),
    )
    run = gc.compile([x, limit], chosen)
    assert (run(1.0, 20.0), count.numpy(), last.numpy()) == (32.0, 5.0, 32.0)
    count.set(np.float32(3))
    assert (run(1.0, 20.0), count.numpy(), last.numpy()) == (-4.0, 50.0, 32.0)
    bounded = gc.while_loop(lambda v: v < limit, body, x, max_steps=3)
    count.reset()
    assert gc.compile([x, limit], bounded)(1.0, 100.0) == 8.0
    assert count.numpy() == 3


def test_a_predicate_updates_nothing() -> None:
    count, x = gc.state(np.zeros(())), gc.observed("x", ())

    def pred(v: gc.Value) -> gc.Value:
        return gc.attach_updates(v, {count: count + 1.0}) < 3.0

    with pytest.raises(gc.StateError, match=r"predicate updates <%.*update it in the body"):
        gc.while_loop(pred, lambda v: v + 1.0, x)


def test_training_inside_a_loop() -> None:
    """A parameter that each iteration moves along its gradient, as a loop in NumPy does."""
    w = gc.parameter(np.array([3.0, -2.0]), gc.float64)
    x = gc.observed("x", (5, 2), gc.float64)

    def descend(total: gc.Value, v: gc.Value) -> Any:
        cost = ((w * v).sum() - 1.0) ** 2
        return gc.attach_updates(total + cost, {w: w - 0.1 * gc.grad(cost, w)}), cost

    total, costs = gc.scan(descend, gc.constant(0.0, gc.float64), x)
    at = np.random.default_rng(2).normal(size=(5, 2))
    got = gc.compile([x], (total, costs), mode="train")(at)
    held, wanted = np.array([3.0, -2.0]), []
    for v in at:
        error = held @ v - 1.0
        wanted.append(error**2)
        held = held - 0.1 * 2 * error * v
    np.testing.assert_allclose(got[1], wanted, rtol=1e-12)
    np.testing.assert_allclose(got[0], sum(wanted), rtol=1e-12)
    np.testing.assert_allclose(w.numpy(), held, rtol=1e-12)


def test_what_is_read_is_a_constant_to_derivatives() -> None:
    """In a loop as in the loop written out: the chain of updates is no path."""
    x = gc.observed("x", (3,), gc.float64)

    def program(looped: bool) -> Any:
        fast = gc.state(np.ones(()), gc.float64)

        def step(total: gc.Value, v: gc.Value) -> gc.Value:
            return gc.attach_updates(total + fast * v * v, {fast: fast * v})

        if looped:
            zero = gc.constant(0.0, gc.float64)
            return gc.scan(lambda c, v: (step(c, v), None), zero, x)[0], fast
        total = gc.constant(0.0, gc.float64)
        for i in range(3):
            total = step(total, x[i])
        return total, fast

    at, found = np.array([2.0, -3.0, 0.5]), []
    for looped in (True, False):
        total, fast = program(looped)
        found.append((*gc.compile([x], (total, gc.grad(total, x)))(at), fast.numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(found[0][1], 2 * at * np.array([1, 2, -6]))


def test_draws_in_a_loop_advance_the_generator_once() -> None:
    rng = gc.Rng(seed=3)
    x = gc.observed("x", ())
    out, ys = gc.scan(lambda c, _: (c + gc.random.uniform((), rng=rng), c), x, length=4)
    drawn = gc.compile([x], (out, ys))(0.0)[1]
    assert rng.state()["calls"] == 1
    assert len(np.unique(np.diff(drawn))) == 3


def test_a_custom_gradient_updates_no_state() -> None:
    count, x = gc.state(np.zeros(())), gc.observed("x", ())

    @gc.custom_gradient
    def counted(v: gc.Value) -> gc.Value:
        return gc.attach_updates(v, {count: count + 1.0})

    @counted.backward
    def _(v: gc.Value, out: gc.Value, ct: gc.Value) -> gc.Value:
        return ct

    with pytest.raises(gc.ShapeError, match="attach the update outside"):
        counted(x)


def test_in_lanes_an_update_is_refused_and_a_pinned_mode_has_none() -> None:
    norm, x = Running(), gc.observed("x", X.shape, gc.float64)
    with pytest.raises(gc.StateError, match=r"vmap: .*would be updated in every lane.*with_mode"):
        gc.vmap(norm)(x)
    with pytest.raises(gc.StateError, match="would be updated in every lane"):
        gc.vmap(lambda v: gc.grad(norm(v).sum(), v))(x)
    still = gc.vmap(norm.with_mode("eval"))(x)
    np.testing.assert_allclose(gc.compile([x], still)(X), X - norm.mean.numpy(), rtol=1e-12)
