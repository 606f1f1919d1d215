"""Kept results in machine code: every way in which a state can change is seen, by every program
over it, in threads and forks; and what is kept has the bits of what is made at each call.
"""

from __future__ import annotations

import ctypes
import gc as garbage
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.backends.llvm import kept, walker
from graphc.memory import StateBuffer
from graphc.types import TensorType, float32

WIDTH = 64
Array = np.ndarray[Any, Any]


def _given(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _network(rows: int = 64) -> tuple[nn.Linear, gc.Value, gc.Executable]:
    net, x = nn.Linear(WIDTH, WIDTH), gc.observed("x", (rows, WIDTH))
    return net, x, gc.compile([x], net(x), backend="llvm")


def _kept(run: gc.Executable) -> list[kept.Kept]:
    found: list[kept.Kept] = run._latest().loaded._kept  # type: ignore[attr-defined]
    assert found
    return found


def _check(net: nn.Linear, run: gc.Executable, rows: int = 64) -> None:
    """The results are those of the parameters of now, in float64."""
    given = _given(rows, WIDTH)
    state = {name: a.astype(np.float64) for name, a in net.state_dict().items()}
    wanted = given.astype(np.float64) @ state["weight"].T + state["bias"]
    np.testing.assert_allclose(run(given), wanted, rtol=2e-5, atol=2e-5)


def _forget(run: gc.Executable) -> None:
    """Have everything made anew by the next call, from memory that holds NaN until then."""
    for one in _kept(run):
        one.shared.record[8 + walker.SOURCE.index["made"] :: walker.SOURCE.stride] = -1
        for array in one.arrays.values():
            array[...] = np.nan


def test_what_is_kept_is_read_and_has_the_same_bits() -> None:
    _, _, run = _network()
    given = _given(64, WIDTH)
    first = run(given)
    (array,) = _kept(run)[0].arrays.values()
    before = array.copy()
    second = run(given)
    _forget(run)
    third = run(given)
    assert first.tobytes() == second.tobytes() == third.tobytes()
    assert array.tobytes() == before.tobytes()
    array[...] = 0.0  # nobody made it anew: the bias alone is left
    assert not np.array_equal(run(given), first)


def test_the_same_bits_as_packed_at_each_call() -> None:
    rows = 512  # enough for a product of one call to pack its weight
    net, x, run = _network(rows)
    each = gc.compile([x], net(x), backend="llvm", memory_budget=1 << 30)
    assert not each.memory.kept
    assert any("pack" in k.name for k in each.schedule.kernels)
    given = _given(rows, WIDTH)
    for seed in range(2):
        net.load_state_dict({"weight": _given(WIDTH, WIDTH, seed=seed), "bias": _given(WIDTH)})
        assert run(given).tobytes() == run(given).tobytes() == each(given).tobytes()


def test_values_that_are_set_and_loaded_and_restored(tmp_path: Path) -> None:
    net, _, run = _network()
    _check(net, run)
    gc.save(tmp_path / "net.safetensors", net=net)
    net.load_state_dict({"weight": _given(WIDTH, WIDTH, seed=3), "bias": _given(WIDTH, seed=4)})
    _check(net, run)
    cell = net.weight.node.attrs["state"]
    cell.set(_given(WIDTH, WIDTH, seed=5))
    _check(net, run)
    gc.restore(tmp_path / "net.safetensors", net=net)
    _check(net, run)


def test_writes_in_place() -> None:
    net, _, run = _network()
    _check(net, run)
    buffer = net.weight.node.attrs["state"].buffer
    with buffer.writing() as array:
        array *= 2.0
    _check(net, run)
    with pytest.raises(KeyError):
        _write_half(buffer)
    _check(net, run)


def _write_half(buffer: StateBuffer) -> None:
    with buffer.writing() as array:
        array[0] = 7.0
        raise KeyError


def test_a_write_that_raises_is_a_new_version() -> None:
    state = StateBuffer(TensorType(float32, (2,)))
    with pytest.raises(KeyError), state.writing():
        raise KeyError
    assert state.version == 1


def test_another_program_trains() -> None:
    net, x, run = _network()
    loss = (net(x) ** 2.0).mean()
    step = gc.compile([x], loss, optim.SGD(lr=0.5).minimize(loss), backend="llvm")
    for seed in range(3):
        _check(net, run)
        step(_given(64, WIDTH, seed=seed))
        _check(net, run)


def test_a_failed_update_leaves_it_as_it_is() -> None:
    net, _, run = _network()
    weight = net.weight
    at, row = gc.observed("at", (1,), gc.int64), gc.observed("row", (1, WIDTH))
    put = gc.compile([at, row], [], {weight: weight.at[at].set(row)}, backend="llvm")
    _check(net, run)
    version = weight.node.attrs["state"].version
    with pytest.raises(gc.RuntimeCheckError):
        put(np.array([WIDTH + 5]), _given(1, WIDTH))
    assert weight.node.attrs["state"].version == version
    _check(net, run)
    put(np.array([3]), _given(1, WIDTH))
    _check(net, run)


def test_programs_share_what_is_the_same() -> None:
    net, x, run = _network()
    rows = gc.Dim("B")
    other = gc.observed("other", (rows, WIDTH))
    many = gc.compile([other], ops.tanh(net(other)), backend="llvm")
    _check(net, run)
    (own,) = _kept(run)
    for count in (50, 96):
        many(_given(count, WIDTH))
        assert _kept(many)[0].shared is own.shared
        ran = {t.name for t in many.profile(_given(count, WIDTH)).launches}
        assert not any("pack" in name for name in ran)
    again = nn.Linear(WIDTH, WIDTH)
    another = gc.compile([x], again(x), backend="llvm")
    assert _kept(another)[0].shared is not own.shared


def test_memory_goes_with_the_last_program() -> None:
    garbage.collect()
    before = len(kept._all)
    net, _, run = _network()
    _check(net, run)
    assert len(kept._all) == before + 1
    del run
    garbage.collect()
    assert len(kept._all) == before


def test_nothing_ends_a_call_in_the_middle_of_a_renewal() -> None:
    """No poll stands between the two instructions, and the versions come after all launches."""
    net = nn.Linear(512, 512)
    x = gc.observed("x", (256, 512))
    run = gc.compile([x], net(x), backend="llvm")
    table = run._latest().loaded._current.table  # type: ignore[attr-defined]
    ops_ = _instructions(table.words)
    assert walker.POLL in ops_
    first, last = ops_.index(walker.RENEW), ops_.index(walker.KEPT)
    assert ops_[first : last + 1] == [walker.RENEW, walker.PHASE, walker.KEPT]


def _instructions(words: Any) -> list[int]:
    """The operations of a table, its phases' chunks left out."""
    start, at, found = words.ctypes.data, 0, []
    while True:
        found.append(int(words[at]))
        if found[-1] == walker.END:
            return found
        at = (int(words[at + 3]) - start) // 8 if found[-1] == walker.PHASE else at + 4


def test_threads_see_whole_versions() -> None:
    """Two programs share a packed weight that a third thread writes meanwhile: each result is that
    of one version.
    """
    net, _, run = _network()
    rows = gc.observed("rows", (48, WIDTH))
    second = gc.compile([rows], net(rows) * 1.0, backend="llvm")
    cell = net.weight.node.attrs["state"]
    bias = net.bias.node.attrs["state"]
    bias.set(np.zeros(WIDTH, np.float32))
    base, done, wrong = _given(WIDTH, WIDTH, seed=1), threading.Event(), []
    cell.set(base)
    calls = [(run, _given(64, WIDTH)), (second, _given(48, WIDTH))]
    once = [program(given) for program, given in calls]

    def call(n: int) -> None:
        program, given = calls[n]
        while not done.is_set():
            found = program(given)
            scale = found[0, 0] / once[n][0, 0]  # powers of two scale exactly
            if scale not in (1.0, 2.0) or not np.array_equal(found, once[n] * scale):
                wrong.append((n, float(scale)))

    threads = [threading.Thread(target=call, args=(n % 2,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(300):
        cell.set(base * np.float32(1 + turn % 2))
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_fork_in_the_middle_of_making_it() -> None:
    net, _, run = _network()
    _check(net, run)
    (own,) = _kept(run)
    _forget(run)  # as a thread of the parent leaves it: locked, half made, of an older version
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(ctypes.c_void_p(own.address))
    child = os.fork()
    if child == 0:
        try:
            _check(net, run)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    libc.pthread_mutex_unlock(ctypes.c_void_p(own.address))
    _check(net, run)


def test_a_child_that_changes_a_state_changes_its_own() -> None:
    net, _, run = _network()
    _check(net, run)
    child = os.fork()
    if child == 0:
        try:
            net.load_state_dict({"weight": _given(WIDTH, WIDTH, seed=9), "bias": _given(WIDTH)})
            _check(net, run)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    _check(net, run)


def test_constants_count() -> None:
    """Two programs that differ in a constant alone do not share."""
    weight = gc.parameter(_given(WIDTH, WIDTH)).named("weight")
    x = gc.observed("x", (64, WIDTH))
    scales = [np.linspace(1, n, WIDTH * WIDTH, dtype=np.float32) for n in (2, 3)]
    runs = [
        gc.compile([x], x @ (weight * s.reshape(WIDTH, WIDTH)).T, backend="llvm") for s in scales
    ]
    given, w = _given(64, WIDTH), weight.node.attrs["state"].numpy().astype(np.float64)
    for run, scale in zip(runs, scales, strict=True):
        wanted = given.astype(np.float64) @ (w * scale.reshape(WIDTH, WIDTH)).T
        np.testing.assert_allclose(run(given), wanted, rtol=2e-4, atol=2e-4)
    assert _kept(runs[0])[0].shared is not _kept(runs[1])[0].shared
