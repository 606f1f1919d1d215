"""Threads: the pool under stress, forks, Ctrl-C, several callers, exit; and its settings."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import ADD, CHAIN, load, update

import graphc as gc
from graphc.backends.llvm import codegen, pool, table
from graphc.backends.llvm.layout import Record
from graphc.backends.llvm.native import native, runtime_ir, set_threads
from graphc.backends.llvm.runtime import Program
from graphc.backends.llvm.walker import EVENT
from graphc.errors import BackendError, StateError
from graphc.memory import StateBuffer
from graphc.types import TensorType, float32

HERE = Path(__file__).parent


@pytest.fixture
def threads() -> Iterator[Any]:
    before = native().pool.threads
    yield set_threads
    set_threads(before)


def ramp(n: int) -> np.ndarray[Any, Any]:
    return np.arange(n, dtype=np.float32)


#: 8 phases a pass, each on all chunks of the one before; adds 0 + 1 + 2 + 3 a pass
STRESS = """schedule stress
argument x f32[{n}] output z f32[{n}] arena a f32[{n}] at 0 arena b f32[{n}] at 65536
cell i i64[] cell pass i64[]
run {{
  copy x -> a
  loop pass < {passes} {{
    loop i < 4 {{
      launch add_counter(a -> b) sizes({n}) scalars(i)
      barrier
      copy b -> a
    }}
  }}
  copy a -> z
}}"""


#: one phase a pass of launches in place; a chunk that runs twice shows
IN_PLACE = """schedule in_place
argument x f32[{n}] output z f32[{n}] arena a f32[{n}] at 0 arena b f32[{n}] at 65536
cell i i64[]
run {{
  copy x -> a
  copy x -> b
  loop i < {passes} {{
    launch add_counter(a -> a) sizes({n}) scalars(i)
    launch add_counter(b -> b) sizes({n}) scalars(i)
  }}
  launch add(a, b -> z) sizes({n})
}}"""


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share even the smallest phases, a block or two a chunk."""
    monkeypatch.setattr(table, "PHASE_WORTH_SHARING", 0)
    monkeypatch.setattr(table, "PROGRAM_WORTH_SHARING", 0)
    monkeypatch.setattr(table, "CHUNK_WORTH_CLAIMING", 1e-3)


def stress(count: int, passes: int) -> None:
    """A chunk that runs too early, too late or never shows in the sum, which is exact."""
    n = 512  # 8 blocks
    program = load(STRESS.format(n=n, passes=passes), "add_counter", threads=count)
    assert passes * 6 + n < 1 << 24
    np.testing.assert_array_equal(program.call(ramp(n)), ramp(n) + 6 * passes)
    assert native().pool.workers == count - 1


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("count", "phases"), [(2, 100_000), (3, 8_000), (8, 4_000)])
def test_stress(threads: Any, count: int, phases: int) -> None:
    threads(count)
    stress(count, phases // 8)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("count", "calls"), [(2, 400), (3, 60), (8, 40)])
def test_stress_in_place(threads: Any, count: int, calls: int) -> None:
    """Workers come at any time between phases of a call, between calls, and after pauses."""
    threads(count)
    n, passes = 640, 150
    program = load(IN_PLACE.format(n=n, passes=passes), "add_counter", "add", threads=count)
    x = ramp(n)
    for call in range(calls):
        z = program.call(x)
        np.testing.assert_array_equal(z, 2 * x + passes * (passes - 1), f"call {call}")
        if call % 8 == 0:
            time.sleep(1e-6 * (call % 128))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("count", [2, 8])
def test_small_programs_in_turns(threads: Any, count: int) -> None:
    """Each call rewrites the arguments that a late worker of the call before might read."""
    threads(count)
    programs = [load(ADD.format(n=n), "add", threads=count) for n in (256, 1024, 512)]
    rng = np.random.default_rng(3)
    for turn in range(3000):
        program, n = programs[turn % 3], (256, 1024, 512)[turn % 3]
        x = np.full(n, rng.integers(1 << 20), np.float32)
        assert (program.call(x, x) == 2 * x[0]).all(), f"turn {turn}"


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_stress_a_million_phases(threads: Any) -> None:
    threads(2)
    stress(2, 1_000_000 // 8)


@pytest.mark.parametrize("count", [2, 8])
def test_many_short_steps(threads: Any, count: int) -> None:
    threads(count)
    program = load(CHAIN, "add", "double", threads=count)
    x = ramp(100_000)
    for _ in range(200):
        np.testing.assert_array_equal(program.call(x, x), 4 * x)


def test_same_bits_for_any_number_of_threads(threads: Any) -> None:
    rng = np.random.default_rng(7)
    n = 300_001
    x, y = (rng.standard_normal(n, dtype=np.float32) for _ in range(2))
    results = []
    for count in (1, 2, 8):
        threads(count)
        program = load(CHAIN, "add", "double", threads=count)
        results += [program.call(x, y) for _ in range(5)]
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.int32), results[0].view(np.int32))


