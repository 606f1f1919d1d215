"""compile() and Executable: what goes in, what comes out, what is refused and in which words."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.closing import close
from graphc.interpret import interpret
from tests.passes.levels import draw
from tests.passes.programs import program

X = np.float32([[1, 2, 3], [4, 5, 6]])


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Named:
    a: Any
    b: Any


# ---- structures


def _structures(x: gc.Value) -> list[Any]:
    a, b = x * 2.0, x + 1.0
    return [
        a,
        (a, b),
        [a, b],
        {"a": a, "b": b},
        Pair(a, b),
        Named(a, b),
        (a,),
        [a],
        {"deep": [a, (b, {"c": a})]},
        (),
        None,
        (a, a),
        (x, a),
    ]


@pytest.mark.parametrize("index", range(13))
def test_outputs_keep_their_structure(index: int) -> None:
    x = gc.observed("x", (2, 3))
    wanted = _structures(x)[index]
    got = gc.compile([x], wanted, unused="ignore")(X)
    values, form = gc.tree.flatten(wanted)
    arrays = gc.tree.matching_leaves(got, form, "result")
    graph = close(values, {}, [x])
    expected, _ = interpret(graph, [X])
    for array, right in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(array, right)
    assert type(got) is type(wanted) or not isinstance(wanted, tuple | list | dict | Named)


def test_outputs_are_fresh_arrays() -> None:
    x = gc.observed("x", (2, 3))
    f = gc.compile([x], x * 2.0)
    first = f(X)
    second = f(X + 1)
    np.testing.assert_array_equal(first, X * 2)
    np.testing.assert_array_equal(second, X * 2 + 2)


def test_out_is_written_to() -> None:
    x = gc.observed("x", (2, 3))
    f = gc.compile([x], {"y": x * 2.0})
    target = {"y": np.empty((2, 3), np.float32)}
    assert f(X, out=target) is target
    np.testing.assert_array_equal(target["y"], X * 2)


def test_arguments_by_name() -> None:
    x, y = gc.observed("x", (2, 3)), gc.observed("y", (2, 3))
    f = gc.compile([x, y], x - y)
    np.testing.assert_array_equal(f(y=X, x=X + 1), np.ones((2, 3)))
    with pytest.raises(gc.BindError, match="missing: y"):
        f(X)
    with pytest.raises(gc.BindError, match="unexpected 'z'"):
        f(X, X, z=X)
    with pytest.raises(gc.BindError, match="twice"):
        f(X, X, x=X)


# ---- arguments that do not fit


def test_a_wrong_element_type_says_what_to_write() -> None:
    x = gc.observed("x", (2, 3))
    f = gc.compile([x], x * 2.0)
    with pytest.raises(gc.DTypeError, match=r"x.*expected f32.*got f64.*x\.astype\(np\.float32\)"):
        f(X.astype(np.float64))


@pytest.mark.parametrize("shape", [(3, 2), (2,), (2, 3, 1), (0, 3)])
def test_a_wrong_shape_names_the_argument(shape: tuple[int, ...]) -> None:
    x = gc.observed("x", (2, 3))
    with pytest.raises(gc.ShapeError, match="'x'"):
        gc.compile([x], x * 2.0)(np.zeros(shape, np.float32))


def test_other_layouts_are_copied() -> None:
    x = gc.observed("x", (2, 3))
    f = gc.compile([x], x * 2.0)
    for layout in (np.asfortranarray(X), X[:, ::-1][:, ::-1], np.repeat(X, 2, axis=0)[::2]):
        np.testing.assert_array_equal(f(layout), X * 2)
    frozen = X.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(f(frozen), X * 2)
    raw = np.zeros(25, np.uint8)[1:].view(np.float32).reshape(2, 3)
    raw[...] = X
    np.testing.assert_array_equal(f(raw), X * 2)
    np.testing.assert_array_equal(f([[1, 2, 3], [4, 5, 6]]), X * 2)


def test_integers_widen() -> None:
    i = gc.observed("i", (3,), gc.int64)
    f = gc.compile([i], i + 1)
    np.testing.assert_array_equal(f(np.int32([1, 2, 3])), [2, 3, 4])


def test_an_index_out_of_range_is_an_error_and_changes_no_state() -> None:
    i = gc.observed("i", (3,), gc.int64)
    table, count = gc.state(np.float32(np.arange(8).reshape(4, 2))), gc.state(np.float32([0]))
    f = gc.compile([i], ops.take(table, i, axis=0), {count: count + 1.0})
    np.testing.assert_array_equal(f(np.int64([0, 3, 1]))[1], [6, 7])
    assert count.numpy() == 1
    with pytest.raises(gc.RuntimeCheckError) as caught:
        f(np.int64([0, 4, 1]))
    assert "test_compile.py" in str(caught.value)
    assert count.numpy() == 1
    f(np.int64([0, 0, 0]))
    assert count.numpy() == 2


def test_special_numbers_pass() -> None:
    x = gc.observed("x", (4,))
    f = gc.compile([x], [ops.maximum(x, 0.0), x * 0.0])
    top, zero = f(np.float32([np.nan, np.inf, -np.inf, -0.0]))
    np.testing.assert_array_equal(top, [np.nan, np.inf, 0, 0])
    np.testing.assert_array_equal(zero, [np.nan, np.nan, np.nan, -0.0])
    assert np.signbit(zero[3])


# ---- inputs


def test_missing_unused_and_repeated_inputs_are_errors() -> None:
    x, y = gc.observed("x", (2,)), gc.observed("y", (2,))
    with pytest.raises(gc.BindError, match=r"need <y.*test_compile\.py"):
        gc.compile([x], x + y)
    with pytest.raises(gc.BindError, match=r"<y.*not needed"):
        gc.compile([x, y], x * 2.0)
    assert gc.compile([x, y], x * 2.0, unused="ignore")(np.ones(2, "f4"), np.ones(2, "f4"))[0] == 2
    with pytest.raises(gc.BindError, match="given twice"):
        gc.compile([x, x], x * 2.0)
    with pytest.raises(gc.BindError, match="two inputs are named 'x'"):
        gc.compile([x, gc.observed("x", (2,))], x * 2.0, unused="ignore")


def test_what_is_no_observed_value_is_no_input() -> None:
    x, p = gc.observed("x", (2,)), gc.parameter((2,))
    with pytest.raises(gc.BindError, match="substitute"):
        gc.compile([x * 2.0], x)
    with pytest.raises(gc.BindError, match="state"):
        gc.compile([x, p], x * p)
    with pytest.raises(gc.BindError, match="observed value or a Dim"):
        gc.compile([3], x)
    with pytest.raises(gc.BindError, match="not 'text'"):
        gc.compile([x], "text")


def test_options_that_this_version_lacks_are_refused() -> None:
    x = gc.observed("x", (2,))
    for options in ({"mesh": object()}, {"device": "cuda"}, {"precision": "fp8"}):
        with pytest.raises(gc.GraphcError):
            gc.compile([x], x * 2.0, **options)  # type: ignore[arg-type]


# ---- dims


def test_a_dim_compiles_for_each_size() -> None:
    b = gc.Dim("B")
    x = gc.observed("x", (b, 3))
    f = gc.compile([x], x.sum(axis=0) / b)
    for rows in (1, 5, 2, 5):
        a = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
        np.testing.assert_allclose(f(a), a.mean(axis=0), rtol=1e-5)


def test_a_run_time_dim_makes_no_new_kernels() -> None:
    b = gc.Dim("B", specialize=False)
    x, w = gc.observed("x", (b, 3)), gc.parameter(np.float32(np.eye(3)))
    f = gc.compile([x], nn.functional.softmax(x @ w * 2.0, -1).sum(axis=0))
    kernels = f.schedule.kernels
    for rows in (1, 7, 64, 3):
        a = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
        e = np.exp(2 * a - (2 * a).max(axis=1, keepdims=True))
        np.testing.assert_allclose(f(a), (e / e.sum(axis=1, keepdims=True)).sum(axis=0), rtol=1e-4)
    assert f.schedule.kernels is kernels


def test_a_dim_bound_to_two_sizes_names_both() -> None:
    b = gc.Dim("B")
    x, y = gc.observed("x", (b,)), gc.observed("y", (b,))
    with pytest.raises(gc.ShapeError, match=r"B is 2 in 'x' but 3 in 'y'"):
        gc.compile([x, y], x + y)(np.ones(2, "f4"), np.ones(3, "f4"))


def test_a_dim_is_an_input() -> None:
    b = gc.Dim("B", max=10)
    f = gc.compile([b], ops.zeros((b, 2)) + 1.0)
    assert f(4).shape == (4, 2)
    assert f(7).shape == (7, 2)
    with pytest.raises(gc.BindError, match="outside"):
        f(11)
    with pytest.raises(gc.BindError, match="give an int"):
        f(2.5)
    with pytest.raises(gc.BindError, match="no input binds B"):
        gc.compile([], ops.zeros((b, 2)))


# ---- state


def test_updates_happen_after_outputs_and_see_the_start() -> None:
    a, b = gc.state(np.float32([1])), gc.state(np.float32([10]))
    f = gc.compile([], [a + b], {a: b * 1.0, b: a * 1.0})
    assert f()[0] == 11
    assert (a.numpy(), b.numpy()) == (10, 1)
    f()
    assert (a.numpy(), b.numpy()) == (1, 10)


def test_a_state_may_be_an_output_and_another_ones_new_value() -> None:
    a, b = gc.state(np.float32([1])), gc.state(np.float32([10]))
    f = gc.compile([], a, {b: a})
    assert f() == 1
    assert b.numpy() == 1


def test_two_executables_share_a_state() -> None:
    x, w = gc.observed("x", (3,)), gc.parameter(np.float32([1, 2, 3]))
    step = gc.compile([x], (x * w).sum(), {w: w - 0.1 * x})
    look = gc.compile([], w * 1.0)
    step(np.ones(3, "f4"))
    np.testing.assert_allclose(look(), [0.9, 1.9, 2.9], rtol=1e-6)


def test_attached_updates_compose_in_program_order() -> None:
    x, s = gc.observed("x", ()), gc.state(np.float32(0))
    once = gc.attach_updates(x * 1.0, {s: s + x})
    twice = gc.attach_updates(once * 1.0, {s: s * 10.0})
    f = gc.compile([x], twice)
    f(np.float32(2))
    assert s.numpy() == 20
    with pytest.raises(gc.StateError):
        gc.compile([x], twice, {s: s + 1.0})


# ---- mode


def test_the_default_mode_follows_the_updates() -> None:
    x, p, s = gc.observed("x", (2,)), gc.parameter((2,)), gc.state((2,))
    y = gc.by_mode(train=x + 1.0, eval=x - 1.0) + p
    a = np.zeros(2, "f4")
    assert gc.compile([x], y)(a)[0] == -1
    assert gc.compile([x], y, {p: p * 1.0})(a)[0] == 1
    assert gc.compile([x], y, mode="train")(a)[0] == 1
    with pytest.raises(gc.ModeError, match="mode='train'"):
        gc.compile([x], y, {s: s + y})
    with pytest.raises(gc.ModeError, match="'test'"):
        gc.compile([x], y, mode="test")


# ---- the whole


@pytest.mark.parametrize("seed", range(2000, 2025))
def test_random_programs_give_the_oracles_numbers(seed: int) -> None:
    inputs, outputs = program(seed)
    arrays = draw(inputs, np.random.default_rng(seed))
    with np.errstate(all="ignore"):
        expected, _ = interpret(close(outputs, {}, inputs), arrays)
    got = gc.compile(inputs, outputs)(*arrays)
    for array, right in zip(got, expected, strict=True):
        scale = float(np.abs(right).max(initial=1.0))
        np.testing.assert_allclose(array, right, rtol=2e-4, atol=2e-4 * scale, err_msg=f"{seed}")


@pytest.mark.parametrize("optimizer", [optim.SGD(lr=0.1), optim.Adam(lr=1e-2)])
def test_a_training_step_follows_the_oracle(optimizer: optim.Optimizer) -> None:
    gc.manual_seed(0)
    b = gc.Dim("B")
    x, y = gc.observed("x", (b, 20)), gc.observed("y", (b,), gc.int64)
    net = nn.Linear(20, 16) >> nn.ReLU() >> nn.Linear(16, 5)
    loss = nn.CrossEntropyLoss()(net(x), y)
    up = optimizer.minimize(loss)
    step = gc.compile([x, y], loss, up)
    graph = close([loss], up, [x, y], mode="train")
    rng = np.random.default_rng(0)
    for rows in (8, 8, 3, 8):
        xs, ys = rng.standard_normal((rows, 20)).astype("f4"), rng.integers(0, 5, rows)
        (expected,), new = interpret(graph, [xs, ys])
        np.testing.assert_allclose(step(xs, ys), expected, rtol=1e-4)
        for state, value in new.items():
            np.testing.assert_allclose(state.numpy(), value, rtol=1e-3, atol=1e-5)
    assert step.explain().kernels


def test_a_step_is_a_handful_of_python_frames_at_any_depth() -> None:
    def frames(layers: int) -> int:
        x = gc.observed("x", (4, 8))
        net = nn.Sequential(*[m for _ in range(layers) for m in (nn.Linear(8, 8), nn.ReLU())])
        loss = (net(x) * net(x)).sum()
        step = gc.compile([x], loss, optim.SGD(lr=0.01).minimize(loss))
        a = np.ones((4, 8), "f4")
        step(a)
        count = 0

        def profile(frame: Any, event: str, arg: Any) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(profile)
        try:
            step(a)
        finally:
            sys.setprofile(None)
        return count

    assert frames(2) == frames(8) <= 5


def test_check_nan_names_the_node() -> None:
    x = gc.observed("x", (3,))
    y = ops.exp(ops.log(x)) * 2.0
    f = gc.compile([x], y, check="nan")
    f(np.float32([1, 2, 3]))
    with pytest.raises(gc.RuntimeCheckError, match=r"log.*NaN"):
        f(np.float32([1, -2, 3]))


def test_a_memory_budget_is_kept_or_refused() -> None:
    x, w = gc.observed("x", (64, 64)), gc.parameter((64, 64))
    y = (ops.exp(x @ w) @ w).sum(axis=0)
    assert gc.compile([x], y).memory.peak > 4096
    with pytest.raises(gc.BackendError, match="budget"):
        gc.compile([x], y, memory_budget=1000)


def test_sources_and_resources_of_kernels() -> None:
    x = gc.observed("x", (64, 64))
    f = gc.compile([x], ops.exp(x).sum(axis=0), name="look")
    (kernel,) = f.schedule.kernels
    assert "define" in f.source(kernel.name)
    assert f.asm(kernel.name)
    assert f.resources(kernel.name)["launches"] == 1
    assert "look: 1 kernels" in str(f.explain())
    with pytest.raises(gc.BindError):
        f.resources("nothing")
