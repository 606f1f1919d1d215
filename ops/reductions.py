"""Reductions, running totals and what is made of them: softmax, means, norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

from graphc.graph import Value, apply
from graphc.op import composite, function
from graphc.ops.lifting import (
    broadcast_to,
    full,
    lift_one,
    narrowed,
    normalize_axes,
    normalize_axis,
    widened,
)
from graphc.ops.reduce import recurrence, remove_axes, shifted
from graphc.ops.sizes import product
from graphc.types import DType, Extent, bool_, dtype_of, float32, int64

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "average",
    "count_nonzero",
    "cumprod",
    "cumsum",
    "cumulative_logsumexp",
    "cumulative_max",
    "cumulative_min",
    "cumulative_prod",
    "cumulative_sum",
    "log_softmax",
    "logsumexp",
    "max",
    "mean",
    "min",
    "norm",
    "prod",
    "softmax",
    "std",
    "sum",
    "var",
]


F = TypeVar("F", bound=Callable[..., Value])


def _in_float32(f: F) -> F:
    """Halves as float32 on the way: their sums and squares leave float16's range long before what
    is made of them does.
    """

    @wraps(f)
    def wide(x: object, *args: Any, **options: Any) -> Value:
        value = _floating(f.__name__, x)
        return narrowed(f(widened(value), *args, **options), value)

    return cast(F, wide)


def _reduce(name: str, x: Value, axis: Any, keepdims: bool) -> Value:
    axes = normalize_axes(name, axis, x.ndim)
    out = apply("reduce", x, monoid=name, axes=axes) if axes else _of_one(name, x)
    if not keepdims or not axes:
        return out
    return apply("reshape", out, shape=tuple(1 if i in axes else e for i, e in enumerate(x.shape)))


def _of_one(name: str, x: Value) -> Value:
    """A reduction over no axes."""
    return full(x.shape, 0, int64) if name.startswith("arg") else x


def _numbers(name: str, x: object) -> Value:
    value = lift_one(name, x)
    return apply("cast", value, dtype=int64) if value.dtype.kind == "b" else value


def _terms(name: str, x: object, dtype: object = None) -> Value:
    """What is summed or multiplied: integers in 64 bits, as in NumPy and PyTorch."""
    value = lift_one(name, x)
    wanted = value.dtype if value.dtype.is_float else int64
    wanted = wanted if dtype is None else dtype_of(dtype)
    return value if value.dtype == wanted else apply("cast", value, dtype=wanted)


@function
def sum(x: object, axis: Any = None, keepdims: bool = False, *, dtype: object = None) -> Value:
    """The sum over ``axis`` (an int, a tuple, None for all); of integers and bools in int64, unless
    ``dtype`` says otherwise.

    >>> sum([[1.0, 2.0]], axis=1).shape
    (1,)
    """
    return _reduce("sum", _terms("sum", x, dtype), axis, keepdims)


@function
def prod(x: object, axis: Any = None, keepdims: bool = False) -> Value:
    """The product over ``axis``; of integers and bools in int64."""
    return _reduce("prod", _terms("prod", x), axis, keepdims)


@function
def max(x: object, axis: Any = None, keepdims: bool = False) -> Value:
    """The maximum over ``axis``; NaN if there is one. Equal maxima share the derivative evenly."""
    return _reduce("max", _numbers("max", x), axis, keepdims)


@function
def min(x: object, axis: Any = None, keepdims: bool = False) -> Value:
    """The minimum over ``axis``; NaN if there is one. Equal minima share the derivative evenly."""
    return _reduce("min", _numbers("min", x), axis, keepdims)


@function
def argmax(x: object, axis: int | None = None, keepdims: bool = False) -> Value:
    """The index of the maximum along ``axis`` (None: row-major over all), the first of equals."""
    return _reduce("argmax", _numbers("argmax", x), axis, keepdims)


@function
def argmin(x: object, axis: int | None = None, keepdims: bool = False) -> Value:
    """The index of the minimum along ``axis`` (None: row-major over all), the first of equals."""
    return _reduce("argmin", _numbers("argmin", x), axis, keepdims)


def _as_bool(name: str, x: object) -> Value:
    value = lift_one(name, x)
    return value if value.dtype == bool_ else apply("cast", value, dtype=bool_)


@function
def any(x: object, axis: Any = None, keepdims: bool = False) -> Value:
    """Whether some element over ``axis`` is true (not 0)."""
    return _reduce("any", _as_bool("any", x), axis, keepdims)


@function
def all(x: object, axis: Any = None, keepdims: bool = False) -> Value:
    """Whether every element over ``axis`` is true (not 0)."""
    return _reduce("all", _as_bool("all", x), axis, keepdims)


def count_of(extents: Sequence[Extent], dtype: DType) -> Value | int:
    """A number of elements as an operand: an int, or a scalar of ``dtype`` that depends on Dims."""
    count = product(extents)
    if isinstance(count, int):
        return count
    return apply("cast", apply("size", extent=count), dtype=dtype)


def _floating(name: str, x: object) -> Value:
    value = lift_one(name, x)
    return value if value.dtype.is_float else apply("cast", value, dtype=float32)


@composite
def _mean(value: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    total = _reduce("sum", value, axes, keepdims)
    return total / count_of([value.shape[a] for a in axes], value.dtype)


@function
def mean(x: object, axis: Any = None, keepdims: bool = False) -> Value:
    """The mean over ``axis``; of integers in float32."""
    value = _floating("mean", x)
    out = _mean(widened(value), normalize_axes("mean", axis, value.ndim), keepdims)
    return narrowed(out, value)


@function
def average(x: object, axis: Any = None, weights: object = None) -> Value:
    """The mean over ``axis``, weighted by ``weights`` (of x's shape, or of one axis's extent)."""
    value = _floating("average", x)
    if weights is None:
        return mean(value, axis)
    share = _floating("average", weights)
    value, share, given = widened(value), widened(share), (value, share)
    if share.ndim == 1 and value.ndim > 1 and isinstance(axis, int):
        place = normalize_axis("average", axis, value.ndim)
        share = apply(
            "reshape",
            share,
            shape=tuple(e if i == place else 1 for i, e in enumerate(value.shape)),
        )
    share = broadcast_to(share, value.shape)
    return narrowed(sum(value * share, axis) / sum(share, axis), *given)


@function
def count_nonzero(x: object, axis: Any = None, keepdims: bool = False) -> Value:
    """How many elements over ``axis`` are not 0 (NaN is not), int64."""
    return _reduce("sum", apply("cast", _as_bool("count", x), dtype=int64), axis, keepdims)


@function
@composite
@_in_float32
def var(x: object, axis: Any = None, keepdims: bool = False, correction: float = 0) -> Value:
    """The variance over ``axis``: squared deviations over (count - correction)."""
    value = _floating("var", x)
    axes = normalize_axes("var", axis, value.ndim)
    deviation = value - mean(value, axes, keepdims=True)
    total = _reduce("sum", deviation * deviation, axes, keepdims)
    return total / (count_of([value.shape[a] for a in axes], value.dtype) - correction)


@function
@composite
@_in_float32
def std(x: object, axis: Any = None, keepdims: bool = False, correction: float = 0) -> Value:
    """The standard deviation over ``axis``; its derivative where it is 0 is 0."""
    return _root(var(x, axis, keepdims, correction), 2)


@function
def cumulative_sum(
    x: object, axis: int = 0, *, reverse: bool = False, exclusive: bool = False
) -> Value:
    """The running sum along ``axis``; of integers and bools in int64."""
    return _cumulate("sum", x, axis, reverse, exclusive)


@function
def cumulative_prod(
    x: object, axis: int = 0, *, reverse: bool = False, exclusive: bool = False
) -> Value:
    """The running product along ``axis``; of integers and bools in int64."""
    return _cumulate("prod", x, axis, reverse, exclusive)


@function
def cumulative_max(x: object, axis: int = 0, *, reverse: bool = False) -> Value:
    """The running maximum along ``axis``."""
    return _cumulate("max", x, axis, reverse, False)


@function
def cumulative_min(x: object, axis: int = 0, *, reverse: bool = False) -> Value:
    """The running minimum along ``axis``."""
    return _cumulate("min", x, axis, reverse, False)


@function
@composite
@_in_float32
def cumulative_logsumexp(x: object, axis: int = 0, *, reverse: bool = False) -> Value:
    """log of the running sum of exp(x) along ``axis``, without overflow.

    With m the running maximum, s[i] = exp(m[i - 1] - m[i]) s[i - 1] + exp(x[i] - m[i]).
    """
    value = _floating("cumulative_logsumexp", x)
    place = normalize_axis("cumulative_logsumexp", axis, value.ndim)
    high = apply("stop_gradient", _cumulate("max", value, place, reverse, False))
    before = shifted(high, place, not reverse, float("-inf"))
    started = apply("not", apply("isinf", before))  # else nothing to scale, or infinite for good
    steady = apply("where", apply("isinf", high), full(high.shape, 0, high.dtype), high)
    gap = apply("where", started, before - steady, full(high.shape, 0, high.dtype))
    scale = apply("exp", gap)
    total = recurrence(scale, apply("exp", value - steady), place, reverse)
    return apply("log", total) + steady


@function
def cumprod(x: object, axis: int = 0) -> Value:
    """NumPy's name of cumulative_prod."""
    return cumulative_prod(x, axis)


