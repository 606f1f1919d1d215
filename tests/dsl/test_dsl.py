"""Sources, states, updates, modes, marks and substitution."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from graphc.closing import close
from graphc.state import StateCell
from graphc.types import TensorType, float32
from tests.evaluating import evaluate, step


def test_observed() -> None:
    batch = gc.Dim("B")
    x = gc.observed("x", (batch, 2 * batch + 1, 3))
    assert str(x.type) == "f32[B,2*B+1,3]"
    assert gc.observed("y", batch, "int64").shape == (batch,)
    with pytest.raises(gc.ShapeError, match="identifier"):
        gc.observed("a b", ())
    with pytest.raises(gc.ShapeError, match="no extent"):
        gc.observed("x", (2.5,))  # type: ignore[arg-type]
    with pytest.raises(gc.ShapeError, match="no extent"):
        gc.observed("x", (-1,))
    with pytest.raises(gc.DTypeError, match="no element type"):
        gc.observed("x", (), "float33")


def test_parameter_and_state_types() -> None:
    assert gc.parameter(3).shape == (3,)
    assert gc.parameter((2, 3), gc.float64).dtype == gc.float64
    assert gc.parameter(np.ones((2, 3))).dtype == gc.float32
    assert gc.parameter(np.ones(2), gc.float64).dtype == gc.float64
    assert gc.state(np.arange(3)).dtype == gc.int64
    assert gc.state([1.0, 2.0]).numpy().tolist() == [1, 2]
    with pytest.raises(gc.DTypeError, match=r"use gc\.state"):
        gc.parameter(np.arange(3))
    with pytest.raises(gc.ShapeError, match="fixed shape"):
        gc.state((gc.Dim("B"), 2))
    with pytest.raises(gc.StateError, match="not both"):
        gc.parameter(np.ones(3), init=nn.init.zeros)
    with pytest.raises(gc.StateError, match="no data yet"):
        gc.state(gc.observed("x", (2,)))


def test_a_state_keeps_its_own_copy() -> None:
    given = np.ones(3, np.float32)
    h = gc.state(given)
    given[:] = 7
    copied = h.numpy()
    copied[:] = 8
    assert h.numpy().tolist() == [1, 1, 1]
    h.set([4, 5, 6])
    assert h.numpy().tolist() == [4, 5, 6]
    h.reset()
    assert h.numpy().tolist() == [1, 1, 1]


def test_set_refuses_what_does_not_fit() -> None:
    h = gc.state((2,)).named("h")
    with pytest.raises(gc.ShapeError, match=r"'h': expected shape \(2,\), got \(3,\)"):
        h.set([1, 2, 3])
    with pytest.raises(gc.DTypeError, match=r"expected float32, got float64.*astype\('float32'\)"):
        h.set(np.ones(2))
    with pytest.raises(gc.DTypeError, match="expected int64"):
        gc.state((2,), gc.int64).set([1.5, 2.0])
    gc.state((2,), gc.int64).set(np.ones(2, np.int32))
    assert h.numpy().tolist() == [0, 0]


def test_batch_axes_keep_the_fans() -> None:
    experts = gc.parameter((8, 30, 20), init=nn.init.kaiming_uniform, batch_axes=(0,))
    drawn = experts.numpy()
    bound = np.sqrt(6 / 20)
    assert 0.95 * bound < abs(drawn).max() <= bound
    assert not np.array_equal(drawn[0], drawn[1])
    inner = gc.parameter((30, 8, 20), init=nn.init.kaiming_uniform, batch_axes=(1,))
    assert inner.numpy().shape == (30, 8, 20)
    with pytest.raises(gc.ShapeError, match="batch_axes"):
        gc.parameter((2, 2), batch_axes=(2,))


def test_first_use_from_many_threads_draws_once() -> None:
    calls: list[int] = []

    def slow(shape: tuple[int, ...], dtype: Any, key: Any) -> Any:
        calls.append(1)
        return np.ones(shape, np.float32)

    cell = StateCell("w", TensorType(float32, (4,)), slow)
    threads = [threading.Thread(target=cell.numpy) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_wrong_initializer_is_named() -> None:
    wrong = functools.partial(nn.init.constant, value=1.0)
    assert gc.parameter((2,), init=wrong).numpy().tolist() == [1, 1]
    bad = gc.parameter((2,), init=lambda shape, dtype, key: np.ones(3)).named("bad")
    with pytest.raises(gc.ShapeError, match=r"'bad': its initializer gave shape \(3,\)"):
        bad.numpy()


# ---- updates


def test_updates_merge_and_refuse_doubles() -> None:
    a, b = gc.state((2,)).named("a"), gc.state((2,)).named("b")
    first = gc.Updates({a: a + 1.0})
    assert list(first | {b: b * 2.0}) == [a, b]
    assert list({b: b * 2.0} | first) == [b, a]
    with pytest.raises(gc.StateError, match=r"state a is updated twice, at test_dsl\.py:\d+"):
        first | {a: a * 3.0}
    assert list(first | first) == [a]
    with pytest.raises(gc.ShapeError, match="update of state a"):
        gc.Updates({a: gc.observed("x", (3,))})
    with pytest.raises(gc.DTypeError, match=r"astype\(gc\.float32\)"):
        gc.Updates({a: gc.observed("x", (2,), gc.float64)})
    with pytest.raises(gc.StateError, match="is computed"):
        gc.Updates({a + 1.0: a})


def test_updates_take_numbers_and_conditions() -> None:
    a, ok = gc.state((2,)), gc.observed("ok", (), gc.bool)
    updates = gc.Updates({a: 5.0}).only_if(ok)
    step(updates, feeds={ok: False})
    assert a.numpy().tolist() == [0, 0]
    step(updates, feeds={ok: True})
    assert a.numpy().tolist() == [5, 5]
    with pytest.raises(gc.ShapeError, match="scalar bool"):
        updates.only_if(a)


def test_attached_updates_compose_in_program_order() -> None:
    count = gc.state((), gc.float32)
    x = gc.observed("x", ())

    def counted(v: gc.Value) -> gc.Value:
        return gc.attach_updates(v * (count + 1.0), {count: count * 2.0 + v})

    y = counted(x) + counted(x + 1.0)
    out = step({}, y, {x: 3.0})
    # first: 3 * 1, count = 3; second: 4 * (3 + 1), count = 2 * 3 + 4
    assert out == 3 + 16
    assert count.numpy() == 10
    assert gc.attach_updates(x, {}) is x
    with pytest.raises(gc.StateError, match="explicitly and by an attached"):
        close([y], {count: count + 1.0})
    # the derivative reads what the forward program read, the first update included
    assert evaluate(gc.grad(y, x), {x: 3.0}) == (10 + 1) + (2 * 10 + 3 + 1)


def test_by_mode_checks_both_branches() -> None:
    x = gc.observed("x", (2,))
    with pytest.raises(gc.ShapeError, match="by_mode"):
        gc.by_mode(train=x, eval=x.sum())
    with pytest.raises(gc.DTypeError, match="by_mode"):
        gc.by_mode(train=x, eval=x.astype(gc.float64))
    assert gc.by_mode(train=x, eval=x) is x
    both = gc.by_mode(train={"a": x + 1.0}, eval={"a": x})
    assert evaluate(both, {x: [1.0, 2.0]}, "eval")["a"].tolist() == [1, 2]
    assert evaluate(both, {x: [1.0, 2.0]}, "train")["a"].tolist() == [2, 3]


def test_marks() -> None:
    x = gc.observed("x", (2,))
    aux = (x * 3.0).sum()
    h = gc.mark(gc.mark(x * 2.0, "aux", aux), "probe")
    out = gc.mark(ops.exp(h), "probe")
    found = gc.marked({"out": out}, "probe")
    assert len(found) == 2
    assert gc.marked(out, "aux") == [aux]
    assert evaluate(found[0], {x: [1.0, 2.0]}).tolist() == [2, 4]
    assert gc.marked(out, "other") == []
    assert evaluate(gc.grad(out.sum(), x), {x: [0.0, 0.0]}).tolist() == [2, 2]


# ---- substitution


def test_substitute_values_and_parameters() -> None:
    layer = nn.Linear(2, 2)
    x, z = gc.observed("x", (3, 2)), gc.observed("z", (3, 2))
    h = layer(x)
    cost = (h * h).sum()
    at, other = np.ones((3, 2), np.float32), np.full((3, 2), 2.0, np.float32)
    moved = gc.substitute({"c": cost, "h": h}, {x: z})
    same = evaluate(cost, {x: other})
    assert evaluate(moved["c"], {z: other}) == same
    assert evaluate(gc.substitute(cost, {x: other}), {}) == same
    stepped = {p: p - 0.1 * g for p, g in zip(
        layer.parameters(), gc.grad(cost, layer.parameters()), strict=True
    )}  # fmt: skip
    after = gc.substitute(cost, stepped)
    looked_ahead = evaluate(after, {x: at})
    step(gc.Updates(stepped), feeds={x: at})
    assert looked_ahead == pytest.approx(evaluate(cost, {x: at}), rel=1e-6)
    inner = gc.substitute(cost, {h: x})
    assert evaluate(inner, {x: at}) == 6
    with pytest.raises(gc.ShapeError, match="must stay"):
        gc.substitute(cost, {x: gc.observed("w", (4, 2))})


def test_substituted_programs_can_be_differentiated() -> None:
    w = gc.parameter(np.array([2.0, 3.0]), gc.float64)
    x = gc.observed("x", (2,), gc.float64)
    cost = (w * w * x).sum()
    unrolled = gc.substitute(cost, {w: w - 0.1 * gc.grad(cost, w)})
    slope = evaluate(gc.grad(unrolled, w), {x: [1.0, 2.0]})
    at = np.array([2.0, 3.0])
    k = 1 - 0.2 * np.array([1.0, 2.0])
    np.testing.assert_allclose(slope, 2 * at * k * k * [1.0, 2.0])


def test_substitution_keeps_attached_updates_on_their_state() -> None:
    mean = gc.state((), gc.float32)
    x = gc.observed("x", ())
    y = gc.attach_updates(x - mean, {mean: mean * 0.5 + x})
    moved = gc.substitute(y, {mean: ops.ones(())})
    assert step({}, moved, {x: 3.0}) == 2
    assert mean.numpy() == 3.5


def test_tree() -> None:
    form = gc.tree.flatten({"a": (1, None), "b": [2]})[1]
    assert form.paths("out") == ["out['a'][0]", "out['b'][0]"]
    assert form.build([5, 6]) == {"a": (5, None), "b": [6]}
    with pytest.raises(gc.tree.StructureError, match="keys 'a'"):
        gc.tree.map(lambda a, b: a, {"a": 1}, {"b": 1})
    with pytest.raises(gc.tree.StructureError, match="tuple of 2"):
        gc.tree.map(lambda a, b: a, (1, 2), (1, 2, 3))
    x, y = gc.observed("x", (2, 3)), gc.observed("y", ())
    flat, unravel = gc.tree.ravel({"x": x, "y": y})
    assert flat.shape == (7,)
    feeds = {x: np.arange(6.0).reshape(2, 3), y: 9.0}
    back = evaluate(unravel(flat * 2.0), feeds)
    assert back["x"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert back["y"] == 18


def test_public_names_exist_and_import_is_light() -> None:
    assert len(set(gc.__all__)) == len(gc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        gc.nonsense  # noqa: B018
