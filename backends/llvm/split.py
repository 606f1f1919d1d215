"""Long sums of products: partial sums of what the near caches hold, and a kernel that adds them.

    contract d[m,i,p], x[m,j,p] over m, p  ->  part[m,i,j] = contract over p;  sum of part over m

A register tile reads its rows of both operands along all that is summed. Where these rows leave the
near caches before the next tile reads them again, every tile brings them in anew; so the sum is cut
into parts whose operands stay. How many there are depends on shapes and caches alone.
"""

from __future__ import annotations

import math
from dataclasses import replace

from graphc.backends.llvm.target import Target, vector_lanes
from graphc.errors import KernelError
from graphc.kernel.rewrite import merge_axes, split_reduce
from graphc.kernel.terms import AxisIndex, Contract, Kernel, Load, Reduction, Scan, Term
from graphc.nest.following import follows, indexed_axes

__all__ = ["split_sums"]

#: products that a partial result must sum: fewer would not pay for writing and reading it
_LEAST_TERMS = 256


def split_sums(kernel: Kernel, target: Target) -> tuple[Kernel, ...]:
    """The kernel, or the one that makes partial sums and the one that adds them."""
    foldings = [t for t in kernel.terms if isinstance(t, (Contract, Reduction, Scan))]
    if len(foldings) != 1 or not isinstance(foldings[0], Contract):
        return (kernel,)
    contraction = foldings[0]
    if not all(isinstance(e, int) and e > 0 for e in kernel.extents.values()):
        return (kernel,)
    row = 2 * vector_lanes(kernel, target) * _points(kernel, contraction.over)
    if row * contraction.dtype.itemsize <= target.l2_bytes:
        return (kernel,)
    both = contraction.a.axes & contraction.b.axes
    axis = next((a for a, _ in kernel.axes if a in contraction.over and a in both), None)
    if axis is None or contraction.where is not None:
        return (kernel,)
    block = _block(kernel, contraction, axis, target)
    if block is None:
        return (kernel,)
    try:
        made = split_reduce(kernel, axis, block)
    except KernelError:
        return (kernel,)
    if len(made.finishers) != 1:
        return (kernel,)
    finisher = _flattened(replace(made.finishers[0], name=kernel.name))
    return _parts_outermost(made.partials), finisher


def _parts_outermost(kernel: Kernel) -> Kernel:
    """With the axis of the parts first: they are what workers share, one part after the other."""
    (store,) = kernel.stores
    first = store.index[0]
    assert isinstance(first, AxisIndex)
    axes = sorted(kernel.axes, key=lambda axis: axis[0] != first.axis)
    return replace(kernel, axes=tuple(axes))


def _flattened(kernel: Kernel) -> Kernel:
    """With parallel axes that follow each other in memory merged, so that lanes are filled."""
    indexed = indexed_axes(kernel)
    runs: list[list[str]] = []
    for axis in kernel.parallel:
        plain = runs and not {runs[-1][-1], axis} & indexed
        if plain and follows(kernel, runs[-1][-1], axis):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    for run in runs:
        kernel = merge_axes(kernel, run) if len(run) > 1 else kernel
    return kernel


def _block(kernel: Kernel, contraction: Contract, axis: str, target: Target) -> int | None:
    """Points of ``axis`` in a part, a divisor of its extent; None where no part pays.

    As many as leave both operands in a core's second cache, but enough to write fewer partial
    results than operands are read.
    """
    extent = _points(kernel, (axis,))
    operands = _bytes(kernel, contraction.a) + _bytes(kernel, contraction.b)
    results = _points(kernel, contraction.axes) * contraction.dtype.itemsize
    terms = _points(kernel, contraction.over) // extent
    least = max(math.ceil(_LEAST_TERMS / terms), math.ceil(results * extent / operands))
    fitting = max(1, target.l2_bytes * extent // operands)
    divisors = [n for n in range(1, extent) if extent % n == 0 and n >= least]
    return max((n for n in divisors if n <= fitting), default=min(divisors, default=None))


def _bytes(kernel: Kernel, operand: Term) -> int:
    """What reading an operand once takes: no more than the tensor that it is an element of."""
    whole = _points(kernel, operand.axes) * operand.dtype.itemsize
    if not isinstance(operand, Load):
        return whole
    nbytes = kernel.tensors[operand.tensor].type.nbytes
    return min(whole, nbytes) if isinstance(nbytes, int) else whole


def _points(kernel: Kernel, axes: object) -> int:
    return math.prod(kernel.extents[a] for a in axes)  # type: ignore[attr-defined, misc]
