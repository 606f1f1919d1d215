"""Arguments and results where they lie: which nodes are told, what is copied all the same."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import nn, ops, optim
from graphc.backends.triton import array as arrays
from graphc.backends.triton import control, moving
from graphc.backends.triton.array import Array, Pool, Shared
from graphc.memory import address_of
from graphc.types import TensorType, float32
from tests.gpu.place import Foreign

DATA = np.random.default_rng(4)


def placed(device: Any, values: Any, offset: int = 0) -> Array:
    """Values on the device, ``offset`` bytes behind an aligned address."""
    type_ = TensorType(gc.types.dtype_of(values.dtype), values.shape)
    whole = Array(Pool(device), TensorType(float32, (values.size * 2 + 8,)))
    made = Array(whole._pool, type_, Shared(whole.address + offset, type_, whole))
    device.copy_in(made.address, address_of(values), values.nbytes)
    return made


def logged(device: Any, kind: str) -> list[Any]:
    return [entry for entry in device.log if entry[0] == kind]


def test_arrays_of_the_device_are_not_copied(device: Any) -> None:
    x, y = gc.observed("x", (16, 24)), gc.observed("y", (16,), gc.int64)
    net = nn.Linear(24, 8)
    loss = nn.CrossEntropyLoss()(net(x), y)
    step = gc.compile([x, y], [loss, net(x)], optim.SGD(lr=0.1).minimize(loss), backend="triton")
    other = gc.compile([x, y], [loss, net(x)], backend="llvm", mode="train")
    binding = step._current.loaded._current
    told = {n: binding.moving.count(n) for n in ("x", "y")}
    for turn in range(3):
        images = DATA.standard_normal((16, 24)).astype(np.float32)
        labels = DATA.integers(0, 8, 16)
        wanted = other(images, labels)
        given = [Foreign(placed(device, a)) for a in (images, labels)]
        device.log.clear()
        results = step(*given)
        for got, expected in zip(results, wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)
        assert not logged(device, "copy within")
        assert not binding._own, "no memory of its own"
        assert binding.addresses["x"] == given[0].inner.address
        assert len(logged(device, "update")) <= len(next(iter(device.graphs.values())))
        kinds = [entry[0] for entry in device.log]
        assert kinds.index("graph") < kinds.index("lead"), "who writes x then waits"
        del results, got
        if turn == 0:
            device.log.clear()
            step(*given)
            assert not logged(device, "update"), "all lies where it lay"
    moved = [Foreign(placed(device, images)), given[1]]
    device.log.clear()
    step(*moved)
    assert 0 < len(logged(device, "update")) == told["x"]


def test_host_and_device_arrays_take_turns(device: Any) -> None:
    x, y = gc.observed("x", (5,)), gc.observed("y", ())
    program = gc.compile([x, y], ops.where(x > y, x, -x).sum(), backend="triton")
    for turn in range(4):
        values = DATA.standard_normal(5).astype(np.float32)
        limit = np.float32(DATA.standard_normal())
        a = placed(device, values) if turn % 2 else values
        b = placed(device, np.asarray(limit)) if turn // 2 else limit
        wanted = np.where(values > limit, values, -values).sum()
        np.testing.assert_allclose(float(program(a, b)), wanted, rtol=1e-5)


def test_predicates_and_loops_read_arguments_where_they_lie(
    device: Any, monkeypatch: Any
) -> None:
    flag, x = gc.observed("flag", (), gc.types.bool_), gc.observed("x", (3,))
    turned, rows = gc.scan(lambda a, _: (a * 0.5 + x, a), x, length=6)
    chosen = gc.cond(flag, lambda: turned, lambda: -turned)
    for most in (4096, 4):  # in one graph, and driven by the host
        monkeypatch.setattr(control, "MOST_NODES", most)
        program = gc.compile([flag, x], [chosen, rows], backend="triton")
        theirs = gc.compile([flag, x], [chosen, rows], backend="llvm")
        for holds in (True, False):
            values = DATA.standard_normal(3).astype(np.float32)
            got = program(*(placed(device, np.asarray(v)) for v in (np.bool_(holds), values)))
            for mine, other in zip(got, theirs(np.bool_(holds), values), strict=True):
                np.testing.assert_array_equal(mine.numpy(), other)
        assert not program._current.loaded._current.copied


@pytest.mark.parametrize("wrap", [Foreign, lambda a: a], ids=["foreign", "ours"])
def test_what_begins_between_vectors_is_copied_and_reported(device: Any, wrap: Any) -> None:
    x = gc.observed("x", (9,))
    program = gc.compile([x], x * 2.0, backend="triton")
    values = np.arange(9, dtype=np.float32)
    for offset in (0, 4, 0, 12):
        device.log.clear()
        np.testing.assert_array_equal(
            program(wrap(placed(device, values, offset))).numpy(), 2 * values
        )
        assert len(logged(device, "copy within")) == (offset > 0)
        said = "x: copied on the device, it begins at no multiple of 16 bytes"
        assert (said in str(program.explain())) == (offset > 0)


def test_what_very_many_launches_name_is_copied(device: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(moving, "MOST_TOLD", 4)
    x = gc.observed("x", (3,))
    last, rows = gc.scan(lambda a, _: (ops.tanh(a + x), a), x, length=6)
    program = gc.compile([x], [last, rows], backend="triton")
    values = DATA.standard_normal(3).astype(np.float32)
    first = [a.numpy() for a in program(values)]
    device.log.clear()
    for got, wanted in zip(program(placed(device, values)), first, strict=True):
        np.testing.assert_array_equal(got.numpy(), wanted)
    assert "launches name it" in str(program.explain())
    assert logged(device, "copy within")
    assert not logged(device, "update"), "its own memory stays where it is"


def test_a_driver_that_refuses_is_told_again(device: Any, monkeypatch: Any) -> None:
    x = gc.observed("x", (4,))
    total = gc.state(np.zeros((), np.float32))
    program = gc.compile([x], x + 1.0, {total: total + x[0]}, backend="triton")
    values = np.ones(4, np.float32)
    program(values)
    update = device.update_kernel

    def failing(*_: Any) -> None:
        raise gc.BackendError("no more")

    given = placed(device, values * 2)
    monkeypatch.setattr(device, "update_kernel", failing)
    with pytest.raises(gc.BackendError, match="no more"):
        program(given)
    assert total.numpy() == 1.0
    monkeypatch.setattr(device, "update_kernel", update)
    np.testing.assert_array_equal(program(given).numpy(), 3.0)
    assert total.numpy() == 3.0


def test_memory_that_others_saw_is_used_again_after_them(device: Any) -> None:
    pool, type_ = Pool(device), TensorType(float32, (64,))
    seen, unseen = Array(pool, type_), Array(pool, type_)
    capsule = seen.__dlpack__()
    managed = described(capsule)
    managed.contents.deleter(managed)
    del unseen
    device.log.clear()
    again = Array(pool, type_)
    assert not logged(device, "follow")
    del seen, again
    one, other = Array(pool, type_), Array(pool, type_)
    assert len(logged(device, "follow")) == 1
    del one, other


def described(capsule: object) -> Any:
    pointer = arrays._pointer_of(capsule, b"dltensor")
    return ctypes.cast(pointer, ctypes.POINTER(arrays._Managed))
