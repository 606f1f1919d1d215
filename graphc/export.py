"""Ahead-of-time exports: a program compiled for a machine that need not be here, as a folder.

::

    manifest.json         version, target, arguments, outputs; each other file's digest and bytes
    graph.txt             the graph, with its large constants in graph.safetensors
    schedule.txt          kernels, buffers, launches: it parses back, and a person can read it
    states.safetensors    what states held when the program was saved
    constants.safetensors
    ...                   machine code and how it is launched: the backend's

An export is data until it is trusted: names are plain, links are refused, sizes are checked before
anything is read, and every file must have the digest that the manifest gives. Machine code is
loaded only with ``trust=True``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from graphc import tree
from graphc.backend import Exporting, Loaded, find_backend
from graphc.errors import BindError, CacheError
from graphc.files import FilePath, read_file, write_file
from graphc.graph import Graph
from graphc.memory import StateBuffer
from graphc.passes.memory import MemoryPlan, plan_memory
from graphc.records import dataclass
from graphc.schedule import Schedule
from graphc.schedule_text import parse_schedule, print_schedule
from graphc.text import constants_of
from graphc.text_parser import parse_graph

__all__ = ["Exported", "load_executable", "write_export"]

_VERSION = 1
_FILE = re.compile(r"(?:[A-Za-z0-9_]+/)?[A-Za-z0-9_]+\.[a-z0-9]+")
#: a longer manifest is refused
_MANIFEST_LIMIT = 16 << 20


# ---- writing


@dataclass(frozen=True)
class Content:
    """What is exported: the program's levels, and the memory it needs."""

    name: str
    mode: str
    target: str
    precision: str
    graph: Graph
    schedule: Schedule
    form: tree.Structure
    states: Mapping[str, NDArray[Any]]
    constants: Mapping[str, NDArray[Any]]
    code: Mapping[str, bytes]


def write_export(path: FilePath, content: Content) -> None:
    """Write an export, all or nothing; an older export at ``path`` is replaced, nothing else is."""
    place = Path(os.path.abspath(path))
    _check_replaceable(place)
    made = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        made.chmod(0o755)
        _write_files(made, content)
        if place.exists():
            old = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
            place.rename(old)
            made.rename(place)
            shutil.rmtree(old)
        else:
            made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_replaceable(place: Path) -> None:
    if place.is_symlink():
        raise CacheError(f"{place} is a symbolic link, which may change where it points")
    if place.exists() and not (place / "manifest.json").is_file():
        raise CacheError(f"{place} exists and is no export: it is left as it is")


def _write_files(folder: Path, content: Content) -> None:
    texts = {
        "graph.txt": content.graph.text().encode(),
        "schedule.txt": print_schedule(content.schedule).encode(),
    }
    for name, data in {**texts, **content.code}.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    arrays = {
        "graph": constants_of(content.graph), "states": content.states,
        "constants": content.constants,
    }  # fmt: skip
    for name, held in arrays.items():
        write_file(folder / f"{name}.safetensors", held)
    manifest = {
        "graphc": "export", "version": _VERSION, "name": content.name, "mode": content.mode,
        "target": content.target, "precision": content.precision,
        "outputs": _shown(content.form), "files": _listed(folder),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _listed(folder: Path) -> dict[str, dict[str, object]]:
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size, "blake2b": _digest(file.read_bytes()),
        }
        for file in found
    }  # fmt: skip


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _shown(form: tree.Structure) -> Any:
    """A structure as JSON: 0 for a leaf. Records become dicts."""
    children = [_shown(child) for child in form.children]
    if form.kind is None:
        return 0
    if form.kind is type(None):
        return None
    if form.kind in (tuple, list):
        return {form.kind.__name__: children}
    return {"dict": dict(zip(map(str, form.keys), children, strict=True))}


def _example(shown: Any) -> Any:
    """What has the structure that ``_shown`` wrote."""
    if shown is None or shown == 0:
        return shown
    ((kind, inside),) = shown.items()
    if kind == "dict":
        return {str(key): _example(child) for key, child in inside.items()}
    return {"tuple": tuple, "list": list}[kind](_example(child) for child in inside)


# ---- reading


