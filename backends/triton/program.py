"""Programs on the device: a schedule and its compiled kernels, loaded and callable.

A call stages NumPy arguments through pinned memory (device arrays are copied on the device),
launches the schedule's graphs, and returns device arrays. States stay on the device: they are sent
there when the host's copy is newer, and fetched when the host reads them. Where the schedule has
checks the call waits for the error word; else it returns at once. Everything runs in the order of
one stream; calls from several threads take turns.
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
from graphc.backends.triton.array import Array, Pool, is_device_array, take
from graphc.backends.triton.compiler import CompiledKernel, Job, compile_kernels
from graphc.backends.triton.driver import Driver, Function
from graphc.backends.triton.emit import CHECK_LIMIT
from graphc.backends.triton.routines import routine_kernels
from graphc.backends.triton.steps import (
    Branch,
    Graph,
    Loaded,
    Repeat,
    Step,
    Until,
    build_steps,
    kernel_runs,
)
from graphc.backends.triton.tiling import GpuTiling
from graphc.backends.triton.toolchain import Target, disassemble, resources_of
from graphc.bind import Parameter, bind_arguments
from graphc.errors import BackendError, BindError, RuntimeCheckError
from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Kernel
from graphc.memory import StateBuffer, StateLocks, address_of
from graphc.records import dataclass
from graphc.schedule import (
    Barrier,
    Body,
    Buffer,
    Commit,
    Copy,
    If,
    Launch,
    Loop,
    Schedule,
    While,
    bind_sizes,
)
from graphc.types import TensorType

__all__ = ["Program", "TimedLaunch", "jobs_of"]

MAX_BINDINGS = 16
_CELL = 64
_COPY = """kernel copy
  size N 1..
  axes i:N
  in x {0}[N]
  out y {0}[N]
  a = load x[i]
  store y[i] = a"""


@dataclass(frozen=True)
class TimedLaunch:
    """When a launch ran on the device; nanoseconds since the first one began."""

    statement: Launch | Copy
    begin: int
    end: int
    worker: int


#: a kernel's or routine's name, the number of its part, and whether it is guarded
Key = tuple[str, int, bool]


def jobs_of(
    schedule: Schedule,
    precision: str = "ieee",
    tilings: Mapping[str, GpuTiling] | None = None,
) -> dict[Key, Job]:
    """What to compile: each kernel as it is launched, before the commit or (guarded) after it.

    ``tilings`` by kernel's name replace those that would be chosen.
    """
    given = tilings or {}
    jobs: dict[Key, Job] = {}
    guards = bool(schedule.checks)
    for statement, committed in _placed(schedule.body):
        for n, part in enumerate(parts_of(schedule, statement)):
            key = _key(schedule, statement, n, committed)
            if key not in jobs:
                jobs[key] = Job(
                    part.kernel, committed and guards, precision, given.get(part.kernel.name)
                )
    return jobs


@dataclass(frozen=True)
class Part:
    """One kernel of a launch: several where it launches a routine."""

    kernel: Kernel
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def parts_of(schedule: Schedule, statement: Launch | Copy) -> tuple[Part, ...]:
    """The kernels that a launch or copy runs, one after the other's start."""
    if isinstance(statement, Copy):
        short = schedule.buffer[statement.source].type.dtype.short
        kernel = parse_kernel(_COPY.format(short))
        return (Part(kernel, (statement.source,), (statement.target,)),)
    launched = schedule.launched(statement.kernel)
    if isinstance(launched, Kernel):
        return (Part(launched, statement.inputs, statement.outputs),)
    return tuple(
        Part(kernel, statement.inputs, tuple(statement.outputs[n] for n in written))
        for kernel, written in routine_kernels(launched)
    )


def _key(schedule: Schedule, statement: Launch | Copy, part: int, committed: bool) -> Key:
    if isinstance(statement, Launch):
        name = statement.kernel
    else:
        name = f"copy {schedule.buffer[statement.source].type.dtype.short}"
    return name, part, committed and bool(schedule.checks)


