"""Orders of long rows by a network, beside NumPy's stable order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import ops
from graphc.backends.triton import routines
from graphc.backends.triton.routines import _halvings, _stages, routine_kernels
from graphc.kernel.verify import verify
from graphc.routines import group, sort, stable_order, top_k
from graphc.types import bfloat16, bool_, float32, int64

DATA = np.random.default_rng(11)


@pytest.fixture
def network(monkeypatch: Any) -> None:
    """Rows of every length are sorted by the network."""
    monkeypatch.setattr(routines, "LONGEST_COUNTED", -1)


def rows(kind: str, length: int) -> Any:
    if kind == "ties":
        return DATA.integers(0, 4, (3, length)).astype(np.int64)
    values = DATA.standard_normal((3, length)).astype(np.float32)
    if kind == "odd" and length:
        places = DATA.integers(0, 6, values.shape)
        values = np.select(
            [places == n for n in range(5)], [np.nan, np.inf, -np.inf, -0.0, 0.0], values
        ).astype(np.float32)
    return values


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.slow), "odd", "ties"])
@pytest.mark.parametrize("length", [0, 1, 3, 8, 33])
def test_the_order_is_the_stable_one(
    device: Any, network: None, kind: str, length: int, descending: bool
) -> None:
    values = rows(kind, length)
    x = gc.observed("x", values.shape, gc.types.dtype_of(values.dtype))
    program = gc.compile([x], ops.argsort(x, descending=descending), backend="triton")
    got = np.asarray(program(values))
    np.testing.assert_array_equal(got, stable_order(values, descending=descending))


@pytest.mark.parametrize("dtype", [bool_, bfloat16, gc.float16, gc.uint8], ids=str)
def test_other_types_are_sorted(device: Any, network: None, dtype: Any) -> None:
    values = DATA.integers(0, 9, (2, 21)).astype(dtype.numpy)
    x = gc.observed("x", values.shape, dtype)
    got = np.asarray(gc.compile([x], ops.sort(x), backend="triton")(values))
    np.testing.assert_array_equal(got, np.sort(values, axis=-1))


def test_sizes_of_the_call(device: Any) -> None:
    """What is known at the call only is sorted by the network, whatever its length."""
    length = gc.Dim("N", specialize=False)
    x = gc.observed("x", (length,))
    program = gc.compile([x], ops.sort(x), backend="triton")
    for count in (5, 17, 1):
        values = DATA.standard_normal(count).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(program(values)), np.sort(values))


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("groups", [1, 3, 9])
def test_ids_are_grouped(device: Any, network: None, count: int, groups: int) -> None:
    """Ids out of range belong to no group; equal ids keep their order."""
    ids = DATA.integers(-1, groups + 1, count)
    ids[DATA.random(count) < 0.1] = -(2**40)
    i = gc.observed("i", (count,), gc.int64)
    start, order = gc.graph.apply_all("group", i, count=groups)
    program = gc.compile([i], [start, order], backend="triton")
    found = [np.asarray(a) for a in program(ids)]
    inside = (ids >= 0) & (ids < groups)
    np.testing.assert_array_equal(
        found[0], [(inside & (ids < g)).sum() for g in range(groups + 1)]
    )
    wanted = np.argsort(np.where(inside, ids, groups), kind="stable")
    np.testing.assert_array_equal(found[1], wanted)


@pytest.mark.parametrize("length", [4, 33])
@pytest.mark.parametrize("kind", ["odd", "ties"])
def test_the_largest_of_long_rows(device: Any, network: None, kind: str, length: int) -> None:
    values, k = rows(kind, length), 4
    x = gc.observed("x", values.shape, gc.types.dtype_of(values.dtype))
    first, second = ops.top_k(x, k), ops.top_k(-x, 2)
    program = gc.compile([x], [*first, second[1]], backend="triton")
    best, places, least = (np.asarray(a) for a in program(values))
    wanted = stable_order(values, descending=True)[:, :k]
    np.testing.assert_array_equal(places, wanted)
    np.testing.assert_array_equal(best, np.take_along_axis(values, wanted, 1))
    np.testing.assert_array_equal(least, stable_order(-values, descending=True)[:, :2])


def test_the_largest_of_rows_whose_length_is_known_late(device: Any) -> None:
    length = gc.Dim("N", specialize=False)
    x = gc.observed("x", (2, length))
    program = gc.compile([x], ops.top_k(x, 3)[1], backend="triton")
    for count in (3, 17, 5):
        values = DATA.standard_normal((2, count)).astype(np.float32)
        wanted = stable_order(values, descending=True)[:, :3]
        np.testing.assert_array_equal(np.asarray(program(values)), wanted)


def test_ids_whose_number_is_known_late_are_grouped(device: Any) -> None:
    count = gc.Dim("E", specialize=False)
    i, v = gc.observed("i", (count,), gc.int64), gc.observed("v", (count, 2))
    program = gc.compile([i, v], ops.segment_sum(v, i, 5), backend="triton")
    for n in (1, 12, 3):
        ids, values = DATA.integers(0, 5, n), DATA.standard_normal((n, 2)).astype(np.float32)
        wanted = np.stack([values[ids == g].sum(0) for g in range(5)])
        np.testing.assert_allclose(np.asarray(program(ids, values)), wanted, rtol=1e-5, atol=1e-6)


def test_no_work_grows_with_the_square_of_a_long_row() -> None:
    """Where a row is long no kernel has more than one axis of its length."""
    for routine in (sort(float32), group(), top_k(float32)):
        for one in routine_kernels(routine, 2049):
            along = [a for a, extent in one.kernel.axes if str(extent) == "length"]
            assert len(along) <= 1
            assert not one.kernel.bound_axes
    assert len(_halvings([1, 10**6, 7])) == 20
    assert _halvings([1, 0, 7]) == []


def test_the_work_is_n_log_squared() -> None:
    """A million elements take 210 launches over half a million pairs, not 10**12 comparisons."""
    stages = _stages([1, 10**6])
    assert len(stages) == 20 * 21 // 2
    assert {s[2] for s in stages} == {2**19}
    assert _stages([1, 1]) == _stages([1, 0]) == []


def test_launches_of_a_network_follow_each_other(device: Any, network: None) -> None:
    x = gc.observed("x", (9,))
    gc.compile([x], (ops.sort(x), ops.sort(x * 2.0, descending=True)), backend="triton")
    (graph,) = device.graphs.values()
    nodes = {number: (after, rest) for number, after, _, *rest in graph}
    stages = [n for n, (_, rest) in nodes.items() if rest and "exchange" in rest[1].handle.name]
    assert len(stages) == 2 * len(_stages([1, 9]))
    chains = [n for n in stages if nodes[n][0] and nodes[n][0][0] in stages]
    assert len(chains) == len(stages) - 2, "each waits for the one before; two sorts do not"


def test_short_rows_are_counted_and_long_ones_are_not() -> None:
    names = [one.kernel.name for one in routine_kernels(sort(float32), 2048)]
    assert names == ["sort"]
    for routine in (sort(float32), sort(int64, descending=1), group(), top_k(int64)):
        for one in routine_kernels(routine, 2049):
            verify(one.kernel)
    assert [one.kernel.name for one in routine_kernels(group(), 2049)] == [
        "group_places", "group_exchange", "group_start", "group_start",
    ]  # fmt: skip
    assert [one.kernel.name for one in routine_kernels(top_k(float32), 2049)] == [
        "top_k_places", "top_k_exchange", "top_k_first",
    ]  # fmt: skip
