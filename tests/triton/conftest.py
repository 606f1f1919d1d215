"""Without Triton nothing here runs; with it, a device made of host memory and the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def device(monkeypatch: Any, tmp_path: Path) -> Any:
    """The triton backend on a driver that records and interprets."""
    return host_device(monkeypatch, tmp_path)


def host_device(monkeypatch: Any, directory: Path) -> Any:
    """A ``HostDriver`` in the place of the process's device, until the test ends."""
    from graphc.backends.triton import driver as cuda
    from graphc.backends.triton import program, tuning
    from tests.triton.host_driver import HostDriver, emitted_only

    host = HostDriver(directory)
    monkeypatch.setattr(cuda, "driver", lambda: host)
    monkeypatch.setattr(cuda, "unavailable", lambda: None)
    monkeypatch.setattr(program, "compile_kernels", emitted_only)
    monkeypatch.setattr(tuning, "compile_kernels", emitted_only)
    return host
