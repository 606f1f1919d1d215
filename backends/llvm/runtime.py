"""Programs: a schedule and its compiled kernels, loaded and callable.

::

    program = Program(schedule, kernels, states={...}, constants={...}, plan=plan_memory)
    program.call(x, y)              # a builtin function: ndarrays in; an ndarray, a tuple or None
    program.call_into([x, y], [out])
    program.rebind({"B": 32})       # done by itself when arguments of other sizes come
    result, events = program.profile(x, y)

``program.call`` takes exactly matching arrays in about a microsecond; other arguments are
converted or refused by ``graphc.bind``, and new sizes of run-time dims get a new table (and memory
plan) but no new code. Calls from several threads take turns; states that programs share are locked
for reading or writing in the order of their addresses.
"""

from __future__ import annotations

import collections
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.backend import Plan
from graphc.backends.llvm import callable as entry
from graphc.backends.llvm import codegen
from graphc.backends.llvm.binding import Binding, CompiledKernel, Parts
from graphc.backends.llvm.callable import HANDLE, LOCK
from graphc.backends.llvm.kept import kept_of
from graphc.backends.llvm.layout import Record
from graphc.backends.llvm.loader import load
from graphc.backends.llvm.native import make_callable, native
from graphc.backends.llvm.table import (
    LoadedKernel,
    Table,
)
from graphc.backends.llvm.tiling import STREAM_BYTES
from graphc.backends.llvm.walker import EVENT
from graphc.bind import Parameter, bind_arguments
from graphc.errors import BackendError, BindError, RuntimeCheckError, StateError
from graphc.memory import StateBuffer, address_of, allocate, empty
from graphc.records import dataclass
from graphc.schedule import Buffer, Copy, Launch, Schedule, bind_sizes, place_buffers, walk

__all__ = ["CompiledKernel", "Program", "TimedLaunch"]

MAX_BINDINGS = 32  # sizes whose tables are kept
_EVENTS = 1 << 16  # launches that one worker can record in one profiled call
_ERRORCHECK = 2  # PTHREAD_MUTEX_ERRORCHECK: the owner gets an error instead of waiting for itself

_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class TimedLaunch:
    """When a worker ran its share of a launch; nanoseconds since the first one began."""

    statement: Launch | Copy
    begin: int
    end: int
    worker: int


