"""Whether a kernel may write over what it reads, proved from the order of its nest.

::

    for i:  for j: a = load d[i, j]; store first[i, j]      each point is read, then written: fine
            for j: a = load d[i, j]; store second[i, j]     read again by a second loop: not fine

A store that goes where a load came from must follow it in the innermost loop around both. Loops
around both run over axes of the index, so a later trip meets other elements; so do other blocks.
The memory plan asks ``may_share`` about the kernel alone, before its tiling is known; this looks at
the loops that a backend really runs, and is there to find a wrong answer of the former.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphc.kernel.terms import AxisIndex, Kernel, Load, Store, Term
from graphc.nest.indices import Affine, affine
from graphc.nest.offsets import flat_offset
from graphc.nest.steps import Fill, Let, Loop, Nest, Step, Write
from graphc.types import Extent

__all__ = ["why_not_in_place"]

#: a step, the loops around it from the outermost, and the number of each of these and of the step
#: among its neighbours
_Place = tuple[Step, tuple[Loop, ...], tuple[int, ...]]


def why_not_in_place(nest: Nest, source: str, target: str) -> str | None:
    """Why the output ``target`` may not lie where the input ``source`` lies, or None where every
    element is read for the last time before it is written.

    >>> from graphc.kernel.text import parse_kernel
    >>> from graphc.nest import Tiling, build_nest
    >>> text = "kernel k; axes i:4; in x f32[4]; out y f32[4]; a = load x[{}]; store y[i] = a"
    >>> def nest(index):
    ...     kernel = parse_kernel(text.format(index).replace("; ", chr(10)))
    ...     return build_nest(kernel, Tiling())
    >>> why_not_in_place(nest("i"), "x", "y")
    >>> why_not_in_place(nest("3 - i"), "x", "y")
    'x is read at another index than y is written at'
    """
    places = [*_places(nest.prologue, (), (0,)), *_places(nest.body, (), (1,))]
    for step, _, _ in places:
        if isinstance(step, Fill) and step.tensor == target:
            return f"{target} is filled before {source} is read"
    stores = [p for p in places if isinstance(p[0], Write) and p[0].store.tensor == target]
    for place in places:
        step, loops, numbers = place
        if not isinstance(step, Let) or not isinstance(step.term, Load):
            continue
        if step.term.tensor != source:
            continue
        for written, around, order in stores:
            assert isinstance(written, Write)
            reason = _same_elements(nest, step.term, written.store)
            reason = reason or _read_first(written.store, (loops, numbers), (around, order))
            if reason is not None:
                return reason
    return None


def _places(
    steps: Sequence[Step], loops: tuple[Loop, ...], numbers: tuple[int, ...]
) -> Iterator[_Place]:
    for n, step in enumerate(steps):
        yield step, loops, (*numbers, n)
        if isinstance(step, Loop):
            yield from _places(step.body, (*loops, step), (*numbers, n))


def _same_elements(nest: Nest, load: Load, store: Store) -> str | None:
    """Whether load and store meet at an element at one point of the index's axes only, in words
    where that is not so.
    """
    if store.add or list(map(affine, load.index)) != list(map(affine, store.index)):
        return f"{load.tensor} is read at another index than {store.tensor} is written at"
    axes = _axes(store.index)
    if not set(nest.grid) <= axes:
        return f"other blocks read {load.tensor} where {store.tensor} is written"
    if not _once(nest.kernel, store):
        return f"more than one point writes to an element of {store.tensor}"
    return None


def _read_first(
    store: Store,
    read: tuple[tuple[Loop, ...], tuple[int, ...]],
    written: tuple[tuple[Loop, ...], tuple[int, ...]],
) -> str | None:
    """Whether at each element the read comes before the write, in words where it does not."""
    (loops, numbers), (around, order) = read, written
    shared = 0
    while shared < min(len(loops), len(around)) and loops[shared] is around[shared]:
        shared += 1
    again = {loop.axis for loop in loops[:shared]} - _axes(store.index)
    if again:
        return f"a loop over {' '.join(sorted(again))} reads again what it wrote to {store.tensor}"
    # the room's number and one for each shared loop are the same; the next ones decide
    if numbers[: shared + 2] >= order[: shared + 2]:
        return f"a later loop reads again what was written to {store.tensor}"
    return None


def _axes(index: Sequence[Term]) -> frozenset[str]:
    return frozenset[str]().union(*(t.axes for t in index))


def _once(kernel: Kernel, store: Store) -> bool:
    """Whether different points of the index's axes are different elements. A store without a
    predicate is known to write each element once; with one, points that it leaves out read too.
    """
    if store.pred is None:
        return True
    plain = [t.axis for t in store.index if isinstance(t, AxisIndex)]
    if len(set(plain)) == len(store.index):
        return True
    forms = [affine(t) for t in store.index]
    apart = sum(len(f.axes) for f in forms) == len(_axes(store.index))
    if apart and all(_counts(kernel, f) for f in forms):
        return True
    return _counts(kernel, flat_offset(kernel.tensors[store.tensor], store.index))


def _counts(kernel: Kernel, form: Affine) -> bool:
    """Whether an affine form has a value for each point of its axes, as digits have."""
    if form.atoms:
        return False
    reach: Extent = 1
    steps = [(abs(c), kernel.extents[a]) for a, c in form.axes.items() if isinstance(c, int)]
    if len(steps) < len(form.axes):
        return False
    if len(steps) == 1:
        return steps[0][0] > 0
    for step, extent in sorted(steps, key=lambda pair: pair[0]):
        if not isinstance(reach, int) or step < reach:
            return False
        reach = reach + step * (extent - 1)
    return True
