"""``remat``: values whose derivative computes them a second time, instead of keeping them.

::

    remat(*results, *given; results) -> *results          the results themselves
    backward:  results' = recompute(results, given);  vjp(results', given, cotangents)

``given`` is all that the results are computed from inside of the function: its arguments and what
it uses from outside. Closing a graph removes the node; the repeated nodes stay apart from the first
ones (``Node.again``) and run late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc.errors import ShapeError
from graphc.graph import Node, Value, apply_all, recompute
from graphc.op import (
    Array,
    Cotangents,
    ErrorSample,
    Lanes,
    Op,
    Sample,
    Transform,
    register,
    tensor,
)
from graphc.ops.lifting import who
from graphc.ops.loop import floats, given_or_zero
from graphc.types import TensorType, int64

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


def _remat_type(types: Types, attrs: Attrs) -> Types:
    if not 0 < attrs["results"] <= len(types):
        raise ShapeError(f"{who('remat')}: {attrs['results']} results of {len(types)} inputs")
    return types[: attrs["results"]]


def _remat_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    return arrays[: attrs["results"]]


def _remat_vjp(node: Node, cotangents: Cotangents, transform: Transform) -> Cotangents:
    count = node.attrs["results"]
    results, given = node.inputs[:count], node.inputs[count:]
    repeated = recompute(results, given, node.again + 1)
    flowing = [i for i in floats(results) if cotangents[i] is not None]
    wrt = floats(given)
    found = transform.vjp(
        [repeated[i] for i in flowing],
        [given[i] for i in wrt],
        [given_or_zero(cotangents[i], results[i]) for i in flowing],
    )
    flows: list[Value | None] = [None] * len(node.inputs)
    for place, flow in zip(wrt, found, strict=True):
        flows[count + place] = flow
    return flows


def _remat_jvp(node: Node, tangents: Cotangents, transform: Transform) -> Cotangents:
    return tangents[: node.attrs["results"]]  # forward mode keeps nothing


def _remat_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    count = node.attrs["results"]
    results = lanes.all(inputs)[:count]
    return apply_all("remat", *results, *inputs[count:], **node.attrs)


register(
    Op(
        "remat",
        "remat(*results, *given): the results; their derivative computes them again from the rest.",
        _remat_type,
        _remat_reference,
        _remat_vjp,
        _remat_jvp,
        kind="graph",
        samples=(
            Sample((tensor((2,)),), {"results": 1}, differentiable=False),
            Sample((tensor((3,)), tensor((), int64)), {"results": 2}, differentiable=False),
        ),
        error_samples=(ErrorSample((tensor(()),), {"results": 2}, ShapeError, "2 results of 1"),),
        batch=_remat_batch,
    )
)
