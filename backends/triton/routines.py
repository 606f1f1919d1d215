"""Routines of ``graphc.routines`` as kernels.

In short rows every order is a count: an element's place is the number of elements that come before
it, ties by place. Nothing waits, and the work grows with the square of a row's length.

Longer rows are sorted by a network (Batcher 1968, the bitonic one, whose every comparison points
upwards, so that a row of any length is one of a power of two that ends in what never moves)::

    order = 0, 1, 2, ...
    for size in 2, 4, .., past the row's end
        compare place i with its mirror image in the blocks of ``size``
        for half in size/4, .., 2, 1
            compare place i with place i + half

Each line is a launch over all pairs, which are exchanged where they are: n log(n)^2 / 4 comparisons
in log(n)^2 / 2 launches. Places are compared where elements are equal: the order is the stable one.
The largest few of a long row are the first of its order, which is made in memory of its own. Where
groups begin is found in the order of their ids, by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from graphc.errors import BackendError
from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Kernel
from graphc.records import dataclass
from graphc.routines import Routine
from graphc.types import DType, Extent

__all__ = ["Launches", "RoutineKernel", "routine_kernels"]

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

_NONE = """kernel none
  size rows 0..
  size length 0..
  size groups 0..
  axes r:rows g:groups + 1
  out start i64[rows,groups + 1]
  store start[r, g] = 0"""

_BISECT = """kernel bisect
  size rows 0..
  size length 0..
  size groups 0..
  size step 1..
  axes r:rows g:groups + 1
  in ids i64[rows,length], order i64[rows,length], low i64[rows,groups + 1]
  out start i64[rows,groups + 1]
  n = load low[r, g]
  at = n + step - 1
  inside = at >= 0 and at < length
  place = load order[r, at] if inside
  there = inside and place >= 0 and place < length
  id = load ids[r, place] if there
  before = there and id >= 0 and id < g
  store start[r, g] = n + step if before"""

_FIRST = """kernel first
  size rows 0..
  size length 0..
  size count 0..
  axes r:rows i:count
  in whole i64[rows,length]
  out order i64[rows,count]
  inside = i < length
  k = load whole[r, i] if inside
  store order[r, i] = k"""

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


_PLACES = """kernel places
  size rows 0..
  size length 0..
  {size}
  axes r:rows i:length
  out order i64[rows,length]
  store order[r, i] = i"""

_EXCHANGE = """kernel exchange
  size rows 0..
  size length 0..
  {size}
  size pairs 0..
  size half 1..
  size mirrored 0..1
  axes r:rows p:pairs
  in x {short}[rows,length], order i64[rows,length]
  out lower i64[rows,length], upper i64[rows,length]
  s = p % half
  i = p + p - s
  j = where(mirrored == 1, i + half + half - 1 - s - s, i + half)
  inside = i >= 0 and i < length and j >= 0 and j < length
  k = load order[r, i] if inside
  l = load order[r, j] if inside
  held = load x[r, k] if inside
  other = load x[r, l] if inside
  {keys}
  {before}
  store lower[r, i] = l if inside and before
  store upper[r, j] = k if inside and before"""

#: rows up to this long are ordered by counting
LONGEST_COUNTED = 2048

#: the sizes of each launch of a kernel, from those of the routine
Launches = Callable[[Sequence[int]], list[list[int]]]


def _once(sizes: Sequence[int]) -> list[list[int]]:
    return [list(sizes)]


def _stages(sizes: Sequence[int]) -> list[list[int]]:
    """A network's launches for rows of ``sizes[1]`` elements, in order.

    >>> [s[2:] for s in _stages([1, 3])]
    [[2, 1, 1], [2, 2, 1], [2, 1, 0]]
    """
    bits = max(0, sizes[1] - 1).bit_length()
    pairs = (1 << bits) // 2
    found = []
    for bit in range(bits):
        found.append([*sizes, pairs, 1 << bit, 1])
        found += [[*sizes, pairs, 1 << lower, 0] for lower in reversed(range(bit))]
    return found


def _halvings(sizes: Sequence[int]) -> list[list[int]]:
    """A bisection's launches: how many elements come before is found bit by bit.

    >>> [s[-1] for s in _halvings([1, 5, 2])]
    [4, 2, 1]
    """
    return [[*sizes, 1 << bit] for bit in reversed(range(sizes[1].bit_length()))]


@dataclass(frozen=True)
class RoutineKernel:
    """One kernel of a routine. It reads the routine's inputs, if ``reads_inputs``, and the outputs
    in ``reads``, and writes those in ``writes``; ``launches`` follow each other. ``number`` tells
    it from the others of the routine's name. The number behind the outputs' is that of a scratch
    buffer: int64, as many as the first input has elements.
    """

    kernel: Kernel
    number: int
    writes: tuple[int, ...]
    reads: tuple[int, ...] = ()
    reads_inputs: bool = True
    launches: Launches = _once


def routine_kernels(routine: Routine, length: Extent | None) -> tuple[RoutineKernel, ...]:
    """The kernels that compute a routine for rows of ``length`` elements (None: any), one after the
    other.

    Their sizes are the routine's first. BackendError for a rule that is not known.

    >>> from graphc.routines import sort
    >>> from graphc.types import float32
    >>> [one.kernel.name for one in routine_kernels(sort(float32), 100)]
    ['sort']
    >>> [one.kernel.name for one in routine_kernels(sort(float32), 10**6)]
    ['sort_places', 'sort_exchange']
    """
    if routine.rule not in ("sort", "group", "top_k"):
        raise BackendError(f"the triton backend has no routine {routine.rule!r}")
    short = isinstance(length, int) and length <= LONGEST_COUNTED
    place = {"sort": 0, "group": 1, "top_k": 0 if short else 1}[routine.rule]
    order = (_counted(routine, place),) if short else _network(routine, place)
    if routine.rule == "group":
        none, bisect = (_named(t, f"{routine.name}_start") for t in (_NONE, _BISECT))
        return (
            *order,
            RoutineKernel(none, 10, (0,), reads_inputs=False),
            RoutineKernel(bisect, 11, (0,), (place, 0), launches=_halvings),
        )
    if routine.rule == "top_k" and not short:
        first = _named(_FIRST, f"{routine.name}_first")
        return (*order, RoutineKernel(first, 12, (0,), (place,), reads_inputs=False))
    return order


def _network(routine: Routine, place: int) -> tuple[RoutineKernel, ...]:
    """The order of whole rows, by a network, in the buffer ``place``."""
    grouped = routine.rule == "group"
    size = {"sort": "", "group": "size groups 0..", "top_k": "size count 0.."}[routine.rule]
    dtype = routine.inputs[0].type.dtype
    descending = routine.rule == "top_k" or (not grouped and bool(routine.option("descending")))
    keys = "a = held\n  b = other"
    if grouped:
        keys = "\n  ".join(
            f"{key} = where({value} >= 0 and {value} < groups, {value}, groups)"
            for key, value in (("a", "held"), ("b", "other"))
        )
    text = _EXCHANGE.format(
        size=size, short=dtype.short, keys=keys,
        before=_before(dtype, descending=descending, places=("l", "k")),
    )
    places = _named(_PLACES.format(size=size), f"{routine.name}_places")
    exchange = _named(text, f"{routine.name}_exchange")
    return (
        RoutineKernel(places, 8, (place,), reads_inputs=False),
        RoutineKernel(exchange, 9, (place, place), (place,), launches=_stages),
    )


def _counted(routine: Routine, place: int) -> RoutineKernel:
    """The order by counting, in the output ``place``."""
    dtype = routine.inputs[0].type.dtype
    match routine.rule:
        case "sort":
            before = _before(dtype, descending=bool(routine.option("descending")))
            text = _ORDER.format(size="", short=dtype.short, kept="length", before=before)
        case "top_k":
            text = _ORDER.format(
                size="size count 0..", short=dtype.short, kept="count",
                before=_before(dtype, descending=True),
            )
        case _:
            return RoutineKernel(_named(_GROUP_ORDER, f"{routine.name}_order"), 1, (place,))
    return RoutineKernel(_named(text, routine.name), 0, (place,))


def _named(text: str, name: str) -> Kernel:
    lines = [line for line in text.split("\n") if line.strip()]
    return replace(parse_kernel("\n".join(lines)), name=name)


def _before(
    dtype: DType, *, descending: bool, places: tuple[str, str] = ("j", "i")
) -> str:
    """Whether element ``b`` comes before element ``a``, where they are at ``places``; NaN comes
    last.
    """
    sign, later = ">" if descending else "<", " < ".join(places)
    if not dtype.is_float:
        return f"before = b {sign} a or (b == a and {later})"
    return (
        f"less = b {sign} a or (isnan(a) and not isnan(b))\n"
        "  same = b == a or (isnan(a) and isnan(b))\n"
        f"  before = less or (same and {later})"
    )
