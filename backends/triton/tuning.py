"""Tilings measured on the device: a few for each kernel, the fastest kept on disk.

::

    variants of the chosen tiling  ->  compile  ->  the same bits?  ->  time  ->  the fastest

What is measured is decided by the cost model (``choose_tiling`` and its ``variants``), so without
measuring the choice is the model's first and the same everywhere. A result is kept under the
kernel's text, the device's name and the versions that made the code: measured once, used from then
on. Only what gives the model's bits competes, unless the caller is ``free`` of that.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.backends.cache import Cache, default_cache, key_of
from graphc.backends.triton.candidates import variants
from graphc.backends.triton.compiler import CompiledKernel, Job, compile_kernels
from graphc.backends.triton.driver import Driver, Function, Parameters
from graphc.backends.triton.emit import CHECK_LIMIT
from graphc.backends.triton.holdings import Holdings
from graphc.backends.triton.jobs import Key
from graphc.backends.triton.prepare import prepare
from graphc.backends.triton.tiling import GpuTiling, choose_tiling
from graphc.backends.triton.toolchain import Target, triton_version
from graphc.kernel.terms import Kernel
from graphc.kernel.text import print_kernel
from graphc.memory import address_of
from graphc.types import DType

__all__ = ["tuned_jobs"]

#: rounds over all candidates, and launches of each in a round
_ROUNDS, _LAUNCHES = 5, 10
#: a candidate must be faster by this factor, so that noise does not choose
_MARGIN = 1.02


def tuned_jobs(
    jobs: Mapping[Key, Job], device: Driver, target: Target, *, free: bool,
    cache: Cache | None = None,
) -> dict[Key, Job]:
    """The jobs with the fastest tilings. Kernels of run-time sizes keep the model's choice."""
    found = cache or default_cache()
    return {key: _tuned(job, device, target, free, found) for key, job in jobs.items()}


def _tuned(job: Job, device: Driver, target: Target, free: bool, cache: Cache) -> Job:
    if job.tiling is not None or job.kernel.sizes:
        return job
    kernel = prepare(job.kernel)
    tilings = variants(choose_tiling(kernel, job.precision))
    listed = [replace(job, kernel=kernel, tiling=tiling) for tiling in tilings]
    key = key_of(
        "tuning", print_kernel(kernel), job.precision, str(job.guarded), str(free), device.name,
        target.name, str(triton_version()), *map(str, tilings),
    )  # fmt: skip

    def measure() -> bytes:
        return json.dumps(_measured(listed, device, target, free)).encode()

    return listed[_choice(json.loads(cache.get(key, measure)), len(listed))]


def _choice(times: Sequence[float | None], count: int) -> int:
    """The number of the fastest; None is a candidate that did not compete."""
    assert len(times) == count
    first = times[0]
    ranked = [(time, n) for n, time in enumerate(times) if time is not None]
    best, number = min(ranked)
    return number if first is None or best * _MARGIN < first else 0


def _measured(
    jobs: Sequence[Job], device: Driver, target: Target, free: bool
) -> list[float | None]:
    """Nanoseconds of a launch for each candidate; None for those that round otherwise."""
    made = compile_kernels(jobs, target)
    with _Bench(jobs[0].kernel, device) as bench:
        wanted = bench.results(made[0])
        competing = [
            n for n, one in enumerate(made)
            if n == 0 or (
                _keeps(one, jobs[n].tiling) and (free or bench.results(one) == wanted)
            )
        ]  # fmt: skip
        times: dict[int, list[float]] = {n: [] for n in competing}
        for _ in range(_ROUNDS):
            for n in competing:
                times[n].append(bench.time(made[n]))
    return [statistics.median(times[n]) if n in times else None for n in range(len(made))]


def _keeps(made: CompiledKernel, tiling: GpuTiling | None) -> bool:
    """Whether it was compiled as asked: what spills is no candidate."""
    return str(made.tiling) == str(tiling)


class _Bench:
    """A kernel's tensors on the device, with inputs that do not depend on chance."""

    def __init__(self, kernel: Kernel, device: Driver) -> None:
        self.kernel, self.device = kernel, device
        self.label = f"tuning kernel {kernel.name}"
        self.holdings = Holdings(device)
        self.functions: dict[int, Function] = {}

    def __enter__(self) -> _Bench:
        generator = np.random.default_rng(0)
        words = []
        for tensor in self.kernel.inputs:
            shape = tuple(e for e in tensor.type.shape if isinstance(e, int))
            words.append(self._sent(_values(generator, shape, tensor.type.dtype)))
        self.outputs = [(self._new(_bytes(t.type.nbytes)), _bytes(t.type.nbytes))
                        for t in self.kernel.outputs]
        words += [address for address, _ in self.outputs]
        for scalar in self.kernel.scalars:
            words.append(self._sent(_values(generator, (), scalar.dtype)))
        self.words = [*words, self._new(8), CHECK_LIMIT, self._new(8)]  # error, id, guard
        return self

    def __exit__(self, *_: object) -> None:
        self.holdings.give_back()

    def _new(self, nbytes: int) -> int:
        return self.holdings.allocate(nbytes, self.label)

    def _sent(self, array: NDArray[Any]) -> int:
        address = self._new(array.nbytes)
        self.device.copy_in(address, address_of(array), array.nbytes)
        self.device.synchronize(self.label)
        return address

    def _run(self, made: CompiledKernel) -> None:
        arguments = len(made.emitted.arguments)
        padding = [0] * (len(made.code.parameters) - arguments)
        if id(made) not in self.functions:
            self.functions[id(made)] = self.holdings.load(made)
        grid = made.emitted.grid
        assert isinstance(grid, int)
        parameters = Parameters(self.words[:arguments] + padding)
        self.device.launch(self.functions[id(made)], grid, parameters, self.label)

    def results(self, made: CompiledKernel) -> list[bytes]:
        """What it writes, as bytes."""
        for address, nbytes in self.outputs:
            self.device.clear(address, nbytes)
        self._run(made)
        found = [np.empty(nbytes, np.uint8) for _, nbytes in self.outputs]
        for array, (address, nbytes) in zip(found, self.outputs, strict=True):
            self.device.copy_out(address_of(array), address, nbytes)
        self.device.synchronize(self.label)
        return [array.tobytes() for array in found]

    def time(self, made: CompiledKernel) -> float:
        """Nanoseconds of a launch, in the mean of a few."""
        events = [self.device.record()]
        try:
            for _ in range(_LAUNCHES):
                self._run(made)
            events.append(self.device.record())
            self.device.synchronize(self.label)
            return self.device.nanoseconds(*events) / _LAUNCHES
        finally:
            self.device.forget(events)


def _bytes(nbytes: object) -> int:
    assert isinstance(nbytes, int)  # kernels of run-time sizes are not measured
    return nbytes


def _values(generator: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> NDArray[Any]:
    """Numbers around 0 for floats; zeros for integers, which may be indices."""
    if dtype.is_float:
        return np.asarray(generator.standard_normal(shape)).astype(dtype.numpy)
    return np.zeros(shape, dtype.numpy)
