"""Parameters that are computed from others: ``register_parametrization(layer, "weight", f)``.

::

    layer.weight                 f(original), made anew wherever the layer reads it
    layer.parametrizations.weight.original         what is trained and saved
                                 original0, original1... where f takes several

As ``torch.nn.utils.parametrize``, names in ``state_dict`` included. The class of the module becomes
a subclass of it whose ``weight`` is a property.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.closing import close
from graphc.dsl import StateValue, parameter
from graphc.errors import ShapeError, StateError
from graphc.graph import Value
from graphc.interpret import interpret
from graphc.nn.module import Module
from graphc.philox import Key
from graphc.source import here
from graphc.types import DType

__all__ = [
    "ParametrizationList",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
]


class ParametrizationList(Module):
    """The originals of one tensor and the modules that they go through: ``0``, ``1``..."""

    def __init__(self, held: StateValue, first: Module) -> None:
        inverse = getattr(first, "right_inverse", None)
        made = held if inverse is None else inverse(held)
        if isinstance(made, (tuple, list)):
            self._graphc_originals = [f"original{i}" for i in range(len(made))]
            given = list(made)
        else:
            self._graphc_originals, given = ["original"], [made]
        for i, (name, value) in enumerate(zip(self._graphc_originals, given, strict=True)):
            vars(self)[name] = _original(held, value, first, i)
        vars(self)["0"] = first
        self._graphc_count = 1

    def append(self, parametrization: Module) -> None:
        """One more after the others."""
        vars(self)[str(self._graphc_count)] = parametrization
        self._graphc_count += 1

    def forward(self) -> Value:
        """The tensor itself."""
        value = vars(self)["0"](*(vars(self)[name] for name in self._graphc_originals))
        for i in range(1, self._graphc_count):
            value = vars(self)[str(i)](value)
        computed: Value = value
        return computed


def register_parametrization(module: Module, tensor_name: str, parametrization: Module) -> Module:
    """From here on ``module.<tensor_name>`` is ``parametrization`` of a new parameter; the module.

    The parameter starts as the old one, or as ``parametrization.right_inverse`` of it (a Value to
    one or several), where it has that. Registering again appends: the later sees the earlier's
    result. Raises StateError where there is no such parameter, ShapeError where the type changes.

    >>> import graphc as gc
    >>> class Symmetric(gc.nn.Module):
    ...     def forward(self, x): return (x + x.T) / 2.0
    >>> layer = register_parametrization(gc.nn.Linear(3, 3), "weight", Symmetric())
    >>> list(layer.state_dict())
    ['bias', 'parametrizations.weight.original']
    """
    known: dict[str, ParametrizationList] = vars(module).get("parametrizations", {})
    if tensor_name in known:
        before = known[tensor_name]()
        _check_type(parametrization(before).type, before.type, tensor_name)
        known[tensor_name].append(parametrization)
    else:
        held = vars(module).get(tensor_name)
        if not isinstance(held, StateValue) or not held.cell.trainable:
            names = ", ".join(name for name, _ in module.named_parameters())
            raise StateError(
                f"register_parametrization: {module._own_name} has no parameter {tensor_name!r} of "
                f"its own; it has {names}",
                here(),
            )
        made = ParametrizationList(held, parametrization)
        _check_type(made().type, held.type, tensor_name)
        del vars(module)[tensor_name]
        vars(module).setdefault("parametrizations", {})[tensor_name] = made
        _make_property(module, tensor_name)
    return module


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a tensor of the module (or any) is computed."""
    known = vars(module).get("parametrizations", {})
    return bool(known) if tensor_name is None else tensor_name in known


def remove_parametrizations(
    module: Module, tensor_name: str, leave_parametrized: bool = True
) -> Module:
    """Make ``module.<tensor_name>`` a plain parameter again; the module.

    It holds what was computed, or without ``leave_parametrized`` the original.
    """
    known: dict[str, ParametrizationList] = vars(module).get("parametrizations", {})
    if tensor_name not in known:
        raise StateError(f"{module._own_name}: {tensor_name!r} is not parametrized", here())
    chain = known.pop(tensor_name)
    if not leave_parametrized and chain._graphc_originals != ["original"]:
        raise StateError(
            f"remove_parametrizations: {tensor_name!r} comes from several tensors; "
            "leave_parametrized=True keeps what they make",
            here(),
        )
    kept = chain() if leave_parametrized else vars(chain)["original"]
    if not known:
        del vars(module)["parametrizations"]
    vars(module)[tensor_name] = parameter(_now(kept), kept.dtype)
    return module


# ---- pieces


def _original(held: StateValue, made: Value, first: Module, place: int) -> StateValue:
    """A parameter that starts as ``made``, which depends on ``held``: drawn at first use."""
    if made is held:
        return held
    draw = functools.partial(_first_value, first, held, place)
    return parameter(made.shape, made.dtype, init=draw)


def _first_value(
    first: Any, held: StateValue, place: int, shape: tuple[int, ...], dtype: DType, key: Key
) -> NDArray[Any]:
    """The ``place``-th of what ``first.right_inverse`` makes of ``held``."""
    made = first.right_inverse(held)
    chosen = made[place] if isinstance(made, (tuple, list)) else made
    return _now(chosen).astype(dtype.numpy)


def _now(value: Value) -> NDArray[Any]:
    """What a value without inputs is now, in mode eval."""
    if isinstance(value, StateValue):
        return value.numpy()
    return np.array(interpret(close([value], (), mode="eval"), [])[0][0])


def _check_type(after: Any, before: Any, name: str) -> None:
    if after != before:
        raise ShapeError(
            f"register_parametrization: {name!r} is {before}, its parametrization makes {after}; "
            "it must keep shape and element type",
            here(),
        )


def _make_property(module: Module, name: str) -> None:
    """Give the module a class of its own name in which ``name`` is computed."""
    kind = type(module)

    def get(self: Module) -> Value:
        held = vars(self).get(name)
        if held is not None:  # plain again
            return held  # type: ignore[no-any-return]
        computed: Value = vars(self)["parametrizations"][name]()
        return computed

    members = {"__module__": kind.__module__, name: property(get)}
    module.__class__ = type(kind.__name__, (kind,), members)