def load_executable(path: FilePath, *, trust: bool = False) -> Exported:
    """The program that ``Executable.save`` wrote to the folder ``path``.

    It holds machine code, which ``trust=True`` allows to be loaded. It runs where a device has its
    target, and can be looked at everywhere. CacheError where the folder is not whole or was
    changed.
    """
    if not trust:
        raise CacheError(
            f"{os.fspath(path)} holds machine code, which can do anything once it runs: "
            "say trust=True if you know where it comes from"
        )
    folder = Path(path)
    manifest = _manifest(folder)
    files = {name: _read(folder, name, entry) for name, entry in manifest["files"].items()}
    try:
        return _exported(folder, manifest, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CacheError(f"{folder} is no good export: {error!r}") from None


def _exported(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Exported:
    schedule = parse_schedule(files["schedule.txt"].decode())
    backend = find_backend(target=str(manifest["target"]), compiles=False)
    assert isinstance(backend, Exporting)
    constants, _ = read_file(folder / "constants.safetensors")
    arrays, _ = read_file(folder / "states.safetensors")
    states = {
        b.name: StateBuffer(b.type, arrays[b.name]) for b in schedule.of_kind("state")
    }
    loaded = backend.restore(
        schedule, files, states=states, constants=constants,
        plan=lambda bound: plan_memory(bound).offsets,
    )  # fmt: skip
    large, _ = read_file(folder / "graph.safetensors")
    _, form = tree.flatten(_example(manifest["outputs"]))
    return Exported(
        str(manifest["name"]), str(manifest["mode"]), str(manifest["target"]),
        parse_graph(files["graph.txt"].decode(), constants=large), schedule, states, form, loaded,
    )  # fmt: skip


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / "manifest.json"
    if folder.is_symlink() or file.is_symlink():
        raise CacheError(f"{file} is or lies behind a symbolic link")
    try:
        if file.stat().st_size > _MANIFEST_LIMIT:
            raise CacheError(f"{file} is too long")
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CacheError(f"{folder} is no export: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("graphc") != "export":
        raise CacheError(f"{file} was not written by Executable.save")
    if found.get("version") != _VERSION:
        raise CacheError(f"{file} has version {found.get('version')!r}, not {_VERSION}")
    names = found.get("files")
    if not isinstance(names, dict) or not all(_FILE.fullmatch(name) for name in names):
        raise CacheError(f"{file} names files that no export has")
    return found


def _read(folder: Path, name: str, entry: Any) -> bytes:
    """A file of the export, which is what the manifest says it is."""
    path = folder / name
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    if path.parent.is_symlink():
        raise CacheError(f"{path} lies behind a symbolic link")
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CacheError(f"{path} is no regular file")
        if not isinstance(entry, dict) or status.st_size != entry.get("bytes"):
            raise CacheError(f"{path} has {status.st_size} bytes, its manifest says otherwise")
        data = file.read()
    if _digest(data) != entry.get("blake2b"):
        raise CacheError(f"{path} was changed after it was written")
    return data


class Exported:
    """A program read back; call it as the executable that it was saved from.

    ``graph`` and ``schedule`` are its levels; ``states`` its memory by name, with what the states
    held when it was saved.
    """

    def __init__(
        self,
        name: str,
        mode: str,
        target: str,
        graph: Graph,
        schedule: Schedule,
        states: Mapping[str, StateBuffer],
        form: tree.Structure,
        loaded: Loaded,
    ) -> None:
        self.name, self.mode, self.target = name, mode, target
        self.graph, self.schedule, self.states = graph, schedule, states
        self._form, self._loaded = form, loaded
        #: a kernel's source, as ``Executable.source``
        self.source: Callable[[str], str] = loaded.source

    def __call__(self, *args: object, **by_name: object) -> Any:
        """Run, where a device has the program's target; BackendError elsewhere."""
        result = self._loaded.call(*args, **by_name)
        count = self._form.count
        leaves: Sequence[Any] = () if count == 0 else (result,) if count == 1 else result
        return self._form.build(leaves)

    def __repr__(self) -> str:
        given = ", ".join(b.name for b in self.schedule.arguments)
        return f"<exported {self.name}({given}), {self.mode}, {self.target}>"

    @property
    def memory(self) -> MemoryPlan:
        """Where intermediate results lie, and their peak in bytes."""
        if self.schedule.sizes:
            raise BindError(f"{self.name} plans memory for each size at run time")
        return plan_memory(self.schedule)

    def asm(self, kernel: str, kind: str = "asm") -> str:
        """A kernel's machine code, or the text it was assembled from."""
        if kind not in self._loaded.assembly_kinds:
            kinds = ", ".join(map(repr, self._loaded.assembly_kinds))
            raise BindError(f"asm(kind={kind!r}): it is one of {kinds}")
        return self._loaded.assembly(kernel, kind)

    def resources(self, kernel: str) -> Mapping[str, int]:
        """Registers, stack, shared memory and threads of a kernel's code."""
        return self._loaded.resources(kernel)
