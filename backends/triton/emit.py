"""Kernel + Tiling -> a readable Triton source file, by walking its nest.

The function's arguments are the inputs and outputs (pointers), sizes (i64), scalars (pointers),
where there are checks the error word's pointer and the first check's id, and where the kernel is
guarded a word's pointer: a *guarded* kernel does nothing while that word is not zero.
A grid of one dimension numbers the blocks. An axis that fits in one tile is no loop: its points are
a dimension of every value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.backends.triton.access import emit_load, emit_store
from graphc.backends.triton.context import Context, Coordinate
from graphc.backends.triton.folds import Folds
from graphc.backends.triton.operations import bring, joined_axes
from graphc.backends.triton.source import DTYPE_TEXT, Source, Tile
from graphc.backends.triton.tiling import GpuTiling, fits_whole
from graphc.errors import KernelError
from graphc.kernel.monoids import fitted
from graphc.kernel.terms import Apply, AxisIndex, Check, Kernel, Load, Term
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
from graphc.types import Extent, bool_, int64

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
    and number of blocks.
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
        self.whole: dict[str, Coordinate] = {}
        self.blocked: dict[str, Coordinate] = {}
        self.buffers: dict[Buffer, Tile] = {}
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
            found.append((k.sizes[size.name], "i64"))
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
        for axis, _ in self.kernel.axes:
            if self.is_whole(axis):
                self.whole[axis] = self.range(axis, "0", 0)
        self.steps(self.nest.prologue)
        self.open_blocks()
        self.steps(self.nest.body)

    def grid(self) -> Extent:
        total: Extent = 1
        for axis in self.nest.grid:
            total = total * self.count(axis)
        return total

    def count(self, axis: str) -> Extent:
        block = self.tiling.nest.block[axis]
        return (self.kernel.extents[axis] + (block - 1)) // block

    def open_blocks(self) -> None:
        """Where this program lies on each blocked axis; the last axis of the grid varies fastest,
        unless blocks of the last two are grouped so that programs near in time share operands.
        """
        axes = [a for a in self.nest.grid if not self.is_whole(a)]
        rest = self.source.let("tl.program_id(0)", "program") if axes else "0"
        places: dict[str, str] = {}
        if self.tiling.group > 1 and len(axes) >= 2:
            rest, places = self.grouped(axes[-2], axes[-1], rest, len(axes) > 2)
        remaining = [a for a in axes if a not in places]
        for axis in reversed(remaining):
            count = self.k.extent(self.count(axis))
            if axis == remaining[0]:
                places[axis] = rest
            else:
                places[axis] = self.source.let(f"{rest} % {count}", f"block_{axis}")
                rest = self.source.let(f"{rest} // {count}", "rest")
        for axis in axes:
            self.blocked[axis] = self.block_range(axis, places[axis])

    def grouped(
        self, outer: str, inner: str, program: str, more: bool
    ) -> tuple[str, dict[str, str]]:
        let, group = self.source.let, self.tiling.group
        rows, columns = (self.k.extent(self.count(a)) for a in (outer, inner))
        rest = program
        if more:
            total = let(f"{rows} * {columns}", "blocks")
            rest, program = let(f"{program} // {total}", "rest"), let(f"{program} % {total}", "at")
        first = let(f"({program} // ({group} * {columns})) * {group}", "first")
        height = let(f"tl.minimum({rows} - {first}, {group})", "height")
        within = let(f"{program} % ({group} * {columns})", "within")
        return rest, {
            outer: let(f"{first} + {within} % {height}", f"block_{outer}"),
            inner: let(f"{within} // {height}", f"block_{inner}"),
        }

    def block_range(self, axis: str, place: str) -> Coordinate:
        block = self.tiling.nest.block[axis]
        if block == 1:
            return Coordinate(axis, self.source.let(place, axis), 1)
        if self.k.is_large(axis):
            place = f"tl.cast({place}, tl.int64)"
        return self.range(axis, f"{place} * {block}", block)

    def is_whole(self, axis: str) -> bool:
        return fits_whole(self.kernel.extents[axis], self.tiling.nest.tile.get(axis, 1))

    def range(self, axis: str, start: str, multiple: int, stop: str | None = None) -> Coordinate:
        """The tile of an axis that begins at ``start``, a multiple of ``multiple``."""
        size, extent = self.k.tile.get(axis, 1), self.kernel.extents[axis]
        points = f"tl.arange(0, {size})"
        if size == 1:
            text = start if start.isdigit() else self.source.let(start, axis)
        else:
            text = self.source.let(points if start == "0" else f"{start} + {points}", axis)
        dims = (axis,) if size > 1 else ()
        aligned = isinstance(extent, int) and extent % size == 0 and multiple % size == 0
        valid = None
        if stop is not None or not aligned:
            end = self.k.extent(extent) if stop is None else stop
            name = self.source.let(f"{text} < {end}", f"{axis}_inside")
            valid = Tile(name, bool_, dims)
        return Coordinate(axis, text, size, valid)

    # -- steps
    def steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Let(term=term):
                    self.let(term)
                case Loop():
                    self.loop(step)
                case Begin(of=trip):
                    self.folds.begin(trip, [a for a in trip.over if not self.is_whole(a)])
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
                        self.buffers[buffer] = tiles[buffer.term.index]  # type: ignore[attr-defined]
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
        if axis in self.blocked and step.blocked:
            with self.k.at(self.blocked[axis]):
                self.steps(step.body)
        elif self.is_whole(axis):
            with self.k.at(self.whole_coordinate(step)):
                self.steps(step.body)
        else:
            if step.scans:
                raise KernelError(
                    f"{self.kernel.name}: the scan over {axis!r} does not fit in one tile"
                )
            self.real_loop(step)

    def whole_coordinate(self, step: Loop) -> Coordinate:
        """The points of an axis that fits in one tile; fewer exist where the loop has bounds, and
        an exclusive scan looks at the point before.
        """
        base = self.whole[step.axis]
        if step.scans and step.scans[0].exclusive:
            return self.neighbour(base, 1 if step.scans[0].reverse else -1)
        dims = (step.axis,) if base.size > 1 else ()
        tests = [base.valid]
        for bound, sign in ((step.lower, ">="), (step.upper, "<")):
            if bound is not None:
                at = self.k.index_value(bound)
                axes = joined_axes([at, Tile("", int64, dims)], self.k.rank)
                own = bring(Tile(base.text, int64, dims), axes)
                tests.append(Tile(f"({own} {sign} {bring(at, axes)})", bool_, axes))
        if len(tests) == 1:
            return base
        valid = self.k.conjunction(tests)
        assert valid is not None
        return Coordinate(step.axis, base.text, base.size, self.k.named(valid, "inside"))

    def neighbour(self, base: Coordinate, by: int) -> Coordinate:
        axis, extent = base.axis, self.k.extent(self.kernel.extents[base.axis])
        dims = (axis,) if base.size > 1 else ()
        text = self.source.let(f"{base.text} {'+' if by > 0 else '-'} 1", f"{axis}_next")
        test = f"({text} < {extent})" if by > 0 else f"(({text} >= 0) & ({text} < {extent}))"
        if base.size == 1 and text.isdigit():
            test = "(tl.program_id(0) < 0)"
        return Coordinate(axis, text, base.size, Tile(self.source.let(test, "inside"), bool_, dims))

    def real_loop(self, step: Loop) -> None:
        axis, size = step.axis, self.k.tile.get(step.axis, 1)
        extent = self.k.extent(self.kernel.extents[axis])
        start, stop, aligned = self.bounds(step, extent, size)
        index = self.source.fresh(f"{axis}_0" if size > 1 else axis)
        end = stop if size > 1 and (step.upper is not None or not aligned) else None
        with self.k.block(f"for {index} in range({start}, {stop}, {size}):"):
            if size == 1:
                coordinate = Coordinate(axis, self.reversed(step, index, extent), 1)
            else:
                coordinate = self.range(axis, index, size if aligned else 1, end)
            with self.k.at(coordinate):
                self.steps(step.body)

    def reversed(self, step: Loop, index: str, extent: str) -> str:
        return self.source.let(f"{extent} - 1 - {index}", step.axis) if step.reverse else index

    def bounds(self, step: Loop, extent: str, size: int) -> tuple[str, str, bool]:
        """Where a loop starts and stops, and whether it starts at a multiple of its tile."""
        start, stop, aligned = "0", extent, True
        kind = self.kind(step.axis)
        if step.lower is not None:
            low = self.k.index_value(step.lower).text
            start = self.source.let(f"tl.maximum({low}, 0).to({kind})", "start")
            aligned = size == 1
        if step.upper is not None:
            high = self.k.index_value(step.upper).text
            stop = self.source.let(f"tl.minimum({high}, {extent}).to({kind})", "stop")
        for trip in step.passes:
            if trip.where is not None and step.lower is None and step.upper is None:
                start, stop = self.narrowed(trip.where, step.axis, start, stop, size)
        return start, stop, aligned

    def narrowed(
        self, where: Term, axis: str, start: str, stop: str, size: int
    ) -> tuple[str, str]:
        """Bounds that a predicate implies for all points of the open tiles; the predicate stays."""
        kind = self.kind(axis)
        for test in _conjuncts(where):
            for own, op, other in _seen_from(test, axis):
                bound = self.known(other)
                if bound is None or axis in other.axes or not isinstance(own, AxisIndex):
                    continue
                if op in ("<", "<="):
                    most = self.extreme(bound, "max") + (" + 1" if op == "<=" else "")
                    stop = self.source.let(f"tl.minimum({most}, {stop}).to({kind})", "stop")
                else:
                    least = self.extreme(bound, "min")
                    first = f"tl.maximum({least}, 0) // {size} * {size}"
                    start = self.source.let(f"({first}).to({kind})", "start")
        return start, stop

    def kind(self, axis: str) -> str:
        """The type of places on an axis."""
        return "tl.int64" if self.k.is_large(axis) else "tl.int32"

    def known(self, term: Term) -> Tile | None:
        if isinstance(term, AxisIndex):
            return self.k.index(term.axis) if term.axis in self.k.coordinates else None
        return self.k.find(term) if isinstance(term, (Load, Apply)) else None

    def extreme(self, tile: Tile, name: str) -> str:
        text = tile.text
        for _ in tile.axes:
            text = f"tl.{name}({text}, axis=0)"
        return text

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


def _conjuncts(term: Term) -> list[Term]:
    if isinstance(term, Apply) and term.op == "and":
        return [c for a in term.args for c in _conjuncts(a)]
    return [term]


_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _seen_from(test: Term, axis: str) -> list[tuple[Term, str, Term]]:
    """A comparison as ``axis op other``, where it is one."""
    if not isinstance(test, Apply) or test.op not in _MIRRORED:
        return []
    left, right = test.args
    pairs = [(left, test.op, right), (right, _MIRRORED[test.op], left)]
    return [p for p in pairs if isinstance(p[0], AxisIndex) and p[0].axis == axis]


