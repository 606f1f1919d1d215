"""From what a person writes to what primitives take: scalars and arrays become Values, dtypes are
promoted, broadcasting becomes explicit nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.arrays import ArrayData
from graphc.errors import DTypeError, PromotionError, ShapeError
from graphc.graph import Value, apply, current_block, source_value
from graphc.source import here
from graphc.types import (
    DType,
    Extent,
    Shape,
    Size,
    TensorType,
    bool_,
    dtype_of,
    float32,
    int32,
    int64,
)

__all__ = [
    "ArrayData",
    "broadcast_shapes",
    "broadcast_to",
    "constant",
    "full",
    "lift",
    "lift_one",
    "namesakes",
    "narrowed",
    "normalize_axes",
    "normalize_axis",
    "promote",
    "settle",
    "settle_all",
    "who",
    "widened",
]

Weak = bool | int | float


def who(op: str) -> str:
    """How errors name an application: the op, and the block it stands in."""
    segment = current_block().rpartition("/")[2].partition("#")[0]
    return f"{op} '{segment}'" if segment and segment != op else op


def constant(array: object, dtype: object = None) -> Value:
    """``array`` as a value of the graph, copied; ``dtype`` converts it first.

    >>> constant([[1.0, 2.0]], "float32").type
    f32[1,2]
    """
    if isinstance(array, Value):
        return array if dtype is None else apply("cast", array, dtype=dtype_of(dtype))
    weak = _weak(array)
    if weak is not None:
        chosen = dtype_of(dtype) if dtype is not None else _weak_dtype(weak)
        return full((), weak, chosen)
    data = np.asarray(array)
    if dtype is not None:
        data = data.astype(dtype_of(dtype).numpy)
    try:
        type = TensorType(dtype_of(data.dtype), data.shape)
    except TypeError as error:
        raise DTypeError(f"constant: {error}", here()) from None
    return source_value("constant", type, data=ArrayData(data))


def full(shape: Shape, value: Weak, dtype: DType) -> Value:
    """A tensor with every element ``value``."""
    return apply("full", shape=shape, value=_fit(value, dtype), dtype=dtype)


def _fit(value: Weak, dtype: DType) -> Weak:
    """``value`` as an element of ``dtype``: rounded for floats, refused where an integer type
    cannot hold it.
    """
    if dtype.is_float:
        with np.errstate(over="ignore"):
            return float(dtype.numpy.type(value))
    if dtype.kind == "b":
        return bool(value)
    limits = np.iinfo(dtype.numpy)
    if not limits.min <= value <= limits.max or int(value) != value:
        raise DTypeError(f"{value!r} does not fit {dtype.name}", here())
    return int(value)


# ---- promotion


def _weak(x: object) -> Weak | None:
    """Python and NumPy scalars and 0-d arrays are weak: only their kind counts."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    if isinstance(x, (int, np.integer)):
        return int(x)
    if isinstance(x, (float, np.floating)):
        return float(x)
    if isinstance(x, np.ndarray) and x.ndim == 0 and x.dtype.kind in "biuf":
        return _weak(x[()])
    return None


def _weak_dtype(value: Weak) -> DType:
    if isinstance(value, bool):
        return bool_
    return int64 if isinstance(value, int) else float32


def join(a: DType, b: DType) -> DType | None:
    """The type of ``a`` with ``b``; None where one would be widened silently.

    >>> from graphc.types import float64, uint8
    >>> str(join(int64, float32)), str(join(uint8, int32)), join(float32, float64)
    ('f32', 'i32', None)
    """
    if a == b or b.kind == "b":
        return a
    if a.kind == "b":
        return b
    if a.is_float and b.is_float:
        return float32 if a.itemsize <= 4 and b.itemsize <= 4 and a.itemsize != b.itemsize else None
    if a.is_float or b.is_float:
        return a if a.is_float else b
    wide, narrow = (a, b) if a.itemsize >= b.itemsize else (b, a)
    if wide.kind == narrow.kind or (wide.kind == "i" and wide.itemsize > narrow.itemsize):
        return wide
    return int32 if wide.itemsize == 1 else int64


def promote(op: str, operands: Sequence[object]) -> tuple[list[Value | Weak], DType]:
    """Operands as Values or weak scalars, and the dtype they meet in; nothing is cast yet."""
    prepared: list[Value | Weak] = []
    for x in operands:
        weak = None if isinstance(x, Value) else _weak(x)
        prepared.append(_strong(op, x) if weak is None else weak)
    dtype: DType | None = None
    for x in prepared:
        if isinstance(x, Value):
            joined = x.dtype if dtype is None else join(dtype, x.dtype)
            if joined is None:
                raise _promotion_error(op, prepared)
            dtype = joined
    for x in prepared:
        if not isinstance(x, Value):
            dtype = _join_weak(dtype, x)
    assert dtype is not None
    return prepared, dtype


def _join_weak(dtype: DType | None, weak: Weak) -> DType:
    own = _weak_dtype(weak)
    if dtype is None or dtype.kind == "b":
        return own if dtype is None or own.kind != "b" else dtype
    if own.is_float and not dtype.is_float:
        return float32
    return dtype


def _strong(op: str, x: object) -> Value:
    if isinstance(x, Value):
        return x
    if isinstance(x, Size):
        return apply("size", extent=x)
    if isinstance(x, (np.ndarray, list, tuple)):
        return constant(x)
    if x is not None and hasattr(x, "__array__"):
        return constant(np.asarray(x))
    raise DTypeError(f"{who(op)}: {type(x).__name__} is no number, array or Value", here())


