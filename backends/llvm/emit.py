"""Kernel + Tiling -> one native function, by walking its nest.

The function runs grid blocks ``begin <= b < end``. Its argument table has one 8-byte slot per
input, output, size (value), scalar (pointer), then the error record's address and the number of its
first check.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from graphc.backends.llvm import access, fold
from graphc.backends.llvm.ahead import Rows, fetch_at_once, fetch_row, rows_after
from graphc.backends.llvm.context import (
    I1,
    I64,
    Context,
    Coordinate,
    Position,
    constant,
    memory_type,
)
from graphc.backends.llvm.frame import block_count, layout_buffers
from graphc.backends.llvm.ir import PTR, Function, LLVMType, Module, V, literal
from graphc.backends.llvm.plain import Plain, emit_plain
from graphc.backends.llvm.target import Target
from graphc.kernel.terms import AxisIndex, Kernel
from graphc.nest import (
    Accumulate,
    Begin,
    Buffer,
    End,
    Fill,
    Folding,
    Keep,
    Loop,
    Nest,
    Pass,
    Recall,
    Step,
    Tiling,
    Update,
    UpdateHeld,
    build_nest,
    strides,
)
from graphc.records import dataclass
from graphc.types import DType, Extent

__all__ = ["emit_kernel", "emit_nest"]


def emit_kernel(kernel: Kernel, tiling: Tiling, target: Target, symbol: str = "kernel") -> str:
    """LLVM IR of a kernel, for the target's code generator. KernelError where the tiling does not
    fit.
    """
    return emit_nest(build_nest(kernel, tiling), target, symbol)


def emit_nest(nest: Nest, target: Target, symbol: str) -> str:
    """LLVM IR of a loop nest as a function named ``symbol``."""
    module = Module()
    module.functions.append("@zeros = private constant [64 x i8] zeroinitializer, align 64")
    function = Function(
        module,
        symbol,
        [("ptr", "args"), ("i64", "begin"), ("i64", "end"), ("ptr", "worker")],
        attributes="#0",
    )
    context = Context(nest, target, module, function)
    _Emitter(context).run()
    module.add(function)
    width = target.vector_bits
    module.functions.append(
        f'attributes #0 = {{ nounwind "target-cpu"="{target.machine.cpu}" '
        f'"target-features"="{target.machine.features}" '
        f'"prefer-vector-width"="{width}" "min-legal-vector-width"="{width}" }}'
    )
    return module.text()


class _Emitter:
    def __init__(self, context: Context) -> None:
        self.k, self.f, self.nest = context, context.f, context.nest
        self.states: dict[fold.StateKey, V] = {}
        self.ranges: dict[str, _Range] = {}  # of blocked axes, in the open block
        self.spread: dict[Pass, list[Rows]] = {}  # what a product's loop fetches, bit by bit
        self.layouts, _ = layout_buffers(context.nest, context.lanes)

    # -- the function
    def run(self) -> None:
        self.arguments()
        self.steps(self.nest.prologue)
        start, stop = V("%begin", I64), V("%end", I64)
        with self.f.loop(start, stop, 1) as loop:
            self.k.push()
            self.k.born(loop.index)
            self.block(loop.index)
            self.steps(self.nest.body)
            self.k.pop()
        if self.k.streams:
            # what went past the caches is seen before the next barrier
            self.f.line("fence seq_cst")

    def arguments(self) -> None:
        k, f = self.k, self.f
        table = V("%args", PTR)

        def slot(number: int, type_: LLVMType = PTR) -> V:
            return k.born(f.load(type_, f.offset(table, number, "i64"), 8))

        number = 0
        for tensor in (*k.kernel.inputs, *k.kernel.outputs):
            k.pointers[tensor.name] = slot(number)
            number += 1
        for size in k.kernel.sizes:
            k.sizes[size.name] = slot(number, I64)
            number += 1
        for scalar in k.kernel.scalars:
            raw = f.load(memory_type(scalar.dtype), slot(number), scalar.dtype.itemsize)
            k.scalars[scalar.name] = k.born(access.from_memory(k, raw, scalar.dtype))
            number += 1
        if k.kernel.checks:
            k.error, k.check_base = slot(number), slot(number + 1, I64)
        if self.layouts:
            k.scratch = k.born(f.load(PTR, V("%worker", PTR), 8))

    def block(self, number: V) -> None:
        """Where this block lies on each blocked axis; the last axis of the grid varies fastest."""
        k, rest = self.k, number
        for axis in reversed(self.nest.grid):
            block, extent = self.nest.tiling.block[axis], k.kernel.extents[axis]
            count = block_count(self.nest, axis)
            at = rest
            if axis != self.nest.grid[0]:
                at = k.born(self.f.binary("urem", rest, k.extent(count)))
                rest = k.born(self.f.binary("udiv", rest, k.extent(count)))
            if count == 1:
                self.ranges[axis] = self.whole(extent)
                continue
            start = k.multiply(at, literal(block, I64))
            past = k.add(start, block)
            if isinstance(extent, int) and extent % block == 0:
                self.ranges[axis] = _Range(start, past, block)
            else:
                self.ranges[axis] = _Range(start, k.minimum(past, k.extent(extent)), None)

    def whole(self, extent: Extent) -> _Range:
        return _Range(
            literal(0, I64), self.k.extent(extent), extent if isinstance(extent, int) else None
        )

    # -- steps
    def steps(self, steps: Sequence[Step]) -> None:
        for plain, group in groupby(range(len(steps)), lambda n: isinstance(steps[n], Plain)):
            numbers = list(group)
            if plain:
                run = [s for n in numbers if isinstance(s := steps[n], Plain)]
                emit_plain(self.k, run, last=numbers[-1] == len(steps) - 1)
                continue
            for number in numbers:
                self.step(steps[number], steps[number + 1 :])

    def step(self, step: Step, after: Sequence[Step]) -> None:
        """A step that is not plain; ``after`` follow it."""
        match step:
            case Loop():
                self.loop(step)
            case Begin(of=trip):
                self.ahead(trip, after[1:])
                self.begin(trip, after[0])
            case Update(of=trip):
                fold.update(self.k, trip, self.states)
            case UpdateHeld(of=trip, member=member, state=n, buffer=buffer):
                fold.update_held(self.k, trip, member, n, buffer, self.address)
            case End(of=trip):
                fold.end(self.k, trip, self.states)
            case Accumulate():
                fold.accumulate(self.k, step, self.states, self.keep)
            case Keep(term=term, buffer=buffer):
                for position in self.k.positions(term.axes):
                    self.keep(buffer, position, self.k.value(term, position), term.dtype)
            case Recall(term=term, buffer=buffer):
                for position in self.k.positions(term.axes):
                    self.k.bind(term, position, self.recall(buffer, position, term.dtype))
            case Fill():
                self.fill(step)

    def ahead(self, trip: Pass, after: Sequence[Step]) -> None:
        """Fetch, or let the loop fetch, what is used after it."""
        rows = rows_after(self.k, trip, after)
        self.spread[trip] = [r for r in rows if r.axis is not None]
        for each in rows:
            if each.axis is None:
                fetch_at_once(self.k, each)

    def begin(self, trip: Pass, loop: Step) -> None:
        tile = 1
        while isinstance(loop, Loop):
            tile *= loop.tile if loop.axis in trip.over else 1
            loop = next(
                (s for s in loop.body if isinstance(s, Loop) and trip in s.passes), loop.body[-1]
            )
        for (member, n), buffer in trip.held.items():
            self.clear(member, n, buffer)
        self.states.update(fold.begin(self.k, trip, tile))

    # -- loops
    def loop(self, step: Loop) -> None:
        """Whole tiles first, then what is left: a smaller tile with its last lanes masked, or point
        by point.
        """
        for scan in step.scans:
            self.states.update(fold.scan_states(self.k, scan))
        span = self.range(step)
        lanes = self.k.lanes if step.vector else 1
        if span.length is not None:
            self.fixed_loop(step, span.start, span.stop, span.length, lanes)
        else:
            self.open_loop(step, span.start, span.stop, lanes)
        self.states = {key: v for key, v in self.states.items() if key.of not in step.scans}

    def range(self, step: Loop) -> _Range:
        k = self.k
        if step.blocked:
            return self.ranges[step.axis]
        span = self.whole(k.kernel.extents[step.axis])
        if step.lower is None and step.upper is None:
            return span
        start, stop = span.start, span.stop
        if step.lower is not None:
            start = k.maximum(start, access.index_value(k, step.lower, ()))
        if step.upper is not None:
            stop = k.minimum(stop, access.index_value(k, step.upper, ()))
        return _Range(start, stop, None)

    def fixed_loop(self, step: Loop, start: V, stop: V, length: int, lanes: int) -> None:
        points = step.tile * lanes
        whole, rest = divmod(length, points)
        after = self.k.add(start, whole * points)
        if whole == 1:
            self.body(step, start, step.tile, lanes, None, None)
        elif whole:
            self.body_loop(step, start, after, step.tile, lanes, None, nonempty=True)
        if rest:
            tile = -(-rest // lanes)
            mask = self.lane_mask(rest % lanes, lanes) if rest % lanes else None
            self.body(step, after, tile, lanes, stop, mask)

    def open_loop(self, step: Loop, start: V, stop: V, lanes: int) -> None:
        """A loop whose length only the run knows; a rest that is known (the last block's) still
        gets its own tile.
        """
        k, points = self.k, step.tile * lanes
        extent = k.kernel.extents[step.axis]
        if points == 1:
            self.body_loop(step, start, stop, 1, 1, None)
            return
        length = k.born(self.f.binary("sub", stop, start))
        whole = k.born(self.f.binary("sdiv", length, literal(points, I64)))
        after = k.add(start, k.multiply(whole, literal(points, I64)))
        self.body_loop(step, start, after, step.tile, lanes, None)
        block = self.nest.tiling.block.get(step.axis, 0)
        if step.blocked and isinstance(extent, int) and block % points == 0:
            rest = extent % points
            if rest:
                mask = self.lane_mask(rest % lanes, lanes) if rest % lanes else None
                self.body_loop(step, after, stop, -(-rest // lanes), lanes, mask)
            return
        if step.tile > 1:
            left = k.born(self.f.binary("sub", stop, after))
            vectors = k.born(self.f.binary("sdiv", left, literal(lanes, I64)))
            last = k.add(after, k.multiply(vectors, literal(lanes, I64)))
            self.body_loop(step, after, last, 1, lanes, None)
            after = last
        if lanes > 1:
            left = k.born(self.f.binary("sub", stop, after))
            steps = V(
                "<" + ", ".join(f"i64 {n}" for n in range(lanes)) + ">", I64._replace(lanes=lanes)
            )
            mask = k.born(self.f.compare("slt", steps, k.splat(left, lanes)))
            self.body_loop(step, after, stop, 1, lanes, mask)

    def lane_mask(self, valid: int, lanes: int) -> V:
        bits = ", ".join(f"i1 {'true' if n < valid else 'false'}" for n in range(lanes))
        return V(f"<{bits}>", I1._replace(lanes=lanes))

    def body_loop(
        self,
        step: Loop,
        start: V,
        stop: V,
        tile: int,
        lanes: int,
        mask: V | None,
        *,
        nonempty: bool = False,
    ) -> None:
        """A native loop around the body, with the states of the step's passes and scans carried
        through it.
        """
        members = {m for trip in step.passes for m in trip.members} | set(step.scans)
        keys = [key for key in self.states if key.of in members]
        carried = [self.states[key] for key in keys]
        with self.f.loop(start, stop, tile * lanes, carried, nonempty=nonempty) as loop:
            self.k.push()
            self.k.born(loop.index)
            for key, value in zip(keys, loop.carried, strict=True):
                self.states[key] = self.k.born(value)
            base = loop.index
            if step.reverse:  # the index counts up, the point goes down
                last = self.f.binary("sub", stop, literal(1, I64))
                top = self.f.binary("add", start, last)
                base = self.k.born(self.f.binary("sub", top, base))
            self.inside(step, base, tile, lanes, stop if mask is not None else None, mask)
            loop.next = [self.states[key] for key in keys]
            self.k.pop()
        for key, value in zip(keys, loop.results, strict=True):
            self.states[key] = self.k.outlives(value)

    def body(
        self, step: Loop, base: V, tile: int, lanes: int, end: V | None, mask: V | None
    ) -> None:
        self.k.push()
        self.inside(step, base, tile, lanes, end, mask)
        self.k.pop()
        for value in self.states.values():
            self.k.outlives(value)

    def inside(
        self, step: Loop, base: V, tile: int, lanes: int, end: V | None, mask: V | None
    ) -> None:
        coordinates = self.k.coordinates
        hidden = coordinates.pop(step.axis, None)
        coordinates[step.axis] = Coordinate(step.axis, base, tile, lanes, end, mask)
        for rows in (r for t in step.passes if step.axis in t.over for r in self.spread.get(t, ())):
            fetch_row(self.k, rows, base)
        self.steps(step.body)
        del coordinates[step.axis]
        if hidden is not None:
            coordinates[step.axis] = hidden

    # -- scratch
    def place(self, buffer: Buffer) -> V:
        """Where a buffer starts."""
        scratch = self.k.scratch
        assert scratch is not None
        offset = self.layouts[buffer].offset
        return self.k.hoisted(
            ("buffer", buffer.name),
            (scratch,),
            lambda: self.f.offset(scratch, self.k.extent(offset), "i8"),
        )

    def address(self, buffer: Buffer, position: Position) -> tuple[V, LLVMType]:
        return access.buffer_address(
            self.k, buffer, self.place(buffer), self.layouts[buffer].sizes, position
        )

    def keep(self, buffer: Buffer, position: Position, value: V, dtype: DType) -> None:
        pointer, type_ = self.address(buffer, position)
        wide = self.k.splat(value, type_.lanes)
        self.f.store(access.to_memory(self.k, wide, dtype), pointer, dtype.itemsize)

    def recall(self, buffer: Buffer, position: Position, dtype: DType) -> V:
        pointer, type_ = self.address(buffer, position)
        return access.from_memory(self.k, self.f.load(type_, pointer, dtype.itemsize), dtype)

    def clear(self, member: Folding, n: int, buffer: Buffer) -> None:
        """Set a held state to its identity, in every copy."""
        dtype = buffer.term.dtype
        start, total = self.place(buffer), self.layouts[buffer].elements
        with self.f.loop(literal(0, I64), self.k.extent(total), 1) as loop:
            pointer = self.f.offset(start, loop.index, str(memory_type(dtype)))
            zero = access.to_memory(self.k, fold.identity(self.k, member, n), dtype)
            self.f.store(zero, pointer, dtype.itemsize)

    # -- outputs that start from a constant
    def fill(self, step: Fill) -> None:
        tensor = self.k.kernel.tensors[step.tensor]
        assert tensor.init is not None
        dtype = tensor.type.dtype
        value = access.to_memory(self.k, constant(tensor.init, dtype), dtype)
        extents, steps = tensor.type.shape, strides(tensor.type.shape)

        def descend(dimension: int, pointer: V) -> None:
            if dimension == len(extents):
                self.f.store(value, pointer, dtype.itemsize)
                return
            term = step.index[dimension]
            start, stop = literal(0, I64), self.k.extent(extents[dimension])
            if isinstance(term, AxisIndex):
                start, stop = self.span(self.k.coordinates[term.axis])
            with self.f.loop(start, stop, 1) as loop:
                by = self.f.binary("mul", loop.index, self.k.extent(steps[dimension]))
                descend(dimension + 1, self.f.offset(pointer, by, str(memory_type(dtype))))

        descend(0, self.k.pointers[step.tensor])

    def span(self, c: Coordinate) -> tuple[V, V]:
        past = self.f.binary("add", c.base, literal(c.tile * c.lanes, I64))
        return c.base, past if c.end is None else c.end


@dataclass(frozen=True)
class _Range:
    """Where a loop runs, and its length where that is known."""

    start: V
    stop: V
    length: int | None
