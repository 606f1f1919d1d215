"""As machine code what no table compiles, against the interpreter; and every block as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from graphc.graph import block
from tests.blocks.attention import ATTENTION
from tests.blocks.combinations import COMBINATIONS
from tests.blocks.graphs import GRAPHS
from tests.blocks.recurrence import RECURRENCE
from tests.evaluating import step

rng = np.random.default_rng(8)
EDGES = np.array([[0, 1, 2, 3, 0], [1, 2, 0, 3, 3]])


def program() -> tuple[dict[gc.Value, Any], list[gc.Value]]:
    """Inputs with their arrays, and the results of one block each."""
    x, z = gc.observed("x", (4, 6)), gc.observed("z", (4, 2))
    flow, edges = gc.observed("flow", (2, 4, 6)), gc.observed("edges", (2, 5), gc.int64)
    batch, start = gc.observed("batch", (4,), gc.int64), gc.observed("start", (), gc.int64)
    feeds = {
        x: rng.normal(size=(4, 6)).astype(np.float32),
        z: rng.normal(size=(4, 2)).astype(np.float32),
        flow: rng.normal(size=(2, 4, 6)).astype(np.float32),
        edges: EDGES,
        batch: np.array([0, 0, 1, 1]),
        start: np.asarray(2),
    }
    cell, head = nn.GRUCell(6, 5), nn.Linear(5, 6)

    def decoder(given: Any, h: Any) -> Any:
        h = cell(given, h)
        return head(h), h

    zero = ops.zeros((4, 5))
    steps = ops.swapaxes(flow, 0, 1)
    node, shared = nn.VirtualNode(nn.SAGEConv(6, 6), nn.Linear(6, 6))(
        x, ops.zeros((2, 6)), edges, batch
    )
    experts = [nn.Linear(6, 3) for _ in range(2)]
    results = [
        nn.SinusoidalPositions()(flow, start),
        nn.LearnedPositions(9, 6)(flow, start),
        nn.RotaryPositions(interleaved=True)(flow, start),
        nn.Gated(nn.Linear(6, 3), nn.Linear(6, 3))(x),
        nn.HyperLinear(6, 2, nn.Linear(2, 14))(x, z),
        nn.MixtureOfExperts(experts, nn.Linear(6, 2))(x),
        nn.RandomFourierFeatures(6, 8)(x),
        nn.RandomProjection(6, 3)(x),
        node,
        shared,
        nn.functional.global_max_pool(x, batch, 2),
        nn.free_running(decoder, x, zero, 3, ops.tanh)[0],
        nn.scheduled_sampling(decoder, x[:, None] * ops.ones((4, 4, 1)), zero, 0.5, ops.tanh)[0],
        nn.GRU(6, 4, 2, dropout=0.5)(steps)[0],
        nn.AlphaDropout(0.3)(x),
        nn.Dropout1d(0.3)(flow),
        nn.GaussianNoise(0.3, relative=True)(x),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, 0.2), 1)(flow),
    ]
    slopes = gc.grad(sum((r * r).sum() for r in results), [x, z, flow])
    return feeds, [*results, *slopes]


def test_compiled_equals_the_interpreter_random_numbers_included() -> None:
    gc.manual_seed(5)
    feeds, results = program()
    wanted = step({}, results, feeds)
    gc.manual_seed(5)
    got = gc.compile(list(feeds), results, mode="train")(*feeds.values())
    for place, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        size = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * size, err_msg=str(place))
    gc.manual_seed(0)


@pytest.mark.parametrize(
    "family", [RECURRENCE, ATTENTION, GRAPHS, COMBINATIONS],
    ids=["recurrence", "attention", "graphs", "combinations"],
)  # fmt: skip
def test_each_draws(family: list[Any], tmp_path: Path) -> None:
    """Its own name stands in the picture."""
    first = {sample.name: sample for sample in reversed(family)}
    for number, each in enumerate(first.values()):
        module = each.ours("float32")
        arrays = each.arrays("float32")
        inputs = [gc.observed(f"x{i}", a.shape, str(a.dtype)) for i, a in enumerate(arrays)]
        with block("picture"):
            outs = each.run(module, inputs)
        path = gc.draw(outs, tmp_path / f"{number}.dot")
        assert each.name in path.read_text(), each.name
