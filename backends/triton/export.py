"""Compiled kernels as files, and back: what an ahead-of-time export holds of machine code.

::

    launches.txt          what is launched in which order, to read
    kernels.json          for each kernel: arguments, grid, threads, shared memory, names of files
    kernels/NAME.cubin    machine code (.hsaco for AMD); kernels of equal code share one
    kernels/NAME.ptx      what it was assembled from (.amdgcn)
    kernels/NAME.py       the Triton source

Everything a launch needs is there: reading an export needs neither Triton nor a driver.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from graphc.backends.triton.compiler import CompiledKernel
from graphc.backends.triton.emit import Emitted
from graphc.backends.triton.jobs import Key, Launching, kernels_of, key_of_part, parts_of
from graphc.backends.triton.tiling import GpuTiling
from graphc.backends.triton.toolchain import Code, Target
from graphc.errors import CacheError, GraphcError
from graphc.kernel.parser import parse_extent
from graphc.kernel.terms import Kernel
from graphc.nest import Tiling
from graphc.schedule import Barrier, Body, Commit, Copy, If, Launch, Loop, Schedule, While
from graphc.schedule_text import print_statement

__all__ = ["kernel_files", "kernels_of_files"]

_BINARY = {"cuda": ("cubin", "ptx"), "hip": ("hsaco", "amdgcn")}


def kernel_files(
    schedule: Schedule, target: Target, kernels: Mapping[Key, CompiledKernel]
) -> dict[str, bytes]:
    """The files of a program's kernels by their names in the export's folder."""
    binary, text = _BINARY[target.kind]
    files: dict[str, bytes] = {}
    entries, stems = [], _stems(kernels)
    for key, one in kernels.items():
        stem = f"kernels/{stems[key]}"
        files[f"{stem}.{binary}"] = one.code.binary
        files[f"{stem}.{text}"] = one.code.texts[text].encode()
        files[f"{stem}.py"] = one.emitted.text.encode()
        name, part, guarded = key
        entries.append({
            "kernel": name, "part": part, "guarded": guarded, "file": stem,
            "function": one.emitted.symbol, "symbol": one.code.symbol,
            "arguments": [list(a) for a in one.emitted.arguments], "grid": str(one.emitted.grid),
            "warps": one.code.warps, "shared": one.code.shared, "tiling": str(one.tiling),
        })  # fmt: skip
    files["kernels.json"] = json.dumps(entries, indent=1).encode()
    files["launches.txt"] = _launches(schedule, target, kernels, stems).encode()
    return files


def _stems(kernels: Mapping[Key, CompiledKernel]) -> dict[Key, str]:
    """A file's name for each kernel, which tells its part and whether it is guarded."""
    stems = {}
    for name, part, guarded in kernels:
        stem = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
        stem += f"_{part}" if part else ""
        stems[name, part, guarded] = stem + ("_guarded" if guarded else "")
    return stems


def _launches(
    schedule: Schedule, target: Target, kernels: Mapping[Key, CompiledKernel],
    stems: Mapping[Key, str],
) -> str:
    """The launch plan: the schedule's body, each launch followed by what it launches."""
    lines = [f"{schedule.name}: {len(kernels)} kernels for {target.name}"]
    if not schedule.sizes:
        lines.append(f"arena of {schedule.arena_bytes:,} bytes")

    def launched(statement: Launching, indent: str, guarded: bool) -> None:
        for part in parts_of(schedule, statement):
            key = key_of_part(schedule, statement, part, guarded)
            lines.append(f"{indent}    {_line(stems[key], kernels[key])}")

    def walk(body: Body, indent: str, guarded: bool) -> None:
        for statement in body:
            match statement:
                case Launch() | Copy():
                    lines.append(indent + print_statement(statement))
                    launched(statement, indent, guarded)
                case Loop():
                    lines.append(indent + print_statement(statement).split("\n")[0])
                    walk(statement.body, indent + "  ", guarded)
                    lines.append(indent + "}")
                case While():
                    lines.append(indent + print_statement(statement).split("\n")[0])
                    launched(statement, indent, False)
                    walk(statement.body, indent + "  ", True)
                    lines.append(indent + "}")
                case If():
                    lines.append(indent + print_statement(statement).split("\n")[0])
                    launched(statement, indent, False)
                    walk(statement.then, indent + "  ", True)
                    lines.append(indent + "} else {")
                    walk(statement.otherwise, indent + "  ", True)
                    lines.append(indent + "}")
                case Commit():
                    lines.append(indent + "commit")
                    guarded = guarded or bool(schedule.checks)
                case Barrier():
                    lines.append(indent + "barrier")

    walk(schedule.body, "", False)
    return "\n".join(lines) + "\n"


def _line(stem: str, kernel: CompiledKernel) -> str:
    code = kernel.code
    return (
        f"{stem}: grid {kernel.emitted.grid}, {code.warps} warps, {code.shared:,} bytes of shared "
        f"memory, {len(kernel.emitted.arguments)} words of parameters"
    )


def kernels_of_files(
    schedule: Schedule, target: Target, files: Mapping[str, bytes]
) -> dict[Key, CompiledKernel]:
    """What ``kernel_files`` wrote. CacheError where something is missing or does not fit the
    schedule.
    """
    try:
        entries = json.loads(files["kernels.json"])
        found = {
            (str(e["kernel"]), int(e["part"]), bool(e["guarded"])): e for e in entries
        }
        return {
            key: _kernel(found[key], kernel, target, files)
            for key, kernel in kernels_of(schedule).items()
        }
    except (KeyError, TypeError, ValueError, GraphcError) as error:
        raise CacheError(f"the export does not fit its schedule: {error!r}") from None


def _kernel(
    entry: Mapping[str, Any], kernel: Kernel, target: Target, files: Mapping[str, bytes]
) -> CompiledKernel:
    binary, text = _BINARY[target.kind]
    stem, warps, shared = str(entry["file"]), int(entry["warps"]), int(entry["shared"])
    arguments = tuple((str(name), str(kind)) for name, kind in entry["arguments"])
    tensors = len(kernel.inputs) + len(kernel.outputs) + len(kernel.sizes) + len(kernel.scalars)
    words = tensors + 2 * bool(kernel.checks) + bool(entry["guarded"])
    if len(arguments) != words:
        raise ValueError(f"{stem} takes {len(arguments)} words, the launch passes {words}")
    if not 1 <= warps <= 32 or not 0 <= shared <= target.shared:
        raise ValueError(f"{stem} has {warps} warps and {shared} bytes of shared memory")
    source = files[f"{stem}.py"].decode()
    grid = parse_extent(str(entry["grid"]), kernel.sizes)
    emitted = Emitted(source, str(entry["function"]), arguments, grid)
    texts = {text: files[f"{stem}.{text}"].decode()}
    code = Code(str(entry["symbol"]), files[f"{stem}.{binary}"], texts, warps, shared)
    return CompiledKernel(kernel.name, emitted, GpuTiling(Tiling({}, {}), warps), code)
