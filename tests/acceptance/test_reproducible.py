"""Same bits for one seed, whatever the threads; states whole, whoever calls at the same time."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim, types
from graphc.backends.llvm.native import native
from tests.acceptance.programs import FEATURES, Array, bits, contents, data, training

ROOT = Path(types.__file__).parent.parent

#: A network wide enough that its kernels are shared by threads, with dropout, trained for six
#: steps on two batch sizes; prints a digest of all losses and states.
SCRIPT = """
import hashlib
import numpy as np
import graphc as gc
from graphc import nn, optim
from graphc.backends.llvm.native import native

def run():
    gc.manual_seed(5)
    b = gc.Dim("B")
    x, y = gc.observed("x", (b, 64)), gc.observed("y", (b,), gc.int64)
    net = nn.Linear(64, 512) >> nn.GELU() >> nn.Dropout(0.3) >> nn.LayerNorm(512)
    net = net >> nn.Linear(512, 10)
    loss = nn.CrossEntropyLoss()(net(x), y)
    step = gc.compile([x, y], loss, optim.AdamW(lr=1e-3).minimize(loss))
    digest = hashlib.sha256()
    rng = np.random.default_rng(0)
    for rows in (256, 256, 97, 256, 97, 256):
        loss = step(rng.standard_normal((rows, 64), dtype=np.float32), rng.integers(0, 10, rows))
        digest.update(np.ascontiguousarray(loss).tobytes())
    for cell in step.states:
        digest.update(cell.numpy().tobytes())
    return digest.hexdigest()

first, second = run(), run()
assert first == second, "the second run differs"
print(first, native().pool.workers)
"""


def _run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_same_bits_on_one_two_and_eight_threads_and_on_the_second_run() -> None:
    results = {n: _run(SCRIPT, GRAPHC_THREADS=str(n)).split() for n in (1, 2, 8)}
    assert {int(workers) for _, workers in results.values()} == {0, 1, 7}, "all threads took part"
    assert len({digest for digest, _ in results.values()}) == 1, results


def test_another_seed_gives_other_bits() -> None:
    one, other = (training(seed=seed).predict(data(4)[0]) for seed in (1, 2))
    assert bits(one) != bits(other)


def test_one_seed_gives_one_training() -> None:
    def trained() -> bytes:
        run = training(seed=9)
        digest = hashlib.sha256()
        for seed in range(5):
            digest.update(bits(run.step(*data(8, seed))))
        for cell in run.step.states:
            digest.update(bits(cell.numpy()))
        return digest.digest()

    assert trained() == trained()


# ---- callers at the same time


def _together(*works: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not failures, failures[0]


@pytest.mark.parametrize("specialize", [True, False])
def test_two_threads_call_one_executable(specialize: bool) -> None:
    """Different sizes at the same time: each call gets its own rows' answer."""
    run = training(gc.Dim("B", specialize=specialize))
    predict = run.predict
    sizes = (3, 8, 40, 129)
    right = {rows: predict(data(rows, rows)[0]).tobytes() for rows in sizes}

    def work(order: tuple[int, ...]) -> Callable[[], None]:
        def call() -> None:
            for _ in range(30):
                for rows in order:
                    assert predict(data(rows, rows)[0]).tobytes() == right[rows]

        return call

    _together(work(sizes), work(sizes[::-1]), work((8, 3)))


def test_a_step_and_a_prediction_share_the_parameters() -> None:
    """Whoever predicts while another thread trains sees the weights of one step, never a mixture.

    All weights are equal and each step adds one, so a mixture would show in the sum.
    """
    x = gc.observed("x", (64, 256))
    w = [gc.parameter(np.ones((256, 256), np.float32)).named(f"w{n}") for n in range(3)]
    step = gc.compile([], (), {p: p + 1.0 for p in w})
    predict = gc.compile([x], [(x @ p).sum() / 256.0 for p in w])
    one = np.zeros((64, 256), np.float32)
    one[0, 0] = 1.0
    seen: set[float] = set()
    done = False

    def train() -> None:
        nonlocal done
        for _ in range(200):
            step()
        done = True

    def look() -> None:
        last = False
        while not last:  # once more after the last step, however the threads were scheduled
            last = done
            a, b, c = (float(v) for v in predict(one))
            assert a == b == c == round(a)
            seen.add(a)

    _together(train, look, look)
    assert predict(one)[0] == 201
    assert 201 in seen


