"""Where the tests of this folder run: on a CUDA device, or rehearsed without one.

A rehearsal runs the same bodies on host memory and Triton's interpreter, at small sizes: it shows
that a test does what it says, not that a device does. Only ``Place`` speaks of a device; what the
two do differently is here and nowhere in the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import graphc as gc
from graphc.backends.triton import driver as cuda
from graphc.backends.triton.backend import device_target

__all__ = ["Foreign", "Place", "Rehearsal"]


class Foreign:
    """An array on the device as another library's: known by DLPack alone."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __dlpack__(self, **options: object) -> object:
        return self.inner.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.inner.__dlpack_device__()


class Place:
    """A CUDA device."""

    rehearsed = False

    def size(self, whole: Any, small: Any) -> Any:
        """A size of the test: ``small`` where each element costs an interpreter's time."""
        return whole

    @property
    def driver(self) -> Any:
        return cuda.driver()

    @property
    def target(self) -> str:
        """The name of the target whose code runs here."""
        return device_target(self.driver.capability).name

    def sent(self, values: Any) -> Foreign:
        """Values on the device, as another library's array."""
        x = gc.observed("x", values.shape, gc.types.dtype_of(values.dtype))
        return Foreign(gc.compile([x], x, backend="triton")(values))

    @contextmanager
    def little_memory(self) -> Iterator[None]:
        """Half a terabyte is too much in here, as it is on any device."""
        yield


class Rehearsal(Place):
    """No device: the driver made of host memory, kernels in the interpreter."""

    rehearsed = True

    def size(self, whole: Any, small: Any) -> Any:
        return small

    @contextmanager
    def little_memory(self) -> Iterator[None]:
        host = self.driver
        limit, host.limit = host.limit, 1 << 30
        yield
        host.limit = limit


def arrays_for(inputs: list[gc.Value], seed: int = 0) -> list[Any]:
    """Arguments for observed values: numbers around 0, labels below 10."""
    generator = np.random.default_rng(seed)
    return [
        generator.integers(0, 10, v.shape) if v.dtype.is_integer
        else generator.standard_normal(v.shape).astype(np.float32)
        for v in inputs
    ]  # fmt: skip
