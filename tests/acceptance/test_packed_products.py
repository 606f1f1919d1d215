"""Products whose operands are read badly as they lie: they are copied first, and come out right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from graphc.schedule import Launch, walk


def _launches(f: gc.Executable) -> int:
    return sum(isinstance(s, Launch) for s in walk(f.schedule.body))


@pytest.mark.parametrize(("m", "k", "n"), [(256, 256, 256), (200, 131, 77), (97, 300, 259)])
def test_a_transposed_operand_is_packed_and_the_product_right(m: int, k: int, n: int) -> None:
    x, w, b = (gc.observed(c, s) for c, s in (("x", (m, k)), ("w", (n, k)), ("b", (n,))))
    f = gc.compile([x, w, b], ops.maximum(x @ w.T + b, 0.0))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((m, k), (n, k), (n,))]
    a, v, c = (z.astype(np.float64) for z in arrays)
    np.testing.assert_allclose(f(*arrays), np.maximum(a @ v.T + c, 0), rtol=1e-4, atol=1e-3)
    if m == k == n:
        names = [kernel.name for kernel in f.schedule.kernels]
        assert len(names) == 2, names
        assert names[0].endswith("_pack")


def test_one_operand_of_two_products_is_packed_once() -> None:
    x, y, w = (gc.observed(c, (256, 256)) for c in "xyw")
    f = gc.compile([x, y, w], [ops.exp(x @ w.T), ops.tanh(y @ w.T)])
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((256, 256)).astype(np.float32) * 0.1 for _ in range(3)]
    a, b, v = (z.astype(np.float64) for z in arrays)
    first, second = f(*arrays)
    np.testing.assert_allclose(first, np.exp(a @ v.T), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second, np.tanh(b @ v.T), rtol=1e-4, atol=1e-5)
    assert _launches(f) == 3


def test_every_level_is_verified_and_dumped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHC_VERIFY", "1")
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path))
    x = gc.observed("x", (64, 32))
    net = nn.Linear(32, 16) >> nn.ReLU() >> nn.Linear(16, 4)
    loss = (net(x) ** 2).mean()
    grads = gc.grad(loss, net.parameters())
    gc.compile([x], [loss, *grads], name="seen")
    written = {p.name: p.read_text() for p in (tmp_path / "seen").iterdir()}
    assert {"kernels.txt", "schedule.txt", "graph.simplify.txt"} <= written.keys()
    assert "kernel " in written["kernels.txt"]
    assert "launch " in written["schedule.txt"]
    assert "contract" in written["graph.simplify.txt"]
    gc.compile([x], loss, name="../outside")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["_outside", "seen"]
