"""Kernel -> machine code for a target: prepare, choose a tiling, emit, compile once per content.

Code is kept in the package's cache (content-addressed, verified); several kernels compile in
parallel, identical ones once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import keyword
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from graphc import types
from graphc.backends.cache import Cache, default_cache, key_of
from graphc.backends.triton.candidates import relieved
from graphc.backends.triton.emit import Emitted, emit_kernel
from graphc.backends.triton.prepare import prepare
from graphc.backends.triton.tiling import GpuTiling, choose_tiling
from graphc.backends.triton.toolchain import (
    Code,
    Target,
    TooLargeError,
    compile_text,
    triton_version,
)
from graphc.errors import BackendError
from graphc.kernel.terms import Kernel
from graphc.records import dataclass

__all__ = ["CompiledKernel", "Job", "compile_kernel", "compile_kernels", "emit"]

#: the name of every kernel's function: equal kernels then have equal texts
_SYMBOL = "kernel"
#: what the cache's entries hold
_FORMAT = "code with spills"


@dataclass(frozen=True)
class Job:
    """A kernel to compile; a ``guarded`` one does nothing while a word is not zero."""

    kernel: Kernel
    guarded: bool = False
    precision: str = "ieee"
    tiling: GpuTiling | None = None


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel's text and machine code; ``emitted.grid`` may depend on the kernel's sizes."""

    name: str
    emitted: Emitted
    tiling: GpuTiling
    code: Code


def emit(job: Job) -> tuple[Emitted, GpuTiling]:
    """The Triton source of a job and the tiling it was made with.

    The function is called after the kernel, so that tools which list kernels name it.
    """
    kernel, tiling = job.kernel, job.tiling
    if tiling is None:
        kernel = prepare(kernel)
        tiling = choose_tiling(kernel, job.precision)
    symbol = job.kernel.name + ("_guarded" if job.guarded else "")
    symbol += "_kernel" if keyword.iskeyword(symbol) else ""
    emitted = emit_kernel(
        kernel, tiling, precision=job.precision, guarded=job.guarded, symbol=symbol
    )
    return emitted, tiling


@functools.cache
def _device_functions() -> str:
    """A digest of what generated sources import."""
    path = Path(types.__file__).parent / "backends" / "triton" / "device.py"
    return hashlib.blake2s(path.read_bytes()).hexdigest()


def compile_kernel(job: Job, target: Target, cache: Cache | None = None) -> CompiledKernel:
    """Compile one kernel, from the cache where it has it. BackendError where that fails."""
    emitted, tiling = emit(job)
    return _compiled(job, emitted, tiling, target, cache or default_cache())


def _compiled(
    job: Job, emitted: Emitted, tiling: GpuTiling, target: Target, cache: Cache
) -> CompiledKernel:
    """The kernel's code; with another tiling where it spills registers or needs more shared memory
    than the target has. Which one is found depends on nothing but the kernel and the target.
    """
    kernel = prepare(job.kernel) if job.tiling is None else job.kernel
    least: CompiledKernel | None = None
    too_large: TooLargeError | None = None
    while True:
        try:
            code = _code(job.kernel.name, emitted, tiling, target, cache)
        except TooLargeError as error:
            too_large, other = error, relieved(tiling, spills=False)
        else:
            made = CompiledKernel(job.kernel.name, emitted, tiling, code)
            if code.spilled == 0:
                return made
            if least is None or code.spilled < least.code.spilled:
                least = made
            other = relieved(tiling, spills=True)
        if other is None:
            break
        emitted, tiling = emit(replace(job, kernel=kernel, tiling=other))
    if least is not None:
        return least
    assert too_large is not None
    raise too_large


def _code(
    name: str, emitted: Emitted, tiling: GpuTiling, target: Target, cache: Cache
) -> Code:
    plain, kinds = _content(emitted)
    version = triton_version()
    if version is None:
        raise BackendError("the triton backend needs Triton: pip install 'graphc[gpu]' (Linux)")
    how = f"{_FORMAT} {tiling.warps} {tiling.stages}"
    key = key_of(plain, kinds, how, target.name, version, _device_functions())
    one = replace(emitted, text=plain, symbol=_SYMBOL)

    def make() -> bytes:
        path = _source_directory() / f"{name}_{key[:12]}.py"
        return _pack(
            compile_text(one, target, warps=tiling.warps, stages=tiling.stages, path=path)
        )

    return _unpack(cache.get(key, make))


@functools.cache
def _source_directory() -> Path:
    """Where generated sources lie: beside the cache, or a temporary place without one."""
    directory = default_cache().directory
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="graphc-triton-"))
    path = directory / "triton"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _pack(code: Code) -> bytes:
    head = {
        "symbol": code.symbol, "texts": code.texts, "warps": code.warps, "shared": code.shared,
        "spilled": code.spilled,
    }  # fmt: skip
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + code.binary


def _unpack(payload: bytes) -> Code:
    length = int.from_bytes(payload[:8], "little")
    head = json.loads(payload[8 : 8 + length])
    return Code(
        head["symbol"], payload[8 + length :], head["texts"], head["warps"], head["shared"],
        head["spilled"],
    )


def compile_kernels(
    jobs: Iterable[Job], target: Target, cache: Cache | None = None
) -> list[CompiledKernel]:
    """Compile several kernels in parallel; those of equal text once."""
    found = cache or default_cache()
    listed = list(jobs)
    emitted = [emit(job) for job in listed]
    contents = [(*_content(text), str(tiling)) for text, tiling in emitted]
    first: dict[tuple[str, ...], int] = {}
    for n, content in enumerate(contents):
        first.setdefault(content, n)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        made = {
            n: pool.submit(_compiled, listed[n], *emitted[n], target, found)
            for n in first.values()
        }
        return [
            _renamed(made[first[content]].result(), job, *text)
            for job, content, text in zip(listed, contents, emitted, strict=True)
        ]


def _renamed(made: CompiledKernel, job: Job, text: Emitted, tiling: GpuTiling) -> CompiledKernel:
    """Another kernel's code as that of an equal kernel."""
    if str(made.tiling) != str(tiling):
        kernel = prepare(job.kernel) if job.tiling is None else job.kernel
        text, _ = emit(replace(job, kernel=kernel, tiling=made.tiling))
    return replace(made, name=job.kernel.name, emitted=text)


def _content(emitted: Emitted) -> tuple[str, str]:
    """A text without the kernel's own name, and the types of its arguments, which the text does not
    hold: equal contents become equal code.
    """
    plain = emitted.text.replace(f"def {emitted.symbol}(", f"def {_SYMBOL}(")
    return plain, " ".join(kind for _, kind in emitted.arguments)
