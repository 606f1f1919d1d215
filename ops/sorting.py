"""Sorting and grouping: primitives that routines compute, each along the last axis.

Orders are stable, equal elements keep their places, -0.0 equals 0.0 and NaN comes last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc import routines
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Node, Value, apply_all
from graphc.op import Array, ErrorSample, Lanes, Op, Sample, register, tensor
from graphc.ops.lifting import who
from graphc.ops.sizes import product, surely_greater
from graphc.routines import Routine, stable_order
from graphc.types import (
    DTYPES,
    Extent,
    Shape,
    Size,
    TensorType,
    bool_,
    float32,
    int32,
    int64,
)

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


def _rows(shape: Shape) -> Extent:
    return product(shape[:-1])


def _last_extent(op: str, x: TensorType) -> Extent:
    if not x.ndim:
        raise ShapeError(f"{who(op)}: {x} has no axis")
    return x.shape[-1]


def _batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """The last axis stays the last one."""
    return apply_all(node.op, *inputs, **node.attrs)


# ---- argsort


def _argsort_type(types: Types, attrs: Attrs) -> Types:
    (x,) = types
    _last_extent("argsort", x)
    return (TensorType(int64, x.shape),)


def _argsort_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    return (stable_order(arrays[0], descending=attrs["descending"]).astype(np.int64),)


def _argsort_routine(node: Node) -> tuple[Routine, tuple[Extent, ...]]:
    x = node.inputs[0].type
    made = routines.sort(x.dtype, descending=int(node.attrs["descending"]))
    return made, (_rows(x.shape), x.shape[-1])


_UP, _DOWN = {"descending": False}, {"descending": True}


def _order_samples(attrs: Attrs) -> tuple[Sample, ...]:
    """Every dtype; ties, NaN, infinities and signed zeros; one row and many, short and long."""
    made = [Sample((tensor((3, 5), dtype),), attrs) for dtype in DTYPES.values()]
    for shape in ((40,), (2, 3, 7), (1,), (4, 1)):
        made.append(Sample((tensor(shape, int32),), attrs))
    for dtype in (d for d in DTYPES.values() if d.is_float):
        made.append(Sample((tensor((3, 50), dtype),), attrs, special=True))
    return tuple(made)


register(
    Op(
        "argsort",
        "The places of the elements in ascending (or ``descending``) order along the last axis.",
        _argsort_type,
        _argsort_reference,
        samples=(
            *_order_samples(_UP),
            *_order_samples(_DOWN),
            Sample((tensor((0,)),), _UP),
            Sample((tensor((0, 3)),), _DOWN),
        ),
        error_samples=(ErrorSample((tensor(()),), _UP, ShapeError, "no axis"),),
        kind="routine",
        routine=_argsort_routine,
        batch=_batch,
    )
)


# ---- top_k


def _top_k_type(types: Types, attrs: Attrs) -> Types:
    x, k = types[0], attrs["k"]
    extent = _last_extent("top_k", x)
    if not isinstance(k, int) or isinstance(k, bool) or k < 1 or surely_greater(k, extent):
        raise ShapeError(f"{who('top_k')}: k = {k} of {x}")
    return (TensorType(int64, (*x.shape[:-1], k)),)


def _top_k_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    return (stable_order(arrays[0], descending=True)[..., : attrs["k"]].astype(np.int64),)


def _top_k_routine(node: Node) -> tuple[Routine, tuple[Extent, ...]]:
    x = node.inputs[0].type
    return routines.top_k(x.dtype), (_rows(x.shape), x.shape[-1], node.attrs["k"])


register(
    Op(
        "top_k",
        "The places of the k largest elements along the last axis, the largest first.",
        _top_k_type,
        _top_k_reference,
        samples=(
            *_order_samples({"k": 1}),
            *(Sample((tensor((2, 60)),), {"k": k}, special=True) for k in (3, 33, 60)),
            Sample((tensor((0, 3)),), {"k": 2}),
        ),
        error_samples=(
            ErrorSample((tensor((3,)),), {"k": 4}, ShapeError, "k = 4"),
            ErrorSample((tensor((3,)),), {"k": 0}, ShapeError, "k = 0"),
            ErrorSample((tensor(()),), {"k": 1}, ShapeError, "no axis"),
        ),
        kind="routine",
        routine=_top_k_routine,
        batch=_batch,
    )
)


# ---- group


def _group_type(types: Types, attrs: Attrs) -> Types:
    ids, count = types[0], attrs["count"]
    if ids.dtype != int64:
        raise DTypeError(f"{who('group')}: the ids are {ids}, they must be int64")
    _last_extent("group", ids)
    if not isinstance(count, (int, Size)) or surely_greater(0, count):
        raise ShapeError(f"{who('group')}: count = {count!r}")
    return TensorType(int64, (*ids.shape[:-1], count + 1)), ids


def _group_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    ids, count = arrays[0], attrs["count"]
    rows, length = int(np.prod(ids.shape[:-1])), ids.shape[-1]
    sizes = {"rows": rows, "length": length, "groups": count}
    start, order = routines.run_routine(routines.group(), [ids], sizes)
    return start.reshape(*ids.shape[:-1], count + 1), order.reshape(ids.shape)


def _group_routine(node: Node) -> tuple[Routine, tuple[Extent, ...]]:
    ids = node.inputs[0].type
    return routines.group(), (_rows(ids.shape), ids.shape[-1], node.attrs["count"])


def _ids(*shape: int, count: int) -> Sample:
    """Ids of which some are out of range."""
    found = np.random.default_rng(5).integers(-1, count + 1, shape)
    return Sample((tensor(shape, int64),), {"count": count}, arrays={0: found})


register(
    Op(
        "group",
        "The places of equal ids side by side: those of id g are ``order[start[g]:start[g + 1]]``, "
        "in their order. Places of ids outside 0, ..., count - 1 come last.",
        _group_type,
        _group_reference,
        samples=(
            _ids(20, count=4),
            _ids(2, 3, 7, count=5),
            _ids(1, count=1),
            _ids(0, count=3),
            _ids(3, count=0),
            _ids(0, 3, count=2),
        ),
        error_samples=(
            ErrorSample((tensor((3,), int32),), {"count": 2}, DTypeError, "must be int64"),
            ErrorSample((tensor((3,), bool_),), {"count": 2}, DTypeError, "must be int64"),
            ErrorSample((tensor((3,), float32),), {"count": 2}, DTypeError, "must be int64"),
            ErrorSample((tensor((), int64),), {"count": 2}, ShapeError, "no axis"),
            ErrorSample((tensor((3,), int64),), {"count": -1}, ShapeError, "count = -1"),
        ),
        kind="routine",
        routine=_group_routine,
        batch=_batch,
    )
)
