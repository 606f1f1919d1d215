"""Tilings chosen by time, on a device whose clock is ours."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import ops
from graphc.backends.cache import Cache
from graphc.backends.triton import driver as cuda
from graphc.backends.triton import tuning
from graphc.backends.triton.tiling import GpuTiling
from tests.triton.host_driver import HostDriver


class Clocked(HostDriver):
    """A launch takes the time that ``cost`` gives; kernels that are ``odd`` round otherwise."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.now, self.measured, self.held = 0, 0, set[int]()
        self.cost: Callable[[GpuTiling], int] = lambda tiling: 100
        self.odd: Callable[[GpuTiling], bool] = lambda tiling: False
        self._odd = False

    def allocate(self, nbytes: int, doing: str = "") -> int:
        address = super().allocate(nbytes, doing)
        if doing.startswith("tuning"):
            self.held.add(address)
        return address

    def free(self, address: int) -> None:
        self.held.discard(address)

    def launch(self, function: Any, grid: int, parameters: Any, doing: str) -> None:
        self.measured += 1
        self.now += self.cost(function.handle.tiling)
        self._odd = self.odd(function.handle.tiling)
        if self.log[-1][0] == "clear":  # to look at; the others are timed only
            super().launch(function, grid, parameters, doing)

    def copy_out(self, target: int, source: int, nbytes: int) -> None:
        super().copy_out(target, source, nbytes)
        if self._odd and source in self.held:
            (ctypes.c_uint8 * nbytes).from_address(target)[0] ^= 1

    def record(self) -> int:
        return self.now


@pytest.fixture
def clocked(device: Any, monkeypatch: Any, tmp_path: Path) -> Clocked:
    made = Clocked(tmp_path)
    kept = Cache(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(cuda, "driver", lambda: made)
    monkeypatch.setattr(tuning, "default_cache", lambda: kept)
    return made


def compiled(**options: Any) -> tuple[gc.Executable, list[GpuTiling]]:
    x = gc.observed("x", (16, 512))
    program = gc.compile([x], ops.softmax(x, -1), backend="triton", **options)
    loaded: Any = program._latest().loaded
    return program, [kernel.tiling for kernel in loaded.kernels.values()]


def chosen(**options: Any) -> GpuTiling:
    (tiling,) = compiled(**options)[1]
    return tiling


def test_without_asking_nothing_is_measured(clocked: Clocked) -> None:
    assert str(chosen()) == str(chosen())
    assert clocked.measured == 0


def test_the_fastest_is_taken_and_computes_the_same(clocked: Clocked) -> None:
    usual = chosen()
    clocked.cost = lambda tiling: 100 if tiling.warps == usual.warps else 50 + tiling.warps
    program, (tiling,) = compiled(tune="same")
    assert tiling.warps != usual.warps
    values = np.random.default_rng(0).standard_normal((16, 512)).astype(np.float32)
    wanted = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    np.testing.assert_allclose(np.asarray(program(values)), wanted, rtol=1e-5)
    assert not clocked.held, "memory to measure with was given back"


def test_noise_does_not_choose(clocked: Clocked) -> None:
    usual = chosen()
    clocked.cost = lambda tiling: 100 if str(tiling) == str(usual) else 99
    assert str(chosen(tune="same")) == str(usual)


def test_only_equal_bits_compete_unless_free(clocked: Clocked) -> None:
    usual = chosen()
    clocked.cost = lambda tiling: 100 if tiling.warps == usual.warps else 10
    clocked.odd = lambda tiling: tiling.warps != usual.warps
    assert chosen(tune="same").warps == usual.warps
    assert chosen(tune="free").warps != usual.warps


def test_a_result_is_kept_for_the_device(
    clocked: Clocked, monkeypatch: Any, tmp_path: Path
) -> None:
    usual = chosen()
    clocked.cost = lambda tiling: 100 if tiling.warps == usual.warps else 10
    first = chosen(tune="same")
    measured = clocked.measured
    assert measured > 0
    clocked.cost = lambda tiling: 100
    monkeypatch.setattr(tuning, "default_cache", lambda: Cache(tmp_path / "kept"))
    assert str(chosen(tune="same")) == str(first)
    assert clocked.measured == measured, "another process reads it"
    monkeypatch.setattr(Clocked, "name", "another")
    assert str(chosen(tune="same")) == str(usual)
    assert clocked.measured > measured
    for entry in (tmp_path / "kept").rglob("*.o"):
        entry.write_bytes(entry.read_bytes()[:-1])
    measured = clocked.measured
    monkeypatch.setattr(tuning, "default_cache", lambda: Cache(tmp_path / "kept"))
    chosen(tune="same")
    assert clocked.measured > measured, "a damaged entry is measured anew"


def test_products_with_checks_and_states_are_measured_too(clocked: Clocked) -> None:
    gc.manual_seed(0)
    x, y = gc.observed("x", (32, 16)), gc.observed("y", (32,), gc.int64)
    net = gc.nn.Linear(16, 32)
    loss = gc.nn.CrossEntropyLoss()(net(x), y)
    updates = gc.optim.SGD(lr=0.1).minimize(loss)
    before = [p.numpy() for p in net.parameters()]
    step = gc.compile([x, y], loss, updates, backend="triton", tune="free")
    for parameter, old in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.numpy(), old)
    assert clocked.measured > 0
    data = np.random.default_rng(1)
    images, labels = data.standard_normal((32, 16)).astype(np.float32), data.integers(0, 32, 32)
    first = float(step(images, labels))
    assert float(step(images, labels)) < first


def test_run_time_sizes_keep_the_models_choice(clocked: Clocked) -> None:
    rows = gc.Dim("B", specialize=False)
    x = gc.observed("x", (rows, 8))
    gc.compile([x], x * 2.0, backend="triton", tune="same")
    assert clocked.measured == 0


def test_what_cannot_be_tuned_says_so(device: Any) -> None:
    x = gc.observed("x", (4,))
    with pytest.raises(gc.BackendError, match="measured on the device that runs them"):
        gc.compile([x], x * 2.0, target="sm_90", tune="same")
    with pytest.raises(gc.BindError, match="it is None or 'same' or 'free'"):
        gc.compile([x], x * 2.0, tune="fast")
    program = gc.compile([x], x * 2.0, backend="llvm", tune="free")
    np.testing.assert_array_equal(program(np.ones(4, np.float32)), 2.0)


def test_no_memory_to_measure_with_is_an_error(clocked: Clocked) -> None:
    clocked.limit = 1000
    with pytest.raises(gc.BackendError, match=r"tuning kernel softmax.*: out of memory"):
        chosen(tune="same")
    assert not clocked.held
