"""vmap against loops and torch.func.vmap: every primitive, structures, draws, derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from graphc.graph import Graph, Value, apply_all, source_value
from graphc.interpret import interpret
from graphc.op import OPS, Op, Sample
from graphc.philox import draw_bits, draw_key
from graphc.types import TensorType
from tests.evaluating import evaluate
from tests.ops.sampling import arrays_of, assert_close, cases
from tests.ops.test_samples import has_value

LANES = 3
rng = np.random.default_rng(44)


def f64(name: str, shape: tuple[int, ...]) -> gc.Value:
    return gc.observed(name, shape, gc.float64)


# ---- every primitive

#: they take no inputs, so they are the same in every lane
WITHOUT_INPUTS = {
    *("observed", "argument", "parameter", "state", "constant"),
    *("full", "iota", "size", "site"),
}


def test_every_primitive_has_a_rule_or_no_inputs() -> None:
    assert {name for name, op in OPS.items() if op.batch is None} == WITHOUT_INPUTS
    for name in WITHOUT_INPUTS:
        assert all(not sample.types for sample in OPS[name].samples)


def batched(op: Op, sample: Sample) -> bool:
    return has_value(op, sample) and bool(sample.types)


def _patterns(count: int) -> list[tuple[bool, ...]]:
    """All inputs in lanes, and each alone."""
    alone = [tuple(i == k for i in range(count)) for k in range(count)]
    return [(True,) * count, *(alone if count > 1 else [])]


@pytest.mark.parametrize(("op", "sample"), cases(batched))
def test_a_primitive_in_lanes_is_the_primitive_lane_by_lane(op: Op, sample: Sample) -> None:
    versions = [arrays_of(sample, sample.types, seed) for seed in range(LANES)]
    for has in _patterns(len(sample.types)):
        inputs = [
            source_value("observed", TensorType(t.dtype, (LANES, *t.shape)) if lane else t, f"x{i}")
            for i, (t, lane) in enumerate(zip(sample.types, has, strict=True))
        ]
        stacked = [
            np.stack([v[i] for v in versions]) if lane else versions[0][i]
            for i, lane in enumerate(has)
        ]
        axes = tuple(0 if lane else None for lane in has)
        out = gc.vmap(lambda *xs: apply_all(op.name, *xs, **sample.attrs), axes)(*inputs)
        with np.errstate(all="ignore"):
            got, _ = interpret(Graph(tuple(inputs), tuple(out)), stacked)
            for lane in range(LANES):
                given = [versions[lane if b else 0][i] for i, b in enumerate(has)]
                wanted = _alone(op, sample, given)
                for a, b, value in zip(got, wanted, out, strict=True):
                    assert_close(a[lane], b, value.dtype)


def _alone(op: Op, sample: Sample, arrays: list[Any]) -> list[Any]:
    inputs = [source_value("observed", t, f"x{i}") for i, t in enumerate(sample.types)]
    return interpret(Graph(tuple(inputs), apply_all(op.name, *inputs, **sample.attrs)), arrays)[0]


def test_windows_that_start_elsewhere_in_each_lane() -> None:
    x, w, i = f64("x", (5, 4)), f64("w", (2, 3)), gc.observed("i", (3, 2), gc.int64)

    def cut(at: Value) -> tuple[Value, ...]:
        taken = apply_all("dynamic_slice", x, at[0], at[1], shape=(2, 3))
        put = apply_all("dynamic_update", x, w, at[0], at[1])
        return (*taken, *put)

    feeds = {x: rng.normal(size=(5, 4)), w: rng.normal(size=(2, 3)), i: [[0, 1], [3, 0], [2, 1]]}
    taken, put = evaluate(gc.vmap(cut)(i), {k: np.asarray(v) for k, v in feeds.items()})
    for lane, (r, c) in enumerate(feeds[i]):
        np.testing.assert_array_equal(taken[lane], feeds[x][r : r + 2, c : c + 3])
        wanted = feeds[x].copy()
        wanted[r : r + 2, c : c + 3] = feeds[w]
        np.testing.assert_array_equal(put[lane], wanted)
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        evaluate(gc.vmap(cut)(i), {**feeds, i: np.array([[0, 1], [4, 0], [2, 1]])})


# ---- axes and structures


def test_axes_of_arguments_and_results() -> None:
    a, b, c = f64("a", (3, 5)), f64("b", (4, 3)), f64("c", (4,))
    feeds = {a: rng.normal(size=(3, 5)), b: rng.normal(size=(4, 3)), c: rng.normal(size=4)}
    f = gc.vmap(
        lambda p, q: {"outer": p["x"][:, None] * p["y"] * q, "same": q * 2.0},
        in_axes=({"x": 0, "y": -1}, None),
        out_axes={"outer": 1, "same": None},
    )
    got = evaluate(f({"x": a, "y": b}, c), feeds)
    wanted = np.einsum("li,jl,j->ilj", feeds[a], feeds[b], feeds[c])
    np.testing.assert_allclose(got["outer"], wanted)
    np.testing.assert_allclose(got["same"], feeds[c] * 2)
    spread = evaluate(gc.vmap(lambda p: c * 1.0, out_axes=-1)(a), feeds)
    np.testing.assert_array_equal(spread, np.repeat(feeds[c][:, None], 3, 1))


def test_lanes_of_a_dim() -> None:
    rows = gc.Dim("B")
    x, w = gc.observed("x", (rows, 4)), gc.observed("w", (4, 2))
    out = gc.vmap(lambda v: ops.softmax(v @ w))(x)
    assert out.shape == (rows, 2)
    run = gc.compile([x, w], out)
    for n in (1, 5):
        a, b = rng.normal(size=(n, 4)).astype(np.float32), np.ones((4, 2), np.float32)
        z = np.exp(a @ b)
        np.testing.assert_allclose(run(a, b), z / z.sum(1, keepdims=True), rtol=1e-5)


def test_lanes_of_lanes() -> None:
    x, y = f64("x", (3, 4)), f64("y", (5, 4))
    table = gc.vmap(lambda a: gc.vmap(lambda b: (a @ b) + ops.tanh(a).sum())(y))(x)
    feeds = {x: rng.normal(size=(3, 4)), y: rng.normal(size=(5, 4))}
    wanted = feeds[x] @ feeds[y].T + np.tanh(feeds[x]).sum(1)[:, None]
    np.testing.assert_allclose(evaluate(table, feeds), wanted)


# ---- loops and branches


def test_loops_that_end_at_different_times() -> None:
    x, limit = f64("x", (4,)), f64("limit", (4,))

    def double(v: Value, top: Value) -> Any:
        return gc.while_loop(lambda s: s[0] < top, lambda s: (s[0] * 2.0, s[1] + 1), (v, 0))

    feeds = {x: np.array([1.0, 3.0, 50.0, 0.5]), limit: np.array([10.0, 4.0, 2.0, 100.0])}
    value, steps = evaluate(gc.vmap(double)(x, limit), feeds)
    np.testing.assert_array_equal(value, [16, 6, 50, 128])
    np.testing.assert_array_equal(steps, [4, 1, 0, 8])
    run = gc.compile([x, limit], gc.vmap(double)(x, limit))
    native = run(feeds[x], feeds[limit])
    np.testing.assert_array_equal(native[0], value)
    np.testing.assert_array_equal(native[1], steps)


def test_a_lane_that_is_done_reads_nothing_out_of_range() -> None:
    table, stop = f64("table", (5,)), gc.observed("stop", (3,), gc.int64)

    def total(n: Value) -> Value:
        body = lambda s: (s[0] + ops.take(table, s[1], axis=0), s[1] + 1)  # noqa: E731
        return gc.while_loop(lambda s: s[1] < n, body, (gc.constant(0.0, gc.float64), 0))[0]

    def safe(n: Value) -> Value:
        return gc.cond(n < 5, lambda k: ops.take(table, k, axis=0), lambda k: table[0], n)

    feeds = {table: np.arange(1.0, 6.0), stop: np.array([5, 0, 2])}
    sums, chosen = gc.vmap(total)(stop), gc.vmap(safe)(stop)
    run = gc.compile([table, stop], (sums, chosen))
    for got in (evaluate((sums, chosen), feeds), run(feeds[table], feeds[stop])):
        np.testing.assert_array_equal(got[0], [15, 0, 3])
        np.testing.assert_array_equal(got[1], [1, 1, 3])


def test_scan_and_cond_in_lanes_with_derivatives() -> None:
    x, w = f64("x", (3, 4, 2)), f64("w", (2, 2))

    def cost(xs: Value) -> Value:
        def step(h: Value, v: Value) -> Any:
            h = gc.cond(h.sum() > 0.0, lambda a: ops.tanh(a @ w), lambda a: a * 0.5, h) + v
            return h, h.sum()

        h, ys = gc.scan(step, ops.zeros(2, gc.float64) + xs[0], xs, reverse=True)
        return (h * h).sum() + ys.prod()

    feeds = {x: rng.normal(size=(3, 4, 2)), w: rng.normal(size=(2, 2))}
    lanes = gc.vmap(cost)(x)
    plain = ops.stack([cost(x[i]) for i in range(3)])
    made = [(c, gc.grad(c.sum(), (x, w)), gc.jvp(c, x, x)) for c in (lanes, plain)]
    got, wanted = evaluate(made, feeds)
    for a, b in zip(gc.tree.leaves(got), gc.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    inside = gc.vmap(lambda v: gc.grad(cost(v), (v, w)))(x)
    by_x, by_w = evaluate(inside, feeds)
    np.testing.assert_allclose(by_x, wanted[1][0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(by_w.sum(0), wanted[1][1], rtol=1e-9, atol=1e-12)


# ---- derivatives


def test_jacobian_and_hessian() -> None:
    x = f64("x", (4,))
    w = gc.constant(rng.normal(size=(3, 4)))
    y = ops.tanh(w @ x) * ops.exp(x).sum()
    rows = gc.constant(np.eye(3))
    jacobian = gc.vmap(lambda ct: gc.vjp(y, x, ct))(rows)
    columns = gc.vmap(lambda t: gc.jvp(y, x, t), out_axes=1)(gc.constant(np.eye(4)))
    cost = (y * y).sum()
    hessian = gc.vmap(lambda v: gc.hvp(cost, x, v))(gc.constant(np.eye(4)))
    at = rng.normal(size=4) * 0.3
    a, b, h = evaluate((jacobian, columns, hessian), {x: at})
    np.testing.assert_allclose(a, b, rtol=1e-10)
    numeric = np.stack(
        [
            (evaluate(y, {x: at + d}) - evaluate(y, {x: at - d})) / 2e-6
            for d in np.eye(4) * 1e-6
        ],
        axis=1,
    )
    np.testing.assert_allclose(a, numeric, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(h, h.T, rtol=1e-9, atol=1e-10)


# ---- random numbers


def test_draws_differ_from_lane_to_lane_by_the_fixed_rule() -> None:
    rng_state = gc.Rng(seed=5)
    x = gc.observed("x", (3,))
    drawn = gc.vmap(lambda v: gc.random.uniform((4,), rng=rng_state) + v)(x)
    run = gc.compile([x], drawn)
    got = run(np.zeros(3, np.float32))
    site = next(
        n.attrs["value"]
        for n in run.graph.nodes
        if n.op == "full" and n.block.startswith("uniform") and n.types[0].dtype == gc.int64
    )
    key = draw_key((5, 0), (0, 0, site, 0))
    for lane in range(3):
        bits = draw_bits(draw_key(key, (lane, 0, 2, 0)), 4)
        np.testing.assert_array_equal(got[lane], (bits >> 8).astype(np.float32) * 2.0**-24)


def test_draws_in_a_loop_in_lanes_and_in_lanes_in_a_loop() -> None:
    def draw(_: Any) -> Value:
        return gc.random.uniform((2,))

    x = gc.observed("x", (3,))
    in_lanes = gc.vmap(lambda v: gc.scan(lambda c, _: (c, draw(c)), v, length=4)[1])(x)
    in_loop = gc.scan(lambda c, _: (c, gc.vmap(draw)(x)), x, length=4)[1]
    a, b = gc.compile([x], (in_lanes, in_loop))(np.zeros(3, np.float32))
    assert len(np.unique(a)) == a.size == 24
    assert len(np.unique(b)) == b.size == 24
    kept = gc.compile([x], gc.vmap(lambda v: v + gc.random.normal(()) * 0.0)(x))
    assert kept(np.zeros(3, np.float32)).shape == (3,)


def test_dropout_has_fresh_noise_in_every_lane() -> None:
    layer = nn.Dropout(0.5)
    x = gc.observed("x", (8, 32))
    run = gc.compile([x], gc.vmap(layer)(x), mode="train")
    got = run(np.ones((8, 32), np.float32)) > 0
    assert len({row.tobytes() for row in got}) == 8
    assert 0.35 < got.mean() < 0.65


# ---- PyTorch


@pytest.mark.torch
def test_equals_torch_func() -> None:
    torch = pytest.importorskip("torch")
    net = nn.Linear(4, 5) >> nn.Tanh() >> nn.LayerNorm(5) >> nn.Linear(5, 3)
    x, y = gc.observed("x", (6, 4)), gc.observed("y", (6,), gc.int64)
    cross = nn.CrossEntropyLoss()
    per = gc.vmap(lambda a, b: gc.grad(cross(net(a), b), net))(x, y)
    run = gc.compile([x, y], per)
    at, labels = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 3, 6)
    got = run(at, labels)
    theirs = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.LayerNorm(5), torch.nn.Linear(5, 3)
    )
    theirs.load_state_dict({k: torch.tensor(v) for k, v in net.state_dict().items()})
    held = dict(theirs.named_parameters())

    def loss(p: Any, a: Any, b: Any) -> Any:
        out = torch.func.functional_call(theirs, p, (a,))
        return torch.nn.functional.cross_entropy(out, b)

    wanted = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(
        held, torch.tensor(at), torch.tensor(labels)
    )
    assert set(got) == set(wanted)
    for name, array in got.items():
        np.testing.assert_allclose(array, wanted[name].detach(), rtol=1e-4, atol=1e-6)
