"""Updates: which states an executable writes, and what; an immutable mapping with an algebra.

``a | b`` merges (dicts too); one state in both, with different values, is an error that names both
lines. An update sees the values at the start of the call, and all are written together after the
outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from graphc.errors import DTypeError, ShapeError, StateError
from graphc.graph import STATES, Value
from graphc.operators import call
from graphc.ops.lifting import broadcast_to, constant
from graphc.source import here
from graphc.types import SourceLoc

__all__ = ["Updates", "writes_parameters"]


class Updates(Mapping[Value, Value]):
    """State -> new value. ``trains`` tells that an optimizer made some of it.

    >>> import graphc as gc
    >>> h, c = gc.state((2,)), gc.state((2,))
    >>> both = Updates({h: h + 1}) | {c: c * 2}
    >>> len(both), h in both
    (2, True)
    """

    __slots__ = ("_lines", "_new", "trains")

    def __init__(self, new: Mapping[Any, object] | None = None, *, trains: bool = False) -> None:
        line = here()
        self.trains = trains
        self._new: dict[Value, Value] = {}
        self._lines: dict[Value, SourceLoc | None] = {}
        if not isinstance(new, Mapping | None):
            raise StateError(f"updates map states to values, as a dict does; got {new!r}", line)
        for state, value in (new or {}).items():
            checked = _checked_state(state, line)
            self._new[checked] = _checked_value(checked, value, line)
            self._lines[state] = new.line_of(state) if isinstance(new, Updates) else line

    def __getitem__(self, state: Value) -> Value:
        return self._new[state]

    def __iter__(self) -> Iterator[Value]:
        return iter(self._new)

    def __len__(self) -> int:
        return len(self._new)

    def line_of(self, state: Value) -> SourceLoc | None:
        """The user's line that asked for this update."""
        return self._lines[state]

    def __or__(self, other: Mapping[Value, object]) -> Updates:
        if not isinstance(other, Mapping):
            return NotImplemented
        theirs = other if isinstance(other, Updates) else Updates(other)
        for state in theirs:
            if state in self._new and self._new[state] is not theirs._new[state]:
                raise StateError(
                    f"{_label(state)} is updated twice, at {self._lines[state]} and at "
                    f"{theirs._lines[state]}; an update may write each state once: merge the two "
                    "values, or substitute the first into the second",
                    theirs._lines[state],
                )
        merged = Updates(trains=self.trains or theirs.trains)
        merged._new = {**self._new, **theirs._new}
        merged._lines = {**self._lines, **theirs._lines}
        return merged

    def __ror__(self, other: Mapping[Value, object]) -> Updates:
        return Updates(other) | self

    def only_if(self, pred: object) -> Updates:
        """The same updates where the scalar bool ``pred`` holds, otherwise no change."""
        if isinstance(pred, Value) and (pred.shape != () or pred.dtype.kind != "b"):
            raise ShapeError(
                f"only_if: expected a scalar bool, got {pred!r} of {pred.type}", here()
            )
        kept = Updates(trains=self.trains)
        kept._new = {s: call("where", pred, new, s) for s, new in self._new.items()}
        kept._lines = dict(self._lines)
        return kept

    def __repr__(self) -> str:
        return f"Updates({', '.join(_label(state) for state in self)})"


def writes_parameters(updates: Mapping[Value, object]) -> bool:
    """Whether a parameter is among the updated states."""
    return any(state.node.op == "parameter" for state in updates)


def _label(state: Value) -> str:
    return f"{state.node.op} {state.node.attrs['state'].name or '?'}"


def _checked_state(state: object, line: SourceLoc | None) -> Value:
    if not isinstance(state, Value):
        raise StateError(
            f"updates map states to values; {type(state).__name__} is no parameter or state", line
        )
    if state.node.op not in STATES:
        raise StateError(
            f"updates map states to values; {state!r} is computed: only what gc.parameter or "
            "gc.state made can be updated",
            line,
        )
    return state


def _checked_value(state: Value, value: Any, line: SourceLoc | None) -> Value:
    if isinstance(value, Value):
        new = value
    else:
        new = broadcast_to(constant(value, state.dtype), state.shape)
    if new.shape != state.shape:
        raise ShapeError(
            f"update of {_label(state)}: expected shape {state.shape}, got {new.shape}", line
        )
    if new.dtype != state.dtype:
        raise DTypeError(
            f"update of {_label(state)}: expected {state.dtype.name}, got {new.dtype.name}; "
            f"say .astype(gc.{state.dtype.name})",
            line,
        )
    return new
