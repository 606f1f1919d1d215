"""The tokens of kernel texts, and a cursor whose errors show line, column and a caret."""

from __future__ import annotations

import re
from typing import NamedTuple

from graphc.errors import ParseError

__all__ = ["Cursor", "Token", "tokenize"]

_PATTERN = re.compile(
    r"""(?P<blank>[ \t\r]+|\#[^\n]*)
      | (?P<newline>\n)
      | (?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+\.(?![.\w]))
      | (?P<integer>\d+)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<sign><<|>>|<=|>=|==|!=|//|\.\.|[-+*/%&|^~<>()\[\],;:=])
    """,
    re.VERBOSE,
)


class Token(NamedTuple):
    """A token of kind name, integer, float, string, sign, newline or end; lines count from 1."""

    kind: str
    text: str
    line: int
    column: int

    def __str__(self) -> str:
        if self.kind == "newline":
            return "the end of the line"
        return "the end of the text" if self.kind == "end" else repr(self.text)


def tokenize(text: str) -> list[Token]:
    r"""The tokens of ``text``, without blanks and comments; several line ends in a row are one.

    >>> [t.text for t in tokenize("i: 1..64  # rows")]
    ['i', ':', '1', '..', '64', '\n', '']
    """
    tokens: list[Token] = []
    line, start, position = 1, 0, 0
    source = text if text.endswith("\n") else text + "\n"
    while position < len(source):
        match = _PATTERN.match(source, position)
        if match is None:
            bad = Token("bad", source[position], line, position - start + 1)
            raise _error(source, bad, f"{bad.text!r} begins nothing that a kernel's text knows")
        kind = str(match.lastgroup)
        if kind == "newline":
            if tokens and tokens[-1].kind != "newline":
                tokens.append(Token(kind, "\n", line, position - start + 1))
            line, start = line + 1, match.end()
        elif kind != "blank":
            tokens.append(Token(kind, match[0], line, position - start + 1))
        position = match.end()
    tokens.append(Token("end", "", line, 1))
    return tokens


def _error(text: str, token: Token, message: str) -> ParseError:
    lines = text.split("\n")
    shown = lines[token.line - 1] if token.line <= len(lines) else ""
    caret = " " * (token.column - 1) + "^"
    return ParseError(f"line {token.line}, column {token.column}: {message}\n  {shown}\n  {caret}")


class Cursor:
    """A position in the tokens of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokenize(text)
        self._position = 0

    @property
    def token(self) -> Token:
        """The next token."""
        return self._tokens[self._position]

    @property
    def following(self) -> Token:
        """The token after the next."""
        return self._tokens[min(self._position + 1, len(self._tokens) - 1)]

    def advance(self) -> Token:
        """Take the next token."""
        token = self.token
        self._position = min(self._position + 1, len(self._tokens) - 1)
        return token

    def at(self, *texts: str) -> bool:
        """Whether the next token is one of these names or signs."""
        return self.token.kind in ("name", "sign") and self.token.text in texts

    def accept(self, text: str) -> bool:
        """Take the next token if it is this name or sign."""
        found = self.at(text)
        if found:
            self.advance()
        return found

    def expect(self, text: str, context: str = "") -> Token:
        """Take this name or sign, or fail saying that it was expected."""
        if not self.at(text):
            raise self.error(f"expected {text!r}{context}, found {self.token}")
        return self.advance()

    def name(self, role: str) -> Token:
        """Take a name for ``role``."""
        if self.token.kind != "name":
            raise self.error(f"expected {role}, found {self.token}")
        return self.advance()

    def integer(self, role: str) -> int:
        """Take an integer with an optional minus sign."""
        negative = self.accept("-")
        if self.token.kind != "integer":
            raise self.error(f"expected {role}, an integer, found {self.token}")
        value = int(self.advance().text)
        return -value if negative else value

    def end_of_line(self) -> None:
        """Take the end of the line."""
        if self.token.kind == "end":
            return
        if self.token.kind != "newline":
            raise self.error(f"expected the end of the line, found {self.token}")
        self.advance()

    def error(self, message: str, token: Token | None = None) -> ParseError:
        """An error at ``token``, or at the next one."""
        return _error(self._text, self.token if token is None else token, message)
