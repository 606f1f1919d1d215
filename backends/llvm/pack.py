"""Packing: a contraction that would read an operand badly becomes two kernels.

    contract a[m,k], b[k,n]  ->  pack: p[nb,k,ni] = b[k, 16 nb + ni];  contract a[m,k], p[nb,k,ni]

The first copies the operand, through whatever index map and arithmetic it has, into the order in
which the microkernel reads it: panels of a register tile's width, k by k. The second streams it.
Both are plain kernels, so a packed copy is a buffer like any other: seen in the schedule, shared by
contractions, hoisted out of loops. Either operand may run in lanes: where those are not what the
results are contiguous along, a tile of results is turned in registers (see ``turning``), which
costs less than to copy the larger operand.

Images with a border are copied once into a padded one, which leaves the contraction no predicate to
test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from graphc.backends.llvm.target import Target, vector_lanes
from graphc.kernel import build
from graphc.kernel.bounds import unproved
from graphc.kernel.substitute import Substitution
from graphc.kernel.terms import (
    Apply,
    Const,
    Contract,
    Kernel,
    KernelTensor,
    Load,
    Reduction,
    Scan,
    Statement,
    Term,
)
from graphc.nest import affine, flat_offset
from graphc.records import dataclass
from graphc.types import Extent, TensorType

__all__ = ["pack_operands"]

#: a packed element must be read this often to pay for its copy
_LEAST_REUSE = 96
#: the same where the copy is made once for many calls
_LEAST_REUSE_LASTING = 48
#: the same where both operands can be read in lanes along the reduced axis as they are
_LEAST_REUSE_ALONG = 128
#: a turned row must be read this often
_LEAST_TURNS = 32
#: results turned in registers that cost as much as one copied element
_TURNS_A_COPY = 2
#: bytes between rows from which a walk down a column leaves the nearest cache
_FAR = 1024
#: steps near a far one that make up for it
_NEAR_STEPS = 4


def pack_operands(
    kernel: Kernel, target: Target, lasting: frozenset[str] = frozenset()
) -> tuple[Kernel, ...]:
    """The kernel, or the copies that it should read and the kernel that reads them, in order.

    Tensors that a copy makes are outputs of it and inputs, by name, of the last kernel. A copy of
    ``lasting`` inputs alone costs nothing: it is made once for many calls.
    """
    made: list[Kernel] = []
    kernel = _padded(kernel, made)
    contraction = _only_contraction(kernel)
    if contraction is not None:
        plan = _plan(kernel, contraction, target, lasting)
        if plan is not None:
            copy, kernel = plan.apply()
            made.append(copy)
        kernel = _turned(kernel, made)
    return (*made, kernel)


def _only_contraction(kernel: Kernel) -> Contract | None:
    """The kernel's one contraction, where it has no other reduction and no predicate."""
    found = [t for t in kernel.terms if isinstance(t, (Contract, Reduction, Scan))]
    if len(found) != 1 or not isinstance(found[0], Contract) or found[0].where is not None:
        return None
    return found[0]


# ---- panels


