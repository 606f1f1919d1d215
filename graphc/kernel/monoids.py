"""The reductions of the Kernel IR: each a monoid on a tuple of states, written once in scalar ops.

A backend hands in its ops object ``ops`` (``LaneOps``, ``TileOps``) and its own values::

    identity(dtypes)          the states before any element, as Python numbers
    step(ops, state, element)   one more element (per lane; scalar ops only)
    merge(ops, left, right)     two partial states (per lane; scalar ops only)
    collapse(ops, tile)         the states of a whole tile at once, by ops.rsum, ops.rmax, ...
    fold(ops, state, tile)      merge(ops, state, collapse(ops, tile))

==========  ==============  ============================================================
sum prod    a               in the accumulator dtype (``accumulator``)
max min     a               NaN wins
any all     a: bool
argmax      a; index        (value, index): lowest index wins ties, NaN wins over numbers
argmin      a; index
welford     a               (count, mean, sum of squared deviations), Chan's merge
expsum      a; w, ..        (m = max a, sum exp(a - m) w, ..): softmax, attention
linear      a; b            (A, H): h = a h + b from h0 ends at A h0 + H
==========  ==============  ============================================================

``expsum``: elements of -inf weigh 0, so that sums over nothing but -inf are 0 (never NaN); +inf is
the limit: every element equal to the maximum weighs exactly 1 and all finite ones 0; a NaN makes
all states NaN. ``welford`` of data with infinities has NaN deviations, and inf or NaN as its mean.
``linear`` alone is not commutative: its elements are taken in the order of the axes, first to last,
so lanes must hold consecutive runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from graphc.errors import DTypeError
from graphc.records import dataclass
from graphc.types import DType, bool_, float32, int64

__all__ = [
    "MONOIDS",
    "LaneOps",
    "Monoid",
    "TileOps",
    "accumulator",
    "fitted",
    "masked_step",
    "state_dtypes",
]

Number = bool | int | float
V = TypeVar("V")
States = tuple[V, ...]


class LaneOps(Protocol[V]):
    """What ``step`` and ``merge`` need of a backend: scalar ops on its values, lane by lane."""

    def op(self, name: str, *values: V) -> V:
        """A scalar op of ``SCALAR_OPS``."""
        ...

    def const(self, value: Number, like: V) -> V:
        """A constant of the dtype and lanes of ``like``, ``fitted`` to the dtype."""
        ...


class TileOps(LaneOps[V], Protocol[V]):
    """What ``collapse`` and ``fold`` also need: tiles with reduced axes and masked elements."""

    def mask(self, value: V, identity: Number) -> V:
        """``value`` at valid elements, the constant ``identity``, ``fitted``, at masked ones."""
        ...

    def rsum(self, value: V) -> V:
        """The sum over the reduced axes."""
        ...

    def rprod(self, value: V) -> V:
        """The product over the reduced axes."""
        ...

    def rmax(self, value: V) -> V:
        """The maximum; NaN propagates; bools allowed."""
        ...

    def rmin(self, value: V) -> V:
        """The minimum; NaN propagates; bools allowed."""
        ...

    def rdot(self, weights: V, value: V) -> V:
        """The sum of products over the reduced axes, masked elements left out."""
        ...

    def rtree(
        self,
        merge: Callable[[States[V], States[V]], States[V]],
        states: States[V],
        identity: tuple[Number, ...],
    ) -> States[V]:
        """States combined in order over the reduced axes; masked elements are the identity."""
        ...


@dataclass(frozen=True)
class Monoid:
    """An associative combination of states. ``arguments`` None means one or more.

    ``dtypes`` maps argument dtypes (after ``accumulator``) to state dtypes. ``commutative`` says
    whether elements may be taken in any order (up to rounding).
    """

    name: str
    arguments: int | None
    accumulates: bool
    dtypes: Callable[[Sequence[DType]], tuple[DType, ...]]
    identity: Callable[[Sequence[DType]], tuple[Number, ...]]
    step: Callable[[LaneOps[Any], States[Any], States[Any]], States[Any]]
    merge: Callable[[LaneOps[Any], States[Any], States[Any]], States[Any]]
    collapse: Callable[[TileOps[Any], States[Any]], States[Any]]
    commutative: bool = True

    def fold(self, ops: TileOps[V], state: States[V], tile: States[V]) -> States[V]:
        """The states after all the valid elements of a tile."""
        return self.merge(ops, state, self.collapse(ops, tile))

    def results(self, arguments: int) -> int:
        """The number of states for a number of arguments."""
        return 3 if self.name == "welford" else arguments


def accumulator(dtype: DType) -> DType:
    """The dtype that sums, products and moments of ``dtype`` are kept in.

    Half floats accumulate in f32; every integer and bool in i64 (there is no u64; u32 fits).

    >>> from graphc.types import float16, uint8
    >>> accumulator(float16), accumulator(uint8), accumulator(bool_)
    (gc.float32, gc.int64, gc.int64)
    """
    if dtype.is_float:
        return float32 if dtype.itemsize == 2 else dtype
    return int64


def fitted(value: Number, dtype: DType) -> Number:
    """``value`` in ``dtype``: infinities saturate in integers and are truth values in bool.

    >>> from graphc.types import int8
    >>> fitted(-np.inf, int8), fitted(np.inf, bool_), fitted(1, float32)
    (-128, True, 1.0)
    """
    if dtype.is_float:
        return float(value)
    if dtype.kind == "b":
        return value > 0
    if value == np.inf or value == -np.inf:
        return _highest(dtype) if value > 0 else _lowest(dtype)
    return int(value)


def state_dtypes(name: str, arguments: Sequence[DType]) -> tuple[DType, ...]:
    """The dtypes of a reduction's results, from those of its (already accumulating) arguments."""
    monoid = MONOIDS[name]
    if monoid.arguments is not None and len(arguments) != monoid.arguments:
        raise DTypeError(f"{name} takes {monoid.arguments} argument(s), got {len(arguments)}")
    if not arguments:
        raise DTypeError(f"{name} takes at least one argument")
    return monoid.dtypes(arguments)