class Program:
    """A loaded schedule. ``call`` and ``call_raw_into`` are builtin functions over ndarrays.

    Without run-time dims the sizes are bound at once, else at the first call. ``plan`` gives arena
    offsets for sizes where the schedule has none. ``slow``, if given, replaces the program's own
    treatment of calls that do not match the bound sizes: it gets the call's arguments and answers
    in its place (an executable binds and specializes there).
    """

    def __init__(
        self,
        schedule: Schedule,
        kernels: Mapping[str, CompiledKernel],
        *,
        states: Mapping[str, StateBuffer] | None = None,
        constants: Mapping[str, NDArray[Any]] | None = None,
        plan: Plan | None = None,
        slow: Callable[..., Any] | None = None,
        threads: int | None = None,
    ) -> None:
        self.schedule = schedule
        self.kernels = dict(kernels)
        self._plan = plan
        self._native = native()
        self.threads = threads or self._native.pool.threads
        self.parameters = tuple(Parameter(b.name, b.type) for b in schedule.arguments)
        self._states = {b.name: _state_of(b, states or {}) for b in schedule.states}
        self._constants = {
            b.name: _constant_of(b, constants or {}) for b in schedule.of_kind("constant")
        }
        loaded, self._library = self._load()
        locks, locks_count = self._order_locks()
        addresses = {name: state.address for name, state in self._states.items()}
        addresses |= {name: address_of(a) for name, a in self._constants.items()}
        self._kept = kept_of(schedule, self.kernels, self._states, self._constants)
        for kept in self._kept:
            addresses |= {name: address_of(a) for name, a in kept.arrays.items()}
        self._mutex = _new_mutex()
        self._parts = Parts(
            self.kernels,
            loaded,
            addresses,
            [kept.address for kept in self._kept],
            locks,
            locks_count,
            self._mutex,
            self._fail,
            self.threads,
            self,
        )
        self._arena = allocate(0)
        self._bindings: collections.OrderedDict[tuple[int, ...], Binding] = (
            collections.OrderedDict()
        )
        self._current: Binding | None = None  # what the handle points at
        self._lock = threading.RLock()  # over bindings; taken before the mutex
        self._slow_function = slow or self._call_slowly
        self._handle = Record(HANDLE)
        self._handle[0, "slow"] = id(self._slow_function)
        self._profiling = threading.Lock()
        #: positional ndarrays -> a fresh ndarray, a tuple of them, or None
        self.call = make_callable("graphc_call", self._handle.address, self)
        #: arguments, then arrays for the outputs; they must match exactly and not overlap
        self.call_raw_into = make_callable("graphc_call_into", self._handle.address, self)
        _programs.add(self)
        if not schedule.sizes:
            self.rebind({})

    # -- sizes
    def rebind(self, sizes: Mapping[str, int]) -> None:
        """Make calls expect these sizes of the run-time dims (by name)."""
        self._bind(sizes)

    @property
    def arena_bytes(self) -> int:
        """Bytes that intermediate results take, for the largest sizes bound so far."""
        return len(self._arena)

    def _bind(self, sizes: Mapping[str, int]) -> Binding:
        """The binding for sizes, found or made, as the one that calls expect from now on."""
        key = tuple(sizes[dim.name] for dim in self.schedule.sizes)
        with self._lock:
            binding = self._bindings.get(key)
            if binding is None:
                binding = self._bindings[key] = self._make(sizes)
            self._bindings.move_to_end(key)
            self._handle[0, "program"] = binding.record.address
            self._current = binding
            self._forget_idle_bindings()
        return binding

    def _make(self, sizes: Mapping[str, int]) -> Binding:
        bound = bind_sizes(self.schedule, sizes)
        if self._plan is not None:
            bound = place_buffers(bound, self._plan(bound))
        if bound.arena_bytes > len(self._arena):  # older tables keep the block they point into
            self._arena = allocate(bound.arena_bytes)
        return Binding(self._parts, bound, self._arena)

    def _forget_idle_bindings(self) -> None:
        """Drop the tables used longest ago; one that another thread is walking stays."""
        for key in list(self._bindings)[: -MAX_BINDINGS or None]:
            if self._bindings[key].idle:
                del self._bindings[key]

    # -- calls that do not match
    def _call_slowly(self, *args: object, **by_name: object) -> Any:
        """Convert and bind the arguments, or explain what is wrong with them."""
        arrays, sizes = bind_arguments(self.parameters, args, by_name, who=self.schedule.name)
        binding = self._bind({dim.name: size for dim, size in sizes.items()})
        return binding.call(*arrays)

    def call_into(self, args: Sequence[object], outputs: Sequence[NDArray[Any]]) -> None:
        """Run with results written to given arrays, which must fit exactly.

        An array that overlaps an argument or another output gets its values by a copy at the end,
        and so does a large one that does not start at a cache line: stores past the caches need it.
        """
        arrays, sizes = bind_arguments(self.parameters, args, who=self.schedule.name)
        binding = self._bind({dim.name: size for dim, size in sizes.items()})
        expected = binding.schedule.outputs
        placed = next((b for b in expected if b.place is not None), None)
        if placed is not None:
            raise BindError(
                f"{self.schedule.name}: the output {placed.name!r} lies in the argument "
                f"{placed.place!r}: call it without given outputs"
            )
        if len(outputs) != len(expected):
            raise BindError(
                f"{self.schedule.name} has {len(expected)} outputs, {len(outputs)} were given"
            )
        targets = [_output_of(b, o) for b, o in zip(expected, outputs, strict=True)]
        direct: list[NDArray[Any]] = []
        for buffer, target in zip(expected, targets, strict=True):
            dtype = buffer.type.dtype.numpy
            clash = any(np.may_share_memory(target, a) for a in (*arrays, *direct))
            plain = type(target) is np.ndarray and target.dtype is dtype and target.flags.carray
            fits = plain and _streamable(target) and not clash
            direct.append(target if fits else empty(buffer.type))
        binding.call_into(*arrays, *direct)
        for given, array in zip(outputs, direct, strict=True):
            if given is not array:
                given[...] = array

    # -- looking
    def profile(self, *args: object) -> tuple[Any, tuple[TimedLaunch, ...]]:
        """Call, and say when each worker ran its share of each launch (at most 65536 per
        worker).
        """
        arrays, sizes = bind_arguments(self.parameters, args, who=self.schedule.name)
        binding = self._bind({dim.name: size for dim, size in sizes.items()})
        with self._profiling:
            events = [Record(EVENT, _EVENTS) for _ in range(self.threads)]
            self._record_events(binding, events)
            try:
                result = binding.call(*arrays)
                ends = [binding.workers[t, "events"] for t in range(self.threads)]
            finally:
                self._record_events(binding, None)
        return result, _timed(binding.table, events, ends)

    def _record_events(self, binding: Binding, events: Sequence[Record] | None) -> None:
        address = ctypes.c_void_p(address_of(self._mutex))
        _libc.pthread_mutex_lock(address)
        for t in range(self.threads):
            binding.workers[t, "events"] = 0 if events is None else events[t].address
            last = 0 if events is None else events[t].address_at(_EVENTS)
            binding.workers[t, "events_end"] = last
        _libc.pthread_mutex_unlock(address)

    def source(self, kernel: str) -> str:
        """A kernel's LLVM IR."""
        return self._named(kernel).ir()

    assembly_kinds = ("asm",)
    #: the walker runs loops and branches as the schedule says
    control: tuple[str, ...] = ()

    def resources(self, kernel: str) -> Mapping[str, int]:
        """Nothing that a CPU's code would have to share."""
        return {}

    def assembly(self, kernel: str, kind: str = "asm") -> str:
        """A kernel's machine code as assembly text."""
        compiled = self._named(kernel)
        return codegen.assembly_of(compiled.ir(), compiled.machine or codegen.host())

    def _named(self, kernel: str) -> CompiledKernel:
        if kernel not in self.kernels:
            has = ", ".join(self.kernels)
            raise BackendError(f"{self.schedule.name} has no kernel {kernel!r}; it has {has}")
        return self.kernels[kernel]

    # -- parts
    def _load(self) -> tuple[dict[str, LoadedKernel], object]:
        used = {s.kernel for s in walk(self.schedule.body) if isinstance(s, Launch)}
        missing = used - self.kernels.keys()
        if missing:
            raise BackendError(f"no machine code for kernels {', '.join(sorted(missing))}")
        objects = {k.symbol: k.object for k in self.kernels.values()}
        library = load(list(objects.values()), list(objects))
        loaded = {
            name: LoadedKernel(library.addresses[kernel.symbol], kernel.grid)
            for name, kernel in self.kernels.items()
        }
        loaded[""] = LoadedKernel(self._native.address("graphc_copy"), 0)
        return loaded, library

    def _order_locks(self) -> tuple[Record, int]:
        """Each lock once, in the order that every program keeps."""
        written = self.schedule.written_states
        writes: dict[int, int] = {}
        for name, state in self._states.items():
            address = state.lock_address
            writes[address] = writes.get(address, 0) | (name in written)
        locks = Record(LOCK, len(writes))
        for i, address in enumerate(sorted(writes)):
            locks[i, "address"], locks[i, "writes"] = address, writes[address]
        return locks, len(writes)

    def _fail(self, code: int) -> None:
        """Raise what machine code found: a failed check, or a lock that this thread holds. Values
        that lie on a device are brought.
        """
        if code == entry.FAILED_STALE:
            for state in self._states.values():
                state.bring()
            return
        if code > 0:
            check = self.schedule.checks[code - 1]
            raise RuntimeCheckError(check.message, check.source)
        if code == entry.FAILED_REENTERED:
            raise StateError(
                f"{self.schedule.name} is running in this thread: a signal handler called it again"
            )
        raise StateError(
            f"{self.schedule.name}: this thread holds the lock of a state that the call needs"
        )


