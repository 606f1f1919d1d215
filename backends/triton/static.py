"""Programs for a GPU that is not here: compiled, read, exported; never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from numpy.typing import NDArray

from graphc.backends.triton.compiler import CompiledKernel
from graphc.backends.triton.control import described
from graphc.backends.triton.inspection import Inspected
from graphc.backends.triton.jobs import Key
from graphc.backends.triton.toolchain import Target
from graphc.errors import BackendError
from graphc.schedule import Schedule

__all__ = ["StaticProgram"]


class StaticProgram(Inspected):
    """A schedule's kernels, compiled for ``target``; whatever would run them is a BackendError."""

    def __init__(
        self, schedule: Schedule, target: Target, kernels: Mapping[Key, CompiledKernel], why: str
    ) -> None:
        """``why`` says why it cannot run here."""
        self.schedule, self.target, self.kernels = schedule, target, kernels
        self._why = why

    @property
    def arena_bytes(self) -> int:
        """Bytes that intermediate results take, 0 where that depends on run-time sizes."""
        return 0 if self.schedule.sizes else self.schedule.arena_bytes

    @property
    def control(self) -> tuple[str, ...]:
        """How loops and branches will run, a line each."""
        return described(self.schedule)

    def call(self, *args: object, **by_name: object) -> Any:
        self._refuse()

    def call_into(self, args: Sequence[object], outputs: Sequence[NDArray[Any]]) -> None:
        self._refuse()

    def rebind(self, sizes: Mapping[str, int]) -> None:
        self._refuse()

    def profile(self, *args: object) -> tuple[Any, Sequence[Any]]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BackendError(
            f"{self.schedule.name} is compiled for {self.target.name} and cannot run here: "
            f"{self._why}; it can be looked at (.source, .asm, .resources)"
        )
