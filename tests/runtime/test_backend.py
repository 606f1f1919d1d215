"""Schedules through the whole LLVM backend: emitted kernels under the walker, against the
oracle.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from graphc.backend import find_backend
from graphc.backends.llvm.native import native, set_threads
from graphc.errors import BackendError, RuntimeCheckError
from graphc.memory import StateBuffer
from graphc.schedule_interpret import interpret_schedule
from graphc.schedule_text import parse_schedule
from graphc.schedule_verify import verify_schedule
from graphc.types import TensorType, float32

#: h = tanh(x); four steps h = tanh(h + t * w); rows of h; the mean of h goes into w
RECURRENCE = """schedule recurrence
  size n 1..
  argument x f32[n]
  output rows f32[4,n]
  output mean f32[]
  state w f32[]
  arena h f32[n] at 0
  arena g f32[n] at 2097152
  arena m f32[] at 4194304
  cell t i64[]
  check 0 "x is not finite" source "rnn.py":12 "forward"

kernel start
  size n 1..
  axes i:n
  in x f32[n]
  out h f32[n]
  a = load x[i]
  ok = abs(a) < 1e30
  check ok "finite"
  store h[i] = tanh(a)

kernel step
  size n 1..
  scalar t i64 0..3
  axes i:n
  in h f32[n], w f32[]
  out g f32[n]
  a = load h[i]
  b = load w[]
  store g[i] = tanh(a + f32(t) * b)

kernel keep
  size n 1..
  scalar t i64 0..3
  axes i:n
  in g f32[n]
  out rows f32[4,n], h f32[n]
  a = load g[i]
  store rows[t, i] = a
  store h[i] = a

kernel mean
  size n 1..
  axes i:n
  in h f32[n]
  out m f32[]
  a = load h[i]
  s = reduce sum a over i
  store m[] = s * 0.001

run {
  launch start(x -> h) sizes(n)
  loop t < 4 {
    launch step(h, w -> g) sizes(n) scalars(t)
    barrier
    launch keep(g -> rows, h) sizes(n) scalars(t)
  }
  launch mean(h -> m) sizes(n)
  commit
  copy m -> w
  copy m -> mean
}
"""


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = native().pool.threads
    yield
    set_threads(before)


@pytest.mark.usefixtures("threads_restored")
def test_a_recurrence_equals_the_oracle_on_any_number_of_threads() -> None:
    schedule = parse_schedule(RECURRENCE)
    verify_schedule(schedule)
    rng = np.random.default_rng(11)
    results: list[bytes] = []
    for threads in (1, 2, 8):
        set_threads(threads)
        state = StateBuffer(TensorType(float32, ()), 0.5)
        program = find_backend("llvm").compile(schedule, states={"w": state}, constants={})
        bits = b""
        for n in (1, 7, 64, 1001, 70_000):
            x = np.random.default_rng(n).standard_normal(n, dtype=np.float32)
            before = state.numpy()
            rows, mean = program.call(x)
            expected = interpret_schedule(schedule, {"x": x, "w": before}, {"n": n})
            np.testing.assert_allclose(rows, expected["rows"], rtol=2e-5, atol=2e-6)
            np.testing.assert_allclose(mean, expected["mean"], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(state.numpy(), mean)
            bits += rows.tobytes() + mean.tobytes()
        results.append(bits)
        x = rng.standard_normal(100, dtype=np.float32)
        x[50] = np.nan
        before = state.numpy()
        with pytest.raises(RuntimeCheckError, match=r"not finite\n  defined at rnn.py:12"):
            program.call(x)
        np.testing.assert_array_equal(state.numpy(), before)
    assert results[0] == results[1] == results[2]


def test_source_and_assembly_can_be_read() -> None:
    state = StateBuffer(TensorType(float32, ()))
    program = find_backend("llvm").compile(
        parse_schedule(RECURRENCE), states={"w": state}, constants={}
    )
    assert "define" in program.source("step")
    assert ".globl" in program.assembly("step")
    for look in (program.source, program.assembly):
        with pytest.raises(BackendError, match="has no kernel 'stop'; it has "):
            look("stop")
