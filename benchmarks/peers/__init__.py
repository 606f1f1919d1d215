"""One module a peer. Each offers ``versions() -> dict`` and ``BUILDERS``: kind -> builder.

``builder(inputs, threads)`` returns a ``Call``; a kind that a peer has no builder for is printed as
missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PEERS", "Builder", "Call", "Peer"]


@dataclass(frozen=True)
class Call:
    """``run`` is what is timed, and waits until its result is there; ``result`` is what is checked.

    ``result()`` is called once, before any timing: an array that must equal the reference.
    ``reset()`` is called before each block: a training begins again as ``result`` found it. Else it
    would go on on one batch until gradients vanish, and moments of units that died are denormal
    numbers, which some peers compute with, slowly, and some flush to zero.
    """

    run: Callable[[], Any]
    result: Callable[[], NDArray[Any]]
    reset: Callable[[], Any] = lambda: None


Builder = Callable[[dict[str, NDArray[Any]], int], Call]


@dataclass(frozen=True)
class Peer:
    """How a peer is started. ``keep_memory``: glibc is told not to give freed memory back."""

    name: str
    module: str
    keep_memory: bool = False
    mode: str = ""

    def environment(self, threads: int) -> dict[str, str]:
        count = str(threads)
        names = ("OMP", "MKL", "OPENBLAS", "GRAPHC")
        chosen = {f"{n}_{'THREADS' if n == 'GRAPHC' else 'NUM_THREADS'}": count for n in names}
        chosen["JAX_PLATFORMS"] = "cpu"
        chosen["BENCHMARK_MODE"] = self.mode
        if self.keep_memory:
            chosen |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
        return chosen


PEERS: dict[str, Peer] = {
    p.name: p
    for p in (
        Peer("graphc", "graphc_peer"),
        Peer("torch", "torch_peer"),
        Peer("torch+m", "torch_peer", keep_memory=True),
        Peer("torch.compile", "torch_peer", mode="compile"),
        Peer("torch.compile+m", "torch_peer", keep_memory=True, mode="compile"),
        Peer("jax", "jax_peer"),
        Peer("jax+m", "jax_peer", keep_memory=True),
        Peer("onnxruntime", "onnxruntime_peer"),
        Peer("onnxruntime+m", "onnxruntime_peer", keep_memory=True),
        Peer("numpy", "numpy_peer"),
        Peer("fma-peak", "fma_peak"),
    )
}


def last_result(run: Callable[[], Any]) -> Callable[[], NDArray[Any]]:
    """For calls without state: what is checked is what a timed call returns."""
    return lambda: np.asarray(run())
