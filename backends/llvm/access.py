"""Loads and stores: addresses hoisted loop by loop, lanes contiguous or gathered, what may lie
outside guarded.

Nothing outside a tensor is ever touched: an index that intervals do not prove inside is tested, and
the load gives its fill (the store does nothing) where the test fails, whatever a ``check`` may say
later.
"""

from __future__ import annotations

from functools import partial

from graphc.backends.llvm.context import I64, Context, Position, memory_type, register_type
from graphc.backends.llvm.ir import PTR, LLVMType, V, literal
from graphc.backends.llvm.target import LINE
from graphc.errors import KernelError
from graphc.kernel.bounds import unproved
from graphc.kernel.terms import KernelTensor, Load, Store, Term
from graphc.nest import Affine, Buffer, affine, flat_offset
from graphc.records import dataclass
from graphc.types import DType, Extent, bool_, int64

__all__ = [
    "Ahead",
    "buffer_address",
    "emit_load",
    "emit_prefetch",
    "emit_store",
    "from_memory",
    "index_value",
    "lane_addresses",
    "to_memory",
]


I32 = LLVMType("i32")
NEAREST, DATA = 3, 1  # llvm.prefetch: keep it in the nearest cache; not instructions


@dataclass(frozen=True)
class _Place:
    """Where an access goes: one address (``lanes`` elements from there, or one element), or an
    address a lane.
    """

    pointer: V
    gathered: V | None
    contiguous: bool


def _place(k: Context, tensor: KernelTensor, index: tuple[Term, ...], position: Position) -> _Place:
    flat = k.flats.get((tensor.name, index))
    if flat is None:
        flat = k.flats[tensor.name, index] = flat_offset(tensor, index)
    vector = k.vector
    lane_step: Extent = flat.axes.get(vector.axis, 0) if vector is not None else 0
    atoms = {t: k.value(t, position) for t in flat.atoms}
    spread = {t: v for t, v in atoms.items() if v.type.lanes > 1}
    pointer = _pointer(
        k, tensor, flat, position, {t: v for t, v in atoms.items() if t not in spread}
    )
    if not spread and lane_step == 0:
        return _Place(pointer, None, contiguous=False)
    if not spread and lane_step == 1:
        return _Place(pointer, None, contiguous=True)
    lanes = k.lanes
    offsets = V("zeroinitializer", I64._replace(lanes=lanes))
    if lane_step != 0:
        steps = V("<" + ", ".join(f"i64 {n}" for n in range(lanes)) + ">", offsets.type)
        scale = k.splat(k.extent(lane_step), lanes)
        offsets = k.hoisted(
            ("lanes", scale.text), (scale,), lambda: k.f.binary("mul", steps, scale)
        )
    for term, value in spread.items():
        wide = (
            value if value.type.element == "i64" else k.apply("i64", [value], [term.dtype], int64)
        )
        scaled = k.born(k.f.binary("mul", wide, k.splat(k.extent(flat.atoms[term]), lanes)))
        offsets = k.born(k.f.binary("add", offsets, scaled))
    element = memory_type(tensor.type.dtype).element
    addresses = k.f.let(
        f"getelementptr {element}, {pointer}, {offsets}", LLVMType("ptr", lanes)
    )
    return _Place(pointer, addresses, contiguous=False)


def _pointer(
    k: Context, tensor: KernelTensor, flat: Affine, position: Position, atoms: dict[Term, V]
) -> V:
    """The scalar part of an address, built outermost coordinate first so that each loop adds only
    its own step.
    """
    numbers = dict(position)
    fixed: Extent = flat.constant
    parts: list[tuple[int, V, Extent]] = []
    for axis, coefficient in flat.axes.items():
        c = k.coordinates[axis]
        fixed = fixed + coefficient * (numbers.get(axis, 0) * c.lanes)
        parts.append((k.births.get(c.base.text, 0), c.base, coefficient))
    for term, value in atoms.items():
        wide = (
            value if value.type.element == "i64" else k.apply("i64", [value], [term.dtype], int64)
        )
        parts.append((k.births.get(wide.text, 0), wide, flat.atoms[term]))
    element = memory_type(tensor.type.dtype).element
    pointer = k.pointers[tensor.name]
    for _, base, coefficient in sorted(parts, key=lambda p: p[0]):
        step = k.multiply(base, k.extent(coefficient))
        pointer = _advance(k, pointer, step, element)
    return _advance(k, pointer, k.extent(fixed), element)


def _advance(k: Context, pointer: V, step: V, element: str) -> V:
    if step.text == "0":
        return pointer
    key = ("gep", pointer.text, step.text, element)
    return k.hoisted(key, (pointer, step), lambda: k.f.offset(pointer, step, element))