def masked_step(
    monoid: Monoid, ops: LaneOps[V], state: States[V], element: States[V], valid: V
) -> States[V]:
    """``step`` in lanes where ``valid``; the others keep their state."""
    stepped = monoid.step(ops, state, element)
    return tuple(ops.op("where", valid, n, o) for n, o in zip(stepped, state, strict=True))


# ---- identities and dtypes


def _lowest(dtype: DType) -> Number:
    if dtype.kind == "b":
        return False
    return -np.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def _highest(dtype: DType) -> Number:
    if dtype.kind == "b":
        return True
    return np.inf if dtype.is_float else int(np.iinfo(dtype.numpy).max)


def _zero(dtype: DType) -> Number:
    return 0.0 if dtype.is_float else 0


def _one(dtype: DType) -> Number:
    return 1.0 if dtype.is_float else 1


def _each(
    value: Callable[[DType], Number],
) -> Callable[[Sequence[DType]], tuple[Number, ...]]:
    return lambda dtypes: tuple(value(d) for d in dtypes)


def _same(dtypes: Sequence[DType]) -> tuple[DType, ...]:
    return tuple(dtypes)


def _boolean(dtypes: Sequence[DType]) -> tuple[DType, ...]:
    if dtypes[0] != bool_:
        raise DTypeError(f"any and all take bool, not {dtypes[0]}; compare first")
    return (bool_,)


def _indexed(dtypes: Sequence[DType]) -> tuple[DType, ...]:
    if not dtypes[1].is_integer:
        raise DTypeError(f"argmax and argmin take an integer index, not {dtypes[1]}")
    return tuple(dtypes)


def _moments(dtypes: Sequence[DType]) -> tuple[DType, ...]:
    return _floating(dtypes) * 3


def _floating(dtypes: Sequence[DType]) -> tuple[DType, ...]:
    if not dtypes[0].is_float or any(d != dtypes[0] for d in dtypes):
        listed = ", ".join(map(str, dtypes))
        raise DTypeError(f"welford, expsum and linear take floats of one dtype, not {listed}")
    return tuple(dtypes)


# ---- one paragraph a monoid: step, merge, collapse


def _pairwise(op: str) -> Callable[[LaneOps[V], States[V], States[V]], States[V]]:
    def combine(ops: LaneOps[V], left: States[V], right: States[V]) -> States[V]:
        return (ops.op(op, left[0], right[0]),)

    return combine