def test_two_threads_train_one_network() -> None:
    """Steps do not interleave: the counter counts all of them, and all losses are finite."""
    run = training()
    twin = training()
    x, y = data(16)
    run.step(x, y)
    first = run.optimizer.steps

    def train() -> None:
        for _ in range(50):
            assert np.isfinite(run.step(x, y))

    _together(train, train, train)
    assert run.optimizer.steps == first + 150
    for _ in range(151):
        twin.step(x, y)
    for a, b in zip(run.step.states, twin.step.states, strict=True):
        assert bits(a.numpy()) == bits(b.numpy()), "the order of equal steps does not matter"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_in_the_middle_of_training() -> None:
    """The child trains on with its own copy; the parent is as if nothing had happened."""
    run, twin = training(seed=4), training(seed=4)
    for seed in range(2):
        run.step(*data(8, seed))
        twin.step(*data(8, seed))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            digest = bits(run.step(*data(8, 2))) + bits(run.step(*data(5, 3)))  # compiles too
            os.write(writing, digest)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(reading, "rb") as pipe:
        from_child = pipe.read()
    assert [bits(c.numpy()) for c in run.step.states] == [
        bits(c.numpy()) for c in twin.step.states
    ], "the child's steps are its own"
    assert bits(run.step(*data(8, 2))) + bits(run.step(*data(5, 3))) == from_child


# ---- Ctrl-C


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _long_training() -> tuple[gc.Executable, optim.Optimizer, list[Array]]:
    """A step that takes seconds: a scan of many small products, and Adam on its weight."""
    xs, w = gc.observed("xs", (16,)), gc.parameter(np.eye(48, dtype=np.float32) * 0.5).named("w")

    def inner(carry: gc.Value, _: None) -> tuple[gc.Value, None]:
        return ops.tanh(carry @ w), None

    carry, _ = gc.scan(inner, ops.zeros((48, 48)) + xs.sum(), length=300_000)
    loss = (carry * carry).sum()
    optimizer = optim.Adam(lr=0.1)
    updates = optimizer.updates([w], [carry * 0.0 + 1.0])
    return gc.compile([xs], loss, updates), optimizer, [np.ones(16, np.float32)]


def test_ctrl_c_ends_a_step_and_changes_no_state() -> None:
    step, optimizer, arrays = _long_training()
    before = contents(step)
    for delay in (0.05, 0.2):
        begin = time.perf_counter()
        with pytest.raises(KeyboardInterrupt), _interrupted_after(delay):
            step(*arrays)
        assert time.perf_counter() - begin < 3
        assert contents(step) == before
        assert optimizer.steps == 0


def test_ctrl_c_between_short_steps_leaves_whole_steps() -> None:
    """Wherever the signal comes, the states are those of the number of steps that were counted."""
    run, twin = training(seed=3), training(seed=3)
    x, y = data(16)
    for one in (run, twin):
        one.step(x, y)
    calls = 1
    for delay in (0.01, 0.023, 0.037):
        try:
            with _interrupted_after(delay):
                end = time.monotonic() + 10
                while time.monotonic() < end:
                    run.step(x, y)
                    calls += 1
                pytest.fail("the signal never came")
        except KeyboardInterrupt:
            pass
        steps = run.optimizer.steps
        assert steps in (calls, calls + 1), "a step whose return was interrupted may count"
        calls = steps
    for _ in range(calls - 1):
        twin.step(x, y)
    for a, b in zip(run.step.states, twin.step.states, strict=True):
        assert bits(a.numpy()) == bits(b.numpy())


def test_the_pool_is_as_large_as_asked() -> None:
    """Guards the thread test above: a pool that ignored the setting would pass it."""
    assert (
        _run(
            "from graphc.backends.llvm.native import native; print(native().pool.threads)",
            GRAPHC_THREADS="3",
        ).strip()
        == "3"
    )
    assert native().pool.threads >= 1


def test_random_numbers_do_not_hang_on_what_else_is_compiled() -> None:
    """Dropout's bits for one seed and step are the same in a larger program."""
    x = gc.observed("x", (8, FEATURES))

    def dropped(extra: bool) -> Array:
        gc.manual_seed(8)
        layer = nn.Dropout(0.5).named("drop")
        out = layer(x)
        outputs = [out, ops.tanh(x @ x.T)] if extra else [out]
        f = gc.compile([x], outputs, mode="train")
        return f(np.ones((8, FEATURES), np.float32))[0]

    assert bits(dropped(False)) == bits(dropped(True))
