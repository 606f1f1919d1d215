"""check="nan" names the first node that made one, backward ones too, and moves no state."""

from __future__ import annotations

import numpy as np
import pytest

import graphc as gc
from graphc import ops, optim

AT_ZERO = np.float32([1, 0, 3])


def test_a_backward_node_is_named_with_the_forward_line() -> None:
    x = gc.observed("x", (3,))
    length = ops.sqrt(x * x)  # the slope of sqrt at 0 is infinite, times 0
    cost = length.sum()
    run = gc.compile([x], (cost, gc.grad(cost, x)), check="nan")
    run(np.float32([1, 2, 3]))
    with pytest.raises(gc.RuntimeCheckError, match=r"\* 'd_\w+' made a NaN") as caught:
        run(AT_ZERO)
    assert caught.value.source is not None
    here = test_a_backward_node_is_named_with_the_forward_line.__code__.co_firstlineno
    assert caught.value.source.line == here + 2


def test_the_forward_node_comes_first() -> None:
    x = gc.observed("x", (3,))
    cost = (ops.log(x) * 2.0).sum()
    run = gc.compile([x], (cost, gc.grad(cost, x)), check="nan")
    with pytest.raises(gc.RuntimeCheckError, match="log made a NaN"):
        run(-AT_ZERO)


def test_in_a_loop_and_in_a_second_derivative() -> None:
    x = gc.observed("x", (3,))
    out, _ = gc.scan(lambda c, _: (ops.log(c), None), x, length=3)
    with pytest.raises(gc.RuntimeCheckError, match="log made a NaN"):
        gc.compile([x], out, check="nan")(np.float32([20, 0.5, 20]))
    cost = (ops.abs(x) ** 1.5).sum()
    slope = gc.grad(cost, x)
    gc.compile([x], slope, check="nan")(AT_ZERO)
    curved = gc.compile([x], gc.grad(slope.sum(), x), check="nan")
    curved(np.float32([1, 2, 3]))
    with pytest.raises(gc.RuntimeCheckError, match="made a NaN"):
        curved(AT_ZERO)


def test_a_step_that_makes_one_changes_no_state() -> None:
    w, x = gc.parameter(np.ones(3)), gc.observed("x", (3,))
    cost = ops.sqrt(w * x * w * x).sum()
    opt = optim.Adam(lr=0.1)
    step = gc.compile([x], cost, opt.minimize(cost), check="nan")
    step(np.float32([1, 2, 3]))
    held = w.numpy().copy()
    with pytest.raises(gc.RuntimeCheckError, match="made a NaN"):
        step(AT_ZERO)
    np.testing.assert_array_equal(w.numpy(), held)
    assert opt.steps == 1


def test_without_it_a_nan_passes() -> None:
    x = gc.observed("x", (3,))
    assert np.isnan(gc.compile([x], gc.grad(ops.sqrt(x * x).sum(), x))(AT_ZERO)).any()
