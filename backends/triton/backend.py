"""The Triton backend: kernels to cubins, schedules to graphs on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from graphc.backend import Plan
from graphc.backends.triton import driver as cuda
from graphc.backends.triton.array import is_device_array, take
from graphc.backends.triton.layout import ordered_operands
from graphc.backends.triton.program import Program
from graphc.backends.triton.split import split_products
from graphc.backends.triton.toolchain import TARGETS, Target, triton_version
from graphc.errors import BackendError
from graphc.kernel.terms import Kernel
from graphc.memory import StateBuffer
from graphc.schedule import Schedule
from graphc.types import TensorType

__all__ = ["BACKEND", "TritonBackend", "device_target"]


class TritonBackend:
    """NVIDIA GPUs, with Triton as the compiler and the CUDA driver as the runtime."""

    name = "triton"
    blocks = 512

    def __init__(self, precision: str = "ieee") -> None:
        self.precision = precision

    def on_device(self, value: object) -> TensorType | None:
        """The type of an array on a CUDA device; see ``graphc.backend.Backend``."""
        return take(value, "an argument").type if is_device_array(value) else None

    def with_precision(self, precision: str) -> TritonBackend:
        """The same, for programs whose f32 products may run so; see ``graphc.backend.Backend``."""
        return TritonBackend(precision)

    def unavailable(self) -> str | None:
        """Why this machine cannot run it, or None where it can."""
        if triton_version() is None:
            return "Triton is not installed: pip install 'graphc[gpu]' (Linux)"
        return cuda.unavailable()

    def refine(self, kernel: Kernel) -> Sequence[Kernel]:
        """Operands that lie along the wrong axis are copied, long sums of few products are cut; see
        ``graphc.backend.Backend``.
        """
        *copies, last = ordered_operands(kernel, self.precision)
        return (*copies, *split_products(last, self.precision))

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
        )


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
