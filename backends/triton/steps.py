"""A schedule with known sizes -> graphs and what the host does between them.

Launches between two joins run concurrently. How loops and branches run is chosen in ``control.py``;
what the device decides, it decides by gates (``gates.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Union

from graphc.backends.triton.compiler import CompiledKernel
from graphc.backends.triton.control import choices, known
from graphc.backends.triton.driver import Function, Parameters
from graphc.backends.triton.gates import ENDLESS
from graphc.backends.triton.holdings import Holdings
from graphc.backends.triton.jobs import Launching
from graphc.backends.triton.moving import KernelRun, Named, Patch
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
    "Kernels",
    "Loaded",
    "Repeat",
    "Step",
    "Until",
    "build_steps",
    "gate_words",
    "kernel_runs",
]


@dataclass(frozen=True)
class Graph:
    """Launch a graph."""

    handle: Any


@dataclass(frozen=True)
class Repeat:
    """Run ``steps`` for each value of the counter's cell."""

    counter: int
    length: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Until:
    """Run ``steps`` until the word at ``gate`` is not zero."""

    gate: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Branch:
    """Run one of two lists of steps: the first one where the word at ``gate`` is zero."""

    gate: int
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


#: what a statement runs, guarded or not
Kernels = Callable[[Launching, bool], Sequence[Loaded]]


def gate_words(schedule: Schedule) -> int:
    """How many words ``build_steps`` needs for gates."""
    return 2 * sum(isinstance(s, (While, If)) for s in walk(schedule.body))


def build_steps(
    schedule: Schedule, kernels: Kernels, addresses: Mapping[str, int], error: int,
    gates: Sequence[int], holdings: Holdings, moving: Mapping[str, str],
) -> tuple[tuple[Step, ...], tuple[Patch, ...]]:
    """The steps of a bound schedule, whose graphs ``holdings`` has, and the nodes that name buffers
    which lie elsewhere at each call (``moving``: names to those that are told). ``addresses`` are
    those of all buffers on the device, ``error`` and ``gates`` those of words.
    """
    builder = _Builder(schedule, kernels, addresses, error, holdings, gates, moving)
    return builder.whole(), tuple(builder.patches)


def kernel_runs(
    schedule: Schedule, kernels: Kernels, addresses: Mapping[str, int], error: int,
    holdings: Holdings,
) -> tuple[KernelRun, ...]:
    """The launches of a schedule without loops and branches, in order, one by one."""
    builder = _Builder(schedule, kernels, addresses, error, holdings)
    runs = []
    for statement in schedule.body:
        if isinstance(statement, Launch | Copy):
            runs += builder.ready(statement)
        elif isinstance(statement, Commit):
            builder.commit()
        elif not isinstance(statement, Barrier):
            raise BackendError(
                f"{schedule.name}: programs with loops or branches cannot be profiled on the device"
            )
    return tuple(runs)


