"""Schedules as text, by the grammar of ``graphc.schedule``.

``parse_schedule(print_schedule(s))`` prints the same again and equals ``s`` in all but its kernels,
which compare by identity and are equal in text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from graphc.errors import ParseError
from graphc.kernel.terms import Kernel, KernelTensor, SizeSymbol
from graphc.kernel.text import parse_kernel, print_kernel
from graphc.routines import Routine
from graphc.schedule import (
    BUFFER_KINDS,
    Barrier,
    Body,
    Buffer,
    CheckInfo,
    Commit,
    Copy,
    If,
    Launch,
    Loop,
    Renew,
    Schedule,
    Statement,
    While,
)
from graphc.types import DTYPES, Dim, Extent, SourceLoc, TensorType

__all__ = ["parse_schedule", "print_schedule", "print_statement"]

T = TypeVar("T")


# ---- printing


def print_schedule(schedule: Schedule) -> str:
    """The schedule's text; each kernel once.

    >>> from graphc.types import float32
    >>> four = TensorType(float32, (4,))
    >>> buffers = Buffer("x", "argument", four), Buffer("y", "output", four)
    >>> print(print_schedule(Schedule("same", buffers, body=(Copy("x", "y"),))))
    schedule same
      argument x f32[4]
      output y f32[4]
    run {
      copy x -> y
    }
    """
    lines = [f"schedule {_name(schedule.name)}"]
    lines += [f"  {_size(dim)}" for dim in schedule.sizes]
    lines += [f"  {_buffer(b)}" for b in schedule.buffers]
    lines += [f"  {_check(i, c)}" for i, c in enumerate(schedule.checks)]
    lines += [f"  {routine}" for routine in schedule.routines]
    for kernel in schedule.kernels:
        lines += ["", print_kernel(kernel).rstrip(), ""]
    lines += ["run {", *_body(schedule.body, "  "), "}"]
    return "\n".join(lines)


def print_statement(statement: Statement) -> str:
    """A statement as in the schedule's text, over several lines if it has a body."""
    return "\n".join(_statement(statement, ""))


_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")


