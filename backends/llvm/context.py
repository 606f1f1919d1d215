"""The state of one kernel's emission: coordinates, scopes, and where each term's value is.

A term's value is a set of SSA values, one for each *position*: the points of the unrolled axes that
it depends on. A GEMM tile of 6 rows and 2 vectors has 12 positions; its left operand has 6, its
right one 2. On the vector axis a value has lanes; a value that does not depend on it stays scalar
and is splatted where it meets one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from itertools import product

from graphc.backends.llvm import vecmath
from graphc.backends.llvm.ir import Buffer, Function, LLVMType, Module, V, literal
from graphc.backends.llvm.target import Target, vector_lanes
from graphc.errors import KernelError
from graphc.kernel.terms import AxisIndex, Const, ScalarValue, SizeValue, Term
from graphc.nest import Affine, Nest
from graphc.records import dataclass
from graphc.types import Dim, DType, Extent, Quotient, bool_

__all__ = [
    "I1",
    "I64",
    "Context",
    "Coordinate",
    "Position",
    "constant",
    "memory_type",
    "register_type",
]

I64 = LLVMType("i64")
I1 = LLVMType("i1")

_ELEMENTS = {
    "f64": "double", "f32": "float", "f16": "i16", "bf16": "i16", "bool": "i1",
    "i8": "i8", "u8": "i8", "i32": "i32", "u32": "i32", "i64": "i64",
}  # fmt: skip

#: half floats are kept as their bits and are numbers only inside a scalar op: what lives from one
#: block into another LLVM would widen where the machine has no such type, and narrow by a call
_HALVES = {"f16": "half", "bf16": "bfloat"}

Position = tuple[tuple[str, int], ...]  # (axis, number) of each unrolled axis, by name


def register_type(dtype: DType, lanes: int = 1) -> LLVMType:
    """The LLVM type of a value in registers; bool is i1, a half float its bits."""
    return LLVMType(_ELEMENTS[dtype.short], lanes)


def memory_type(dtype: DType, lanes: int = 1) -> LLVMType:
    """The LLVM type of a value in memory: that of registers, but bool is a byte."""
    return LLVMType("i8" if dtype is bool_ else _ELEMENTS[dtype.short], lanes)


def constant(value: bool | int | float, dtype: DType) -> V:
    """A number of a dtype as a value in registers.

    >>> from graphc.types import bfloat16
    >>> str(constant(-1.0, bfloat16))
    'i16 -16512'
    """
    if dtype.short not in _HALVES:
        return literal(value, register_type(dtype))
    bits = int(literal(value, LLVMType(_HALVES[dtype.short])).text[3:], 16)  # 0xR3F80
    return literal(bits - (bits >> 15 << 16), register_type(dtype))


@dataclass
class Coordinate:
    """An open axis: where it is, how many points at once, in which lanes.

    ``base`` is the first point, ``end`` one past the last valid one (None: all ``tile * lanes`` are
    valid). ``mask`` is the lanes that are valid in the last vector. ``number`` is which point
    of a register tile is open, where a loop counts them.
    """

    axis: str
    base: V
    tile: int
    lanes: int
    end: V | None = None
    mask: V | None = None
    number: V | None = None


@dataclass
class _Scope:
    lines: Buffer
    values: dict[tuple[Term, Position], V] = field(default_factory=dict)
    memo: dict[tuple[object, ...], V] = field(default_factory=dict)


class Context:
    """One kernel being emitted into one function. Kernel values by term and position; see the
    module's docstring.
    """

    def __init__(self, nest: Nest, target: Target, module: Module, function: Function) -> None:
        self.nest, self.kernel, self.target = nest, nest.kernel, target
        self.module, self.f = module, function
        self.lanes = vector_lanes(nest.kernel, target)
        self.features = vecmath.Features(fma=target.has_fma, half=target.has_fma)
        self.scopes: list[_Scope] = [_Scope(function.lines)]
        self.coordinates: dict[str, Coordinate] = {}
        self.births: dict[str, int] = {}
        self.pointers: dict[str, V] = {}
        self.sizes: dict[str, V] = {}
        self.scalars: dict[str, V] = {}
        self.error: V | None = None
        self.check_base: V | None = None
        self.scratch: V | None = None
        self.flats: dict[tuple[object, ...], Affine] = {}
        self.unproved: dict[tuple[object, ...], list[int]] = {}
        self.streams = False  # whether a store went past the caches
        self.key_states: dict[tuple[object, ...], V] = {}

    # -- scopes
    def push(self) -> None:
        self.scopes.append(_Scope(self.f.lines))

    def pop(self) -> None:
        self.scopes.pop()

    @property
    def depth(self) -> int:
        return len(self.scopes) - 1

    def born(self, value: V) -> V:
        if value.text.startswith("%"):
            # a sum was born inside of its loop, and is known outside once that has ended
            known = self.births.get(value.text, self.depth)
            self.births[value.text] = min(known, self.depth)
        return value

    def outlives(self, value: V) -> V:
        """A value of a loop that has ended, as one of the scope around it: a loop that surely runs
        leaves what its last pass computed.
        """
        if value.text.startswith("%"):
            self.births[value.text] = min(self.depth, self.births.get(value.text, self.depth))
        return value

    def remembered(self, key: tuple[object, ...]) -> V | None:
        for scope in reversed(self.scopes):
            if key in scope.memo:
                return scope.memo[key]
        return None

    def hoisted(
        self, key: tuple[object, ...], operands: Sequence[V], make: Callable[[], V]
    ) -> V:
        """``make()`` once, in the innermost scope in which an operand was born, so that inner loops
        share it.
        """
        known = self.remembered(key)
        if known is not None:
            return known
        depth = max(
            (
                self.births.get(v.text, 0 if not v.text.startswith("%") else self.depth)
                for v in operands
            ),
            default=0,
        )
        scope, lines = self.scopes[depth], self.f.lines
        self.f.lines = scope.lines
        value = make()
        self.f.lines = lines
        scope.memo[key] = value
        if value.text.startswith("%"):
            self.births.setdefault(value.text, depth)
        return value

    # -- positions
    def unrolled(self, axes: frozenset[str]) -> list[Coordinate]:
        """The axes with several positions, lanes last."""
        found = [c for c in self.coordinates.values() if c.tile > 1 and c.axis in axes]
        return sorted(found, key=lambda c: (c.lanes > 1, c.axis))

    def positions(self, axes: frozenset[str]) -> list[Position]:
        """Every position of a value of these axes, vectors fastest: what a product's row
        broadcasts is used by all of them before the next row takes its register.
        """
        unrolled = self.unrolled(axes)
        return [
            tuple(sorted(zip((c.axis for c in unrolled), numbers, strict=True)))
            for numbers in product(*(range(c.tile) for c in unrolled))
        ]

    def project(self, position: Position, axes: frozenset[str]) -> Position:
        return tuple((a, n) for a, n in position if a in axes)

    @property
    def vector(self) -> Coordinate | None:
        """The open axis that runs in lanes."""
        return next((c for c in self.coordinates.values() if c.lanes > 1), None)

    def is_vector(self, axes: frozenset[str]) -> bool:
        return self.vector is not None and self.vector.axis in axes

    def tail(self, axes: frozenset[str], position: Position) -> V | None:
        """The valid lanes of a value at a position, where not all are."""
        vector = self.vector
        if vector is None or vector.axis not in axes or vector.mask is None:
            return None
        number = dict(position).get(vector.axis, 0)
        return vector.mask if number == vector.tile - 1 else None

    # -- values
    def bind(self, term: Term, position: Position, value: V) -> None:
        self.scopes[-1].values[term, position] = self.born(value)

    def is_bound(self, term: Term) -> bool:
        """Whether the term was computed where an open scope sees it."""
        return any(known is term for scope in self.scopes for known, _ in scope.values)

    def value(self, term: Term, position: Position) -> V:
        """The value of a term at a position (of which only the axes that it depends on count)."""
        if isinstance(term, Const):
            return constant(term.value, term.dtype)
        if isinstance(term, AxisIndex):
            return self.index(term.axis, position)
        if isinstance(term, SizeValue):
            return self.extent(term.extent)
        if isinstance(term, ScalarValue):
            return self.scalars[term.name]
        key = (term, self.project(position, term.axes))
        for scope in reversed(self.scopes):
            if key in scope.values:
                return scope.values[key]
        raise KernelError(
            f"{self.kernel.name}: a value is used before it is computed (a fault of the nest)"
        )

    def extent(self, extent: Extent) -> V:
        """A size as an i64; symbolic ones are computed once from the kernel's sizes."""
        if isinstance(extent, int):
            return literal(extent, I64)
        if isinstance(extent, Dim):
            return self.sizes[extent.name]
        return self.hoisted(("extent", str(extent)), (), lambda: self._polynomial(extent))

    def _polynomial(self, extent: Extent) -> V:
        total = literal(0, I64)
        assert not isinstance(extent, int)
        for monomial, coefficient in extent.monomials.items():
            factor = literal(coefficient, I64)
            for atom in monomial:
                if isinstance(atom, Dim):
                    one = self.sizes[atom.name]
                else:
                    op = "sdiv" if isinstance(atom, Quotient) else "srem"
                    one = self.f.binary(op, self._polynomial(atom.size), literal(atom.by, I64))
                factor = self.f.binary("mul", factor, one)
            total = self.f.binary("add", total, factor)
        return total

    def index(self, axis: str, position: Position) -> V:
        """The index of an axis at a position: in lanes where the axis runs in lanes."""
        c = self.coordinates[axis]
        number = dict(position).get(axis, 0)
        if c.lanes == 1:
            return self.add(c.base, number)
        base = self.add(c.base, number * c.lanes)
        steps = ", ".join(f"i64 {n}" for n in range(c.lanes))
        lanes = V(f"<{steps}>", I64._replace(lanes=c.lanes))
        spread = self.splat(base, c.lanes)
        return self.hoisted(
            ("iota", base.text), (base,), lambda: self.f.binary("add", spread, lanes)
        )

    def apply(self, op: str, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
        """A scalar op; equal ones in sight are computed once."""
        lanes = max(a.type.lanes for a in args)
        spread = [self.splat(a, lanes) for a in args]
        kinds = (*(d.short for d in dtypes), result.short)  # i8 and u8 share a register type
        key = ("op", op, *kinds, *(a.text for a in spread), lanes)
        known = self.remembered(key)
        if known is None:
            numbers = [self._number(a, d) for a, d in zip(spread, dtypes, strict=True)]
            known = vecmath.apply(self.f, op, numbers, dtypes, result, self.features)
            if result.short in _HALVES:
                known = self.f.bitcast(known, "i16")
            self.scopes[-1].memo[key] = self.born(known)
        return known

    def _number(self, value: V, dtype: DType) -> V:
        """A value as scalar ops take it."""
        return self.f.bitcast(value, _HALVES[dtype.short]) if dtype.short in _HALVES else value

    def splat(self, value: V, lanes: int) -> V:
        if value.type.lanes == lanes:
            return value
        return self.hoisted(
            ("splat", str(value), lanes), (value,), lambda: self.f.splat(value, lanes)
        )

    # -- i64 arithmetic on coordinates, hoisted to where its operands live
    def add(self, a: V, b: V | int) -> V:
        if isinstance(b, int):
            b = literal(b, I64)
        if b.text == "0":
            return a
        if a.text == "0":
            return b
        if _is_int(a) and _is_int(b):
            return literal(int(a.text) + int(b.text), I64)
        return self.hoisted(("add", a.text, b.text), (a, b), lambda: self.f.binary("add", a, b))

    def multiply(self, a: V, b: V) -> V:
        if _is_int(b):
            a, b = b, a
        if a.text == "1":
            return b
        if a.text == "0":
            return a
        if _is_int(a) and _is_int(b):
            return literal(int(a.text) * int(b.text), I64)
        return self.hoisted(("mul", a.text, b.text), (a, b), lambda: self.f.binary("mul", a, b))

    def minimum(self, a: V, b: V) -> V:
        less = self.f.compare("slt", a, b)
        return self.born(self.f.select(less, a, b))

    def maximum(self, a: V, b: V) -> V:
        more = self.f.compare("sgt", a, b)
        return self.born(self.f.select(more, a, b))

    def conjunction(self, masks: Sequence[V | None]) -> V | None:
        """All of the masks that are there; None where none is."""
        present = [m for m in masks if m is not None]
        if not present:
            return None
        lanes = max(m.type.lanes for m in present)
        whole = self.splat(present[0], lanes)
        for mask in present[1:]:
            whole = self.born(self.f.binary("and", whole, self.splat(mask, lanes)))
        return whole


def _is_int(value: V) -> bool:
    return not value.text.startswith("%")