# ---- guards


def _guard(
    k: Context, tensor: KernelTensor, index: tuple[Term, ...], pred: Term | None, position: Position
) -> V | None:
    """What must hold for the access to be inside, beyond the valid lanes."""
    tests: list[V | None] = []
    if pred is not None:
        tests.append(k.value(pred, position))
    key = (tensor.name, index, pred)
    if key not in k.unproved:
        k.unproved[key] = unproved(k.kernel, tensor.name, index, pred, checks=())
    for dimension in k.unproved[key]:
        at = index_value(k, index[dimension], position)
        extent = k.splat(k.extent(tensor.type.shape[dimension]), at.type.lanes)
        inside = partial(k.f.compare, "ult", at, extent)
        tests.append(k.hoisted(("inside", at.text, extent.text), (at, extent), inside))
    return k.conjunction(tests)


def index_value(k: Context, term: Term, position: Position) -> V:
    """An index as an i64, in lanes where it varies over them."""
    form = affine(term)
    lanes = k.lanes if k.is_vector(term.axes) else 1
    total = k.extent(form.constant)
    for axis, coefficient in form.axes.items():
        total = _sum(k, total, _product(k, k.index(axis, position), k.extent(coefficient)))
    for atom, coefficient in form.atoms.items():
        value = k.value(atom, position)
        wide = (
            value if value.type.element == "i64" else k.apply("i64", [value], [atom.dtype], int64)
        )
        total = _sum(k, total, _product(k, wide, k.extent(coefficient)))
    return k.splat(total, lanes)


def _sum(k: Context, a: V, b: V) -> V:
    if a.type.lanes == b.type.lanes == 1:
        return k.add(a, b)
    lanes = max(a.type.lanes, b.type.lanes)
    if a.text == "0":
        return k.splat(b, lanes)
    wide_a, wide_b = k.splat(a, lanes), k.splat(b, lanes)
    return k.hoisted(
        ("add", wide_a.text, wide_b.text),
        (wide_a, wide_b),
        lambda: k.f.binary("add", wide_a, wide_b),
    )


def _product(k: Context, a: V, b: V) -> V:
    if a.type.lanes == 1:
        return k.multiply(a, b)
    if b.text == "1":
        return a
    wide = k.splat(b, a.type.lanes)
    return k.hoisted(("mul", a.text, wide.text), (a, wide), lambda: k.f.binary("mul", a, wide))


# ---- loads


def emit_load(k: Context, load: Load, position: Position) -> V:
    """The value of a load at a position."""
    tensor = k.kernel.tensors[load.tensor]
    dtype = tensor.type.dtype
    place = _place(k, tensor, load.index, position)
    guard = _guard(k, tensor, load.index, load.pred, position)
    reads_lanes = place.contiguous or place.gathered is not None
    tail = k.tail(load.axes, position) if reads_lanes else None
    if place.gathered is None and tail is None and (guard is None or guard.type.lanes == 1):
        return _plain_load(k, load, place, guard, position, dtype)
    mask = k.conjunction([guard, tail])
    lanes = k.lanes
    type_ = memory_type(dtype, lanes)
    fill = _fill(k, load, position, dtype, lanes)
    if place.gathered is None and not place.contiguous:  # one element, wanted in some lanes only
        assert mask is not None
        scalar = _plain_load(
            k,
            load,
            place,
            k.born(k.f.intrinsic("vector.reduce.or", mask, result=I1_)),
            position,
            dtype,
        )
        register = register_type(dtype, lanes)
        wide_fill = k.splat(_fill_register(k, load, position, dtype), lanes)
        return k.f.select(mask, k.splat(scalar, lanes), V(wide_fill.text, register))
    everywhere = _lane_mask(k, mask)
    if place.gathered is None:
        raw = _masked(k, "load", place.pointer, type_, everywhere, fill, dtype.itemsize)
    else:
        raw = _masked(k, "gather", place.gathered, type_, everywhere, fill, dtype.itemsize)
    return from_memory(k, raw, dtype)


I1_ = LLVMType("i1")


def _plain_load(
    k: Context, load: Load, place: _Place, guard: V | None, position: Position, dtype: DType
) -> V:
    """An unmasked load; where a scalar guard fails it reads zeros instead, and the fill is
    selected.
    """
    lanes = k.lanes if place.contiguous else 1
    pointer = place.pointer
    if guard is not None:
        pointer = k.f.let(f"select {guard}, {pointer}, ptr @zeros", PTR)
    raw = k.f.load(memory_type(dtype, lanes), pointer, dtype.itemsize)
    value = from_memory(k, raw, dtype)
    if guard is None or load.fill is None:
        return value
    fill = _fill_register(k, load, position, dtype)
    if fill.text in (literal(0, fill.type).text, "0x0000000000000000"):
        return value
    lanes = max(value.type.lanes, fill.type.lanes)
    return k.f.select(guard, k.splat(value, lanes), k.splat(fill, lanes))


