"""Routines: what a schedule launches that is no kernel. Named and typed, without a body.

A kernel says what each element is; a routine is known by its rule's name, and every backend brings
an implementation of its own. Its grammar in a schedule's text::

    routine := "routine" NAME "[" sizes "]" "=" RULE "(" tensors "->" tensors {"," OPTION INT} ")"
    tensor  := NAME type

    routine argsort[rows, length] = sort(x f32[rows,length] -> order i64[rows,length], descending 0)

Sizes are formal: a launch gives their values, and passes buffers of any shape with as many
elements, since buffers are dense and row-major. So one routine serves all shapes. Rows are
independent of each other, and a result never depends on who computes which of them.

Orders are stable: equal elements keep their places, -0.0 equals 0.0, NaN comes last. What a routine
writes it writes whatever its inputs hold: an id out of range belongs to no group, and is an error
only where a kernel checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.errors import VerifyError
from graphc.kernel.terms import Check, KernelTensor, Scalar, SizeSymbol
from graphc.records import dataclass
from graphc.types import Dim, DType, Extent, TensorType, int64

__all__ = [
    "ROUTINES",
    "Routine",
    "RoutineRule",
    "group",
    "run_routine",
    "sort",
    "stable_order",
    "top_k",
    "verify_routine",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class Routine:
    """A routine as a schedule declares it; its first size is the number of independent rows."""

    name: str
    rule: str
    inputs: tuple[KernelTensor, ...]
    outputs: tuple[KernelTensor, ...]
    sizes: tuple[SizeSymbol, ...]
    options: tuple[tuple[str, int], ...] = ()

    #: what launches of kernels have, and a routine has none of
    scalars: tuple[Scalar, ...] = ()
    checks: tuple[Check, ...] = ()

    def option(self, name: str) -> int:
        """An option's value."""
        return dict(self.options)[name]

    def __str__(self) -> str:
        """As in a schedule's text."""
        sizes = ", ".join(s.name for s in self.sizes)
        inputs, outputs = (
            ", ".join(f"{t.name} {t.type}" for t in tensors)
            for tensors in (self.inputs, self.outputs)
        )
        options = "".join(f", {name} {value}" for name, value in self.options)
        return f"routine {self.name}[{sizes}] = {self.rule}({inputs} -> {outputs}{options})"


@dataclass(frozen=True)
class RoutineRule:
    """A kind of routine.

    ``make`` builds the routine of an element type and options; ``reference`` computes it with
    NumPy; ``work`` is a launch's cost in additions, from the values of its sizes.
    """

    doc: str
    make: Callable[..., Routine]
    reference: Callable[[Routine, Sequence[Array], Mapping[str, int]], Sequence[Array]]
    work: Callable[[Routine, Mapping[str, Extent]], Extent]


def _size(name: str) -> Dim:
    return Dim(name, min=0, specialize=False)


_ROWS, _LENGTH, _COUNT, _GROUPS = map(_size, ("rows", "length", "count", "groups"))


def _tensor(name: str, dtype: DType, *shape: Extent) -> KernelTensor:
    return KernelTensor(name, TensorType(dtype, shape))


def _symbols(*dims: Dim) -> tuple[SizeSymbol, ...]:
    return tuple(SizeSymbol(d.name, d.min, d.max, d.multiple_of) for d in dims)


# ---- the rules


def sort(dtype: DType, *, descending: int = 0) -> Routine:
    """The places of each row's elements in order.

    >>> from graphc.types import float32
    >>> print(sort(float32))
    routine sort[rows, length] = sort(x f32[rows,length] -> order i64[rows,length], descending 0)
    """
    inputs = (_tensor("x", dtype, _ROWS, _LENGTH),)
    outputs = (_tensor("order", int64, _ROWS, _LENGTH),)
    options = (("descending", int(descending)),)
    return Routine("sort", "sort", inputs, outputs, _symbols(_ROWS, _LENGTH), options)


def top_k(dtype: DType) -> Routine:
    """The places of each row's ``count`` largest elements, the largest first."""
    inputs = (_tensor("x", dtype, _ROWS, _LENGTH),)
    outputs = (_tensor("order", int64, _ROWS, _COUNT),)
    return Routine("top_k", "top_k", inputs, outputs, _symbols(_ROWS, _LENGTH, _COUNT))


