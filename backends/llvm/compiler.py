"""Kernel -> machine code: choose a tiling, emit, generate code once per distinct kernel."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace
from pathlib import Path

from graphc import types
from graphc.backends.cache import Cache, default_cache
from graphc.backends.llvm import codegen, windows
from graphc.backends.llvm.frame import grid_blocks, scratch_bytes
from graphc.backends.llvm.runtime import CompiledKernel
from graphc.backends.llvm.target import Target, host_target
from graphc.kernel.terms import Kernel
from graphc.kernel.text import print_kernel
from graphc.nest import Tiling, build_nest

__all__ = ["compile_kernel", "kernel_key"]

#: code generation's effort
_LEVEL = 2
#: rooms whose code decides what a kernel becomes
_EMITTERS = ("nest/*.py", "kernel/*.py", "backends/llvm/*.py", "backends/llvm/vecmath/*.py")


@functools.cache
def emitter_version() -> str:
    """A digest of the code that makes machine code, so that a changed emitter never meets old
    objects.
    """
    root = Path(types.__file__).parent
    digest = hashlib.blake2s(codegen.llvm_version.encode(), digest_size=10)
    for pattern in _EMITTERS:
        for path in sorted(root.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def kernel_key(kernel: Kernel, tiling: Tiling, target: Target) -> str:
    """A name for all that a kernel's machine code depends on; the kernel's own name is not part of
    it.
    """
    body = print_kernel(kernel).split("\n", 1)[1]
    text = f"{body}\n{tiling}\n{target.key}\n{emitter_version()}"
    return hashlib.blake2s(text.encode(), digest_size=16).hexdigest()


def compile_kernel(
    kernel: Kernel,
    target: Target | None = None,
    tiling: Tiling | None = None,
    cache: Cache | None = None,
    *,
    stream: bool = True,
) -> CompiledKernel:
    """Compile one kernel, from the cache where it has it; by default for this machine. ``stream``
    allows stores past the caches, which need results that start at a cache line.

    KernelError where the tiling does not fit the kernel.
    """
    target = target or host_target()
    tiling = windows.choose(kernel, target) if tiling is None else tiling
    if not stream:
        tiling = replace(tiling, stream=frozenset())
    key = kernel_key(kernel, tiling, target)
    symbol = f"kernel_{key}"
    nest = build_nest(kernel, tiling)

    def text() -> str:
        from graphc.backends.llvm.emit import emit_nest  # a warm cache needs no emitter

        return emit_nest(nest, target, symbol)

    code = (cache or default_cache()).get(
        key, lambda: codegen.object_of(text(), target.machine, level=_LEVEL)
    )
    return CompiledKernel(
        symbol, code, grid_blocks(nest), scratch_bytes(nest, target), text, target.machine
    )