def _placed(body: Body) -> list[tuple[Launch | Copy, bool]]:
    """The launches and copies of a body, and whether they come after the commit."""
    found: list[tuple[Launch | Copy, bool]] = []
    committed = False
    for statement in body:
        match statement:
            case Launch() | Copy():
                found.append((statement, committed))
            case Commit():
                committed = True
            case Loop() | While():
                found += [(s, committed or after) for s, after in _placed(statement.body)]
            case If():
                inner = _placed(statement.then) + _placed(statement.otherwise)
                found += [(s, committed or after) for s, after in inner]
            case Barrier():
                pass
    return found


class _DeviceState:
    """A state's memory on the device, and which version of the host's it holds."""

    def __init__(self, buffer: StateBuffer, driver: Driver) -> None:
        self.buffer, self.driver = weakref.ref(buffer), driver
        self.nbytes = buffer.array.nbytes
        self.address = driver.allocate(self.nbytes, f"state {buffer.type}")
        self.version: int | None = None
        weakref.finalize(buffer, driver.free, self.address)

    def send(self, buffer: StateBuffer) -> None:
        """Bring the host's values. Under the state's lock."""
        self.driver.copy_in(self.address, buffer.address, self.nbytes)
        self.version = buffer.version

    def fetch(self) -> None:
        """Bring the device's values to the host. Under the state's lock."""
        buffer = self.buffer()
        if buffer is not None:
            self.driver.copy_out(buffer.address, self.address, self.nbytes)
            self.driver.synchronize("reading a state")
            buffer.remote = None


_device_states: weakref.WeakKeyDictionary[StateBuffer, _DeviceState] = weakref.WeakKeyDictionary()


def _device_state(buffer: StateBuffer, driver: Driver) -> _DeviceState:
    found = _device_states.get(buffer)
    if found is None or found.driver is not driver:
        found = _device_states[buffer] = _DeviceState(buffer, driver)
    return found


class _Binding:
    """A program's memory and graphs for one choice of sizes."""

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.schedule, self.driver = schedule, program.driver
        self.owned: list[int] = []
        self.addresses = dict(program.fixed)
        arena = self._new(schedule.arena_bytes, "the arena of intermediate results")
        for buffer in schedule.buffers:
            if buffer.kind == "arena":
                self.addresses[buffer.name] = arena + (buffer.offset or 0)
            elif buffer.kind in ("argument", "output"):
                self.addresses[buffer.name] = self._new(_bytes(buffer.type), buffer.name)
        cells = schedule.of_kind("cell")
        self.cells = self._new(_CELL * (len(cells) + 1), "cells")
        self.cell_bytes = _CELL * (len(cells) + 1)
        self.error = self.cells
        for n, buffer in enumerate(cells):
            self.addresses[buffer.name] = self.cells + _CELL * (n + 1)
        self.arguments = schedule.arguments
        self.outputs = schedule.outputs
        self.staging = [self.driver.host_array(_bytes(b.type)) for b in schedule.arguments]
        self.word = self.driver.host_array(8).view(np.int64)
        self.kernels = program.kernels_of
        self.steps = build_steps(schedule, self.kernels, self.addresses, self.error, self.driver)
        weakref.finalize(self, _release, self.driver, tuple(self.owned))

    def _new(self, nbytes: int, what: str) -> int:
        address = self.driver.allocate(nbytes, f"{self.schedule.name}: {what}, {nbytes:,} bytes")
        self.owned.append(address)
        return address

    def read_word(self, address: int, nbytes: int = 8) -> int:
        """A cell's value, once everything before is done."""
        self.word[0] = 0
        self.driver.copy_out(address_of(self.word), address, nbytes)
        self.driver.synchronize(self.schedule.name)
        return int(self.word[0])

    def run(self, steps: Sequence[Step]) -> bool:
        """Run steps; False where a check failed and the host stopped there."""
        for step in steps:
            match step:
                case Graph(handle):
                    self.driver.launch_graph(handle, self.schedule.name)
                case Repeat(counter, length, inner):
                    for i in range(length):
                        self.driver.set_word(counter, i)
                        if not self.run(inner):
                            return False
                    self.driver.set_word(counter, length)
                case Until():
                    if not self.until(step):
                        return False
                case Branch(predicate, then, otherwise):
                    holds = self.read_word(predicate, self._width(predicate)) != 0
                    if not self.run(then if holds else otherwise):
                        return False
        return True

    def until(self, step: Until) -> bool:
        count = 0
        while step.limit is None or count < step.limit:
            if step.counter is not None:
                self.driver.set_word(step.counter, count)
            if self.schedule.checks and self.read_word(self.error):
                return False
            if not self.read_word(step.predicate, self._width(step.predicate)):
                break
            if not self.run(step.steps):
                return False
            count += 1
        if step.counter is not None:
            self.driver.set_word(step.counter, count)
        return True

    def _width(self, address: int) -> int:
        buffer = next(b for b in self.schedule.buffers if self.addresses.get(b.name) == address)
        return buffer.type.dtype.itemsize


