"""What an object holds of the driver's: memory, graphs, modules. It all goes back with its owner.

::

    Program   modules, constants            gives back its bindings' holdings before its own
    Binding   arena, arguments, staging memory, graphs
    state, tuning   device memory

What is given back is in use by nobody: the stream is done first. Graphs go before the modules that
hold their kernels. Where the driver was closed, at the interpreter's end, everything went with it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.backends.triton.driver import Driver, Function
from graphc.errors import BackendError

__all__ = ["Holdings"]


class Holdings:
    """What ``owner`` holds. ``give_back`` runs when the owner dies, or earlier where it is called;
    what was given back before is not given back again.
    """

    def __init__(self, driver: Driver, owner: object | None = None) -> None:
        self.driver = driver
        self._inner: list[Holdings] = []
        # from the first to go to the last
        self._graphs: list[Any] = []
        self._memory: list[int] = []
        self._pinned: list[NDArray[np.uint8]] = []
        self._modules: list[Function] = []
        if owner is not None:
            weakref.finalize(owner, self.give_back)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to give back."""
        own = self._graphs, self._memory, self._pinned, self._modules
        return not any(own) and all(inner.empty for inner in self._inner)

    def contain(self, inner: Holdings) -> None:
        """Let these go first."""
        self._inner = [*(held for held in self._inner if not held.empty), inner]

    def allocate(self, nbytes: int, doing: str) -> int:
        """Device memory; see ``Driver.allocate``."""
        self._memory.append(self.driver.allocate(nbytes, doing))
        return self._memory[-1]

    def host_array(self, nbytes: int) -> NDArray[np.uint8]:
        """Pinned memory of the host, which must not be touched once it was given back."""
        self._pinned.append(self.driver.host_array(nbytes))
        return self._pinned[-1]

    def instantiate(self, graph: Any) -> Any:
        """A graph that can be launched."""
        self._graphs.append(self.driver.instantiate(graph))
        return self._graphs[-1]

    def load(self, kernel: Any) -> Function:
        """A compiled kernel's function, ready to run."""
        self._modules.append(self.driver.load(kernel))
        return self._modules[-1]

    def give_back(self) -> None:
        """Wait for the stream and give everything back. A device that has failed told it before."""
        if self.empty or self.driver.closed:
            return
        with contextlib.suppress(BackendError):
            self.driver.synchronize("giving memory back")
        for inner in self._inner:
            inner.give_back()
        _each(self._graphs, self.driver.destroy_graph)
        _each(self._memory, self.driver.free)
        _each(self._pinned, self.driver.free_host)
        _each(self._modules, self.driver.unload)


def _each(held: list[Any], give_back: Callable[[Any], None]) -> None:
    while held:
        with contextlib.suppress(BackendError):
            give_back(held.pop())
