"""Kernel -> machine code: choose a tiling, emit, generate code once per distinct kernel."""

from __future__ import annotations

import hashlib

from graphc.backends.llvm.cache import Cache
from graphc.backends.llvm.emit import emit_kernel
from graphc.backends.llvm.loader import compile_cached
from graphc.backends.llvm.runtime import CompiledKernel
from graphc.backends.llvm.target import Target, host_target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.kernel.terms import Kernel
from graphc.kernel.text import print_kernel
from graphc.nest import Tiling

__all__ = ["compile_kernel", "kernel_key"]


def kernel_key(kernel: Kernel, tiling: Tiling, target: Target) -> str:
    """A name for all that a kernel's machine code depends on; the kernel's own name is not part of it."""
    body = print_kernel(kernel).split("\n", 1)[1]
    text = f"{body}\n{tiling}\n{target.key}"
    return hashlib.blake2s(text.encode(), digest_size=10).hexdigest()


def compile_kernel(
    kernel: Kernel,
    target: Target | None = None,
    tiling: Tiling | None = None,
    cache: Cache | None = None,
) -> CompiledKernel:
    """Compile one kernel, from the cache where it has it; by default for this machine.

    KernelError where the tiling does not fit the kernel.
    """
    target = target or host_target()
    tiling = choose_tiling(kernel, target) if tiling is None else tiling
    emitted = emit_kernel(kernel, tiling, target, f"kernel_{kernel_key(kernel, tiling, target)}")
    code = compile_cached(emitted.ir, target.machine, cache=cache)
    return CompiledKernel(
        emitted.symbol, code, emitted.grid, emitted.scratch_bytes, emitted.ir, target.machine
    )