@function
def cumsum(x: object, axis: int = 0) -> Value:
    """NumPy's name of cumulative_sum."""
    return cumulative_sum(x, axis)


def _cumulate(monoid: str, x: object, axis: int, reverse: bool, exclusive: bool) -> Value:
    prepare = _terms if monoid in ("sum", "prod") else _numbers
    value = prepare("cumulate", x)
    place = normalize_axis("cumulate", axis, value.ndim)
    return apply("cumulate", value, monoid=monoid, axis=place, reverse=reverse, exclusive=exclusive)


@function
@composite
@_in_float32
def logsumexp(x: object, axis: Any = None, keepdims: bool = False) -> Value:
    """log(sum(exp(x))) without overflow: the maximum is taken out first."""
    value = _floating("logsumexp", x)
    axes = normalize_axes("logsumexp", axis, value.ndim)
    high = _steady_max(value, axes)
    total = _reduce("sum", apply("exp", value - broadcast_to(high, value.shape)), axes, True)
    out = apply("log", total) + high
    return out if keepdims else apply("reshape", out, shape=remove_axes(value.shape, axes))


def _steady_max(value: Value, axes: tuple[int, ...]) -> Value:
    """The maximum with kept axes, as a constant to derivatives; 0 where it is infinite, so that no
    inf - inf arises.
    """
    high = apply("stop_gradient", _reduce("max", value, axes, True))
    return apply("where", apply("isinf", high), full(high.shape, 0, high.dtype), high)


