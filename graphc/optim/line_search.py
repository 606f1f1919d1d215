"""A line search that ends where both of Wolfe's conditions hold: one loop in the graph."""

from __future__ import annotations

from typing import Any, NamedTuple

from graphc import ops, tree
from graphc.control import while_loop
from graphc.graph import Value
from graphc.optim.whole_cost import Landscape
from graphc.types import bool_, int64

__all__ = ["Found", "strong_wolfe"]

#: the share of what the slope promises that the cost must fall by (sufficient decrease) ...
_DECREASE = 1e-4
#: ... and the share of the first slope that may be left (curvature)
_CURVATURE = 0.9
#: an interval whose ends move no parameter by more than this apart is not searched further
_NARROW = 1e-9


class Found(NamedTuple):
    """Where a search ended: the step's size, cost and gradient there, evaluations it took."""

    size: Value
    cost: Value
    gradient: Value
    evaluations: Value


class _Point(NamedTuple):
    """On the line: how far along the direction, the cost there, its slope along the direction."""

    size: Value
    cost: Value
    slope: Value


class _Search(NamedTuple):
    """Of an evaluation. Until a minimum is bracketed, ``low`` is the last size and ``high`` the one
    before it; then they are the ends of an interval with one inside, the lower cost at ``low``.
    """

    trial: Value
    low: _Point
    gradient: Value
    high: _Point
    low_came_first: Value
    zooming: Value
    stuck: Value
    evaluations: Value
    going: Value


class _Line(NamedTuple):
    """What a search does not change: where it starts, and its most evaluations but the first."""

    origin: _Point
    gradient: Value
    most: Value


def strong_wolfe(
    land: Landscape,
    x: Value,
    direction: Value,
    first: Value,
    cost: Value,
    gradient: Value,
    *,
    most: Value,
    going: Value,
) -> Found:
    """A size a with both of Wolfe's conditions (strong form)::

        f(x + a d) <= f(x) + 1e-4 a g . d          |g(x + a d) . d| <= 0.9 |g . d|

    First it goes out from ``first`` until two sizes bracket such an a (Nocedal, Wright, "Numerical
    Optimization", algorithm 3.5), then it zooms into the bracket (algorithm 3.6); every new size is
    the minimum of the cubic through cost and slope at two sizes (their equation 3.59). ``cost`` and
    ``gradient`` are those at x, ``direction`` leads down. After ``most`` evaluations besides the
    first it ends with the lowest cost it has. Sizes, safeguards and counts are those of
    ``torch.optim.LBFGS``, except that a cost that is NaN counts as too high. Where ``going`` is
    false nothing is evaluated, and the size is 0.
    """
    origin = _Point(ops.zeros_like(first), cost, ops.sum(gradient * direction))
    line = _Line(origin, gradient, most)
    reach = ops.max(ops.abs(direction))
    no = ops.zeros((), bool_)
    start = _Search(
        trial=first,
        low=origin,
        gradient=gradient,
        high=origin,
        low_came_first=ops.logical_not(no),
        zooming=no,
        stuck=no,
        evaluations=ops.zeros((), int64),
        going=going,
    )

    def iteration(c: _Search) -> _Search:
        cost, gradient = land.value_and_gradient(x + c.trial * direction)
        new = _Point(c.trial, cost, ops.sum(gradient * direction))
        c = _select(
            c.zooming, _zoomed(line, c, new, gradient), _bracketed(line, c, new, gradient)
        )
        narrow = ops.abs(c.high.size - c.low.size) * reach < _NARROW
        spent = c.evaluations >= most
        going = c.going & ops.logical_not(spent | (c.zooming & narrow))
        return _next_trial(c)._replace(evaluations=c.evaluations + 1, going=going)

    end = while_loop(lambda c: c.going, iteration, start, name="strong_wolfe")
    return Found(end.low.size, end.low.cost, end.gradient, end.evaluations)


