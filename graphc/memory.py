"""Bytes that outlive a call: aligned blocks, and the states that executables share.

A ``StateBuffer`` is a state's dense, 64-byte aligned array with a lock (many readers or one
writer) and a version. The lock is a plain ``pthread_rwlock_t``, so that machine code and Python
take the same one. Whoever takes several takes them in the order of ``lock_address``.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.errors import StateError
from graphc.types import TensorType

__all__ = [
    "VERSION_OFFSET", "StateBuffer", "StateLocks", "address_of", "allocate", "collection_paused",
    "empty",
]  # fmt: skip

HUGE_PAGE = 1 << 21
_SHARING = 1 << 16  # bytes of the smallest block that lies in a chunk with others
_CHUNK = 8 * HUGE_PAGE
_LOCK_BYTES = 64  # glibc's pthread_rwlock_t has 56
VERSION_OFFSET = 64  # bytes from the lock to the version, an int64
_STALE_OFFSET = 72  # bytes from the lock to a word: are the newest values elsewhere?

_libc = ctypes.CDLL(None)
for _name in ("init", "rdlock", "wrlock", "unlock"):
    getattr(_libc, f"pthread_rwlock_{_name}").restype = ctypes.c_int


@contextmanager
def collection_paused() -> Iterator[None]:
    """Python's search for garbage cycles rests: all that a compiler makes is in use until it ends,
    and looking at it again and again took a fifth of the time.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def address_of(array: NDArray[np.generic]) -> int:
    """Address of the first byte (``ndarray.ctypes`` costs more)."""
    address: int = array.__array_interface__["data"][0]
    return address


def allocate(nbytes: int) -> NDArray[np.uint8]:
    """Bytes aligned to 64. From 64 KB on they are zero and on huge pages where the system has them:
    blocks of 2 MB and more on their own, aligned to 2 MB, smaller ones side by side.

    >>> address_of(allocate(100)) % 64, address_of(allocate(1 << 22)) % (1 << 21)
    (0, 0)
    """
    if nbytes < _SHARING:
        return _aligned(np.empty(nbytes + 64, np.uint8), nbytes, 64)
    if nbytes >= HUGE_PAGE:
        return _on_huge_pages(nbytes)
    return _shared.take(nbytes)