def test_a_small_chain_has_blocks_for_two_and_the_same_bits(threads: Any) -> None:
    x = gc.observed("x", (4096,), gc.float32)
    out = gc.ops.tanh(x * 1.5 + 0.5) * gc.ops.sigmoid(x) + gc.nn.functional.gelu(x)
    values = np.random.default_rng(5).standard_normal(4096, dtype=np.float32)
    results = []
    for count in (1, 2, 8):
        threads(count)
        executable = gc.compile([x], out)
        results += [executable(values) for _ in range(300)]
        loaded = executable._latest().loaded
        assert isinstance(loaded, Program)
        assert [kernel.grid for kernel in loaded.kernels.values()] == [8]
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.int32), results[0].view(np.int32))


def test_a_plan_for_more_threads_than_there_are(threads: Any) -> None:
    threads(2)
    n = 100_000
    program = load(CHAIN, "add", "double", threads=5)
    np.testing.assert_array_equal(program.call(ramp(n), ramp(n)), 4 * ramp(n))
    threads(1)
    np.testing.assert_array_equal(program.call(ramp(n), ramp(n)), 4 * ramp(n))


def test_idle_workers_use_no_time(threads: Any) -> None:
    threads(2)
    program = load(CHAIN, "add", "double", threads=2)
    program.call(ramp(100_000), ramp(100_000))
    assert native().pool.workers == 1
    time.sleep(0.01)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.02


def test_small_programs_wake_nobody(threads: Any) -> None:
    threads(2)
    program = load(ADD.format(n=256), "add", threads=2)
    program.call(ramp(256), ramp(256))
    assert native().pool.workers == 0


SMALL = 1 << 14  # elements: some microseconds of work


def test_small_programs_called_now_and_then_run_alone(threads: Any) -> None:
    threads(2)
    program = load(ADD.format(n=SMALL), "add", threads=2)
    x = ramp(SMALL)
    for _ in range(5):
        np.testing.assert_array_equal(program.call(x, x), 2 * x)
        time.sleep(0.002)
    assert native().pool.workers == 0


def test_small_programs_called_back_to_back_share_their_work(threads: Any) -> None:
    threads(2)
    program = load(ADD.format(n=SMALL), "add", threads=2)
    x = ramp(SMALL)
    program.call(x, x)
    events = [Record(EVENT, 1 << 16) for _ in range(2)]
    binding = program._current
    assert binding is not None
    program._record_events(binding, events)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:  # on a busy machine a worker may be late for long
            for _ in range(200):
                program.call(x, x)
            if binding.workers[1, "events"] > events[1].address:
                break
        else:
            pytest.fail("the worker never helped")
    finally:
        program._record_events(binding, None)
    np.testing.assert_array_equal(program.call(x, x), 2 * x)


def in_threads(count: int, work: Any) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=run) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failures, failures[0]


def test_threads_call_one_program() -> None:
    program = load(CHAIN, "add", "double")
    seed = iter(range(100))

    def work() -> None:
        rng = np.random.default_rng(next(seed))
        for _ in range(40):
            n = int(rng.choice([1000, 90_000, 100_000]))
            x = rng.standard_normal(n, dtype=np.float32)
            np.testing.assert_array_equal(program.call(x, x), 4 * x)

    in_threads(4, work)


def test_threads_update_one_state_through_two_programs() -> None:
    n = 3000
    state = StateBuffer(TensorType(float32, (n,)))
    programs = [update(n, state), update(n, state)]
    turn = iter(programs * 2)
    one = np.ones(n, np.float32)

    def work() -> None:
        program = next(turn)
        for _ in range(100):
            old = program.call(one)
            assert (old == old[0]).all()  # never half of an update
            values = state.numpy()
            assert (values == values[0]).all()

    in_threads(4, work)
    np.testing.assert_array_equal(state.numpy(), np.full(n, 400))
    assert state.version == 400


ENDLESS = """schedule endless
argument x f32[64] output z f32[64] state w f32[64]
arena a f32[64] at 0 arena b f32[64] at 256
cell i i64[]
run {
  copy x -> a
  loop i < 1000000000000 {
    launch double(a -> b) sizes(64)
    barrier
    copy b -> a
  }
  copy a -> z
  commit
  copy a -> w
}"""


def interrupted_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()


def test_ctrl_c_ends_a_long_call_and_changes_no_state(threads: Any) -> None:
    threads(2)
    state = StateBuffer(TensorType(float32, (64,)), np.arange(64))
    endless = load(ENDLESS, "double", states={"w": state})
    for _ in range(2):
        interrupted_after(0.1)
        begin = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            endless.call(ramp(64))
        assert time.perf_counter() - begin < 5
        np.testing.assert_array_equal(state.numpy(), ramp(64))
        assert state.version == 0
    program = load(ADD.format(n=8), "add")
    np.testing.assert_array_equal(program.call(ramp(8), ramp(8)), 2 * ramp(8))


