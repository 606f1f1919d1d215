"""Arrays in files: the safetensors format, with nothing but NumPy and JSON.

::

    8 bytes    n, the length of the header, little-endian
    n bytes    {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
                "__metadata__": {"text": "text", ...}}
    the rest   elements, row-major, little-endian, back to back in the order of their offsets

A file is data and is not trusted. Whatever it says is checked against its size before an array is
allocated: names, types, shapes, and that the offsets cover the rest of the file once. Files are
written beside their place and then moved there, so nobody sees half of one.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.errors import CacheError
from graphc.records import dataclass

__all__ = ["FilePath", "load_arrays", "read_file", "save_arrays", "write_file"]

FilePath = str | os.PathLike[str]
Arrays = dict[str, NDArray[Any]]
Metadata = dict[str, str]

#: as the format's own library: a longer header is refused
HEADER_LIMIT = 100_000_000
#: NumPy has no more axes
AXES_LIMIT = 64
METADATA = "__metadata__"

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def save_arrays(path: FilePath, d: Mapping[str, ArrayLike]) -> None:
    """Write arrays by name as a safetensors file, all or nothing.

    The same arrays give the same bytes. bfloat16 is NumPy's by ml_dtypes. Raises TypeError for
    elements that the format has no name for.

    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "a.safetensors")
    >>> save_arrays(path, {"w": np.float32([1, 2])}); load_arrays(path)
    {'w': array([1., 2.], dtype=float32)}
    """
    write_file(path, d)


def load_arrays(path: FilePath) -> Arrays:
    """The arrays of a safetensors file by name, each in memory of its own.

    Raises CacheError where the file is cut short, has bytes too many, or says about itself what is
    not so; nothing is allocated then. Symbolic links and what is no regular file are refused.
    """
    return read_file(path)[0]


# ---- reading


@dataclass(frozen=True)
class _Entry:
    """Where the elements of one array lie in the rest of the file."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def read_file(path: FilePath, prefixes: Sequence[str] | None = None) -> tuple[Arrays, Metadata]:
    """Arrays and metadata; only arrays whose first name (before a dot) is among ``prefixes``."""
    with _opened(path) as (file, size):
        entries, metadata, start = _read_header(path, file, size)
        arrays = {}
        for entry in entries:
            if prefixes is None or entry.name.partition(".")[0] in prefixes:
                file.seek(start + entry.begin)
                arrays[entry.name] = _read_elements(path, file, entry)
    return arrays, metadata


