"""A program's memory and graphs for one choice of sizes, and how its steps run."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from graphc.backends.triton.driver import Driver
from graphc.backends.triton.steps import (
    Branch,
    Graph,
    Kernels,
    Repeat,
    Step,
    Until,
    build_steps,
)
from graphc.errors import BackendError
from graphc.memory import address_of
from graphc.schedule import Schedule
from graphc.types import TensorType

__all__ = ["Binding", "bytes_of"]

#: bytes from one cell to the next: none shares a line with another
_CELL = 64


class Binding:
    """A program's memory and graphs for one choice of sizes."""

    def __init__(
        self, schedule: Schedule, driver: Driver, kernels: Kernels, fixed: Mapping[str, int]
    ) -> None:
        """``fixed`` are the addresses of states and constants."""
        self.schedule, self.driver = schedule, driver
        self.owned: list[int] = []
        weakref.finalize(self, _release, self.driver, self.owned)  # also where what follows fails
        self.addresses = dict(fixed)
        arena = self._new(schedule.arena_bytes, "the arena of intermediate results")
        for buffer in schedule.buffers:
            if buffer.kind == "arena":
                self.addresses[buffer.name] = arena + (buffer.offset or 0)
            elif buffer.kind in ("argument", "output"):
                self.addresses[buffer.name] = self._new(bytes_of(buffer.type), buffer.name)
        cells = schedule.of_kind("cell")
        self.cells = self._new(_CELL * (len(cells) + 1), "cells")
        self.cell_bytes = _CELL * (len(cells) + 1)
        self.error = self.cells
        for n, buffer in enumerate(cells):
            self.addresses[buffer.name] = self.cells + _CELL * (n + 1)
        self.arguments = schedule.arguments
        self.outputs = schedule.outputs
        self.staging = [self.driver.host_array(bytes_of(b.type)) for b in schedule.arguments]
        self.word = self.driver.host_array(8).view(np.int64)
        self.kernels = kernels
        self.steps = build_steps(schedule, self.kernels, self.addresses, self.error, self.driver)

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


def bytes_of(type_: TensorType) -> int:
    """A tensor's bytes; BackendError where its sizes are not bound."""
    nbytes = type_.nbytes
    if not isinstance(nbytes, int):
        raise BackendError(f"{type_} has unbound sizes")
    return nbytes
