"""The LLVM backend: kernels to machine code, schedules to programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from graphc.backend import Plan
from graphc.backends.llvm import windows
from graphc.backends.llvm.compiler import compile_kernel
from graphc.backends.llvm.native import native
from graphc.backends.llvm.pack import pack_operands
from graphc.backends.llvm.routines import compile_routine
from graphc.backends.llvm.runtime import Program
from graphc.backends.llvm.split import split_sums
from graphc.backends.llvm.target import host_target
from graphc.errors import BackendError
from graphc.kernel.terms import Kernel
from graphc.memory import StateBuffer
from graphc.nest import Nest, build_nest
from graphc.schedule import Launch, Schedule, place_buffers, walk
from graphc.schedule_verify import verify_in_place, verifying
from graphc.types import TensorType

__all__ = ["BACKEND", "LlvmBackend"]


class LlvmBackend:
    """CPUs, by llvmlite."""

    name = "llvm"
    blocks = 8
    reuses_arguments = True
    keeps_results = True

    def unavailable(self) -> str | None:
        """Why this machine cannot run it, or None where it can."""
        try:
            native()
        except BackendError as error:
            return error.message
        return None

    def on_device(self, value: object) -> TensorType | None:
        """Arrays of the host are bound one by one."""
        return None

    def with_options(self, *, precision: str, tune: str | None) -> LlvmBackend:
        """Products are exact here, which every precision allows, and nothing is measured."""
        return self

    def for_target(self, target: str) -> LlvmBackend:
        """There is one target, the machine at hand."""
        raise BackendError(
            f"compile(target={target!r}): backend 'llvm' compiles for the machine it runs on; "
            "targets are GPUs, of backend 'triton'"
        )

    def refine(self, kernel: Kernel, lasting: frozenset[str] = frozenset()) -> Sequence[Kernel]:
        """Long sums are cut into parts, and operands of contractions that are read badly are
        copied first; see ``graphc.backend.Backend``.
        """
        target = host_target()
        parts = split_sums(kernel, target)
        return [made for part in parts for made in pack_operands(part, target, lasting)]

    def compile(
        self,
        schedule: Schedule,
        *,
        states: Mapping[str, StateBuffer],
        constants: Mapping[str, NDArray[Any]],
        plan: Plan | None = None,
        slow: Callable[..., Any] | None = None,
    ) -> Program:
        """Compile kernels and routines and load the program; see ``graphc.backend.Backend``."""
        unaligned = _writing_to_arguments(schedule)
        kernels = {
            k.name: compile_kernel(k, stream=k.name not in unaligned) for k in schedule.kernels
        }
        kernels |= {routine.name: compile_routine(routine) for routine in schedule.routines}
        if plan is not None and verifying():
            plan = _verified(plan)
        return Program(schedule, kernels, states=states, constants=constants, plan=plan, slow=slow)


def _verified(plan: Plan) -> Plan:
    """The plan, compared with the loops that run under it."""

    def verified(schedule: Schedule) -> Mapping[str, int]:
        offsets = plan(schedule)
        verify_in_place(place_buffers(schedule, offsets), _nest)
        return offsets

    return verified


def _nest(kernel: Kernel) -> Nest:
    return build_nest(kernel, windows.choose(kernel, host_target()))


def _writing_to_arguments(schedule: Schedule) -> set[str]:
    """Kernels that write where an argument lies, which starts wherever its caller put it."""
    launches = (s for s in walk(schedule.body) if isinstance(s, Launch))
    return {s.kernel for s in launches if any(schedule.buffer[n].place for n in s.outputs)}


BACKEND = LlvmBackend()
