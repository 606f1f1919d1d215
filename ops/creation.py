"""Tensors from nothing: zeros, arange, one_hot and the like."""

from __future__ import annotations

from graphc.errors import ShapeError
from graphc.graph import Value, apply
from graphc.op import function
from graphc.ops.lifting import full as full_of
from graphc.ops.lifting import lift_one, who
from graphc.types import Extent, Shape, dtype_of, float32, int64

__all__ = [
    "arange",
    "eye",
    "full",
    "full_like",
    "linspace",
    "one_hot",
    "ones",
    "ones_like",
    "stop_gradient",
    "zeros",
    "zeros_like",
]


def _shape_of(shape: object) -> Shape:
    return tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)  # type: ignore[return-value]


def full(shape: object, value: object, dtype: object = None) -> Value:
    """A tensor of ``shape`` full of ``value`` (a number, or a scalar Value).

    >>> full((2, 3), 1.5).type
    f32[2,3]
    """
    from_number = lift_one("full", value)
    wanted = from_number.dtype if dtype is None else dtype_of(dtype)
    if from_number.node.op == "full":
        return full_of(_shape_of(shape), from_number.node.attrs["value"], wanted)
    if from_number.dtype != wanted:
        from_number = apply("cast", from_number, dtype=wanted)
    return apply("broadcast", from_number, shape=_shape_of(shape), axes=())


def zeros(shape: object, dtype: object = float32) -> Value:
    """A tensor of zeros."""
    return full_of(_shape_of(shape), 0, dtype_of(dtype))


def ones(shape: object, dtype: object = float32) -> Value:
    """A tensor of ones."""
    return full_of(_shape_of(shape), 1, dtype_of(dtype))


@function
def zeros_like(x: object, dtype: object = None) -> Value:
    """Zeros of the shape, and unless ``dtype`` says otherwise the dtype, of x."""
    return full_like(x, 0, dtype)


@function
def ones_like(x: object, dtype: object = None) -> Value:
    """Ones of the shape and dtype of x."""
    return full_like(x, 1, dtype)


@function
def full_like(x: object, value: bool | int | float, dtype: object = None) -> Value:
    """``value`` everywhere, in the shape and dtype of x."""
    model = lift_one("full_like", x)
    return full_of(model.shape, value, model.dtype if dtype is None else dtype_of(dtype))


def arange(
    start: Extent, stop: Extent | None = None, step: int = 1, *, dtype: object = int64
) -> Value:
    """start, start + step, ... before stop; ``arange(n)`` starts at 0. Bounds are ints or Dims.

    >>> arange(999, -1, -1).type
    i64[1000]
    """
    first, last = (0, start) if stop is None else (start, stop)
    if not isinstance(step, int) or step == 0:
        raise ShapeError(f"{who('arange')}: step must be a non-zero int, got {step!r}")
    span = last - first if step > 0 else first - last
    stride = step if step > 0 else -step
    count = span if stride == 1 else (span + (stride - 1)) // stride
    count = max(count, 0) if isinstance(count, int) else count
    chosen = dtype_of(dtype)
    line = apply("iota", shape=(count,), axis=0, dtype=chosen)
    scaled = line if step == 1 else line * step
    return scaled if isinstance(first, int) and first == 0 else (scaled + first).astype(chosen)


def eye(n: Extent, m: Extent | None = None, *, dtype: object = float32) -> Value:
    """Ones where row and column agree, else zeros: [n, m]."""
    shape = (n, n if m is None else m)
    rows = apply("iota", shape=shape, axis=0, dtype=int64)
    columns = apply("iota", shape=shape, axis=1, dtype=int64)
    return apply("cast", apply("==", rows, columns), dtype=dtype_of(dtype))


def linspace(start: float, stop: float, num: int, *, dtype: object = float32) -> Value:
    """``num`` evenly spaced numbers from start to stop, both included."""
    line = apply("iota", shape=(num,), axis=0, dtype=dtype_of(dtype))
    return line * ((stop - start) / max(num - 1, 1)) + start


@function
def one_hot(index: object, count: Extent, dtype: object = float32) -> Value:
    """1 where the new last axis (of extent ``count``) equals ``index``, else 0: shape index.shape +
    (count,).
    """
    wanted = lift_one("one_hot", index)
    shape = (*wanted.shape, count)
    column = apply("iota", shape=shape, axis=len(shape) - 1, dtype=wanted.dtype)
    spread = apply("broadcast", wanted, shape=shape, axes=tuple(range(wanted.ndim)))
    return apply("cast", apply("==", column, spread), dtype=dtype_of(dtype))


@function
def stop_gradient(x: object) -> Value:
    """x, as a constant to derivatives."""
    return apply("stop_gradient", lift_one("stop_gradient", x))
