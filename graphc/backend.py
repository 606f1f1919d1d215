"""What a backend is, and how one is found.

A backend lives in ``graphc.backends.NAME`` with a module ``backend`` that holds ``BACKEND``.
Nothing of it is imported before it is asked for. ``GRAPHC_BACKEND`` chooses one where the program
does not; else it is a GPU's where there is one that can be used, and the CPU's elsewhere. A backend
that wants to be chosen unasked says in a module ``presence`` whether it is worth asking.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

import graphc.backends
from graphc.errors import BackendError
from graphc.kernel.terms import Kernel
from graphc.memory import StateBuffer
from graphc.schedule import Schedule
from graphc.types import TensorType

__all__ = ["DEFAULT", "Backend", "Exporting", "Loaded", "Plan", "backend_names", "find_backend"]

DEFAULT = "llvm"
#: chosen unasked where it can run
PREFERRED = "triton"
#: what compiles for machines that need not be here
TARGETED = "triton"

#: arena offsets in bytes by buffer name, for a schedule whose sizes are bound
Plan = Callable[[Schedule], Mapping[str, int]]


class Loaded(Protocol):
    """A schedule that can be called."""

    #: positional arrays -> a fresh array, a tuple of them (two outputs or more), or None (no
    #: output)
    call: Callable[..., Any]

    @property
    def arena_bytes(self) -> int:
        """Bytes that intermediate results take."""

    @property
    def control(self) -> tuple[str, ...]:
        """How loops and branches run where that is not just what the schedule says, a line each."""

    def call_into(self, args: Sequence[object], outputs: Sequence[NDArray[Any]]) -> None:
        """Call with results written to given arrays."""

    def rebind(self, sizes: Mapping[str, int]) -> None:
        """Expect these sizes of the run-time dims (by name) from now on; calls do it by
        themselves.
        """

    def profile(self, *args: object) -> tuple[Any, Sequence[Any]]:
        """The result of a call, and when each launch ran where."""

    def source(self, kernel: str) -> str:
        """The text that a kernel was compiled from, in the backend's language."""

    @property
    def assembly_kinds(self) -> tuple[str, ...]:
        """What ``assembly`` can show."""

    def assembly(self, kernel: str, kind: str = "asm") -> str:
        """A kernel's machine code, to read, or another stage of it."""

    def resources(self, kernel: str) -> Mapping[str, int]:
        """What a kernel's machine code takes of the machine, where the backend can tell."""


@runtime_checkable
class Backend(Protocol):
    """A place where schedules run."""

    name: str
    #: blocks of work that keep it busy: fusion does not leave fewer
    blocks: int
    #: whether its programs take the memory of donated arguments
    reuses_arguments: bool
    #: whether its programs keep from call to call what follows from states that nothing wrote since
    keeps_results: bool

    def unavailable(self) -> str | None:
        """Why this machine cannot run it, or None where it can."""

    def on_device(self, value: object) -> TensorType | None:
        """The type of an array that lies on the backend's device already, None for others."""

    def with_options(self, *, precision: str, tune: str | None) -> Backend:
        """The backend for programs whose f32 contractions may be as imprecise as ``precision``, and
        whose kernels' tilings are measured (``tune``) where it can.
        """

    def for_target(self, target: str) -> Backend:
        """The backend for a machine that need not be this one; BackendError for unknown ones."""

    def refine(self, kernel: Kernel, lasting: frozenset[str] = frozenset()) -> Sequence[Kernel]:
        """What to run in place of a kernel: copies that it should read, and last the kernel that
        reads them. Copies of ``lasting`` tensors alone are made once for many calls.

        A copy's outputs are inputs, by name, of later ones.
        """

    def compile(
        self,
        schedule: Schedule,
        *,
        states: Mapping[str, StateBuffer],
        constants: Mapping[str, NDArray[Any]],
        plan: Plan | None = None,
        slow: Callable[..., Any] | None = None,
    ) -> Loaded:
        """Compile the kernels and load the program; routines have code of each backend's own, by
        the names in ``graphc.routines``.

        ``states`` and ``constants`` are by buffer name. ``plan`` places arena buffers where the
        schedule leaves that open. ``slow`` answers calls whose arguments do not match the sizes
        expected (else the program converts the arguments and binds new sizes itself).
        """


@runtime_checkable
class Exporting(Protocol):
    """A backend whose programs can be kept as files and read back."""

    def export(self, loaded: Loaded) -> Mapping[str, bytes]:
        """The machine code of a program and how it is launched, as files by name."""

    def restore(
        self,
        schedule: Schedule,
        files: Mapping[str, bytes],
        *,
        states: Mapping[str, StateBuffer],
        constants: Mapping[str, NDArray[Any]],
        plan: Plan | None = None,
    ) -> Loaded:
        """The program of such files. CacheError where they do not fit the schedule."""


def backend_names() -> tuple[str, ...]:
    """The names of the backends that are installed.

    >>> "llvm" in backend_names()
    True
    """
    packages = pkgutil.iter_modules(graphc.backends.__path__)
    return tuple(sorted(p.name for p in packages if p.ispkg))


def find_backend(
    name: str | None = None, target: str | None = None, *, compiles: bool = True
) -> Backend:
    """The backend of that name, else of ``GRAPHC_BACKEND``, else the best that this machine can
    run; BackendError if it cannot run here. With ``target``, a machine that need not be here, the
    one that knows targets; ``compiles=False`` asks for one that only reads what was compiled.

    >>> find_backend("llvm").name
    'llvm'
    """
    wanted = name or (TARGETED if target else os.environ.get("GRAPHC_BACKEND")) or _best()
    if wanted not in backend_names():
        raise BackendError(f"no backend {wanted!r}; there are: {', '.join(backend_names())}")
    backend = _backend(wanted)
    if target is not None:
        backend = backend.for_target(target)
        if not compiles:
            return backend
    reason = backend.unavailable()
    if reason is not None:
        raise BackendError(f"backend {wanted!r} cannot run here: {reason}")
    return backend


def _backend(name: str) -> Backend:
    backend: Backend = importlib.import_module(f"graphc.backends.{name}.backend").BACKEND
    return backend


def _best() -> str:
    """The preferred backend, if this machine can run it, else the default."""
    if PREFERRED in backend_names():
        presence = importlib.import_module(f"graphc.backends.{PREFERRED}.presence")
        if presence.present() and _backend(PREFERRED).unavailable() is None:
            return PREFERRED
    return DEFAULT
