"""States that programs of both backends use, and which backend is chosen."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import nn, optim, train
from graphc.backend import find_backend

DATA = np.random.default_rng(3)
BATCHES = [
    (DATA.standard_normal((16, 12)).astype(np.float32), DATA.integers(0, 4, 16)) for _ in range(4)
]


def network() -> tuple[list[gc.Value], gc.Value, gc.Updates, nn.Module]:
    gc.manual_seed(5)
    x, y = gc.observed("x", (16, 12)), gc.observed("y", (16,), gc.int64)
    net = nn.Linear(12, 20) >> nn.ReLU() >> nn.Linear(20, 4)
    loss = nn.CrossEntropyLoss()(net(x), y)
    return [x, y], loss, optim.Adam(lr=0.05).minimize(loss), net


def moved(device: Any) -> tuple[int, int]:
    """How many states went to the device and back since the log was cleared."""
    kinds = [what[0] for what in device.log]
    return kinds.count("copy in"), kinds.count("copy out")


def test_turns_on_both_are_the_training_of_one(device: Any) -> None:
    inputs, loss, updates, net = network()
    steps = {n: gc.compile(inputs, loss, updates, backend=n) for n in ("triton", "llvm")}
    others, cost, changes, peer = network()
    alone = gc.compile(others, cost, changes, backend="llvm")
    for batch, place in zip(BATCHES, ("triton", "llvm", "llvm", "triton"), strict=True):
        np.testing.assert_allclose(np.asarray(steps[place](*batch)), alone(*batch), rtol=1e-5)
    assert net.parameters()[0].device == "cuda"
    for mine, other in zip(net.parameters(), peer.parameters(), strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)
    assert net.parameters()[0].device == "cpu", "reading brought it"


def test_states_move_only_when_the_other_side_wrote(device: Any) -> None:
    inputs, loss, updates, net = network()
    steps = {n: gc.compile(inputs, loss, updates, backend=n) for n in ("triton", "llvm")}
    states = len(steps["llvm"].states)
    steps["triton"](*BATCHES[0])
    device.log.clear()
    steps["triton"](*BATCHES[1])
    assert moved(device) == (2, 1), "two arguments in; the error word out"
    device.log.clear()
    steps["llvm"](*BATCHES[2])
    written = sum(what[0] == "copy out" for what in device.log)
    assert 0 < written <= states
    device.log.clear()
    steps["llvm"](*BATCHES[3])
    assert moved(device) == (0, 0)
    net.parameters()[0].set(np.zeros((20, 12), np.float32))
    steps["triton"](*BATCHES[0])
    assert moved(device)[0] == 2 + written


def test_values_set_on_the_host_reach_both(device: Any) -> None:
    x = gc.observed("x", (4,))
    w = gc.parameter(np.ones(4, np.float32))
    product = {n: gc.compile([x], x * w, backend=n) for n in ("triton", "llvm")}
    double = gc.compile([], (), {w: w * 2.0}, backend="triton")
    ones = np.ones(4, np.float32)
    for value in (3.0, 4.0):
        w.set(np.full(4, value, np.float32))
        double()
        for program in product.values():
            np.testing.assert_array_equal(np.asarray(program(ones)), 2 * value)
        np.testing.assert_array_equal(product["llvm"].profile(ones).result, 2 * value)


def test_a_failed_check_leaves_what_the_other_sees(device: Any) -> None:
    inputs, loss, updates, net = network()
    steps = {n: gc.compile(inputs, loss, updates, backend=n) for n in ("triton", "llvm")}
    steps["triton"](*BATCHES[0])
    before = [p.numpy() for p in net.parameters()]
    for step in (steps["triton"], steps["llvm"], steps["triton"]):
        with pytest.raises(gc.RuntimeCheckError):
            step(BATCHES[0][0], BATCHES[0][1] + 4)
        for parameter, old in zip(net.parameters(), before, strict=True):
            np.testing.assert_array_equal(parameter.numpy(), old)


def test_a_device_that_fails_to_give_values_is_an_error_not_old_values(
    device: Any, monkeypatch: Any
) -> None:
    w = gc.state(np.zeros(2, np.float32))
    add = {n: gc.compile([], w + 0.0, {w: w + 1.0}, backend=n) for n in ("triton", "llvm")}
    add["triton"]()

    def broken(*_: object) -> None:
        raise gc.BackendError("reading a state: the device is lost")

    with monkeypatch.context() as patched:
        patched.setattr(device, "copy_out", broken)
        for ask in (add["llvm"], w.numpy):
            with pytest.raises(gc.BackendError, match="the device is lost"):
                ask()
    np.testing.assert_array_equal(add["llvm"](), 1.0)  # no lock was left behind
    np.testing.assert_array_equal(w.numpy(), 2.0)


def test_threads_on_both_lose_no_update(device: Any) -> None:
    w = gc.state(np.zeros(3, np.float32))
    add = {n: gc.compile([], (), {w: w + 1.0}, backend=n) for n in ("triton", "llvm")}
    failed: list[BaseException] = []

    def count(program: Any, times: int) -> None:
        try:
            for _ in range(times):
                program()
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=count, args=(add[name], times))
        for name, times in (("triton", 30), ("llvm", 400), ("triton", 30), ("llvm", 400))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    np.testing.assert_array_equal(w.numpy(), 860.0)


def test_fit_trains_on_the_device(device: Any) -> None:
    inputs, loss, updates, _ = network()
    step = gc.compile(inputs, loss, updates, backend="triton")
    history = train.fit(step, BATCHES, epochs=3)
    assert history is not None
    assert float(step(*BATCHES[0])) < 1.3


# ---- which backend


@pytest.fixture
def unset(monkeypatch: Any) -> Any:
    monkeypatch.delenv("GRAPHC_BACKEND", raising=False)
    from graphc.backends.triton import presence

    monkeypatch.setattr(presence, "present", lambda: True)
    return monkeypatch


def test_a_usable_gpu_is_chosen_unless_told_otherwise(device: Any, unset: Any) -> None:
    assert find_backend().name == "triton"
    assert find_backend("llvm").name == "llvm"
    x = gc.observed("x", (4,))
    assert repr(gc.compile([x], x * 2.0)).endswith("triton>")
    assert repr(gc.compile([x], x * 2.0, backend="llvm")).endswith("llvm>")
    assert repr(gc.compile([x], x * 2.0, device="cpu")).endswith("llvm>")
    assert repr(gc.compile([x], x * 2.0, device="cuda")).endswith("triton>")
    unset.setenv("GRAPHC_BACKEND", "llvm")
    assert find_backend().name == "llvm"
    assert find_backend("triton").name == "triton"


def test_a_device_that_is_too_old_is_not_chosen(device: Any, unset: Any) -> None:
    unset.setattr(type(device), "capability", 75)
    assert find_backend().name == "llvm"
    with pytest.raises(gc.BackendError, match=r"'triton' cannot run here: .* capability 7\.5"):
        find_backend("triton")


def test_no_gpu_means_the_cpu(unset: Any) -> None:
    from graphc.backends.triton import driver as cuda

    unset.setattr(cuda, "unavailable", lambda: "there is no CUDA device")
    assert find_backend().name == "llvm"


def test_devices_that_do_not_exist_or_fit_are_refused() -> None:
    x = gc.observed("x", (4,))
    with pytest.raises(gc.BackendError, match="it is 'cpu' or 'cuda'"):
        gc.compile([x], x * 2.0, device="tpu")
    with pytest.raises(gc.BackendError, match="backend 'triton' does not run there"):
        gc.compile([x], x * 2.0, device="cpu", backend="triton")


def test_looking_for_a_gpu_imports_nothing_of_it() -> None:
    program = (
        "import sys, numpy as np, graphc as gc\nx = gc.observed('x', (3,))\n"
        "gc.compile([x], x * 2.0)(np.zeros(3, np.float32))\n"
        "print([m for m in ('triton', 'torch', 'graphc.backends.triton.emit') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path), "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr
