"""The one wrapper of Triton's compiler: source text -> machine code, with no GPU and no driver.

Triton is imported when something is compiled, never before. It is used as a compiler only: its
launcher, its driver and its tuning are not.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphc.backends.triton.emit import Emitted
from graphc.errors import BackendError
from graphc.records import dataclass

__all__ = [
    "TARGETS",
    "Code",
    "Target",
    "TooLargeError",
    "compile_text",
    "disassemble",
    "resources_of",
    "triton_version",
]


class TooLargeError(BackendError):
    """A tile needs more shared memory than the target has."""


@dataclass(frozen=True)
class Target:
    """A GPU architecture: its name, Triton's backend and number, threads of a warp, and how much
    shared memory one block may have.
    """

    name: str
    kind: str
    arch: int | str
    warp: int
    shared: int


TARGETS = {
    t.name: t
    for t in (
        Target("sm_80", "cuda", 80, 32, 166_912),
        Target("sm_90", "cuda", 90, 32, 232_448),
        Target("sm_100", "cuda", 100, 32, 232_448),
        Target("gfx942", "hip", "gfx942", 64, 65_536),
    )
}


@dataclass(frozen=True)
class Code:
    """A compiled kernel: its binary, and texts by kind ("ttgir", "ptx", "amdgcn"); ``spilled`` are
    bytes of a thread's stack (NVIDIA) or registers (AMD).
    """

    symbol: str
    binary: bytes
    texts: dict[str, str]
    warps: int
    shared: int
    spilled: int = 0

    @property
    def parameters(self) -> tuple[int, ...]:
        """Bytes of each parameter, read off the PTX: what a launch must pass.

        >>> text = ".visible .entry k(.param .u64 .ptr .global .align 1 k_param_0, .param .u32 k_1)"
        >>> Code("k", b"", {"ptx": text}, 4, 0).parameters
        (8, 4)
        """
        entry = re.search(r"\.entry\s+\w+\s*\((.*?)\)", self.texts.get("ptx", ""), re.S)
        if entry is None:
            return ()
        found = re.findall(r"\.param\s+\.[a-z](\d+)", entry.group(1))
        return tuple(int(bits) // 8 for bits in found)


def triton_version() -> str | None:
    """The version that is installed, None where it is not; nothing is imported."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None


def compile_text(emitted: Emitted, target: Target, *, warps: int, stages: int, path: Path) -> Code:
    """Compile a kernel's source, which is written to ``path`` first (Triton reads it there).

    BackendError where Triton refuses it or the target has too little shared memory.
    """
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError as error:
        raise BackendError(f"the triton backend needs Triton: {_REMEDY}") from error
    _write(path, emitted.text)
    function = getattr(_load(path, emitted.symbol), emitted.symbol)
    kinds = [(name, *kind.partition(":")) for name, kind in emitted.arguments]
    signature = {name: kind for name, kind, _, _ in kinds}
    aligned = {
        (n,): [["tt.divisibility", 16 if kind.startswith("*") else int(divisor)]]
        for n, (_, kind, _, divisor) in enumerate(kinds)
        if kind.startswith("*") or divisor
    }
    source = ASTSource(fn=function, signature=signature, constexprs={}, attrs=aligned)
    options: dict[str, object] = {
        "num_warps": warps, "num_stages": stages, "enable_fp_fusion": False,
    }
    if target.kind == "cuda":
        options["enable_reflect_ftz"] = False
    made = _compiled(
        triton, source, GPUTarget(target.kind, target.arch, target.warp), options, emitted.symbol
    )
    code = _code_of(made, target)
    if code.shared > target.shared:
        raise TooLargeError(
            f"kernel {emitted.symbol}: its tile needs {code.shared:,} bytes of shared memory, "
            f"{target.name} has {target.shared:,} a block"
        )
    return replace(code, spilled=_spilled(code, target))


def _spilled(code: Code, target: Target) -> int:
    used = resources_of(code, target)
    return used["stack"] + used.get("spilled", 0)


_REMEDY = "pip install 'graphc[gpu]' (Linux)"