def group(dtype: DType = int64) -> Routine:
    """The places of equal ids side by side: those of id g are ``order[start[g]:start[g + 1]]``.

    In a group they keep their order. ``start[groups]`` is how many ids lie in 0, ..., groups - 1;
    the places of the others come after.
    """
    inputs = (_tensor("ids", dtype, _ROWS, _LENGTH),)
    outputs = (
        _tensor("start", int64, _ROWS, _GROUPS + 1),
        _tensor("order", int64, _ROWS, _LENGTH),
    )
    return Routine("group", "group", inputs, outputs, _symbols(_ROWS, _LENGTH, _GROUPS))


# ---- what they compute


def stable_order(x: Array, *, descending: bool) -> Array:
    """The stable order along the last axis, NaN last."""
    if x.dtype.itemsize < 4:  # bools and short floats: as numbers that NumPy compares
        x = x.astype(np.float32)
    if not descending:
        return np.argsort(x, axis=-1, kind="stable")
    last = x.shape[-1] - 1
    order = last - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    lost = np.take_along_axis(x != x, order, -1)
    return np.take_along_axis(order, np.argsort(lost, axis=-1, kind="stable"), -1)


def _sort(routine: Routine, arrays: Sequence[Array], sizes: Mapping[str, int]) -> Sequence[Array]:
    return [stable_order(arrays[0], descending=bool(routine.option("descending")))]


def _top_k(routine: Routine, arrays: Sequence[Array], sizes: Mapping[str, int]) -> Sequence[Array]:
    return [stable_order(arrays[0], descending=True)[:, : sizes["count"]]]


def _group(routine: Routine, arrays: Sequence[Array], sizes: Mapping[str, int]) -> Sequence[Array]:
    (ids,), groups = arrays, sizes["groups"]
    outside = (ids < 0) | (ids >= groups)
    held = np.where(outside, groups, ids)
    order = np.argsort(held, axis=-1, kind="stable")
    start = np.zeros((len(ids), groups + 1), np.int64)
    for row, counted in zip(held, start, strict=True):
        counted[1:] = np.bincount(row, minlength=groups + 1)[:groups].cumsum()
    return [start, order]


def _sort_work(routine: Routine, sizes: Mapping[str, Extent]) -> Extent:
    """A pass over the row for each byte of an element."""
    passes = 1 + routine.inputs[0].type.dtype.itemsize
    return sizes["rows"] * sizes["length"] * passes * 64


def _top_k_work(routine: Routine, sizes: Mapping[str, Extent]) -> Extent:
    return sizes["rows"] * (sizes["length"] * 128 + sizes["count"] * 256)


def _group_work(routine: Routine, sizes: Mapping[str, Extent]) -> Extent:
    return sizes["rows"] * (sizes["length"] * 128 + sizes["groups"] * 64)


#: every rule by name; a backend implements each of them
ROUTINES: dict[str, RoutineRule] = {
    "sort": RoutineRule("the stable order of each row", sort, _sort, _sort_work),
    "top_k": RoutineRule("the places of each row's largest elements", top_k, _top_k, _top_k_work),
    "group": RoutineRule("the places of equal ids side by side", group, _group, _group_work),
}


def run_routine(
    routine: Routine, arrays: Sequence[Array], sizes: Mapping[str, int]
) -> list[Array]:
    """The outputs for dense arrays of any shape, in the routine's own shapes.

    >>> from graphc.types import float32
    >>> run_routine(sort(float32), [np.float32([[3, 1, 2]])], {"rows": 1, "length": 3})
    [array([[1, 2, 0]])]
    """
    dims = {_size(name): value for name, value in sizes.items()}

    def shape(tensor: KernelTensor) -> tuple[int, ...]:
        extents = (e if isinstance(e, int) else e.evaluate(dims) for e in tensor.type.shape)
        return tuple(e for e in extents if isinstance(e, int))

    pairs = zip(arrays, routine.inputs, strict=True)
    views = [array.reshape(shape(tensor)) for array, tensor in pairs]
    results = ROUTINES[routine.rule].reference(routine, views, sizes)
    return [
        np.asarray(result, tensor.type.dtype.numpy).reshape(shape(tensor))
        for result, tensor in zip(results, routine.outputs, strict=True)
    ]


def verify_routine(routine: Routine) -> None:
    """VerifyError where a routine is not what its rule makes of its element type and options."""
    rule = ROUTINES.get(routine.rule)
    if rule is None:
        raise VerifyError(f"no routine {routine.rule!r}; there are {', '.join(ROUTINES)}")
    try:
        wanted = rule.make(routine.inputs[0].type.dtype, **dict(routine.options))
    except (IndexError, TypeError):
        raise VerifyError(f"{routine}: not what {routine.rule!r} takes") from None
    if replace(routine, name=wanted.name) != wanted:
        raise VerifyError(f"{routine}: it must be {wanted}")
