"""A program's memory and graphs for one choice of sizes, and how its steps run.

Arguments and results are the caller's memory and the pool's, wherever that is (``moving.py``).
Memory of their own, for what comes from the host and what must be copied, is made when needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.backends.triton.control import known
from graphc.backends.triton.driver import Driver
from graphc.backends.triton.holdings import Holdings
from graphc.backends.triton.moving import Moving
from graphc.backends.triton.steps import (
    Branch,
    Graph,
    Kernels,
    Repeat,
    Step,
    Until,
    build_steps,
    gate_words,
)
from graphc.errors import BackendError
from graphc.memory import address_of
from graphc.schedule import Buffer, Schedule
from graphc.types import Extent, TensorType

__all__ = ["Binding", "bytes_of"]

#: bytes from one cell to the next: none shares a line with another
_CELL = 64


class Binding:
    """A program's memory and graphs for one choice of sizes."""

    def __init__(
        self, schedule: Schedule, driver: Driver, kernels: Kernels, fixed: Mapping[str, int],
        scratch: Mapping[str, Extent],
    ) -> None:
        """``fixed`` are the addresses of states and constants, ``scratch`` the bytes of buffers
        that no schedule names.
        """
        self.schedule, self.driver = schedule, driver
        self.holdings = Holdings(driver, self)  # also where what follows fails
        self.addresses = dict(fixed)
        arena = self._new(schedule.arena_bytes, "the arena of intermediate results")
        for buffer in schedule.buffers:
            if buffer.place is not None:
                continue
            if buffer.kind == "arena":
                self.addresses[buffer.name] = arena + (buffer.offset or 0)
        moving = {
            b.name: b.place or b.name for b in schedule.buffers
            if b.place is not None or b.kind in ("argument", "output")
        }  # fmt: skip
        self.addresses |= dict.fromkeys(moving, 0)  # until a call says where
        for name, nbytes in scratch.items():
            self.addresses[name] = self._new(known(nbytes), name)
        cells = schedule.of_kind("cell")
        words = 1 + len(cells) + gate_words(schedule)
        self.cell_bytes = _CELL * words
        self.cells = self._new(self.cell_bytes, "cells")
        self.error, *places = range(self.cells, self.cells + self.cell_bytes, _CELL)
        for buffer, place in zip(cells, places, strict=False):
            self.addresses[buffer.name] = place
        self.arguments = schedule.arguments
        self.outputs = schedule.outputs
        self.word = self.holdings.host_array(8).view(np.int64)
        gates = places[len(cells) :]
        self.steps, patches = build_steps(
            schedule, kernels, self.addresses, self.error, gates, self.holdings, moving
        )
        self.moving = Moving(driver, patches)
        self._places = moving
        self._own: dict[str, int] = {}
        self._staging: dict[str, NDArray[np.uint8]] = {}
        #: arguments and results that the last call copied on the device, and why
        self.copied: dict[str, str] = {}

    def move(self, places: Mapping[str, int]) -> None:
        """Arguments and results lie at these addresses from now on, with what lies in them."""
        self.moving.move(places)
        for name, told in self._places.items():
            if told in places:
                self.addresses[name] = places[told]

    def own(self, buffer: Buffer) -> int:
        """Memory of the program's own for an argument or a result."""
        if buffer.name not in self._own:
            self._own[buffer.name] = self._new(bytes_of(buffer.type), buffer.name)
        return self._own[buffer.name]

    def send(self, buffer: Buffer, values: NDArray[Any]) -> int:
        """The address of an argument's own memory, which gets values of the host. What was sent
        before must have arrived.
        """
        target, nbytes = self.own(buffer), bytes_of(buffer.type)
        if buffer.name not in self._staging:
            self._staging[buffer.name] = self.holdings.host_array(nbytes)
        staged = self._staging[buffer.name]
        staged[:nbytes] = values.reshape(-1).view(np.uint8)
        self.driver.copy_in(target, address_of(staged), nbytes)
        return target

    def _new(self, nbytes: int, what: str) -> int:
        return self.holdings.allocate(nbytes, f"{self.schedule.name}: {what}, {nbytes:,} bytes")

    def read_word(self, address: int) -> int:
        """A word's value, once everything before is done."""
        self.driver.copy_out(address_of(self.word), address, 8)
        self.driver.synchronize(self.schedule.name)
        return int(self.word[0])

    def run(self, steps: Sequence[Step]) -> None:
        """Run steps. Where a check has failed the gates of loops and branches are shut."""
        for step in steps:
            match step:
                case Graph(handle):
                    self.driver.launch_graph(handle, self.schedule.name)
                case Repeat(counter, length, inner):
                    for i in range(length):
                        self.driver.set_word(counter, i)
                        self.run(inner)
                    self.driver.set_word(counter, length)
                case Until(gate, inner):
                    while not self.read_word(gate):
                        self.run(inner)
                case Branch(gate, then, otherwise):
                    self.run(otherwise if self.read_word(gate) else then)


def bytes_of(type_: TensorType) -> int:
    """A tensor's bytes; BackendError where its sizes are not bound."""
    nbytes = type_.nbytes
    if not isinstance(nbytes, int):
        raise BackendError(f"{type_} has unbound sizes")
    return nbytes
