"""Donated arguments: what lies in their memory, that it is right, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.passes.donate import reuse_arguments
from graphc.schedule_text import parse_schedule, print_schedule
from graphc.schedule_verify import verify_schedule
from tests.passes.programs import program

ROWS, WIDTH = 6, 40


def _given(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _places(run: gc.Executable) -> dict[str, str]:
    return {b.name: b.place for b in run.schedule.buffers if b.place is not None}


def test_a_cache_is_written_where_it_lies() -> None:
    cache, row = gc.observed("cache", (ROWS, WIDTH)), gc.observed("row", (1, WIDTH))
    at = gc.observed("at", (), gc.int64)
    new = ops.dynamic_update(cache, row, (at, 0)).named("new")
    run = gc.compile([cache, row, at], [new, new.sum()], donate=[cache])
    assert _places(run) == {"new": "cache"}
    assert run.memory.reused == {"new": 4 * ROWS * WIDTH}
    assert "new (960 B) in a donated argument" in str(run.explain())
    given = _given(ROWS, WIDTH)
    wanted, address = given.copy(), given.ctypes.data
    for step in range(ROWS):
        wanted[step] = line = _given(1, WIDTH, seed=step)
        kept = line.copy()
        given, total = run(given, line, step)
        assert given.ctypes.data == address
        assert given.flags.writeable
        np.testing.assert_array_equal(given, wanted)
        np.testing.assert_array_equal(line, kept)
        np.testing.assert_allclose(total, wanted.sum(), rtol=1e-4)


def test_what_is_read_later_stays() -> None:
    x, y = gc.observed("x", (ROWS, WIDTH)), gc.observed("y", (ROWS, WIDTH))
    turned = x[::-1] + y  # reads x elsewhere than it would write
    run = gc.compile([x, y], turned, donate=[x])
    assert _places(run) == {}
    a, b = _given(ROWS, WIDTH), _given(ROWS, WIDTH, seed=1)
    np.testing.assert_array_equal(run(a, b), a[::-1] + b)
    both = gc.compile([x, y], turned, donate=[x, y])
    assert _places(both) == {both.schedule.outputs[0].name: "y"}
    wanted = a[::-1] + b
    c = a.copy()
    np.testing.assert_array_equal(both(c, b), wanted)
    np.testing.assert_array_equal(c, a)


def test_intermediate_results_lie_in_an_argument() -> None:
    x, w = gc.observed("x", (64, 64)), gc.observed("w", (64, 64))
    h = x
    for _ in range(4):
        h = ops.tanh(h @ w)
    plain = gc.compile([x, w], h.sum())
    run = gc.compile([x, w], h.sum(), donate=[x])
    assert set(_places(run).values()) == {"x"}
    assert run.memory.peak <= plain.memory.peak - 64 * 64 * 4
    a, b = _given(64, 64), _given(64, 64, seed=1) / 8
    wanted, kept = plain(a, b), b.copy()
    np.testing.assert_array_equal(run(a, b), wanted)
    np.testing.assert_array_equal(b, kept)


@pytest.mark.parametrize("specialize", [True, False])
def test_run_time_sizes_and_loops(specialize: bool) -> None:
    n = gc.Dim("N", specialize=specialize)
    x, w = gc.observed("x", (n, 3)), gc.observed("w", (3, 3))
    last, ys = gc.scan(lambda c, row: (c + row @ w, c), ops.zeros((3,)), x)
    run = gc.compile([x, w], [last, ys], donate=[x])
    plain = gc.compile([x, w], [last, ys])
    for size in (1, 5, 2):
        a, w_ = _given(size, 3), _given(3, 3, seed=1)
        for got, wanted in zip(run(a.copy(), w_), plain(a, w_), strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("seed", range(24))
def test_random_programs_compute_the_same(seed: int) -> None:
    inputs, outputs = program(seed, 4, 14)
    slope = gc.grad(ops.tanh(outputs[0]).sum(), inputs[0], unused="zero")
    outputs = [*outputs, slope]
    plain = gc.compile(inputs, outputs, unused="ignore")
    run = gc.compile(inputs, outputs, donate=inputs, unused="ignore")
    for attempt in range(2):
        given = [_given(*(int(e) for e in x.shape), seed=seed + attempt) for x in inputs]
        wanted = plain(*given)
        got = run(*(a.copy() for a in given))
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_large_arrays_that_start_anywhere() -> None:
    count = 1 << 22  # stores go past the caches from here on
    x = gc.observed("x", (count,))
    run, plain = gc.compile([x], x + 1.0, donate=[x]), gc.compile([x], x + 1.0)
    memory = np.zeros(count + 32, np.float32)
    start = -memory.ctypes.data % 64 // 4
    for offset in (0, 1, 4):
        given = memory[start + offset :][:count]
        assert given.ctypes.data % 64 == 4 * offset
        given[:] = offset
        result = run(given)
        assert result.ctypes.data == given.ctypes.data
        np.testing.assert_array_equal(result, np.full(count, offset + 1.0, np.float32))
        out = memory[start + offset :][:count]
        plain(np.full(count, 4.0, np.float32), out=out)
        np.testing.assert_array_equal(out, np.full(count, 5.0, np.float32))


def test_results_that_are_copied_at_the_end_start_at_a_cache_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NumPy's own memory starts anywhere: stores past the caches must not go there."""
    count = 1 << 22
    x = gc.observed("x", (count,))
    run = gc.compile([x], x + 1.0)
    memory = np.zeros(count + 1, np.float32)
    run(memory[1:])
    original = np.empty

    def crooked(shape: Any, dtype: Any = np.float64, **options: Any) -> Any:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = original(nbytes + 68, np.uint8)
        start = -raw.ctypes.data % 64 + 4
        return raw[start : start + nbytes].view(dtype).reshape(shape)

    monkeypatch.setattr(np, "empty", crooked)
    run(memory[1:], out=memory[1:])
    np.testing.assert_array_equal(memory[1:], np.ones(count, np.float32))


