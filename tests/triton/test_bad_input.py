"""What a machine or a caller can get wrong, on a device made of host memory."""

from __future__ import annotations

import gc as garbage
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import nn, optim
from graphc.backends.triton.array import Array, Pool, Shared
from graphc.memory import address_of
from graphc.types import TensorType, float32

DATA = np.random.default_rng(2)
IMAGES, LABELS = DATA.standard_normal((64, 32)).astype(np.float32), DATA.integers(0, 4, 64)


def network(rows: Any = 64) -> tuple[list[gc.Value], gc.Value, gc.Updates, nn.Module]:
    gc.manual_seed(5)
    x, y = gc.observed("x", (rows, 32)), gc.observed("y", (rows,), gc.int64)
    net = nn.Linear(32, 128) >> nn.ReLU() >> nn.Linear(128, 4)
    loss = nn.CrossEntropyLoss()(net(x), y)
    return [x, y], loss, optim.SGD(lr=0.1).minimize(loss), net


def held(device: Any) -> int:
    garbage.collect()
    return sum(block.nbytes for block in device.blocks.values())


# ---- too little memory


@pytest.mark.parametrize("specialize", [None, True, False], ids=["fixed", "compiled", "run time"])
def test_out_of_memory_names_the_lines_that_own_the_peak(device: Any, specialize: Any) -> None:
    rows = 64 if specialize is None else gc.Dim("B", specialize=specialize)
    inputs, loss, updates, net = network(rows)
    before = [p.numpy() for p in net.parameters()]
    device.limit = 35_000  # states fit, the arena of 64 rows does not
    with pytest.raises(gc.OutOfMemoryError) as caught:
        gc.compile(inputs, loss, updates, backend="triton")(IMAGES, LABELS)
    text = str(caught.value)
    assert "the arena of intermediate results" in text
    assert "bytes at their peak: " in text
    assert "from test_bad_input.py:" in text
    assert "memory_budget=" in text
    for parameter, old in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.numpy(), old)
    device.limit = 1 << 40
    step = gc.compile(inputs, loss, updates, backend="triton")
    wanted = gc.compile(*network()[:2], backend="llvm", mode="train")(IMAGES, LABELS)
    np.testing.assert_allclose(float(step(IMAGES, LABELS)), wanted, rtol=1e-5)


def test_what_was_allocated_before_a_failure_is_given_back(device: Any) -> None:
    inputs, loss, updates, _ = network(gc.Dim("B", specialize=False))
    step = gc.compile(inputs, loss, updates, backend="triton")
    step(IMAGES[:8], LABELS[:8])
    used = held(device)
    device.limit = used + 20_000
    with pytest.raises(gc.OutOfMemoryError):
        step(IMAGES, LABELS)
    assert held(device) == used
    step(IMAGES[:8], LABELS[:8])


def test_no_memory_for_a_result_changes_no_state(device: Any) -> None:
    x = gc.observed("x", (256,))
    w = gc.state(np.zeros(256, np.float32))
    step = gc.compile([x], x + w, {w: w + x}, backend="triton")
    ones = np.ones(256, np.float32)
    first = step(ones)
    device.limit = held(device) - 512 * len(device.blocks)
    with pytest.raises(gc.OutOfMemoryError, match="an output"):
        step(ones)
    np.testing.assert_array_equal(w.numpy(), 1.0)
    assert first.numpy().tolist() == [1.0] * 256
    del first  # its memory is the next result's
    np.testing.assert_array_equal(np.asarray(step(ones)), 2.0)


def test_memory_that_waits_for_reuse_is_released_first(device: Any) -> None:
    pool = Pool(device)
    small = Array(pool, TensorType(float32, (64,)))
    del small
    device.limit = 8300
    large = Array(pool, TensorType(float32, (1200,)))
    assert len(device.blocks) == 1
    del large
    with pytest.raises(gc.OutOfMemoryError):
        Array(pool, TensorType(float32, (5000,)))


# ---- arrays that lie elsewhere, or oddly


class Foreign:
    """Memory of another library: where it says it is, and an offset of its first element."""

    def __init__(self, inner: Array, device: tuple[int, int] = (2, 0)) -> None:
        self.inner, self.device = inner, device

    def __dlpack__(self, **options: object) -> object:
        return self.inner.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def filled(device: Any, values: Any, offset: int = 0) -> Array:
    """An array on the device whose elements begin ``offset`` bytes behind an aligned address."""
    made = Array(Pool(device), TensorType(float32, values.shape))
    made.address += offset
    device.copy_in(made.address, address_of(values), values.nbytes)
    return made


def test_an_array_on_another_device_is_refused(device: Any) -> None:
    x = gc.observed("x", (3,))
    program = gc.compile([x], x + 1.0, backend="triton")
    values = np.float32([1, 2, 3])
    with pytest.raises(gc.BindError, match="lies on cuda:1, the program runs on cuda:0"):
        program(Foreign(filled(device, values), (2, 1)))
    with pytest.raises((gc.BindError, gc.DTypeError), match="x"):
        program(Foreign(filled(device, values), (10, 0)))  # ROCm's
    assert np.asarray(program(Foreign(filled(device, values)))).tolist() == [2, 3, 4]


def test_the_cpu_refuses_what_lies_on_a_device(device: Any) -> None:
    x = gc.observed("x", (3,))
    program = gc.compile([x], x + 1.0, backend="llvm")
    with pytest.raises((gc.BindError, gc.DTypeError), match="'x'"):
        program(Foreign(filled(device, np.float32([1, 2, 3]))))


@pytest.mark.parametrize("offset", [4, 8, 12])
def test_a_misaligned_pointer_is_read_right(device: Any, offset: int) -> None:
    """Kernels read vectors of 16 bytes: what begins elsewhere is copied first."""
    x = gc.observed("x", (64,))
    program = gc.compile([x], x * 2.0, backend="triton")
    values = np.arange(64, dtype=np.float32)
    given = filled(device, np.zeros(72, np.float32))
    type_ = TensorType(float32, (64,))
    shifted = Array(given._pool, type_, Shared(given.address + offset, type_, given))
    device.copy_in(shifted.address, address_of(values), values.nbytes)
    for array in (shifted, Foreign(shifted)):
        np.testing.assert_array_equal(np.asarray(program(array)), 2 * values)