def _on_huge_pages(nbytes: int) -> NDArray[np.uint8]:
    block = mmap.mmap(-1, nbytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel built without them: ordinary pages serve as well
            block.madvise(mmap.MADV_HUGEPAGE)
    return _aligned(np.frombuffer(block, np.uint8), nbytes, HUGE_PAGE)


class _Shared:
    """Blocks cut one after the other from a chunk of huge pages. A weight and its moments are
    walked together, row by row: on small pages each row is another entry of a table that holds few.

    A chunk's memory goes back when the last of its blocks dies.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk, self._used = np.empty(0, np.uint8), 0

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        padded = -(-nbytes // 64) * 64
        with self._lock:
            if self._used + padded > len(self._chunk):
                self._chunk, self._used = _on_huge_pages(_CHUNK), 0
            start, self._used = self._used, self._used + padded
            return self._chunk[start : start + nbytes]


_shared = _Shared()


def _aligned(raw: NDArray[np.uint8], nbytes: int, alignment: int) -> NDArray[np.uint8]:
    start = -address_of(raw) % alignment
    return raw[start : start + nbytes]


def empty(type_: TensorType) -> NDArray[np.generic]:
    """An uninitialized dense array of a type with known sizes, aligned as ``allocate`` does."""
    nbytes = type_.nbytes
    if not isinstance(nbytes, int):
        raise ValueError(f"{type_} has unbound sizes")
    shape = tuple(e for e in type_.shape if isinstance(e, int))
    return allocate(nbytes).view(type_.dtype.numpy).reshape(shape)


_fetching = threading.Lock()
_states: weakref.WeakSet[StateBuffer] = weakref.WeakSet()


class StateBuffer:
    """A state's bytes. ``array`` keeps its address for life; read and write it under ``reading``
    and ``writing``.

    >>> from graphc.types import TensorType, float32
    >>> state = StateBuffer(TensorType(float32, (2,)), [1.0, 2.0])
    >>> state.set([3.0, 4.0]); state.numpy(), state.version
    (array([3., 4.], dtype=float32), 1)
    """

    __slots__ = (
        "__weakref__", "_record", "_remote", "_stale", "_version", "array", "lock_address", "type",
    )  # fmt: skip

    def __init__(self, type_: TensorType, values: ArrayLike | None = None) -> None:
        self.type = type_
        self.array = empty(type_)
        self.array[...] = 0 if values is None else values
        self._record = allocate(_LOCK_BYTES + 64).view(np.int64)
        self._record[:] = 0
        #: address of the lock; the version follows 64 bytes later, then whether ``array`` is stale
        self.lock_address = address_of(self._record)
        self._version = ctypes.c_int64.from_address(self.lock_address + VERSION_OFFSET)
        _libc.pthread_rwlock_init(ctypes.c_void_p(self.lock_address), None)
        self._stale = ctypes.c_int64.from_address(self.lock_address + _STALE_OFFSET)
        self._remote: Callable[[], None] | None = None
        _states.add(self)

    @property
    def address(self) -> int:
        """Address of the first element."""
        return address_of(self.array)

    @property
    def version(self) -> int:
        """Counts the writes; whatever is derived from the values (packed copies) is keyed by it."""
        return self._version.value

    @property
    def remote(self) -> Callable[[], None] | None:
        """Brings the newest values into ``array``, where a device has them; None where they are
        there. Set it under the lock; machine code that finds it set asks for ``bring``.
        """
        return self._remote

    @remote.setter
    def remote(self, fetch: Callable[[], None] | None) -> None:
        self._remote, self._stale.value = fetch, int(fetch is not None)

    def bring(self) -> None:
        """Have the newest values in ``array``."""
        with self.reading():
            pass

    @contextmanager
    def held(self, *, write: bool) -> Iterator[None]:
        """Hold the lock without looking at the values; ``write`` alone and with a new version at
        the end, also where an exception ends it: some values may have been written.
        """
        self._take(_libc.pthread_rwlock_wrlock if write else _libc.pthread_rwlock_rdlock)
        try:
            yield
        finally:
            self._version.value += int(write)
            _libc.pthread_rwlock_unlock(ctypes.c_void_p(self.lock_address))

    def _fetch(self) -> None:
        if self._remote is None:
            return
        with _fetching:  # of several readers one fetches
            if self._remote is not None:
                self._remote()
                self.remote = None

    @contextmanager
    def reading(self) -> Iterator[NDArray[np.generic]]:
        """Hold the lock for reading. A StateError inside a signal handler that interrupted a
        step.
        """
        with self.held(write=False):
            self._fetch()
            yield self.array

    @contextmanager
    def writing(self) -> Iterator[NDArray[np.generic]]:
        """Hold the lock for writing, and raise the version."""
        with self.held(write=True):
            self._fetch()
            yield self.array

    def numpy(self) -> NDArray[np.generic]:
        """A copy of the values."""
        with self.reading() as array:
            return array.copy()

    def set(self, values: ArrayLike) -> None:
        """Overwrite the values; shapes and element types must fit as in an assignment to
        ``array[...]``.
        """
        with self.writing() as array:
            array[...] = values

    def _take(self, lock: object) -> None:
        code = lock(ctypes.c_void_p(self.lock_address))  # type: ignore[operator]
        if code:
            raise StateError(
                f"state {self.type}: its lock cannot be taken here ({os.strerror(code)}); "
                "a signal handler must not use states of the step that it interrupted"
            )


class StateLocks:
    """The locks of several states, taken together in the one order of their addresses.

    ``with locks:`` holds them without looking at the values; those that are written get a new
    version at the end, unless an exception ends it.
    """

    def __init__(self, states: Iterable[tuple[StateBuffer, bool]]) -> None:
        ordered = sorted(states, key=lambda pair: pair[0].lock_address)
        self._states = [state for state, _ in ordered]
        self._written = [state._version for state, write in ordered if write]
        self._locks = [
            (
                _libc.pthread_rwlock_wrlock if write else _libc.pthread_rwlock_rdlock,
                ctypes.c_void_p(state.lock_address),
            )
            for state, write in ordered
        ]

    def __enter__(self) -> None:
        for n, (take, lock) in enumerate(self._locks):
            code = take(lock)
            if code:
                self._release(n)
                raise StateError(
                    f"state {self._states[n].type}: its lock cannot be taken here "
                    f"({os.strerror(code)}); this thread holds it already"
                )

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            for version in self._written:
                version.value += 1
        self._release(len(self._locks))

    def _release(self, count: int) -> None:
        for _, lock in self._locks[:count]:
            _libc.pthread_rwlock_unlock(lock)


def _renew_locks() -> None:
    """A fork copies locks that threads of the parent hold; those threads do not exist in the
    child.
    """
    global _fetching
    _fetching = threading.Lock()
    _shared.__init__()  # type: ignore[misc]
    for state in _states:
        state._record[: _LOCK_BYTES // 8] = 0
        _libc.pthread_rwlock_init(ctypes.c_void_p(state.lock_address), None)


os.register_at_fork(after_in_child=_renew_locks)
