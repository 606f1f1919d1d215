"""memory_budget: what does not fit is computed again, the same numbers come out, or an error says
how much is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.closing import close
from graphc.interpret import interpret
from graphc.passes import rematerialize
from graphc.passes.rematerialize import recomputations
from graphc.verify import verify

X = np.random.default_rng(2).standard_normal((128, 64)).astype(np.float32)


def deep(budget: int | None, layers: int = 4) -> gc.Executable:
    gc.manual_seed(0)
    x = gc.observed("x", (128, 64))
    h = x
    for _ in range(layers):
        h = h + nn.Dropout(0.1)(nn.functional.gelu(nn.Linear(64, 64)(h)))
    loss = (h * h).mean()
    updates = optim.SGD(lr=0.1).minimize(loss)
    return gc.compile([x], [loss, gc.grad(loss, x)], updates, memory_budget=budget)


def steps(run: gc.Executable) -> list[Any]:
    gc.random.default.seed(4)
    return [a for _ in range(3) for a in run(X)]


def test_it_fits_and_computes_the_same() -> None:
    plain = deep(None)
    wanted = steps(plain)
    budget = plain.memory.peak * 7 // 10
    small = deep(budget)
    assert small.memory.peak <= budget
    for a, b in zip(steps(small), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    said = str(small.explain())
    assert "computed again in the backward pass, instead of keeping" in said
    assert small.explain().repeated
    assert "computed again" not in str(plain.explain())


def test_what_fits_is_left_alone() -> None:
    plain = deep(None, 2)
    same = deep(plain.memory.peak, 2)
    assert same.memory.peak == plain.memory.peak
    assert not any(n.again for n in same.compiled.graph.nodes)


def test_what_cannot_fit_says_how_much_it_needs() -> None:
    with pytest.raises(gc.BackendError, match=r"needs [\d,]+ bytes.*computing again what it can"):
        deep(5_000, 1)
    rows = gc.Dim("B", specialize=False)
    x = gc.observed("x", (rows, 64))
    out = ops.softmax(x @ np.ones((64, 64), np.float32)).sum(0)
    run = gc.compile([x], out, memory_budget=10_000)
    run(X[:4])
    with pytest.raises(gc.BackendError, match="bytes for intermediate results at these sizes"):
        run(X)
    run(X[:4])


def test_every_choice_is_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gc.observed("x", (5, 8), gc.float64)
    w = gc.parameter(np.random.default_rng(0).normal(size=(8, 8)), gc.float64)

    def layer(h: gc.Value, _: Any) -> Any:
        return ops.tanh(h @ w) + h * gc.random.uniform(h.shape, dtype=gc.float64), h.max()

    h = x
    for _ in range(4):
        h = ops.sigmoid(layer(h, None)[0]) * ops.take(h, [4, 3, 2, 1, 0], axis=0)
    out, ys = gc.scan(layer, h, length=3)
    cost = (out * out).sum() + ys.sum()
    slopes = gc.grad(cost, (x, w))
    results = (cost, slopes, gc.grad((slopes[0] ** 2).sum(), w))
    graph = close(gc.tree.leaves(results), mode="train")
    at = np.linspace(-1, 1, 40).reshape(5, 8)
    wanted = interpret(graph, [at])[0]
    for limit in (rematerialize.CUT_LIMIT, 0):
        monkeypatch.setattr(rematerialize, "CUT_LIMIT", limit)
        made = list(recomputations(graph))
        assert len(made) >= 2
        for repeated in made:
            verify(repeated)
            assert any(n.again for n in repeated.nodes)
            for a, b in zip(interpret(repeated, [at])[0], wanted, strict=True):
                np.testing.assert_array_equal(a, b)


def test_forward_programs_have_nothing_to_repeat() -> None:
    x = gc.observed("x", (5, 8))
    assert list(recomputations(gc.compile([x], ops.softmax(x)).graph)) == []
