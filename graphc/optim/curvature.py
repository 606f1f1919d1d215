"""Optimizers that use the cost's curvature, by Hessian-vector products alone: nonlinear conjugate
gradients, Newton's method and the Hessian-free one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from graphc import ops
from graphc.control import while_loop
from graphc.graph import Value
from graphc.optim.whole_cost import Landscape, WholeCostOptimizer, backtracked
from graphc.types import int64

__all__ = ["ConjugateGradient", "HessianFree", "Newton"]

_BETAS = ("fletcher_reeves", "polak_ribiere", "hestenes_stiefel")


class ConjugateGradient(WholeCostOptimizer):
    """Nonlinear conjugate gradients: directions that do not undo each other.

    ::

        d <- -g + beta d,      beta = g . g / g' . g'            fletcher_reeves (1964)
                                      max(0, g . (g - g') / g' . g')   polak_ribiere (1969)
                                      max(0, g . (g - g') / d . (g - g'))  hestenes_stiefel (1952)
        x <- x + a d

    g' is the gradient of the step before. a is where a parabola along d, its curvature from one
    Hessian-vector product, has its minimum (``lr`` where it has none), halved until the cost falls
    (Armijo). It starts again from -g where d leads up, and after as many steps as there are
    numbers. On a quadratic bowl of n dimensions it arrives after n steps.

    >>> import graphc as gc
    >>> w = gc.parameter((3,))
    >>> len(ConjugateGradient().minimize(((w - 1.0) ** 2).sum()))
    4
    """

    def __init__(self, lr: float = 1.0, *, beta: str = "polak_ribiere") -> None:
        super().__init__(lr)
        if beta not in _BETAS:
            raise ValueError(f"ConjugateGradient: beta is one of {', '.join(_BETAS)}, not {beta!r}")
        self.beta = beta

    def _step(self, land: Landscape) -> tuple[Value, dict[str, Value]]:
        g, n = land.gradient, land.x.shape
        before, along = self._held("before", n, land.dtype), self._held("along", n, land.dtype)
        fresh = self._steps % land.x.shape[0] == 0
        direction = -g + ops.where(fresh, 0.0, self._beta(g, before, along)) * along
        direction = ops.where(ops.sum(g * direction) < 0.0, direction, -g)
        slope = ops.sum(g * direction)
        bend = ops.sum(direction * land.curvature(direction))
        valley = bend > 0.0
        first = ops.where(valley, -slope / ops.where(valley, bend, 1.0), self._rate.astype(g.dtype))
        size = backtracked(land, direction, slope, first)
        return land.x + size * direction, {"before": g, "along": direction}

    def _beta(self, g: Value, before: Value, along: Value) -> Value:
        turn = g - before
        if self.beta == "fletcher_reeves":
            return _ratio(ops.sum(g * g), ops.sum(before * before))
        if self.beta == "polak_ribiere":
            return ops.maximum(_ratio(ops.sum(g * turn), ops.sum(before * before)), 0.0)
        return ops.maximum(_ratio(ops.sum(g * turn), ops.sum(along * turn)), 0.0)


class Newton(WholeCostOptimizer):
    """Newton's method: ``x <- x - lr a (H + damping I)^-1 g``, H the Hessian, never made.

    The system is solved by conjugate gradients on Hessian-vector products, at most
    ``cg_iterations`` (None: as many as there are numbers), until the residual is below
    ``tolerance |g|`` (None: ``min(1/2, sqrt |g|) |g|``, which keeps the convergence superlinear);
    where the curvature is negative it stops with what it has. a = 1, 1/2, 1/4... until the cost
    falls (Armijo). Dembo, Steihaug 1983; Nocedal, Wright, "Numerical Optimization", algorithm 7.1.

    >>> import graphc as gc
    >>> w = gc.parameter((3,))
    >>> len(Newton().minimize(((w - 1.0) ** 2).sum()))
    2
    """

    def __init__(
        self,
        lr: float = 1.0,
        *,
        damping: float = 0.0,
        cg_iterations: int | None = None,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(lr)
        _check_solver(self._name, damping, cg_iterations)
        self.damping, self.cg_iterations, self.tolerance = damping, cg_iterations, tolerance

    def _step(self, land: Landscape) -> tuple[Value, dict[str, Value]]:
        g = land.gradient
        direction = _solved(land, self.damping, self.cg_iterations, self.tolerance)
        direction = ops.where(ops.sum(g * direction) < 0.0, direction, -g)
        rate = self._rate.astype(g.dtype)
        size = backtracked(land, direction, ops.sum(g * direction), rate)
        return land.x + size * direction, {}


class HessianFree(WholeCostOptimizer):
    """Newton's method whose damping follows how well the parabola foretells the cost.

    ::

        d <- -(H + L I)^-1 g          by conjugate gradients, as in Newton
        r  = (f(x + lr d) - f(x)) / (lr g . d + lr^2 d . H d / 2)
        L <- 2/3 L where r > 3/4,  3/2 L where r < 1/4 or f is NaN       (Levenberg, Marquardt)
        x <- x + lr d  where that lowers the cost

    L starts at ``damping``. Martens, "Deep Learning via Hessian-Free Optimization", 2010, with the
    Hessian itself in place of Gauss and Newton's.

    >>> import graphc as gc
    >>> w = gc.parameter((3,))
    >>> opt = HessianFree(damping=0.5); len(opt.minimize(((w - 1.0) ** 2).sum()))
    3
    """

    def __init__(
        self,
        lr: float = 1.0,
        *,
        damping: float = 1.0,
        cg_iterations: int | None = 50,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(lr)
        _check_solver(self._name, damping, cg_iterations)
        self.damping, self.cg_iterations, self.tolerance = damping, cg_iterations, tolerance

    def _step(self, land: Landscape) -> tuple[Value, dict[str, Value]]:
        damping = self._held("damping", (), land.dtype, self.damping)
        direction = _solved(land, damping, self.cg_iterations, self.tolerance)
        move = self._rate.astype(land.dtype) * direction
        foretold = ops.sum(land.gradient * move) + 0.5 * ops.sum(move * land.curvature(move))
        gained = land.value(land.x + move) - land.cost
        ratio = _ratio(gained, foretold)
        more = ops.where(ratio >= 0.25, damping, damping * 1.5)  # more where it is NaN, too
        x = ops.where(gained < 0.0, land.x + move, land.x)
        return x, {"damping": ops.where(ratio > 0.75, damping * (2.0 / 3.0), more)}


# ---- the linear system


class _Solver(NamedTuple):
    """Of conjugate gradients: the solution, what is missing, the direction, |missing|^2."""

    d: Value
    residual: Value
    along: Value
    square: Value
    done: Value
    iteration: Value


def _solved(
    land: Landscape, damping: float | Value, iterations: int | None, tolerance: float | None
) -> Value:
    """d with (H + damping I) d = -g (Hestenes, Stiefel 1952); -g where H leads down at once."""
    g = land.gradient
    most = land.x.shape[0] if iterations is None else iterations
    square = ops.sum(g * g)
    norm = ops.sqrt(square)
    share = ops.minimum(0.5, ops.sqrt(norm)) if tolerance is None else tolerance
    goal = (share * norm) ** 2

    def iteration(c: _Solver) -> _Solver:
        product = land.curvature(c.along) + damping * c.along
        bend = ops.sum(c.along * product)
        valley = bend > 0.0
        size = ops.where(valley, c.square / ops.where(valley, bend, 1.0), 0.0)
        hopeless = ops.logical_not(valley) & (c.iteration == 0)
        d = ops.where(hopeless, -g, c.d + size * c.along)
        residual = c.residual - size * product
        new = ops.sum(residual * residual)
        along = residual + _ratio(new, c.square) * c.along
        done = ops.logical_not(valley) | (new <= goal)
        return _Solver(d, residual, along, new, done, c.iteration + 1)

    zero = ops.zeros((), int64)
    start = _Solver(ops.zeros_like(g), -g, -g, square, square <= 0.0, zero)
    end = while_loop(
        lambda c: ops.logical_not(c.done) & (c.iteration < most), iteration, start, name="solve"
    )
    found: Value = end.d
    return found


def _ratio(above: Value, below: Value) -> Value:
    """above / below, 0 where below is 0."""
    none = below == 0.0
    return ops.where(none, 0.0, above / ops.where(none, 1.0, below))


def _check_solver(name: str, damping: float, iterations: int | None) -> None:
    if not 0.0 <= damping < math.inf:
        raise ValueError(f"{name}: damping must be >= 0, got {damping}")
    if iterations is not None and iterations < 1:
        raise ValueError(f"{name}: cg_iterations must be at least 1, got {iterations}")
