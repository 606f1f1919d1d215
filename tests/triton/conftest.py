"""Without Triton nothing here runs; with it, a device made of host memory and the interpreter."""

from __future__ import annotations

import pytest


@pytest.fixture
def device(monkeypatch, tmp_path):
    """The triton backend on a driver that records and interprets."""
    from graphc.backends.triton import driver as cuda
    from graphc.backends.triton import program, tuning
    from tests.triton.host_driver import HostDriver, emitted_only

    host = HostDriver(tmp_path)
    monkeypatch.setattr(cuda, "driver", lambda: host)
    monkeypatch.setattr(cuda, "unavailable", lambda: None)
    monkeypatch.setattr(program, "compile_kernels", emitted_only)
    monkeypatch.setattr(tuning, "compile_kernels", emitted_only)
    return host
