"""A program's memory for one choice of sizes: the table, the records that machine code reads, and
an entry of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from graphc.backends.llvm import codegen
from graphc.backends.llvm.callable import HANDLE
from graphc.backends.llvm.layout import Record
from graphc.backends.llvm.native import make_callable, native
from graphc.backends.llvm.outputs import TENSOR, size_class
from graphc.backends.llvm.table import (
    LoadedKernel,
    Table,
    build_table,
    int_extent,
    spare_cells_needed,
)
from graphc.backends.llvm.walker import PROGRAM, WORKER
from graphc.errors import BackendError
from graphc.memory import address_of, allocate
from graphc.records import dataclass
from graphc.schedule import Buffer, Launch, Schedule, evaluate_extent, walk
from graphc.types import Extent

__all__ = ["Binding", "CompiledKernel", "Parts"]

_PATIENCE = 30_000  # nanoseconds, besides four times the estimate: a call was held up


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel's object file. ``grid`` and ``scratch_bytes`` may depend on the kernel's sizes.

    ``void @symbol(ptr args, i64 begin, i64 end, ptr worker)`` runs grid blocks ``begin <= b <
    end``; ``args`` holds input and output pointers, sizes, pointers to scalars, the error record's
    address and the first check's id. Symbols of one program's kernels differ unless the kernels
    are the same.
    """

    symbol: str
    object: bytes
    grid: Extent = 1
    scratch_bytes: Extent = 0
    ir: Callable[[], str] = str  # the text it was compiled from
    machine: codegen.Machine | None = None  # the one it was compiled for; None: this one


@dataclass(frozen=True)
class Parts:
    """What all bindings of a program share. ``addresses`` are those of states, constants and what
    is kept, ``kept`` those where renewals note versions.
    """

    kernels: Mapping[str, CompiledKernel]
    loaded: Mapping[str, LoadedKernel]
    addresses: Mapping[str, int]
    kept: Sequence[int]
    locks: Record
    locks_count: int
    mutex: NDArray[np.uint8]
    fail: Callable[[int], None]
    threads: int
    owner: object


class Binding:
    """A program's records for one choice of sizes."""

    def __init__(self, parts: Parts, schedule: Schedule, arena: NDArray[np.uint8]) -> None:
        self.schedule = schedule
        self._arena = arena
        cells = schedule.of_kind("cell")
        spare = spare_cells_needed(schedule)
        self._cells = allocate(8 * max(len(cells) + spare, 1))
        self._errors = allocate(64)
        cell = [address_of(self._cells) + 8 * i for i in range(len(cells) + spare)]
        places = {b.name: cell[i] for i, b in enumerate(cells)} | dict(parts.addresses)
        start = address_of(arena)
        arena_buffers = [b for b in schedule.of_kind("arena") if b.place is None]
        places |= {b.name: start + (b.offset or 0) for b in arena_buffers}
        self.table = build_table(
            schedule,
            parts.loaded,
            places,
            errors=address_of(self._errors),
            spare_cells=cell[len(cells) :],
            threads=parts.threads,
            kept=parts.kept,
        )
        self.workers, self._scratch = _workers(parts, schedule)
        self._arguments = _tensors(schedule.arguments, self.table)
        self._outputs = _tensors(schedule.outputs, self.table, schedule.arguments)
        self.record = self._fill(parts)
        self._handle = Record(HANDLE)
        self._handle[0, "program"] = self.record.address
        self._handle[0, "slow"] = id(_mismatch)
        owner = (parts.owner, self)
        self.call = make_callable("graphc_call", self._handle.address, owner)
        self.call_into = make_callable("graphc_call_into", self._handle.address, owner)

    @property
    def idle(self) -> bool:
        """Whether no thread is inside."""
        return self.record[0, "users"] == 0

    def forget_users(self) -> None:
        """In a forked child, where the threads that were inside do not exist."""
        self.record[0, "users"] = 0

    def _fill(self, parts: Parts) -> Record:
        shared = native()
        record = Record(PROGRAM)
        values = {
            "table": self.table.address,
            "shares": parts.threads,
            "wake": int(self.table.wakes),
            "patience": int(_PATIENCE + 4 * self.table.nanoseconds),
            "workers": self.workers.address,
            "pool": shared.pool.address,
            "errors": address_of(self._errors),
            "cells": address_of(self._cells),
            "cells_bytes": len(self._cells),
            "arguments": self._arguments.record.address,
            "arguments_count": self._arguments.count,
            "outputs": self._outputs.record.address,
            "outputs_count": self._outputs.count,
            "single": min(self._outputs.count, 2),
            "locks": parts.locks.address,
            "locks_count": parts.locks_count,
            "mutex": address_of(parts.mutex),
            "fail": id(parts.fail),
            "runtime": shared.runtime.address,
        }
        for word, value in values.items():
            record[0, word] = value
        return record


@dataclass(frozen=True)
class _Tensors:
    record: Record
    count: int
    kept: tuple[NDArray[np.int64], ...]


def _tensors(
    buffers: Sequence[Buffer], table: Table, arguments: Sequence[Buffer] = ()
) -> _Tensors:
    """What the entry compares arguments with, and makes outputs from."""
    record = Record(TENSOR, len(buffers))
    number_of = {b.name: n for n, b in enumerate(arguments)}
    kept: list[NDArray[np.int64]] = []
    for i, buffer in enumerate(buffers):
        dims = np.array([int_extent(e) for e in buffer.type.shape], np.int64)
        slots = np.array(table.slots.get(buffer.name, []), np.int64)
        kept += [dims, slots]
        number, capacity = size_class(int_extent(buffer.type.nbytes))
        record[i, "descr"] = id(buffer.type.dtype.numpy)  # a DType lives as long as the process
        record[i, "ndim"] = len(dims)
        record[i, "dims"] = address_of(dims)
        record[i, "slots"] = address_of(slots)
        record[i, "slots_count"] = len(slots)
        record[i, "donor"] = 0 if buffer.place is None else 1 + number_of[buffer.place]
        record[i, "capacity"], record[i, "size_class"] = capacity, number
    return _Tensors(record, len(buffers), tuple(kept))


def _workers(parts: Parts, schedule: Schedule) -> tuple[Record, NDArray[np.uint8]]:
    """Worker records with scratch memory for the kernel that wants most."""
    wanted = 0
    for statement in walk(schedule.body):
        if isinstance(statement, Launch):
            names = (size.name for size in schedule.launched(statement.kernel).sizes)
            sizes = dict(zip(names, map(int_extent, statement.sizes), strict=True))
            scratch = parts.kernels[statement.kernel].scratch_bytes
            wanted = max(wanted, evaluate_extent(scratch, sizes))
    stride = -(-wanted // 4096) * 4096 + 64 if wanted else 64  # off powers of two: no set conflicts
    memory = allocate(stride * parts.threads)
    workers = Record(WORKER, parts.threads)
    for t in range(parts.threads):
        workers[t, "scratch"] = address_of(memory) + t * stride
        workers[t, "number"] = t
    return workers, memory


def _mismatch(*args: object, **by_name: object) -> NoReturn:
    raise BackendError("the arguments changed while they were being bound")