@contextmanager
def _opened(path: FilePath) -> Iterator[tuple[BinaryIO, int]]:
    """The file, and its size; links, devices and pipes are refused."""
    # O_NONBLOCK: opening a pipe would wait for a writer
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError:
        _refuse_link(path)
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CacheError(f"{os.fspath(path)} is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file, status.st_size


def _refuse_link(path: FilePath) -> None:
    if os.path.islink(path):
        raise CacheError(
            f"{os.fspath(path)} is a symbolic link, which may change where it points; "
            f"if you trust it, say {os.path.realpath(path)!r}"
        )


def _read_header(path: FilePath, file: BinaryIO, size: int) -> tuple[list[_Entry], Metadata, int]:
    """What the file holds, checked, its metadata, and where the elements begin."""

    def wrong(what: str) -> CacheError:
        return CacheError(f"{os.fspath(path)} is no good safetensors file: {what}")

    first = file.read(8)
    if len(first) < 8:
        raise wrong(f"it has {size} bytes")
    length = int.from_bytes(first, "little")
    if length > min(HEADER_LIMIT, size - 8):
        raise wrong(f"a header of {length} bytes in a file of {size}")
    header = _parsed(file.read(length), wrong)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise wrong(f"{METADATA} holds more than text")
    start = 8 + length
    entries = sorted(
        (_entry(name, given, wrong) for name, given in header.items()),
        key=lambda entry: (entry.begin, entry.end),
    )
    covered = 0
    for entry in entries:
        if entry.begin != covered:
            raise wrong(f"{entry.name!r} begins at {entry.begin}, not at {covered}")
        covered = entry.end
    if covered != size - start:
        raise wrong(f"it has {size - start} bytes of elements, its header says {covered}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if covered > memory:
        raise wrong(f"it holds {covered} bytes, more than this machine's memory of {memory}")
    return entries, metadata, start


def _parsed(text: bytes, wrong: Any) -> dict[str, Any]:
    """The header's object; a name that stands twice, or JSON that only Python reads, is refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands twice")
        for name in found:
            name.encode()  # half of a surrogate pair is no text: a UnicodeError
        return found

    def never(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    try:
        # deep nesting is a RecursionError, a number of too many digits a ValueError
        header = json.loads(text.decode(), object_pairs_hook=once, parse_constant=never)
    except (ValueError, RecursionError) as error:
        raise wrong(f"its header cannot be read: {error}") from None
    if not isinstance(header, dict):
        raise wrong("its header is no object")
    return header


def _entry(name: str, given: Any, wrong: Any) -> _Entry:
    if not isinstance(given, dict) or set(given) != {"dtype", "shape", "data_offsets"}:
        raise wrong(f"{name!r} has other entries than dtype, shape and data_offsets")
    dtype = DTYPES.get(given["dtype"]) if isinstance(given["dtype"], str) else None
    if dtype is None:
        raise wrong(f"{name!r} has elements of type {given['dtype']!r}")
    shape, offsets = given["shape"], given["data_offsets"]
    if not _are_counts(shape) or len(shape) > AXES_LIMIT:
        raise wrong(f"{name!r} has the shape {str(shape)[:80]}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong(f"{name!r} has the offsets {str(offsets)[:80]}")
    # what NumPy would compute, zeros left out, must fit its index type
    if math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:
        raise wrong(f"{name!r} has the shape {str(shape)[:80]}")
    needed = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != needed:
        raise wrong(f"{name!r} needs {needed} bytes and has {offsets[1] - offsets[0]}")
    return _Entry(name, dtype, tuple(shape), *offsets)


def _are_counts(items: Any) -> bool:
    return isinstance(items, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in items
    )


def _read_elements(path: FilePath, file: BinaryIO, entry: _Entry) -> NDArray[Any]:
    array = np.empty(entry.shape, entry.dtype)
    raw = array.reshape(-1).view(np.uint8)
    if file.readinto(raw.data) != len(raw):  # type: ignore[attr-defined]
        raise CacheError(f"{os.fspath(path)} became shorter while it was read")
    if entry.dtype == np.bool_ and (raw > 1).any():
        raise CacheError(f"{os.fspath(path)}: {entry.name!r} has bytes that are no bool")
    if not np.little_endian:
        array.byteswap(inplace=True)
    return array


# ---- writing


def write_file(
    path: FilePath, arrays: Mapping[str, ArrayLike], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays and texts, all or nothing: the file is as before, or it is the new one."""
    held = {name: _storable(name, value) for name, value in arrays.items()}
    # larger elements first keeps every array aligned; then by name, so that bytes are reproducible
    order = sorted(held, key=lambda name: (-held[name].dtype.itemsize, name))
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for name in order:
        array = held[name]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, begin + array.nbytes],
        }
        begin += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise ValueError(f"save: the header would have {len(text)} bytes, too many")
    with _replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(held[name].reshape(-1).view(np.uint8).data)


def _storable(name: object, value: ArrayLike) -> NDArray[Any]:
    if not isinstance(name, str) or name == METADATA:
        raise TypeError(f"save: {name!r} cannot name an array")
    array = np.asarray(value)
    dtype = array.dtype.newbyteorder("=")
    if dtype not in _NAMES:
        raise TypeError(f"save: {name!r} has elements of type {array.dtype}; the format has none")
    return np.asarray(array, dtype=dtype.newbyteorder("<"), order="C").view(dtype)


@contextmanager
def _replacing(path: FilePath) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` at the end, on the disk before it is seen."""
    _refuse_link(path)
    directory, name = os.path.split(os.path.abspath(path))
    beside = os.path.join(directory, f".{name}.{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(beside, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(beside, path)
    except BaseException:  # an interrupt leaves nothing behind either
        with suppress(OSError):
            os.unlink(beside)
        raise
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)  # the new name is on the disk too
    finally:
        os.close(parent)
