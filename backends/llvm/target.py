"""What a machine offers to code: vector width, registers, caches. The emitter and the tiler read
nothing else.
"""

from __future__ import annotations

import functools

from graphc.backends.llvm import codegen
from graphc.backends.llvm.codegen import Machine
from graphc.errors import BackendError
from graphc.kernel.terms import Kernel
from graphc.records import dataclass

__all__ = ["LINE", "Target", "host_target", "named_target", "vector_lanes"]

#: bytes of a cache line
LINE = 64


@dataclass(frozen=True)
class Target:
    """A machine to make code for. Sizes are bytes; ``vector_bits`` is the width of a SIMD register.

    >>> named_target("avx2").lanes
    8
    """

    name: str
    machine: Machine
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
    def accumulators(self) -> int:
        """Vectors of sums that fit beside a product's operands.

        x86 broadcasts an operand from memory, ARM from a register.
        """
        if self.machine.architecture == "aarch64":
            return 16
        return 24 if self.vector_registers > 16 else 12 if self.has_fma else 8

    @property
    def key(self) -> str:
        """Everything of it that machine code depends on."""
        return f"{self.machine} {self.vector_bits} {self.vector_registers} {self.has_fma}"


_X86 = "x86_64-unknown-linux-gnu"
_ARM = "aarch64-unknown-linux-gnu"
_NAMED = {
    "sse": Target("sse", Machine(_X86, "x86-64-v2"), 128, 16, has_fma=False),
    "avx2": Target("avx2", Machine(_X86, "x86-64-v3"), 256, 16, has_fma=True),
    "avx512": Target("avx512", Machine(_X86, "x86-64-v4"), 512, 32, has_fma=True, l2_bytes=1 << 20),
    "aarch64": Target("aarch64", Machine(_ARM, "generic", "+neon"), 128, 32, has_fma=True),
}


def named_target(name: str) -> Target:
    """A generic target: ``sse`` (x86-64-v2), ``avx2`` (v3), ``avx512`` (v4), ``aarch64``;
    BackendError for others.
    """
    if name not in _NAMED:
        raise BackendError(f"no CPU target {name!r}; one of {', '.join(_NAMED)}")
    return _NAMED[name]


@functools.cache
def host_target() -> Target:
    """The machine this process runs on. BackendError where it is not one that graphc supports."""
    machine = codegen.host()
    has = set(machine.features.split(","))
    if machine.architecture == "aarch64":
        return Target(machine.cpu, machine, 128, 32, has_fma=True)
    if machine.architecture != "x86_64" or "+sse4.1" not in has:
        raise BackendError(
            "graphc needs x86-64 with SSE4.1 or aarch64; "
            f"this machine is {machine.triple} {machine.cpu}"
        )
    if {"+avx512f", "+avx512dq", "+avx512vl"} <= has:
        return Target(machine.cpu, machine, 512, 32, has_fma=True, l2_bytes=1 << 20)
    if {"+avx2", "+fma"} <= has:
        return Target(machine.cpu, machine, 256, 16, has_fma=True)
    return Target(machine.cpu, machine, 128, 16, has_fma=False)


def vector_lanes(kernel: Kernel, target: Target) -> int:
    """Lanes of a vector: as many as the widest float of the kernel fills a register with (at least
    two).
    """
    widest = max(
        (t.type.dtype.itemsize for t in kernel.tensors.values() if t.type.dtype.is_float), default=4
    )
    return max(2, target.vector_bits // (8 * max(widest, 4)))
