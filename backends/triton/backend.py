"""The Triton backend: kernels to cubins, schedules to graphs on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from graphc.backend import Loaded, Plan
from graphc.backends.triton import driver as cuda
from graphc.backends.triton.array import is_device_array, take
from graphc.backends.triton.compiler import compile_kernels
from graphc.backends.triton.export import kernel_files, kernels_of_files
from graphc.backends.triton.inspection import Inspected
from graphc.backends.triton.jobs import jobs_of
from graphc.backends.triton.layout import ordered_operands
from graphc.backends.triton.program import Program
from graphc.backends.triton.scans import split_scans
from graphc.backends.triton.split import split_products
from graphc.backends.triton.static import StaticProgram
from graphc.backends.triton.toolchain import TARGETS, Target, triton_version
from graphc.errors import BackendError
from graphc.kernel.terms import Kernel
from graphc.memory import StateBuffer
from graphc.schedule import Schedule, place_buffers
from graphc.types import TensorType

__all__ = ["BACKEND", "TritonBackend", "device_target"]


class TritonBackend:
    """NVIDIA GPUs, with Triton as the compiler and the CUDA driver as the runtime."""

    name = "triton"
    reuses_arguments = True
    keeps_results = False
    blocks = 512

    def __init__(
        self, precision: str = "ieee", target: Target | None = None, tune: str | None = None
    ) -> None:
        """``target``: a GPU that need not be here; without one, the device of this machine."""
        exact = target is not None and target.kind == "hip"  # which every precision allows
        self.precision, self.target = "ieee" if exact else precision, target
        self.tune = tune

    def on_device(self, value: object) -> TensorType | None:
        """The type of an array on a CUDA device; see ``graphc.backend.Backend``."""
        return take(value, "an argument").type if is_device_array(value) else None

    def with_options(self, *, precision: str, tune: str | None) -> TritonBackend:
        """The same, for programs compiled so; see ``graphc.backend.Backend``."""
        if tune is not None and self.target is not None:
            raise BackendError(
                f"compile(target={self.target.name!r}, tune={tune!r}): tilings are measured on the "
                "device that runs them; leave tune out, the choice is then the cost model's"
            )
        return TritonBackend(precision, self.target, tune)

    def for_target(self, target: str) -> TritonBackend:
        """The backend that compiles for a GPU that need not be here."""
        if target not in TARGETS:
            raise BackendError(
                f"compile(target={target!r}): no such target; there are {', '.join(TARGETS)}"
            )
        return TritonBackend(self.precision, TARGETS[target])

    def unavailable(self) -> str | None:
        """Why this machine cannot run it, or None where it can."""
        if triton_version() is None:
            return "Triton is not installed: pip install 'graphc[gpu]' (Linux)"
        if self.target is not None:
            return None
        reason = cuda.unavailable()
        if reason is None:
            try:
                device_target(cuda.driver().capability)
            except BackendError as error:
                return error.message
        return reason

    def refine(self, kernel: Kernel, lasting: frozenset[str] = frozenset()) -> Sequence[Kernel]:
        """Operands that lie along the wrong axis are copied, long sums of few products are cut, and
        running states stored that their readers cannot run along; see ``graphc.backend.Backend``.
        """
        *scans, last = split_scans(kernel)
        *copies, last = ordered_operands(last, self.precision)
        return (*scans, *copies, *split_products(last, self.precision))

    def compile(
        self,
        schedule: Schedule,
        *,
        states: Mapping[str, StateBuffer],
        constants: Mapping[str, NDArray[Any]],
        plan: Plan | None = None,
        slow: Callable[..., Any] | None = None,
    ) -> Program | StaticProgram:
        """Compile the kernels and load the program; see ``graphc.backend.Backend``."""
        if schedule.of_kind("kept"):
            raise BackendError(f"{schedule.name}: programs of 'triton' keep no results")
        if self.target is not None:
            jobs = jobs_of(schedule, self.precision)
            made = compile_kernels(jobs.values(), self.target)
            why = "save(path) takes it to a machine that has one, target=None compiles for this one"
            if plan is not None and not schedule.sizes:
                schedule = place_buffers(schedule, plan(schedule))
            return StaticProgram(schedule, self.target, dict(zip(jobs, made, strict=True)), why)
        device = cuda.driver()
        return Program(
            schedule,
            states=states,
            constants=constants,
            driver=device,
            target=device_target(device.capability),
            plan=plan,
            slow=slow,
            precision=self.precision,
            tune=self.tune,
        )

    # -- exports
    def export(self, loaded: Loaded) -> dict[str, bytes]:
        """The files of a program's machine code; see ``graphc.backend.Exporting``."""
        assert isinstance(loaded, Inspected)
        return kernel_files(loaded.schedule, loaded.target, loaded.kernels)

    def restore(
        self,
        schedule: Schedule,
        files: Mapping[str, bytes],
        *,
        states: Mapping[str, StateBuffer],
        constants: Mapping[str, NDArray[Any]],
        plan: Plan | None = None,
    ) -> Program | StaticProgram:
        """The program of an export: it runs where the device has its target."""
        assert self.target is not None
        kernels = kernels_of_files(schedule, self.target, files)
        why = cuda.unavailable()
        if why is None:
            device = cuda.driver()
            if device_target(device.capability) == self.target:
                return Program(
                    schedule, states=states, constants=constants, driver=device,
                    target=self.target, plan=plan, kernels=kernels, taking=False,
                )  # fmt: skip
            why = f"the device has compute capability {device.capability / 10}"
        return StaticProgram(schedule, self.target, kernels, why)


def device_target(capability: int) -> Target:
    """The target whose code a device of this compute capability runs.

    >>> device_target(86).name, device_target(90).name
    ('sm_80', 'sm_90')
    """
    for number in (100, 90, 80):
        if capability // 10 == number // 10 and capability >= number:
            return TARGETS[f"sm_{number}"]
    raise BackendError(
        f"the device has compute capability {capability / 10}; kernels are made for 8.x, 9.x, 10.x"
    )


BACKEND = TritonBackend()
