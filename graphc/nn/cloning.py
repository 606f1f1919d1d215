"""Copies of a module with parameters of their own."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any

from graphc.dsl import StateValue, state_value_of
from graphc.nn.module import Module
from graphc.state import StateCell

__all__ = ["clone"]


def clone(module: Module) -> Module:
    """A module built alike, whose parameters and buffers are its own, drawn anew.

    What was given as an array starts as that array again. What is tied inside stays tied, and what
    starts as a function of others (a ``functools.partial`` on them) starts as that of their copies.

    >>> from graphc import nn
    >>> first = nn.Linear(2, 2); second = clone(first)
    >>> bool((first.weight.numpy() == second.weight.numpy()).any())
    False
    """
    copied: Module = _copied(module, {})
    return copied


def _copied(held: Any, known: dict[int, Any]) -> Any:
    if id(held) in known:
        return known[id(held)]
    if isinstance(held, Module):
        made = copy.copy(held)
        known[id(held)] = made
        vars(made).update({name: _copied(v, known) for name, v in vars(held).items()})
        return made
    if isinstance(held, StateValue):
        known[id(held)] = state_value_of(_fresh(held.cell, known))
        return known[id(held)]
    if isinstance(held, functools.partial):
        arguments = [_copied(item, known) for item in held.args]
        return functools.partial(held.func, *arguments, **_copied(held.keywords, known))
    if isinstance(held, types.MethodType):
        return types.MethodType(held.__func__, _copied(held.__self__, known))
    if isinstance(held, (dict, list, tuple)):
        return _copied_container(held, known)
    return held


def _copied_container(held: Any, known: dict[int, Any]) -> Any:
    """One of the same class: an OrderedDict, a NamedTuple."""
    if isinstance(held, tuple):
        items = [_copied(item, known) for item in held]
        return type(held)(*items) if hasattr(held, "_fields") else type(held)(items)
    made = copy.copy(held)
    if isinstance(held, dict):
        made.update({key: _copied(item, known) for key, item in held.items()})
    else:
        made[:] = [_copied(item, known) for item in held]
    return made


def _fresh(cell: StateCell, known: dict[int, Any]) -> StateCell:
    return StateCell(
        cell.name.rpartition(".")[2],
        cell.type,
        _copied(cell.initial, known),
        trainable=cell.trainable,
        saved=cell.saved,
        batch_axes=cell.batch_axes,
        source=cell.source,
    )