def _timed(table: Table, events: Sequence[Record], ends: Sequence[int]) -> tuple[TimedLaunch, ...]:
    rows = []
    for record, end in zip(events, ends, strict=True):
        count = (end - record.address) // EVENT.nbytes
        rows += record.words[: count * EVENT.stride].reshape(count, EVENT.stride).tolist()
    start = min((row[1] for row in rows), default=0)
    rows.sort(key=lambda row: (row[1], row[3]))
    return tuple(
        TimedLaunch(table.launches[launch], begin - start, end - start, worker)
        for launch, begin, end, worker in rows
    )


def _state_of(buffer: Buffer, states: Mapping[str, StateBuffer]) -> StateBuffer:
    state = states.get(buffer.name)
    if state is None:
        raise BackendError(f"no state buffer for {buffer.name!r}")
    if state.type != buffer.type:
        raise BackendError(f"state {buffer.name!r} is {state.type}, the schedule has {buffer.type}")
    return state


def _constant_of(buffer: Buffer, constants: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    values = constants.get(buffer.name)
    if values is None:
        raise BackendError(f"no values for constant {buffer.name!r}")
    if values.dtype != buffer.type.dtype.numpy or values.shape != buffer.type.shape:
        raise BackendError(
            f"constant {buffer.name!r} is {values.dtype}{list(values.shape)}, the schedule has "
            f"{buffer.type}"
        )
    kept = allocate(values.nbytes).view(values.dtype).reshape(values.shape)
    kept[...] = values
    return kept


def _output_of(buffer: Buffer, given: object) -> NDArray[Any]:
    """The array itself when it can hold the output, else a BindError."""
    wanted = buffer.type
    if not isinstance(given, np.ndarray) or not given.flags.writeable:
        raise BindError(f"out {buffer.name!r}: expected a writable ndarray of {wanted}")
    if given.dtype != wanted.dtype.numpy or given.shape != wanted.shape:
        raise BindError(
            f"out {buffer.name!r}: expected {wanted}, got {given.dtype}{list(given.shape)}"
        )
    return given


def _streamable(array: NDArray[Any]) -> bool:
    return array.nbytes < STREAM_BYTES or address_of(array) % 64 == 0


def _new_mutex() -> NDArray[np.uint8]:
    memory = allocate(64)
    _initialize_mutex(memory)
    return memory


def _initialize_mutex(memory: NDArray[np.uint8]) -> None:
    memory[:] = 0
    attributes = ctypes.create_string_buffer(64)
    _libc.pthread_mutexattr_init(attributes)
    _libc.pthread_mutexattr_settype(attributes, _ERRORCHECK)
    _libc.pthread_mutex_init(ctypes.c_void_p(address_of(memory)), attributes)
    _libc.pthread_mutexattr_destroy(attributes)


_programs: weakref.WeakSet[Program] = weakref.WeakSet()


def _renew_mutexes() -> None:
    """A fork copies mutexes that threads of the parent hold; those threads do not exist here."""
    for program in _programs:
        _initialize_mutex(program._mutex)
        program._lock, program._profiling = threading.RLock(), threading.Lock()
        for binding in program._bindings.values():
            binding.forget_users()


os.register_at_fork(after_in_child=_renew_mutexes)
