"""What is promised of state, mode and random numbers, each run natively."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim


def _numbers(states: list[Any]) -> list[bytes]:
    return [s.numpy().tobytes() for s in states]


# ---- state


def test_forward_and_backward_use_one_version_of_a_state() -> None:
    w, x = gc.parameter(np.array([2.0, 3.0])), gc.observed("x", (2,))
    cost = (w * w * x).sum()
    slope = gc.grad(cost, w)
    run = gc.compile([x], (cost, slope), {w: w - slope})
    for _ in range(2):
        held = w.numpy().copy()
        value, gradient = run(np.float32([1, 1]))
        np.testing.assert_allclose(value, (held**2).sum())
        np.testing.assert_allclose(gradient, 2 * held)
        np.testing.assert_allclose(w.numpy(), held - 2 * held)


def _explicit(i: gc.Value, count: Any, table: Any) -> Any:
    return {"updates": {table: table.at[i].set(1.0), count: count + 1.0}, "outputs": ()}


def _attached(i: gc.Value, count: Any, table: Any) -> Any:
    taken = ops.take(table, i, axis=0)
    return {"outputs": gc.attach_updates(taken, {count: count + 1.0}) + gc.random.normal(())}


def _in_a_loop(i: gc.Value, count: Any, table: Any) -> Any:
    def body(c: gc.Value, k: gc.Value) -> Any:
        moved = gc.attach_updates(c + ops.take(table, k, axis=0), {count: count + 1.0})
        return moved, table.at[k].add(1.0)[0]

    return {"outputs": gc.scan(body, gc.constant(0.0), ops.stack([i - i, i]))}


def _in_a_branch(i: gc.Value, count: Any, table: Any) -> Any:
    bumped = gc.attach_updates(i * 1, {count: count + 1.0})
    return {
        "outputs": gc.cond(
            i > -1, lambda k: ops.take(table, k, axis=0), lambda k: table[0], bumped
        )
    }


@pytest.mark.parametrize("program", [_explicit, _attached, _in_a_loop, _in_a_branch])
def test_a_computed_index_out_of_range_changes_nothing(program: Callable[..., Any]) -> None:
    count, table = gc.state(np.zeros(())), gc.state(np.arange(4.0))
    x = gc.observed("x", ())
    made = program((x * 2.0).astype(gc.int64), count, table)
    run = gc.compile([x], made["outputs"], made.get("updates"), mode="train")
    run(0.5)
    states = [*run.states, gc.random.default._calls]
    before = _numbers([count, table]), gc.random.default.state()["calls"]
    assert count.numpy() >= 1
    for wrong in (2.0, 1e9):
        with pytest.raises(gc.RuntimeCheckError, match=r"outside 0\.\.3"):
            run(wrong)
        assert (_numbers([count, table]), gc.random.default.state()["calls"]) == before
    run(1.0)
    assert _numbers([count, table]) != before[0]
    assert states


def test_only_if_holds_back_an_optimizer_with_its_slots() -> None:
    w, x = gc.parameter(np.ones(3)), gc.observed("x", (3,))
    other = gc.state(np.zeros(()))
    opt = optim.Adam(lr=0.1)
    cost = (w * x).sum()
    updates = opt.minimize(cost).only_if(cost > 0.0) | {other: other + 1.0}
    run = gc.compile([x], cost, updates)
    assert run.mode == "train"
    held = _numbers([w])
    run(-np.ones(3, np.float32))
    assert (_numbers([w]), opt.steps, other.numpy()) == (held, 0, 1)
    run(np.ones(3, np.float32))
    assert (opt.steps, other.numpy()) == (1, 2)
    np.testing.assert_allclose(w.numpy(), 0.9, rtol=1e-5)
    never = opt.minimize(cost).only_if(cost > 0.0).only_if(cost < 0.0)
    held = _numbers([w])
    gc.compile([x], cost, never)(np.ones(3, np.float32))
    assert (_numbers([w]), opt.steps) == (held, 1)


def test_executables_that_share_states_in_another_order_never_wait_for_each_other() -> None:
    s, t = gc.state(np.zeros(64)), gc.state(np.zeros(64))
    x = gc.observed("x", ())
    forth = gc.compile([x], s.sum() + t.sum() + x, {s: t + 1.0, t: s + 1.0})
    back = gc.compile([x], t.sum() + s.sum() + x, {t: s + 1.0, s: t + 1.0})
    left = [threading.Thread(target=_call_often, args=(run,), daemon=True) for run in (forth, back)]
    for thread in left:
        thread.start()
    for thread in left:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a deadlock"
    np.testing.assert_array_equal(s.numpy(), 600)
    np.testing.assert_array_equal(t.numpy(), 600)


def _call_often(run: gc.Executable) -> None:
    for _ in range(300):
        run(0.0)


def test_a_donated_argument_is_not_to_be_used_again() -> None:
    x, y = gc.observed("x", (3,)), gc.observed("y", (3,))
    run = gc.compile([x, y], x.at[0].set(7.0) * y, donate=[x])
    a, b = np.ones(3, np.float32), np.ones(3, np.float32)
    with pytest.raises(gc.ShapeError):
        run(a, b[:2])  # a call that fails takes nothing
    again = run(a, b)
    np.testing.assert_array_equal(again, [7, 1, 1])
    np.testing.assert_array_equal(run(again, b), [7, 1, 1])
    with pytest.raises(gc.BindError, match="'x' was donated to an earlier call"):
        run(a, b)
    with pytest.raises(gc.BindError, match="'x' was donated to an earlier call"):
        run(x=a, y=b)
    with pytest.raises(gc.BindError, match="is no input"):
        gc.compile([x], x * 2.0, donate=[y])


# ---- mode


def test_noise_that_is_asked_for_stays_in_evaluation() -> None:
    x = gc.observed("x", (1000,))
    noisy = x + gc.random.normal((1000,))
    run = gc.compile([x], (noisy, nn.Dropout(0.5)(x)))
    assert run.mode == "eval"
    drawn, dropped = run(np.zeros(1000, np.float32))
    assert 0.9 < drawn.std() < 1.1
    np.testing.assert_array_equal(dropped, 0)


def test_a_pinned_mode_holds_whatever_the_executable_says() -> None:
    layer, x = nn.Dropout(0.5), gc.observed("x", (64,))
    both = layer.with_mode("train")(x), layer.with_mode("eval")(x), layer(x)
    for mode in ("train", "eval"):
        train, other, free = gc.compile([x], both, mode=mode)(np.ones(64, np.float32))
        assert (train == 0).any()
        assert (other == 1).all()
        assert (free == 0).any() == (mode == "train")


def test_gradients_of_both_modes_come_from_one_program() -> None:
    x = gc.observed("x", (4,))
    slope = gc.grad((nn.Dropout(0.5)(x) ** 2).sum(), x)
    at = np.float32([1, 2, 3, 4])
    np.testing.assert_array_equal(gc.compile([x], slope)(at), 2 * at)
    train = gc.compile([x], slope, mode="train")(at)
    assert set(np.round(train / at, 5)) <= {0.0, 8.0}  # twice the kept ones, squared, by 2


# ---- random numbers


def test_two_draws_are_never_merged_and_substitution_repeats_them() -> None:
    x, y = gc.observed("x", (8,)), gc.observed("y", (8,))
    a, b = (x + gc.random.normal((8,)) for _ in range(2))
    one, other, moved, twice = gc.compile([x, y], (a, b, gc.substitute(a, {x: y}), a - x))(
        np.zeros(8, np.float32), np.ones(8, np.float32)
    )
    assert not np.intersect1d(one, other).size
    np.testing.assert_allclose(moved - 1, one, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(twice, one)


def test_first_values_are_numbered_by_creation() -> None:
    def made(first: int) -> Any:
        gc.manual_seed(11)
        layers = [nn.Linear(3, 3) for _ in range(3)]
        order = [layers[first], *layers]  # the order of first use does not matter
        return [layer.weight.numpy() for layer in order][1:]

    for a, b in zip(made(0), made(2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_edit_elsewhere_moves_no_number() -> None:
    x = gc.observed("x", (8,))

    def drawn(extra: bool) -> Any:
        gc.manual_seed(4)
        layer = nn.Dropout(0.5).named("drop")
        out = layer(x)
        more = (ops.sin(x) * 3.0 + gc.random.uniform((8,)),) if extra else ()
        return gc.compile([x], (out, *more), mode="train")(np.ones(8, np.float32))[0]

    np.testing.assert_array_equal(drawn(False), drawn(True))
