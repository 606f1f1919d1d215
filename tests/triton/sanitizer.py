"""A memory sanitizer for interpreted kernels: bounds, alignment, and races between programs.

Every load and store of a run is compared with the buffers that the kernel was given. Programs of a
grid run one after the other here and at the same time on a device: so two programs must not write
one place, nor one read what another writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class MemoryFault(AssertionError):  # noqa: N818 - what it is called
    """An access that a device would not forgive."""


class Sanitizer:
    """Watches the accesses to some arrays; ``races`` lists what it saw between programs."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        spans = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays if a.nbytes)
        self.begin = np.array([b for b, _ in spans], np.int64)
        self.end = np.array([e for _, e in spans], np.int64)
        self.writer = [np.full(e - b, -1, np.int64) for b, e in spans]
        self.reader = [np.full(e - b, -1, np.int64) for b, e in spans]
        self.races: list[str] = []

    def access(self, kind: str, pointers: Any, mask: Any, width: int, program: int) -> None:
        """One load or store: addresses, which of them count, bytes of an element."""
        valid = np.broadcast_to(np.asarray(mask, bool), pointers.shape)
        places = pointers[valid].astype(np.int64)
        if not places.size:
            return
        if (places % width).any():
            raise MemoryFault(f"{kind} of {width} bytes at a misaligned address")
        owner = np.searchsorted(self.begin, places, "right") - 1
        outside = (owner < 0) | (places + width > self.end[np.maximum(owner, 0)])
        if outside.any():
            raise MemoryFault(f"{kind} outside of every buffer, {int(outside.sum())} lanes")
        for number in np.unique(owner):
            offsets = places[owner == number] - self.begin[number]
            self._record(kind, int(number), offsets, program)

    def _record(self, kind: str, number: int, offsets: Any, program: int) -> None:
        writer, reader = self.writer[number], self.reader[number]
        others = writer[offsets]
        if ((others >= 0) & (others != program)).any():
            self.races.append(f"{kind} by program {program} where another wrote")
        if kind == "load":
            reader[offsets] = program
            return
        if len(np.unique(offsets)) != len(offsets):
            self.races.append(f"two lanes of program {program} store to one place")
        others = reader[offsets]
        if ((others >= 0) & (others != program)).any():
            self.races.append(f"store by program {program} where another read")
        writer[offsets] = program
