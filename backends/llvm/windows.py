"""Tilings of reductions over windows: loops whose bounds come from memory.

::

    s = reduce sum g over e where lo <= e < hi      lo, hi = load start[r], start[r + 1]

With r in lanes the bounds would differ from lane to lane, and every lane would go over all of e
under a mask. So an axis that bounds depend on never runs in lanes: the lanes are another axis, or
there are none.
"""

from __future__ import annotations

from graphc.backends.llvm.target import Target
from graphc.backends.llvm.tiling import Plan, choose_tiling
from graphc.kernel.terms import Contract, Kernel, Load, Reduction, postorder
from graphc.nest import Tiling

__all__ = ["choose"]


def choose(kernel: Kernel, target: Target) -> Tiling:
    """A good tiling of any kernel."""
    apart = window_axes(kernel)
    if not apart:
        return choose_tiling(kernel, target)
    plan = Plan(kernel, target)
    free = [a for a in plan.parallel if a not in apart and plan.extent(a) * 2 >= plan.lanes]
    lane = min(free, key=plan.across_cost, default=None)
    if lane is None:
        return plan.tiling_along(_inner_lanes(plan, apart))
    return plan.tiling_across(lane)


def _inner_lanes(plan: Plan, apart: frozenset[str]) -> frozenset[str]:
    """What runs in lanes where no axis of the grid can: axes of other reductions and of stores."""
    lanes: set[str] = set()
    for folding in plan.foldings:
        axes, reads = plan.folding_axes(folding), plan.reads[folding]
        options = [a for a in folding.over if a not in apart and folding.where is None]
        costs = {a: plan.cost(axes, reads, a) for a in options}
        lanes |= {min(costs, key=costs.__getitem__)} if costs else set()
    for store, access in plan.stores:
        inner = store.axes - apart - set(plan.parallel)
        lanes |= {a for a in inner if access.step(a) == 1}
    return frozenset(lanes)


def window_axes(kernel: Kernel) -> frozenset[str]:
    """The axes that the loop bounds of reductions depend on through memory."""
    found: frozenset[str] = frozenset()
    for folding in kernel.terms:
        if isinstance(folding, Reduction | Contract) and folding.where is not None:
            for term in postorder([folding.where]):
                if isinstance(term, Load):
                    found |= term.axes - set(folding.over)
    return found
