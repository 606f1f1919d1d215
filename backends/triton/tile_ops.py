"""What monoids are folded with: ops of tiles whose reduced dimensions go, and of single states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from graphc.backends.triton.context import Context
from graphc.backends.triton.operations import bring, constant, joined_axes, scalar_op
from graphc.backends.triton.source import DTYPE_TEXT, Source, Tile
from graphc.kernel.monoids import MONOIDS
from graphc.kernel.scalar_ops import result_dtype
from graphc.types import DType, bool_, float32, int32, int64

__all__ = ["Number", "States", "TileOps", "combiner_text"]

Number = bool | int | float
States = tuple[Tile, ...]


class Folder(Protocol):
    """Where tiles are folded: the kernel being written, functions above it, products."""

    k: Context

    def combiner(self, monoid: str, dtypes: Sequence[DType]) -> str:
        """The name of a function that merges two states."""

    def product(
        self, a: Tile, b: Tile, over: Sequence[str], tests: Sequence[Tile], dtype: DType,
        old: Tile | None = None,
    ) -> Tile:
        """The sum of a*b over some axes, ``old`` added."""


def combiner_text(name: str, monoid: str, dtypes: Sequence[DType]) -> str:
    """A function of two states that merges them, to be called ``name``."""
    source = Source()
    sides = [
        tuple(Tile(source.fresh(f"{side}{n}"), d) for n, d in enumerate(dtypes)) for side in "ab"
    ]
    merged = MONOIDS[monoid].merge(_ScalarOps(source), *sides)
    arguments = ", ".join(t.text for side in sides for t in side)
    results = ", ".join(t.text for t in merged)
    return "\n".join(
        ["@triton.jit", f"def {name}({arguments}):", *source.lines, f"    return {results}"]
    )


class _ScalarOps:
    """The ops object of monoids, for the body of a function of scalars."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def op(self, name: str, *values: Tile) -> Tile:
        result = result_dtype(name, [v.dtype for v in values])
        text = scalar_op(name, values, [v.text for v in values], result)
        return Tile(self.source.let(text), result)

    def const(self, value: Number, like: Tile) -> Tile:
        return constant(value, like.dtype)


