"""Constant operands take shorter ways; they must lead to the same values."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphc.backends.llvm import codegen
from graphc.backends.llvm.ir import PTR, Function, LLVMType, Module, V, literal
from graphc.backends.llvm.target import Target, host_target
from graphc.backends.llvm.vecmath import OPS, apply, features_of
from graphc.backends.llvm.vecmath.casts import ELEMENTS
from graphc.errors import KernelError
from graphc.kernel.scalar_ops import evaluate, result_dtype
from graphc.types import DTYPES, DType, dtype_of, float32

LANES = 8


def with_constant(op: str, x: NDArray[Any], constant: float, target: Target) -> NDArray[Any]:
    """``op(x, constant)`` on vectors, the constant written into the code."""
    dtype = dtype_of(x.dtype)
    result = result_dtype(op, [dtype, dtype])
    type_ = LLVMType(ELEMENTS[dtype.short], LANES)
    module = Module()
    f = Function(module, "map", [("ptr", "out"), ("ptr", "x")])
    value = f.load(type_, V("%x", PTR), 1)
    args = [value, literal(constant, type_)]
    f.store(apply(f, op, args, [dtype, dtype], result, features_of(target)), V("%out", PTR), 1)
    module.add(f)
    library = codegen.link([codegen.object_of(module.text(), target.machine)], ["map"])
    out = np.empty(LANES, result.numpy)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    kind(library.addresses["map"])(out.ctypes.data, x.ctypes.data)
    return out


def integers(dtype: DType) -> NDArray[Any]:
    ends = np.iinfo(dtype.numpy)
    return np.array([0, 1, 7, 8, ends.max, ends.min, ends.max - 3, ends.min + 5], dtype.numpy)


@pytest.mark.parametrize("short", ["i8", "u8", "i32", "u32", "i64"])
@pytest.mark.parametrize("op", ["//", "%", "pow", "<<", ">>"])
def test_integer_constants(op: str, short: str) -> None:
    x = integers(DTYPES[short])
    constants = [0, 1, 2, 3, 4, 7, 8, 100]
    constants += [] if short[0] == "u" or op == "pow" else [-1, -2, -3, -8]
    for constant in constants:
        got = with_constant(op, x, constant, host_target())
        expected = evaluate(op, x, np.full_like(x, constant))
        np.testing.assert_array_equal(got, expected, f"{short}: {x} {op} {constant}")


@pytest.mark.parametrize("constant", [-1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 0.0, -2.0, 2.5])
def test_constant_powers(constant: float) -> None:
    x = np.array([0.0, -0.0, 1.5, -1.5, np.inf, -np.inf, np.nan, 3e-20], np.float32)
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), np.full(8, constant)).astype(np.float32)
    got = with_constant("pow", x, constant, host_target())
    np.testing.assert_allclose(got, expected, rtol=3e-7, err_msg=f"{x} ** {constant}")


@pytest.mark.parametrize("op", ["max", "min"])
def test_extremum_with_a_constant_keeps_nan_in_one_instruction(op: str) -> None:
    x = np.array([1, -1, 0, np.nan, np.inf, -np.inf, 5, np.nan], np.float32)
    expected = evaluate(op, x, np.zeros_like(x))
    np.testing.assert_array_equal(with_constant(op, x, 0.0, host_target()), expected)
    np.testing.assert_array_equal(with_constant(op, x, np.nan, host_target()), np.full(8, np.nan))


def test_unknown_op_is_refused() -> None:
    f = Function(Module(), "f", [("float", "x")])
    x = V("%x", LLVMType("float"))
    assert "softmax" not in OPS
    with pytest.raises(KernelError, match="no scalar op named 'softmax'"):
        apply(f, "softmax", [x], [float32], float32)
