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
from graphc.kernel.terms import KernelTensor, Load, Store, Term
from graphc.nest import flat_offset
from graphc.types import bool_, int8

__all__ = ["address", "emit_load", "emit_store"]


def address(k: Context, tensor: KernelTensor, index: Sequence[Term]) -> Tile:
    """Where an access goes: ``pointer + offset``, over the dimensions of the index."""
    flat = flat_offset(tensor, index)
    parts = [(k.index(a), c) for a, c in flat.axes.items()]
    parts += [(k.value(t), c) for t, c in flat.atoms.items()]
    offset = k.weighted_sum(parts, flat.constant, k.exceeds(tensor.type.shape))
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
