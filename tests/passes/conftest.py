"""The tests of passes run with verification on, as ``GRAPHC_VERIFY=1`` turns it on anywhere: what
every pass makes keeps the rules of its level.
"""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_VERIFY", "1")