def _bracketed(line: _Line, c: _Search, new: _Point, gradient: Value) -> _Search:
    """Algorithm 3.5: a minimum lies before ``new`` if the cost is too high there, or rises."""
    enough, flat = _conditions(line.origin, new)
    # the second size is compared with the condition alone, as torch does (3.5 compares it as well)
    past = ops.logical_not(enough) | ((c.evaluations > 1) & (new.cost >= c.low.cost))
    last = c.evaluations >= line.most
    closed = last | past | (ops.logical_not(flat) & (new.slope >= 0.0))
    before = _select(last, line.origin, c.low)
    stays = closed & ops.logical_not(new.cost < before.cost)
    return c._replace(
        low=_select(stays, before, new),
        gradient=ops.where(stays, ops.where(last, line.gradient, c.gradient), gradient),
        high=_select(stays, new, before),
        low_came_first=stays,
        zooming=closed,
        going=closed | ops.logical_not(flat),
    )


def _zoomed(line: _Line, c: _Search, new: _Point, gradient: Value) -> _Search:
    """Algorithm 3.6: ``new`` is the new low, or the other end if its cost is too high."""
    enough, flat = _conditions(line.origin, new)
    worse = ops.logical_not(enough & (new.cost < c.low.cost))
    # an end that is too high may yet be the lower one; of equals it is the one that came first
    equal = (new.cost == c.low.cost) & ops.logical_not(c.low_came_first)
    swapped = worse & ((new.cost < c.low.cost) | equal)
    stays = worse & ops.logical_not(swapped)
    settled = flat & ops.logical_not(worse)
    rises = new.slope * (c.high.size - c.low.size) >= 0.0
    turned = swapped | (rises & ops.logical_not(settled))
    return c._replace(
        low=_select(stays, c.low, new),
        gradient=ops.where(stays, c.gradient, gradient),
        high=_select(stays, new, _select(turned, c.low, c.high)),
        low_came_first=ops.logical_xor(c.low_came_first, swapped),
        going=ops.logical_not(settled),
    )


def _conditions(origin: _Point, new: _Point) -> tuple[Value, Value]:
    """Wolfe's two: has the cost fallen enough (not, where it is NaN), is the slope flat enough."""
    enough = new.cost <= origin.cost + _DECREASE * new.size * origin.slope
    return enough, ops.abs(new.slope) <= -_CURVATURE * origin.slope


def _next_trial(c: _Search) -> _Search:
    """The size to try next: past ``low``, or inside the interval and not stuck at one of its ends.

    A size within a tenth of the interval from its end is taken once; the next such, and one on the
    end itself, moves a tenth of the interval inwards.
    """
    valley, at = _cubic(c.low, c.high)
    # ``high`` is the size before while there is no interval
    far = _within(valley, at, c.low.size + 0.01 * (c.low.size - c.high.size), c.low.size * 10.0)

    left, right = ops.minimum(c.low.size, c.high.size), ops.maximum(c.low.size, c.high.size)
    inside, margin = _within(valley, at, left, right), 0.1 * (right - left)
    close = ops.minimum(right - inside, inside - left) < margin
    pushed = close & (c.stuck | (inside >= right) | (inside <= left))
    nearer = ops.abs(inside - right) < ops.abs(inside - left)
    inside = ops.where(pushed, ops.where(nearer, right - margin, left + margin), inside)
    return c._replace(
        trial=ops.where(c.zooming, inside, far),
        stuck=c.zooming & close & ops.logical_not(pushed),
    )


def _cubic(a: _Point, b: _Point) -> tuple[Value, Value]:
    """Of the cubic with the costs and slopes of both: has it a minimum, and where."""
    ordered = a.size <= b.size
    left, right = _select(ordered, a, b), _select(ordered, b, a)
    width = right.size - left.size
    mean = left.slope + right.slope + 3.0 * (left.cost - right.cost) / width
    square = mean * mean - left.slope * right.slope
    valley = square >= 0.0  # false for NaN
    root = ops.sqrt(ops.where(valley, square, 0.0))
    share = (right.slope + root - mean) / (right.slope - left.slope + 2.0 * root)
    return valley, right.size - width * share


def _within(valley: Value, at: Value, low: Value, high: Value) -> Value:
    return ops.where(valley, ops.clip(at, low, high), (low + high) / 2.0)


def _select(condition: Value, a: Any, b: Any) -> Any:
    """``a`` where the condition holds, else ``b``, value by value."""
    return tree.map(lambda p, q: ops.where(condition, p, q), a, b)
