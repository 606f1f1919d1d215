"""What renewals keep: memory for results, and the versions of the states that they were made from.

Programs that would keep the same (an executable's for other sizes, others over the same states)
share one ``Kept``. That needs no more than its mutex: who reads what is kept holds the states'
locks, so versions do not move while anybody reads, and nobody writes what has the versions of now.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.backends.llvm.binding import CompiledKernel
from graphc.backends.llvm.walker import SOURCE
from graphc.memory import VERSION_OFFSET, StateBuffer, address_of, allocate, empty
from graphc.records import dataclass
from graphc.schedule import Launch, Renew, Schedule

__all__ = ["Kept", "kept_of"]

_MUTEX_BYTES = 64  # glibc's pthread_mutex_t has 40, and is free when it is zero
_NEVER = -1  # no state's version


class _Shared:
    """Arrays, and the record that machine code compares with the states' versions."""

    def __init__(self, states: tuple[StateBuffer, ...], arrays: list[NDArray[Any]]) -> None:
        self.states, self.arrays = states, arrays
        self.record = allocate(_MUTEX_BYTES + SOURCE.nbytes * len(states)).view(np.int64)
        self.free()
        sources = self.record[_MUTEX_BYTES // 8 :].reshape(-1, SOURCE.stride)
        for source, state in zip(sources, states, strict=True):
            source[SOURCE.index["version"]] = state.lock_address + VERSION_OFFSET
            source[SOURCE.index["made"]] = _NEVER

    def free(self) -> None:
        """Give the mutex back."""
        self.record[: _MUTEX_BYTES // 8] = 0


@dataclass(frozen=True, eq=False)
class Kept:
    """What one ``Renew`` of a program keeps: arrays by buffer name, and the record's address."""

    arrays: Mapping[str, NDArray[Any]]
    shared: _Shared

    @property
    def address(self) -> int:
        return address_of(self.shared.record)


_all: weakref.WeakValueDictionary[Hashable, _Shared] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def kept_of(
    schedule: Schedule,
    kernels: Mapping[str, CompiledKernel],
    states: Mapping[str, StateBuffer],
    constants: Mapping[str, NDArray[Any]],
) -> list[Kept]:
    """What each renewal of a schedule keeps, in order; ``kernels``, ``states`` and ``constants``
    are by their names in it.
    """
    found = []
    for renew in (s for s in schedule.body if isinstance(s, Renew)):
        launches = [s for s in renew.body if isinstance(s, Launch)]
        written = [name for launch in launches for name in launch.outputs]
        buffers = [schedule.buffer[n] for n in written if schedule.buffer[n].kind == "kept"]
        key = _key(renew, launches, {b.name for b in buffers}, kernels, states, constants)
        with _lock:
            shared = _all.get(key)
            if shared is None:
                own = tuple(states[name] for name in renew.states)
                shared = _all[key] = _Shared(own, [empty(b.type) for b in buffers])
        arrays = {b.name: a for b, a in zip(buffers, shared.arrays, strict=True)}
        found.append(Kept(arrays, shared))
    return found


def _key(
    renew: Renew,
    launches: list[Launch],
    kept: set[str],
    kernels: Mapping[str, CompiledKernel],
    states: Mapping[str, StateBuffer],
    constants: Mapping[str, NDArray[Any]],
) -> Hashable:
    """Equal for renewals that put the same values in the same places: the same machine code in the
    same order over the same states and equal constants.
    """
    numbers: dict[str, Hashable] = {n: ("state", states[n].lock_address) for n in renew.states}
    steps = []
    for launch in launches:
        reads = [
            numbers[n] if n in numbers else hashlib.sha256(constants[n].tobytes()).digest()
            for n in launch.inputs
        ]
        for name in launch.outputs:
            numbers[name] = len(numbers), name in kept
        writes = [numbers[name] for name in launch.outputs]
        steps.append((kernels[launch.kernel].symbol, tuple(reads), tuple(writes)))
    return tuple(numbers[n] for n in renew.states), tuple(steps)


def _renew_locks() -> None:
    """A fork copies mutexes that threads of the parent hold. What such a thread was making still
    has the versions of before, so it is made anew here.
    """
    global _lock
    _lock = threading.Lock()
    for shared in list(_all.values()):
        shared.free()


os.register_at_fork(after_in_child=_renew_locks)
