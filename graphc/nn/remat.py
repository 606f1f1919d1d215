"""``remat``: run a module or function twice rather than keep what it computed on the way.

>>> import graphc as gc
>>> block = gc.nn.Linear(64, 256) >> gc.nn.GELU() >> gc.nn.Linear(256, 64)
>>> x = gc.observed("x", (8, 64))
>>> gc.remat(block)(x).type
f32[8,64]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

from graphc import tree
from graphc.dsl import StateValue
from graphc.errors import ShapeError
from graphc.graph import Node, Value, apply_all, source_value
from graphc.nn.module import Module
from graphc.ops.loop import read_once
from graphc.source import here
from graphc.types import TensorType, int64

__all__ = ["remat"]

F = TypeVar("F", bound=Callable[..., Any])


def remat(f: F) -> F:
    """``f``, a Module or function, whose derivative computes it again from its arguments.

    Between the forward and the backward pass only its arguments and results are kept: less memory
    for about a third more work (Chen et al., "Training Deep Nets with Sublinear Memory Cost",
    2016). Each value is computed again by the same operations on the same bits, random numbers
    included (a sum's order may differ where kernels are cut differently); attached updates happen
    once. Of a Module it is a view with the same parameters and names.
    """
    if isinstance(f, Module):
        return cast(F, _Rematerialized(f))
    if not callable(f):
        raise ShapeError(f"remat: takes a Module or a function, got {f!r}", here())

    @wraps(f)
    def repeated(*args: Any, **kwargs: Any) -> Any:
        return _bounded(f, args, kwargs)

    return cast(F, repeated)


class _Rematerialized(Module):
    """A view of ``module``: its names, its ports, its mode."""

    def __init__(self, module: Module) -> None:
        self._graphc_inside = module
        vars(self)["_graphc_mode"] = module._pinned

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives; found at the call, so that a clone runs the clone's."""
        return _bounded(self._graphc_inside.forward, args, kwargs)

    @property
    def _own_name(self) -> str:
        return self._graphc_inside._own_name

    @property
    def ports(self) -> tuple[str, ...]:
        return self._graphc_inside.ports

    def _check_ports(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._graphc_inside._check_ports(args, kwargs)

    def _members(self) -> Iterator[tuple[str, StateValue | Module]]:
        return self._graphc_inside._members()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_graphc_"):  # before __init__, when copied
            raise AttributeError(name)
        return getattr(self._graphc_inside, name)

    def __repr__(self) -> str:
        return f"remat({self._graphc_inside!r})"


def _bounded(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The results of ``f``, behind a node that knows all they were computed from."""
    start = source_value("argument", TensorType(int64, ())).node.serial
    leaves, form = tree.flatten((args, kwargs))
    given = [read_once(v) if isinstance(v, Value) else v for v in leaves]
    positional, named = form.build(given)
    made, made_form = tree.flatten(f(*positional, **named))
    places = [i for i, v in enumerate(made) if isinstance(v, Value)]
    results = [read_once(made[i]) for i in places]
    outside = _outside(results, start)
    if not results or not outside:
        return made_form.build(made)
    kept = apply_all("remat", *results, *outside, results=len(results))
    for place, value, result in zip(places, kept, results, strict=True):
        value.name = result.name
        made[place] = value
    return made_form.build(made)


def _outside(results: list[Value], start: int) -> list[Value]:
    """What nodes made after ``start`` compute ``results`` from: older values, and states read."""
    inside: set[Node] = set()
    stack = [v.node for v in results]
    while stack:
        node = stack.pop()
        made_here = node.serial > start and node.inputs and node.op != "read"
        if made_here and node not in inside:
            inside.add(node)
            stack.extend(v.node for v in node.inputs)
    found: dict[Value, None] = {}
    for node in sorted(inside, key=lambda n: n.serial):
        for value in node.inputs[: 1 if node.op == "attach" else None]:
            if value.node not in inside and (value.node.inputs or value.node.serial < start):
                found[value] = None
    return list(found)
