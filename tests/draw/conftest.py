"""Golden texts of pictures, and how to do without Graphviz."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from graphc.drawing import dot

GOLDENS = Path(__file__).parent / "goldens"
Golden = Callable[[str, str], None]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a DOT text with the kept one, but for tooltips, which name lines of programs."""

    def check(name: str, text: str) -> None:
        text = re.sub(r' tooltip="(?:[^"\\]|\\.)*"', "", text)
        path = GOLDENS / f"{name}.dot"
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden {path.name}: run pytest tests/draw --update-golden"
        assert text == path.read_text(encoding="utf-8"), (
            f"{name} draws differently; look at it, then run pytest tests/draw --update-golden"
        )

    return check


@pytest.fixture
def no_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without Graphviz."""
    monkeypatch.setattr(dot.shutil, "which", lambda program: None)


needs_dot = pytest.mark.skipif(not dot.has_dot(), reason="needs Graphviz's dot")
