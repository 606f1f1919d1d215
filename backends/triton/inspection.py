"""Looking at compiled kernels: their sources, machine code and resources, with no device."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.backends.triton.compiler import CompiledKernel
from graphc.backends.triton.jobs import Key
from graphc.backends.triton.toolchain import Target, disassemble, resources_of
from graphc.errors import BackendError
from graphc.schedule import Schedule

__all__ = ["Inspected"]


class Inspected:
    """What every program of compiled kernels can show; ``kernels`` by name, part and guard."""

    schedule: Schedule
    target: Target
    kernels: Mapping[Key, CompiledKernel]

    def source(self, kernel: str) -> str:
        """The Triton source that a kernel was compiled from."""
        return self._compiled(kernel).emitted.text

    @property
    def assembly_kinds(self) -> tuple[str, ...]:
        """What ``assembly`` can show."""
        return ("asm", "sass", "ptx", "ttgir") if self.target.kind == "cuda" else (
            "asm", "amdgcn", "ttgir"
        )  # fmt: skip

    def assembly(self, kernel: str, kind: str = "asm") -> str:
        """A kernel's machine code, to read, or the compiler's texts before it."""
        code = self._compiled(kernel).code
        if kind in ("asm", "sass") and self.target.kind == "cuda":
            return disassemble(code, ("-sass",))
        found = code.texts.get("amdgcn" if kind == "asm" else kind)
        if found is None:
            raise BackendError(f"kernel {kernel}: an export keeps no {kind}")
        return found

    def resources(self, kernel: str) -> Mapping[str, int]:
        """Registers of a thread, bytes of its stack, shared memory and threads of a block."""
        return resources_of(self._compiled(kernel).code, self.target)

    def _compiled(self, kernel: str) -> CompiledKernel:
        for (name, _, _), compiled in self.kernels.items():
            if name == kernel:
                return compiled
        raise BackendError(f"{self.schedule.name} has no kernel {kernel!r}")