@function
@composite
@_in_float32
def softmax(x: object, axis: int = -1) -> Value:
    """exp(x) over its sum along ``axis``, without overflow."""
    value = _floating("softmax", x)
    axes = normalize_axes("softmax", axis, value.ndim)
    high = apply("stop_gradient", _reduce("max", value, axes, True))
    grown = apply("exp", value - broadcast_to(high, value.shape))
    return grown / broadcast_to(_reduce("sum", grown, axes, True), value.shape)


@function
@composite
@_in_float32
def log_softmax(x: object, axis: int = -1) -> Value:
    """log(softmax(x)) without overflow or cancellation."""
    value = _floating("log_softmax", x)
    axes = normalize_axes("log_softmax", axis, value.ndim)
    high = apply("stop_gradient", _reduce("max", value, axes, True))
    centred = value - broadcast_to(high, value.shape)
    total = _reduce("sum", apply("exp", centred), axes, True)
    return centred - broadcast_to(apply("log", total), value.shape)


@function
@_in_float32
def norm(x: object, axis: Any = None, keepdims: bool = False, *, ord: float = 2) -> Value:
    """The norm of order ``ord`` over ``axis``: (sum |x| ** ord) ** (1 / ord); its derivative at 0
    is 0.

    ``ord`` 0 counts what is not 0, inf and -inf give the largest and the smallest size.

    >>> norm([[3.0, 4.0]], axis=1, ord=1).shape
    (1,)
    """
    value = _floating("norm", x)
    if ord == 2:
        return _root(_reduce("sum", value * value, axis, keepdims), 2)
    size = apply("abs", value)
    if ord in (float("inf"), float("-inf")):
        return _reduce("max" if ord > 0 else "min", size, axis, keepdims)
    if ord == 0:
        return apply("cast", count_nonzero(value, axis, keepdims), dtype=value.dtype)
    if ord == 1:
        return _reduce("sum", size, axis, keepdims)
    return _root(_reduce("sum", size**ord, axis, keepdims), ord)


def _root(total: Value, order: float) -> Value:
    zero = full(total.shape, 0, total.dtype)
    safe = apply("==", total, zero)
    positive = apply("where", safe, full(total.shape, 1, total.dtype), total)
    root = apply("sqrt", positive) if order == 2 else positive ** (1.0 / order)
    return apply("where", safe, zero, root)
