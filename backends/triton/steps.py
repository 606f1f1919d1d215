"""A schedule with known sizes -> graphs and what the host does between them.

Launches between two joins run concurrently; a loop of known length is unrolled into one graph up to
``MOST_NODES`` nodes. Longer loops, ``while`` and ``if`` are driven by the host: it sets the
counter's cell, reads the predicate, and launches the body's graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

from graphc.backends.triton.compiler import CompiledKernel
from graphc.backends.triton.driver import Driver, Function, Parameters
from graphc.backends.triton.routines import Launches
from graphc.errors import BackendError
from graphc.kernel.terms import Kernel
from graphc.records import dataclass
from graphc.schedule import (
    Barrier,
    Body,
    Commit,
    Copy,
    If,
    Launch,
    Loop,
    Schedule,
    Statement,
    While,
    evaluate_extent,
    walk,
)

__all__ = [
    "Branch",
    "Graph",
    "KernelRun",
    "Kernels",
    "Loaded",
    "Repeat",
    "Step",
    "Until",
    "build_steps",
    "kernel_runs",
]

#: nodes of one graph beyond which a loop is driven by the host
MOST_NODES = 4096


@dataclass(frozen=True)
class KernelRun:
    """One launch, ready: the kernel's function, its grid, and the words of its parameters."""

    statement: Launch | Copy
    function: Function
    grid: int
    parameters: Parameters
    label: str


@dataclass(frozen=True)
class Graph:
    """Launch a graph."""

    handle: Any
    nodes: int


@dataclass(frozen=True)
class Repeat:
    """Run ``steps`` for each value of the counter's cell."""

    counter: int
    length: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Until:
    """Run ``steps`` while the predicate's cell is not zero, at most ``limit`` times."""

    predicate: int
    counter: int | None
    limit: int | None
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Branch:
    """Run one of two lists of steps, by the predicate's cell."""

    predicate: int
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]


Step = Union[Graph, Repeat, Until, Branch]


@dataclass(frozen=True)
class Loaded:
    """A kernel that a launch runs, with the names of the buffers it takes."""

    compiled: CompiledKernel
    function: Function
    kernel: Kernel
    buffers: tuple[str, ...]
    launches: Launches | None = None


#: what a launch or copy runs, before (False) or after (True) the commit
Kernels = Callable[[Launch | Copy, bool], Sequence[Loaded]]


def build_steps(
    schedule: Schedule, kernels: Kernels, addresses: Mapping[str, int], error: int, driver: Driver
) -> tuple[Step, ...]:
    """The steps of a bound schedule. ``addresses`` are those of all buffers on the device."""
    return _Builder(schedule, kernels, addresses, error, driver).whole()


def kernel_runs(
    schedule: Schedule, kernels: Kernels, addresses: Mapping[str, int], error: int, driver: Driver
) -> tuple[KernelRun, ...]:
    """The launches of a schedule without loops and branches, in order, one by one."""
    builder = _Builder(schedule, kernels, addresses, error, driver)
    runs = []
    for statement in schedule.body:
        if isinstance(statement, Launch | Copy):
            runs += builder.ready(statement)
        elif isinstance(statement, Commit):
            builder.committed = True
        elif not isinstance(statement, Barrier):
            raise BackendError(
                f"{schedule.name}: programs with loops or branches cannot be profiled on the device"
            )
    return tuple(runs)


