"""Primitives in lanes in machine code, their derivatives too; and functions against torch.func."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from graphc.graph import Graph, Value, apply_all, source_value
from graphc.interpret import interpret
from graphc.kernel.scalar_ops import SCALAR_OPS
from graphc.op import OPS, Op, Sample
from graphc.types import TensorType
from tests.evaluating import evaluate
from tests.ops.sampling import arrays_of, assert_close
from tests.ops.test_samples import differentiable, has_value

LANES = 3
rng = np.random.default_rng(55)


def _chosen() -> list[Any]:
    """All primitives but most of the elementwise ones, whose one rule is the same."""
    kept = {"exp", "where", "pow", "//"}
    found = []
    for op in OPS.values():
        samples = [s for s in op.samples if has_value(op, s) and s.types][:6]
        if samples and op.batch is not None and (op.name not in SCALAR_OPS or op.name in kept):
            found.append(pytest.param(op, samples, id=op.name))
    return found


@pytest.mark.parametrize(("op", "samples"), _chosen())
def test_lanes_in_machine_code_are_the_oracles(op: Op, samples: list[Sample]) -> None:
    inputs: list[Value] = []
    outputs: list[Value] = []
    arrays: list[Any] = []
    for number, sample in enumerate(samples):
        own = [
            source_value("observed", TensorType(t.dtype, (LANES, *t.shape)), f"s{number}x{i}")
            for i, t in enumerate(sample.types)
        ]
        versions = [arrays_of(sample, sample.types, seed) for seed in range(LANES)]
        results = gc.vmap(lambda *xs: apply_all(op.name, *xs, **sample.attrs))(*own)  # noqa: B023
        inputs += own
        arrays += [np.stack(parts) for parts in zip(*versions, strict=True)]
        outputs += results
        if differentiable(op, sample):
            smooth = [v for v in results if v.dtype.is_float]
            moving = [v for v in own if v.dtype.is_float]
            outputs += gc.vjp(smooth, moving, [ops.ones_like(v) for v in smooth])
    run = gc.compile(inputs, outputs, unused="ignore")
    with np.errstate(all="ignore"):
        wanted, _ = interpret(Graph(tuple(inputs), tuple(outputs)), arrays)
    for a, b, value in zip(run(*arrays), wanted, outputs, strict=True):
        assert_close(a, b, value.dtype)


def test_a_bounded_loop_in_lanes_has_a_derivative() -> None:
    x, w = gc.observed("x", (4,), gc.float64), gc.observed("w", (), gc.float64)

    def double(v: Value) -> Value:
        return gc.while_loop(lambda s: s < 10.0, lambda s: s * w, v, max_steps=6)  # type: ignore[no-any-return]

    feeds = {x: np.array([1.0, 3.0, 50.0, 6.0]), w: np.array(2.0)}
    lanes = gc.vmap(double)(x)
    value, slopes = evaluate((lanes, gc.grad(lanes.sum(), (x, w))), feeds)
    times = np.array([4, 2, 0, 1])
    np.testing.assert_allclose(value, feeds[x] * 2.0**times)
    np.testing.assert_allclose(slopes[0], 2.0**times)
    np.testing.assert_allclose(slopes[1], (times * feeds[x] * 2.0 ** (times - 1)).sum())


def test_draws_inside_of_a_custom_gradient_and_of_remat_in_lanes() -> None:
    @gc.custom_gradient
    def noisy(v: Value) -> Value:
        return v * gc.random.uniform(v.shape, dtype=gc.float64)

    @noisy.backward
    def _(v: Value, out: Value, ct: Value) -> Value:
        return ct * out / v

    x = gc.observed("x", (3, 5), gc.float64)
    y = gc.vmap(gc.remat(noisy))(x)
    out, slope = gc.compile([x], (y, gc.grad(y.sum(), x)))(np.full((3, 5), 2.0))
    np.testing.assert_allclose(slope, out / 2)
    assert len(np.unique(out)) == 15


@pytest.mark.torch
@pytest.mark.parametrize("name", ["convolution", "attention", "indexing", "sorting", "recurrence"])
def test_equals_torch_func_vmap(name: str) -> None:
    torch = pytest.importorskip("torch")
    arrays, ours, theirs = _functions(torch)[name]
    values = [gc.observed(f"a{i}", a.shape, a.dtype) for i, a in enumerate(arrays)]
    got = gc.compile(values, gc.vmap(ours)(*values))(*arrays)
    wanted = torch.func.vmap(theirs)(*map(torch.tensor, arrays))
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-5, atol=1e-6)
    if name != "sorting":
        slopes = gc.vmap(lambda a, b: gc.grad((ours(a, b) ** 2).sum(), a))(*values)
        want = torch.func.vmap(torch.func.grad(lambda a, b: (theirs(a, b) ** 2).sum()))
        got = gc.compile(values, slopes)(*arrays)
        np.testing.assert_allclose(got, want(*map(torch.tensor, arrays)), rtol=1e-4, atol=1e-5)


def _functions(torch: Any) -> dict[str, Any]:
    f, n = torch.nn.functional, nn.functional
    draw = lambda *s: rng.normal(size=s).astype(np.float32)  # noqa: E731
    places = rng.integers(0, 6, (3, 4))
    return {
        "convolution": (
            [draw(3, 2, 3, 7, 6), draw(3, 4, 3, 3, 3)],
            lambda a, w: n.conv2d(a, w, stride=2, padding=1),
            lambda a, w: f.conv2d(a, w, stride=2, padding=1),
        ),
        "attention": (
            [draw(3, 5, 4), draw(3, 6, 4)],
            lambda q, k: ops.softmax(q @ k.T / 2.0) @ k,
            lambda q, k: torch.softmax(q @ k.T / 2.0, -1) @ k,
        ),
        "indexing": (
            [draw(3, 6, 2), places],
            lambda a, i: a.at[i].add(1.5)[i] * a[1:5],
            lambda a, i: a.index_put((i,), torch.tensor(1.5), accumulate=True)[i] * a[1:5],
        ),
        "sorting": (
            [draw(3, 6, 5), draw(3, 6, 5)],
            lambda a, b: ops.sort(a, axis=0) + ops.cumulative_sum(b, axis=1),
            lambda a, b: torch.sort(a, 0).values + torch.cumsum(b, 1),
        ),
        "recurrence": (
            [draw(3, 6, 4), draw(3, 4, 4)],
            lambda xs, w: gc.scan(lambda h, v: (ops.tanh(h @ w + v), h), xs[0], xs)[1],
            lambda xs, w: torch.stack(_unrolled(torch, xs, w)),
        ),
    }


def _unrolled(torch: Any, xs: Any, w: Any) -> list[Any]:
    h, found = xs[0], []
    for v in xs:
        found.append(h)
        h = torch.tanh(h @ w + v)
    return found
