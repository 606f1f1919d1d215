"""Executable: a compiled program that is called with arrays.

It keeps one loaded program for each binding of the dims that specialize, the last few of them; dims
with ``specialize=False`` are run-time sizes of one program.
"""

from __future__ import annotations

import collections
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphc import tree
from graphc.backend import Exporting, Loaded, find_backend
from graphc.bind import Parameter, bind_arguments, order_arguments
from graphc.closing import bind_graph
from graphc.donation import give_away, takable
from graphc.errors import BackendError, BindError, DTypeError, OutOfMemoryError, ShapeError
from graphc.files import FilePath
from graphc.graph import HOOKS, Graph, Value
from graphc.memory import collection_paused
from graphc.passes.memory import MemoryPlan, plan_memory
from graphc.passes.pipeline import Compiled, compile_graph
from graphc.passes.rematerialize import recomputations
from graphc.profile import Profile, profile_of
from graphc.records import dataclass
from graphc.schedule import Schedule, bind_sizes, place_buffers
from graphc.state import StateCell
from graphc.types import Dim, Size, TensorType, int64

if TYPE_CHECKING:
    from graphc.passes.explain import Explanation

__all__ = ["Executable"]

#: bindings of specializing dims whose programs are kept
MAX_PROGRAMS = 16


@dataclass(frozen=True)
class _Program:
    """What one binding of the specializing dims was compiled to."""

    compiled: Compiled
    loaded: Loaded
    memory: MemoryPlan | None