class _Builder:
    def __init__(
        self, schedule: Schedule, kernels: Kernels, addresses: Mapping[str, int], error: int,
        holdings: Holdings, gates: Sequence[int] = (), moving: Mapping[str, str] | None = None,
    ) -> None:
        self.schedule, self.kernels = schedule, kernels
        self.addresses, self.error = addresses, error
        self.holdings, self.driver = holdings, holdings.driver
        controls = [s for s in walk(schedule.body) if isinstance(s, (While, If))]
        pairs = zip(gates[::2], gates[1::2], strict=True)
        self.gates = {id(s): pair for s, pair in zip(controls, pairs, strict=False)}
        self.choices = choices(schedule)
        self.guard = error
        self.guarded = False
        self.steps: list[Step] = []
        self.graph: Any = None
        self.last: Sequence[Any] = ()
        self.moving = moving or {}
        self.unpatched: list[tuple[Any, KernelRun]] = []
        self.patches: list[Patch] = []

    def whole(self) -> tuple[Step, ...]:
        try:
            self.body(self.schedule.body)
            self.close()
        except BaseException:
            if self.graph is not None:
                self.driver.drop_graph(self.graph)
            raise
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
                self.commit()
            case Loop():
                self.loop(statement)
            case While():
                self.turns(statement)
            case If():
                self.branch(statement)
            case Barrier() | Launch() | Copy():
                pass

    def commit(self) -> None:
        self.guarded = self.guarded or bool(self.schedule.checks)

    def loop(self, loop: Loop) -> None:
        choice, cell = self.choices[id(loop)], self.addresses[loop.counter]
        length = choice.turns
        if choice.whole:
            for i in range(length):
                self.word(cell, i)
                self.body(loop.body)
            self.word(cell, length)
            return
        self.close()
        self.steps.append(Repeat(cell, length, self.inner(loop.body)))

    def turns(self, loop: While) -> None:
        """A ``while`` loop."""
        gate, own = self.gates[id(loop)]
        count = own if loop.counter is None else self.addresses[loop.counter]
        limit = ENDLESS if loop.max_steps is None else max(0, known(loop.max_steps))
        outer = self.guard
        turn = [self.addresses[loop.predicate], outer, gate, count, gate, count, limit]
        choice = self.choices[id(loop)]

        def some_turns() -> None:
            for _ in range(choice.turns):
                with self.guarded_by(gate):
                    self.body(loop.body)
                self.decide(loop, turn)

        self.word(count, 0)
        self.word(gate, 1)
        self.decide(loop, turn)
        if choice.whole:
            some_turns()
            return
        self.close()
        self.steps.append(Until(gate, self.inner(some_turns)))

    def branch(self, branch: If) -> None:
        """Both sides, each guarded, or the one that the host finds to be taken."""
        gates = self.gates[id(branch)]
        sides = branch.then, branch.otherwise
        self.decide(branch, [self.addresses[branch.predicate], self.guard, *gates])
        if self.choices[id(branch)].whole:
            for gate, side in zip(gates, sides, strict=True):
                with self.guarded_by(gate):
                    self.body(side)
            return
        self.close()
        found = []
        for gate, side in zip(gates, sides, strict=True):
            with self.guarded_by(gate):
                found.append(self.inner(side))
        self.steps.append(Branch(gates[0], *found))

    @contextmanager
    def guarded_by(self, gate: int) -> Iterator[None]:
        """What is launched meanwhile does nothing while the word at ``gate`` is not zero."""
        before = self.guard, self.guarded
        self.guard, self.guarded = gate, True
        yield
        self.guard, self.guarded = before

    def decide(self, statement: While | If, words: list[int]) -> None:
        """A node that writes the statement's gates."""
        (loaded,) = self.kernels(statement, False)
        label = f"{loaded.kernel.name} {statement.predicate}"
        parameters = _parameters(loaded.compiled, words, label)
        named = self.named([statement.predicate])
        run = KernelRun(statement, loaded.function, 1, parameters, label, named)
        self.last = [self.chained(self.open(), self.last, [run])]

    def inner(self, body: Body | Callable[[], None]) -> tuple[Step, ...]:
        """The steps of a body that the host drives, with graphs of their own."""
        outer, self.steps = self.steps, []
        if callable(body):
            body()
        else:
            self.body(body)
        self.close()
        made, self.steps = tuple(self.steps), outer
        return made

    # -- graphs
    def open(self) -> Any:
        if self.graph is None:
            self.graph, self.last = self.driver.new_graph(), ()
        return self.graph

    def close(self) -> None:
        graph, unpatched = self.graph, self.unpatched
        self.graph, self.last, self.unpatched = None, (), []
        if graph is not None:
            ready = self.holdings.instantiate(graph)
            self.patches += [Patch(ready, node, run) for node, run in unpatched]
            self.steps.append(Graph(ready))

    def together(self, group: Sequence[Launch | Copy]) -> None:
        """Nodes that may run at the same time, after all that came before."""
        chains = [chain for statement in group if (chain := self.ready(statement))]
        if not chains:
            return
        graph = self.open()
        after = self.last
        if len(after) > 1 and len(chains) > 1:
            after = [self.driver.add_join(graph, after)]
        self.last = [self.chained(graph, after, chain) for chain in chains]

    def chained(self, graph: Any, after: Sequence[Any], runs: Sequence[KernelRun]) -> Any:
        """Nodes that follow each other: those of one launch. The last one."""
        for r in runs:
            node = self.driver.add_kernel(
                graph, after, r.function, r.grid, r.parameters, r.label
            )
            after = [node]
            if r.named:
                self.unpatched.append((node, r))
        return after[0]

    def named(self, buffers: Sequence[str], before: int = 0) -> Named:
        """Which of the words that are addresses of ``buffers``, behind ``before`` others, move."""
        return tuple(
            (n, self.moving[b]) for n, b in enumerate(buffers, before) if b in self.moving
        )

    def word(self, address: int, value: int) -> None:
        self.last = [self.driver.add_word(self.open(), self.last, address, value)]

    # -- launches
    def ready(self, statement: Launch | Copy) -> list[KernelRun]:
        """What a launch runs, with all its words; nothing where its grid is empty."""
        if isinstance(statement, Copy):
            sizes = [known(self.schedule.buffer[statement.source].type.elements)]
            label = f"copy {statement.source} -> {statement.target}"
        else:
            sizes = [known(e) for e in statement.sizes]
            where = "" if statement.source is None else f" ({statement.source})"
            label = f"kernel {statement.kernel}{where}"
        loaded = self.kernels(statement, self.guarded)
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
        named = self.named(loaded.buffers)
        if isinstance(statement, Launch):
            named += self.named(statement.scalars, len(words))
            words += [self.addresses[name] for name in statement.scalars]
            if loaded.kernel.checks:
                words += [self.error, statement.check_base]
        if self.guarded:
            words.append(self.guard)
        parameters = _parameters(loaded.compiled, words, label)
        return KernelRun(statement, loaded.function, grid, parameters, label, named)


def _parameters(compiled: CompiledKernel, words: list[int], label: str) -> Parameters:
    """The parameter block: the arguments, then null pointers to scratch that no kernel uses."""
    wanted = compiled.code.parameters
    if len(words) != len(compiled.emitted.arguments) or any(n != 8 for n in wanted):
        raise BackendError(f"{label}: its parameters are not those of the compiled code")
    return Parameters(words + [0] * (len(wanted) - len(words)))
