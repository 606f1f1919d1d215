"""Everything here needs a CUDA device and Triton; all of it is marked ``gpu``.

``pytest tests/gpu --rehearse`` runs it without one: on host memory and Triton's interpreter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.triton.conftest import host_device


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True)
def place(request: Any, monkeypatch: Any, tmp_path: Path) -> Any:
    """Where a test runs."""
    from tests.gpu.place import Place, Rehearsal

    if not request.config.getoption("rehearse"):
        return Place()
    host_device(monkeypatch, tmp_path)
    return Rehearsal()
