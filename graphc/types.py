"""Element types, symbolic sizes, tensor types and source lines: the words every level speaks.

A size is an ``Extent``: a plain ``int`` or a ``Size``, a polynomial with integer coefficients over
named ``Dim``s (and floor-divisions and remainders of such polynomials by positive integers)::

    size := int | dim | size + size | size - size | size * size | size // int | size % int
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Union

import ml_dtypes
import numpy as np

from graphc.records import dataclass

__all__ = [
    "DTYPES",
    "DType",
    "Dim",
    "Extent",
    "Quotient",
    "Remainder",
    "Shape",
    "Size",
    "SourceLoc",
    "TensorType",
    "bfloat16",
    "bool_",
    "dtype_of",
    "evaluate",
    "float16",
    "float32",
    "float64",
    "int8",
    "int32",
    "int64",
    "uint8",
    "uint32",
]


@dataclass(frozen=True)
class SourceLoc:
    """A line of the user's program: where a node was made."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return f"{where} in {self.function}" if self.function else where


@dataclass(frozen=True)
class DType:
    """An element type: ``name`` as users write it (``float32``), ``short`` as the texts write it
    (``f32``).
    """

    name: str
    short: str
    kind: str  # "b" bool, "i" signed, "u" unsigned, "f" floating
    itemsize: int  # bytes
    numpy: np.dtype = field(compare=False)

    def __hash__(self) -> int:
        return hash(self.name)  # a string keeps its hash; types are keys everywhere

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    def __repr__(self) -> str:
        return f"gc.{self.name}"

    def __str__(self) -> str:
        return self.short


bool_ = DType("bool", "bool", "b", 1, np.dtype(np.bool_))
int8 = DType("int8", "i8", "i", 1, np.dtype(np.int8))
uint8 = DType("uint8", "u8", "u", 1, np.dtype(np.uint8))
int32 = DType("int32", "i32", "i", 4, np.dtype(np.int32))
uint32 = DType("uint32", "u32", "u", 4, np.dtype(np.uint32))
int64 = DType("int64", "i64", "i", 8, np.dtype(np.int64))
float16 = DType("float16", "f16", "f", 2, np.dtype(np.float16))
bfloat16 = DType("bfloat16", "bf16", "f", 2, np.dtype(ml_dtypes.bfloat16))
float32 = DType("float32", "f32", "f", 4, np.dtype(np.float32))
float64 = DType("float64", "f64", "f", 8, np.dtype(np.float64))

#: every element type by its short name, as the texts of graphs and kernels write it
DTYPES: dict[str, DType] = {
    t.short: t
    for t in (bool_, int8, uint8, int32, uint32, int64, float16, bfloat16, float32, float64)
}
_BY_NUMPY: dict[np.dtype, DType] = {t.numpy: t for t in DTYPES.values()}
_BY_NAME: dict[str, DType] = {t.name: t for t in DTYPES.values()} | DTYPES


def dtype_of(spec: object) -> DType:
    """The ``DType`` for a DType, a name (``"float32"`` or ``"f32"``), a NumPy dtype or a Python
    scalar type.

    >>> dtype_of("f32") is dtype_of(np.float32) is float32
    True
    """
    if isinstance(spec, DType):
        return spec
    if isinstance(spec, str) and spec in _BY_NAME:
        return _BY_NAME[spec]
    try:
        return _BY_NUMPY[np.dtype(spec)]  # type: ignore[call-overload]
    except (KeyError, TypeError):
        from_names = ", ".join(t.name for t in DTYPES.values())
        raise TypeError(f"no element type for {spec!r}; one of {from_names}") from None


# ---- symbolic sizes

Atom = Union["Dim", "Quotient", "Remainder"]
Monomial = tuple[Atom, ...]  # sorted by text; () is the constant