class TileOps:
    """The ops object that monoids are folded with: tiles whose ``over`` dimensions go."""

    def __init__(
        self, folds: Folder, over: Sequence[str], tests: Sequence[Tile], label: str = "t"
    ) -> None:
        self.folds, self.k = folds, folds.k
        self.over = tuple(a for a in over if self.k.tile.get(a, 1) > 1)
        self.tests, self.label = list(tests), label
        self.valid = self.k.conjunction(self.tests)
        if self.valid is not None and len(self.tests) > 1:
            self.valid = self.k.named(self.valid, "valid")

    def op(self, name: str, *values: Tile) -> Tile:
        result = result_dtype(name, [v.dtype for v in values])
        tile = self.k.apply(name, values, result)
        return self.k.named(tile, "t") if "tl." in tile.text or "device." in tile.text else tile

    def const(self, value: Number, like: Tile) -> Tile:
        return constant(value, like.dtype)

    def mask(self, value: Tile, identity: Number) -> Tile:
        if self.valid is None:
            return value
        return self.op("where", self.valid, value, constant(identity, value.dtype))

    # -- reductions of a tile
    def _dims(self, value: Tile) -> list[str]:
        return [a for a in reversed(value.axes) if a in self.over]

    def _reduced(self, value: Tile, call: Callable[[str, int], str]) -> Tile:
        for axis in self._dims(value):
            named = self.k.named(value, "t")
            rest = tuple(a for a in named.axes if a != axis)
            call_text = call(named.text, named.axes.index(axis))
            value = self.k.named(Tile(call_text, value.dtype, rest), self.label)
        return value

    def rsum(self, value: Tile) -> Tile:
        value = self.k.wide(value)
        missing = [a for a in self.over if a not in value.axes]
        if missing:
            axes = joined_axes([value, Tile("", value.dtype, tuple(missing))], self.k.rank)
            value = Tile(self.k.broadcast(value, axes), value.dtype, axes)
        return self._reduced(value, lambda text, axis: f"tl.sum({text}, axis={axis})")

    def rprod(self, value: Tile) -> Tile:
        value = self.k.wide(value)
        missing = tuple(a for a in self.over if a not in value.axes)
        axes = joined_axes([value, Tile("", value.dtype, missing)], self.k.rank)
        value = Tile(self.k.broadcast(value, axes), value.dtype, axes)
        combine = self.folds.combiner("prod", (value.dtype,))
        return self._reduced(value, lambda text, axis: f"tl.reduce({text}, {axis}, {combine})")

    def rmax(self, value: Tile) -> Tile:
        return self._extreme(value, "max")

    def rmin(self, value: Tile) -> Tile:
        return self._extreme(value, "min")

    def _extreme(self, value: Tile, name: str) -> Tile:
        if not self._dims(value):
            return value
        if value.dtype is bool_:
            wide = self.k.apply("i32", [value], int32)
            return self.k.apply("bool", [self._extreme(wide, name)], bool_)
        if value.dtype.itemsize < 4:  # exact in the type that Triton would give the result
            wider = int32 if value.dtype.is_integer else float32
            wide = Tile(f"({value.text}).to({DTYPE_TEXT[wider.short]})", wider, value.axes)
            found = self._extreme(wide, name)
            text = f"({found.text}).to({DTYPE_TEXT[value.dtype.short]})"
            return Tile(text, value.dtype, found.axes)
        if value.dtype == int64 and value.narrow:
            call = self._reduced(value, lambda text, axis: f"tl.{name}({text}, axis={axis})")
            return Tile(call.text, int64, call.axes, narrow=True)
        if value.dtype.is_integer:
            return self._reduced(value, lambda text, axis: f"tl.{name}({text}, axis={axis})")
        combine = self.folds.combiner(name, (value.dtype,))
        return self._reduced(value, lambda text, axis: f"tl.reduce({text}, {axis}, {combine})")

    def rdot(self, weights: Tile, value: Tile) -> Tile:
        """The sum of products; weights are 0 already where elements are masked."""
        if value.number == 1:
            return self.rsum(self._weights(weights))
        tests = [t for t in self.tests if len(t.axes) == 1]
        return self.folds.product(self._weights(weights), value, self.over, tests, value.dtype)

    def _weights(self, weights: Tile) -> Tile:
        named = self.k.named(weights, "weight")
        return replace(named, zero_outside=frozenset(named.axes))

    def rtree(
        self,
        merge: object,
        states: States,
        identity: Sequence[Number],
    ) -> States:
        """States combined in order over the reduced axes: along each by an associative scan,
        whose last point is kept. ``merge`` is a monoid's name, or (from ``linear``) a function.
        """
        monoid = merge if isinstance(merge, str) else "linear"
        masked = [self.mask(s, i) for s, i in zip(states, identity, strict=True)]
        present = [a for a in self.over if any(a in t.axes for t in masked)]
        axes = joined_axes([*masked, Tile("", bool_, tuple(present))], self.k.rank)
        tiles = [self.k.named(Tile(self.k.broadcast(t, axes), t.dtype, axes), "state")
                 for t in masked]
        for axis in [a for a in reversed(axes) if a in self.over]:
            tiles = self._combined(monoid, tiles, axis)
        return tuple(tiles)

    def _combined(self, monoid: str, tiles: Sequence[Tile], axis: str) -> list[Tile]:
        dtypes = [t.dtype for t in tiles]
        combine = self.folds.combiner(monoid, dtypes)
        axes = tiles[0].axes
        rest, place = tuple(a for a in axes if a != axis), axes.index(axis)
        texts = [t.text for t in tiles]
        operand = texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
        names = [self.k.source.fresh("merged") for _ in texts]
        source, listed = self.k.source, ", ".join(names)
        if MONOIDS[monoid].commutative:
            source.line(f"{listed} = tl.reduce({operand}, {place}, {combine})")
            return [Tile(n, d, rest) for n, d in zip(names, dtypes, strict=True)]
        source.line(f"{listed} = tl.associative_scan({operand}, {place}, {combine})")
        size = self.k.coordinates[axis].size if axis in self.k.coordinates else self.k.tile[axis]
        points = Tile(f"tl.arange(0, {size})", int32, (axis,))
        last = f"({bring(self.k.named(points, 'point'), axes)} == {size - 1})"
        kept = [Tile(f"tl.where({last}, {n}, 0.0)", d, axes)
                for n, d in zip(names, dtypes, strict=True)]
        return [
            Tile(f"tl.sum({self.k.named(t, 't').text}, axis={place})", t.dtype, rest) for t in kept
        ]
