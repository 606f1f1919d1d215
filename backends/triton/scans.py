"""Scans over axes that no tile holds, which their readers cannot run along: kernels of their own.

A scan runs tile by tile in the loop that reads it. Where one loop would have to run both ways, or
from further back than it does, the running states are stored, and read again::

    s = scan sum x over j;  t = scan sum s over j reverse
        ->   scanned[j] = scan sum x over j;   t = scan sum scanned[j] over j reverse
"""

from __future__ import annotations

from graphc.backends.triton.layout import fresh_name, reading
from graphc.backends.triton.tiling import held_for_scans
from graphc.kernel import build
from graphc.kernel.terms import (
    Contract,
    Kernel,
    KernelTensor,
    Load,
    Reduction,
    Result,
    Scan,
    Term,
    postorder,
)
from graphc.types import TensorType

__all__ = ["split_scans"]


def split_scans(kernel: Kernel) -> tuple[Kernel, ...]:
    """The kernel, or those that store running states and the one that reads them, in order."""
    made: list[Kernel] = []
    found = _first_in_the_way(kernel)
    while found is not None:
        stored, kernel = _stored(kernel, found)
        made.append(stored)
        found = _first_in_the_way(kernel)
    return (*made, kernel)


def _first_in_the_way(kernel: Kernel) -> Scan | None:
    """A scan that does not run along with the others over its axis, and with what reads it."""
    scans = [t for t in kernel.terms if isinstance(t, Scan)]
    bounded = {
        axis
        for t in kernel.terms if isinstance(t, (Reduction, Contract)) and t.where is not None
        for axis in t.over
    }  # fmt: skip
    for scan in scans:
        if held_for_scans(kernel, scan.over):
            continue
        ways = {other.reverse for other in scans if other.over == scan.over}
        stored = all(isinstance(s.value, Result) and s.value.of is scan for s in kernel.stores)
        if (len(ways) > 1 or scan.over in bounded) and not stored:
            return scan
    return None


def _stored(kernel: Kernel, scan: Scan) -> tuple[Kernel, Kernel]:
    results = [t for t in kernel.terms if isinstance(t, Result) and t.of is scan]
    names = [a for a, _ in kernel.axes if a in scan.axes | {scan.over}]
    shape = tuple(kernel.extents[a] for a in names)
    place = [build.axis(a) for a in names]
    tensors, replaced = [], dict[Term, Term]()
    for result in results:
        label = fresh_name(f"{kernel.name}_scanned{result.index}", kernel)
        tensor = KernelTensor(label, TensorType(result.dtype, shape))
        tensors.append(tensor)
        replaced[result] = build.load(tensor, place)
    stores = [build.store(t, place, r) for t, r in zip(tensors, results, strict=True)]
    loaded = {
        t.tensor for t in postorder(o for s in stores for o in s.operands) if isinstance(t, Load)
    }
    bound = {a for t in postorder(results) if isinstance(t, (Reduction, Contract)) for a in t.over}
    extents = [(a, e) for a, e in kernel.axes if a in {*names, *bound}]
    maker = build.kernel(
        f"{kernel.name}_scan", extents, [t for t in kernel.inputs if t.name in loaded], tensors,
        stores, sizes=kernel.sizes, scalars=kernel.scalars,
    )
    return maker, reading(kernel, replaced, tensors)
