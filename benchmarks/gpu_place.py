"""Where ``benchmarks.gpu`` measures: on a CUDA device, or rehearsed without one.

A rehearsal runs the same lines at small sizes on Triton's interpreter beside PyTorch on the CPU: it
shows that they do what they say. Its times mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from graphc.backends.triton import driver as cuda

__all__ = ["Place", "Rehearsal", "Timer"]

#: seconds of one of several repeated calls
Timer = Callable[[int], float]


class Place:
    """A CUDA device."""

    kind = "cuda"

    def size(self, whole: Any, small: Any) -> Any:
        """A size: ``small`` where each element costs an interpreter's time."""
        return whole

    @property
    def name(self) -> str:
        return str(cuda.driver().name)

    def ours(self, program: Any, repeats: int) -> float:
        """Seconds of one run of a program's graphs, its arguments where the last call had them."""
        binding, device = program._current, cuda.driver()
        device.synchronize()
        begin = device.record()
        for _ in range(repeats):
            binding.run(binding.steps)
        end = device.record()
        device.synchronize()
        return float(device.nanoseconds(begin, end) * 1e-9 / repeats)

    def events(self, call: Callable[[], Any]) -> Timer:
        """The device's own time of PyTorch's calls."""

        def timed(repeats: int) -> float:
            torch.cuda.synchronize()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(repeats):
                call()
            end.record()
            torch.cuda.synchronize()
            return float(begin.elapsed_time(end) * 1e-3 / repeats)

        return timed

    def waited(self, call: Callable[[], Any]) -> Timer:
        """The host's time of calls that wait for their results."""

        def timed(repeats: int) -> float:
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            return (time.perf_counter() - begin) / repeats

        return timed

    def compiled(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """What ``torch.compile`` makes of a call."""
        made: Callable[..., Any] = torch.compile(call)
        return made

    def replayed(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """A call as a CUDA graph."""
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        replay: Callable[[], Any] = graph.replay
        return replay

    def tensor(self, result: Any) -> torch.Tensor:
        """A result of ours, shared with PyTorch."""
        shared: torch.Tensor = torch.from_dlpack(result)
        return shared


class Rehearsal(Place):
    """No device: memory of the host, kernels in the interpreter."""

    kind, name = "cpu", "no device: a rehearsal"

    def size(self, whole: Any, small: Any) -> Any:
        return small

    def events(self, call: Callable[[], Any]) -> Timer:
        return self.waited(call)

    def compiled(self, call: Callable[..., Any]) -> Callable[..., Any]:
        return call

    def replayed(self, call: Callable[[], Any]) -> Callable[[], Any]:
        return call

    def tensor(self, result: Any) -> torch.Tensor:
        values = np.asarray(result)
        return torch.from_numpy(values if values.dtype.kind == "f" else values.astype(np.float32))