@dataclass(frozen=True)
class _Panels:
    """Pack one operand of a contraction: its free axis ``lane`` in panels of ``width``."""

    kernel: Kernel
    contraction: Contract
    operand: Term
    lane: str
    width: int

    def apply(self) -> tuple[Kernel, Kernel]:
        names = self.free_names()
        outer, inner, packed_name = names
        extent = self.extent(self.lane)
        ragged = extent % self.width != 0
        index = build.apply("+", build.apply("*", build.axis(outer), self.width), build.axis(inner))
        valid = build.apply("<", index, extent) if ragged else None
        panels = -(-extent // self.width)
        over = [a for a, _ in self.kernel.axes if a in self.contraction.over]
        others = [
            a for a, _ in self.kernel.axes if a in self.operand.axes and a not in (self.lane, *over)
        ]
        layout = [*others, outer, *over, inner]
        extents: dict[str, Extent] = {**self.kernel.extents, outer: panels, inner: self.width}
        shape = tuple(extents[a] for a in layout)
        packed = KernelTensor(packed_name, TensorType(self.operand.dtype, shape))

        split = Substitution(
            axes={self.lane: index}, guards={self.lane: valid} if valid is not None else {}
        )
        place = tuple(build.axis(a) for a in layout)
        value = split.term(self.operand)
        used = {t.tensor for t in _reach(value) if isinstance(t, Load)}
        copy = build.kernel(
            f"{self.kernel.name}_pack",
            [(a, extents[a]) for a in layout],
            [t for t in self.kernel.inputs if t.name in used],
            [packed],
            [build.store(packed, place, value)],
            sizes=self.kernel.sizes,
            scalars=self.kernel.scalars,
        )
        reading = Substitution(
            axes={self.lane: index},
            guards={self.lane: valid} if valid is not None else {},
            replaced={self.operand: build.load(packed, place)},
        )
        axes: list[tuple[str, Extent]] = []
        for axis, size in self.kernel.axes:
            axes += [(outer, panels), (inner, self.width)] if axis == self.lane else [(axis, size)]
        statements = [reading.statement(s) for s in self.kernel.statements]
        return copy, _rebuilt(self.kernel, axes, [packed], statements, reading)

    def extent(self, axis: str) -> int:
        extent = self.kernel.extents[axis]
        assert isinstance(extent, int)
        return extent

    def free_names(self) -> tuple[str, str, str]:
        taken = (
            {a for a, _ in self.kernel.axes}
            | set(self.kernel.tensors)
            | {n for n, _ in self.kernel.definitions}
        )
        outer, inner = _fresh(f"{self.lane}b", taken), _fresh(f"{self.lane}i", taken)
        return outer, inner, _fresh("packed", taken)


def _plan(
    kernel: Kernel, contraction: Contract, target: Target, lasting: frozenset[str]
) -> _Panels | None:
    """The operand to pack, if one pays: of two that could be, the one that copies less.

    None where one of them runs in lanes as it is: an image's rows, along which results are stored.
    """
    a, b = contraction.a, contraction.b
    if any(_runs_in_lanes(kernel, contraction, o, target) for o in (a, b)):
        return None
    plans = [
        plan
        for operand, other in ((b, a), (a, b))
        for plan in _plans(kernel, contraction, operand, other, target, lasting)
    ]
    return min(plans, key=lambda plan: plan[0])[1] if plans else None


def _runs_in_lanes(
    kernel: Kernel, contraction: Contract, operand: Term, target: Target
) -> bool:
    """Whether an operand is read well along an axis of its own that results are stored along: all
    or most steps of the sum stay near, as those over a window do.
    """
    shared = contraction.a.axes & contraction.b.axes
    lane = _stored_along(kernel, operand.axes - shared - frozenset(contraction.over))
    if lane is None or _points(kernel, [lane]) < 2 * vector_lanes(kernel, target):
        return False
    if not isinstance(operand, Load) or not _reads_badly(kernel, operand, lane):
        return isinstance(operand, Load)
    tensor = kernel.tensors[operand.tensor]
    flat = flat_offset(tensor, operand.index)
    plain = not flat.atoms and operand.pred is None and operand.fill is None
    if not plain or flat.axes.get(lane) != 1:
        return False
    steps = [flat.axes.get(a, 0) for a in contraction.over]
    near = [
        a
        for a, step in zip(contraction.over, steps, strict=True)
        if isinstance(step, int) and abs(step) * tensor.type.dtype.itemsize < _FAR
    ]
    return _points(kernel, near) >= _NEAR_STEPS


def _plans(
    kernel: Kernel,
    contraction: Contract,
    operand: Term,
    other: Term,
    target: Target,
    lasting: frozenset[str],
) -> Iterator[tuple[float, _Panels]]:
    """Ways to pack an operand, each with the elements that it moves: those copied, those of the
    other operand where its rows must be turned, and results turned before they are written.
    """
    over = frozenset(contraction.over)
    shared = contraction.a.axes & contraction.b.axes
    free, rows = operand.axes - shared - over, other.axes - shared - over
    width = 2 * vector_lanes(kernel, target)
    if not rows or not _is_fixed(kernel, operand.axes | over) or _points(kernel, over) < 16:
        return
    lasts = {t.tensor for t in _reach(operand) if isinstance(t, Load)} <= lasting
    along = all(_is_contiguous(kernel, side, contraction.over) for side in (operand, other))
    least = _LEAST_REUSE_ALONG if along else _LEAST_REUSE
    if _points(kernel, rows) < (_LEAST_REUSE_LASTING if lasts else least):
        return
    copied = 0 if lasts else _points(kernel, operand.axes)
    if _walks_down(kernel, other, [a for a in contraction.over if a in other.axes]):
        copied += _points(kernel, other.axes)
    results = _points(kernel, free | rows | shared - over)
    for lane, moved in (
        (_stored_along(kernel, free), copied),
        (_stored_across(kernel, free, rows, width), copied + results / _TURNS_A_COPY),
    ):
        if lane is None or _points(kernel, [lane]) < width or lane not in kernel.parallel:
            continue
        if _reads_badly(kernel, operand, lane):
            yield moved, _Panels(kernel, contraction, operand, lane, width)


def _stored_across(
    kernel: Kernel, free: frozenset[str], rows: frozenset[str], width: int
) -> str | None:
    """The longest axis of ``free`` that can run in lanes though stores are contiguous along one of
    ``rows``: a register tile is turned before it is written, which nothing else outside of the
    product may hinder.
    """
    if any(s.add or s.pred is not None for s in kernel.stores):
        return None
    row = _stored_along(kernel, rows)
    if row is None or 2 * _points(kernel, [row]) < width:  # too few for a register tile
        return None
    loads = [t for s in kernel.statements for o in s.operands for t in _outside(o)]
    flats = [flat_offset(kernel.tensors[t.tensor], t.index) for t in loads if isinstance(t, Load)]

    def fits(axis: str) -> bool:
        extent = kernel.extents[axis]
        whole = isinstance(extent, int) and extent % width == 0
        near = all(
            f.axes.get(axis, 0) in (0, 1) and not any(axis in t.axes for t in f.atoms)
            for f in flats
        )
        return whole and near and all(axis in s.axes for s in kernel.stores)

    found = [a for a in sorted(free) if fits(a)]
    return max(found, key=lambda a: _points(kernel, [a]), default=None)


def _stored_along(kernel: Kernel, free: frozenset[str]) -> str | None:
    """The axis of ``free`` along which every store is contiguous."""
    for axis in free:
        flats = [flat_offset(kernel.tensors[s.tensor], s.index) for s in kernel.stores]
        if all(f.axes.get(axis) == 1 and not any(axis in t.axes for t in f.atoms) for f in flats):
            return axis
    return None


def _reads_badly(kernel: Kernel, operand: Term, lane: str) -> bool:
    """Whether reading it along ``lane`` gathers, computes or tests, or walks far apart down the
    reduced axes.
    """
    if not isinstance(operand, Load):
        return True
    tensor = kernel.tensors[operand.tensor]
    flat = flat_offset(tensor, operand.index)
    if (
        flat.axes.get(lane) != 1
        or flat.atoms
        or operand.pred is not None
        or operand.fill is not None
    ):
        return True
    steps = [c for a, c in flat.axes.items() if a != lane]
    far = [c for c in steps if isinstance(c, int) and c * tensor.type.dtype.itemsize >= _FAR]
    return bool(far) and _points(kernel, [a for a, c in flat.axes.items() if c in far]) >= 64


def _is_contiguous(kernel: Kernel, operand: Term, over: Sequence[str]) -> bool:
    """Whether it can be read in lanes along a reduced axis as it is."""
    if not isinstance(operand, Load) or operand.pred is not None or operand.fill is not None:
        return False
    flat = flat_offset(kernel.tensors[operand.tensor], operand.index)
    return not flat.atoms and any(flat.axes.get(a) == 1 for a in over)


# ---- rows


def _turned(kernel: Kernel, made: list[Kernel]) -> Kernel:
    """The operand that a register tile takes point by point, where it walks far down a column, is
    read from a copy whose rows run along the reduced axis.

        load d[k, i]  ->  turn: t[i, k] = d[k, i];  load t[i, k]
    """
    contraction = _only_contraction(kernel)
    assert contraction is not None
    for operand, other in ((contraction.a, contraction.b), (contraction.b, contraction.a)):
        rows = [a for a, _ in kernel.axes if a in operand.axes and a not in contraction.over]
        over = [a for a, _ in kernel.axes if a in contraction.over and a in operand.axes]
        if not rows or not over:
            continue
        reuse = _points(kernel, other.axes - operand.axes)
        if reuse >= _LEAST_TURNS and _walks_down(kernel, operand, over):
            return _with_turned_rows(kernel, operand, [*rows, *over], made)
    return kernel


def _walks_down(kernel: Kernel, operand: Term, over: Sequence[str]) -> bool:
    """Whether a point's neighbour along the innermost reduced axis is far away in memory."""
    if not isinstance(operand, Load) or not _is_fixed(kernel, operand.axes):
        return False
    tensor = kernel.tensors[operand.tensor]
    flat = flat_offset(tensor, operand.index)
    step = flat.axes.get(over[-1], 0)
    near = any(c == 1 for c in flat.axes.values()) and not flat.atoms
    far = isinstance(step, int) and step * tensor.type.dtype.itemsize >= _FAR
    return near and far and _points(kernel, over) >= 64


def _with_turned_rows(
    kernel: Kernel, operand: Term, layout: Sequence[str], made: list[Kernel]
) -> Kernel:
    assert isinstance(operand, Load)
    taken = {a for a, _ in kernel.axes} | set(kernel.tensors) | {n for n, _ in kernel.definitions}
    extents = kernel.extents
    type_ = TensorType(operand.dtype, tuple(extents[a] for a in layout))
    turned = KernelTensor(_fresh("turned", taken), type_)
    place = [build.axis(a) for a in layout]
    made.append(
        build.kernel(
            f"{kernel.name}_turn",
            [(a, extents[a]) for a in layout],
            [kernel.tensors[operand.tensor]],
            [turned],
            [build.store(turned, place, operand)],
            sizes=kernel.sizes,
        )
    )
    reading = Substitution(replaced={operand: build.load(turned, place)})
    statements = [reading.statement(s) for s in kernel.statements]
    return _rebuilt(kernel, list(kernel.axes), [turned], statements, reading)


# ---- borders


def _padded(kernel: Kernel, made: list[Kernel]) -> Kernel:
    """``load im[2*y + p - 1, ..] else 0`` under a contraction -> a load of a copy with its border,
    and no test.
    """
    contraction = _only_contraction(kernel)
    if contraction is None:
        return kernel
    for operand, other in ((contraction.a, contraction.b), (contraction.b, contraction.a)):
        if not isinstance(operand, Load) or not isinstance(operand.fill, Const):
            continue
        if operand.pred is not None and not _tests_only_the_border(kernel, operand):
            continue
        reuse = _points(kernel, other.axes - operand.axes)
        spans = [_span(kernel, t) for t in operand.index]
        outside = set(unproved(kernel, operand.tensor, operand.index, None, checks=()))
        if not outside or reuse < 4 or any(s is None for s in spans):
            continue
        return _with_border(kernel, operand, [s for s in spans if s is not None], outside, made)
    return kernel


def _tests_only_the_border(kernel: Kernel, load: Load) -> bool:
    """Whether its predicate says no more than that its index is inside: with a fill, it need not
    say that.
    """
    shape = kernel.tensors[load.tensor].type.shape
    inside = [(affine(t), extent) for t, extent in zip(load.index, shape, strict=True)]
    for test in _conjuncts(load.pred):
        if (
            not isinstance(test, Apply)
            or len(test.args) != 2
            or not isinstance(test.args[1], Const)
        ):
            return False
        form, bound = affine(test.args[0]), test.args[1].value
        low = test.op == ">=" and bound == 0 and any(form == f for f, _ in inside)
        high = test.op == "<" and any(form == f and bound == e for f, e in inside)
        if not low and not high:
            return False
    return True


def _conjuncts(pred: Term | None) -> list[Term]:
    if isinstance(pred, Apply) and pred.op == "and":
        return [c for a in pred.args for c in _conjuncts(a)]
    return [] if pred is None else [pred]


def _with_border(
    kernel: Kernel,
    operand: Load,
    spans: Sequence[tuple[int, int]],
    outside: set[int],
    made: list[Kernel],
) -> Kernel:
    tensor = kernel.tensors[operand.tensor]
    taken = {a for a, _ in kernel.axes} | set(kernel.tensors) | {n for n, _ in kernel.definitions}
    name = _fresh(f"{tensor.name}_bordered", taken)
    shape: list[Extent] = []
    lows: list[int] = []
    for dimension, (extent, (low, high)) in enumerate(zip(tensor.type.shape, spans, strict=True)):
        lows.append(low if dimension in outside else 0)
        shape.append(high - low + 1 if dimension in outside else extent)
    bordered = KernelTensor(name, TensorType(tensor.type.dtype, tuple(shape)))
    axes = [_fresh(f"d{n}", taken) for n in range(len(shape))]
    at = [
        build.apply("+", build.axis(a), low) if low else build.axis(a)
        for a, low in zip(axes, lows, strict=True)
    ]
    made.append(
        build.kernel(
            f"{kernel.name}_border",
            list(zip(axes, shape, strict=True)),
            [tensor],
            [bordered],
            [
                build.store(
                    bordered,
                    [build.axis(a) for a in axes],
                    build.load(tensor, at, fill=operand.fill),
                )
            ],
            sizes=kernel.sizes,
        )
    )
    moved = [_shifted(t, -low) if low else t for t, low in zip(operand.index, lows, strict=True)]
    reading = Substitution(replaced={operand: build.load(bordered, moved)})
    statements = [reading.statement(s) for s in kernel.statements]
    return _rebuilt(kernel, list(kernel.axes), [bordered], statements, reading)


def _shifted(index: Term, by: int) -> Term:
    """An affine index plus a number, its constants gathered."""
    form = affine(index)
    total: Term | None = None
    for axis, coefficient in form.axes.items():
        part = (
            build.apply("*", build.size(coefficient), build.axis(axis))
            if coefficient != 1
            else build.axis(axis)
        )
        total = part if total is None else build.apply("+", total, part)
    constant = build.size(form.constant + by)
    if total is None:
        return constant
    return total if form.constant + by == 0 else build.apply("+", total, constant)


def _span(kernel: Kernel, index: Term) -> tuple[int, int] | None:
    """The least and greatest value of an affine index; None where it depends on data or run-time
    sizes.
    """
    form = affine(index)
    if form.atoms or not isinstance(form.constant, int):
        return None
    low = high = form.constant
    for axis, coefficient in form.axes.items():
        extent = kernel.extents[axis]
        if not isinstance(extent, int) or not isinstance(coefficient, int):
            return None
        last = coefficient * (extent - 1)
        low, high = low + min(0, last), high + max(0, last)
    return low, high


# ---- helpers


def _rebuilt(
    kernel: Kernel,
    axes: Sequence[tuple[str, Extent]],
    more: Sequence[KernelTensor],
    statements: Sequence[Statement],
    rewriter: Substitution,
) -> Kernel:
    """The kernel with other axes and statements; inputs that nothing reads any more are left
    out.
    """
    used = {
        t.tensor for s in statements for o in s.operands for t in _reach(o) if isinstance(t, Load)
    }
    inputs = [t for t in (*kernel.inputs, *more) if t.name in used]
    names: Mapping[Term, str] = {
        rewriter.term(t): n for n, t in kernel.definitions if not isinstance(t, (Reduction, Scan))
    }
    return build.kernel(
        kernel.name,
        axes,
        inputs,
        kernel.outputs,
        statements,
        names,
        sizes=kernel.sizes,
        scalars=kernel.scalars,
    )


def _reach(root: Term) -> list[Term]:
    seen: set[Term] = set()
    stack = [root]
    while stack:
        term = stack.pop()
        if term not in seen:
            seen.add(term)
            stack.extend(term.operands)
    return list(seen)


def _outside(root: Term) -> list[Term]:
    """The terms that a value is made of outside of its contraction."""
    if isinstance(root, Contract):
        return []
    return [root, *(t for o in root.operands for t in _outside(o))]


def _points(kernel: Kernel, axes: object) -> float:
    extents = [kernel.extents[a] for a in axes]  # type: ignore[attr-defined]
    return math.prod(e if isinstance(e, int) else 256 for e in extents)


def _is_fixed(kernel: Kernel, axes: frozenset[str]) -> bool:
    return all(isinstance(kernel.extents[a], int) for a in axes)


def _fresh(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}{number}"
    taken.add(name)
    return name
