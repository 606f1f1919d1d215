"""The scalar operations of the Kernel IR: one table of names, types and NumPy references.

The names, the type rules and the values written here are the truth for the text, the interpreter
and every backend. Every operation is total: what C leaves undefined is defined below, and a backend
must give the same.

===========================  ====================================================================
``+ - *``                    numbers of one dtype; integers wrap
``/``                        floats; of integers it gives f32 (each converted first)
``// %``                     floor division and its remainder, as NumPy; an integer by 0 gives 0
``neg abs sign``             numbers; ``-x`` in the text; integers wrap
``max min``                  any one dtype; a NaN operand gives NaN
``pow``                      float or integer by integer, float by float; 2 ** -1 is 0 in integers
``exp .. sigmoid``           floats; ``rsqrt`` is 1/sqrt; ``atan`` in (-pi/2, pi/2)
``floor ceil round trunc``   floats; round half to even
``< <= > >= == !=``          any one dtype, bool; with NaN only != holds
``and or not``               bools;  ``& | ^ ~`` bools or integers
``<< >>``                    integers; a count outside 0..bits-1 shifts everything out
``where(c, a, b)``           a bool, two values of one dtype
``fma(a, b, c)``             floats, rounded once
``isnan isinf``              float, bool;  ``copysign(magnitude, sign)`` floats
``bits(key, n)``             u32: word n%4 of Philox4x32-10 at counter (n//4 lo, hi, 0, 0)
``derive(key, a, b)``        i64: words 0 (low), 1 of Philox at counter (a lo, a hi, b lo, b hi)
``f32 i64 bool ..``          casts: float to integer truncates, saturates, NaN is 0; integers wrap
===========================  ====================================================================

A key is 64 bits, low word first; bool(x) is x != 0. f16 and bf16 are computed in f32 and rounded
after each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.errors import DTypeError
from graphc.kernel import references as ref
from graphc.records import dataclass
from graphc.types import (
    DTYPES,
    DType,
    bool_,
    dtype_of,
    float32,
    int64,
    uint32,
)

__all__ = [
    "SCALAR_OPS",
    "ScalarOp",
    "default_dtype",
    "evaluate",
    "literal_dtype",
    "result_dtype",
]

Array = NDArray[Any]

#: how tightly the text binds, loosest first, as Python does; calls and names bind tightest
OR, AND, NOT, COMPARISON, BIT_OR, BIT_XOR, BIT_AND, SHIFT, SUM, PRODUCT, UNARY, CALL = range(1, 13)


@dataclass(frozen=True)
class ScalarOp:
    """A row of the table.

    ``kinds`` are the accepted DType kinds of each operand; ``joined`` are the operands whose dtypes
    must agree; ``result`` computes the dtype from operand dtypes that were accepted; ``precedence``
    is CALL for ``name(..)``, UNARY or NOT for a prefix and less for an infix operator. ``symbol``
    is the operator's spelling.
    """

    name: str
    arity: int
    kinds: tuple[str, ...]
    joined: tuple[int, ...]
    result: Callable[[Sequence[DType]], DType]
    reference: Callable[..., Array]
    precedence: int = CALL
    symbol: str = ""

    @property
    def infix(self) -> bool:
        """Whether the text writes it between its two operands."""
        return self.precedence < CALL and self.arity == 2

    @property
    def prefix(self) -> bool:
        """Whether the text writes it as a sign before its operand."""
        return self.precedence < CALL and self.arity == 1

    @property
    def cast(self) -> bool:
        """Whether it converts to the dtype it is named after."""
        return self.name in DTYPES


SCALAR_OPS: dict[str, ScalarOp] = {}

_KIND_NAMES = {"b": "bool", "i": "integer", "u": "integer", "f": "floating"}


def result_dtype(name: str, dtypes: Sequence[DType]) -> DType:
    """The dtype of ``name`` of operands of ``dtypes``; DTypeError where it does not take them.

    >>> result_dtype("/", [int64, int64]), result_dtype("<", [float32, float32])
    (gc.float32, gc.bool)
    >>> result_dtype("+", [float32, int64])
    Traceback (most recent call last):
    graphc.errors.DTypeError: + of f32 and i64: operands must have one dtype; cast one of them
    """
    op = SCALAR_OPS.get(name)
    if op is None:
        raise DTypeError(f"no scalar op named {name!r}")
    if len(dtypes) != op.arity:
        raise DTypeError(f"{name} takes {op.arity} operands, got {len(dtypes)}")
    for position, (dtype, kinds) in enumerate(zip(dtypes, op.kinds, strict=True)):
        if dtype.kind not in kinds:
            wanted = " or ".join(dict.fromkeys(_KIND_NAMES[k] for k in kinds))
            raise DTypeError(f"{name}: operand {position} is {dtype}, it must be {wanted}")
    joined = joined_operands(op, dtypes)
    if len({dtypes[i] for i in joined}) > 1:
        listed = " and ".join(str(dtypes[i]) for i in joined)
        raise DTypeError(f"{name} of {listed}: operands must have one dtype; cast one of them")
    return op.result(dtypes)


def joined_operands(op: ScalarOp, dtypes: Sequence[DType | None]) -> tuple[int, ...]:
    """The operands that must agree; ``pow`` of a float takes an integer exponent of any dtype."""
    base, exponent = (dtypes[0], dtypes[1]) if op.name == "pow" else (None, None)
    if base is not None and exponent is not None and base.is_float and exponent.is_integer:
        return ()
    return op.joined


def default_dtype(value: bool | int | float) -> DType:
    """The dtype of a literal that nothing else decides: bool, i64 or f32."""
    if isinstance(value, bool | np.bool_):
        return bool_
    return int64 if isinstance(value, int | np.integer) else float32


def literal_dtype(
    name: str, position: int, value: bool | int | float, dtypes: Sequence[DType | None]
) -> DType:
    """The dtype of a literal operand: that of the operands it must agree with, if of its kind.

    ``dtypes`` are those of all operands, None for literals.

    >>> from graphc.types import float64
    >>> literal_dtype("*", 1, 2.0, [float64, None]), literal_dtype("*", 1, 2.0, [None, None])
    (gc.float64, gc.float32)
    """
    default = default_dtype(value)
    op = SCALAR_OPS[name]
    partners = [dtypes[i] for i in op.joined if i != position] if position in op.joined else []
    if name in ("<<", ">>") and position == 1:
        partners = [dtypes[0]]
    for dtype in partners:
        if dtype is not None and _same_kind(default, dtype):
            return dtype
    return default


def _same_kind(default: DType, dtype: DType) -> bool:
    return (default.kind == dtype.kind) or (default.is_integer and dtype.is_integer)


def evaluate(name: str, *arrays: ArrayLike) -> Array:
    """``name`` applied to NumPy arrays or scalars, in their dtypes, with NumPy's broadcasting.

    >>> evaluate("//", np.int64(-7), np.int64(2)).item()
    -4
    """
    values = [np.asarray(a) for a in arrays]
    dtype = result_dtype(name, [dtype_of(v.dtype) for v in values])
    op = SCALAR_OPS[name]
    with np.errstate(all="ignore"):
        if not op.cast and name != "fma":
            values = [v.astype(np.float32) if _is_half(v) else v for v in values]
        return np.asarray(op.reference(*values)).astype(dtype.numpy, copy=False)


def _is_half(array: Array) -> bool:
    dtype = dtype_of(array.dtype)
    return dtype.is_float and dtype.itemsize == 2


# ---- the table

_ANY, _NUMBER, _INTEGER, _FLOAT, _BOOL, _BITWISE = "biuf", "iuf", "iu", "f", "b", "biu"


def _same(dtypes: Sequence[DType]) -> DType:
    return dtypes[0]


def _last(dtypes: Sequence[DType]) -> DType:
    return dtypes[-1]


def _always(dtype: DType) -> Callable[[Sequence[DType]], DType]:
    return lambda dtypes: dtype


def _quotient(dtypes: Sequence[DType]) -> DType:
    return dtypes[0] if dtypes[0].is_float else float32


def _define(
    names: str,
    kinds: str | tuple[str, ...],
    references: Sequence[Callable[..., Array]],
    result: Callable[[Sequence[DType]], DType] = _same,
    *,
    arity: int = 1,
    joined: tuple[int, ...] | None = None,
    precedence: int = CALL,
    symbol: str = "",
) -> None:
    groups = (kinds,) * arity if isinstance(kinds, str) else kinds
    together = tuple(range(arity)) if joined is None else joined
    for name, reference in zip(names.split(), references, strict=True):
        SCALAR_OPS[name] = ScalarOp(
            name, arity, groups, together, result, reference, precedence, symbol or name
        )


_define("+ -", _NUMBER, [np.add, np.subtract], arity=2, precedence=SUM)
_define(
    "* // %",
    _NUMBER,
    [np.multiply, np.floor_divide, np.mod],
    arity=2,
    precedence=PRODUCT,
)
_define("/", _NUMBER, [ref.divide], _quotient, arity=2, precedence=PRODUCT)
_define("neg", _NUMBER, [np.negative], precedence=UNARY, symbol="-")
_define("abs sign", _NUMBER, [np.abs, np.sign])
_define("max min", _ANY, [np.maximum, np.minimum], arity=2)
_define("pow", _NUMBER, [ref.power], arity=2)
_define(
    "exp exp2 expm1 log log2 log1p",
    _FLOAT,
    [np.exp, np.exp2, np.expm1, np.log, np.log2, np.log1p],
)
_define("sin cos tan tanh atan", _FLOAT, [np.sin, np.cos, np.tan, np.tanh, np.arctan])
_define(
    "sqrt rsqrt erf erfc sigmoid",
    _FLOAT,
    [np.sqrt, ref.reciprocal_sqrt, ref.erf, ref.erfc, ref.sigmoid],
)
_define("floor ceil round trunc", _FLOAT, [np.floor, np.ceil, np.rint, np.trunc])
_define(
    "< <= > >= == !=",
    _ANY,
    [np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal],
    _always(bool_),
    arity=2,
    precedence=COMPARISON,
)
_define("and", _BOOL, [np.logical_and], arity=2, precedence=AND)
_define("or", _BOOL, [np.logical_or], arity=2, precedence=OR)
_define("not", _BOOL, [np.logical_not], precedence=NOT)
_define("&", _BITWISE, [np.bitwise_and], arity=2, precedence=BIT_AND)
_define("|", _BITWISE, [np.bitwise_or], arity=2, precedence=BIT_OR)
_define("^", _BITWISE, [np.bitwise_xor], arity=2, precedence=BIT_XOR)
_define("~", _BITWISE, [np.invert], precedence=UNARY)
_define(
    "<< >>",
    _INTEGER,
    [ref.shift_left, ref.shift_right],
    arity=2,
    joined=(),
    precedence=SHIFT,
)
_define("where", (_BOOL, _ANY, _ANY), [np.where], _last, arity=3, joined=(1, 2))
_define("fma", _FLOAT, [ref.fused_multiply_add], arity=3)
_define("isnan isinf", _FLOAT, [np.isnan, np.isinf], _always(bool_))
_define("copysign", _FLOAT, [np.copysign], arity=2)
_define("bits", _INTEGER, [ref.random_bits], _always(uint32), arity=2, joined=())
_define("derive", _INTEGER, [ref.derive_key], _always(int64), arity=3, joined=())
for _dtype in DTYPES.values():
    _define(_dtype.short, _ANY, [ref.cast_to(_dtype)], _always(_dtype))