def test_a_signal_handler_cannot_use_what_it_interrupted() -> None:
    state = StateBuffer(TensorType(float32, (64,)))
    endless = load(ENDLESS, "double", states={"w": state})
    seen: list[str] = []

    def handler(*_: object) -> None:
        for use in (lambda: endless.call(ramp(64)), state.numpy):
            try:
                use()
            except StateError as error:
                seen.append(error.message)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        interrupted_after(0.1)
        with pytest.raises(KeyboardInterrupt):
            endless.call(ramp(64))
    finally:
        signal.signal(signal.SIGINT, before)
    assert "running in this thread" in seen[0]
    assert "signal handler" in seen[1]


def test_holding_a_states_lock_is_an_error_not_a_standstill() -> None:
    state = StateBuffer(TensorType(float32, (8,)))
    program = update(8, state)
    with state.writing(), pytest.raises(StateError, match="holds the lock"):
        program.call(np.ones(8, np.float32))
    program.call(np.ones(8, np.float32))
    assert state.version == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_its_own_workers(threads: Any) -> None:
    threads(2)
    program = load(CHAIN, "add", "double", threads=2)
    n = 100_000
    program.call(ramp(n), ramp(n))
    assert native().pool.workers == 1
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert native().pool.workers == 0
            assert (program.call(ramp(n), ramp(n)) == 4 * ramp(n)).all()
            assert native().pool.workers == 1
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(program.call(ramp(n), ramp(n)), 4 * ramp(n))


def run_script(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    head = f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(script)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_fork_while_another_thread_is_inside() -> None:
    script = """
    import os, threading, time, warnings
    import numpy as np
    from programs import CHAIN, load, update
    from graphc.memory import StateBuffer
    from graphc.types import TensorType, float32
    warnings.simplefilter("ignore")
    n = 200_000
    state = StateBuffer(TensorType(float32, (n,)))
    program, x, stop = update(n, state), np.ones(n, np.float32), False
    def work():
        while not stop:
            program.call(x)
    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(20):
        time.sleep(0.002)
        child = os.fork()
        if child == 0:
            program.call(x)
            state.numpy()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    stop = True
    thread.join()
    print("fine")
    """
    done = run_script(script, GRAPHC_THREADS="2")
    assert done.stdout == "fine\n", done.stderr


def test_the_interpreter_ends_quietly() -> None:
    script = """
    import threading
    import numpy as np
    from programs import CHAIN, load
    n = 300_000
    x = np.ones(n, np.float32)
    program = load(CHAIN, "add", "double")
    kept = program.call(x, x)
    class Late:
        def __del__(self):
            self.array = None
    late = Late()
    late.array = program.call(x, x)
    def forever():
        while True:
            program.call(x, x)
    threading.Thread(target=forever, daemon=True).start()
    print("end")
    """
    done = run_script(script, GRAPHC_THREADS="3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_floating_point_mode_is_ours_inside_and_restored_outside() -> None:
    if codegen.host().architecture != "x86_64":
        pytest.skip("reads MXCSR")
    ir = """
    declare void @llvm.x86.sse.stmxcsr(ptr)
    declare void @llvm.x86.sse.ldmxcsr(ptr)
    define void @get(ptr %p) { call void @llvm.x86.sse.stmxcsr(ptr %p) ret void }
    define void @set(ptr %p) { call void @llvm.x86.sse.ldmxcsr(ptr %p) ret void }
    """
    library = codegen.link([codegen.object_of(ir, codegen.host())], ["get", "set"])
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    get, put = (call(library.addresses[s]) for s in ("get", "set"))
    word = ctypes.c_uint32()
    get(ctypes.byref(word))
    before = word.value
    tiny = np.full(8, 1e-40, np.float32)  # denormal: flushing would give 0
    program = load(ADD.format(n=8), "add")
    flushing = ctypes.c_uint32(before | 0x8040)
    try:
        put(ctypes.byref(flushing))
        result = program.call(tiny, tiny)
        get(ctypes.byref(word))
        inside = word.value
    finally:
        put(ctypes.byref(ctypes.c_uint32(before)))
    assert inside & 0x8040 == 0x8040
    assert result.view(np.int32)[0] == (tiny + tiny).view(np.int32)[0] != 0


def test_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_THREADS", "3")
    assert pool.thread_count() == 3
    for wrong in ("0", "-1", "two", "257", "1.5"):
        monkeypatch.setenv("GRAPHC_THREADS", wrong)
        with pytest.raises(BackendError, match="a number from 1 to 256"):
            pool.thread_count()
    monkeypatch.delenv("GRAPHC_THREADS")
    assert 1 <= pool.thread_count() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({}, None),
    ],
)
def test_quota_of_the_control_group(
    tmp_path: Path, files: dict[str, str], cores: int | None
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert pool._quota(tmp_path) == cores


def test_the_runtime_compiles_for_aarch64() -> None:
    machine = codegen.Machine("aarch64-unknown-linux-gnu", "neoverse-n1")
    text = codegen.assembly_of(runtime_ir("aarch64"), machine)
    assert "yield" in text
    assert "fpcr" in text.lower()
    assert "mov\tw0, #98" in text or "#98" in text
    assert "graphc_walk:" in text
