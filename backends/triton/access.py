"""Loads and stores: addresses from affine forms, masks only where something may lie outside.

Nothing outside a tensor is ever touched: an index that intervals do not prove inside is tested,
whatever a ``check`` may say later.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.triton.context import Context
from graphc.backends.triton.operations import bring, constant, joined_axes
from graphc.backends.triton.source import DTYPE_TEXT, Tile
from graphc.kernel.bounds import unproved
from graphc.kernel.terms import Apply, AxisIndex, Const, KernelTensor, Load, Store, Term
from graphc.nest import Affine, affine
from graphc.types import Extent, bool_, int8

__all__ = ["address", "emit_load", "emit_store", "flat_offset", "strides"]

_LARGEST = 2**31 - 1


def strides(shape: Sequence[Extent]) -> list[Extent]:
    """Elements to step per dimension, row-major.

    >>> strides([2, 3, 4])
    [12, 4, 1]
    """
    out: list[Extent] = []
    step: Extent = 1
    for extent in reversed(shape):
        out.append(step)
        step = step * extent
    return out[::-1]


def flat_offset(tensor: KernelTensor, index: Sequence[Term]) -> Affine:
    """The element offset of an access; digits of one number that meet again are joined."""
    total = Affine(0, {}, {})
    for term, step in zip(index, strides(tensor.type.shape), strict=True):
        total = total.plus(affine(term).scaled(step))
    joined = _joined_digits(total)
    while joined is not None:
        total, joined = joined, _joined_digits(joined)
    return total


def _joined_digits(form: Affine) -> Affine | None:
    """``k*c * (t // c) + k * (t % c) -> k * t``, once; None where there is no such pair."""
    for high, high_step in form.atoms.items():
        for low, low_step in form.atoms.items():
            whole = _whole_of(high, low, high_step, low_step)
            if whole is not None:
                rest = {t: c for t, c in form.atoms.items() if t is not high and t is not low}
                return Affine(form.constant, form.axes, rest).plus(affine(whole).scaled(low_step))
    return None


def _whole_of(high: Term, low: Term, high_step: Extent, low_step: Extent) -> Term | None:
    """``t`` where high is ``t // c`` (or ``t // (b*c)``, with low ``(t // b) % c``)."""
    number, by = _division(high, "//"), _division(low, "%")
    if number is None or by is None or high_step != low_step * by[1]:
        return None
    if number[1] == by[1] and _same(number[0], by[0]):
        return by[0]
    inner = _division(by[0], "//")
    if inner and number[1] == inner[1] * by[1] and _same(number[0], inner[0]):
        return by[0]
    return None


def _division(term: Term, op: str) -> tuple[Term, int] | None:
    if isinstance(term, Apply) and term.op == op and isinstance(term.args[1], Const):
        return term.args[0], int(term.args[1].value)
    return None


def _same(a: Term, b: Term) -> bool:
    if a is b:
        return True
    if isinstance(a, AxisIndex) and isinstance(b, AxisIndex):
        return a.axis == b.axis
    if isinstance(a, Const) and isinstance(b, Const):
        return a.value == b.value
    if isinstance(a, Apply) and isinstance(b, Apply) and a.op == b.op:
        return all(_same(x, y) for x, y in zip(a.args, b.args, strict=True))
    return False


def address(k: Context, tensor: KernelTensor, index: Sequence[Term]) -> Tile:
    """Where an access goes: ``pointer + offset``, over the dimensions of the index."""
    flat = flat_offset(tensor, index)
    parts = [(k.index(a), c) for a, c in flat.axes.items()]
    parts += [(k.value(t), c) for t, c in flat.atoms.items()]
    elements = tensor.type.elements
    wide = isinstance(elements, int) and elements > _LARGEST
    offset = k.weighted_sum(parts, flat.constant, wide)
    pointer = k.pointers[tensor.name]
    text = pointer if offset.number == 0 else f"{pointer} + {offset.text}"
    return Tile(text, tensor.type.dtype, offset.axes)


def _guards(
    k: Context, tensor: KernelTensor, index: Sequence[Term], pred: Term | None, axes: frozenset[str]
) -> list[Tile | None]:
    """What must hold for the access to be inside: coordinates that exist, the predicate, bounds."""
    tests: list[Tile | None] = [
        k.coordinates[a].valid for a in sorted(axes, key=k.rank) if a in k.coordinates
    ]
    if pred is not None:
        tests.append(k.value(pred))
    for dimension in unproved(k.kernel, tensor.name, tuple(index), pred, checks=()):
        at = k.named(k.index_value(index[dimension]), "at")
        extent = k.extent(tensor.type.shape[dimension])
        tests.append(Tile(f"({at.text} >= 0)", bool_, at.axes))
        tests.append(Tile(f"({at.text} < {extent})", bool_, at.axes))
    return tests


def emit_load(k: Context, load: Load) -> Tile:
    """The value of a load at the open coordinates."""
    tensor = k.kernel.tensors[load.tensor]
    dtype = tensor.type.dtype
    memory = int8 if dtype is bool_ else dtype
    place = address(k, tensor, load.index)
    mask = k.conjunction(_guards(k, tensor, load.index, load.pred, load.axes))
    fill = constant(0, dtype) if load.fill is None else k.value(load.fill)
    if mask is None:
        text, axes = f"tl.load({place.text})", place.axes
    else:
        if fill.dtype is bool_:
            fill = constant(int(bool(fill.number)), int8) if fill.number is not None else Tile(
                f"({fill.text}).to(tl.int8)", int8, fill.axes)
        axes = joined_axes([place, mask, fill], k.rank)
        other = bring(fill, axes) if fill.number is None else fill.text
        text = f"tl.load({_spread(k, place, axes)}, mask={bring(mask, axes)}, other={other})"
    zero = frozenset(axes) if fill.number == 0 else frozenset()
    text = k.source.let(text, k.names.get(load) or tensor.name)
    tile = Tile(text, memory, axes, zero_outside=zero)
    return Tile(f"({text} != 0)", bool_, axes) if dtype is bool_ else tile


def _spread(k: Context, place: Tile, axes: Sequence[str]) -> str:
    """The address in all dimensions of an access: masks do not widen it."""
    if place.axes == tuple(axes):
        return place.text
    zeros = f"tl.zeros({k.shape(axes)}, tl.int32)"
    if not place.axes:
        return f"{place.text} + {zeros}"
    return f"({bring(Tile(place.text, place.dtype, place.axes), axes)}) + {zeros}"


def emit_store(k: Context, store: Store) -> None:
    """Write (or add) a value at the open coordinates."""
    tensor = k.kernel.tensors[store.tensor]
    dtype = tensor.type.dtype
    value = k.value(store.value)
    place = address(k, tensor, store.index)
    mask = k.conjunction(_guards(k, tensor, store.index, store.pred, store.axes))
    present = [place, value] if mask is None else [place, value, mask]
    axes = joined_axes(present, k.rank)
    where = k.source.let(_spread(k, place, axes), f"{tensor.name}_at") if store.add else (
        _spread(k, place, axes))
    masked = "" if mask is None else f", mask={bring(mask, axes)}"
    text = bring(value, axes)
    if store.add:
        other = "" if mask is None else ", other=0"
        old = Tile(k.source.fresh("old"), dtype, axes)
        k.source.line(f"{old.text} = tl.load({where}{masked}{other})")
        text = k.apply("+", [old, value], dtype).text
    if dtype is bool_:
        text = f"({text}).to(tl.int8)" if value.number is None else str(int(bool(value.number)))
    elif value.number is not None and not store.add:
        text = f"tl.full([], {value.text}, {DTYPE_TEXT[dtype.short]})"
    k.source.line(f"tl.store({where}, {text}{masked})")
    if store.add:
        k.source.line("tl.debug_barrier()")
