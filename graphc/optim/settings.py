"""Numbers of an optimizer that may change from step to step: its rate, its momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.dsl import StateValue
from graphc.errors import StateError
from graphc.graph import Value
from graphc.ops.lifting import constant
from graphc.source import here
from graphc.types import DType

__all__ = ["Setting", "at_step", "checked", "numbers", "states", "used", "varies"]

#: a number, a function of the step (``optim.schedules``), or a scalar Value: a ``gc.state`` that is
#: set between calls, or an input of the call
Setting = float | Callable[[Value], Value] | Value


def varies(setting: Any) -> bool:
    """Whether it may change: it, or a part of a pair such as ``betas``."""
    return any(isinstance(part, Value) or callable(part) for part in _parts(setting))


def used(setting: Any) -> bool:
    """Whether it is anything but the number 0."""
    return varies(setting) or bool(setting)


def numbers(setting: Any) -> list[float]:
    """The parts that do not change."""
    return [part for part in _parts(setting) if not varies(part)]


def states(setting: Any) -> list[StateValue]:
    """The parts that are states."""
    return [part for part in _parts(setting) if isinstance(part, StateValue)]


def checked(name: str, setting: Any) -> Any:
    """It, if its Values are scalars."""
    for part in _parts(setting):
        if isinstance(part, Value) and part.shape != ():
            raise StateError(f"{name}: expected a scalar, got {part.type}", here())
    return setting


def at_step(name: str, setting: Any, step: Value, dtype: DType) -> Any:
    """What it is after ``step`` steps, in ``dtype``; numbers remain numbers."""
    if isinstance(setting, (tuple, list)):
        return tuple(at_step(name, part, step, dtype) for part in setting)
    if not varies(setting):
        return setting
    value = setting if isinstance(setting, Value) else constant(setting(step))
    return checked(name, value).astype(dtype)


def _parts(setting: Any) -> tuple[Any, ...]:
    return tuple(setting) if isinstance(setting, (tuple, list)) else (setting,)