def _sum_tile(ops: TileOps[V], tile: States[V]) -> States[V]:
    return (ops.rsum(ops.mask(tile[0], 0)),)


def _prod_tile(ops: TileOps[V], tile: States[V]) -> States[V]:
    return (ops.rprod(ops.mask(tile[0], 1)),)


def _extreme_tile(highest: bool) -> Callable[[TileOps[V], States[V]], States[V]]:
    def collapse(ops: TileOps[V], tile: States[V]) -> States[V]:
        if highest:
            return (ops.rmax(ops.mask(tile[0], -np.inf)),)
        return (ops.rmin(ops.mask(tile[0], np.inf)),)

    return collapse


def _take_better(
    better: str,
) -> Callable[[LaneOps[V], States[V], States[V]], States[V]]:
    """The right state where it beats the left: better, a first NaN, or a tie at a lower index."""

    def merge(ops: LaneOps[V], left: States[V], right: States[V]) -> States[V]:
        (a, i), (b, j) = left, right
        a_nan, b_nan = ops.op("!=", a, a), ops.op("!=", b, b)
        first_nan = ops.op("and", b_nan, ops.op("not", a_nan))
        tie = ops.op("or", ops.op("==", a, b), ops.op("and", a_nan, b_nan))
        beats = ops.op("or", ops.op(better, b, a), first_nan)
        take = ops.op("or", beats, ops.op("and", tie, ops.op("<", j, i)))
        return ops.op("where", take, b, a), ops.op("where", take, j, i)

    return merge


def _argument_tile(highest: bool) -> Callable[[TileOps[V], States[V]], States[V]]:
    def collapse(ops: TileOps[V], tile: States[V]) -> States[V]:
        value, index = tile
        masked = ops.mask(value, -np.inf if highest else np.inf)
        best = ops.rmax(masked) if highest else ops.rmin(masked)
        hit = ops.op("or", ops.op("==", value, best), ops.op("!=", value, value))
        last = ops.const(np.inf, index)
        return best, ops.rmin(ops.mask(ops.op("where", hit, index, last), np.inf))

    return collapse


def _welford_step(ops: LaneOps[V], state: States[V], element: States[V]) -> States[V]:
    count, mean, deviations = state
    (x,) = element
    more = ops.op("+", count, ops.const(1.0, count))
    delta = ops.op("-", x, mean)
    moved = ops.op("+", mean, ops.op("/", delta, more))
    return more, moved, ops.op("+", deviations, ops.op("*", delta, ops.op("-", x, moved)))


def _welford_merge(ops: LaneOps[V], left: States[V], right: States[V]) -> States[V]:
    (n, mean, deviations), (m, other, theirs) = left, right
    total = ops.op("+", n, m)
    delta = ops.op("-", other, mean)
    share = ops.op("/", m, ops.op("max", total, ops.const(1.0, total)))
    between = ops.op("*", ops.op("*", delta, delta), ops.op("*", n, share))
    return (
        total,
        ops.op("+", mean, ops.op("*", delta, share)),
        ops.op("+", ops.op("+", deviations, theirs), between),
    )


def _welford_tile(ops: TileOps[V], tile: States[V]) -> States[V]:
    (x,) = tile
    count = ops.rsum(ops.mask(ops.const(1.0, x), 0.0))
    mean = ops.op("/", ops.rsum(ops.mask(x, 0.0)), ops.op("max", count, ops.const(1.0, count)))
    delta = ops.op("-", x, mean)
    return count, mean, ops.rsum(ops.mask(ops.op("*", delta, delta), 0.0))


def _expsum_merge(ops: LaneOps[V], left: States[V], right: States[V]) -> States[V]:
    """One exponential: the side with the lower maximum is scaled by exp(lower - higher), the other
    by 1.

    Equal maxima scale by 1 (also +inf), or by 0 where both are -inf, whose sums hold nothing.
    """
    a, b = left[0], right[0]
    high, low = ops.op("max", a, b), ops.op("min", a, b)
    one, zero = ops.const(1.0, high), ops.const(0.0, high)
    lowest = ops.const(-np.inf, high)
    tie = ops.op("where", ops.op(">", high, lowest), one, zero)
    scale = ops.op("where", ops.op("==", low, high), tie, ops.op("exp", ops.op("-", low, high)))
    right_leads = ops.op(">", b, a)
    of_left = ops.op("where", right_leads, scale, one)
    of_right = ops.op("where", right_leads, one, scale)
    sums = (
        ops.op("+", ops.op("*", s, of_left), ops.op("*", t, of_right))
        for s, t in zip(left[1:], right[1:], strict=True)
    )
    return high, *sums


