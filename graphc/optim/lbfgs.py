"""L-BFGS: a quasi-Newton method that remembers the last steps instead of a matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

from graphc import ops
from graphc.control import cond, scan, while_loop
from graphc.graph import Value
from graphc.optim.line_search import Found, strong_wolfe
from graphc.optim.whole_cost import Landscape, WholeCostOptimizer
from graphc.types import int64

__all__ = ["LBFGS"]


class _Carry(NamedTuple):
    """Of an iteration: where it is, its history (newest last), and why to go on."""

    x: Value
    cost: Value
    gradient: Value
    direction: Value
    size: Value
    before: Value
    moves: Value
    turns: Value
    inverses: Value
    scale: Value
    iterations: Value
    inner: Value
    evaluations: Value
    going: Value


class LBFGS(WholeCostOptimizer):
    """At most ``max_iter`` iterations a step, as ``torch.optim.LBFGS``.

    With the moves s, the turns y of the gradient and r = 1 / (y . s) of the last ``history_size``
    iterations (those with y . s > 1e-10)::

        q <- -g;    newest to oldest:   a <- r s . q,       q <- q - a y
        q <- q (y . s) / (y . y)                            of the newest
        d <- q;     oldest to newest:   d <- d + (a - r y . d) s
        x <- x + lr d                   (the very first: lr min(1, 1 / sum |g|))

    With ``line_search_fn="strong_wolfe"`` lr is where the search for the size begins
    (``graphc.optim.line_search``); without it the cost may rise. A step ends early where the
    gradient or the move is below its tolerance. ``max_eval`` bounds the evaluations, 1.25
    ``max_iter`` unless said. Liu, Nocedal 1989.

    >>> import graphc as gc
    >>> w = gc.parameter((3,))
    >>> len(LBFGS(history_size=5).minimize(((w - 1.0) ** 2).sum()))
    10
    """

    def __init__(
        self,
        lr: float = 1.0,
        *,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        super().__init__(lr)
        if max_iter < 1 or history_size < 1:
            raise ValueError("LBFGS: max_iter and history_size must be at least 1")
        if line_search_fn not in (None, "strong_wolfe"):
            raise ValueError(
                f"LBFGS: line_search_fn is None or 'strong_wolfe', not {line_search_fn!r}"
            )
        self.max_iter, self.history_size = max_iter, history_size
        self.max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
        self.tolerance_grad, self.tolerance_change = tolerance_grad, tolerance_change
        self.line_search_fn = line_search_fn

    def _step(self, land: Landscape) -> tuple[Value, dict[str, Value]]:
        n, dtype, h = land.x.shape, land.dtype, self.history_size
        one = ops.ones((), int64)
        start = _Carry(
            x=land.x,
            cost=land.cost,
            gradient=land.gradient,
            direction=self._held("direction", n, dtype) * 1.0,
            size=self._held("size", (), dtype) * 1.0,
            before=self._held("before", n, dtype) * 1.0,
            moves=self._held("moves", (h, *n), dtype) * 1.0,
            turns=self._held("turns", (h, *n), dtype) * 1.0,
            inverses=self._held("inverses", (h,), dtype) * 1.0,
            scale=self._held("scale", (), dtype, 1.0) * 1.0,
            iterations=self._held("iterations", (), int64) + 0,
            inner=one - 1,
            evaluations=one,
            going=ops.max(ops.abs(land.gradient)) > self.tolerance_grad,
        )
        rate = self._rate.astype(dtype)
        end = while_loop(
            lambda c: c.going, lambda c: self._iteration(land, c, rate), start, name="lbfgs"
        )
        kept = ("direction", "size", "before", "moves", "turns", "inverses", "scale", "iterations")
        return end.x, {name: getattr(end, name) for name in kept}

    def _iteration(self, land: Landscape, c: _Carry, rate: Value) -> _Carry:
        first, g = c.iterations == 0, c.gradient
        c = self._remembered(c, first)
        direction = _two_loops(g, c)
        shortened = ops.minimum(1.0, 1.0 / ops.sum(ops.abs(g))) * rate
        size = ops.where(first, shortened, rate)
        flat = ops.sum(g * direction) > -self.tolerance_change
        last = c.inner + 1 >= self.max_iter
        move = self._searched if self.line_search_fn else self._moved
        size, cost, gradient, more = move(land, c, direction, size, flat, last)
        evaluations = c.evaluations + more
        settled = (
            (evaluations >= self.max_eval)
            | (ops.max(ops.abs(gradient)) <= self.tolerance_grad)
            | (ops.max(ops.abs(direction * size)) <= self.tolerance_change)
            | (ops.abs(cost - c.cost) < self.tolerance_change)
        )
        return c._replace(
            x=ops.where(flat, c.x, c.x + size * direction),
            cost=cost,
            gradient=gradient,
            direction=direction,
            size=size,
            before=g,
            iterations=c.iterations + 1,
            inner=c.inner + 1,
            evaluations=evaluations,
            going=ops.logical_not(flat | last | settled),
        )

    def _moved(
        self, land: Landscape, c: _Carry, direction: Value, size: Value, flat: Value, last: Value
    ) -> Found:
        """All of ``size``; what lies there is not looked at where this is the last iteration."""
        cost, gradient = cond(
            flat | last,
            lambda x: (c.cost, c.gradient),
            lambda x: land.value_and_gradient(x),
            c.x + size * direction,
        )
        return Found(size, cost, gradient, ops.ones((), int64))

    def _searched(
        self, land: Landscape, c: _Carry, direction: Value, size: Value, flat: Value, last: Value
    ) -> Found:
        """As far as Wolfe's conditions want, from ``size`` on."""
        return strong_wolfe(
            land,
            c.x,
            direction,
            size,
            c.cost,
            c.gradient,
            most=self.max_eval - c.evaluations,
            going=ops.logical_not(flat),
        )

    def _remembered(self, c: _Carry, first: Value) -> _Carry:
        """The history with the move that led here, the oldest dropped."""
        turn, move = c.gradient - c.before, c.direction * c.size
        product = ops.sum(turn * move)
        known = ops.logical_not(first) & (product > 1e-10)
        safe = ops.where(known, product, 1.0)

        def pushed(rows: Value, row: Any) -> Value:
            return ops.where(known, ops.concat([rows[1:], ops.expand_dims(row, 0)], 0), rows)

        return c._replace(
            moves=pushed(c.moves, move),
            turns=pushed(c.turns, turn),
            inverses=pushed(c.inverses, 1.0 / safe),
            scale=ops.where(known, safe / ops.sum(turn * turn), c.scale),
        )


def _two_loops(g: Value, c: _Carry) -> Value:
    """Minus the inverse Hessian's estimate times g; rows not filled yet have inverse 0."""

    def back(q: Value, row: tuple[Value, Value, Value]) -> tuple[Value, Value]:
        move, turn, inverse = row
        a = inverse * ops.sum(move * q)
        return q - a * turn, a

    def forth(d: Value, row: tuple[Value, Value, Value, Value]) -> tuple[Value, None]:
        move, turn, inverse, a = row
        return d + (a - inverse * ops.sum(turn * d)) * move, None

    rows = c.moves, c.turns, c.inverses
    q, shares = scan(back, -g, rows, reverse=True, name="newest_to_oldest")
    direction, _ = scan(forth, q * c.scale, (*rows, shares), name="oldest_to_newest")
    found: Value = direction
    return found
