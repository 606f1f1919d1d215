"""Arrays on the device: copies, the pool, DLPack both ways, what is refused."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc.backends.triton import array as arrays
from graphc.backends.triton.array import Array, Pool, is_device_array, take
from graphc.memory import address_of
from graphc.types import TensorType, bfloat16, bool_, float32


def filled(device, values) -> Array:
    made = Array(Pool(device), TensorType(gc.types.dtype_of(values.dtype), values.shape))
    device.copy_in(made.address, address_of(values), values.nbytes)
    return made


def test_copies_to_the_host(device) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = filled(device, values)
    assert np.array_equal(made.numpy(), values)
    assert np.asarray(made, np.float64).dtype == np.float64
    assert (made.shape, made.ndim, made.device) == ((2, 3), 2, "cuda")
    assert repr(made) == "<array f32[2,3] on cuda>"
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(made, copy=False)
    one = filled(device, np.array(3, np.int64))
    assert (int(one), float(one), one.item()) == (3, 3.0, 3)


def test_memory_is_used_again(device) -> None:
    pool = Pool(device)
    first = Array(pool, TensorType(float32, (100,)))
    address = first.address
    del first
    assert Array(pool, TensorType(float32, (90,))).address == address


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.bool_, bfloat16.numpy])
def test_another_library_shares_the_memory(device, dtype) -> None:
    class Foreign:
        """What only knows DLPack."""

        def __init__(self, inner: Array) -> None:
            self.inner = inner

        def __dlpack__(self, **options: object) -> object:
            return self.inner.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.inner.__dlpack_device__()

    made = filled(device, np.ones((4, 5), dtype))
    assert is_device_array(Foreign(made))
    shared = take(Foreign(made), "x")
    assert shared.address == made.address
    assert shared.type == TensorType(made._type.dtype, (4, 5))
    assert take(made, "x").owner is made


def test_the_memory_lives_until_its_user_lets_go(device) -> None:
    made = filled(device, np.ones(3, np.float32))
    before = len(arrays._shared)
    capsule = made.__dlpack__()
    assert len(arrays._shared) == before + 1
    pointer = ctypes.cast(
        arrays._pointer_of(capsule, b"dltensor"), ctypes.POINTER(arrays._Managed)
    )
    pointer.contents.deleter(pointer)
    assert len(arrays._shared) == before


def test_the_owner_is_asked_to_finish_and_kept_until_then(device) -> None:
    made = filled(device, np.ones(3, np.float32))
    asked = []

    class Foreign:
        def __dlpack__(self, **options: object) -> object:
            asked.append(options.get("stream"))
            return made.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    x = gc.observed("x", (3,))
    program = gc.compile([x], x + 1.0, backend="triton")
    given = Foreign()
    assert np.asarray(program(given)).tolist() == [2, 2, 2]
    assert device.stream in asked
    kept = program._latest().loaded._borrowed
    assert any(given in owner for owner in kept)
    program(np.ones(3, np.float32))
    assert not kept


def test_strided_and_unknown_arrays_are_refused(device) -> None:
    made = filled(device, np.ones((4, 5), np.float32))
    capsule = made.__dlpack__()
    managed = ctypes.cast(
        arrays._pointer_of(capsule, b"dltensor"), ctypes.POINTER(arrays._Managed)
    ).contents

    class Given:
        def __dlpack__(self, **_: object) -> object:
            return capsule

    managed.tensor.strides = (ctypes.c_int64 * 2)(1, 4)
    with pytest.raises(gc.BindError, match="'x': a strided array"):
        take(Given(), "x")
    managed.tensor.strides = (ctypes.c_int64 * 2)(5, 1)
    assert take(Given(), "x").type.shape == (4, 5)
    managed.tensor.code = 5
    with pytest.raises(gc.BindError, match="element type"):
        take(Given(), "x")


def test_a_program_takes_device_arrays(device) -> None:
    x = gc.observed("x", (4, 3))
    program = gc.compile([x], x * 2.0, backend="triton")
    once = program(np.ones((4, 3), np.float32))
    twice = program(once)
    assert np.asarray(twice).tolist() == [[4.0] * 3] * 4
    with pytest.raises(gc.DTypeError, match=r"expected f32\[4,3\], got bool"):
        program(filled(device, np.ones((4, 3), bool_.numpy)))


@pytest.mark.parametrize("specialize", [True, False])
def test_device_arrays_bind_sizes(device, specialize) -> None:
    batch = gc.Dim("B", specialize=specialize)
    x = gc.observed("x", (batch, 3))
    program = gc.compile([x], x.sum(axis=1), backend="triton")
    for rows in (4, 2, 4):
        given = filled(device, np.ones((rows, 3), np.float32))
        assert np.asarray(program(given)).tolist() == [3.0] * rows
    with pytest.raises(gc.DTypeError, match=r"got i64\[2,3\] on the device"):
        program(filled(device, np.ones((2, 3), np.int64)))
    with pytest.raises(gc.ShapeError, match="axis 1"):
        program(filled(device, np.ones((2, 4), np.float32)))
