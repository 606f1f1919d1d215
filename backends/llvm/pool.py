"""The worker pool's memory and settings; ``pool_code`` has its code and says how it works."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from graphc.backends.llvm.layout import Record
from graphc.backends.llvm.pool_code import POOL, START
from graphc.errors import BackendError

__all__ = ["MAX_WORKERS", "Pool", "available_cores", "thread_count"]

MAX_WORKERS = 255
SPIN = 40_000  # nanoseconds before a wait goes to sleep
SPIN_CROWDED = 2_000  # where there are more threads than cores
WINDOW = 25_000  # nanoseconds between calls that are back to back; less than a worker spins


class Pool:
    """The pool's memory. ``threads`` counts the caller."""

    def __init__(self, threads: int) -> None:
        self.threads = min(threads, MAX_WORKERS + 1)
        self._record = Record(POOL)
        self._starts = Record(START, MAX_WORKERS)
        self.reset()

    @property
    def address(self) -> int:
        return self._record.address

    @property
    def workers(self) -> int:
        """Threads that run now."""
        return self._record[0, "workers"]

    def reset(self) -> None:
        """As new, without threads: what a forked child needs."""
        crowded = self.threads > available_cores()
        self._record.words[:] = 0  # also unlocks the mutex: all zero is PTHREAD_MUTEX_INITIALIZER
        self._record[0, "wanted"] = self.threads - 1
        self._record[0, "spin"] = SPIN_CROWDED if crowded else SPIN
        self._record[0, "window"] = 0 if crowded else WINDOW
        self._record[0, "starts"] = self._starts.address

    def stop(self, function: int) -> None:
        """End the workers by ``graphc_pool_stop`` at the given address."""
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(self.address)


def available_cores() -> int:
    """Cores of the affinity mask, at most what the container's quota pays for (rounded up)."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return cores if quota is None else max(1, min(cores, quota))


def thread_count() -> int:
    """``GRAPHC_THREADS`` where it is set, else the available cores; BackendError if it is odd."""
    text = os.environ.get("GRAPHC_THREADS", "")
    if not text:
        return available_cores()
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_WORKERS + 1:
        raise BackendError(f"GRAPHC_THREADS={text!r}: a number from 1 to {MAX_WORKERS + 1}")
    return int(text)


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Whole cores that the control group may use, or None without a limit; versions 2 and 1."""
    try:
        words = (root / "cpu.max").read_text().split()
    except OSError:
        try:
            words = [
                (root / "cpu" / f"cpu.cfs_{part}_us").read_text().strip()
                for part in ("quota", "period")
            ]
        except OSError:
            return None
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit():
        return None  # "max" or -1
    return -(-int(words[0]) // int(words[1]))
