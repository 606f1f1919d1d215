"""The routines of ``graphc.routines`` as LLVM IR: one function for each rule and element type.

::

    sort    x -> keys, unsigned and in the wanted order; keys -> places by bytes, the last one first
    top_k   the keys that can be among the first ``count``, by their leading bits; sort these
    group   count the ids, add the counts up, put each place behind those of its group

A radix sort takes a pass a byte and skips bytes that all keys share, so that indices of a small
range cost two passes; up to SHORT keys each counts those before it instead. A function runs rows
``begin <= r < end`` like a kernel its blocks; sizes come with the call, so no shape compiles anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from graphc.backends.cache import Cache
from graphc.backends.llvm.binding import CompiledKernel
from graphc.backends.llvm.ir import BITS, PTR, Function, LLVMType, Module, V, literal
from graphc.backends.llvm.loader import compile_cached
from graphc.backends.llvm.target import Target, host_target
from graphc.errors import BackendError
from graphc.records import dataclass
from graphc.routines import Routine
from graphc.types import Dim, DType, Extent

__all__ = ["compile_routine", "emit_routine"]

#: keys that are compared with each other rather than sorted by bytes
SHORT = 32
#: leading bits of a key that top_k looks at, and so the size of the largest table of counts
LEADING = 11

I1, I64 = LLVMType("i1"), LLVMType("i64")
_ZERO, _ONE = literal(0, I64), literal(1, I64)
_TABLE_BYTES = 8 << LEADING  # eight tables of 256 counts, or one of leading bits


def compile_routine(
    routine: Routine, target: Target | None = None, cache: Cache | None = None
) -> CompiledKernel:
    """Machine code of a routine, from the cache where it has it; BackendError for unknown ones."""
    target = target or host_target()
    if routine.rule not in _EMITTERS:
        raise BackendError(f"llvm: no routine {routine.rule!r}; there are {', '.join(_EMITTERS)}")
    rows, dtype = routine.sizes[0], routine.inputs[0].type.dtype
    key = f"{routine.rule} {dtype} {routine.options}"
    body = emit_routine(routine, "SYMBOL")
    symbol = f"routine_{hashlib.blake2s((key + body).encode(), digest_size=16).hexdigest()}"

    def text() -> str:
        return body.replace("SYMBOL", symbol)

    code = compile_cached(text(), target.machine, cache=cache)
    grid = Dim(rows.name, min=rows.min, specialize=False)
    return CompiledKernel(symbol, code, grid, _scratch_bytes(routine), text, target.machine)


def emit_routine(routine: Routine, symbol: str) -> str:
    """LLVM IR of a routine as a function named ``symbol``."""
    module = Module()
    for declared in (
        "void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
        "void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
        "void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)",
        "i64 @llvm.umin.i64(i64, i64)",
    ):
        module.declare_text(declared.split("@")[1].split("(")[0], f"declare {declared}")
    parameters = [("ptr", "args"), ("i64", "begin"), ("i64", "end"), ("ptr", "worker")]
    function = Function(module, symbol, parameters)
    _EMITTERS[routine.rule](routine, module, function)
    module.add(function)
    return module.text()


def _scratch_bytes(routine: Routine) -> Extent:
    """For each worker the tables, and keys and places twice."""
    if routine.rule == "group":
        return 0
    length = Dim(routine.sizes[1].name, min=0, specialize=False)
    return length * (2 * routine.inputs[0].type.dtype.itemsize + 16) + _TABLE_BYTES


# ---- what the functions have in common


@dataclass(frozen=True)
class _Scratch:
    """A worker's memory: tables of counts; keys and places, each with a spare."""

    tables: V
    places: V
    spare_places: V
    keys: V
    spare_keys: V


def _argument(f: Function, number: int, type_: LLVMType = PTR) -> V:
    return f.load(type_, f.offset(V("%args", PTR), number, "i64"), 8)


