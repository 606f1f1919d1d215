"""Which arrays a call may take the memory of, and which were taken.

A donated array is as the program wants it, writable, and shares its memory with no other argument.
After the call its contents are nobody's: passing it again as a donated argument is an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.bind import Parameter
from graphc.errors import BindError
from graphc.types import TensorType

__all__ = ["give_away", "takable"]

#: arrays that calls took the memory of, by identity, as long as somebody holds them
_given_away: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def takable(
    who: str,
    values: Sequence[Any],
    parameters: Sequence[Parameter],
    donated: Sequence[int],
    on_device: Callable[[object], TensorType | None] = lambda value: None,
) -> list[Any]:
    """The donated arrays among a call's arguments; BindError where one cannot be taken.

    Lists and numbers are converted, so there is nothing of theirs to take. Arrays on the backend's
    device, which ``on_device`` tells, are dense and writable; where they lie the program sees.
    """
    found: list[Any] = []
    for place in donated:
        array, parameter = values[place], parameters[place]
        pairs = zip(parameters, values, strict=True)
        others = [(other.name, value) for other, value in pairs if other is not parameter]
        if isinstance(array, np.ndarray):
            reason = _unfit(array, parameter.type) or _shared(array, others)
        elif on_device(array) is not None:
            reason = _gone(array) or _same(array, others)
        else:
            continue
        if reason is not None:
            raise BindError(f"{who}: {parameter.name!r} {reason}", parameter.source)
        found.append(array)
    return found


def give_away(arrays: Iterable[Any]) -> None:
    """Remember that a call took these arrays."""
    _given_away.update((id(array), array) for array in arrays)


def _shared(array: NDArray[Any], others: Iterable[tuple[str, Any]]) -> str | None:
    """Why another argument forbids to take an array."""
    for name, other in others:
        if isinstance(other, np.ndarray) and np.may_share_memory(array, other):
            return f"is donated, and {name!r} lies in its memory: pass a copy of either"
    return None


def _same(array: object, others: Iterable[tuple[str, Any]]) -> str | None:
    for name, other in others:
        if other is array:
            return f"is donated, and {name!r} is the same array: pass a copy of either"
    return None


def _gone(array: object) -> str | None:
    """Whether an earlier call took it, in words."""
    if _given_away.get(id(array)) is not array:
        return None
    return (
        "was donated to an earlier call, so its memory may hold anything: pass what that call "
        "returned, or leave it out of donate="
    )


def _unfit(array: NDArray[Any], wanted: TensorType) -> str | None:
    """Why an array cannot be donated."""
    gone = _gone(array)
    if gone is not None:
        return gone
    if not array.flags.writeable:
        return "is donated, and the array is read-only: pass a copy, or leave it out of donate="
    if array.dtype != wanted.dtype.numpy:
        return f"is donated, and {array.dtype} is no {wanted.dtype.numpy}: convert it"
    if not (array.flags.c_contiguous and array.flags.aligned and type(array) is np.ndarray):
        return (
            "is donated, and is no C-contiguous, aligned ndarray: pass np.ascontiguousarray of it"
        )
    return None
