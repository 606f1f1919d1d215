r"""The disk cache of machine code: content-addressed, verified, shared by processes, never
required.

It lies in ``$XDG_CACHE_HOME/graphc`` (else ``~/.cache/graphc``) and is used only when it is a
real directory that belongs to the user with mode 0700; otherwise one warning is given and
everything stays in memory. An entry is::

    "graphc1\n" | BLAKE2b-256 of the rest | length of the payload, 8 bytes little-endian | payload

written to a temporary file and renamed, so that a reader sees all of it or nothing. A damaged
entry counts as a miss and is replaced. Above ``LIMIT`` bytes the entries used longest ago go.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

__all__ = ["LIMIT", "Cache", "default_cache", "key_of"]

#: bytes that the cache may take on disk
LIMIT = 512 << 20

_MAGIC = b"graphc1\n"
_HEADER = len(_MAGIC) + 32 + 8
_PRUNE_EVERY = 64  # writes


def key_of(*parts: str) -> str:
    """The name of what is determined by these texts: 64 hexadecimal digits.

    >>> key_of("ab", "c") == key_of("a", "bc")
    False
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


class Cache:
    """Bytes by key, in memory and, where ``directory`` is not None, on disk."""

    def __init__(self, directory: Path | None, *, limit: int = LIMIT) -> None:
        self.directory = directory
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self._memory: dict[str, bytes] = {}
        self._writes = 0

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The payload under ``key``; ``make()`` computes it where it is missing or damaged."""
        found = self._memory.get(key) or self._read(key)
        if found is not None:
            self.hits += 1
            self._memory[key] = found
            return found
        self.misses += 1
        payload = make()
        self._memory[key] = payload
        self._write(key, payload)
        return payload

    def _path(self, key: str) -> Path | None:
        return None if self.directory is None else self.directory / key[:2] / f"{key}.o"

    def _read(self, key: str) -> bytes | None:
        path = self._path(key)
        if path is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            payload = _unpack(file.read())
            if payload is not None:
                with contextlib.suppress(OSError):  # a read-only disk keeps no time of last use
                    os.utime(descriptor)
        return payload

    def _write(self, key: str, payload: bytes) -> None:
        path = self._path(key)
        if path is None:
            return
        temporary = None
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            with os.fdopen(descriptor, "wb") as file:
                file.write(_pack(payload))
            os.replace(temporary, path)
        except OSError as error:  # full or read-only: the memory copy serves this process
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            _warn_once(f"machine code is not kept on disk: {error}")
            return
        self._writes += 1
        if self._writes % _PRUNE_EVERY == 1:
            self.prune()

    def prune(self) -> None:
        """Delete the entries used longest ago until at most ``limit`` bytes are left."""
        if self.directory is None:
            return
        entries: list[tuple[float, int, Path]] = []
        for path in self.directory.glob("??/*"):
            with contextlib.suppress(OSError):  # another process may delete at the same time
                status = path.lstat()
                entries.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size


def _pack(payload: bytes) -> bytes:
    rest = len(payload).to_bytes(8, "little") + payload
    return _MAGIC + hashlib.blake2b(rest, digest_size=32).digest() + rest


def _unpack(data: bytes) -> bytes | None:
    """The payload, or None where the entry is truncated, longer than written, or altered."""
    digest, rest = data[len(_MAGIC) : _HEADER - 8], data[_HEADER - 8 :]
    if not data.startswith(_MAGIC) or hashlib.blake2b(rest, digest_size=32).digest() != digest:
        return None
    payload = rest[8:]
    return payload if int.from_bytes(rest[:8], "little") == len(payload) else None


@functools.cache
def default_cache() -> Cache:
    """The cache of this process, on disk where the directory can be trusted."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the standard says to ignore a relative one
        base = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(base):
        _warn_once("there is no home directory to keep a cache in")
        return Cache(None)
    return Cache(trusted_directory(Path(base) / "graphc"))


def trusted_directory(directory: Path) -> Path | None:
    """The directory, made where it is missing, or None with a warning where it cannot be
    trusted.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        status = directory.lstat()
    except OSError as error:
        _warn_once(f"no cache directory {directory}: {error}")
        return None
    if not stat.S_ISDIR(status.st_mode):
        _warn_once(f"the cache {directory} is a link or a file; a directory of yours is needed")
    elif status.st_uid != os.getuid():
        _warn_once(f"the cache {directory} belongs to another user; set XDG_CACHE_HOME")
    elif status.st_mode & 0o077:
        _warn_once(f"the cache {directory} is open to other users; run: chmod 700 {directory}")
    else:
        return directory
    return None


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(f"{message}; compiled code is kept in memory only", RuntimeWarning, stacklevel=4)
