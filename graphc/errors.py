"""Every error a person can meet. Who, what was expected, what came, where in the user's file, what
to try.
"""

from __future__ import annotations

from graphc.types import SourceLoc

__all__ = [
    "BackendError",
    "BindError",
    "CacheError",
    "DTypeError",
    "GradError",
    "GraphcError",
    "KernelError",
    "ModeError",
    "OutOfMemoryError",
    "ParseError",
    "PromotionError",
    "RuntimeCheckError",
    "ScopeError",
    "ShapeError",
    "StateError",
    "VerifyError",
]


class GraphcError(Exception):
    """Base of all graphc errors.

    ``message`` says who, expected, got and what to try; ``source`` is the line of the user's file
    it comes from and is appended as ``defined at file:line in function``.
    """

    def __init__(self, message: str, source: SourceLoc | None = None) -> None:
        self.message = message
        self.source = source
        super().__init__(message if source is None else f"{message}\n  defined at {source}")


class ShapeError(GraphcError):
    """Shapes do not fit an operation or a call."""


class DTypeError(GraphcError):
    """An element type does not fit an operation or a call."""


class PromotionError(DTypeError):
    """Two element types would have to be joined by silently widening one."""


class ScopeError(GraphcError):
    """A value of a loop or branch body is used outside of it."""


class GradError(GraphcError):
    """A derivative that does not exist was asked for."""


class ModeError(GraphcError):
    """The graph depends on train/eval mode and none, or a contradictory one, was given."""


class StateError(GraphcError):
    """Updates of a state conflict, or a state cannot be used so."""


class BindError(GraphcError):
    """The arguments of a call do not bind to the declared inputs."""


class RuntimeCheckError(GraphcError):
    """A check inside the compiled program failed (an index out of range, say); no state was
    changed.
    """


class ParseError(GraphcError):
    """A text of a graph, kernel or schedule cannot be read; the message names line and column."""


class VerifyError(GraphcError):
    """A graph, kernel or schedule breaks a rule of its level."""


class KernelError(GraphcError):
    """A kernel cannot be built, tiled or emitted as asked."""


class BackendError(GraphcError):
    """A backend is missing, or the machine cannot run what was asked."""


class OutOfMemoryError(BackendError):
    """A device has too little memory for a program, or left for it; states are as they were."""


class CacheError(GraphcError):
    """A cached or saved file is corrupt, foreign or untrusted."""
