"""Kernel + Tiling -> a readable Triton source file, by walking its nest.

The function's arguments are the inputs and outputs (pointers), sizes (i64), scalars (pointers),
where there are checks the error word's pointer and the first check's id, and where the kernel is
guarded a word's pointer: a *guarded* kernel does nothing while that word is not zero.
A grid of one dimension numbers the blocks. An axis that fits in one tile is no loop: its points are
a dimension of every value. A scan over a longer one runs in the loops that read it::

    scan over j        state = identity
    for j {use}   ->   for tile of j {scan the tile, behind state; state = its last; use}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.backends.triton.access import emit_load, emit_store
from graphc.backends.triton.context import Context, Coordinate
from graphc.backends.triton.coordinates import Coordinates
from graphc.backends.triton.folds import Folds
from graphc.backends.triton.source import DTYPE_TEXT, Source, Tile
from graphc.backends.triton.tiling import GpuTiling
from graphc.errors import KernelError
from graphc.kernel.monoids import fitted
from graphc.kernel.terms import Apply, AxisIndex, Check, Kernel, Load, Result, Term
from graphc.nest import (
    Accumulate,
    Begin,
    Buffer,
    End,
    Fill,
    Let,
    Loop,
    Recall,
    Step,
    Update,
    UpdateHeld,
    Verify,
    Write,
    build_nest,
)
from graphc.records import dataclass
from graphc.types import Extent, bool_

__all__ = ["CHECK_LIMIT", "Emitted", "emit_kernel"]

#: the error word is this less the id of the failed check, so that the first check is the largest
CHECK_LIMIT = 1 << 40
_FILL_POINTS = 1024

_HEADER = """\
import triton
import triton.language as tl
from triton.language.extra import libdevice

