"""What an executable takes as arguments, and what it says about the rest."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphc.bind import Parameter, bind_arguments, convert
from graphc.errors import BindError, DTypeError, ShapeError
from graphc.types import (
    Dim,
    DType,
    Extent,
    TensorType,
    bfloat16,
    bool_,
    float32,
    float64,
    int32,
    int64,
    uint8,
)

B = Dim("B", max=64, multiple_of=2, specialize=False)


def parameter(dtype: DType, *shape: Extent, name: str = "x") -> Parameter:
    return Parameter(name, TensorType(dtype, shape))


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (float32, 1, np.array(1, np.float32)),
        (float32, 0.5, np.array(0.5, np.float32)),
        (float32, np.float64(0.5), np.array(0.5, np.float32)),
        (float32, np.array(3), np.array(3, np.float32)),
        (int64, np.int32(3), np.array(3, np.int64)),
        (uint8, 255, np.array(255, np.uint8)),
        (bool_, True, np.array(True)),
        (bfloat16, 1.5, np.array(1.5, ml_dtypes.bfloat16)),
    ],
)
def test_scalars_are_weak(dtype: DType, value: object, expected: np.ndarray[Any, Any]) -> None:
    array = convert(parameter(dtype), value)
    assert array.shape == ()
    assert array.dtype is dtype.numpy
    assert array == expected


def test_lists_of_numbers_are_weak() -> None:
    array = convert(parameter(float32, 2, 2), [[1, 2], [3, 4.5]])
    assert array.dtype is float32.numpy
    np.testing.assert_array_equal(array, [[1, 2], [3, 4.5]])
    assert convert(parameter(int64, 0), []).dtype is int64.numpy


def test_integers_widen() -> None:
    small = np.arange(3, dtype=np.int32)
    np.testing.assert_array_equal(convert(parameter(int64, 3), small), small)
    assert convert(parameter(int32, 3), np.arange(3, dtype=np.uint8)).dtype is int32.numpy


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        (
            float32,
            np.zeros(3),
            r"'x': expected f32\[3\], got f64\[3\]; write x.astype\(np.float32\)",
        ),
        (float64, np.zeros(3, np.float32), r"got f32\[3\]"),
        (float32, np.zeros(3, np.int64), r"got i64\[3\]"),
        (int32, np.zeros(3, np.int64), r"got i64\[3\]"),
        (int64, np.zeros(3, np.float32), r"got f32\[3\]"),
        (int64, [0.5, 1, 2], "expected i64"),
        (bool_, [0, 1, 0], "expected bool"),
        (uint8, [0, 1, 256], "256 does not fit u8"),
        (float32, np.zeros(3, np.complex64), "complex64"),
        (float32, np.array([None] * 3), "Python objects"),
        (float32, ["a", "b", "c"], "list of"),
        (bfloat16, np.zeros(3, np.float32), r"x.astype\(ml_dtypes.bfloat16\)"),
    ],
)
def test_wrong_element_types(dtype: DType, value: object, message: str) -> None:
    with pytest.raises(DTypeError, match=message):
        bind_arguments([parameter(dtype, 3)], [value])


@pytest.mark.parametrize("value", ["text", None, {"a": 1}, object()])
def test_things_that_are_no_arrays(value: object) -> None:
    with pytest.raises(BindError, match=r"'x': expected an array of f32\[3\], got"):
        bind_arguments([parameter(float32, 3)], [value])


def test_layouts_are_copied_to_dense() -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    raw = np.zeros(4 * 4 + 1, np.uint8)[1:].view(np.float32)  # misaligned
    raw[:] = [1, 2, 3, 4]
    frozen = np.arange(4, dtype=np.float32)
    frozen.flags.writeable = False
    masked = np.ma.masked_array(base)  # a subclass
    for value in (base.T, base[:, ::2], base[::-1], raw, base.astype(">f4"), masked, frozen):
        array = convert(parameter(float32, *value.shape), value)
        assert type(array) is np.ndarray
        assert array.dtype is float32.numpy
        assert array.flags.c_contiguous
        assert array.flags.aligned
        np.testing.assert_array_equal(array, np.asarray(value))
    assert convert(parameter(float32, 4), frozen) is not None
    assert np.shares_memory(convert(parameter(float32, 4), frozen), frozen)


def test_shapes() -> None:
    with pytest.raises(ShapeError, match=r"expected f32\[2,3\] \(2 axes\), got shape \(6,"):
        bind_arguments([parameter(float32, 2, 3)], [np.zeros(6, np.float32)])
    with pytest.raises(ShapeError, match="axis 1 is 4, not 3"):
        bind_arguments([parameter(float32, 2, 3)], [np.zeros((2, 4), np.float32)])
    with pytest.raises(ShapeError, match="ragged"):
        bind_arguments([parameter(float32, 2, 2)], [[[1, 2], [3]]])


def test_dims() -> None:
    x, y = parameter(float32, B, 2), parameter(float32, B, name="y")
    ones = [np.zeros((6, 2), np.float32), np.zeros(6, np.float32)]
    arrays, sizes = bind_arguments([x, y], ones)
    assert sizes == {B: 6}
    assert arrays[0] is ones[0]
    with pytest.raises(ShapeError, match="B is 6 in 'x' but 4 in 'y'"):
        bind_arguments([x, y], [ones[0], np.zeros(4, np.float32)])
    for size in (3, 66, 0):
        with pytest.raises(ShapeError, match=r"not B in 1..64, a multiple of 2"):
            bind_arguments([y], [np.zeros(size, np.float32)])


def test_derived_extents() -> None:
    x, y = parameter(float32, B), parameter(float32, 2 * B + 1, name="y")
    _, sizes = bind_arguments([y, x], [np.zeros(9, np.float32), np.zeros(4, np.float32)])
    assert sizes == {B: 4}
    with pytest.raises(ShapeError, match=r"axis 0 is 8, not 2\*B\+1 = 9"):
        bind_arguments([x, y], [np.zeros(4, np.float32), np.zeros(8, np.float32)])
    with pytest.raises(ShapeError, match="no argument has an axis that is"):
        bind_arguments([y], [np.zeros(9, np.float32)])


def test_names_and_numbers_of_arguments() -> None:
    both = [parameter(float32, name="x"), parameter(float32, name="y")]
    arrays, _ = bind_arguments(both, [1], {"y": 2})
    assert [float(a) for a in arrays] == [1, 2]
    for args, names, message in (
        ([1], {}, "step takes 2 arguments .x, y.; missing: y"),
        ([1, 2, 3], {}, "got 3"),
        ([1], {"z": 2}, "unexpected 'z'"),
        ([1, 2], {"x": 2}, "'x' is given twice"),
    ):
        with pytest.raises(BindError, match=message):
            bind_arguments(both, args, names, who="step")


@pytest.mark.torch
def test_tensors_come_by_dlpack() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(4, dtype=torch.float32)
    array = convert(parameter(float32, 4), tensor)
    np.testing.assert_array_equal(array, [0, 1, 2, 3])
    with pytest.raises(BindError, match=r"detach"):
        convert(parameter(float32, 4), tensor.requires_grad_())
