"""The only module that speaks to llvmlite, which has no types: text of LLVM IR in, machine code
out.

Only code generation runs, no mid-level passes: what comes here is already vectorized.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import llvmlite
import llvmlite.binding as llvm

from graphc.errors import BackendError
from graphc.records import dataclass

__all__ = [
    "Library",
    "Machine",
    "assembly_of",
    "host",
    "link",
    "llvm_version",
    "object_of",
    "verify_ir",
]

#: LLVM's and llvmlite's versions, part of every cache key
llvm_version = f"llvmlite {llvmlite.__version__} LLVM {'.'.join(map(str, llvm.llvm_version_info))}"


@dataclass(frozen=True)
class Machine:
    """What code is generated for: LLVM's triple, processor name and feature string
    (``+avx2,-avx512f``).
    """

    triple: str
    cpu: str
    features: str = ""

    @property
    def architecture(self) -> str:
        """``x86_64``, ``aarch64``..."""
        return self.triple.split("-", 1)[0]


@functools.cache
def host() -> Machine:
    """The machine that this process runs on."""
    _initialize()
    features = llvm.get_host_cpu_features().flatten()
    return Machine(llvm.get_process_triple(), llvm.get_host_cpu_name(), features)


def object_of(ir: str, machine: Machine, *, level: int = 2) -> bytes:
    """Machine code of an IR text as an object file; ``level`` is code generation's 0 to 3."""
    target = _target_machine(machine, level)
    module = _parse(ir, machine, target)
    with _addresses_as_written():
        return bytes(target.emit_object(module))


def assembly_of(ir: str, machine: Machine, *, level: int = 2) -> str:
    """The same as assembly text, to read."""
    target = _target_machine(machine, level)
    module = _parse(ir, machine, target)
    with _addresses_as_written():
        return str(target.emit_assembly(module))


def verify_ir(ir: str, machine: Machine) -> None:
    """Raise a BackendError that shows LLVM's complaint where the text is not valid IR."""
    _parse(ir, machine, _target_machine(machine, 2)).verify()


@dataclass(frozen=True)
class Library:
    """Loaded machine code. ``addresses`` hold while this object lives."""

    addresses: Mapping[str, int]
    _tracker: object


def link(objects: Sequence[bytes], symbols: Sequence[str]) -> Library:
    """Load object files together and find symbols in them; what they call is found in this
    process.
    """
    builder = llvm.JITLibraryBuilder().add_current_process()
    for data in objects:
        builder.add_object_img(data)
    for symbol in symbols:
        builder.export_symbol(symbol)
    with _lock:
        try:
            tracker = builder.link(jit(), f"graphc{next(_serial)}")
        except RuntimeError as error:
            raise BackendError(f"machine code cannot be loaded: {error}") from error
    return Library({symbol: tracker[symbol] for symbol in symbols}, tracker)


@contextmanager
def _addresses_as_written() -> Iterator[None]:
    """Without LLVM's loop strength reduction: the emitter hoists addresses itself, and the pass
    takes half of the time of code generation. The switch is the process's, so it is turned back
    for others.
    """
    with _lock:
        llvm.set_option("graphc", "-disable-lsr=true")
        try:
            yield
        finally:
            llvm.set_option("graphc", "-disable-lsr=false")


_lock = threading.RLock()
_serial = itertools.count()


@functools.cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()


@functools.cache
def jit() -> llvm.LLJIT:
    return llvm.create_lljit_compiler(_target_machine(host(), 2))


@functools.cache
def _target_machine(machine: Machine, level: int) -> llvm.TargetMachine:
    _initialize()
    try:
        target = llvm.Target.from_triple(machine.triple)
    except RuntimeError as error:
        raise BackendError(f"LLVM has no target for {machine.triple!r}: {error}") from error
    return target.create_target_machine(
        cpu=machine.cpu,
        features=machine.features,
        opt=level,
        codemodel="jitdefault",
        reloc="default",
        jit=True,
    )


def _parse(ir: str, machine: Machine, target: llvm.TargetMachine) -> llvm.ModuleRef:
    head = f'target triple = "{machine.triple}"\ntarget datalayout = "{target.target_data}"\n'
    try:
        return llvm.parse_assembly(head + ir)
    except RuntimeError as error:
        raise BackendError(f"not valid LLVM IR: {error}") from error
