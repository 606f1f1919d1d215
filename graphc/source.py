"""The user's line: the first frame outside graphc, and the scopes that say which line counts
instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType

from graphc.types import SourceLoc

__all__ = ["here", "pin", "pinned"]

_pinned: ContextVar[SourceLoc | None] = ContextVar("graphc_source", default=None)
_cache: dict[tuple[CodeType, int], SourceLoc] = {}


def here() -> SourceLoc | None:
    """The line that called into graphc, or the pinned one (a derivative belongs to its forward
    line); None for what graphc makes of itself when it is imported.
    """
    pinned_line = _pinned.get()
    if pinned_line is not None:
        return pinned_line
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == "importlib._bootstrap":  # `import graphc` itself: its own generator
            return None
        if not (module.startswith("graphc.") or module == "graphc"):
            return _location(frame.f_code, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


@contextmanager
def pinned(source: SourceLoc | None) -> Iterator[None]:
    """Nodes made inside come from ``source``."""
    token = _pinned.set(source)
    try:
        yield
    finally:
        _pinned.reset(token)


def pin(source: SourceLoc | None) -> None:
    """Within ``pinned``: nodes made from now on come from ``source``."""
    _pinned.set(source)


def _location(code: CodeType, line: int) -> SourceLoc:
    found = _cache.get((code, line))
    if found is None:
        file = code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
        function = getattr(code, "co_qualname", code.co_name).replace("<locals>.", "")
        found = SourceLoc(file, line, "" if function == "<module>" else function)
        _cache[code, line] = found
    return found
