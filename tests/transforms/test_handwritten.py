"""gc.kernel: the kernels of the zoo as ops, what cannot be one, and a derivative by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.text_parser import parse_graph
from tests.evaluating import evaluate
from tests.kernel.case import Case
from tests.kernel.zoo import ZOO, assert_agrees

SOFTCLIP = """kernel softclip
  size n 1..
  axes i:n
  in x f32[n]
  out y f32[n]
  a = load x[i]
  store y[i] = a / (1.0 + abs(a))
"""


def _refused(case: Case) -> bool:
    try:
        gc.kernel(case.text)
    except gc.KernelError:
        return True
    return False


REFUSED = {case.name.partition("[")[0] for case in ZOO if _refused(case)}
OPS = [case for case in ZOO if not _refused(case)]


def test_what_writes_elsewhere_than_at_its_axes_is_no_op() -> None:
    assert {
        *("top2", "interleave_size", "embedding_backward", "decode_attention", "movement"),
        "conv2d_dgrad_phases",
    } == REFUSED


@pytest.mark.parametrize("case", [c for c in OPS if c.golden], ids=str)
def test_a_kernel_of_the_zoo_runs_natively_as_an_op(case: Case) -> None:
    """At its own sizes, and where those are run-time ones with a dim for each."""
    _compare(case, native=True)


@pytest.mark.parametrize("case", [c for c in OPS if not c.golden], ids=str)
def test_a_kernel_of_the_zoo_has_its_reference(case: Case) -> None:
    _compare(case, native=False)


def _compare(case: Case, *, native: bool) -> None:
    op = gc.kernel(case.text)
    arrays = case.make_inputs(np.random.default_rng(7))
    values = {n: gc.observed(n, a.shape, a.dtype) for n, a in arrays.items()}
    made = op(**values, **case.scalars)
    outputs = made if isinstance(made, tuple) else (made,)
    by_name = {v.name: v for v in outputs}
    if native:
        got = gc.compile(list(values.values()), by_name, unused="ignore")(*arrays.values())
    else:
        got = evaluate(by_name, {values[n]: a for n, a in arrays.items()})
    assert_agrees(case, got, case.reference(arrays), 7)


def test_sizes_are_those_of_the_arguments() -> None:
    op = gc.kernel(SOFTCLIP)
    rows = gc.Dim("B", specialize=False)
    x = gc.observed("x", (rows,))
    run = gc.compile([x], ops.exp(op(x * 2.0)))
    for n in (1, 7, 300):
        at = np.linspace(-2, 2, n, dtype=np.float32)
        np.testing.assert_allclose(run(at), np.exp(2 * at / (1 + abs(2 * at))), rtol=1e-6)
    assert len(run.schedule.kernels) == 1, "it fuses like any op"
    assert op(np.float32([1, 2])).shape == (2,)


def test_its_text_is_part_of_the_graphs() -> None:
    x = gc.observed("x", (4,))
    graph = gc.compile([x], gc.kernel(SOFTCLIP)(x)).graph
    text = graph.text()
    assert "softclip" in text
    assert parse_graph(text).text() == text


@gc.custom_gradient
def softclip(x: gc.Value) -> gc.Value:
    return gc.kernel(SOFTCLIP)(x)  # type: ignore[no-any-return]


@softclip.backward
def _(x: gc.Value, out: gc.Value, ct: gc.Value) -> gc.Value:
    return ct / ops.square(1.0 + ops.abs(x))


def test_a_derivative_by_hand_in_lanes_and_loops() -> None:
    x = gc.observed("x", (3, 4))
    at = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    plain = lambda v: v / (1.0 + ops.abs(v))  # noqa: E731

    def results(f: Any) -> list[gc.Value]:
        lanes = gc.vmap(f)(x)
        loop, _ = gc.scan(lambda c, _: (f(c) * 1.5, None), x[0], length=3)
        return [
            *(lanes, gc.grad((lanes * lanes).sum(), x), loop, gc.grad(loop.sum(), x)),
            gc.hvp((f(x[0]) ** 2).sum(), x, x),
        ]

    run = gc.compile([x], [results(softclip), results(plain)])
    for a, b in zip(*run(at), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_without_one_a_gradient_is_refused() -> None:
    x = gc.observed("x", (4,))
    with pytest.raises(gc.GradError, match=r"kernel softclip has no derivative.*custom_gradient"):
        gc.grad(gc.kernel(SOFTCLIP)(x).sum() + x.sum(), x)
    gc.grad(gc.kernel(SOFTCLIP)(gc.stop_gradient(x)).sum() + x.sum(), x)


def test_checks_and_scalars_are_kept() -> None:
    text = """kernel pick
  axes i:3
  in x f32[3], t i64[3]
  scalar pos i64 0..2
  out y f32[3]
  at = load t[i]
  check at >= 0 and at < 3 "a place is out of range"
  a = load x[at]
  b = load x[pos]
  store y[i] = a + b
"""
    x = gc.observed("x", (3,))
    t, pos = gc.observed("t", (3,), gc.int64), gc.observed("p", (), gc.int64)
    count = gc.state(np.zeros((), np.float32))
    out = gc.attach_updates(gc.kernel(text)(x, t, pos), {count: count + 1.0})
    run = gc.compile([x, t, pos], out, mode="train")
    at = np.float32([1, 2, 4])
    np.testing.assert_array_equal(run(at, [2, 0, 1], 1), [6, 3, 4])
    with pytest.raises(gc.RuntimeCheckError, match="a place is out of range"):
        run(at, [2, 3, 1], 1)
    with pytest.raises(gc.RuntimeCheckError, match="pos is outside of its declared range"):
        run(at, [2, 0, 1], 3)
    assert count.numpy() == 1


def test_a_scalar_bounded_by_a_size() -> None:
    text = """kernel row
  size T 1..
  axes i:3
  in x f32[T,3]
  scalar pos i32 0..T-1
  out y f32[3]
  a = load x[pos, i]
  store y[i] = a
"""
    rows = gc.Dim("R", specialize=False)
    x, pos = gc.observed("x", (rows, 3)), gc.observed("p", (), gc.int32)
    run = gc.compile([x, pos], gc.kernel(text)(x, pos))
    for count in (1, 4):
        given = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
        np.testing.assert_array_equal(run(given, np.int32(count - 1)), given[-1])
        with pytest.raises(gc.RuntimeCheckError, match="pos is outside of its declared range"):
            run(given, np.int32(count))
