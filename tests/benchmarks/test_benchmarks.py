"""The measuring itself: references, ratios, and one short run of the whole protocol."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the benchmarks' references need SciPy")

from benchmarks import choices
from benchmarks.curve import PROGRAMS, curve_table, measure_curve
from benchmarks.networks import Gradients, cnn_gradients, layer_gradients, lstm_gradients
from benchmarks.peers import PEERS, graphc_peer
from benchmarks.protocol import MissingError, Plan, Process, Times, measure, ratio
from benchmarks.report import speed_table
from benchmarks.settings import ADAM
from benchmarks.workloads import (
    WORKLOADS,
    Workload,
    cnn_workload,
    layer_workload,
    lstm_workload,
    train_reference,
)

QUICK = Plan(rounds=2, seconds=0.001, threads=1, patience=0.0)


def test_ratio_is_paired() -> None:
    """The machine slows down threefold half-way: paired ratios do not see it."""
    ours = [1.0] * 10 + [3.0] * 10
    found = ratio([2 * t for t in ours], ours)
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)
    noisy = ratio(list(np.random.default_rng(0).uniform(1, 3, 40)), [1.0] * 40)
    assert noisy.low < noisy.median < noisy.high


def test_inputs_are_the_same_in_every_process_and_differ_by_workload() -> None:
    w = WORKLOADS["matmul-256"]
    first, again = w.draw(), w.draw()
    assert all((first[k] == again[k]).all() for k in first)
    assert (first["a"] != WORKLOADS["matmul-256"].draw(seed=1)["a"]).any()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["softmax", "layer-norm", "chain-4096", "conv3x3"])
def test_references_agree_with_torch(name: str) -> None:
    import torch
    from torch.nn import functional

    w = WORKLOADS[name]
    rows = slice(0, 2 if name == "conv3x3" else 4096 if w.kind == "chain" else 16)
    inputs = {k: a[rows] if k == "x" or w.kind == "chain" else a for k, a in w.draw().items()}
    t = {k: torch.from_numpy(a).double() for k, a in inputs.items()}
    expected = {
        "softmax": lambda: torch.softmax(t["x"], -1),
        "layer_norm": lambda: functional.layer_norm(t["x"], (1024,), t["weight"], t["bias"]),
        "chain": lambda: (
            torch.tanh(t["x"] * t["a"] + t["b"]) * torch.sigmoid(t["x"]) + functional.gelu(t["x"])
        ),
        "conv": lambda: functional.conv2d(t["x"], t["weight"], padding=1),
    }[w.kind]()
    np.testing.assert_allclose(w.reference(inputs), expected.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.torch
def test_train_reference_agrees_with_torch() -> None:
    import torch

    inputs = WORKLOADS["mlp-train-32"].draw()
    x, y = torch.from_numpy(inputs["x"]).double(), torch.from_numpy(inputs["y"])
    weights = [torch.from_numpy(inputs[f"w{i}"]).double().requires_grad_() for i in range(3)]
    biases = [torch.from_numpy(inputs[f"b{i}"]).double().requires_grad_() for i in range(3)]
    adam = torch.optim.Adam([*weights, *biases], lr=ADAM["lr"], eps=ADAM["eps"])
    losses = []
    for _ in range(3):
        h = x
        for i in range(3):
            h = h @ weights[i].T + biases[i]
            h = h.relu() if i < 2 else h
        loss = torch.nn.functional.cross_entropy(h, y)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    np.testing.assert_allclose(train_reference(inputs), losses, rtol=1e-9)


#: the networks' rows at sizes that take no time, no two of them equal
SMALL: dict[str, Workload] = {
    w.kind: w
    for w in (
        cnn_workload(batch=4, size=8, channels=(3, 4, 6, 5, 7), hidden=11),
        lstm_workload(steps=5, batch=3, letters=7, width=12),
        layer_workload(train=False, batch=2, length=9, width=128),
        layer_workload(train=True, batch=2, length=9, width=128),
    )
}


@pytest.mark.parametrize(
    ("name", "gradients"),
    [
        ("cnn_train", cnn_gradients),
        ("lstm_train", lstm_gradients),
        ("layer_train", layer_gradients),
    ],
)
def test_gradients_of_references_agree_with_differences(name: str, gradients: Gradients) -> None:
    """Along a random direction of each parameter, in float64."""
    inputs = SMALL[name].draw()
    generator = np.random.default_rng(0)
    parameters = {n: a.astype(np.float64) for n, a in inputs.items() if n not in ("x", "y")}
    _, found = gradients(inputs, parameters)
    assert set(found) == set(parameters)
    for changed, p in parameters.items():
        direction = generator.standard_normal(p.shape) * 1e-6
        ahead, _ = gradients(inputs, parameters | {changed: p + direction})
        behind, _ = gradients(inputs, parameters | {changed: p - direction})
        expected = (ahead - behind) / 2
        assert (found[changed] * direction).sum() == pytest.approx(expected, rel=1e-5, abs=1e-13)


@pytest.mark.parametrize("kind", SMALL)
def test_graphc_computes_what_the_references_of_networks_do(kind: str) -> None:
    workload = SMALL[kind]
    expected = workload.reference(workload.draw())
    call = graphc_peer.BUILDERS[kind](workload.draw(), 1)
    got = call.result()
    call.reset()
    np.testing.assert_array_equal(call.result(), got)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= workload.tolerance * np.abs(expected).max()


@pytest.mark.torch
@pytest.mark.parametrize("kind", SMALL)
def test_torch_computes_what_the_references_of_networks_do(kind: str) -> None:
    from benchmarks.peers import torch_peer

    workload = SMALL[kind]
    expected = workload.reference(workload.draw())
    call = torch_peer.BUILDERS[kind](workload.draw(), 1)
    got = call.result()
    call.reset()
    np.testing.assert_array_equal(call.result(), got)
    assert np.abs(got - expected).max() <= workload.tolerance * np.abs(expected).max()


def test_networks_say_their_operations() -> None:
    """Forward products three times, without the gradient towards the first one's input."""
    assert WORKLOADS["lstm-train"].flops == 6 * 64 * 32 * (2 * 256 * 1024 + 256 * 65)
    forward = 9 * 1024 * (3 * 32 + 32 * 32) + 9 * 256 * (32 * 64 + 64 * 64) + 4096 * 256 + 2560
    assert WORKLOADS["cnn-train-64"].flops == 2 * 64 * (3 * forward - 9 * 1024 * 3 * 32)
    tokens, width = 8 * 128, 768
    products = tokens * (12 * width * width + 2 * 128 * width)
    assert WORKLOADS["layer-forward"].flops == 2 * products
    assert WORKLOADS["layer-train"].flops == 6 * products - 6 * tokens * width * width


