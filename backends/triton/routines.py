"""Routines of ``graphc.routines`` as kernels: every order is a count of what comes before.

An element's place is the number of elements that come before it, ties by place: no step waits for
another, and the result is the stable order whatever runs first. The work grows with the square of a
row's length.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.errors import BackendError
from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Kernel
from graphc.routines import Routine
from graphc.types import DType

__all__ = ["routine_kernels"]

_ORDER = """kernel order
  size rows 0..
  size length 0..
  {size}
  axes r:rows i:length j:length
  in x {short}[rows,length]
  out order i64[rows,{kept}]
  a = load x[r, i]
  b = load x[r, j]
  {before}
  n = reduce sum i64(before) over j
  store order[r, n] = i if n < {kept}"""

_START = """kernel start
  size rows 0..
  size length 0..
  size groups 0..
  axes r:rows g:groups + 1 j:length
  in ids i64[rows,length]
  out start i64[rows,groups + 1]
  b = load ids[r, j]
  n = reduce sum i64(b >= 0 and b < g) over j
  store start[r, g] = n"""

_GROUP_ORDER = """kernel order
  size rows 0..
  size length 0..
  size groups 0..
  axes r:rows i:length j:length
  in ids i64[rows,length]
  out order i64[rows,length]
  a = load ids[r, i]
  b = load ids[r, j]
  c = where(a >= 0 and a < groups, a, groups)
  d = where(b >= 0 and b < groups, b, groups)
  n = reduce sum i64(d < c or (d == c and j < i)) over j
  store order[r, n] = i if n < length"""


def routine_kernels(routine: Routine) -> tuple[tuple[Kernel, tuple[int, ...]], ...]:
    """The kernels that compute a routine, and which of its outputs each writes.

    Their inputs are the routine's, their sizes too. BackendError for a rule that is not known.

    >>> from graphc.routines import sort
    >>> from graphc.types import float32
    >>> [kernel.name for kernel, _ in routine_kernels(sort(float32))]
    ['sort']
    """
    dtype = routine.inputs[0].type.dtype
    match routine.rule:
        case "sort":
            before = _before(dtype, descending=bool(routine.option("descending")))
            text = _ORDER.format(size="", short=dtype.short, kept="length", before=before)
            return ((_named(text, routine.name), (0,)),)
        case "top_k":
            text = _ORDER.format(
                size="size count 0..", short=dtype.short, kept="count",
                before=_before(dtype, descending=True),
            )
            return ((_named(text, routine.name), (0,)),)
        case "group":
            start = _named(_START, f"{routine.name}_start")
            return (start, (0,)), (_named(_GROUP_ORDER, f"{routine.name}_order"), (1,))
    raise BackendError(f"the triton backend has no routine {routine.rule!r}")


def _named(text: str, name: str) -> Kernel:
    lines = [line for line in text.split("\n") if line.strip()]
    return replace(parse_kernel("\n".join(lines)), name=name)


def _before(dtype: DType, *, descending: bool) -> str:
    """Whether element j (``b``) comes before element i (``a``); NaN comes last."""
    sign = ">" if descending else "<"
    if not dtype.is_float:
        return f"before = b {sign} a or (b == a and j < i)"
    return (
        f"less = b {sign} a or (isnan(a) and not isnan(b))\n"
        "  same = b == a or (isnan(a) and isnan(b))\n"
        "  before = less or (same and j < i)"
    )
