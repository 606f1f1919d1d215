"""The LLVM backend: kernels to machine code, schedules to programs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from graphc.backend import Plan
from graphc.backends.llvm.emit import emit_kernel
from graphc.backends.llvm.loader import compile_cached
from graphc.backends.llvm.native import native
from graphc.backends.llvm.runtime import CompiledKernel, Program
from graphc.backends.llvm.target import Target, host_target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.errors import BackendError
from graphc.kernel.terms import Kernel
from graphc.kernel.text import print_kernel
from graphc.memory import StateBuffer
from graphc.nest import Tiling
from graphc.schedule import Schedule

__all__ = ["BACKEND", "LlvmBackend", "compile_kernel"]


def compile_kernel(
    kernel: Kernel, target: Target | None = None, tiling: Tiling | None = None
) -> CompiledKernel:
    """Machine code of one kernel, from the cache where it has it; by default for this machine."""
    target = target or host_target()
    tiling = tiling or choose_tiling(kernel, target)
    emitted = emit_kernel(kernel, tiling, target, _symbol(kernel))
    data = compile_cached(emitted.ir, target.machine)
    return CompiledKernel(
        emitted.symbol, data, emitted.grid, emitted.scratch_bytes, emitted.ir, target.machine
    )


def _symbol(kernel: Kernel) -> str:
    """From the meaning, not the name: kernels that differ only in name share their machine code."""
    meaning = print_kernel(kernel).split("\n", 1)[1]
    return f"kernel_{hashlib.blake2b(meaning.encode(), digest_size=10).hexdigest()}"


class LlvmBackend:
    """CPUs, by llvmlite."""

    name = "llvm"

    def unavailable(self) -> str | None:
        """Why this machine cannot run it, or None where it can."""
        try:
            native()
        except BackendError as error:
            return error.message
        return None

    def compile(
        self,
        schedule: Schedule,
        *,
        states: Mapping[str, StateBuffer],
        constants: Mapping[str, NDArray[Any]],
        plan: Plan | None = None,
        slow: Callable[..., Any] | None = None,
    ) -> Program:
        """Compile the kernels and load the program; see ``graphc.backend.Backend``."""
        kernels = {kernel.name: compile_kernel(kernel) for kernel in schedule.kernels}
        return Program(schedule, kernels, states=states, constants=constants, plan=plan, slow=slow)


BACKEND = LlvmBackend()
