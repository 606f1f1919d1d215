"""Products with few results and a long sum: partial sums in parallel, and a kernel that adds them.

    contract a[m,k], b[n,k] over k  ->  p[s,m,n] = contract over a part of k;  sum of p over s

How many parts there are depends on the shapes alone. No kernel waits for another block of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace

from graphc.backends.triton.prepare import prepare
from graphc.backends.triton.tiling import choose_tiling, matrix_products
from graphc.errors import KernelError
from graphc.kernel.rewrite import split_reduce
from graphc.kernel.terms import Contract, Kernel, Reduction, Scan

__all__ = ["split_products"]

#: with more programs than this the sums are not cut
_ENOUGH_PROGRAMS = 66
#: programs that cutting aims at, and terms of a sum that are worth a part of their own
_WANTED_PROGRAMS, _LEAST_TERMS = 264, 256
#: fewer parts do not pay for another launch
_LEAST_PARTS = 4


def split_products(kernel: Kernel, precision: str) -> tuple[Kernel, ...]:
    """The kernel, or the one that makes partial sums and the one that adds them."""
    foldings = [t for t in kernel.terms if isinstance(t, (Contract, Reduction, Scan))]
    products = matrix_products(kernel)
    if len(foldings) != 1 or len(products) != 1 or not isinstance(foldings[0], Contract):
        return (kernel,)
    contraction = foldings[0]
    extents = {a: kernel.extents[a] for a in contraction.over}
    if not all(isinstance(e, int) for e in kernel.extents.values()):
        return (kernel,)
    terms = math.prod(e for e in extents.values() if isinstance(e, int))
    programs = _programs(kernel, precision)
    parts = min(_WANTED_PROGRAMS // max(1, programs), terms // _LEAST_TERMS)
    axis = max(contraction.over, key=lambda a: (extents[a], a))
    longest = extents[axis]
    if not isinstance(longest, int):
        return (kernel,)
    parts = min(parts, longest)
    if programs > _ENOUGH_PROGRAMS or parts < _LEAST_PARTS:
        return (kernel,)
    block = math.ceil(longest / parts)
    if block > 32:  # whole tiles of the summed axis
        block = -(-block // 32) * 32
    try:
        made = split_reduce(kernel, axis, block)
    except KernelError:
        return (kernel,)
    if len(made.finishers) != 1:
        return (kernel,)
    written = {t.name for t in made.finishers[0].outputs}
    if written != {t.name for t in kernel.outputs}:
        return (kernel,)
    return made.partials, replace(made.finishers[0], name=kernel.name)


def _programs(kernel: Kernel, precision: str) -> int:
    """Blocks of the grid that the kernel would run in."""
    prepared = prepare(kernel)
    blocks = choose_tiling(prepared, precision).nest.block
    counts = []
    for axis, block in blocks.items():
        extent = prepared.extents[axis]
        counts.append(math.ceil(extent / block) if isinstance(extent, int) else 1)
    return math.prod(counts)