class Executable:
    """A compiled program; call it with arrays by position or by name.

    ``graph`` is the closed graph, ``states`` the cells that it reads or writes. ``schedule``,
    ``memory``, ``source`` and the like speak of the binding used last; where sizes specialize there
    is none before the first call.
    """

    def __init__(
        self,
        graph: Graph,
        arguments: tuple[Value | Dim, ...],
        form: tree.Structure,
        *,
        name: str,
        mode: str,
        backend: str | None,
        check_nan: bool = False,
        memory_budget: int | None = None,
        precision: str = "ieee",
        donated: tuple[int, ...] = (),
        target: str | None = None,
        tune: str | None = None,
    ) -> None:
        self.graph = graph
        self.name, self.mode = name, mode
        self.states: tuple[StateCell, ...] = tuple(v.node.attrs["state"] for v in graph.states)
        self._arguments, self._donated = arguments, donated
        self._parameters = tuple(_parameter(v) for v in arguments)
        found = find_backend(backend, target)
        self._backend = found.with_options(precision=precision, tune=tune)
        values = [n for n, v in enumerate(arguments) if isinstance(v, Value)]
        reused = donated if self._backend.reuses_arguments else ()
        self._donated_values = tuple(values.index(n) for n in reused)
        self._target, self._precision = target, precision
        self._check_nan, self._memory_budget = check_nan, memory_budget
        self._programs: collections.OrderedDict[tuple[int, ...], _Program] = (
            collections.OrderedDict()
        )
        self._lock = threading.RLock()
        self._form = form
        self._restore = _restorer(form)
        self._current: _Program | None = None
        self._call: Callable[..., Any] | None = None
        #: what ``profile`` measured last
        self.last_profile: Profile | None = None
        dims = {d for v in arguments if isinstance(v, Value) for e in v.shape for d in _dims(e)}
        dims |= {d for v in arguments if isinstance(v, Dim) for d in v.dims}
        self._specialized = tuple(sorted((d for d in dims if d.specialize), key=lambda d: d.name))
        if target is not None and self._specialized:
            raise BindError(
                f"{name}: compile(target=) makes code ahead of calls, and {self._specialized[0]} "
                "is compiled for when it is known: give ints, or Dim(..., specialize=False)"
            )
        if not self._specialized:
            self._use(self._program({}))

    def __call__(self, *args: Any, out: Any = None, **by_name: Any) -> Any:
        """Run. The results are written to the arrays of ``out``, if it is given."""
        if self._donated:
            return self._taking(out, args, by_name)
        if out is not None:
            return self._into(out, args, by_name)
        result = (self._call or self._slow)(*args, **by_name)
        return result if self._restore is None else self._restore(result)

    def __repr__(self) -> str:
        given = ", ".join(str(p.name) for p in self._parameters)
        return f"<executable {self.name}({given}), {self.mode}, {self._backend.name}>"

    @property
    def arguments(self) -> tuple[Value | Dim, ...]:
        """What a call takes, in order."""
        return self._arguments

    def _taking(self, out: Any, args: tuple[Any, ...], by_name: dict[str, Any]) -> Any:
        """A call that takes the memory of donated arguments."""
        if out is not None:
            raise BindError(
                f"{self.name}: out= and donate= both say where results lie: leave out= out"
            )
        ordered = order_arguments(self._parameters, args, by_name, who=self.name)
        taken = self._takable(ordered)
        try:
            result = (self._call or self._slow)(*ordered)
        except (BindError, DTypeError, ShapeError):
            raise  # before anything ran
        except BaseException:
            give_away(taken)
            raise
        give_away(taken)
        return result if self._restore is None else self._restore(result)

    def _takable(self, ordered: Sequence[Any]) -> list[Any]:
        on_device = self._backend.on_device
        return takable(self.name, ordered, self._parameters, self._donated, on_device)

    # -- calls that are not exactly what the current program expects
    def _slow(self, *args: Any, **by_name: Any) -> Any:
        """Convert the arguments, or say what is wrong; find or make the program of their sizes."""
        arrays, sizes = self._bind(args, by_name)
        with self._lock:
            program = self._program(sizes)
            self._use(program)
        run_time = {d.name: n for d, n in sizes.items() if not d.specialize}
        with _explained_memory(program.compiled.scheduled.schedule, program.memory, run_time):
            program.loaded.rebind(run_time)
        return program.loaded.call(*arrays)

    def _bind(
        self, args: Sequence[Any], by_name: Mapping[str, Any]
    ) -> tuple[list[NDArray[Any]], dict[Dim, int]]:
        """Arrays for the values, and the sizes of all dims."""
        ordered = order_arguments(self._parameters, args, by_name, who=self.name)
        sizes: dict[Dim, int] = {}
        arrays: list[Any] = []
        parameters: list[Parameter] = []
        pairs = zip(self._arguments, self._parameters, ordered, strict=True)
        for argument, parameter, value in pairs:
            if isinstance(argument, Dim):
                sizes[argument] = _size(argument, value, self.name)
            else:
                arrays.append(value)
                parameters.append(parameter)
        dense, bound = bind_arguments(
            parameters, arrays, who=self.name, on_device=self._backend.on_device
        )
        for dim, size in bound.items():
            if sizes.setdefault(dim, size) != size:
                raise BindError(f"{self.name}: {dim} is {sizes[dim]}, but an array has {size}")
        return dense, sizes

    def _into(self, out: Any, args: Sequence[Any], by_name: Mapping[str, Any]) -> Any:
        targets = tree.matching_leaves(out, self._form, "out")
        arrays, sizes = self._bind(args, by_name)
        with self._lock:
            program = self._program(sizes)
            self._use(program)
        program.loaded.call_into(arrays, targets)
        return out

    # -- programs
    def _use(self, program: _Program) -> None:
        self._current = program
        only_values = all(isinstance(a, Value) for a in self._arguments)
        self._call = program.loaded.call if only_values else None

    def _program(self, sizes: Mapping[Dim, int]) -> _Program:
        key = tuple(sizes[d] for d in self._specialized)
        found = self._programs.get(key)
        if found is not None:
            self._programs.move_to_end(key)
            return found
        fixed = dict(zip(self._specialized, key, strict=True))
        with collection_paused():
            made = self._programs[key] = self._compiled(fixed)
        while len(self._programs) > MAX_PROGRAMS:
            self._programs.popitem(last=False)
        return made

    def _compiled(self, fixed: Mapping[Dim, int]) -> _Program:
        graph, _ = bind_graph(self.graph, fixed)
        compiled, memory = self._fitting(graph)
        scheduled = compiled.scheduled
        with _explained_memory(scheduled.schedule, memory):
            loaded = self._backend.compile(
                scheduled.schedule,
                states={name: cell.buffer for name, cell in scheduled.cells.items()},
                constants=dict(scheduled.constants),
                plan=partial(_offsets, memory, self.name, self._memory_budget),
                slow=_without_holding(self),
            )
        return _Program(compiled, loaded, memory)

    def _fitting(self, graph: Graph) -> tuple[Compiled, MemoryPlan | None]:
        """What the graph compiles to, with forward values computed again where the budget asks for
        it.
        """
        compiled, memory = self._planned(graph)
        budget = self._memory_budget
        if budget is None or memory is None or memory.peak <= budget:
            return compiled, memory
        least = memory.peak
        for repeated in recomputations(graph):
            compiled, tried = self._planned(repeated)
            assert tried is not None  # its sizes are those of the first
            if tried.peak <= budget:
                return compiled, tried
            least = min(least, tried.peak)
        raise BackendError(
            f"{self.name} needs {least:,} bytes for intermediate results, computing again what it "
            f"can ({memory.peak:,} without); the budget is {budget:,}"
        )

    def _planned(self, graph: Graph) -> tuple[Compiled, MemoryPlan | None]:
        compiled = compile_graph(
            graph, self.name, check_nan=self._check_nan, rewrite=self._backend.refine,
            blocks=self._backend.blocks, donated=self._donated_values,
            keep=self._backend.keeps_results and self._memory_budget is None,
        )
        schedule = compiled.scheduled.schedule
        return compiled, None if schedule.sizes else plan_memory(schedule)

    # -- looking
    def _latest(self) -> _Program:
        if self._current is None:
            dims = ", ".join(map(str, self._specialized))
            raise BindError(f"{self.name} is compiled for each {dims}: call it once first")
        return self._current

    @property
    def compiled_sizes(self) -> tuple[dict[str, int], ...]:
        """What specializing dims were bound to, for each program that is held; last used, last.

        >>> import graphc as gc, numpy as np
        >>> x = gc.observed("x", (gc.Dim("B"),))
        >>> twice = gc.compile([x], x + x, backend="llvm")
        >>> [twice(np.ones(n, np.float32)).sum() for n in (2, 3, 2)], twice.compiled_sizes
        ([np.float32(4.0), np.float32(6.0), np.float32(4.0)], ({'B': 3}, {'B': 2}))
        """
        names = [str(d) for d in self._specialized]
        return tuple(dict(zip(names, key, strict=True)) for key in self._programs)

    @property
    def schedule(self) -> Schedule:
        """What runs in which order."""
        return self._latest().compiled.scheduled.schedule

    @property
    def memory(self) -> MemoryPlan:
        """Where intermediate results lie, and their peak in bytes."""
        plan = self._latest().memory
        if plan is None:
            raise BindError(f"{self.name} plans memory for each size at run time")
        return plan

    @property
    def compiled(self) -> Compiled:
        """What every level made of the graph."""
        return self._latest().compiled

    def profile(self, *args: Any, **by_name: Any) -> Profile:
        """Call, and say when each worker ran its share of each launch; states move as in a call."""
        ordered = order_arguments(self._parameters, args, by_name, who=self.name)
        give_away(self._takable(ordered))
        arrays, sizes = self._bind(args, by_name)
        with self._lock:
            program = self._program(sizes)
            self._use(program)
        program.loaded.rebind({d.name: n for d, n in sizes.items() if not d.specialize})
        result, times = program.loaded.profile(*arrays)
        restored = result if self._restore is None else self._restore(result)
        self.last_profile = profile_of(self.schedule, times, restored)
        return self.last_profile

    def save(self, path: FilePath) -> None:
        """Write a program that was compiled for a target as a folder: machine code, the launch
        plan, the graph, what states hold now. ``gc.load_executable(path, trust=True)`` reads it.

        All or nothing. BackendError for programs of this machine, BindError where an argument is a
        Dim.
        """
        if self._target is None or not isinstance(self._backend, Exporting):
            raise BackendError(
                f"{self.name}.save: only what compile(target=...) made can be exported; gc.save "
                "writes what modules and optimizers hold"
            )
        dim = next((a for a in self._arguments if isinstance(a, Dim)), None)
        if dim is not None:
            raise BindError(f"{self.name}.save: an export takes arrays, and {dim} is an argument")
        latest = self._latest()
        scheduled = latest.compiled.scheduled
        schedule = scheduled.schedule
        if latest.memory is not None:
            schedule = place_buffers(schedule, latest.memory.offsets)
        from graphc.export import Content, write_export  # few programs are exported

        write_export(
            path,
            Content(
                self.name, self.mode, self._target, self._precision, self.graph, schedule,
                self._form, {name: cell.numpy() for name, cell in scheduled.cells.items()},
                dict(scheduled.constants), self._backend.export(latest.loaded),
            ),
        )  # fmt: skip

    def _repr_svg_(self) -> str | None:
        drawn: str | None = HOOKS["svg"](self) if "svg" in HOOKS else None
        return drawn

    def explain(self) -> Explanation:
        """What was fused into what, and for each edge that was not, why, with a number."""
        from graphc.passes.explain import explain  # few programs are looked at

        latest = self._latest()
        return explain(latest.compiled, latest.memory, latest.loaded.control)

    def source(self, kernel: str) -> str:
        """The text that a kernel was compiled from."""
        return self._latest().loaded.source(kernel)

    def asm(self, kernel: str, kind: str = "asm") -> str:
        """A kernel's machine code (``kind="asm"``) or the text it came from (``kind="ir"``); on
        GPUs also what lies between: ``"ttgir"``, ``"ptx"``, and ``"sass"`` for the machine code.
        """
        loaded = self._latest().loaded
        if kind == "ir":
            return loaded.source(kernel)
        if kind not in loaded.assembly_kinds:
            kinds = ", ".join(map(repr, ("ir", *loaded.assembly_kinds)))
            raise BindError(f"asm(kind={kind!r}): it is one of {kinds}")
        return loaded.assembly(kernel, kind)

    def resources(self, kernel: str) -> dict[str, int]:
        """Bytes read and written and operations of a kernel's launches in one call; on GPUs also
        the registers, stack and shared memory that its code takes.
        """
        entries = [e for e in self.explain().kernels if e.name == kernel]
        if not entries:
            raise BindError(f"{self.name} has no kernel {kernel!r}")
        return {
            "launches": len(entries),
            "bytes_read": sum(e.bytes_read for e in entries),
            "bytes_written": sum(e.bytes_written for e in entries),
            "flops": sum(e.flops for e in entries),
            **self._latest().loaded.resources(kernel),
        }


