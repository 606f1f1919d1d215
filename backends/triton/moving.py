"""Arguments and results where they lie: what changes from call to call is told to a graph's nodes.

::

    call(x at A)   nodes that read x are told A        a graph is launched: nothing is copied
    call(x at B)   those nodes are told B, no others   call(x at B) again: nothing is told

Launches that are under way keep the addresses they began with. Kernels read vectors of 16 bytes, so
an array that begins between them is copied, and so is what very many nodes name: telling them all
takes longer than a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from graphc.backends.triton.driver import Driver, Function, Parameters
from graphc.backends.triton.jobs import Launching
from graphc.records import dataclass

__all__ = ["MOST_TOLD", "KernelRun", "Moving", "Named", "Patch"]

#: nodes that name a buffer beyond which it has memory of the program's own
MOST_TOLD = 64
#: what kernels were compiled for: where every buffer begins
ALIGNMENT = 16

#: which words of a parameter block are addresses of which moving buffers
Named = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class KernelRun:
    """One launch, ready: the kernel's function, its grid, the words of its parameters, and those
    that are addresses of moving buffers.
    """

    statement: Launching
    function: Function
    grid: int
    parameters: Parameters
    label: str
    named: Named = ()


@dataclass(frozen=True, eq=False)
class Patch:
    """A node whose parameters name moving buffers."""

    graph: Any
    node: Any
    run: KernelRun


class Moving:
    """The buffers that lie elsewhere at each call, and the nodes that name them."""

    def __init__(self, driver: Driver, patches: Iterable[Patch]) -> None:
        self.driver = driver
        self._patches: dict[str, list[Patch]] = {}
        self._at: dict[str, int] = {}
        for patch in patches:
            for name in dict.fromkeys(name for _, name in patch.run.named):
                self._patches.setdefault(name, []).append(patch)

    def count(self, name: str) -> int:
        """How many nodes name a buffer."""
        return len(self._patches.get(name, ()))

    def move(self, places: Mapping[str, int]) -> None:
        """Buffers lie at these addresses from now on. Where the driver refuses, the next call tells
        all of them again.
        """
        moved = {name: at for name, at in places.items() if self._at.get(name) != at}
        told = dict.fromkeys(p for name in moved for p in self._patches.get(name, ()))
        for name in moved:
            self._at.pop(name, None)
        for patch in told:
            run = patch.run
            for word, name in run.named:
                run.parameters.put(word, places.get(name, self._at.get(name, 0)))
            self.driver.update_kernel(
                patch.graph, patch.node, run.function, run.grid, run.parameters, run.label
            )
        self._at.update(moved)

    def why_copied(self, name: str, address: int | None = None) -> str | None:
        """Why what is at this address, or anywhere, must be copied; None where it need not be."""
        count = self.count(name)
        if count > MOST_TOLD:
            return f"{count:,} launches name it"
        if address is not None and address % ALIGNMENT:
            return f"it begins at no multiple of {ALIGNMENT} bytes"
        return None
