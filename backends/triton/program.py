"""Programs on the device: a schedule and its compiled kernels, loaded and callable.

A call stages NumPy arguments through pinned memory, reads device arrays where they lie, launches
the schedule's graphs, and returns device arrays that these wrote. States stay on the device: they
are sent there when the host's copy is newer, and fetched when the host reads them. Where the
schedule has checks the call waits for the error word; else it returns at once. Everything runs in
the order of one stream; calls from several threads take turns.
"""

from __future__ import annotations

import collections
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.backend import Plan
from graphc.backends.triton.array import Array, Pool, Shared, is_device_array, take
from graphc.backends.triton.binding import Binding, bytes_of
from graphc.backends.triton.compiler import CompiledKernel, compile_kernels
from graphc.backends.triton.context import LARGEST, most_elements
from graphc.backends.triton.control import described
from graphc.backends.triton.driver import Driver, Function
from graphc.backends.triton.emit import CHECK_LIMIT
from graphc.backends.triton.holdings import Holdings
from graphc.backends.triton.inspection import Inspected
from graphc.backends.triton.jobs import Key, Launching, jobs_of, key_of_part, parts_of, scratch_of
from graphc.backends.triton.moving import KernelRun
from graphc.backends.triton.states import device_state
from graphc.backends.triton.steps import Loaded, kernel_runs
from graphc.backends.triton.tiling import GpuTiling
from graphc.backends.triton.toolchain import Target
from graphc.backends.triton.tuning import tuned_jobs
from graphc.bind import Parameter, bind_arguments
from graphc.errors import BackendError, BindError, RuntimeCheckError
from graphc.memory import StateBuffer, StateLocks, address_of
from graphc.records import dataclass
from graphc.schedule import Buffer, Schedule, bind_sizes, place_buffers
from graphc.types import TensorType

__all__ = ["Program", "TimedLaunch"]

#: choices of run-time sizes whose memory and graphs are kept
MAX_BINDINGS = 16


@dataclass(frozen=True)
class TimedLaunch:
    """When a launch ran on the device; nanoseconds since the first one began."""

    statement: Launching
    begin: int
    end: int
    worker: int