def _scratch(f: Function, length: V, key: LLVMType) -> _Scratch:
    tables = f.load(PTR, V("%worker", PTR), 8)
    places = f.offset(tables, _TABLE_BYTES // 8, "i64")
    spare_places = f.offset(places, length, "i64")
    keys = f.offset(spare_places, length, "i64")
    return _Scratch(tables, places, spare_places, keys, f.offset(keys, length, key.element))


def _at(f: Function, pointer: V, index: V, type_: LLVMType) -> V:
    """``pointer[index]``."""
    return f.load(type_, f.offset(pointer, index, type_.element), BITS[type_.element] // 8)


def _put(f: Function, value: V, pointer: V, index: V) -> None:
    """``pointer[index] = value``."""
    align = BITS[value.type.element] // 8
    f.store(value, f.offset(pointer, index, value.type.element), align)


def _add(f: Function, a: V, b: V) -> V:
    return f.binary("add", a, b)


def _count(f: Function, total: V, condition: V) -> V:
    """``total + 1`` where the condition holds."""
    return f.binary("add", total, f.cast("zext", condition, "i64"))


def _clear(f: Function, pointer: V, count: V) -> None:
    """``count`` words of 0."""
    nbytes = f.binary("shl", count, literal(3, I64))
    f.line(f"call void @llvm.memset.p0.i64({pointer}, i8 0, {nbytes}, i1 false)")


def _copy(f: Function, target: V, source: V, count: V, how: str = "memcpy") -> None:
    """``count`` words."""
    nbytes = f.binary("shl", count, literal(3, I64))
    f.line(f"call void @llvm.{how}.p0.p0.i64({target}, {source}, {nbytes}, i1 false)")


def _digit(f: Function, key: V, shift: V, mask: int = 0) -> V:
    """The bits of a key from ``shift`` on (which are masked), as a place in a table."""
    moved = f.binary("lshr", key, shift)
    wide = moved if moved.type == I64 else f.cast("zext", moved, "i64")
    return f.binary("and", wide, literal(mask, I64)) if mask else wide


# ---- keys


def _key_type(dtype: DType) -> LLVMType:
    return LLVMType(f"i{8 * dtype.itemsize}")


def _key(f: Function, bits: V, dtype: DType, *, descending: bool) -> V:
    """The element with these bits as an unsigned number in the wanted order.

    Negative floats have all their bits turned, others the sign; the largest key is NaN's.
    """
    type_ = bits.type
    width = BITS[type_.element]
    ones, sign = literal(-1, type_), literal(-(1 << (width - 1)), type_)
    if dtype.kind in "ub":
        return f.binary("xor", bits, ones) if descending else bits
    if dtype.kind == "i":
        last = literal((1 << (width - 1)) - 1, type_)
        return f.binary("xor", bits, last if descending else sign)
    infinity = {"f16": 0x7C00, "bf16": 0x7F80, "f32": 0x7F800000, "f64": 0x7FF << 52}[dtype.short]
    size = f.binary("and", bits, literal((1 << (width - 1)) - 1, type_))
    lost = f.compare("ugt", size, literal(infinity, type_))
    unsigned = f.select(f.compare("eq", size, literal(0, type_)), size, bits)  # -0.0 is 0.0
    negative = f.binary("ashr", unsigned, literal(width - 1, type_))
    key = f.binary("xor", unsigned, f.binary("or", negative, sign))
    if descending:
        key = f.binary("xor", key, ones)
    return f.select(lost, ones, key)


# ---- keys -> places


def _emit_order(module: Module, key: LLVMType) -> None:
    """``@order(tables, places, spare_places, keys, spare_keys, n)``: where the places lie that sort
    n keys, ``places`` or ``spare_places``; the keys are used up.
    """
    names = ("tables", "places", "spare_places", "keys", "spare_keys")
    parameters = [*(("ptr", name) for name in names), ("i64", "n")]
    f = Function(module, "order", parameters, result="ptr", linkage="internal")
    scratch = _Scratch(*(V(f"%{name}", PTR) for name in names))
    n = V("%n", I64)
    short = f.compare("ule", n, literal(SHORT, I64))
    with f.when(short):
        _rank(f, scratch, n, key)
    passes = f.select(short, _ZERO, literal(BITS[key.element] // 8, I64))
    _count_bytes(f, scratch, f.select(short, _ZERO, n), passes, key)
    sorted_ = _by_bytes(f, scratch, n, passes, key)
    found = f.select(short, scratch.spare_places, sorted_)
    module.add(f, f"ret {found}")


def _rank(f: Function, scratch: _Scratch, n: V, key: LLVMType) -> None:
    """Each key counts those that come before it."""
    with f.loop(_ZERO, n, 1) as i:
        own = _at(f, scratch.keys, i.index, key)
        with f.loop(_ZERO, i.index, 1, [_ZERO]) as j:
            other = _at(f, scratch.keys, j.index, key)
            j.next = [_count(f, j.carried[0], f.compare("ule", other, own))]
        with f.loop(i.index, n, 1, j.results) as j:
            other = _at(f, scratch.keys, j.index, key)
            j.next = [_count(f, j.carried[0], f.compare("ult", other, own))]
        _put(f, _at(f, scratch.places, i.index, I64), scratch.spare_places, j.results[0])


def _count_bytes(f: Function, scratch: _Scratch, n: V, passes: V, key: LLVMType) -> None:
    """A table for each byte: how often it has each value."""
    _clear(f, scratch.tables, f.binary("mul", passes, literal(256, I64)))
    with f.loop(_ZERO, n, 1) as i:
        own = _at(f, scratch.keys, i.index, key)
        for byte in range(BITS[key.element] // 8):
            table = f.offset(scratch.tables, 256 * byte, "i64")
            digit = _digit(f, own, literal(8 * byte, key), 255)
            _put(f, _add(f, _at(f, table, digit, I64), _ONE), table, digit)


def _by_bytes(f: Function, scratch: _Scratch, n: V, passes: V, key: LLVMType) -> V:
    """Move keys and places to and fro, from the last byte to the first; where the places end up."""
    pointers = [scratch.keys, scratch.spare_keys, scratch.places, scratch.spare_places]
    with f.loop(_ZERO, passes, 1, pointers) as byte:
        keys, spare_keys, places, spare_places = byte.carried
        table = f.offset(scratch.tables, f.binary("shl", byte.index, literal(8, I64)), "i64")
        bits = f.binary("shl", byte.index, literal(3, I64))
        shift = bits if key == I64 else f.cast("trunc", bits, key.element)
        first = _digit(f, _at(f, keys, _ZERO, key), shift, 255)
        same = f.compare("eq", _at(f, table, first, I64), n)  # all keys share this byte
        with f.loop(_ZERO, f.select(same, _ZERO, literal(256, I64)), 1, [_ZERO]) as value:
            count = _at(f, table, value.index, I64)
            _put(f, value.carried[0], table, value.index)
            value.next = [_add(f, value.carried[0], count)]
        with f.loop(_ZERO, f.select(same, _ZERO, n), 1) as i:
            own = _at(f, keys, i.index, key)
            digit = _digit(f, own, shift, 255)
            to = _at(f, table, digit, I64)
            _put(f, _add(f, to, _ONE), table, digit)
            _put(f, own, spare_keys, to)
            _put(f, _at(f, places, i.index, I64), spare_places, to)
        byte.next = [
            f.select(same, stay, moved)
            for stay, moved in (
                (keys, spare_keys),
                (spare_keys, keys),
                (places, spare_places),
                (spare_places, places),
            )
        ]
    return byte.results[2]


def _order(f: Function, scratch: _Scratch, n: V) -> V:
    arguments = (
        *(scratch.tables, scratch.places, scratch.spare_places),
        *(scratch.keys, scratch.spare_keys, n),
    )
    return f.call("order", *arguments, result=PTR)


# ---- the rules


def _emit_sort(routine: Routine, module: Module, f: Function) -> None:
    dtype = routine.inputs[0].type.dtype
    key, descending = _key_type(dtype), bool(routine.option("descending"))
    _emit_order(module, key)
    x, order, length = _argument(f, 0), _argument(f, 1), _argument(f, 3, I64)
    scratch = _scratch(f, length, key)
    with f.loop(V("%begin", I64), V("%end", I64), 1) as row:
        start = f.binary("mul", row.index, length)
        own = f.offset(x, start, key.element)
        with f.loop(_ZERO, length, 1) as i:
            bits = _at(f, own, i.index, key)
            _put(f, _key(f, bits, dtype, descending=descending), scratch.keys, i.index)
            _put(f, i.index, scratch.places, i.index)
        _copy(f, f.offset(order, start, "i64"), _order(f, scratch, length), length)


def _emit_top_k(routine: Routine, module: Module, f: Function) -> None:
    dtype = routine.inputs[0].type.dtype
    key = _key_type(dtype)
    _emit_order(module, key)
    x, order = _argument(f, 0), _argument(f, 1)
    length, count = _argument(f, 3, I64), _argument(f, 4, I64)
    scratch = _scratch(f, length, key)
    with f.loop(V("%begin", I64), V("%end", I64), 1) as row:
        own = f.offset(x, f.binary("mul", row.index, length), key.element)
        kept = _leading(f, scratch, own, length, count, dtype)
        into = f.offset(order, f.binary("mul", row.index, count), "i64")
        found = f.call("llvm.umin.i64", kept, count, result=I64)
        _copy(f, into, _order(f, scratch, kept), found)
        with f.loop(found, count, 1) as i:  # the row is too short: no place, which a kernel checks
            _put(f, literal(-1, I64), into, i.index)


def _leading(f: Function, scratch: _Scratch, x: V, length: V, count: V, dtype: DType) -> V:
    """The keys that may be among the first ``count``, by leading bits, and their places; how
    many.
    """
    key = _key_type(dtype)
    width = BITS[key.element]
    bits = min(width, LEADING)
    shift, values = literal(width - bits, key), literal(1 << bits, I64)
    _clear(f, scratch.tables, values)
    with f.loop(_ZERO, length, 1) as i:
        own = _key(f, _at(f, x, i.index, key), dtype, descending=True)
        _put(f, own, scratch.spare_keys, i.index)
        digit = _digit(f, own, shift)
        _put(f, _add(f, _at(f, scratch.tables, digit, I64), _ONE), scratch.tables, digit)
    with f.loop(_ZERO, values, 1, [_ZERO, _ZERO]) as value:
        before, bound = value.carried  # keys below this value; values that are wanted
        wanted = f.compare("ult", before, count)
        below = _add(f, before, _at(f, scratch.tables, value.index, I64))
        value.next = [below, _count(f, bound, wanted)]
    bound = value.results[1]
    with f.loop(_ZERO, length, 1, [_ZERO]) as i:
        own = _at(f, scratch.spare_keys, i.index, key)
        _put(f, own, scratch.keys, i.carried[0])
        _put(f, i.index, scratch.places, i.carried[0])
        i.next = [_count(f, i.carried[0], f.compare("ult", _digit(f, own, shift), bound))]
    return i.results[0]


def _emit_group(routine: Routine, module: Module, f: Function) -> None:
    ids, start, order = _argument(f, 0), _argument(f, 1), _argument(f, 2)
    length, groups = _argument(f, 4, I64), _argument(f, 5, I64)
    with f.loop(V("%begin", I64), V("%end", I64), 1) as row:
        own = f.offset(ids, f.binary("mul", row.index, length), "i64")
        bounds = f.offset(start, f.binary("mul", row.index, _add(f, groups, _ONE)), "i64")
        places = f.offset(order, f.binary("mul", row.index, length), "i64")
        _clear(f, bounds, _add(f, groups, _ONE))
        with f.loop(_ZERO, length, 1) as i:
            group = _group_of(f, own, i.index, groups)  # ids out of range count in the last word
            _put(f, _add(f, _at(f, bounds, group, I64), _ONE), bounds, group)
        with f.loop(_ZERO, _add(f, groups, _ONE), 1, [_ZERO]) as g:
            count = _at(f, bounds, g.index, I64)
            _put(f, g.carried[0], bounds, g.index)
            g.next = [_add(f, g.carried[0], count)]
        with f.loop(_ZERO, length, 1) as i:
            group = _group_of(f, own, i.index, groups)
            to = _at(f, bounds, group, I64)
            _put(f, _add(f, to, _ONE), bounds, group)
            _put(f, i.index, places, to)
        # each word counted up to the start of the next group
        _copy(f, f.offset(bounds, 1, "i64"), bounds, groups, "memmove")
        _put(f, _ZERO, bounds, _ZERO)


def _group_of(f: Function, ids: V, index: V, groups: V) -> V:
    return f.call("llvm.umin.i64", _at(f, ids, index, I64), groups, result=I64)


_EMITTERS: dict[str, Callable[[Routine, Module, Function], None]] = {
    "sort": _emit_sort,
    "top_k": _emit_top_k,
    "group": _emit_group,
}