def _offsets(
    memory: MemoryPlan | None, name: str, budget: int | None, bound: Schedule
) -> Mapping[str, int]:
    """Where buffers lie. Kernels of run-time sizes are there already: they fit or they do not."""
    plan = memory or plan_memory(bound)
    if memory is None and budget is not None and plan.peak > budget:
        raise BackendError(
            f"{name} needs {plan.peak:,} bytes for intermediate results at these sizes, "
            f"the budget is {budget:,}"
        )
    return plan.offsets


def _without_holding(executable: Executable) -> Callable[..., Any]:
    """Its slow call, for what it owns: an executable goes when its user lets go of it."""
    known = weakref.ref(executable)

    def slow(*args: Any, **by_name: Any) -> Any:
        alive = known()
        assert alive is not None  # its call is running
        return alive._slow(*args, **by_name)

    return slow


@contextmanager
def _explained_memory(
    schedule: Schedule, memory: MemoryPlan | None, sizes: Mapping[str, int] | None = None
) -> Iterator[None]:
    """An error about too little memory says which lines of the program own the peak."""
    try:
        yield
    except OutOfMemoryError as error:
        if memory is None and not sizes:
            raise
        plan = memory or plan_memory(bind_sizes(schedule, sizes or {}))
        owners = sorted(plan.by_source(schedule).items(), key=lambda pair: -pair[1])
        listed = ", ".join(f"{size:,} from {line}" for line, size in owners[:3])
        raise OutOfMemoryError(
            f"{error.message}\n  intermediate results take {plan.peak:,} bytes at their peak: "
            f"{listed or 'none'}; smaller sizes, memory_budget= or gc.remat need less",
            error.source,
        ) from error


def _parameter(argument: Value | Dim) -> Parameter:
    if isinstance(argument, Dim):
        return Parameter(argument.name, TensorType(int64, ()))
    return Parameter(str(argument.name), argument.type, argument.node.source)


def _dims(extent: object) -> tuple[Dim, ...]:
    return extent.dims if isinstance(extent, Size) else ()


def _size(dim: Dim, value: Any, who: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise BindError(f"{who}: {dim} is a size: give an int, not {value!r}")
    size = int(value)
    if size < dim.min or (dim.max is not None and size > dim.max) or size % dim.multiple_of:
        raise BindError(f"{who}: {dim} = {size} is outside of what the Dim allows")
    return size


def _restorer(form: tree.Structure) -> Callable[[Any], Any] | None:
    """What makes the outputs' structure of the program's result; None where that is it already."""
    if form.kind is None:
        return None
    flat = all(child.kind is None for child in form.children)
    if form.count >= 2 and flat and form.kind is tuple:
        return None
    if form.count >= 2 and flat and form.kind is list:
        return list
    if form.count == 0:
        return lambda result: form.build([])
    if form.count == 1:
        return lambda result: form.build([result])
    return form.build