def _expsum_tile(ops: TileOps[V], tile: States[V]) -> States[V]:
    a = ops.mask(tile[0], -np.inf)
    high = ops.rmax(a)
    lowest = ops.const(-np.inf, high)
    tie = ops.op("where", ops.op(">", high, lowest), ops.const(1.0, high), ops.const(0.0, high))
    weight = ops.op("where", ops.op("==", a, high), tie, ops.op("exp", ops.op("-", a, high)))
    return high, *(ops.rdot(weight, w) for w in tile[1:])


def _linear_merge(ops: LaneOps[V], left: States[V], right: States[V]) -> States[V]:
    """First the left map, then the right one: x -> ar (al x + hl) + hr."""
    (al, hl), (ar, hr) = left, right
    return ops.op("*", al, ar), ops.op("+", ops.op("*", ar, hl), hr)


def _linear_tile(ops: TileOps[V], tile: States[V]) -> States[V]:
    def merge(left: States[V], right: States[V]) -> States[V]:
        return _linear_merge(ops, left, right)

    return ops.rtree(merge, tile, (1.0, 0.0))


def _monoid(
    name: str,
    arguments: int | None,
    dtypes: Callable[[Sequence[DType]], tuple[DType, ...]],
    identity: Callable[[Sequence[DType]], tuple[Number, ...]],
    merge: Callable[..., Any],
    collapse: Callable[..., Any],
    *,
    step: Callable[..., Any] | None = None,
    accumulates: bool = False,
    commutative: bool = True,
) -> Monoid:
    stepping = merge if step is None else step
    return Monoid(
        name, arguments, accumulates, dtypes, identity, stepping, merge, collapse, commutative
    )


def _lowest_and_last(dtypes: Sequence[DType]) -> tuple[Number, ...]:
    return _lowest(dtypes[0]), _highest(dtypes[1])


def _highest_and_last(dtypes: Sequence[DType]) -> tuple[Number, ...]:
    return _highest(dtypes[0]), _highest(dtypes[1])


def _lowest_and_zeros(dtypes: Sequence[DType]) -> tuple[Number, ...]:
    return (_lowest(dtypes[0]), *(0.0 for _ in dtypes[1:]))


MONOIDS: dict[str, Monoid] = {
    m.name: m
    for m in (
        _monoid("sum", 1, _same, _each(_zero), _pairwise("+"), _sum_tile, accumulates=True),
        _monoid("prod", 1, _same, _each(_one), _pairwise("*"), _prod_tile, accumulates=True),
        _monoid("max", 1, _same, _each(_lowest), _pairwise("max"), _extreme_tile(True)),
        _monoid("min", 1, _same, _each(_highest), _pairwise("min"), _extreme_tile(False)),
        _monoid("any", 1, _boolean, _each(_lowest), _pairwise("or"), _extreme_tile(True)),
        _monoid("all", 1, _boolean, _each(_highest), _pairwise("and"), _extreme_tile(False)),
        _monoid("argmax", 2, _indexed, _lowest_and_last, _take_better(">"), _argument_tile(True)),
        _monoid("argmin", 2, _indexed, _highest_and_last, _take_better("<"), _argument_tile(False)),
        _monoid(
            "welford",
            1,
            _moments,
            _each(_zero),
            _welford_merge,
            _welford_tile,
            step=_welford_step,
            accumulates=True,
        ),
        _monoid(
            "expsum",
            None,
            _floating,
            _lowest_and_zeros,
            _expsum_merge,
            _expsum_tile,
            accumulates=True,
        ),
        _monoid(
            "linear",
            2,
            _floating,
            lambda dtypes: (1.0, 0.0),
            _linear_merge,
            _linear_tile,
            accumulates=True,
            commutative=False,
        ),
    )
}
