"""Functions made of others: differences, quantiles, counts, places in a sorted row, comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply
from graphc.op import composite, function
from graphc.ops import arithmetic, movement, reductions
from graphc.ops.lifting import broadcast_to, full, lift, lift_one, normalize_axis, who
from graphc.ops.selection import segment_sum, sort
from graphc.source import here
from graphc.types import Extent, Size, float32, int64

__all__ = [
    "allclose",
    "bincount",
    "diff",
    "isclose",
    "median",
    "meshgrid",
    "nan_to_num",
    "quantile",
    "searchsorted",
    "signbit",
    "trace",
]


@function
def signbit(x: object) -> Value:
    """Whether the sign is set: x < 0, or -0.0."""
    value = lift_one("signbit", x)
    if not value.dtype.is_float:
        return value < 0
    return apply("copysign", full(value.shape, 1, value.dtype), value) < 0


@function
def nan_to_num(
    x: object, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Value:
    """x with NaN and infinities replaced, infinities by default by the largest finite numbers."""
    value = lift_one("nan_to_num", x)
    if not value.dtype.is_float:
        return value
    largest = float(np.finfo(np.float32).max)
    if value.dtype.name == "bfloat16":
        largest = 3.3895313892515355e38
    elif value.dtype != float32:
        largest = float(np.finfo(value.dtype.numpy).max)
    infinite = apply("isinf", value)
    high = full(value.shape, largest if posinf is None else posinf, value.dtype)
    low = full(value.shape, -largest if neginf is None else neginf, value.dtype)
    bounded = apply("where", infinite, apply("where", value > 0, high, low), value)
    return apply("where", apply("isnan", value), full(value.shape, nan, value.dtype), bounded)


@function
def isclose(
    a: object, b: object, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Value:
    """|a - b| <= atol + rtol |b|; infinities are close to themselves, NaN only on request."""
    x, y = lift("isclose", a, b)
    if not x.dtype.is_float:
        x, y = x.astype(float32), y.astype(float32)
    near = arithmetic.abs(x - y) <= atol + rtol * arithmetic.abs(y)
    close = apply("==", x, y) | (near & arithmetic.isfinite(y))
    return close | (apply("isnan", x) & apply("isnan", y)) if equal_nan else close


@function
def allclose(
    a: object, b: object, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Value:
    """Whether all elements are close (see isclose), a bool scalar."""
    return reductions.all(isclose(a, b, rtol, atol, equal_nan))


@function
def diff(x: object, n: int = 1, axis: int = -1) -> Value:
    """The n-th differences of neighbours along ``axis``: x[1:] - x[:-1].

    >>> diff([1.0, 4.0, 9.0]).shape
    (2,)
    """
    value = lift_one("diff", x)
    place = normalize_axis("diff", axis, value.ndim)
    if value.dtype.kind == "b" or not isinstance(n, int) or n < 0:
        raise DTypeError(
            f"{who('diff')}: n = {n} of {value.type}: takes numbers and n >= 0", here()
        )
    lead = (slice(None),) * place
    for _ in range(n):
        value = value[(*lead, slice(1, None))] - value[(*lead, slice(None, -1))]
    return value


@function
def trace(x: object, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Value:
    """The sum of a diagonal."""
    return reductions.sum(movement.diagonal(x, offset, axis1, axis2), -1)


@function
def meshgrid(*arrays: object, indexing: str = "xy") -> list[Value]:
    """Each 1-D array along an axis of its own of one shape; "xy" exchanges the first two axes."""
    values = [lift_one("meshgrid", a) for a in arrays]
    if indexing not in ("xy", "ij") or any(v.ndim != 1 for v in values):
        listed = ", ".join(str(v.type) for v in values)
        raise ShapeError(f"{who('meshgrid')}: takes 1-D arrays, 'xy' or 'ij'; got {listed}", here())
    places = list(range(len(values)))
    if indexing == "xy" and len(values) > 1:
        places[:2] = [1, 0]
    shape: list[Extent] = [1] * len(values)
    for value, place in zip(values, places, strict=True):
        shape[place] = value.shape[0]
    pairs = zip(values, places, strict=True)
    return [apply("broadcast", v, shape=tuple(shape), axes=(place,)) for v, place in pairs]


@function
@composite
def quantile(x: object, q: float, axis: Any = None, keepdims: bool = False) -> Value:
    """The ``q``-quantile over ``axis`` of literal extent, between neighbours by their distance; NaN
    where an element is.
    """
    value, place = _row_of("quantile", x, axis)
    extent = value.shape[place]
    if not isinstance(extent, int) or extent == 0 or not 0.0 <= q <= 1.0:
        raise ShapeError(
            f"{who('quantile')}: q = {q} of {value.type}: needs 0 <= q <= 1 and a literal extent",
            here(),
        )
    ordered = sort(value, place)
    at = q * (extent - 1)
    low = int(at)
    high = min(low + 1, extent - 1)
    lead = (slice(None),) * place
    below, above = ordered[(*lead, low)], ordered[(*lead, high)]
    # NaN comes last: where one is, it is the last
    lost = apply("isnan", ordered[(*lead, extent - 1)])
    share = at - low
    # not below + (above - below) * share: between two infinities of one sign is none
    between = below if low == high or share == 0 else below * (1 - share) + above * share
    missing = full(between.shape, float("nan"), between.dtype)
    out = apply("where", lost, missing, between)
    if not keepdims:
        return out
    rank = lift_one("quantile", x).ndim
    return movement.expand_dims(out, tuple(range(rank)) if axis is None else place)


def _row_of(name: str, x: object, axis: Any) -> tuple[Value, int]:
    """x as floats, flattened without an axis."""
    value = lift_one(name, x)
    if not value.dtype.is_float:
        value = value.astype(float32)
    if axis is None:
        return movement.reshape(value, (-1,)), 0
    return value, normalize_axis(name, axis, value.ndim)


@function
def median(x: object, axis: Any = None, keepdims: bool = False) -> Value:
    """The middle of the sorted elements over ``axis``, of an even number the mean of two.

    >>> median([[3.0, 1.0, 2.0]], axis=1).shape
    (1,)
    """
    return quantile(x, 0.5, axis, keepdims)


@function
def bincount(ids: object, count: Extent, weights: object = None) -> Value:
    """How often each of 0, ..., count - 1 is among the ids (int64), or the sum of its weights."""
    places = lift_one("bincount", ids)
    if places.ndim != 1 or not isinstance(count, (int, Size)):
        raise ShapeError(f"{who('bincount')}: takes ids [n] and a count, got {places.type}", here())
    each = full(places.shape, 1, int64) if weights is None else lift_one("bincount", weights)
    return segment_sum(each, places, count)


@function
def searchsorted(row: object, values: object, side: str = "left") -> Value:
    """Where in the sorted ``row`` [n] the values belong: how many are below ("right": not above).

    Every value is compared with every element: meant for rows of up to some thousands.

    >>> searchsorted([1.0, 2.0, 3.0], [2.5, 0.0]).shape
    (2,)
    """
    line, wanted = lift_one("searchsorted", row), lift_one("searchsorted", values)
    if line.ndim != 1 or side not in ("left", "right"):
        raise ShapeError(
            f"{who('searchsorted')}: takes a row [n] and 'left' or 'right', got {line.type}", here()
        )
    shape = (*wanted.shape, line.shape[0])
    spread = apply("broadcast", wanted, shape=shape, axes=tuple(range(wanted.ndim)))
    a, b = lift("searchsorted", broadcast_to(line, shape), spread)
    before = apply("<" if side == "left" else "<=", a, b)
    if a.dtype.is_float:  # NaN lies behind all numbers
        lost, beyond = apply("isnan", a), apply("isnan", b)
        before = before | (beyond & ~lost if side == "left" else beyond)
    counted = apply("cast", before, dtype=int64)
    return apply("reduce", counted, monoid="sum", axes=(len(shape) - 1,))

