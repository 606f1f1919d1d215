"""Donated arguments on the device: what lies in their memory, that it is right, what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import ops
from tests.gpu.place import Foreign, Rehearsal
from tests.passes.programs import program

ROWS, WIDTH = 6, 40


def given(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cache_of() -> tuple[list[gc.Value], Any]:
    cache, row = gc.observed("cache", (ROWS, WIDTH)), gc.observed("row", (1, WIDTH))
    at = gc.observed("at", (), gc.int64)
    new = ops.dynamic_update(cache, row, (at, 0)).named("new")
    return [cache, row, at], [new, new.sum()]


@pytest.mark.parametrize("wrap", [Foreign, lambda a: a], ids=["foreign", "ours"])
def test_a_cache_is_written_where_it_lies(device: Any, wrap: Any) -> None:
    inputs, outputs = cache_of()
    run = gc.compile(inputs, outputs, donate=inputs[:1], backend="triton")
    assert run.memory.reused == {"new": 4 * ROWS * WIDTH}
    plain = given(ROWS, WIDTH)
    sent = Rehearsal.sent(Rehearsal(), plain).inner
    address, held, wanted = sent.address, wrap(sent), plain.copy()
    del sent
    for step in range(ROWS):
        wanted[step] = line = given(1, WIDTH, seed=step)
        before, blocks = held, len(device.blocks)
        result, total = run(held, line, np.int64(step))
        assert result.address == address
        assert step < 2 or len(device.blocks) == blocks, "the pool's memory serves sums alone"
        np.testing.assert_array_equal(result.numpy(), wanted)
        np.testing.assert_allclose(float(total), wanted.sum(), rtol=1e-4)
        with pytest.raises(gc.BindError, match="'cache' was donated to an earlier call"):
            run(before, line, np.int64(step))
        held = wrap(result)
        del before, result
    np.testing.assert_array_equal(np.asarray(getattr(held, "inner", held)), wanted)


def test_memory_of_ours_goes_back_to_the_pool_once(device: Any) -> None:
    x = gc.observed("x", (64,))
    run = gc.compile([x], x + 1.0, donate=[x], backend="triton")
    held = gc.compile([x], x * 2.0, backend="triton")(np.ones(64, np.float32))
    address, pool = held.address, held._pool
    for _ in range(4):
        held = run(held)
    assert held.numpy()[0] == 6.0
    assert held._given.owner._given is None, "the array that was made, no chain of results"
    assert address not in itertools.chain(*pool._free.values())
    del held, run  # which keeps what its last call reads until that is done
    assert [*itertools.chain(*pool._free.values())].count(address) == 1


def test_arrays_of_the_host_are_given_away_and_stay(device: Any) -> None:
    inputs, outputs = cache_of()
    run = gc.compile(inputs, outputs, donate=inputs[:1], backend="triton")
    cache, line = given(ROWS, WIDTH), given(1, WIDTH, seed=1)
    kept = cache.copy()
    result, _ = run(cache, line, 2)
    np.testing.assert_array_equal(result.numpy()[2], line[0])
    np.testing.assert_array_equal(cache, kept)
    with pytest.raises(gc.BindError, match="'cache' was donated to an earlier call"):
        run(cache, line, 2)


def test_intermediate_results_lie_in_an_argument(device: Any) -> None:
    x, w = gc.observed("x", (32, 32)), gc.observed("w", (32, 32))
    h = x
    for _ in range(3):
        h = ops.tanh(h @ w)
    plain = gc.compile([x, w], h.sum(), backend="triton")
    run = gc.compile([x, w], h.sum(), donate=[x], backend="triton")
    placed = [b for b in run.schedule.buffers if b.place == "x"]
    binding = run._current.loaded._current
    assert placed
    assert binding.schedule.arena_bytes < plain._current.loaded._current.schedule.arena_bytes
    a, b = given(32, 32), given(32, 32, seed=1) / 8
    wanted = float(plain(a, b))
    sent = Rehearsal().sent(a)
    assert float(run(sent, b)) == wanted
    assert {binding.addresses[b.name] for b in placed} == {sent.inner.address}
    assert not np.array_equal(sent.inner.numpy(), a), "its memory was used"
    other = Rehearsal().sent(a)
    with pytest.raises(gc.BindError, match="'x' is donated, and 'w' lies in its memory"):
        run(other, Foreign(other.inner))


@pytest.mark.parametrize("specialize", [True, False])
def test_run_time_sizes_and_loops(device: Any, specialize: bool) -> None:
    n = gc.Dim("N", specialize=specialize)
    x, w = gc.observed("x", (n, 3)), gc.observed("w", (3, 3))
    last, ys = gc.scan(lambda c, row: (c + row @ w, c), ops.zeros((3,)), x)
    run = gc.compile([x, w], [last, ys], donate=[x], backend="triton")
    plain = gc.compile([x, w], [last, ys], backend="triton")
    for size in (1, 5, 2):
        a, w_ = given(size, 3), given(3, 3, seed=1)
        for got, wanted in zip(run(Rehearsal().sent(a), w_), plain(a, w_), strict=True):
            np.testing.assert_array_equal(got.numpy(), wanted.numpy())


@pytest.mark.parametrize(
    "seed", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 24))]
)
def test_random_programs_compute_the_same(device: Any, seed: int) -> None:
    inputs, outputs = program(seed, 4, 14)
    plain = gc.compile(inputs, outputs, unused="ignore", backend="triton")
    run = gc.compile(inputs, outputs, donate=inputs, unused="ignore", backend="triton")
    arrays = [given(*(int(e) for e in x.shape), seed=seed) for x in inputs]
    wanted = plain(*arrays)
    for got, other in zip(run(*map(Rehearsal().sent, arrays)), wanted, strict=True):
        np.testing.assert_array_equal(got.numpy(), other.numpy())


def test_a_profile_runs_on_the_arguments_that_were_given(device: Any, monkeypatch: Any) -> None:
    x, at = gc.observed("x", (4,), gc.int64), gc.observed("at", (4,), gc.int64)
    out = ops.take(at, x, axis=0) + x + 4  # given again as x, it would be outside
    run = gc.compile([x, at], out, donate=[x], backend="triton")
    assert run.schedule.outputs[0].place == "x"
    a, b = np.int64([3, 2, 1, 0]), np.int64([5, 6, 7, 8])
    sent, seen = Rehearsal().sent(a), []
    loaded = run._current.loaded
    timed = loaded._timed

    def looking(runs: Any) -> Any:
        binding = loaded._current
        assert not binding.read_word(binding.error)
        found = np.empty(4, np.int64)
        device.copy_out(found.ctypes.data, binding.addresses["x"], 32)
        seen.append(found)
        return timed(runs)

    monkeypatch.setattr(loaded, "_timed", looking)
    profile = run.profile(sent, b)
    np.testing.assert_array_equal(profile.result.numpy(), b[a] + a + 4)
    np.testing.assert_array_equal(seen[0], a)


def test_what_cannot_be_taken_is_refused(device: Any) -> None:
    x, y = gc.observed("x", (4, 4)), gc.observed("y", (4, 4))
    run = gc.compile([x, y], x * 2.0 + y, donate=[x], backend="triton")
    sent = Rehearsal().sent(given(4, 4))
    with pytest.raises(gc.BindError, match="'x' is donated, and 'y' is the same array"):
        run(sent, sent)
    with pytest.raises(gc.BindError, match="'x' is donated, and 'y' lies in its memory"):
        run(sent, Foreign(sent.inner))
    with pytest.raises(gc.BindError, match="out= and donate= both say"):
        run(sent, sent, out=np.empty((4, 4), np.float32))
    np.testing.assert_array_equal(sent.inner.numpy(), given(4, 4))
    wanted = given(4, 4) * 2 + given(4, 4, seed=1)
    np.testing.assert_allclose(run(sent, given(4, 4, seed=1)).numpy(), wanted, rtol=1e-6)


def test_a_call_that_fails_midway_has_taken_its_argument(device: Any) -> None:
    x, at = gc.observed("x", (4,)), gc.observed("at", (4,), gc.int64)
    run = gc.compile([x, at], ops.take(x * 2.0, at, axis=0), donate=[x], backend="triton")
    sent = Rehearsal().sent(given(4))
    with pytest.raises(gc.RuntimeCheckError):
        run(sent, np.int64([0, 1, 2, 9]))
    with pytest.raises(gc.BindError, match="'x' was donated to an earlier call"):
        run(sent, np.int64([0, 1, 2, 3]))


def test_an_export_leaves_what_it_is_given(device: Any, tmp_path: Any) -> None:
    x = gc.observed("x", (64,))
    gc.compile([x], x + 1.0, donate=[x], target="sm_90").save(tmp_path / "made")
    exported = gc.load_executable(tmp_path / "made", trust=True)
    sent = Rehearsal().sent(np.ones(64, np.float32))
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(exported(sent)), 2.0)
    np.testing.assert_array_equal(sent.inner.numpy(), 1.0)
