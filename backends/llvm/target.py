"""What a machine offers to code: vector width, registers, caches. The emitter and the tiler read nothing else."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import llvmlite.binding as llvm

from graphc.errors import BackendError

__all__ = ["Target", "host_target", "named_target"]


@dataclass(frozen=True)
class Target:
    """A machine to make code for. Sizes are bytes; ``vector_bits`` is the width of a SIMD register.

    >>> named_target("avx2").lanes
    8
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bits: int
    vector_registers: int
    has_fma: bool
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 512 * 1024

    @property
    def lanes(self) -> int:
        """32-bit lanes of one vector register."""
        return self.vector_bits // 32

    @property
    def key(self) -> str:
        """Everything of it that machine code depends on."""
        return f"{self.triple} {self.cpu} {self.features} {self.vector_bits}"


_X86 = "x86_64-unknown-linux-gnu"
_NAMED = {
    "sse": Target("sse", _X86, "x86-64-v2", "", 128, 16, has_fma=False),
    "avx2": Target("avx2", _X86, "x86-64-v3", "", 256, 16, has_fma=True),
    "avx512": Target("avx512", _X86, "x86-64-v4", "", 512, 32, has_fma=True, l2_bytes=1 << 20),
    "aarch64": Target("aarch64", "aarch64-unknown-linux-gnu", "generic", "+neon", 128, 32, has_fma=True),
}


def named_target(name: str) -> Target:
    """A generic target: ``sse`` (x86-64-v2), ``avx2`` (v3), ``avx512`` (v4), ``aarch64``; BackendError for others."""
    if name not in _NAMED:
        raise BackendError(f"no CPU target {name!r}; one of {', '.join(_NAMED)}")
    return _NAMED[name]


@functools.cache
def host_target() -> Target:
    """The machine this process runs on. BackendError where it is not one that graphc supports."""
    triple = llvm.get_process_triple()
    features = llvm.get_host_cpu_features()
    cpu, flags = llvm.get_host_cpu_name(), features.flatten()
    if triple.startswith("aarch64"):
        return Target(cpu, triple, cpu, flags, 128, 32, has_fma=True)
    if not triple.startswith("x86_64") or not features.get("sse4.1"):
        raise BackendError(f"graphc needs x86-64 with SSE4.1 or aarch64; this machine is {triple} {cpu}")
    if features.get("avx512f") and features.get("avx512dq") and features.get("avx512vl"):
        return Target(cpu, triple, cpu, flags, 512, 32, has_fma=True, l2_bytes=1 << 20)
    if features.get("avx2") and features.get("fma"):
        return Target(cpu, triple, cpu, flags, 256, 16, has_fma=True)
    return Target(cpu, triple, cpu, flags, 128, 16, has_fma=False)