def _fill_register(k: Context, load: Load, position: Position, dtype: DType) -> V:
    if load.fill is None:
        return literal(0, register_type(dtype))
    return k.value(load.fill, position)


def _fill(k: Context, load: Load, position: Position, dtype: DType, lanes: int) -> V:
    return to_memory(k, k.splat(_fill_register(k, load, position, dtype), lanes), dtype)


def _lane_mask(k: Context, mask: V | None) -> V:
    return literal(True, LLVMType("i1", k.lanes)) if mask is None else k.splat(mask, k.lanes)


def _masked(k: Context, kind: str, at: V, type_: LLVMType, mask: V, fill: V, align: int) -> V:
    pointers = at.type.suffix if kind == "gather" else "p0"
    name = f"llvm.masked.{kind}.{type_.suffix}.{pointers}"
    kinds = f"{at.type}, {mask.type}, {type_}"
    k.module.declare_text(name, f"declare {type_} @{name}({kinds})")
    return k.f.let(
        f"call {type_} @{name}({at.type} align {align} {at.text}, {mask}, {fill})", type_
    )


# ---- stores


def emit_store(k: Context, store: Store, position: Position) -> None:
    """Write (or add) a value at a position."""
    tensor = k.kernel.tensors[store.tensor]
    dtype = tensor.type.dtype
    value = k.value(store.value, position)
    if k.is_vector(store.axes):
        value = k.splat(value, k.lanes)
    place = _place(k, tensor, store.index, position)
    guard = _guard(k, tensor, store.index, store.pred, position)
    if value.type.lanes == 1 or (not place.contiguous and place.gathered is None):
        _store_one(k, store, place, guard, value, position, dtype)
        return
    mask = k.conjunction([guard, k.tail(store.axes, position)])
    if place.gathered is not None:
        _store_scattered(k, store, place.gathered, mask, value, dtype)
        return
    if store.add:
        type_ = memory_type(dtype, k.lanes)
        everywhere = _lane_mask(k, mask)
        old = from_memory(
            k,
            _masked(k, "load", place.pointer, type_, everywhere, literal(0, type_), dtype.itemsize),
            dtype,
        )
        value = k.apply("+", [old, value], [dtype, dtype], dtype)
    raw = to_memory(k, value, dtype)
    if mask is None and _streams(k, store, tensor):
        k.f.store(raw, place.pointer, k.lanes * dtype.itemsize, nontemporal=True)
        k.streams = True
    elif mask is None:
        k.f.store(raw, place.pointer, dtype.itemsize)
    elif mask.type.lanes == 1:
        with k.f.when(mask):
            k.f.store(raw, place.pointer, dtype.itemsize)
    else:
        name = f"llvm.masked.store.{raw.type.suffix}.p0"
        k.module.declare_text(name, f"declare void @{name}({raw.type}, ptr, {mask.type})")
        k.f.line(
            f"call void @{name}({raw}, ptr align {dtype.itemsize} {place.pointer.text}, {mask})"
        )


def _streams(k: Context, store: Store, tensor: KernelTensor) -> bool:
    """Whether a vector store may go past the caches: whole vectors at aligned places, of a tensor
    that is streamed.

    Outputs start at 64 bytes; the rest is arithmetic on the index.
    """
    if store.tensor not in k.nest.tiling.stream or k.vector is None:
        return False
    flat = flat_offset(tensor, store.index)
    steps = [flat.constant, *flat.atoms.values()]
    steps += [c for a, c in flat.axes.items() if a != k.vector.axis]
    block = k.nest.tiling.block.get(k.vector.axis, k.lanes)
    return all(isinstance(n, int) and n % k.lanes == 0 for n in [*steps, block])


def _store_one(
    k: Context,
    store: Store,
    place: _Place,
    guard: V | None,
    value: V,
    position: Position,
    dtype: DType,
) -> None:
    """One element. A value in lanes that all go to one place stores its last valid one."""
    if value.type.lanes > 1:
        raise KernelError(
            f"{k.kernel.name}: store {store.tensor}: "
            f"lanes of axis {k.vector and k.vector.axis} go to one element"
        )

    def write() -> None:
        kept = value
        if store.add:
            old = from_memory(k, k.f.load(memory_type(dtype), place.pointer, dtype.itemsize), dtype)
            kept = k.apply("+", [old, value], [dtype, dtype], dtype)
        k.f.store(to_memory(k, kept, dtype), place.pointer, dtype.itemsize)

    if guard is None:
        write()
        return
    with k.f.when(guard):
        write()


