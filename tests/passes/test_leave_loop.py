"""Copies of what a loop does not change are made once, before it."""

from __future__ import annotations

import numpy as np

import graphc as gc
from graphc import ops
from graphc.backends.llvm.backend import BACKEND
from graphc.closing import close
from graphc.control import scan
from graphc.passes.pipeline import compile_graph
from graphc.schedule import Launch, Loop, walk

ROWS, WIDTH, STEPS = 192, 96, 3


def _program() -> tuple[list[gc.Value], list[gc.Value]]:
    """A product with a weight that must be laid out anew, one with a carry, in each step."""
    h0, w = gc.observed("h0", (ROWS, WIDTH)), gc.observed("w", (WIDTH, WIDTH))
    h, _ = scan(lambda h, _: (ops.tanh(h @ w.T) * 0.5, None), h0, length=STEPS)
    return [h0, w], [h]


def test_a_weight_is_laid_out_before_the_loop() -> None:
    inputs, outputs = _program()
    graph = close(outputs, {}, inputs, mode="eval")
    schedule = compile_graph(graph, "program", rewrite=BACKEND.refine).scheduled.schedule
    (loop,) = [s for s in schedule.body if isinstance(s, Loop)]
    inside = [s for s in walk(loop.body) if isinstance(s, Launch)]
    written = {name for s in inside for name in s.outputs}
    written |= {s.target for s in walk(loop.body) if hasattr(s, "target")}
    copied = [s for s in walk(schedule.body) if isinstance(s, Launch) and s not in inside]
    assert any("w" in s.inputs for s in copied)
    # whatever the loop still copies is of this iteration
    assert all("w" not in s.inputs for s in inside)
    made = {name for s in copied for name in s.outputs}
    assert any(made & set(s.inputs) for s in inside)
    assert not made & written


def test_the_loop_computes_the_same() -> None:
    inputs, outputs = _program()
    rng = np.random.default_rng(0)
    h, w = (rng.standard_normal((n, WIDTH)).astype(np.float32) for n in (ROWS, WIDTH))
    got = gc.compile(inputs, outputs)(h, w * 0.1)[0]
    want = h.astype(np.float64)
    for _ in range(STEPS):
        want = np.tanh(want @ (w.astype(np.float64) * 0.1).T) * 0.5
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