class Size:
    """A polynomial over dims; immutable, equal by canonical form, comparing with ints and sizes
    gives a real bool.

    >>> b = Dim("B")
    >>> b + b == 2 * b, str(4 * b + 1), (b * 6) // 3 == 2 * b
    (True, '4*B+1', True)
    """

    __slots__ = ("_key",)

    def __init__(self, monomials: Mapping[Monomial, int]) -> None:
        kept = {m: c for m, c in monomials.items() if c}
        self._key = tuple(sorted(kept.items(), key=lambda item: (-len(item[0]), str(item[0]))))

    @property
    def monomials(self) -> dict[Monomial, int]:
        return dict(self._key)

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The dims it depends on, in order of name."""
        found: dict[str, Dim] = {}
        for monomial, _ in self._key:
            for atom in monomial:
                for dim in (atom,) if isinstance(atom, Dim) else atom.size.dims:
                    found[dim.name] = dim
        return tuple(found[name] for name in sorted(found))

    @property
    def constant(self) -> int | None:
        """Its value where it does not depend on any dim, else None."""
        if not self._key:
            return 0
        return self._key[0][1] if len(self._key) == 1 and not self._key[0][0] else None

    def evaluate(self, sizes: Mapping[Dim, int]) -> Extent:
        """Replace dims by ints; an int when none is left."""
        total: Extent = 0
        for monomial, coefficient in self._key:
            product: Extent = coefficient
            for atom in monomial:
                product = product * _evaluate_atom(atom, sizes)
            total = total + product
        return total

    def _combine(self, other: object, sign: int) -> Extent:
        theirs = _monomials(other)
        out = self.monomials
        for m, c in theirs.items():
            out[m] = out.get(m, 0) + sign * c
        return _simplified(out)

    def __add__(self, other: Extent) -> Extent:
        return self._combine(other, 1) if _is_extent(other) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Extent) -> Extent:
        return self._combine(other, -1) if _is_extent(other) else NotImplemented

    def __rsub__(self, other: Extent) -> Extent:
        return (self * -1) + other if _is_extent(other) else NotImplemented

    def __mul__(self, other: Extent) -> Extent:
        if not _is_extent(other):
            return NotImplemented
        out: dict[Monomial, int] = {}
        for m, c in self._key:
            for n, d in _monomials(other).items():
                key = tuple(sorted(m + n, key=str))
                out[key] = out.get(key, 0) + c * d
        return _simplified(out)

    __rmul__ = __mul__

    def __floordiv__(self, by: int) -> Extent:
        _check_divisor(by)
        whole = {m: c // by for m, c in self._key if c % by == 0}
        rest = _simplified({m: c for m, c in self._key if c % by})
        if isinstance(rest, int):
            return _simplified(whole) + rest // by
        return _simplified(whole) + Size({(Quotient(rest, by),): 1})

    def __mod__(self, by: int) -> Extent:
        _check_divisor(by)
        rest = _simplified({m: c % by for m, c in self._key})
        return rest % by if isinstance(rest, int) else Size({(Remainder(rest, by),): 1})

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return self.constant == other
        return isinstance(other, Size) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        text = ""
        for monomial, coefficient in self._key:
            factors = [str(a) for a in monomial]
            if not factors or abs(coefficient) != 1:
                factors.insert(0, str(abs(coefficient)))
            sign = "-" if coefficient < 0 else "+" if text else ""
            text += sign + "*".join(factors)
        return text or "0"

    __repr__ = __str__


class Dim(Size):
    """A named size, bound at the call: ``Dim("B")`` stands for any batch size from ``min`` to
    ``max``.

    ``multiple_of`` promises divisibility. ``specialize=True`` compiles once per bound size;
    ``False`` makes one code for all sizes. Two dims are equal when name and constraints are.
    """

    __slots__ = ("max", "min", "multiple_of", "name", "specialize")

    def __init__(
        self,
        name: str,
        *,
        min: int = 1,
        max: int | None = None,
        multiple_of: int = 1,
        specialize: bool = True,
    ) -> None:
        if not name.isidentifier():
            raise ValueError(f"Dim name {name!r} is not an identifier")
        if min < 0 or (max is not None and max < min) or multiple_of < 1:
            raise ValueError(f"Dim {name!r}: need 0 <= min <= max and multiple_of >= 1")
        self.name, self.min, self.max = name, min, max
        self.multiple_of, self.specialize = multiple_of, specialize
        self._key = (((self,), 1),)

    def _identity(self) -> tuple[object, ...]:
        return self.name, self.min, self.max, self.multiple_of, self.specialize

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Dim):
            return self._identity() == other._identity()
        if isinstance(other, Size):
            return other._key == self._key
        return False

    def __hash__(self) -> int:
        return hash(self._identity())

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


@dataclass(frozen=True)
class Quotient:
    """``size // by`` where it does not simplify."""

    size: Size
    by: int

    def __str__(self) -> str:
        return f"({_grouped(self.size)}//{self.by})"


@dataclass(frozen=True)
class Remainder:
    """``size % by`` where it does not simplify."""

    size: Size
    by: int

    def __str__(self) -> str:
        return f"({_grouped(self.size)}%{self.by})"


def _grouped(size: Size) -> str:
    return str(size) if isinstance(size, Dim) else f"({size})"


Extent = Union[int, Size]
Shape = tuple[Extent, ...]


def evaluate(extent: Extent, sizes: Mapping[Dim, int]) -> Extent:
    """``extent`` with dims replaced by ints."""
    return extent if isinstance(extent, int) else extent.evaluate(sizes)


def _evaluate_atom(atom: Atom, sizes: Mapping[Dim, int]) -> Extent:
    if isinstance(atom, Dim):
        return sizes.get(atom, atom)
    inner = atom.size.evaluate(sizes)
    return inner // atom.by if isinstance(atom, Quotient) else inner % atom.by


def _is_extent(other: object) -> bool:
    return isinstance(other, (Size, int, np.integer)) and not isinstance(other, bool)


def _monomials(extent: object) -> dict[Monomial, int]:
    if isinstance(extent, Size):
        return extent.monomials
    if isinstance(extent, (int, np.integer)) and not isinstance(extent, bool):
        return {(): int(extent)}
    raise TypeError(f"a size combines with ints and sizes, not {type(extent).__name__}")


def _simplified(monomials: Mapping[Monomial, int]) -> Extent:
    size = Size(monomials)
    if size.constant is not None:
        return size.constant
    if len(size._key) == 1 and size._key[0][1] == 1 and len(size._key[0][0]) == 1:
        only = size._key[0][0][0]
        if isinstance(only, Dim):
            return only
    return size


def _check_divisor(by: object) -> None:
    if not isinstance(by, (int, np.integer)) or by <= 0:
        raise ValueError(f"a size divides by a positive int, not {by!r}")


# ---- tensors


@dataclass(frozen=True)
class TensorType:
    """Element type and shape, written ``f32[B,128]``."""

    dtype: DType
    shape: Shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> Extent:
        total: Extent = 1
        for extent in self.shape:
            total = total * extent
        return total

    @property
    def nbytes(self) -> Extent:
        return self.elements * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    __repr__ = __str__
