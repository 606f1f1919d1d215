"""``autocast``: products of float32 with operands in half precision, and sums in float32.

::

    contract(a, b; spec)  ->  contract(a, b; spec of bf16)

    in the forward pass, in derivatives taken before or after, in the bodies of loops and branches

Everything else stays as it is: values, states and gradients are float32, so that softmax, norms,
losses and updates lose nothing, and a master copy of the weights needs no keeping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphc import tree
from graphc.contraction import ContractSpec
from graphc.dsl import rewritten
from graphc.errors import DTypeError
from graphc.graph import Graph, Node, Value, clone, rebuild
from graphc.source import here
from graphc.types import DType, bfloat16, dtype_of, float16, float32

__all__ = ["autocast"]


def autocast(structure: Any, dtype: object) -> Any:
    """The same program, whose float32 products round their operands to ``dtype`` (bfloat16 or
    float16) and sum in float32.

    ``structure`` is a Value or a structure of Values, a cost say: what ``grad`` and ``minimize``
    then derive from it rounds the same way. Products of other types, sums and everything
    elementwise stay as they are. Above 65504 float16 is infinite, and small gradients become zero
    in it: ``optim.LossScale`` keeps them in range.

    >>> import graphc as gc
    >>> x, w = gc.observed("x", (2, 3)), gc.observed("w", (3, 4))
    >>> gc.autocast(x @ w, gc.bfloat16)
    <%...: f32[2,4] = matmul...>
    """
    rounded = _half(dtype)
    for value in tree.leaves(structure):
        if not isinstance(value, Value):
            raise DTypeError(
                f"autocast: {type(value).__name__} is no Value; transform the cost, then derive "
                "updates from it",
                here(),
            )
    return rewritten(structure, {}, lambda node: _attrs(node, rounded))


def _half(dtype: object) -> DType:
    try:
        found = dtype_of(dtype)
    except TypeError as error:
        raise DTypeError(f"autocast: {error}", here()) from None
    if found not in (bfloat16, float16):
        raise DTypeError(f"autocast: {found.name} is neither bfloat16 nor float16", here())
    return found


def _attrs(node: Node, rounded: DType) -> Mapping[str, Any]:
    """The node's attrs, where it or a body of it multiplies, rounding."""
    if node.op == "contract":
        spec: ContractSpec = node.attrs["spec"]
        return {"spec": replace(spec, rounded=rounded)} if _is_product(node) else node.attrs
    bodies = {name: a for name, a in node.attrs.items() if isinstance(a, Graph)}
    new = {name: _body(body, rounded) for name, body in bodies.items()}
    changed = any(new[name] is not body for name, body in bodies.items())
    return {**node.attrs, **new} if changed else node.attrs


def _is_product(node: Node) -> bool:
    """Whether it sums products of float32 tensors; windows and traces multiply with a 1."""
    spec: ContractSpec = node.attrs["spec"]
    return (
        bool(spec.reduced)
        and spec.rounded is None
        and spec.accumulate in (None, float32)
        and all(v.dtype == float32 and v.ndim for v in node.inputs)
    )


def _body(body: Graph, rounded: DType) -> Graph:
    def rewrite(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        attrs = _attrs(node, rounded)
        return None if attrs is node.attrs else clone(node, inputs, attrs).outputs

    new = rebuild(body, rewrite)
    same = all(a is b for a, b in zip(new.results, body.results, strict=True))
    return body if same else new