def _store_scattered(
    k: Context, store: Store, addresses: V, mask: V | None, value: V, dtype: DType
) -> None:
    """Lane by lane, in order, so that equal addresses add up and the last one wins."""
    raw = value if store.add else to_memory(k, value, dtype)
    for lane in range(k.lanes):
        def write(lane: int = lane) -> None:
            at = k.f.let(f"extractelement {addresses}, i64 {lane}", PTR)
            one = k.f.let(f"extractelement {raw}, i64 {lane}", raw.type._replace(lanes=1))
            if store.add:
                old = from_memory(k, k.f.load(memory_type(dtype), at, dtype.itemsize), dtype)
                one = to_memory(k, k.apply("+", [old, one], [dtype, dtype], dtype), dtype)
            k.f.store(one, at, dtype.itemsize)

        if mask is None:
            write()
            continue
        valid = (
            mask
            if mask.type.lanes == 1
            else k.f.let(f"extractelement {mask}, i64 {lane}", LLVMType("i1"))
        )
        with k.f.when(valid):
            write()


def lane_addresses(k: Context, store: Store, position: Position) -> tuple[V, Extent]:
    """Where the first lane of a store goes, and how many elements the lanes lie apart."""
    tensor = k.kernel.tensors[store.tensor]
    assert k.vector is not None
    step = flat_offset(tensor, store.index).axes.get(k.vector.axis, 0)
    return _place(k, tensor, store.index, position).pointer, step


# ---- before they are needed


@dataclass(frozen=True)
class Ahead:
    """So many steps further along an axis than the tile being computed."""

    axis: str
    steps: V


def emit_prefetch(
    k: Context, access: Load | Store, position: Position, ahead: Ahead | None = None
) -> None:
    """Fetch the line that a plain access in lanes will touch; where that is data-dependent or
    gathered, nothing.
    """
    tensor = k.kernel.tensors[access.tensor]
    flat = flat_offset(tensor, access.index)
    vector = k.vector
    if access.pred is not None or flat.atoms or vector is None or flat.axes.get(vector.axis) != 1:
        return
    bytes_before = dict(position).get(vector.axis, 0) * k.lanes * tensor.type.dtype.itemsize
    if bytes_before % LINE:
        return  # the vector before it lies in the same line
    pointer = _place(k, tensor, access.index, position).pointer
    if ahead is not None:
        lanes = k.coordinates[ahead.axis].lanes
        step = k.multiply(ahead.steps, k.extent(flat.axes.get(ahead.axis, 0) * lanes))
        pointer = _advance(k, pointer, step, memory_type(tensor.type.dtype).element)
    k.f.call_void(
        "llvm.prefetch.p0",
        pointer,
        literal(int(isinstance(access, Store)), I32),
        literal(NEAREST, I32),
        literal(DATA, I32),
    )


# ---- what memory holds


def from_memory(k: Context, raw: V, dtype: DType) -> V:
    if dtype is bool_:
        return k.f.compare("ne", raw, literal(0, raw.type))
    return raw


def to_memory(k: Context, value: V, dtype: DType) -> V:
    if dtype is bool_:
        return k.f.cast("zext", value, "i8")
    return value


# ---- scratch


def buffer_address(
    k: Context, buffer: Buffer, start: V, sizes: dict[str, Extent], position: Position
) -> tuple[V, LLVMType]:
    """The place of a buffer at the open coordinates, and the type to load or store there.

    Row-major over the buffer's axes; an element is a whole vector where the axis in lanes is not
    one of them. The unrolled points of other axes have a copy each.
    """
    dtype = buffer.term.dtype
    vector = k.vector
    type_ = memory_type(dtype, k.lanes if k.is_vector(buffer.term.axes) else 1)
    along = vector is not None and vector.axis in buffer.axes
    element = memory_type(dtype) if along else type_
    step: Extent = 1
    fixed: Extent = 0
    parts: list[tuple[int, V, Extent]] = []
    numbers = dict(position)
    for axis in reversed(buffer.axes):
        c = k.coordinates[axis]
        parts.append((k.births.get(c.base.text, 0), c.base, step))
        fixed = fixed + step * (numbers.get(axis, 0) * c.lanes)
        step = step * sizes[axis]
    outer = tuple((a, n) for a, n in position if a not in buffer.axes)
    if outer:
        copies = k.positions(frozenset(a for a, _ in outer))
        fixed = fixed + step * copies.index(outer)
    pointer = start
    for _, base, coefficient in sorted(parts, key=lambda p: p[0]):
        pointer = _advance(k, pointer, k.multiply(base, k.extent(coefficient)), str(element))
    return _advance(k, pointer, k.extent(fixed), str(element)), type_