def test_one_short_run_checks_times_and_prints() -> None:
    peers = ["numpy", "fma-peak"]
    processes = {peer: Process(peer, QUICK.threads) for peer in peers}
    try:
        times = measure("matmul-256", processes, QUICK)
    finally:
        for process in processes.values():
            process.stop()
    assert times.missing == {}
    assert times.errors["numpy"] < 1e-6
    assert len(times.seconds["numpy"]) == QUICK.rounds
    assert times.flops["fma-peak"] > 0
    table = speed_table({"matmul-256": times})
    assert "| numpy |" in table
    assert "GFLOP/s" in table


def test_a_peer_that_cannot_is_missing_with_its_reason() -> None:
    process = Process("numpy", 1)
    try:
        times = measure("conv3x3", {"numpy": process}, QUICK)
    finally:
        process.stop()
    assert times.missing == {"numpy": "not offered by this peer"}
    assert "missing" in speed_table({"conv3x3": times})


def test_a_peer_that_is_not_installed_is_missing(tmp_path: object) -> None:
    assert PEERS["jax"].environment(2)["OMP_NUM_THREADS"] == "2"
    try:
        import jax  # noqa: F401
    except ImportError:
        with pytest.raises(MissingError, match="jax"):
            Process("jax", 1)


def test_a_wrong_result_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import protocol

    monkeypatch.setattr(protocol, "_references", {"matmul-256": np.ones((256, 256))})
    process = Process("numpy", 1)
    try:
        times: Times = measure("matmul-256", {"numpy": process}, QUICK)
    finally:
        process.stop()
    assert "wrong: error" in times.missing["numpy"]
    assert times.seconds == {}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_point_of_the_curve_of_compile_time(name: str) -> None:
    point = measure_curve(name, 200)
    assert 120 < point["nodes"] < 300
    assert 0 < point["passes"] < point["compile"]
    assert point["bound"] <= point["arena"] <= 1.15 * point["bound"]
    assert point["rss"] > 10


def test_the_curve_is_measured_in_processes_of_its_own() -> None:
    *_, row = curve_table(["chain"], [60]).splitlines()
    assert row.startswith("| chain | 6")
    assert row.count("|") == 11


def test_alternatives_are_timed_beside_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "PRODUCTS", ((2, 8),))
    monkeypatch.setattr(choices, "UPDATES", ((2, 8),))
    monkeypatch.setattr(choices, "LOOPS", ((2, 4),))
    monkeypatch.setattr(choices, "KEPT", ((64, 16),))
    monkeypatch.setattr(choices, "PROGRAMS", {"mlp": choices.PROGRAMS["mlp"]})
    tables = choices.choices_table(0.001).split("\n\n")
    products, updates, loops, order, kept = tables
    assert len(products.splitlines()) == len(loops.splitlines()) == 4
    assert len(kept.splitlines()) == 3
    assert len(updates.splitlines()) == len(order.splitlines()) == 3
    assert order.splitlines()[-1].endswith("% |")
