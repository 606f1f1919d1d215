"""Records of 8-byte words that Python fills and machine code reads, and a readable way to write
that code.

``Layout`` names the words of a record. ``expand`` turns four shorthands in LLVM IR text into
plain IR, so that the text says ``record.table`` and never a number::

    %t = get ptr record.table %rec       load a word of the record at %rec
    put i64 %x, record.users %rec        store it
    %p = at record.users %rec            its address
    %r = next record %rec                the record after it (i64 index with ``next record %rec,
    %i``)
"""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from graphc.memory import address_of, allocate

__all__ = ["Layout", "Record", "expand"]


class Layout:
    """A record's words by name; ``stride`` in words, at least as many as there are names.

    >>> point = Layout("point", "x", "y")
    >>> point.offset("y"), point.nbytes
    (8, 16)
    """

    def __init__(self, name: str, *words: str, stride: int = 0) -> None:
        self.name = name
        self.index = {word: i for i, word in enumerate(words)}
        self.stride = stride or len(words)

    @property
    def nbytes(self) -> int:
        return 8 * self.stride

    def offset(self, word: str) -> int:
        """Bytes from the record's start."""
        return 8 * self.index[word]


class Record:
    """``count`` records in a row, 64-byte aligned, zero at first; ``record[i, "word"]`` reads and
    writes.
    """

    def __init__(self, layout: Layout, count: int = 1) -> None:
        self.layout = layout
        self.words: NDArray[np.int64] = allocate(8 * layout.stride * max(count, 1)).view(np.int64)
        self.words[:] = 0

    @property
    def address(self) -> int:
        return address_of(self.words)

    def address_at(self, index: int, word: str | None = None) -> int:
        """Address of the ``index``-th record, or of one of its words."""
        offset = 0 if word is None else self.layout.offset(word)
        return self.address + index * self.layout.nbytes + offset

    def __getitem__(self, key: tuple[int, str]) -> int:
        index, word = key
        return int(self.words[index * self.layout.stride + self.layout.index[word]])

    def __setitem__(self, key: tuple[int, str], value: int) -> None:
        index, word = key
        signed = ctypes.c_int64(value).value  # addresses may have the top bit set
        self.words[index * self.layout.stride + self.layout.index[word]] = signed


_GET = re.compile(r"^(\s*)(%\S+) = get (\w+) (\w+)\.(\w+) (%\w+)\s*$")
_PUT = re.compile(r"^(\s*)put (\w+) (\S+), (\w+)\.(\w+) (%\w+)\s*$")
_AT = re.compile(r"^(\s*)(%\S+) = at (\w+)\.(\w+) (%\w+)\s*$")
_NEXT = re.compile(r"^(\s*)(%\S+) = next (\w+) (%\w+)(?:, (%\w+))?\s*$")


def expand(text: str, layouts: Mapping[str, Layout]) -> str:
    """Plain LLVM IR. ``;`` starts a comment, as in IR itself.

    >>> print(expand("%y = get i64 point.y %p", {"point": Layout("point", "x", "y")}))
    %y.at = getelementptr i8, ptr %p, i64 8
    %y = load i64, ptr %y.at, align 8
    """
    serial = itertools.count()
    return "\n".join(_expand_line(line, layouts, serial) for line in text.split("\n"))


def _expand_line(line: str, layouts: Mapping[str, Layout], serial: itertools.count[int]) -> str:
    code = line.split(";", 1)[0]
    if match := _GET.match(code):
        space, name, kind, layout, word, base = match.groups()
        offset = layouts[layout].offset(word)
        return (
            f"{space}{name}.at = getelementptr i8, ptr {base}, i64 {offset}\n"
            f"{space}{name} = load {kind}, ptr {name}.at, align 8"
        )
    if match := _PUT.match(code):
        space, kind, value, layout, word, base = match.groups()
        offset, place = layouts[layout].offset(word), f"%put{next(serial)}"
        return (
            f"{space}{place} = getelementptr i8, ptr {base}, i64 {offset}\n"
            f"{space}store {kind} {value}, ptr {place}, align 8"
        )
    if match := _AT.match(code):
        space, name, layout, word, base = match.groups()
        return f"{space}{name} = getelementptr i8, ptr {base}, i64 {layouts[layout].offset(word)}"
    if match := _NEXT.match(code):
        space, name, layout, base, index = match.groups()
        element = f"[{layouts[layout].nbytes} x i8]"
        return f"{space}{name} = getelementptr {element}, ptr {base}, i64 {index or 1}"
    return line
