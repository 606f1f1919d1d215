"""Scatter in time linear in its data: grouped ids, windows, the same results as one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphc as gc
from graphc import ops
from graphc.backends.llvm.native import native, set_threads
from graphc.backends.llvm.target import named_target
from graphc.backends.llvm.windows import choose, window_axes
from graphc.graph import apply
from graphc.ops.scatter import SCATTER_MODES
from graphc.types import DType, bfloat16, bool_, float16, float32, float64, int8, int64, uint32
from tests.passes.levels import check_levels

#: shape of x, axis, axes of the indices in common, their own shape
CASES = [
    ((70, 5), 0, 0, (80,)),
    ((70,), 0, 0, (300,)),
    ((3, 40, 17), 1, 0, (50,)),
    ((3, 40, 9), 1, 1, (60,)),
    ((2, 3, 50), 2, 2, (70,)),
    ((64, 11), 0, 0, (9, 8)),
    ((1, 6), 0, 0, (1000,)),
    ((5, 3), 0, 0, (1500,)),
]


def one_by_one(
    x: NDArray[Any], ids: NDArray[Any], values: NDArray[Any], axis: int, batch: int, mode: str
) -> NDArray[Any]:
    """In the order of the program, in float64 where it sums."""
    out = x.astype(np.float64) if x.dtype.kind not in "iub" else x.copy()
    count = ids.ndim - batch
    for place in np.ndindex(ids.shape):
        lead, own = place[:batch], place[batch:]
        middle = (slice(None),) * (axis - batch)
        to, of = (*lead, *middle, ids[place]), (*lead, *middle, *own)
        new = values[of].astype(out.dtype)
        old = out[to]
        out[to] = {
            "set": lambda old, new: new,
            "add": np.add,
            "max": np.maximum,
            "min": np.minimum,
        }[mode](old, new)
    assert values.ndim == x.ndim + count - 1
    return out


def arrays_of(case: Any, dtype: DType, seed: int = 0) -> tuple[NDArray[Any], ...]:
    shape, axis, batch, inner = case
    generator = np.random.default_rng(seed)
    # few of the places are hit, some often
    places = generator.integers(0, shape[axis], max(1, shape[axis] // 2))
    ids = generator.choice(places, (*shape[:batch], *inner))
    values = (*shape[:axis], *inner, *shape[axis + 1 :])
    return (
        generator.integers(-5, 6, shape).astype(dtype.numpy),
        ids,
        generator.integers(-5, 6, values).astype(dtype.numpy),
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_mode_is_numpys(case: Any) -> None:
    shape, axis, batch, _ = case
    x_array, ids_array, values_array = arrays_of(case, float32)
    values_array.flat[3] = np.nan
    x = gc.observed("x", shape)
    ids = gc.observed("ids", ids_array.shape, gc.int64)
    values = gc.observed("values", values_array.shape)
    at = {"axis": axis, "batch_dims": batch}
    outputs = [apply("scatter", x, ids, values, mode=mode, **at) for mode in SCATTER_MODES]
    program = gc.compile([x, ids, values], tuple(outputs))
    assert [r.rule for r in program.schedule.routines] == ["group"], "once for all modes"
    got = program(x_array, ids_array, values_array)
    for mode, result in zip(SCATTER_MODES, got, strict=True):
        wanted = one_by_one(x_array, ids_array, values_array, axis, batch, mode)
        np.testing.assert_array_equal(result, wanted.astype(np.float32), err_msg=mode)


@pytest.mark.parametrize(
    "dtype", [float64, float16, bfloat16, int64, int8, uint32, bool_], ids=str
)
def test_every_type(dtype: DType) -> None:
    case = CASES[0]
    x_array, ids_array, values_array = arrays_of(case, dtype, 1)
    x = gc.observed("x", x_array.shape, dtype)
    ids = gc.observed("ids", ids_array.shape, gc.int32)
    values = gc.observed("values", values_array.shape, dtype)
    modes = ("set",) if dtype is bool_ else SCATTER_MODES
    outputs = [
        apply("scatter", x, ids, values, mode=mode, axis=0, batch_dims=0) for mode in modes
    ]
    got = gc.compile([x, ids, values], tuple(outputs))(
        x_array, ids_array.astype(np.int32), values_array
    )
    for mode, result in zip(modes, got, strict=True):
        wanted = one_by_one(x_array, ids_array, values_array, 0, 0, mode)
        np.testing.assert_array_equal(result, wanted.astype(dtype.numpy), err_msg=mode)


def test_run_time_sizes_share_code() -> None:
    n, m = gc.Dim("n", specialize=False), gc.Dim("m", specialize=False)
    x, ids = gc.observed("x", (n, 6)), gc.observed("ids", (n,), gc.int64)
    program = gc.compile([x, ids, m], ops.segment_sum(x, ids, m))
    generator = np.random.default_rng(4)
    for length, count in ((1, 1), (3, 40), (500, 7), (1000, 1000)):
        array = generator.integers(-9, 9, (length, 6)).astype(np.float32)
        places = generator.integers(0, count, length)
        wanted = np.zeros((count, 6), np.float32)
        np.add.at(wanted, places, array)
        np.testing.assert_array_equal(program(array, places, count), wanted)


def test_an_index_out_of_range_is_an_error_and_changes_nothing() -> None:
    ids, values = gc.observed("ids", (100,), gc.int64), gc.observed("values", (100, 8))
    table = gc.parameter(np.ones((50, 8), np.float32))
    update = gc.compile([ids, values], (), {table: table.at[ids].add(values)}, mode="train")
    places = np.arange(100) % 50
    ones = np.ones((100, 8), np.float32)
    for bad in (50, -51, 1 << 60):
        places[17] = bad
        with pytest.raises(gc.RuntimeCheckError, match=r"scatter: an index is outside 0\.\.49"):
            update(places, ones)
        np.testing.assert_array_equal(table.node.attrs["state"].numpy(), 1.0)
    places[17] = -33
    update(places, ones)
    np.testing.assert_array_equal(table.node.attrs["state"].numpy(), 3.0)


def test_known_indices_are_grouped_at_compile_time() -> None:
    x, ids = gc.observed("x", (400, 3)), np.random.default_rng(5).integers(0, 60, 400)
    program = gc.compile([x], ops.segment_sum(x, gc.constant(ids), 60))
    assert not program.schedule.routines
    assert not program.schedule.checks
    array = np.random.default_rng(6).integers(-9, 9, (400, 3)).astype(np.float32)
    wanted = np.zeros((60, 3), np.float32)
    np.add.at(wanted, ids, array)
    np.testing.assert_array_equal(program(array), wanted)
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        gc.compile([x], ops.segment_sum(x, gc.constant(ids + 1), 60))(array)


def test_a_known_graph_passes_its_messages_in_one_kernel() -> None:
    """Indices that are surely in range need no check, and so no memory between the two."""
    x = gc.observed("x", (60, 5), gc.float64)
    source, target = np.random.default_rng(9).integers(0, 60, (2, 400))
    after = ops.segment_sum(ops.take(x, source, 0), target, 60)
    program = gc.compile([x], (after, gc.grad((after * after).sum(), x)))
    assert not program.schedule.checks
    assert len(program.schedule.kernels) == 2
    array = np.random.default_rng(10).normal(size=(60, 5))
    matrix = np.zeros((60, 60))
    np.add.at(matrix, (target, source), 1.0)
    got, gradient = program(array)
    np.testing.assert_allclose(got, matrix @ array, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient, 2 * matrix.T @ matrix @ array, rtol=1e-11, atol=1e-11)
    with pytest.raises(gc.RuntimeCheckError, match="gather: an index is outside"):
        gc.compile([x], ops.take(x, source + 1, 0))(array)


def test_the_same_bits_on_any_number_of_threads_and_every_run() -> None:
    x, ids = gc.observed("x", (3000, 20)), gc.observed("ids", (3000,), gc.int64)
    generator = np.random.default_rng(7)
    array, places = generator.normal(size=(3000, 20)), generator.integers(0, 100, 3000)
    before = native().pool.threads
    found = []
    try:
        for threads in (1, 2, 8):
            set_threads(threads)
            program = gc.compile([x, ids], ops.segment_sum(x, ids, 100))
            found += [program(array.astype(np.float32), places) for _ in range(3)]
    finally:
        set_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(other.view(np.uint32), found[0].view(np.uint32))


def test_embeddings_and_message_passing_differentiate() -> None:
    nodes, edges = 90, 200
    generator = np.random.default_rng(8)
    source, target = generator.integers(0, nodes, (2, edges))
    x = gc.observed("x", (nodes, 4), gc.float64)
    s, t = gc.observed("s", (edges,), gc.int64), gc.observed("t", (edges,), gc.int64)
    weight = generator.normal(size=(nodes, 4))
    after = ops.segment_sum(ops.take(x, s, 0), t, nodes)
    best = ops.segment_max(ops.take(x, s, 0), t, nodes)
    cost = (after * after * weight).sum() + ops.where(ops.isfinite(best), best, 0.0).sum()
    array = generator.normal(size=(nodes, 4))
    got = gc.compile([x, s, t], gc.grad(cost, x))(array, source, target)
    matrix = np.zeros((nodes, nodes))
    np.add.at(matrix, (target, source), 1.0)
    wanted = matrix.T @ (2 * (matrix @ array) * weight)
    for node in set(target.tolist()):
        found = source[target == node]
        for column in range(4):
            at = found[array[found, column] == array[found, column].max()]
            np.add.at(wanted[:, column], at, 1.0 / len(at))
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)


def test_in_a_loop_and_at_every_level() -> None:
    x, ids = gc.observed("x", (60, 4)), gc.observed("ids", (60,), gc.int64)

    def body(carry: gc.Value, _: object) -> tuple[gc.Value, gc.Value]:
        after = carry.at[ids].add(carry * 0.5)
        return after, after.sum()

    carry, sums = gc.scan(body, x, length=2)
    array, places = np.arange(240, dtype=np.float32).reshape(60, 4), np.arange(60) // 2
    compiled = check_levels([x, ids], [carry, sums], arrays=[array, places])
    assert compiled.scheduled.schedule.routines
    wanted = array.copy()
    for _ in range(2):
        before = wanted * np.float32(0.5)
        np.add.at(wanted, places, before)
    got, _ = gc.compile([x, ids], (carry, sums))(array, places)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("width", [1, 3, 8, 33])
def test_axes_that_windows_depend_on_never_run_in_lanes(width: int) -> None:
    """Else each lane would go over all values: time would be their number times that of x."""
    x, ids = gc.observed("x", (500, width)), gc.observed("ids", (500,), gc.int64)
    total = ops.segment_sum(x, ids, 77)
    compiled = check_levels([x, ids], [total, (total * total).sum()], arrays=_edges(width))
    windowed = [c.kernel for c in compiled.calls if hasattr(c, "kernel") and window_axes(c.kernel)]
    assert windowed
    for kernel in windowed:
        for target in ("sse", "avx2", "avx512"):
            tiling = choose(kernel, named_target(target))
            assert not tiling.vector & window_axes(kernel)
            assert bool(tiling.vector) or width < 8


def _edges(width: int) -> list[NDArray[Any]]:
    generator = np.random.default_rng(width)
    return [generator.normal(size=(500, width)).astype(np.float32), generator.integers(0, 77, 500)]
