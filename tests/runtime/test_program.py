"""Programs called from Python: results, outputs' memory, sizes, loops, state, errors."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest
from programs import ADD, CHAIN, load, update

from graphc.backend import backend_names, find_backend
from graphc.backends.llvm import codegen
from graphc.errors import BackendError, BindError, DTypeError, RuntimeCheckError, ShapeError
from graphc.memory import StateBuffer, address_of
from graphc.schedule import Schedule
from graphc.schedule_interpret import interpret_schedule
from graphc.types import TensorType, float32

Array = np.ndarray[Any, Any]


def ramp(n: int, start: float = 0) -> Array:
    return np.arange(start, start + n, dtype=np.float32)


def test_one_output_is_an_array() -> None:
    program = load(ADD.format(n=1000), "add")
    z = program.call(ramp(1000), ramp(1000, 5))
    assert type(z) is np.ndarray
    assert z.dtype is float32.numpy
    assert z.flags.carray
    np.testing.assert_array_equal(z, ramp(1000) + ramp(1000, 5))
    np.testing.assert_array_equal(program.call(y=ramp(1000), x=ramp(1000)), 2 * ramp(1000))


def test_several_outputs_are_a_tuple_and_none_is_none() -> None:
    text = """schedule s argument x f32[4] output a f32[4] output b f32[4]
    run { copy x -> a copy x -> b }"""
    both = load(text).call(ramp(4))
    assert isinstance(both, tuple)
    for array in both:
        np.testing.assert_array_equal(array, ramp(4))
    assert load("schedule s argument x f32[4] run { }").call(ramp(4)) is None


def test_outputs_are_fresh_and_their_memory_is_used_again() -> None:
    program = load(ADD.format(n=1000), "add")
    x = ramp(1000)
    first, second = program.call(x, x), program.call(x, x)
    assert not np.shares_memory(first, second)
    assert address_of(first) % 64 == 0
    view, place = first[10:20], address_of(first)
    del first
    third = program.call(x, x)
    assert address_of(third) != place  # the view keeps it
    np.testing.assert_array_equal(view, 2 * x[10:20])
    del view
    assert address_of(program.call(x, x)) == place


def test_outputs_outlive_their_program() -> None:
    program = load(ADD.format(n=64), "add")
    z, dead = program.call(ramp(64), ramp(64)), weakref.ref(program)
    del program
    gc.collect()
    assert dead() is None
    np.testing.assert_array_equal(z, 2 * ramp(64))


def test_large_outputs() -> None:
    n = 1 << 20
    program = load(ADD.format(n=n), "add")
    for _ in range(3):
        np.testing.assert_array_equal(program.call(ramp(n), ramp(n)), 2 * ramp(n))


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
def test_arguments_in_any_layout(n: int) -> None:
    program = load(ADD.format(n=n), "add")
    raw = np.zeros(4 * n + 1, np.uint8)[1:].view(np.float32)
    raw[:] = ramp(n)
    frozen = ramp(n)
    frozen.flags.writeable = False
    wide = np.zeros((n, 3), np.float32)
    wide[:, 1] = ramp(n)
    offset = np.zeros(n + 1, np.float32)[1:]  # 4 mod 64
    offset[:] = ramp(n)
    for x in (raw, frozen, wide[:, 1], offset, ramp(n).astype(">f4"), ramp(n)[::-1][::-1]):
        np.testing.assert_array_equal(program.call(x, ramp(n)), 2 * ramp(n))
    np.testing.assert_array_equal(program.call(list(range(n)), ramp(n)), 2 * ramp(n))


def test_wrong_arguments_are_refused_and_do_no_harm() -> None:
    program = load(ADD.format(n=8), "add")
    x = ramp(8)
    for error, args, message in (
        (BindError, (x,), "add takes 2 arguments .x, y.; missing: y"),
        (BindError, (x, x, x), "got 3"),
        (DTypeError, (x.astype(np.float64), x), r"expected f32\[8\], got f64\[8\]"),
        (ShapeError, (x, ramp(9)), "axis 0 is 9, not 8"),
        (ShapeError, (x, x.reshape(2, 4)), "2 axes"),
        (BindError, (x, "y"), "got str"),
    ):
        with pytest.raises(error, match=message):
            program.call(*args)
        np.testing.assert_array_equal(program.call(x, x), 2 * x)


def test_call_into() -> None:
    program = load(ADD.format(n=8), "add")
    out = np.zeros(8, np.float32)
    program.call_into([ramp(8), ramp(8)], [out])
    np.testing.assert_array_equal(out, 2 * ramp(8))
    x = ramp(8)
    program.call_into([x, x], [x])  # overlaps an argument
    np.testing.assert_array_equal(x, 2 * ramp(8))
    wide = np.zeros((8, 2), np.float32)
    program.call_into([x, x], [wide[:, 0]])
    np.testing.assert_array_equal(wide[:, 0], 4 * ramp(8))
    frozen = np.zeros(8, np.float32)
    frozen.flags.writeable = False
    wrong: list[Any] = [frozen, np.zeros(8), np.zeros(7, np.float32), [0] * 8]
    for bad in wrong:
        with pytest.raises(BindError, match="out 'z': expected"):
            program.call_into([x, x], [bad])
    with pytest.raises(BindError, match="1 outputs, 0 were given"):
        program.call_into([x, x], [])


def test_new_sizes_need_no_new_code(monkeypatch: pytest.MonkeyPatch) -> None:
    program = load(CHAIN, "add", "double")
    monkeypatch.setattr(codegen, "object_of", None)
    monkeypatch.setattr(codegen, "link", None)
    for n in (*range(1, 50), 100_000, 3):
        x = ramp(n)
        np.testing.assert_array_equal(program.call(x, x), 4 * x)
    assert program.arena_bytes == 400_000
    assert len(program._bindings) <= 33


def test_calls_run_little_python() -> None:
    """Time is for benchmarks to measure; what costs it here is frames of Python."""
    program = load(CHAIN, "add", "double")

    def frames(size: int) -> int:
        x, seen = ramp(size), 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal seen
            seen += event == "call"

        sys.setprofile(count)
        try:
            program.call(x, x)
        finally:
            sys.setprofile(None)
        return seen

    frames(5)
    assert frames(5) == 0
    assert frames(6) < 600, "a new size: bound, planned and written once"
    assert frames(5) < 60, "a size that is planned already"


def test_a_plan_places_arena_buffers() -> None:
    asked = []

    def plan(bound: Schedule) -> dict[str, int]:
        asked.append(bound.buffer["h"].type.shape)
        return {"h": 128}

    program = load(CHAIN.replace(" at 0", ""), "add", "double", plan=plan)
    for n in (10, 20, 10):
        np.testing.assert_array_equal(program.call(ramp(n), ramp(n)), 4 * ramp(n))
    assert asked == [(10,), (20,)]


CONTROL = """schedule control
argument x f32[8] argument limit f32[8] output z f32[8] output t f32[8]
arena a f32[8] at 0 arena b f32[8] at 64
cell go bool[] cell i i64[] cell j i64[]
run {
  copy x -> a
  barrier
  launch below(a, limit -> go) sizes(8)
  while go max 100 {
    launch double(a -> b) sizes(8)
    barrier
    copy b -> a
    barrier
    launch below(a, limit -> go) sizes(8)
  }
  copy x -> t
  loop i < 3 {
    loop j < 4 {
      launch add_counter(t -> b) sizes(8) scalars(j)
      barrier
      copy b -> t
    }
    launch add_counter(t -> b) sizes(8) scalars(i)
    barrier
    copy b -> t
  }
  if go { copy x -> z } else { copy a -> z }
}"""


@pytest.mark.parametrize(("limit", "times"), [(100.0, 7), (0.5, 0), (1e38, 100)])
def test_loops_and_branches(limit: float, times: int) -> None:
    program = load(CONTROL, "below", "double", "add_counter")
    x, limits = np.ones(8, np.float32), np.full(8, limit, np.float32)
    if times == 100:  # doubling stops at `max`: zero stays below
        x[0] = 0
    z, t = program.call(x, limits)
    expected = interpret_schedule(program.schedule, {"x": x, "limit": limits})
    np.testing.assert_array_equal(z, expected["z"])
    np.testing.assert_array_equal(t, expected["t"])
    np.testing.assert_array_equal(t, x + 3 * (0 + 1 + 2 + 3) + (0 + 1 + 2))
    if times < 100:
        np.testing.assert_array_equal(z, x * 2.0**times)


def test_a_step_sees_five_python_frames_at_most() -> None:
    program = load(ADD.format(n=8), "add")
    frames = []

    def look(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            frames.append(frame.f_code.co_name)

    x = ramp(8)
    sys.setprofile(look)
    program.call(x, x)
    sys.setprofile(None)
    assert frames == []


def test_updates_are_all_or_nothing() -> None:
    n = 1000
    state = StateBuffer(TensorType(float32, (n,)))
    program = update(n, state)
    x = ramp(n, 1)
    np.testing.assert_array_equal(program.call(x), np.zeros(n))
    np.testing.assert_array_equal(state.numpy(), x)
    assert state.version == 1
    bad = x.copy()
    bad[n // 2] = -1
    with pytest.raises(RuntimeCheckError, match=r"x must be positive\n  defined at model.py:3"):
        program.call(bad)
    np.testing.assert_array_equal(state.numpy(), x)
    assert state.version == 1
    np.testing.assert_array_equal(program.call(x), x)
    np.testing.assert_array_equal(state.numpy(), 2 * x)


def test_programs_share_states() -> None:
    state = StateBuffer(TensorType(float32, (8,)))
    write = update(8, state)
    read = load(
        "schedule r output z f32[8] state w f32[8] run { copy w -> z }", states={"w": state}
    )
    for i in range(3):
        np.testing.assert_array_equal(read.call(), i * np.ones(8))
        write.call(np.ones(8, np.float32))
    assert state.version == 3


def test_constants_are_kept() -> None:
    text = """schedule s argument x f32[4] output z f32[4] constant c f32[4]
    run { launch add(x, c -> z) sizes(4) }"""
    values = ramp(4)
    program = load(text, "add", constants={"c": values})
    values[:] = 0
    np.testing.assert_array_equal(program.call(ramp(4)), 2 * ramp(4))


def test_missing_parts_are_named() -> None:
    text = "schedule s output z f32[4] {} c f32[4] run {{ copy c -> z }}"
    with pytest.raises(BackendError, match="no state buffer for 'c'"):
        load(text.format("state"))
    with pytest.raises(BackendError, match="no values for constant 'c'"):
        load(text.format("constant"))
    with pytest.raises(BackendError, match=r"constant 'c' is float64\[4\]"):
        load(text.format("constant"), constants={"c": np.zeros(4)})
    wrong = StateBuffer(TensorType(float32, (5,)))
    with pytest.raises(BackendError, match=r"state 'c' is f32\[5\], the schedule has f32\[4\]"):
        load(text.format("state"), states={"c": wrong})


def test_profile_says_when_each_launch_ran() -> None:
    n = 1 << 18
    program = load(CHAIN, "add", "double", threads=2)
    z, events = program.profile(ramp(n), ramp(n))
    np.testing.assert_array_equal(z, 4 * ramp(n))
    ran = [(e.worker, getattr(e.statement, "kernel", "")) for e in events]
    assert {kernel for _, kernel in ran} == {"add", "double"}
    assert {worker for worker, _ in ran} <= {0, 1}
    assert len(set(ran)) == len(ran), "chunks of one launch are one event of their worker"
    assert min(e.begin for e in events) == 0
    assert all(e.begin <= e.end for e in events)
    ends = max(e.end for e in events if getattr(e.statement, "kernel", "") == "add")
    assert all(e.begin >= ends for e in events if getattr(e.statement, "kernel", "") == "double"), (
        "a barrier lies between"
    )
    np.testing.assert_array_equal(program.call(ramp(n), ramp(n)), z)


def test_empty_arrays() -> None:
    text = "schedule s argument x f32[0] output z f32[0] run { copy x -> z }"
    assert load(text).call(np.zeros(0, np.float32)).shape == (0,)


def test_backends_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "llvm" in backend_names()
    assert find_backend().name == "llvm"
    monkeypatch.setenv("GRAPHC_BACKEND", "abacus")
    with pytest.raises(BackendError, match=r"no backend 'abacus'; there are: .*llvm"):
        find_backend()


def test_calls_leak_nothing() -> None:
    n = 64
    state = StateBuffer(TensorType(float32, (n,)))
    programs = [load(ADD.format(n=n), "add"), update(n, state)]
    nothing = load("schedule s argument x f32[64] run { }")
    x, wrong = ramp(n, 1), -ramp(n, 1)
    watched = [x, wrong, float32.numpy, *programs, *(p.call for p in programs)]

    def calls() -> None:
        for _ in range(500):
            programs[0].call(x, x)
            programs[1].call(x)
            nothing.call(x)
            with pytest.raises(RuntimeCheckError):
                programs[1].call(wrong)
            with pytest.raises(BindError):
                programs[0].call(x)

    calls()
    gc.collect()
    before = [sys.getrefcount(o) for o in (None, *watched)]
    calls()
    gc.collect()
    after = [sys.getrefcount(o) for o in (None, *watched)]
    assert max(abs(a - b) for a, b in zip(after, before, strict=True)) < 50