def _name(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else _string(name)


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(map(_name, names))


def _size(dim: Dim) -> str:
    upper = "" if dim.max is None else str(dim.max)
    multiple = "" if dim.multiple_of == 1 else f" by {dim.multiple_of}"
    return f"size {dim.name} {dim.min}..{upper}{multiple}"


def _buffer(buffer: Buffer) -> str:
    text = f"{buffer.kind} {_name(buffer.name)} {buffer.type}"
    if buffer.place is not None:
        text += f" in {_name(buffer.place)}"
    if buffer.offset is not None:
        text += f" at {buffer.offset}"
    usual = Buffer(buffer.name, buffer.kind, buffer.type, place=buffer.place).alignment
    return text if buffer.alignment == usual else f"{text} align {buffer.alignment}"


def _check(number: int, check: CheckInfo) -> str:
    return f"check {number} {_string(check.message)}{_source(check.source)}"


def _source(source: SourceLoc | None) -> str:
    if source is None:
        return ""
    function = f" {_string(source.function)}" if source.function else ""
    return f" source {_string(source.file)}:{source.line}{function}"


def _body(body: Body, indent: str) -> Iterator[str]:
    for statement in body:
        yield from _statement(statement, indent)


def _statement(statement: Statement, indent: str) -> Iterator[str]:
    match statement:
        case Launch():
            yield indent + _launch(statement)
        case Copy():
            yield f"{indent}copy {_name(statement.source)} -> {_name(statement.target)}"
        case Barrier():
            yield f"{indent}barrier"
        case Commit():
            yield f"{indent}commit"
        case Loop():
            yield f"{indent}loop {_name(statement.counter)} < {statement.length} {{"
            yield from _body(statement.body, indent + "  ")
            yield indent + "}"
        case While():
            counter = "" if statement.counter is None else f" counter {_name(statement.counter)}"
            limit = "" if statement.max_steps is None else f" max {statement.max_steps}"
            yield f"{indent}while {_name(statement.predicate)}{counter}{limit} {{"
            yield from _body(statement.body, indent + "  ")
            yield indent + "}"
        case If():
            yield f"{indent}if {_name(statement.predicate)} {{"
            yield from _body(statement.then, indent + "  ")
            if statement.otherwise:
                yield indent + "} else {"
                yield from _body(statement.otherwise, indent + "  ")
            yield indent + "}"
        case Renew():
            yield f"{indent}renew ({_names(statement.states)}) {{"
            yield from _body(statement.body, indent + "  ")
            yield indent + "}"


def _launch(launch: Launch) -> str:
    arguments = f"{_names(launch.inputs)} -> {_names(launch.outputs)}".strip()
    text = f"launch {_name(launch.kernel)}({arguments})"
    if launch.sizes:
        text += f" sizes({', '.join(map(str, launch.sizes))})"
    if launch.scalars:
        text += f" scalars({_names(launch.scalars)})"
    if launch.check_base:
        text += f" checks {launch.check_base}"
    if launch.flops != 0:
        text += f" flops {launch.flops}"
    if launch.block:
        text += f" block {_string(launch.block)}"
    return text + _source(launch.source)


# ---- reading


def parse_schedule(text: str) -> Schedule:
    """The schedule that a text says; ParseError names line and column."""
    kernels, rest = _take_kernels(text)
    return _Parser(rest).schedule(kernels)


def _take_kernels(text: str) -> tuple[tuple[Kernel, ...], str]:
    """The kernels, and the text with their lines emptied, so that line numbers stay."""
    lines = text.split("\n")
    kernels: list[Kernel] = []
    i = 0
    while i < len(lines):
        if not re.match(r"kernel\b", lines[i]):
            i += 1
            continue
        end = i + 1
        while end < len(lines) and (not lines[end].strip() or lines[end][0].isspace()):
            end += 1
        try:
            kernels.append(parse_kernel("\n".join(lines[i:end]) + "\n"))
        except ParseError as error:
            message = f"in the kernel that begins at line {i + 1}: {error.message}"
            raise ParseError(message) from error
        lines[i:end] = [""] * (end - i)
        i = end
    return tuple(kernels), "\n".join(lines)


_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)
      | (?P<integer>\d+)
      | (?P<name>[A-Za-z_]\w*(?:\.\w+)*)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<sign>->|\.\.|//|[-+*%()\[\]{},:<=])
    """,
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int
    column: int


def _tokens(text: str) -> Iterator[_Token]:
    position, line, start = 0, 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            column = position - start + 1
            raise ParseError(f"line {line}, column {column}: cannot read {text[position]!r}")
        kind = str(match.lastgroup)
        if kind != "blank":
            yield _Token(kind, match[0], line, position - start + 1)
        newlines = match[0].count("\n")
        if newlines:
            line += newlines
            start = match.start() + match[0].rindex("\n") + 1
        position = match.end()
    yield _Token("end", "", line, position - start + 1)


class _Parser:
    """Recursive descent over the tokens; line ends mean nothing."""

    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.position = 0
        self.dims: dict[str, Dim] = {}

    # -- tokens
    @property
    def token(self) -> _Token:
        return self.tokens[self.position]

    def error(self, expected: str) -> ParseError:
        found = repr(self.token.text) if self.token.text else "the end"
        where = f"line {self.token.line}, column {self.token.column}"
        return ParseError(f"{where}: expected {expected}, found {found}")

    def advance(self) -> _Token:
        token = self.token
        self.position = min(self.position + 1, len(self.tokens) - 1)
        return token

    def accept(self, text: str) -> bool:
        if self.token.kind not in ("name", "sign") or self.token.text != text:
            return False
        self.advance()
        return True

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.error(repr(text))

    def integer(self) -> int:
        if self.token.kind != "integer":
            raise self.error("an integer")
        return int(self.advance().text)

    def string(self) -> str:
        if self.token.kind != "string":
            raise self.error("a string")
        body = self.advance().text[1:-1]
        return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else str(m[1]), body)

    def name(self) -> str:
        if self.token.kind == "string":
            return self.string()
        if self.token.kind != "name":
            raise self.error("a name")
        return self.advance().text

    def names(self, end: str) -> tuple[str, ...]:
        return self.listed(self.name, end)

    def listed(self, item: Callable[[], T], end: str) -> tuple[T, ...]:
        items: list[T] = []
        while not self.accept(end):
            if items:
                self.expect(",")
            items.append(item())
        return tuple(items)

    # -- declarations
    def schedule(self, kernels: tuple[Kernel, ...]) -> Schedule:
        self.expect("schedule")
        name = self.name()
        while self.accept("size"):
            self.size()
        buffers: list[Buffer] = []
        while self.token.text in BUFFER_KINDS:
            buffers.append(self.buffer())
        checks: list[CheckInfo] = []
        while self.accept("check"):
            checks.append(self.check(len(checks)))
        routines: list[Routine] = []
        while self.accept("routine"):
            routines.append(self.routine())
        self.expect("run")
        body = self.body()
        if self.token.kind != "end":
            raise self.error("the end")
        sizes = tuple(self.dims.values())
        return Schedule(name, tuple(buffers), kernels, body, tuple(checks), sizes, tuple(routines))

    def size(self) -> None:
        name, low = self.name(), self.integer()
        self.expect("..")
        high = self.integer() if self.token.kind == "integer" else None
        multiple = self.integer() if self.accept("by") else 1
        dim = Dim(name, min=low, max=high, multiple_of=multiple, specialize=False)
        self.dims[name] = dim

    def buffer(self) -> Buffer:
        kind, name, type_ = self.advance().text, self.name(), self.type()
        place = self.name() if self.accept("in") else None
        offset = self.integer() if self.accept("at") else None
        alignment = self.integer() if self.accept("align") else 0
        return Buffer(name, kind, type_, offset, alignment, place)

    def type(self) -> TensorType:
        if self.token.text not in DTYPES:
            raise self.error(f"an element type ({', '.join(DTYPES)})")
        dtype = DTYPES[self.advance().text]
        self.expect("[")
        return TensorType(dtype, self.listed(self.extent, "]"))

    def check(self, number: int) -> CheckInfo:
        if self.token.text != str(number):
            raise self.error(f"check number {number}")
        self.advance()
        return CheckInfo(self.string(), self.source())

    def routine(self) -> Routine:
        name = self.name()
        self.expect("[")
        own = {n: Dim(n, min=0, specialize=False) for n in self.names("]")}
        self.expect("=")
        rule = self.name()
        self.expect("(")
        outer, self.dims = self.dims, own
        inputs = self.listed(self.tensor, "->")
        outputs = [self.tensor()]
        options: list[tuple[str, int]] = []
        while not self.accept(")"):
            self.expect(",")
            word = self.name()
            if self.token.kind == "integer":
                options.append((word, self.integer()))
            else:
                outputs.append(KernelTensor(word, self.type()))
        self.dims = outer
        sizes = tuple(SizeSymbol(d.name, d.min, d.max, d.multiple_of) for d in own.values())
        return Routine(name, rule, inputs, tuple(outputs), sizes, tuple(options))

    def tensor(self) -> KernelTensor:
        return KernelTensor(self.name(), self.type())

    def source(self) -> SourceLoc | None:
        if not self.accept("source"):
            return None
        file = self.string()
        self.expect(":")
        line = self.integer()
        return SourceLoc(file, line, self.string() if self.token.kind == "string" else "")

    # -- extents: sums of products
    def extent(self) -> Extent:
        negative = self.accept("-")
        total = self.product()
        if negative:
            total = 0 - total
        while self.token.text in ("+", "-"):
            sign, term = self.advance().text, self.product()
            total = total + term if sign == "+" else total - term
        return total

    def product(self) -> Extent:
        value = self.factor()
        while self.token.text in ("*", "//", "%"):
            sign = self.advance().text
            if sign == "*":
                value = value * self.factor()
            elif sign == "//":
                value = value // self.integer()
            else:
                value = value % self.integer()
        return value

    def factor(self) -> Extent:
        if self.accept("("):
            value = self.extent()
            self.expect(")")
            return value
        if self.token.kind == "integer":
            return self.integer()
        if self.token.text not in self.dims:
            raise self.error(f"an int or a size ({', '.join(self.dims) or 'none is declared'})")
        return self.dims[self.advance().text]

    # -- statements
    def body(self) -> Body:
        self.expect("{")
        statements: list[Statement] = []
        while not self.accept("}"):
            statements.append(self.statement())
        return tuple(statements)

    def statement(self) -> Statement:
        readers: dict[str, Callable[[], Statement]] = {
            "launch": self.launch,
            "copy": self.copy,
            "loop": self.loop,
            "while": self.while_,
            "if": self.if_,
            "renew": self.renew,
            "barrier": Barrier,
            "commit": Commit,
        }
        reader = readers.get(self.token.text)
        if reader is None:
            raise self.error(f"a statement ({', '.join(readers)})")
        self.advance()
        return reader()

    def launch(self) -> Launch:
        kernel = self.name()
        self.expect("(")
        inputs = self.names("->")
        outputs = self.names(")")
        sizes: tuple[Extent, ...] = ()
        scalars: tuple[str, ...] = ()
        if self.accept("sizes"):
            self.expect("(")
            sizes = self.listed(self.extent, ")")
        if self.accept("scalars"):
            self.expect("(")
            scalars = self.names(")")
        base = self.integer() if self.accept("checks") else 0
        flops = self.extent() if self.accept("flops") else 0
        block = self.string() if self.accept("block") else ""
        return Launch(kernel, inputs, outputs, sizes, scalars, base, flops, block, self.source())

    def copy(self) -> Copy:
        source = self.name()
        self.expect("->")
        return Copy(source, self.name())

    def loop(self) -> Loop:
        counter = self.name()
        self.expect("<")
        return Loop(counter, self.extent(), self.body())

    def while_(self) -> While:
        predicate = self.name()
        counter = self.name() if self.accept("counter") else None
        limit = self.extent() if self.accept("max") else None
        return While(predicate, self.body(), counter, limit)

    def if_(self) -> If:
        predicate, then = self.name(), self.body()
        return If(predicate, then, self.body() if self.accept("else") else ())

    def renew(self) -> Renew:
        self.expect("(")
        return Renew(self.names(")"), self.body())
