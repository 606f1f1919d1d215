"""Checkpoints: what modules, optimizers, generators and structures of states hold, in one file.

The file is a safetensors file. The arrays of root ``net`` are named ``net.0.weight``...; its
metadata hold one JSON text ``{"version": 1, "roots": {"net": "Series"}, "meta": ...}``.

A root is anything with ``state_dict`` (a Module, an optimizer, an Rng, an EMA), a state or
parameter, or a structure of such: tuples, lists, dicts, NamedTuples and dataclasses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from graphc import tree
from graphc.dsl import StateValue
from graphc.errors import CacheError, GraphcError, StateError
from graphc.files import FilePath, read_file, write_file
from graphc.state import coerce_array

__all__ = ["restore", "save"]

_KEY = "graphc"
_VERSION = 1


@runtime_checkable
class Stateful(Protocol):
    """What says what it holds. ``prepare_loading`` checks everything and changes nothing; calling
    what it returns does.
    """

    def state_dict(self) -> Mapping[str, NDArray[Any]]: ...
    def prepare_loading(self, d: Mapping[str, Any], /) -> Callable[[], object]: ...


def save(path: FilePath, *, meta: Any = None, **roots: Any) -> None:
    """Write what ``roots`` hold as one file at ``path``, all or nothing.

    ``meta`` is anything that JSON can say: the epoch, options, a text.

    >>> import tempfile, os, graphc as gc
    >>> net, path = gc.nn.Linear(2, 1), os.path.join(tempfile.mkdtemp(), "best")
    >>> gc.save(path, net=net, rng=gc.random.default, meta={"epoch": 3})
    >>> gc.restore(path, net=net)
    {'epoch': 3}
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, root in roots.items():
        if not name.isidentifier():
            raise StateError(f"save: the root {name!r} has no identifier for a name")
        for inside, array in _collect(name, root):
            if inside in arrays:
                raise StateError(f"save: two arrays of {name!r} would be called {inside!r}")
            arrays[inside] = array
    kinds = {name: type(root).__name__ for name, root in roots.items()}
    try:
        text = json.dumps({"version": _VERSION, "roots": kinds, "meta": meta})
    except (TypeError, ValueError) as error:
        raise StateError(f"save: meta is not what JSON can say: {error}") from None
    write_file(path, arrays, {_KEY: text})


def restore(path: FilePath, **roots: Any) -> Any:
    """Put back what ``save`` wrote, into ``roots`` by name; returns ``meta``.

    Everything is read and checked first: on an error (a name, a shape, an element type, a file
    that is not whole) nothing changes. Roots of the file that are not asked for are passed over.
    """
    arrays, metadata = read_file(path, tuple(roots))
    known = _description(path, metadata)
    missing = [name for name in roots if name not in known["roots"]]
    if missing:
        raise StateError(
            f"restore: {os.fspath(path)} has no root {', '.join(missing)}; "
            f"it has {', '.join(known['roots']) or 'none'}"
        )
    commits = []
    for name, root in roots.items():
        mine = {n: a for n, a in arrays.items() if n.partition(".")[0] == name}
        try:
            commits.append(_prepare(name, root, mine))
        except GraphcError as error:
            error.add_note(f"while restoring {name!r} from {os.fspath(path)}")
            raise
        if mine:
            raise StateError(f"restore: {name!r} has no place for {', '.join(list(mine)[:8])}")
    for commit in commits:
        commit()
    return known["meta"]


def _description(path: FilePath, metadata: Mapping[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise CacheError(
            f"{os.fspath(path)} was not written by gc.save; "
            "read it with gc.load_arrays and load_state_dict"
        )
    try:
        found = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{os.fspath(path)}: its description cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        raise CacheError(f"{os.fspath(path)} has another version than {_VERSION}")
    if not isinstance(found.get("roots"), dict) or "meta" not in found:
        raise CacheError(f"{os.fspath(path)}: its description names no roots or has no meta")
    return found


# ---- roots


def _collect(name: str, root: Any) -> list[tuple[str, NDArray[Any]]]:
    """The arrays of a root by full name."""
    if isinstance(root, StateValue):
        return [(name, root.numpy())]
    if isinstance(root, Stateful):
        return [(f"{name}.{inside}", array) for inside, array in root.state_dict().items()]
    return [pair for key, child in _children(name, root) for pair in _collect(key, child)]


def _prepare(name: str, root: Any, arrays: dict[str, Any]) -> Callable[[], object]:
    """Check ``root`` against its arrays, which are taken out; what is returned loads them."""
    if isinstance(root, StateValue):
        if name not in arrays:
            raise StateError(f"restore: the file has no {name!r}")
        array = coerce_array(arrays.pop(name), root.type, f"restore: {name!r}")
        return lambda: root.set(array)
    if isinstance(root, Stateful):
        start = f"{name}."
        mine = {n[len(start) :]: arrays.pop(n) for n in list(arrays) if n.startswith(start)}
        return root.prepare_loading(mine)
    commits = [_prepare(key, child, arrays) for key, child in _children(name, root)]
    return lambda: [commit() for commit in commits]


def _children(name: str, root: Any) -> list[tuple[str, Any]]:
    opened = tree.children(root)
    if opened is None:
        raise StateError(
            f"{name} is a {type(root).__name__}, which holds no states; "
            "numbers and texts go into meta"
        )
    return [(f"{name}.{key}", child) for key, child in opened]
