"""Routines in machine code: the orders of the NumPy reference, for all types, lengths and ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphc as gc
from graphc import ops
from graphc.backends.llvm import codegen
from graphc.backends.llvm.native import native, set_threads
from graphc.backends.llvm.routines import LEADING, SHORT, compile_routine, emit_routine
from graphc.backends.llvm.target import named_target
from graphc.errors import BackendError
from graphc.graph import apply, apply_all
from graphc.records import dataclass
from graphc.routines import ROUTINES, Routine, group, sort, stable_order, top_k
from graphc.types import DTYPES, DType, float32

LENGTHS = (1, 2, SHORT - 1, SHORT, SHORT + 1, 300)
SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0]
EXTREMES = [0, 1, -1, 127, 128, 255, 256, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63)]


def array_of(dtype: DType, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    """Ties, the type's limits, and for floats NaN, infinities and both zeros."""
    generator = np.random.default_rng(seed)
    if dtype.kind == "b":
        return generator.random(shape) < 0.5
    few = generator.integers(-3, 4, shape).astype(np.int64)
    mixed = np.where(generator.random(shape) < 0.6, few, generator.choice(EXTREMES, shape))
    if not dtype.is_float:
        return mixed.astype(dtype.numpy)
    with np.errstate(over="ignore"):
        numbers = np.where(generator.random(shape) < 0.5, few, generator.normal(size=shape) * 1e3)
        chosen = generator.random(shape) < 0.3
        return np.where(chosen, generator.choice(SPECIAL, shape), numbers).astype(dtype.numpy)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_orders_are_the_references(dtype: DType) -> None:
    """One program for all lengths: run-time sizes take the same code."""
    count = gc.Dim("n", specialize=False)
    x = gc.observed("x", (3, count), dtype)
    orders = [apply("argsort", x, descending=down) for down in (False, True)]
    program = gc.compile([x], (*orders, *(apply("top_k", x, k=k) for k in (1, 40))))
    for length in LENGTHS:
        array = array_of(dtype, (3, length), length)
        up, down, first, many = program(array)
        wanted = stable_order(array, descending=True)
        np.testing.assert_array_equal(up, stable_order(array, descending=False))
        np.testing.assert_array_equal(down, wanted)
        np.testing.assert_array_equal(first, wanted[:, :1])
        kept = min(length, 40)
        np.testing.assert_array_equal(many[:, :kept], wanted[:, :kept])
        assert (many[:, kept:] == -1).all(), "there are no such places"


def test_a_row_shorter_than_k_is_an_error_of_the_call() -> None:
    x = gc.observed("x", (gc.Dim("n", specialize=False),))
    program = gc.compile([x], ops.top_k(x, 4)[0])
    np.testing.assert_array_equal(program(np.float32([1, 5, 3, 2])), [5, 3, 2, 1])
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        program(np.float32([1, 2, 3]))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_any_axis(axis: int) -> None:
    x = gc.observed("x", (5, 40, 3))
    array = np.random.default_rng(1).integers(0, 9, (5, 40, 3)).astype(np.float32)
    values, places = ops.top_k(x, 2, axis=axis)
    got = gc.compile([x], (ops.sort(x, axis), ops.argsort(x, axis), values, places))(array)
    order = np.argsort(-array, axis, kind="stable").take(range(2), axis)
    np.testing.assert_array_equal(got[0], np.sort(array, axis))
    np.testing.assert_array_equal(got[1], np.argsort(array, axis, kind="stable"))
    np.testing.assert_array_equal(got[2], np.take_along_axis(array, order, axis))
    np.testing.assert_array_equal(got[3], order)


def test_groups() -> None:
    n, m = gc.Dim("n", specialize=False), gc.Dim("m", specialize=False)
    ids = gc.observed("ids", (2, n), gc.int64)
    program = gc.compile([ids, m], apply_all("group", ids, count=m))
    generator = np.random.default_rng(2)
    for length, count in ((1, 1), (50, 7), (7, 50), (400, 400)):
        array = generator.integers(-2, count + 2, (2, length))
        array[0, 0] = np.iinfo(np.int64).min
        start, order = program(array, count)
        for row in range(2):
            outside = (array[row] < 0) | (array[row] >= count)
            held = np.where(outside, count, array[row])
            np.testing.assert_array_equal(order[row], np.argsort(held, kind="stable"))
            counts = np.bincount(held, minlength=count + 1)[:count]
            np.testing.assert_array_equal(start[row], [0, *counts.cumsum()])


def test_the_same_bits_on_any_number_of_threads() -> None:
    x = gc.observed("x", (64, 3000))
    array = np.random.default_rng(3).integers(0, 50, (64, 3000)).astype(np.float32)
    wanted = np.argsort(array, 1, kind="stable")
    before = native().pool.threads
    try:
        for threads in (1, 2, 8):
            set_threads(threads)
            program = gc.compile([x], ops.argsort(x))
            for _ in range(3):
                np.testing.assert_array_equal(program(array), wanted)
    finally:
        set_threads(before)


@pytest.mark.parametrize("rule", ROUTINES)
@pytest.mark.parametrize("target", ["sse", "avx2", "avx512", "aarch64"])
def test_code_for_every_target(rule: str, target: str) -> None:
    routine = ROUTINES[rule].make(group().inputs[0].type.dtype)
    machine = named_target(target).machine
    text = emit_routine(routine, "routine")
    codegen.verify_ir(text, machine)
    assert "routine" in codegen.assembly_of(text, machine)


def test_machine_code_is_shared_by_what_is_the_same() -> None:
    assert compile_routine(sort(float32)).symbol == compile_routine(sort(float32)).symbol
    others = (sort(float32, descending=1), top_k(float32), sort(gc.types.float64), group())
    symbols = {compile_routine(r).symbol for r in (sort(float32), *others)}
    assert len(symbols) == 5
    assert 1 << LEADING == 8 * 256, "the tables of the two uses are equally large"


def test_a_routine_that_the_backend_lacks_is_named() -> None:
    @dataclass(frozen=True)
    class Unknown(Routine):
        pass

    known = sort(float32)
    strange = Unknown("x", "all_reduce", known.inputs, known.outputs, known.sizes)
    with pytest.raises(BackendError, match="no routine 'all_reduce'; there are sort, top_k, group"):
        compile_routine(strange)