class Program(Inspected):
    """A loaded schedule; ``call`` takes NumPy or device arrays and gives device arrays."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        states: Mapping[str, StateBuffer],
        constants: Mapping[str, NDArray[Any]],
        driver: Driver,
        target: Target,
        plan: Plan | None = None,
        slow: Callable[..., Any] | None = None,
        precision: str = "ieee",
        tilings: Mapping[str, GpuTiling] | None = None,
        kernels: Mapping[Key, CompiledKernel] | None = None,
        tune: str | None = None,
        taking: bool = True,
    ) -> None:
        """``kernels`` are those of an export; without it they are compiled. ``tune`` measures
        tilings: "same" those that give the same bits, "free" others too. ``taking``: results lie in
        donated arrays of the device where the schedule places them there.
        """
        self.schedule, self.driver, self.target = schedule, driver, target
        self._plan, self._slow, self._taking = plan, slow, taking
        self.holdings = Holdings(driver, self)  # also where what follows fails
        if kernels is None:
            jobs = jobs_of(schedule, precision, tilings)
            if tune is not None:
                jobs = tuned_jobs(jobs, driver, target, free=tune == "free")
            kernels = dict(zip(jobs, compile_kernels(jobs.values(), target), strict=True))
        self.kernels = kernels
        self._functions: dict[Key, Function] = {
            key: self.holdings.load(kernel) for key, kernel in self.kernels.items()
        }
        self._states = sorted(
            ((name, states[name]) for name in (b.name for b in schedule.states)),
            key=lambda pair: pair[1].lock_address,
        )
        self._pool = _pool(driver)
        written = schedule.written_states
        self._locks = StateLocks((b, name in written) for name, b in self._states)
        held = [(b, device_state(b, driver), name in written) for name, b in self._states]
        self._held = held
        self.fixed = {
            name: state.address for (name, _), (_, state, _) in zip(self._states, held, strict=True)
        }
        for buffer in schedule.of_kind("constant"):
            self.fixed[buffer.name] = self._constant(buffer, constants)
        self.parameters = tuple(Parameter(b.name, b.type) for b in schedule.arguments)
        self._bindings: collections.OrderedDict[tuple[int, ...], Binding] = (
            collections.OrderedDict()
        )
        self._current: Binding | None = None
        self._borrowed: list[object] = []
        self._lock = threading.RLock()
        if not schedule.sizes:
            self.rebind({})

    def _constant(self, buffer: Buffer, constants: Mapping[str, NDArray[Any]]) -> int:
        values = np.ascontiguousarray(constants[buffer.name])
        address = self.holdings.allocate(values.nbytes, f"constant {buffer.name}")
        self.driver.copy_in(address, address_of(values), values.nbytes)
        self.driver.synchronize("sending constants")
        return address

    def kernels_of(self, statement: Launching, guarded: bool) -> list[Loaded]:
        """The compiled kernels of a statement, and the buffers each takes."""
        found = []
        for part in parts_of(self.schedule, statement):
            key = key_of_part(self.schedule, statement, part, guarded)
            found.append(
                Loaded(self.kernels[key], self._functions[key], part.kernel,
                       (*part.inputs, *part.outputs), part.launches)
            )
        return found

    # -- sizes
    @property
    def arena_bytes(self) -> int:
        """Bytes that intermediate results take, for the sizes bound last."""
        return self._current.schedule.arena_bytes if self._current else 0

    @property
    def control(self) -> tuple[str, ...]:
        """How loops and branches run, for the sizes bound last, and what the last call copied."""
        binding = self._current
        if binding is None:
            return described(self.schedule)
        copies = (f"{name}: copied on the device, {why}" for name, why in binding.copied.items())
        return (*described(binding.schedule), *copies)

    def rebind(self, sizes: Mapping[str, int]) -> None:
        """Make calls expect these sizes of the run-time dims (by name)."""
        key = tuple(sizes[dim.name] for dim in self.schedule.sizes)
        with self._lock:
            binding = self._bindings.get(key)
            if binding is None:
                bound = bind_sizes(self.schedule, sizes)
                _check_addressed(self.schedule, bound)
                if self._plan is not None:
                    bound = place_buffers(bound, self._plan(bound))
                binding = Binding(
                    bound, self.driver, self.kernels_of, self.fixed,
                    scratch_of(self.schedule, bound),
                )  # fmt: skip
                self._bindings[key] = binding
                self.holdings.contain(binding.holdings)
            self._bindings.move_to_end(key)
            self._current = binding
            while len(self._bindings) > MAX_BINDINGS:
                self._bindings.popitem(last=False)

    # -- calls
    def call(self, *args: Any, **by_name: Any) -> Any:
        """Arrays in; a device array, a tuple of them, or None."""
        with self._lock:
            binding = self._current
            fits = binding is not None and not by_name and self._fits(binding, args)
            if binding is not None and fits:
                taken = self._taken(binding, args)
                outputs = [
                    Array(self._pool, b.type, taken.get(b.place)) for b in binding.outputs
                ]
                self._run(binding, args, outputs)
                return _result(outputs)
        return (self._slow or self._call_slowly)(*args, **by_name)

    def _taken(self, binding: Binding, args: Sequence[Any]) -> dict[str | None, Shared]:
        """The donated arrays of the device that are written, by argument. BindError where one
        shares memory with another argument.
        """
        places = {b.place for b in binding.schedule.buffers if b.place is not None}
        if not self._taking or not places:
            return {}
        spans = [
            (buffer.name, shared := take(arg, buffer.name), shared.address + bytes_of(shared.type))
            for buffer, arg in zip(binding.arguments, args, strict=True) if is_device_array(arg)
        ]  # fmt: skip
        for name, shared, end in spans:
            for other, its, its_end in spans:
                apart = end <= its.address or its_end <= shared.address
                if name in places and other != name and not apart:
                    raise BindError(
                        f"{self.schedule.name}: {name!r} is donated, and {other!r} lies in its "
                        "memory: pass a copy of either"
                    )
        return {name: shared for name, shared, _ in spans if name in places}

    def _fits(self, binding: Binding, args: Sequence[Any]) -> bool:
        expected = binding.arguments
        return len(args) == len(expected) and all(
            _is_exact(arg, buffer.type) for arg, buffer in zip(args, expected, strict=True)
        )

    def _call_slowly(self, *args: object, **by_name: object) -> Any:
        arrays, sizes = bind_arguments(
            self.parameters, args, by_name, who=self.schedule.name, on_device=_on_device
        )
        self.rebind({dim.name: size for dim, size in sizes.items()})
        return self.call(*arrays)

    def _run(
        self, binding: Binding, args: Sequence[Any], outputs: Sequence[Array]
    ) -> None:
        """Arguments in, graphs, error word; states are locked meanwhile."""
        with self._locks:
            for buffer, state, _ in self._held:
                if state.version != buffer.version:
                    state.send(buffer)
            self._place(binding, args, outputs)
            self.driver.clear(binding.cells, binding.cell_bytes)
            binding.run(binding.steps)
            for made, output in zip(outputs, binding.outputs, strict=True):
                if made.address != binding.addresses[output.name]:
                    self.driver.copy_within(
                        made.address, binding.addresses[output.name], made.nbytes
                    )
            if self._borrowed:
                self.driver.lead()
            if self.schedule.checks:
                self._raise_failed(binding)
            for buffer, state, written in self._held:
                if written:
                    state.version = buffer.version + 1  # what leaving makes it
                    buffer.remote = state.fetch

    def _place(self, binding: Binding, args: Sequence[Any], outputs: Sequence[Array]) -> None:
        """Where arguments and results lie: host's are sent, device's are read and written there."""
        if self._borrowed or any(isinstance(a, np.ndarray) for a in args):
            # the last call is done: staging memory and borrowed arrays are free
            self.driver.synchronize("reusing the staging memory")
            self._borrowed.clear()
        binding.copied.clear()
        places = {}
        for arg, buffer in zip(args, binding.arguments, strict=True):
            places[buffer.name] = (
                binding.send(buffer, arg) if isinstance(arg, np.ndarray)
                else self._borrow(binding, buffer, arg)
            )  # fmt: skip
        for made, buffer in zip(outputs, binding.outputs, strict=True):
            if buffer.place is None:
                why = binding.moving.why_copied(buffer.name)
                places[buffer.name] = made.address if why is None else binding.own(buffer)
                if why is not None:
                    binding.copied[buffer.name] = why
        binding.move(places)

    def _borrow(self, binding: Binding, buffer: Buffer, arg: Any) -> int:
        """Where the graphs read an array of the device: where it lies, or a copy of it."""
        shared = take(arg, buffer.name, self.driver.stream)
        self._borrowed.append(shared.owner)
        why = binding.moving.why_copied(buffer.name, shared.address)
        if not self._taking and any(b.place == buffer.name for b in binding.schedule.buffers):
            why = "its memory would be written to"
        if why is None:
            return shared.address
        binding.copied[buffer.name] = why
        own = binding.own(buffer)
        self.driver.copy_within(own, shared.address, bytes_of(buffer.type))
        return own

    def _raise_failed(self, binding: Binding) -> None:
        word = binding.read_word(binding.error)
        if word:
            check = self.schedule.checks[CHECK_LIMIT - word]
            raise RuntimeCheckError(check.message, check.source)

    def call_into(self, args: Sequence[object], outputs: Sequence[NDArray[Any]]) -> None:
        """Call with results written to given arrays of the host."""
        arrays, sizes = bind_arguments(self.parameters, args, who=self.schedule.name)
        self.rebind({dim.name: size for dim, size in sizes.items()})
        made = self.call(*arrays)
        results = made if isinstance(made, tuple) else () if made is None else (made,)
        if len(outputs) != len(results):
            raise BindError(
                f"{self.schedule.name} has {len(results)} outputs, {len(outputs)} were given"
            )
        for target, result in zip(outputs, results, strict=True):
            if target.shape != result.shape or target.dtype != result.dtype:
                raise BindError(
                    f"out: expected {result.dtype}{list(result.shape)}, got "
                    f"{target.dtype}{list(target.shape)}"
                )
            target[...] = result.numpy()

    # -- looking
    def profile(self, *args: object) -> tuple[Any, Sequence[TimedLaunch]]:
        """The result of a call, and the time of each launch, run one after the other."""
        again = [self._copied(arg) if is_device_array(arg) else arg for arg in args]
        result = self.call(*args)
        with self._lock:
            binding = self._current
            assert binding is not None
            spare = [Array(self._pool, b.type) for b in binding.outputs]
            self._place(binding, again, spare)  # results may lie where the arguments were
            runs = kernel_runs(binding.schedule, self.kernels_of, binding.addresses,
                               binding.error, binding.holdings)
            kept = self._kept_states()
            times = self._timed(runs)
            self._put_back(kept)
        return result, tuple(
            TimedLaunch(run.statement, times[n], times[n + 1], 0) for n, run in enumerate(runs)
        )

    def _copied(self, arg: object) -> Array:
        shared = take(arg, "an argument", self.driver.stream)
        made = Array(self._pool, shared.type)
        self.driver.copy_within(made.address, shared.address, made.nbytes)
        self.driver.synchronize("copying an argument")
        return made

    def _timed(self, runs: Sequence[KernelRun]) -> list[int]:
        """Nanoseconds since the first launch began, before each and after the last."""
        events = [self.driver.record()]
        try:
            for run in runs:
                self.driver.launch(run.function, run.grid, run.parameters, run.label)
                events.append(self.driver.record())
            self.driver.synchronize(self.schedule.name)
            return [self.driver.nanoseconds(events[0], e) for e in events]
        finally:
            self.driver.forget(events)

    def _kept_states(self) -> list[tuple[int, int, int]]:
        """Copies of the states that a second run would change: from, to, bytes."""
        kept = []
        for name, buffer in self._states:
            if name in self.schedule.written_states:
                nbytes = buffer.array.nbytes
                copy = self._pool.take(nbytes)
                self.driver.copy_within(copy, self.fixed[name], nbytes)
                kept.append((copy, self.fixed[name], nbytes))
        return kept

    def _put_back(self, kept: Sequence[tuple[int, int, int]]) -> None:
        for copy, target, nbytes in kept:
            self.driver.copy_within(target, copy, nbytes)
            self._pool.give(copy, nbytes)


def _check_addressed(schedule: Schedule, bound: Schedule) -> None:
    """BackendError for buffers larger than the kernels, which know bounds of sizes, count with."""
    bounds = {dim.name: dim.max for dim in schedule.sizes}
    for buffer, sized in zip(schedule.buffers, bound.buffers, strict=True):
        elements = sized.type.elements
        assert isinstance(elements, int)
        if elements > LARGEST and most_elements(buffer.type.shape, bounds) is None:
            raise BackendError(
                f"{schedule.name}: {buffer.name} has {elements:,} elements; kernels of sizes that "
                f"have no bound count up to {LARGEST:,}: give Dim(..., max=)"
            )


def _is_exact(arg: Any, type_: TensorType) -> bool:
    if is_device_array(arg):
        return take(arg, "an argument").type == type_
    return (
        type(arg) is np.ndarray
        and arg.dtype == type_.dtype.numpy
        and arg.shape == type_.shape
        and arg.flags.c_contiguous
    )


def _on_device(value: object) -> TensorType | None:
    return take(value, "an argument").type if is_device_array(value) else None


def _result(outputs: list[Array]) -> Any:
    if not outputs:
        return None
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


_pools: weakref.WeakKeyDictionary[Driver, Pool] = weakref.WeakKeyDictionary()


def _pool(driver: Driver) -> Pool:
    if driver not in _pools:
        _pools[driver] = Pool(driver)
    return _pools[driver]