def test_what_cannot_be_taken_is_refused() -> None:
    x, y = gc.observed("x", (4, 4)), gc.observed("y", (4, 4))
    run = gc.compile([x, y], x * 2.0 + y, donate=[x])
    a, b = _given(4, 4), _given(4, 4, seed=1)
    fixed = a.copy()
    fixed.flags.writeable = False
    for args, message in (
        ((fixed, b), "'x' is donated, and the array is read-only"),
        ((a.T, b), "'x' is donated, and is no C-contiguous"),
        ((a.astype(np.float64), b), "'x' is donated, and float64 is no float32"),
        ((a, a), "'x' is donated, and 'y' lies in its memory"),
        ((a, a[:]), "'x' is donated, and 'y' lies in its memory"),
    ):
        before = a.copy()
        with pytest.raises(gc.BindError, match=message):
            run(*args)
        np.testing.assert_array_equal(a, before)
    with pytest.raises(gc.BindError, match="out= and donate= both say"):
        run(a, b, out=np.empty((4, 4), np.float32))
    two = gc.compile([x, y], x * 2.0 + y, donate=[x, y])
    with pytest.raises(gc.BindError, match="'x' is donated, and 'y' lies in its memory"):
        two(a, a)
    np.testing.assert_allclose(run(a.tolist(), b), a * 2 + b, rtol=1e-6)  # converted: nothing taken
    wanted = a * 2 + b
    np.testing.assert_array_equal(run(a, b), wanted)
    with pytest.raises(gc.BindError, match="'x' was donated to an earlier call"):
        run(a, b)


def test_a_call_that_fails_midway_has_taken_its_argument() -> None:
    x, at = gc.observed("x", (4,)), gc.observed("at", (4,), gc.int64)
    run = gc.compile([x, at], ops.take(x * 2.0, at, axis=0), donate=[x])
    a = _given(4)
    with pytest.raises(gc.RuntimeCheckError):
        run(a, [0, 1, 2, 9])
    with pytest.raises(gc.BindError, match="'x' was donated to an earlier call"):
        run(a, [0, 1, 2, 3])


def test_profiling_takes_too() -> None:
    x = gc.observed("x", (4,))
    run = gc.compile([x], x * 2.0, donate=[x])
    a = _given(4)
    wanted = a * 2
    np.testing.assert_array_equal(run.profile(a).result, wanted)
    with pytest.raises(gc.BindError, match="'x' was donated to an earlier call"):
        run(a)


SCHEDULE = """schedule twice
  argument x f32[4]
  argument z f32[4]
  arena h f32[4]{h}
  output y f32[4]{y}
kernel double
  axes i:4
  parallel i
  in a f32[4]
  out b f32[4]
  v = load a[i]
  store b[i] = v + v
run {{
  launch double(x -> h)
  barrier
  launch double({last} -> y)
}}
"""


def test_places_are_text_and_verified() -> None:
    text = SCHEDULE.format(h=" in x", y=" in x", last="h")
    schedule = verify_schedule(parse_schedule(text)) or parse_schedule(text)
    assert print_schedule(parse_schedule(print_schedule(schedule))) == print_schedule(schedule)
    assert " in x" in print_schedule(schedule)
    made = reuse_arguments(parse_schedule(SCHEDULE.format(h="", y="", last="h")), [0])
    assert {b.name: b.place for b in made.buffers if b.place} == {"y": "x"}
    for h, y, last, message in (
        (" in x", "", "x", "reads 'x', which holds no value here"),
        (" in w", "", "h", "'w' is no argument"),
        ("", " in h", "h", "'h' is no argument"),
        (" in x at 0", "", "h", "it cannot lie in an argument"),
    ):
        with pytest.raises(gc.GraphcError, match=message):
            verify_schedule(parse_schedule(SCHEDULE.format(h=h, y=y, last=last)))
