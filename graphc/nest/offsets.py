"""Where an access goes in a tensor: affine offsets from its first element."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.kernel.terms import Apply, AxisIndex, Const, KernelTensor, Term
from graphc.nest.indices import Affine, affine
from graphc.types import Extent

__all__ = ["flat_offset", "strides"]


def strides(shape: Sequence[Extent]) -> list[Extent]:
    """Elements to step per dimension, row-major.

    >>> strides([2, 3, 4])
    [12, 4, 1]
    """
    out: list[Extent] = []
    step: Extent = 1
    for extent in reversed(shape):
        out.append(step)
        step = step * extent
    return out[::-1]


def flat_offset(tensor: KernelTensor, index: Sequence[Term]) -> Affine:
    """The element offset of an access; digits of one number that meet again are joined."""
    total = Affine(0, {}, {})
    for term, step in zip(index, strides(tensor.type.shape), strict=True):
        total = total.plus(affine(term).scaled(step))
    joined = _joined_digits(total)
    while joined is not None:
        total, joined = joined, _joined_digits(joined)
    return total


def _joined_digits(form: Affine) -> Affine | None:
    """``k*c * (t // c) + k * (t % c) -> k * t``, once; None where there is no such pair."""
    for high, high_step in form.atoms.items():
        for low, low_step in form.atoms.items():
            whole = _whole_of(high, low, high_step, low_step)
            if whole is not None:
                rest = {t: c for t, c in form.atoms.items() if t is not high and t is not low}
                return Affine(form.constant, form.axes, rest).plus(affine(whole).scaled(low_step))
    return None


def _whole_of(high: Term, low: Term, high_step: Extent, low_step: Extent) -> Term | None:
    """``t`` where high is ``t // c`` (or ``t // (b*c)``, with low ``(t // b) % c``)."""
    number, by = _division(high, "//"), _division(low, "%")
    if number is None or by is None or high_step != low_step * by[1]:
        return None
    if number[1] == by[1] and _same(number[0], by[0]):
        return by[0]
    inner = _division(by[0], "//")
    if inner and number[1] == inner[1] * by[1] and _same(number[0], inner[0]):
        return by[0]
    return None


def _division(term: Term, op: str) -> tuple[Term, int] | None:
    if isinstance(term, Apply) and term.op == op and isinstance(term.args[1], Const):
        return term.args[0], int(term.args[1].value)
    return None


def _same(a: Term, b: Term) -> bool:
    if a is b:
        return True
    if isinstance(a, AxisIndex) and isinstance(b, AxisIndex):
        return a.axis == b.axis
    if isinstance(a, Const) and isinstance(b, Const):
        return a.value == b.value
    if isinstance(a, Apply) and isinstance(b, Apply) and a.op == b.op:
        return all(_same(x, y) for x, y in zip(a.args, b.args, strict=True))
    return False