def _compiled(
    triton: Any, source: Any, target: Any, options: dict[str, object], symbol: str
) -> Any:
    try:
        with _own_cache(triton):
            return triton.compile(source, target=target, options=options)
    except Exception as error:  # whatever the compiler of a third party raises
        cause = error.__cause__ or error
        raise BackendError(f"kernel {symbol}: Triton cannot compile it: {cause}") from error


_cache_lock = threading.Lock()
_cache_users: list[object] = []


@contextmanager
def _own_cache(triton: Any) -> Iterator[None]:
    """Triton's own cache lies in a temporary place while any thread compiles for us: ours keeps
    the results, and the user's is not filled.
    """
    cache = triton.knobs.cache
    with _cache_lock:
        if not _cache_users:
            _cache_users.extend([cache.dir, tempfile.TemporaryDirectory(prefix="graphc-triton-")])
            cache.dir = _cache_users[1].name  # type: ignore[attr-defined]
        _cache_users.append(None)
    try:
        yield
    finally:
        with _cache_lock:
            _cache_users.pop()
            if len(_cache_users) == 2:
                cache.dir, scratch = _cache_users
                _cache_users.clear()
                scratch.cleanup()  # type: ignore[attr-defined]


def _code_of(made: Any, target: Target) -> Code:
    binary = "cubin" if target.kind == "cuda" else "hsaco"
    kinds = ("ttgir", "ptx") if target.kind == "cuda" else ("ttgir", "amdgcn")
    texts = {kind: str(made.asm[kind]) for kind in kinds}
    metadata = made.metadata
    if getattr(metadata, "global_scratch_size", 0):
        raise BackendError(f"kernel {metadata.name}: it wants global scratch memory")
    return Code(
        metadata.name, bytes(made.asm[binary]), texts, metadata.num_warps, metadata.shared
    )


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    Path(file.name).replace(path)


def _load(path: Path, name: str) -> Any:
    label = f"graphc_generated.{name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(label, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module  # the compiler looks up a function's globals there
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules.pop(label, None)  # another thread may have loaded it too
    return module


def disassemble(code: Code, options: tuple[str, ...]) -> str:
    """What ``cuobjdump`` (it comes with Triton) says of a cubin: "-sass", or "-res-usage"."""
    tool = _cuobjdump()
    if tool is None:
        raise BackendError("cuobjdump is missing: it comes with Triton or the CUDA toolkit")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.binary)
        file.flush()
        done = subprocess.run([tool, *options, file.name], capture_output=True, text=True)
    if done.returncode:
        raise BackendError(f"cuobjdump: {done.stderr.strip()}")
    return done.stdout


def resources_of(code: Code, target: Target | None = None) -> dict[str, int]:
    """Registers of a thread, bytes of its stack, shared memory and threads of a block.

    AMD's say how many vector and scalar registers were spilled, too.
    """
    if target is not None and target.kind == "hip":
        return _amd_resources(code, target)
    found = re.search(r"REG:(\d+) STACK:(\d+)", disassemble(code, ("-res-usage",)))
    if found is None:
        raise BackendError(f"kernel {code.symbol}: cuobjdump says nothing of its resources")
    return {
        "registers": int(found[1]), "stack": int(found[2]), "shared": code.shared,
        "threads": 32 * code.warps,
    }  # fmt: skip


_AMD_FIELDS = {
    "registers": "vgpr_count", "scalar registers": "sgpr_count",
    "stack": "private_segment_fixed_size", "spilled": "vgpr_spill_count",
    "spilled scalars": "sgpr_spill_count",
}  # fmt: skip


def _amd_resources(code: Code, target: Target) -> dict[str, int]:
    text = code.texts["amdgcn"]
    found = {
        name: re.search(rf"\.{field}:\s*(\d+)", text) for name, field in _AMD_FIELDS.items()
    }
    counted = {name: int(match[1]) for name, match in found.items() if match is not None}
    return counted | {"shared": code.shared, "threads": target.warp * code.warps}


def _cuobjdump() -> str | None:
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "backends/nvidia/bin/cuobjdump"
        if path.exists():
            return str(path)
    return shutil.which("cuobjdump")
