"""Kernel -> machine code: choose a tiling, emit, generate code once per distinct kernel."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from graphc.backends.llvm.cache import Cache
from graphc.backends.llvm.codegen import assembly_of
from graphc.backends.llvm.emit import emit_kernel
from graphc.backends.llvm.loader import compile_cached
from graphc.backends.llvm.target import Target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.kernel.terms import Kernel
from graphc.kernel.text import print_kernel
from graphc.nest import Tiling
from graphc.types import Extent

__all__ = ["CompiledKernel", "compile_kernel", "kernel_key"]


@dataclass(frozen=True)
class CompiledKernel:
    """Machine code of a kernel.

    ``grid`` is the number of blocks (of the kernel's sizes where they are run-time), ``scratch_bytes`` what each
    worker must own for it.
    """

    kernel: Kernel
    tiling: Tiling
    target: Target
    symbol: str
    ir: str
    object_bytes: bytes
    grid: Extent
    scratch_bytes: Extent

    @property
    def assembly(self) -> str:
        """The target's assembly, to read."""
        return assembly_of(self.ir, self.target.machine)


def kernel_key(kernel: Kernel, tiling: Tiling, target: Target) -> str:
    """A name for what a kernel's machine code depends on; the kernel's own name is not part of it."""
    body = print_kernel(kernel).split("\n", 1)[1]
    text = f"{body}\n{tiling}\n{target.key}"
    return hashlib.blake2s(text.encode(), digest_size=10).hexdigest()


def compile_kernel(
    kernel: Kernel, target: Target, tiling: Tiling | None = None, cache: Cache | None = None
) -> CompiledKernel:
    """Compile one kernel, from the cache where it has it. KernelError where the tiling does not fit."""
    tiling = choose_tiling(kernel, target) if tiling is None else tiling
    symbol = f"k{kernel_key(kernel, tiling, target)}"
    emitted = emit_kernel(kernel, tiling, target, symbol)
    code = compile_cached(emitted.ir, target.machine, cache=cache)
    return CompiledKernel(
        kernel, tiling, target, symbol, emitted.ir, code, emitted.grid, emitted.scratch_bytes
    )
