"""Whether it is worth asking for a GPU: cheap, and nothing heavy is imported."""

from __future__ import annotations

import ctypes
import importlib.util

__all__ = ["present"]


def present() -> bool:
    """Whether Triton and a CUDA driver are installed; there may still be no device."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
