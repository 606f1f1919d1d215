"""From the unfolded text of a graph (grammar: ``graphc.text``) back to the graph.

Every node's type is derived again by its op's rule and compared with what the text says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, NoReturn

import numpy as np

from graphc.arrays import ArrayData
from graphc.contraction import Affine, Condition, ContractSpec, Divisible, Inside, axis, constant
from graphc.errors import GraphcError, ParseError
from graphc.graph import SOURCES, STATES, TYPE_RULES, Graph, Node, Value
from graphc.records import dataclass
from graphc.state import StateCell
from graphc.text import print_graph
from graphc.types import DTYPES, Dim, DType, Extent, SourceLoc, TensorType

__all__ = ["parse_graph", "print_graph"]

_TOKEN = re.compile(
    r"""(?P<blank>[ \t]+)
      | (?P<comment>\#[^\n]*)
      | (?P<newline>\n)
      | (?P<float>\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)
      | (?P<integer>\d+)
      | (?P<name>(?<![\w)\]])%\d+|[A-Za-z_][\w.]*(?:~\d+)?)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<digest>@[0-9a-f]+)
      | (?P<sign>//|<=|>=|==|!=|<<|>>|[-+*/%&|^~<>()\[\]{},;:=])
    """,
    re.VERBOSE,
)
_PLACE = re.compile(
    r"#\s+(?:-|(?P<file>.+?):(?P<line>\d+))(?: (?P<block>[^~^\s]\S*))?(?: ~(?P<primal>\S+))?"
    r"(?: \^(?P<again>\d+))?\s*$"
)


def parse_graph(
    text: str,
    *,
    constants: Mapping[str, Any] | None = None,
    states: Mapping[str, Any] | None = None,
) -> Graph:
    r"""The graph that ``text`` says.

    r``constants`` gives arrays by content hash (``graphc.text.constants_of``), ``states`` the cells
    by name; without it, states get new cells of zeros. Raises ParseError with line, column and a
    caret.

    >>> import graphc.ops
    >>> text = "graph(x)\n  x: f32[2] = observed()\n  y: f32[2] = exp(x)\n  return y\n"
    >>> parse_graph(text).text() == text
    True
    """
    return _Parser(text, dict(constants or {}), dict(states or {})).graph()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int
    column: int


def _tokenize(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    line, start, position = 1, 0, 0
    source = text if text.endswith("\n") else text + "\n"
    while position < len(source):
        match = _TOKEN.match(source, position)
        column = position - start + 1
        if match is None:
            _fail(
                text, line, column, f"{source[position]!r} begins nothing that a graph's text knows"
            )
        kind = str(match.lastgroup)
        if kind == "newline":
            tokens.append(_Token(kind, "\n", line, column))
            line, start = line + 1, match.end()
        elif kind != "blank":
            tokens.append(_Token(kind, match[0], line, column))
        position = match.end()
    tokens.append(_Token("end", "", line, 1))
    return tokens


def _fail(text: str, line: int, column: int, message: str) -> NoReturn:
    lines = text.split("\n")
    shown = lines[line - 1] if line <= len(lines) else ""
    caret = " " * (column - 1) + "^"
    raise ParseError(f"line {line}, column {column}: {message}\n  {shown}\n  {caret}")


@dataclass
class _Scope:
    """The names of one graph or body."""

    values: dict[str, Value] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    updates: list[tuple[Value, Value]] = field(default_factory=list)


class _Parser:
    def __init__(self, text: str, constants: dict[str, Any], states: dict[str, Any]) -> None:
        self.text, self.constants, self.states = text, constants, states
        self.tokens = _tokenize(text)
        self.position = 0
        self.dims: dict[str, Dim] = {}
        self.scope = _Scope()
        self.place: re.Match[str] | None = None

    # ---- tokens

    @property
    def token(self) -> _Token:
        return self.tokens[self.position]

    def advance(self) -> _Token:
        token = self.token
        self.position = min(self.position + 1, len(self.tokens) - 1)
        return token

    def at(self, *texts: str) -> bool:
        return self.token.kind in ("name", "sign") and self.token.text in texts

    def accept(self, text: str) -> bool:
        found = self.at(text)
        if found:
            self.advance()
        return found

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(f"expected {text!r}, found {self.shown()}")

    def kind(self, kind: str, role: str) -> str:
        if self.token.kind != kind:
            self.fail(f"expected {role}, found {self.shown()}")
        return self.advance().text

    def shown(self) -> str:
        names = {"newline": "the end of the line", "end": "the end of the text"}
        return names.get(self.token.kind, repr(self.token.text))

    def fail(self, message: str, token: _Token | None = None) -> NoReturn:
        token = token or self.token
        _fail(self.text, token.line, token.column, message)

    def end_of_line(self) -> None:
        if self.token.kind == "comment":
            self.advance()
        if self.token.kind not in ("newline", "end"):
            self.fail(f"expected the end of the line, found {self.shown()}")
        while self.token.kind in ("newline", "comment"):
            self.advance()

    # ---- graphs

    def graph(self) -> Graph:
        while self.token.kind in ("newline", "comment"):
            self.advance()
        self.expect("graph")
        self.expect("(")
        names = self.names(")")
        self.expect(")")
        self.end_of_line()
        while self.accept("dim"):
            self.dim()
        outputs = self.lines()
        inputs = tuple(self.value(name) for name in names)
        if self.token.kind != "end":
            self.fail(f"expected the end of the text, found {self.shown()}")
        return Graph(inputs, outputs, tuple(self.scope.updates))

    def names(self, end: str) -> list[_Token]:
        found: list[_Token] = []
        while not self.at(end) and self.token.kind == "name":
            found.append(self.advance())
            if not self.accept(","):
                break
        return found

    def value(self, name: _Token) -> Value:
        if name.text not in self.scope.values:
            self.fail(f"{name.text!r} is not defined above", name)
        return self.scope.values[name.text]

    def dim(self) -> None:
        name = self.kind("name", "a dim's name")
        options: dict[str, Any] = {}
        while self.token.kind == "name":
            key = self.advance().text
            self.expect("=")
            flag = self.token.kind == "name"
            options[key] = (
                self.advance().text == "true" if flag else int(self.kind("integer", "an int"))
            )
        self.dims[name] = Dim(name, **options)
        self.end_of_line()

    def lines(self) -> tuple[Value, ...]:
        """Node and update lines, up to and with ``return``."""
        while not self.accept("return"):
            if self.accept("update"):
                state = self.value(self.name_token("a state"))
                self.expect("=")
                self.scope.updates.append((state, self.value(self.name_token("a value"))))
                self.end_of_line()
            else:
                self.node()
        found = self.names("\n")
        self.end_of_line()
        return tuple(self.value(name) for name in found)

    def name_token(self, role: str) -> _Token:
        if self.token.kind != "name":
            self.fail(f"expected {role}, found {self.shown()}")
        return self.advance()

    # ---- nodes

    def node(self) -> None:
        self.place = self.comment_of_line()
        place, names = self.place, self.names(":")
        if not names:
            self.fail(f"expected a node, found {self.shown()}")
        self.expect(":")
        types = [self.type()]
        while self.accept(","):
            types.append(self.type())
        self.expect("=")
        token = self.token
        op = self.op_name()
        self.expect("(")
        inputs = tuple(self.value(name) for name in self.names(")"))
        attrs = self.attrs(types) if self.accept(";") else {}
        self.expect(")")
        self.end_of_line()
        self.check_types(op, inputs, attrs, tuple(types), token)
        if op in STATES:
            attrs["state"] = self.cell(names[0].text, types[0], op)
        self.make(op, inputs, attrs, tuple(types), names, place)

    def op_name(self) -> str:
        """A name, or the signs of an operator up to the parenthesis."""
        if self.token.kind == "name":
            return self.advance().text
        if self.token.kind != "sign" or self.at("("):
            self.fail(f"expected an op, found {self.shown()}")
        return self.advance().text

    def check_types(
        self,
        op: str,
        inputs: tuple[Value, ...],
        attrs: dict[str, Any],
        types: tuple[TensorType, ...],
        token: _Token,
    ) -> None:
        if op not in TYPE_RULES:
            self.fail(f"no op named {op!r}", token)
        if op in SOURCES:
            return
        try:
            derived = TYPE_RULES[op](tuple(v.type for v in inputs), attrs)
        except GraphcError as error:
            self.fail(error.message, token)
        except KeyError as error:
            self.fail(f"{op} needs the attribute {error.args[0]}", token)
        if derived != types:
            self.fail(f"the types are {', '.join(map(str, derived))}", token)

    def make(
        self,
        op: str,
        inputs: tuple[Value, ...],
        attrs: dict[str, Any],
        types: tuple[TensorType, ...],
        names: list[_Token],
        place: re.Match[str] | None,
    ) -> None:
        if len(names) != len(types):
            self.fail(f"{len(names)} names for {len(types)} results", names[0])
        source, block, primal, again = None, "", None, 0
        if place:
            source = SourceLoc(place["file"], int(place["line"])) if place["file"] else None
            block = place["block"] or ""
            known = self.scope.values.get(place["primal"] or "")
            primal = known.node if known is not None else None
            again = int(place["again"] or 0)
        node = Node(op, inputs, attrs, types, block, source, primal=primal, again=again)
        for name, value in zip(names, node.outputs, strict=True):
            if name.text in self.scope.values:
                self.fail(f"{name.text!r} is defined twice", name)
            self.scope.values[name.text] = value
            if not name.text.startswith("%"):
                value.name = name.text.partition("~")[0]

    def comment_of_line(self) -> re.Match[str] | None:
        line = self.token.line
        for token in self.tokens[self.position :]:
            if token.line != line:
                return None
            if token.kind == "comment":
                return _PLACE.match(token.text)
        return None

    def cell(self, name: str, type: TensorType, op: str) -> Any:
        plain = name.partition("~")[0]
        if plain in self.states:
            return self.states[plain]
        return StateCell("" if plain.startswith("%") else plain, type, trainable=op == "parameter")

    # ---- types and sizes

    def type(self) -> TensorType:
        token = self.token
        dtype = DTYPES.get(self.kind("name", "a type"))
        if dtype is None:
            self.fail(f"{token.text!r} is no element type", token)
        self.expect("[")
        shape: list[Extent] = []
        while not self.at("]"):
            shape.append(self.formula(self.size_atom))
            if not self.accept(","):
                break
        self.expect("]")
        return TensorType(dtype, tuple(shape))

    def size_atom(self) -> Any:
        if self.token.kind == "integer":
            return int(self.advance().text)
        token = self.name_token("a size")
        if token.text not in self.dims:
            self.fail(f"no dim named {token.text!r}", token)
        return self.dims[token.text]

    def axis_atom(self) -> Any:
        if self.token.kind == "integer":
            return int(self.advance().text)
        return axis(self.name_token("an axis").text)

    def formula(self, atom: Any) -> Any:
        """Sums and differences of products of atoms."""
        total = self.product(atom) if not self.accept("-") else -1 * self.product(atom)
        while self.at("+", "-"):
            minus = self.advance().text == "-"
            term = self.product(atom)
            total = total - term if minus else total + term
        return total

    def product(self, atom: Any) -> Any:
        total = self.factor(atom)
        while self.at("*", "//", "%"):
            sign = self.advance().text
            other = self.factor(atom)
            if sign == "*":
                total = total * other
            else:
                total = total // other if sign == "//" else total % other
        return total

    def factor(self, atom: Any) -> Any:
        if self.accept("("):
            inner = self.formula(atom)
            self.expect(")")
            return inner
        return atom()

    # ---- attributes

    def attrs(self, types: list[TensorType]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.token.kind == "name":
            key = self.advance().text
            self.expect("=")
            found[key] = self.attr(types)
            if not self.accept(","):
                break
        return found

    def attr(self, types: list[TensorType]) -> Any:
        token = self.token
        if token.kind == "string":
            return json.loads(self.advance().text)
        if token.kind == "digest":
            return self.constant_named(self.advance().text[1:])
        if self.at("{"):
            return self.body()
        if self.at("["):
            return self.contraction()
        if self.at("("):
            return self.tuple_attr(types)
        words = {"true": True, "false": False, "none": None}
        if token.text in words:
            return words[self.advance().text]
        if token.text in DTYPES and token.text not in self.dims:
            return DTYPES[self.advance().text]
        if token.text == "array":
            return self.array(types[0])
        number = self.number()
        return number if number is not None else self.formula(self.size_atom)

    def number(self) -> int | float | None:
        """A number that no formula continues."""
        start, negative = self.position, self.accept("-")
        sign = -1 if negative else 1
        if self.at("inf", "nan"):
            return sign * float(self.advance().text)
        if self.token.kind == "float":
            return sign * float(self.advance().text)
        if self.token.kind == "integer":
            value = sign * int(self.advance().text)
            if not self.at("+", "-", "*", "//", "%"):
                return value
        self.position = start
        return None

    def tuple_attr(self, types: list[TensorType]) -> Any:
        """A tuple; ``(B+1)//2`` begins with a parenthesis too, and is told by what follows."""
        start = self.position
        self.expect("(")
        items = []
        comma = False
        while not self.at(")"):
            items.append(self.attr(types))
            if not self.accept(","):
                break
            comma = True
        self.expect(")")
        if len(items) == 1 and not comma:
            self.position = start
            return self.formula(self.size_atom)
        return tuple(items)

    def constant_named(self, digest: str) -> ArrayData:
        if digest not in self.constants:
            self.fail(f"the constant @{digest} is not among the given constants")
        return ArrayData(np.asarray(self.constants[digest]))

    def array(self, type: TensorType) -> ArrayData:
        self.advance()
        self.expect("(")
        items: list[Any] = []
        while not self.at(")"):
            items.append(self.attr([type]))
            if not self.accept(","):
                break
        self.expect(")")
        return ArrayData(np.array(items, type.dtype.numpy).reshape(type.shape))

    def body(self) -> Graph:
        outer, self.scope = self.scope, _Scope()
        self.expect("{")
        self.end_of_line()
        self.expect("(")
        inputs: list[Value] = []
        while not self.at(")"):
            name = self.name_token("an argument")
            self.expect(":")
            self.make("argument", (), {}, (self.type(),), [name], None)
            inputs.append(self.scope.values[name.text])
            if not self.accept(","):
                break
        self.expect(")")
        self.end_of_line()
        outputs = self.lines()
        self.expect("}")
        self.scope = outer
        return Graph(tuple(inputs), outputs)

    # ---- contractions

    def contraction(self) -> ContractSpec:
        self.expect("[")
        axes = self.axes(";")
        self.expect(";")
        reduced = self.axes("]")
        self.expect("]")
        self.expect("(")
        a = self.operand("a")
        self.expect(",")
        b = self.operand("b")
        self.expect(")")
        where: list[Condition] = []
        if self.accept("where"):
            where.append(self.condition())
            while self.at(",") and not self.names_attr_next():
                self.advance()
                where.append(self.condition())
        rounded = self.element_type() if self.accept("of") else None
        dtype = self.element_type() if self.accept("in") else None
        return ContractSpec(axes, reduced, a, b, tuple(where), dtype, rounded)

    def element_type(self) -> DType:
        return DTYPES[self.kind("name", "an element type")]

    def names_attr_next(self) -> bool:
        """Whether the comma leads to another attribute, ``name=``."""
        first, second = self.tokens[self.position + 1 : self.position + 3]
        return first.kind == "name" and second.text == "="

    def axes(self, end: str) -> tuple[tuple[str, Extent], ...]:
        found = []
        while not self.at(end):
            name = self.kind("name", "an axis")
            self.expect(":")
            found.append((name, self.formula(self.size_atom)))
            if not self.accept(","):
                break
        return tuple(found)

    def operand(self, name: str) -> tuple[Affine, ...]:
        self.expect(name)
        self.expect("[")
        found = []
        while not self.at("]"):
            found.append(self.affine())
            if not self.accept(","):
                break
        self.expect("]")
        return tuple(found)

    def affine(self) -> Affine:
        value = self.formula(self.axis_atom)
        return value if isinstance(value, Affine) else constant(value)

    def condition(self) -> Condition:
        """``index % int == 0``, or ``0 <= index < extent``."""
        if self.token.text == "0" and self.tokens[self.position + 1].text == "<=":
            self.advance()
            self.expect("<=")
            index = self.affine()
            self.expect("<")
            return Inside(index, self.formula(self.size_atom))
        index = self.formula_factor()
        self.expect("%")
        by = int(self.kind("integer", "an int"))
        self.expect("==")
        self.kind("integer", "0")
        return Divisible(index, by)

    def formula_factor(self) -> Affine:
        value = self.factor(self.axis_atom)
        return value if isinstance(value, Affine) else constant(value)