def _promotion_error(op: str, operands: Sequence[object]) -> PromotionError:
    kinds = " and ".join(str(x.type) for x in operands if isinstance(x, Value))
    return PromotionError(
        f"{who(op)}: {kinds}: joining them would widen one silently; "
        "convert it: v.astype(gc.float32), an array with gc.constant(a, gc.float32)",
        here(),
    )


def lift(op: str, *operands: object, dtype: DType | None = None) -> list[Value]:
    """Operands as Values of one type: promoted (or cast to ``dtype``) and broadcast."""
    first = operands[0]
    if isinstance(first, Value) and dtype in (None, first.dtype):  # the common case, quickly
        type = first.type
        if all(isinstance(x, Value) and x.type == type for x in operands[1:]):
            return list(operands)  # type: ignore[arg-type]
    prepared, joined = promote(op, operands)
    return settle_all(op, prepared, dtype or joined)


def settle_all(op: str, prepared: Sequence[Value | Weak], dtype: DType) -> list[Value]:
    """Promoted operands in one dtype and the shape that they broadcast to."""
    shape = broadcast_shapes(op, [x for x in prepared if isinstance(x, Value)])
    return [settle(x, dtype, shape) for x in prepared]


def settle(x: Value | Weak, dtype: DType, shape: Shape) -> Value:
    """A promoted operand in its final type."""
    if isinstance(x, Value):
        return broadcast_to(_cast(x, dtype), shape)
    return full(shape, x, dtype)


def lift_one(op: str, x: object) -> Value:
    """One operand as a Value."""
    weak = _weak(x)
    return _strong(op, x) if weak is None else full((), weak, _weak_dtype(weak))


def _cast(x: Value, dtype: DType) -> Value:
    return x if x.dtype == dtype else apply("cast", x, dtype=dtype)


def widened(x: Value) -> Value:
    """Halves as float32: what is made of sums of them is not, though the sums may leave float16's
    range.
    """
    return _cast(x, float32) if x.dtype.is_float and x.dtype.itemsize == 2 else x


def narrowed(out: Value, *given: Value | None) -> Value:
    """What was computed of ``widened`` operands in the type that they meet in."""
    known = [v for v in given if v is not None]
    return _cast(out, promote("narrowed", known)[1]) if out.dtype.is_float else out


# ---- broadcasting


def broadcast_shapes(op: str, values: Sequence[Value]) -> Shape:
    """NumPy's rule: aligned at the right, equal extents or a literal 1. Dims never broadcast.

    Raises ShapeError naming the axis.
    """
    if len(values) == 1:
        return values[0].shape
    rank = max((v.ndim for v in values), default=0)
    shape: list[Extent] = [1] * rank
    for value in values:
        for axis, extent in enumerate(value.shape, rank - value.ndim):
            if shape[axis] == 1:
                shape[axis] = extent
            elif extent not in (1, shape[axis]):
                raise ShapeError(_mismatch(op, values, axis, shape[axis], extent), here())
    return tuple(shape)


_INFIX = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "pow": "**"}


def _mismatch(op: str, values: Sequence[Value], axis: int, a: Extent, b: Extent) -> str:
    joined = f" {_INFIX.get(op, 'with')} ".join(str(v.type) for v in values)
    return f"{who(op)}: {joined}: axis {axis} differs ({a} and {b}){namesakes(a, b)}"


def namesakes(a: Extent, b: Extent) -> str:
    """What to add about two extents that differ and print alike."""
    alike = str(a) == str(b)
    return "; dims of one name are equal where all their constraints are" if alike else ""


def broadcast_to(x: Value, shape: Shape) -> Value:
    """``x`` expanded to ``shape`` by explicit nodes: literal 1s are dropped, then axes inserted."""
    if x.shape == shape:
        return x
    if x.node.op == "full":
        return apply("full", **{**x.node.attrs, "shape": shape})
    offset = len(shape) - x.ndim
    kept = [i for i in range(x.ndim) if x.shape[i] == shape[i + offset]]
    bad = [i for i in range(x.ndim) if i not in kept and x.shape[i] != 1]
    if offset < 0 or bad:
        raise ShapeError(f"{who('broadcast_to')}: {x.type} does not expand to {shape}", here())
    if len(kept) < x.ndim:
        x = apply("reshape", x, shape=tuple(x.shape[i] for i in kept))
    return apply("broadcast", x, shape=shape, axes=tuple(i + offset for i in kept))


# ---- axes


def normalize_axis(op: str, axis: object, rank: int) -> int:
    """``axis`` counted from the left; ShapeError where the rank has no such axis."""
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        raise ShapeError(f"{who(op)}: axis must be an int, got {axis!r}", here())
    if not -rank <= axis < rank:
        raise ShapeError(f"{who(op)}: axis {axis} is out of range for {rank} axes", here())
    return int(axis) % rank


def normalize_axes(op: str, axes: object, rank: int) -> tuple[int, ...]:
    """Axes (None is all) as a sorted tuple without duplicates."""
    if axes is None:
        return tuple(range(rank))
    items = axes if isinstance(axes, (tuple, list)) else (axes,)
    found = tuple(sorted(normalize_axis(op, a, rank) for a in items))
    if len(set(found)) < len(found):
        raise ShapeError(f"{who(op)}: an axis is named twice in {axes!r}", here())
    return found