from graphc.backends.triton import device
"""


@dataclass(frozen=True)
class Emitted:
    """The text of a kernel as a Triton module, its function's name, arguments (name, Triton type)
    and number of blocks. A type ``i64:8`` is that of a size which 8 divides.
    """

    text: str
    symbol: str
    arguments: tuple[tuple[str, str], ...]
    grid: Extent


def emit_kernel(
    kernel: Kernel,
    tiling: GpuTiling,
    *,
    precision: str = "ieee",
    guarded: bool = False,
    symbol: str | None = None,
) -> Emitted:
    """The Triton source of a kernel. KernelError where the tiling does not fit.

    ``precision`` is that of f32 contractions on matrix units: "ieee" or "tf32".
    """
    return _Emitter(kernel, tiling, precision, guarded, symbol or kernel.name).run()


class _Emitter:
    def __init__(
        self, kernel: Kernel, tiling: GpuTiling, precision: str, guarded: bool, symbol: str
    ) -> None:
        self.kernel, self.tiling, self.guarded = kernel, tiling, guarded
        self.nest = build_nest(kernel, tiling.nest)
        self.source = Source(frozenset({symbol}))
        self.symbol = symbol
        self.k = Context(kernel, tiling.nest.tile, self.source)
        self.folds = Folds(self.k, precision)
        self.places = Coordinates(self.k, tiling)
        self.buffers: dict[Buffer, Tile] = {}
        self.waiting: dict[Buffer, Loop] = {}
        self.error = self.check_base = self.guard = ""

    # -- the function
    def run(self) -> Emitted:
        arguments = self.arguments()
        names = ", ".join(name for name, _ in arguments)
        if self.guarded:
            with self.k.block(f"if tl.load({self.guard}) == 0:"):
                self.body()
        else:
            self.body()
        if not self.source.lines or self.source.lines[-1].endswith(":"):
            self.source.lines.append("        pass" if self.guarded else "    pass")
        helpers = [text + "\n\n" for text in self.folds.combiners.values()]
        function = [f"@triton.jit\ndef {self.symbol}({names}):", *self.source.lines]
        text = _HEADER + "\n\n" + "\n".join([*helpers, *function]) + "\n"
        return Emitted(text, self.symbol, arguments, self.grid())

    def arguments(self) -> tuple[tuple[str, str], ...]:
        k, found = self.k, []
        for tensor in (*self.kernel.inputs, *self.kernel.outputs):
            name = k.pointers[tensor.name] = self.source.fresh(tensor.name)
            dtype = tensor.type.dtype
            found.append((name, f"*{_memory(dtype.short)}"))
        for size in self.kernel.sizes:
            k.sizes[size.name] = self.source.fresh(size.name)
            divisor = size.multiple_of & -size.multiple_of
            found.append((k.sizes[size.name], f"i64:{divisor}" if divisor > 1 else "i64"))
        scalars = []
        for scalar in self.kernel.scalars:
            pointer = self.source.fresh(f"{scalar.name}_at")
            scalars.append((scalar, pointer))
            found.append((pointer, f"*{_memory(scalar.dtype.short)}"))
        if self.kernel.checks:
            self.error = self.source.fresh("error")
            self.check_base = self.source.fresh("first_check")
            found += [(self.error, "*i64"), (self.check_base, "i64")]
        if self.guarded:
            self.guard = self.source.fresh("guard")
            found.append((self.guard, "*i64"))
        self.pending = scalars
        return tuple(found)

    def body(self) -> None:
        for scalar, pointer in self.pending:
            text = self.source.let(f"tl.load({pointer})", scalar.name)
            if scalar.dtype is bool_:
                text = self.source.let(f"({text} != 0)", scalar.name)
            self.k.scalars[scalar.name] = Tile(text, scalar.dtype)
        self.places.open_whole()
        self.steps(self.nest.prologue)
        self.places.open_blocks(self.nest.grid)
        self.steps(self.nest.body)

    def grid(self) -> Extent:
        total: Extent = 1
        for axis in self.nest.grid:
            total = total * self.places.count(axis)
        return total

    # -- steps
    def steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Let(term=term):
                    self.let(term)
                case Loop():
                    self.loop(step)
                case Begin(of=trip):
                    self.folds.begin(trip, [a for a in trip.over if not self.places.is_whole(a)])
                case Update(of=trip):
                    self.folds.update(trip)
                case UpdateHeld(of=trip, member=member, state=n):
                    self.folds.update_held(trip, member, n)
                case End(of=trip):
                    for key, buffer in trip.held.items():
                        self.buffers[buffer] = self.folds.running[trip].states[key]
                    self.folds.end(trip, self.bind_result)
                case Accumulate(scan=scan, buffers=buffers):
                    tiles = self.folds.scan(scan)
                    for buffer in buffers:
                        assert isinstance(buffer.term, Result)
                        self.buffers[buffer] = tiles[buffer.term.index]
                case Recall(term=term, buffer=buffer):
                    self.k.bind(term, self.buffers[buffer])
                case Fill():
                    self.fill(step)
                case Write(store=store):
                    emit_store(self.k, store)
                case Verify(check=check):
                    self.verify(check)
                case _:
                    raise KernelError(f"{self.kernel.name}: a tile cannot {type(step).__name__}")

    def bind_result(self, term: Term, tile: Tile) -> None:
        if self.k.find(term) is None:
            self.k.bind(term, tile)

    def let(self, term: Term) -> None:
        if self.k.find(term) is not None:
            return
        if isinstance(term, Load):
            self.k.bind(term, self.k.name(term, emit_load(self.k, term), term.tensor))
            return
        assert isinstance(term, Apply)
        tile = self.k.apply(term.op, [self.k.value(a) for a in term.args], term.dtype, term)
        self.k.bind(term, self.k.name(term, tile))

    def loop(self, step: Loop) -> None:
        axis = step.axis
        if self.kernel.extents[axis] == 0 and not step.passes:
            return
        if axis in self.places.blocked and step.blocked:
            with self.k.at(self.places.blocked[axis]):
                self.steps(step.body)
        elif self.places.is_whole(axis):
            with self.k.at(self.places.whole_coordinate(step)):
                self.steps(step.body)
        elif step.scans:
            self.waiting |= dict.fromkeys(_accumulated(step), step)
        else:
            self.real_loop(step)

    def real_loop(self, step: Loop) -> None:
        axis, size = step.axis, self.k.tile.get(step.axis, 1)
        extent = self.k.extent(self.kernel.extents[axis])
        scans = self.scans_of(step)
        start, stop, aligned = self.places.bounds(step, extent, size, narrow=not scans)
        for loop in scans:
            self.folds.begin_scan(loop.scans[0])
        index = self.source.fresh(f"{axis}_0" if size > 1 else axis)
        end = stop if size > 1 and (step.upper is not None or not aligned) else None
        with self.k.block(f"for {index} in range({start}, {stop}, {size}):"):
            first = self.places.from_the_end(axis, index) if _reversed(scans) else index
            if size == 1:
                coordinate = Coordinate(axis, first, 1)
            else:
                coordinate = self.places.range(axis, first, size if aligned else 1, end)
            for loop in scans:
                with self.k.at(self.places.scanned(coordinate, loop.scans[0])):
                    self.steps(loop.body)
            with self.k.at(coordinate):
                self.steps(step.body)
        for loop in scans:
            self.folds.end_scan(loop.scans[0])

    def scans_of(self, step: Loop) -> list[Loop]:
        """The loops of scans that are read in a loop, in order: those that a scan reads come first.
        KernelError where they do not run through the same points.
        """
        found: list[Loop] = []

        def add(body: Sequence[Step]) -> None:
            for buffer in _recalled(body):
                loop = self.waiting.get(buffer)
                if loop is not None and loop.axis == step.axis and loop not in found:
                    add(loop.body)
                    found.append(loop)

        add(step.body)
        bounded = step.lower is not None or step.upper is not None
        if found and (bounded or len({loop.reverse for loop in found}) > 1):
            raise KernelError(
                f"{self.kernel.name}: scans over {step.axis!r} run in both directions, or further "
                "than the loop that reads them"
            )
        return found

    # -- outputs that start from a constant, and checks
    def fill(self, step: Fill) -> None:
        tensor = self.kernel.tensors[step.tensor]
        assert tensor.init is not None
        shape, dtype = tensor.type.shape, tensor.type.dtype
        value = fitted(tensor.init, dtype)
        number = int(value) if dtype is bool_ else value
        typed = f"tl.full([], {number}, {DTYPE_TEXT['i8' if dtype is bool_ else dtype.short]})"
        free: Extent = _product(shape[n] for n in step.free)
        index = self.source.fresh("fill")
        with self.k.block(f"for {index} in range(0, {self.k.extent(free)}, {_FILL_POINTS}):"):
            points = f"{index} + tl.arange(0, {_FILL_POINTS})"
            if self.k.exceeds(shape):
                points = f"tl.cast({index}, tl.int64) + tl.arange(0, {_FILL_POINTS})"
            point = self.source.let(points, "point")
            self.fill_tile(step, point, free, typed)
        self.source.line("tl.debug_barrier()")

    def fill_tile(self, step: Fill, point: str, free: Extent, value: str) -> None:
        tensor = self.kernel.tensors[step.tensor]
        shape = tensor.type.shape
        texts, tests, open_axes = [], [], []
        for n in range(len(shape)):
            term = step.index[n]
            if isinstance(term, AxisIndex):
                open_axes.append(term.axis)
        dims = self.k.dimensions(open_axes)
        place = "[" + ", ".join(["None"] * len(dims) + [":"]) + "]" if dims else ""
        inner: Extent = 1
        for n in reversed(range(len(shape))):
            step_text = self.k.extent(_product(shape[n + 1 :]))
            term = step.index[n]
            if isinstance(term, AxisIndex):
                c = self.k.coordinates[term.axis]
                own = [":" if a == term.axis else "None" for a in dims] + ["None"]
                suffix = f"[{', '.join(own)}]" if c.size > 1 else ""
                own_text = c.text + suffix
                if self.k.exceeds(shape):
                    own_text = f"tl.cast({own_text}, tl.int64)"
                texts.append(_times(own_text, step_text))
                if c.valid is not None:
                    tests.append(f"{c.valid.text}{suffix if c.size > 1 else ''}")
                continue
            digit = f"({point} // {self.k.extent(inner)}) % {self.k.extent(shape[n])}"
            texts.append(_times(f"({digit}){place}", step_text))
            inner = inner * shape[n]
        tests.append(f"({point} < {self.k.extent(free)}){place}")
        pointer = self.k.pointers[step.tensor]
        joined = " & ".join(f"({t})" for t in tests)
        self.source.line(f"tl.store({pointer} + {' + '.join(texts)}, {value}, mask={joined})")

    def verify(self, check: Check) -> None:
        fails = self.k.apply("not", [self.k.value(check.pred)], bool_)
        tests = [self.k.coordinates[a].valid for a in check.axes if a in self.k.coordinates]
        failing = self.k.conjunction([fails, *tests])
        assert failing is not None
        number = self.kernel.checks.index(check)
        named = self.k.named(failing, "fails")
        any_ = named.text if not named.axes else f"tl.max({named.text}.to(tl.int32)) > 0"
        with self.k.block(f"if {any_}:"):
            code = f"{CHECK_LIMIT - number} - tl.cast({self.check_base}, tl.int64)"
            self.source.line(f"tl.atomic_max({self.error}, {code})")


def _accumulated(step: Loop) -> list[Buffer]:
    """The buffers that a scan's loop fills."""
    return [b for inner in step.body if isinstance(inner, Accumulate) for b in inner.buffers]


def _recalled(body: Sequence[Step]) -> list[Buffer]:
    """The buffers that are read in a body, at any depth."""
    found: list[Buffer] = []
    for step in body:
        if isinstance(step, Recall):
            found.append(step.buffer)
        elif isinstance(step, Loop):
            found += _recalled(step.body)
    return found


def _reversed(scans: Sequence[Loop]) -> bool:
    return any(loop.reverse for loop in scans)


def _product(extents: Iterable[Extent]) -> Extent:
    total: Extent = 1
    for extent in extents:
        total = total * extent
    return total


def _times(text: str, step: str) -> str:
    return text if step == "1" else f"{text} * {step}"


def _memory(short: str) -> str:
    """Triton's name of a dtype in memory."""
    return {"bool": "i8", "f64": "fp64", "f32": "fp32", "f16": "fp16"}.get(short, short)
