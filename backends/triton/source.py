"""The text under construction: lines in blocks, fresh names, and what was written already.

An expression is written once in each block that needs it: ``let`` gives an equal one in sight its
name again. Names that are assigned again (accumulators) are ``mutable``: what is computed from one
is not remembered.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field

from graphc.records import dataclass
from graphc.types import DType

__all__ = ["DTYPE_TEXT", "Source", "Tile"]

DTYPE_TEXT = {
    "f64": "tl.float64", "f32": "tl.float32", "f16": "tl.float16", "bf16": "tl.bfloat16",
    "i64": "tl.int64", "i32": "tl.int32", "i8": "tl.int8", "u8": "tl.uint8", "u32": "tl.uint32",
    "bool": "tl.int1",
}  # fmt: skip

_WORD = re.compile(r"[A-Za-z_]\w*")
_SIMPLE = re.compile(r"-?[A-Za-z0-9_.]+|tl\.full\(\[\], [^()]*\)")


@dataclass(frozen=True)
class Tile:
    """A value in the text: an expression over the points of ``axes``, one dimension for each.

    ``narrow``: an i64 whose values fit, and are kept in, an int32. ``number``: a constant.
    ``zero_outside``: axes along which it is 0 past the end.
    """

    text: str
    dtype: DType
    axes: tuple[str, ...] = ()
    narrow: bool = False
    number: bool | int | float | None = None
    zero_outside: frozenset[str] = frozenset()


@dataclass
class _Block:
    indent: str
    known: dict[str, str] = field(default_factory=dict)


class Source:
    """Lines of one function."""

    def __init__(self, reserved: frozenset[str] = frozenset()) -> None:
        self.lines: list[str] = []
        self.helpers: dict[str, str] = {}
        self._taken = {"tl", "triton", "libdevice", "device", "float", "range", "print", *reserved}
        self._mutable: set[str] = set()
        self._blocks = [_Block("    ")]

    def fresh(self, hint: str) -> str:
        """A name that nothing else has.

        >>> source = Source(); source.fresh("a"), source.fresh("a"), source.fresh("del")
        ('a', 'a1', 'del1')
        """
        name, number = hint, 0
        while name in self._taken or keyword.iskeyword(name):
            number += 1
            name = f"{hint}{number}"
        self._taken.add(name)
        return name

    def line(self, text: str) -> None:
        self.lines.append(self._blocks[-1].indent + text)

    def let(self, expression: str, hint: str = "t") -> str:
        """A name for an expression: itself where it is one, an old one where it was written."""
        if _SIMPLE.fullmatch(expression):
            return expression
        for block in self._blocks:
            if expression in block.known:
                return block.known[expression]
        name = self.fresh(hint)
        self.line(f"{name} = {expression}")
        if not self._mutable.intersection(_WORD.findall(expression)):
            self._blocks[-1].known[expression] = name
        return name

    def accumulator(self, hint: str, start: str) -> str:
        """A name that will be assigned again."""
        name = self.fresh(hint)
        self._mutable.add(name)
        self.line(f"{name} = {start}")
        return name

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """The lines of a loop or a branch; what is named inside is unknown after it."""
        self.line(header)
        self._blocks.append(_Block(self._blocks[-1].indent + "    "))
        yield
        self._blocks.pop()

    @property
    def depth(self) -> int:
        return len(self._blocks)
