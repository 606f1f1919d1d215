"""Operands of f32 contractions in the order that the arithmetic reads them, by a copy where not.

    contract a[m,k], b[n,k]  ->  copy: p[k,n] = b[n,k];  contract a[m,k], p[k,n]

Plain arithmetic reads the right operand of a product along its free axis, matrix units ("tf32")
read both along the summed one. A copy is a kernel like any other: seen in the schedule, made once
for all that read it. Half precision is read either way and is never copied.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from graphc.backends.triton.tiling import matrix_products
from graphc.kernel import build
from graphc.kernel.substitute import Substitution
from graphc.kernel.terms import (
    Contract,
    Kernel,
    KernelTensor,
    Load,
    Reduction,
    Scan,
    Term,
    postorder,
)
from graphc.nest import flat_offset
from graphc.types import TensorType

__all__ = ["fresh_name", "ordered_operands", "reading"]

#: an element must be read for this many rows to pay for its copy
_LEAST_ROWS = 32


def ordered_operands(kernel: Kernel, precision: str) -> tuple[Kernel, ...]:
    """The kernel, or the copies that it should read and the kernel that reads them, in order."""
    made: list[Kernel] = []
    found = _misread(kernel, precision)
    while found is not None:
        copy, kernel = _copied(kernel, *found, precision == "tf32")
        made.append(copy)
        found = _misread(kernel, precision)
    return (*made, kernel)


def _misread(kernel: Kernel, precision: str) -> tuple[Contract, Load] | None:
    """A contraction and its operand that lies along the wrong axis, where a copy pays."""
    place = {a: n for n, (a, _) in enumerate(kernel.axes)}
    users = Counter(
        id(t) for f in kernel.terms if isinstance(f, (Contract, Reduction)) for t in f.operands
    )
    for product in matrix_products(kernel):
        contraction = product.of
        if not isinstance(contraction, Contract) or not product.single:
            continue
        left, right = (contraction.a, contraction.b)
        if place[product.m] > place[product.n]:
            left, right = right, left
        along_sum = precision == "tf32"
        for operand, other in ((right, left), (left, right))[: 2 if along_sum else 1]:
            rows = other.axes - operand.axes - frozenset(contraction.over)
            if (
                isinstance(operand, Load)
                and users[id(operand)] == 1
                and _points(kernel, rows) >= _LEAST_ROWS
                and _is_misread(kernel, contraction, operand, along_sum)
            ):
                return contraction, operand
    return None


def _is_misread(kernel: Kernel, contraction: Contract, load: Load, along_sum: bool) -> bool:
    """Whether it lies along the wrong axis, and a plain copy would put that right."""
    extents = [kernel.extents[a] for a in load.axes]
    if load.pred is not None or load.fill is not None or not all(
        isinstance(e, int) for e in extents
    ):
        return False
    flat = flat_offset(kernel.tensors[load.tensor], load.index)
    if flat.atoms:
        return False
    contiguous = {a for a, step in flat.axes.items() if step == 1}
    summed = contiguous & set(contraction.over)
    free = contiguous - set(contraction.over)
    return bool(free) and not summed if along_sum else bool(summed) and not free


def _copied(
    kernel: Kernel, contraction: Contract, load: Load, along_sum: bool
) -> tuple[Kernel, Kernel]:
    names = [a for a, _ in kernel.axes if a in load.axes]
    shared = contraction.a.axes & contraction.b.axes
    over = [a for a in names if a in contraction.over]
    batch = [a for a in names if a in shared and a not in over]
    free = [a for a in names if a not in shared]
    layout = [*batch, *free, *over] if along_sum else [*batch, *over, *free]
    shape = tuple(kernel.extents[a] for a in layout)
    name = fresh_name(f"{load.tensor}_ordered", kernel)
    copy = KernelTensor(name, TensorType(load.dtype, shape))
    place = [build.axis(a) for a in layout]
    tensor = kernel.tensors[load.tensor]
    extents = [(a, kernel.extents[a]) for a in layout]
    maker = build.kernel(
        f"{kernel.name}_order", extents, [tensor], [copy], [build.store(copy, place, load)],
        sizes=kernel.sizes,
    )
    return maker, reading(kernel, {load: build.load(copy, place)}, [copy])


def reading(
    kernel: Kernel, replaced: Mapping[Term, Term], made: Sequence[KernelTensor]
) -> Kernel:
    """The kernel with terms replaced by what reads tensors that other kernels have made."""
    substitution = Substitution(replaced=replaced)
    statements = [substitution.statement(s) for s in kernel.statements]
    loaded = {
        t.tensor
        for t in postorder(o for s in statements for o in s.operands)
        if isinstance(t, Load)
    }
    labels: dict[Term, str] = {
        substitution.term(t): n
        for n, t in kernel.definitions
        if not isinstance(t, (Reduction, Scan))
    }
    return build.kernel(
        kernel.name, kernel.axes, [t for t in (*kernel.inputs, *made) if t.name in loaded],
        kernel.outputs, statements, labels, kernel.sizes, kernel.scalars,
    )


def fresh_name(wanted: str, kernel: Kernel) -> str:
    """A name that nothing in the kernel has."""
    taken = {*kernel.tensors, *kernel.extents, *(n for n, _ in kernel.definitions)}
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}{number}"
    return name


def _points(kernel: Kernel, axes: Sequence[str] | frozenset[str]) -> float:
    extents = [kernel.extents[a] for a in axes]
    return math.prod(e if isinstance(e, int) else 256 for e in extents)