def _release(driver: Driver, addresses: Sequence[int]) -> None:
    for address in addresses:
        driver.free(address)


def _bytes(type_: TensorType) -> int:
    nbytes = type_.nbytes
    if not isinstance(nbytes, int):
        raise BackendError(f"{type_} has unbound sizes")
    return nbytes


class Program:
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
    ) -> None:
        self.schedule, self.driver, self.target = schedule, driver, target
        self._plan, self._slow = plan, slow or self._call_slowly
        jobs = jobs_of(schedule, precision, tilings)
        made = compile_kernels(jobs.values(), target)
        self.kernels = dict(zip(jobs, made, strict=True))
        self._functions: dict[Key, Function] = {
            key: driver.load(kernel) for key, kernel in self.kernels.items()
        }
        self._states = sorted(
            ((name, states[name]) for name in (b.name for b in schedule.states)),
            key=lambda pair: pair[1].lock_address,
        )
        self._pool = _pool(driver)
        written = schedule.written_states
        self._locks = StateLocks((b, name in written) for name, b in self._states)
        held = [(b, _device_state(b, driver), name in written) for name, b in self._states]
        self._held = held
        self.fixed = {
            name: state.address for (name, _), (_, state, _) in zip(self._states, held, strict=True)
        }
        for buffer in schedule.of_kind("constant"):
            self.fixed[buffer.name] = self._constant(buffer, constants)
        self.parameters = tuple(Parameter(b.name, b.type) for b in schedule.arguments)
        self._bindings: collections.OrderedDict[tuple[int, ...], _Binding] = (
            collections.OrderedDict()
        )
        self._current: _Binding | None = None
        self._borrowed: list[object] = []
        self._lock = threading.RLock()
        if not schedule.sizes:
            self.rebind({})

    def _constant(self, buffer: Buffer, constants: Mapping[str, NDArray[Any]]) -> int:
        values = np.ascontiguousarray(constants[buffer.name])
        address = self.driver.allocate(values.nbytes, f"constant {buffer.name}")
        self.driver.copy_in(address, address_of(values), values.nbytes)
        self.driver.synchronize("sending constants")
        weakref.finalize(self, self.driver.free, address)
        return address

    def kernels_of(self, statement: Launch | Copy, committed: bool) -> list[Loaded]:
        """The compiled kernels of a launch or copy, and the buffers each takes."""
        found = []
        for n, part in enumerate(parts_of(self.schedule, statement)):
            key = _key(self.schedule, statement, n, committed)
            found.append(
                Loaded(self.kernels[key], self._functions[key], part.kernel,
                       (*part.inputs, *part.outputs))
            )
        return found

    # -- sizes
    @property
    def arena_bytes(self) -> int:
        """Bytes that intermediate results take, for the sizes bound last."""
        return self._current.schedule.arena_bytes if self._current else 0

    def rebind(self, sizes: Mapping[str, int]) -> None:
        """Make calls expect these sizes of the run-time dims (by name)."""
        key = tuple(sizes[dim.name] for dim in self.schedule.sizes)
        with self._lock:
            binding = self._bindings.get(key)
            if binding is None:
                offsets = self._plan(sizes) if self._plan is not None else None
                bound = bind_sizes(self.schedule, sizes, offsets)
                binding = self._bindings[key] = _Binding(self, bound)
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
                self._run(binding, args)
                outputs = [self._output(binding, b) for b in binding.outputs]
                return _result(outputs)
        return self._slow(*args, **by_name)

    def _fits(self, binding: _Binding, args: Sequence[Any]) -> bool:
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

    def _run(self, binding: _Binding, args: Sequence[Any]) -> None:
        """Arguments in, graphs, error word; states are locked meanwhile."""
        with self._locks:
            for buffer, state, _ in self._held:
                if state.version != buffer.version:
                    state.send(buffer)
            self._stage(binding, args)
            self.driver.clear(binding.cells, binding.cell_bytes)
            finished = binding.run(binding.steps)
            if self.schedule.checks or not finished:
                self._raise_failed(binding)
            for buffer, state, written in self._held:
                if written:
                    state.version = buffer.version + 1  # what leaving makes it
                    buffer.remote = state.fetch

    def _stage(self, binding: _Binding, args: Sequence[Any]) -> None:
        driver = self.driver
        if self._borrowed or any(isinstance(a, np.ndarray) for a in args):
            # the last call's copies have been made: staging memory and borrowed arrays are free
            driver.synchronize("reusing the staging memory")
            self._borrowed.clear()
        for arg, buffer, staged in zip(args, binding.arguments, binding.staging, strict=True):
            target, nbytes = binding.addresses[buffer.name], _bytes(buffer.type)
            if isinstance(arg, np.ndarray):
                staged[:nbytes] = arg.reshape(-1).view(np.uint8)
                driver.copy_in(target, address_of(staged), nbytes)
                continue
            shared = take(arg, buffer.name, driver.stream)
            self._borrowed.append(shared.owner)
            driver.copy_within(target, shared.address, nbytes)

    def _raise_failed(self, binding: _Binding) -> None:
        word = binding.read_word(binding.error)
        if word:
            check = self.schedule.checks[CHECK_LIMIT - word]
            raise RuntimeCheckError(check.message, check.source)

    def _output(self, binding: _Binding, buffer: Buffer) -> Array:
        made = Array(self._pool, buffer.type)
        self.driver.copy_within(made.address, binding.addresses[buffer.name], made.nbytes)
        return made

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
        result = self.call(*args)
        with self._lock:
            binding = self._current
            assert binding is not None
            runs = kernel_runs(binding.schedule, binding.kernels, binding.addresses,
                               binding.error, self.driver)
            kept = self._kept_states()
            events = [self.driver.record()]
            for run in runs:
                self.driver.launch(run.function, run.grid, run.parameters, run.label)
                events.append(self.driver.record())
            self.driver.synchronize(self.schedule.name)
            self._put_back(kept)
        times = [self.driver.nanoseconds(events[0], e) for e in events]
        return result, tuple(
            TimedLaunch(run.statement, times[n], times[n + 1], 0) for n, run in enumerate(runs)
        )

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

    def source(self, kernel: str) -> str:
        """The Triton source that a kernel was compiled from."""
        return self._compiled(kernel).emitted.text

    assembly_kinds = ("asm", "sass", "ptx", "ttgir")

    def assembly(self, kernel: str, kind: str = "asm") -> str:
        """A kernel's machine code, to read, or the compiler's texts before it."""
        code = self._compiled(kernel).code
        return disassemble(code, ("-sass",)) if kind in ("asm", "sass") else code.texts[kind]

    def resources(self, kernel: str) -> Mapping[str, int]:
        """Registers of a thread, bytes of its stack, shared memory and threads of a block."""
        return resources_of(self._compiled(kernel).code)

    def _compiled(self, kernel: str) -> CompiledKernel:
        for (name, _, _), compiled in self.kernels.items():
            if name == kernel:
                return compiled
        raise BackendError(f"{self.schedule.name} has no kernel {kernel!r}")


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