class _Builder:
    def __init__(
        self, schedule: Schedule, kernels: Kernels, addresses: Mapping[str, int], error: int,
        driver: Driver,
    ) -> None:
        self.schedule, self.kernels = schedule, kernels
        self.addresses, self.error, self.driver = addresses, error, driver
        self.committed = False
        self.steps: list[Step] = []
        self.graph: Any = None
        self.nodes = 0
        self.last: Sequence[Any] = ()

    def whole(self) -> tuple[Step, ...]:
        self.body(self.schedule.body)
        self.close()
        return tuple(self.steps)

    def body(self, body: Body) -> None:
        group: list[Launch | Copy] = []
        for statement in body:
            if isinstance(statement, Launch | Copy):
                group.append(statement)
                continue
            self.together(group)
            group = []
            self.control(statement)
        self.together(group)

    def control(self, statement: Statement) -> None:
        match statement:
            case Commit():
                self.committed = True
            case Loop():
                self.loop(statement)
            case While():
                self.close()
                counter = statement.counter
                self.steps.append(
                    Until(
                        self.addresses[statement.predicate],
                        None if counter is None else self.addresses[counter],
                        None if statement.max_steps is None else _known(statement.max_steps),
                        self.inner(statement.body),
                    )
                )
            case If():
                self.close()
                sides = self.inner(statement.then), self.inner(statement.otherwise)
                self.steps.append(Branch(self.addresses[statement.predicate], *sides))
            case Barrier() | Launch() | Copy():
                pass

    def loop(self, loop: Loop) -> None:
        length, cell = max(0, _known(loop.length)), self.addresses[loop.counter]
        simple = not any(isinstance(s, While | If) for s in walk(loop.body))
        if simple and self.nodes + length * _nodes_of(loop.body) <= MOST_NODES:
            for i in range(length):
                self.word(cell, i)
                self.body(loop.body)
            self.word(cell, length)
            return
        self.close()
        self.steps.append(Repeat(cell, length, self.inner(loop.body)))

    def inner(self, body: Body) -> tuple[Step, ...]:
        """The steps of a body that the host drives, with graphs of their own."""
        outer, self.steps = self.steps, []
        self.body(body)
        self.close()
        made, self.steps = tuple(self.steps), outer
        return made

    # -- graphs
    def open(self) -> Any:
        if self.graph is None:
            self.graph, self.nodes, self.last = self.driver.new_graph(), 0, ()
        return self.graph

    def close(self) -> None:
        if self.graph is not None:
            self.steps.append(Graph(self.driver.instantiate(self.graph), self.nodes))
        self.graph, self.nodes, self.last = None, 0, ()

    def together(self, group: Sequence[Launch | Copy]) -> None:
        """Nodes that may run at the same time, after all that came before."""
        chains = [chain for statement in group if (chain := self.ready(statement))]
        if not chains:
            return
        graph = self.open()
        after = self.last
        if len(after) > 1 and len(chains) > 1:
            after = [self.driver.add_join(graph, after)]
            self.nodes += 1
        self.last = [self.chained(graph, after, chain) for chain in chains]

    def chained(self, graph: Any, after: Sequence[Any], runs: Sequence[KernelRun]) -> Any:
        """Nodes that follow each other: those of one launch. The last one."""
        for r in runs:
            node = self.driver.add_kernel(
                graph, after, r.function, r.grid, r.parameters, r.label
            )
            after = [node]
        self.nodes += len(runs)
        return after[0]

    def word(self, address: int, value: int) -> None:
        self.last = [self.driver.add_word(self.open(), self.last, address, value)]
        self.nodes += 1

    # -- launches
    def ready(self, statement: Launch | Copy) -> list[KernelRun]:
        """What a launch runs, with all its words; nothing where its grid is empty."""
        if isinstance(statement, Copy):
            sizes = [_known(self.schedule.buffer[statement.source].type.elements)]
            label = f"copy {statement.source} -> {statement.target}"
        else:
            sizes = [_known(e) for e in statement.sizes]
            where = "" if statement.source is None else f" ({statement.source})"
            label = f"kernel {statement.kernel}{where}"
        loaded = self.kernels(statement, self.committed)
        runs = [
            self.run(statement, one, own, label)
            for one in loaded
            for own in ([sizes] if one.launches is None else one.launches(sizes))
        ]
        return [run for run in runs if run.grid > 0]

    def run(
        self, statement: Launch | Copy, loaded: Loaded, sizes: list[int], label: str
    ) -> KernelRun:
        emitted = loaded.compiled.emitted
        names = [s.name for s in loaded.kernel.sizes]
        grid = evaluate_extent(emitted.grid, dict(zip(names, sizes, strict=True)))
        words = [self.addresses[name] for name in loaded.buffers] + sizes
        if isinstance(statement, Launch):
            words += [self.addresses[name] for name in statement.scalars]
        base = statement.check_base if isinstance(statement, Launch) else 0
        words += [self.error, base][: len(emitted.arguments) - len(words)]
        parameters = _parameters(loaded.compiled, words, label)
        return KernelRun(statement, loaded.function, grid, parameters, label)


def _parameters(compiled: CompiledKernel, words: list[int], label: str) -> Parameters:
    """The parameter block: the arguments, then null pointers to scratch that no kernel uses."""
    wanted = compiled.code.parameters
    if len(words) != len(compiled.emitted.arguments) or any(n != 8 for n in wanted):
        raise BackendError(f"{label}: its parameters are not those of the compiled code")
    return Parameters(words + [0] * (len(wanted) - len(words)))


def _nodes_of(body: Body) -> int:
    return 2 + sum(
        max(0, _known(s.length)) * _nodes_of(s.body) if isinstance(s, Loop) else 2 for s in body
    )


def _known(extent: object) -> int:
    if not isinstance(extent, int):
        raise BackendError(f"the size {extent} is not bound")
    return extent
