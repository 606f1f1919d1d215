"""Reads the text of a kernel; the grammar heads ``graphc/kernel/text.py``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from graphc.errors import DTypeError, KernelError
from graphc.kernel import build
from graphc.kernel.monoids import MONOIDS, Number
from graphc.kernel.scalar_ops import (
    AND,
    COMPARISON,
    NOT,
    OR,
    SCALAR_OPS,
    UNARY,
)
from graphc.kernel.terms import (
    AxisIndex,
    Kernel,
    KernelTensor,
    Result,
    Scalar,
    SizeSymbol,
    Statement,
    Term,
)
from graphc.kernel.tokens import Cursor, Token
from graphc.types import DTYPES, Dim, DType, Extent, TensorType

__all__ = ["parse_extent", "parse_kernel"]

Operand = Term | Number

#: the infix operators by how tightly they bind, and by their spelling
_INFIX: dict[int, dict[str, str]] = {}
for _op in SCALAR_OPS.values():
    if _op.infix:
        _INFIX.setdefault(_op.precedence, {})[_op.symbol] = _op.name
_CALLS = {op.symbol for op in SCALAR_OPS.values() if not op.infix and not op.prefix}
_NUMBERS = {"true": True, "false": False, "inf": float("inf"), "nan": float("nan")}


def parse_kernel(text: str) -> Kernel:
    r"""The kernel that ``text`` says. ParseError names line and column of what it cannot read.

    >>> parse_kernel("kernel k\n axes i:4\n out y f32[4]\n store y[i] = 1").outputs[0].name
    Traceback (most recent call last):
    graphc.errors.ParseError: line 4, column 2: store y: 1 is not a literal of f32
       store y[i] = 1
       ^
    """
    return _Parser(text).kernel()


def parse_extent(text: str, sizes: Sequence[SizeSymbol] = ()) -> Extent:
    """The extent that ``text`` says, of declared sizes.

    >>> parse_extent("(B+63)//64*4", [SizeSymbol("B")])
    4*((B+63)//64)
    """
    parser = _Parser(text)
    for size in sizes:
        parser.sizes[size.name], parser.dims[size.name] = size, build.size_dim(size)
    found = parser.extent()
    parser.cursor.end_of_line()
    if parser.cursor.token.kind != "end":
        raise parser.cursor.error(f"expected the end, found {parser.cursor.token}")
    return found


class _Parser:
    """The state of reading one kernel: what is declared so far, and the cursor."""

    def __init__(self, text: str) -> None:
        self.cursor = Cursor(text)
        self.axes: dict[str, Extent] = {}
        self.sizes: dict[str, SizeSymbol] = {}
        self.dims: dict[str, Dim] = {}
        self.scalars: dict[str, Scalar] = {}
        self.inputs: dict[str, KernelTensor] = {}
        self.outputs: dict[str, KernelTensor] = {}
        self.values: dict[str, Term] = {}
        self.names: dict[Term, str] = {}
        self.indices: dict[str, AxisIndex] = {}
        self.statements: list[Statement] = []
        self.parallel: tuple[Token, tuple[str, ...]] | None = None

    def kernel(self) -> Kernel:
        cursor = self.cursor
        cursor.expect("kernel", " and the kernel's name")
        name = cursor.name("the kernel's name").text
        cursor.end_of_line()
        while cursor.token.kind != "end":
            first = cursor.token
            try:
                self.line()
            except (DTypeError, KernelError) as error:
                raise cursor.error(error.message, first) from error
            cursor.end_of_line()
        made = build.kernel(
            name,
            list(self.axes.items()),
            list(self.inputs.values()),
            list(self.outputs.values()),
            self.statements,
            self.names,
            list(self.sizes.values()),
            list(self.scalars.values()),
        )
        self.check_parallel(made)
        return made

    def check_parallel(self, made: Kernel) -> None:
        if self.parallel is None:
            return
        token, stated = self.parallel
        if stated != made.parallel:
            derived = " ".join(made.parallel) or "none"
            raise self.cursor.error(f"the parallel axes of this kernel are: {derived}", token)

    def line(self) -> None:
        """One line: a declaration, a statement, or a definition."""
        declarations: dict[str, Callable[[], None]] = {
            "size": self.size_line,
            "scalar": self.scalar_line,
            "axes": self.axes_line,
            "parallel": self.parallel_line,
            "in": lambda: self.tensors_line(self.inputs),
            "out": lambda: self.tensors_line(self.outputs),
            "store": self.store_line,
            "check": self.check_line,
        }
        cursor = self.cursor
        word = cursor.token
        defines = cursor.following.kind == "sign" and cursor.following.text in ("=", ",")
        if word.kind == "name" and word.text in declarations and not defines:
            cursor.advance()
            declarations[word.text]()
        elif word.kind == "name" and defines:
            self.definition()
        else:
            wanted = "a definition `value = ..`, store, check, or a declaration"
            raise cursor.error(f"expected {wanted}, found {word}")

    # ---- declarations

    def declare(self, role: str) -> str:
        """Take a name that no value, axis, size or scalar has."""
        token = self.cursor.name(role)
        if token.text in build.RESERVED:
            raise self.cursor.error(f"{token.text!r} is a word of the grammar, not {role}", token)
        for kind, known in (
            ("axis", self.axes),
            ("size", self.sizes),
            ("scalar", self.scalars),
            ("value", self.values),
        ):
            if token.text in known:
                raise self.cursor.error(f"{token.text!r} is already the name of a {kind}", token)
        return token.text

    def size_line(self) -> None:
        name = self.declare("the size's name")
        low, high = self.bounds("a size")
        multiple = self.cursor.integer("the multiple") if self.cursor.accept("by") else 1
        symbol = SizeSymbol(name, 1 if low is None else low, high, multiple)
        try:
            self.dims[name] = build.size_dim(symbol)
        except ValueError as error:
            raise self.cursor.error(str(error)) from error
        self.sizes[name] = symbol

    def scalar_line(self) -> None:
        name = self.declare("the scalar's name")
        dtype = self.dtype()
        here = self.cursor.token
        low: int | None = None
        high: Extent | None = None
        if here.kind not in ("newline", "end"):
            low = self.least("a scalar")
            if self.cursor.token.kind not in ("newline", "end"):
                high = self.extent()
            if not dtype.is_integer:
                raise self.cursor.error(f"bounds are for integers, not {dtype}", here)
        self.scalars[name] = Scalar(name, dtype, low, high)

    def bounds(self, what: str) -> tuple[int | None, int | None]:
        """``[min]..[max]``."""
        cursor = self.cursor
        low = self.least(what)
        numeric = cursor.token.kind == "integer" or cursor.at("-")
        return low, cursor.integer("the greatest value") if numeric else None

    def least(self, what: str) -> int | None:
        """``[min]..``."""
        cursor = self.cursor
        low = None if cursor.at("..") else cursor.integer(f"the least value of {what}")
        cursor.expect("..", " and the greatest value")
        return low

    def axes_line(self) -> None:
        while self.cursor.token.kind not in ("newline", "end"):
            name = self.declare("an axis")
            self.cursor.expect(":", " and the axis's extent")
            self.axes[name] = self.extent()

    def parallel_line(self) -> None:
        token, names = self.cursor.token, []
        while self.cursor.token.kind == "name":
            names.append(self.axis_name())
        self.parallel = token, tuple(names)

    def tensors_line(self, tensors: dict[str, KernelTensor]) -> None:
        cursor = self.cursor
        while cursor.token.kind not in ("newline", "end"):
            token = cursor.name("a tensor's name")
            if token.text in self.inputs or token.text in self.outputs:
                raise cursor.error(f"{token.text!r} is already the name of a tensor", token)
            dtype = self.dtype()
            shape = tuple(self.bracketed(self.extent))
            init = None
            if tensors is self.outputs and cursor.accept("init"):
                init = self.init_number(dtype)
            tensors[token.text] = KernelTensor(token.text, TensorType(dtype, shape), init)
            if not cursor.accept(","):
                break

    def init_number(self, dtype: DType) -> int | float:
        token, negative = self.cursor.token, self.cursor.accept("-")
        value = self.atom()
        if isinstance(value, Term):
            raise self.cursor.error("`init` takes a number", token)
        made = build.const(-value if negative else value, dtype).value
        return int(made) if isinstance(made, bool) else made

    def bracketed(self, item: Callable[[], Any]) -> list[Any]:
        """``[item, ..]``, maybe empty."""
        cursor, items = self.cursor, []
        cursor.expect("[")
        while not cursor.at("]"):
            items.append(item())
            if not cursor.accept(","):
                break
        cursor.expect("]")
        return items

    def dtype(self) -> DType:
        token = self.cursor.name("a dtype")
        if token.text not in DTYPES:
            known = " ".join(DTYPES)
            raise self.cursor.error(f"{token.text!r} is no dtype; one of {known}", token)
        return DTYPES[token.text]

    def extent(self) -> Extent:
        """``extent := term {+- term}``, ``term := factor {* // % factor}``."""
        cursor = self.cursor
        total = self.extent_term()
        while cursor.at("+", "-"):
            sign = cursor.advance().text
            other = self.extent_term()
            total = total + other if sign == "+" else total - other
        return total

    def extent_term(self) -> Extent:
        cursor = self.cursor
        product = self.extent_factor()
        while cursor.at("*", "//", "%"):
            token = cursor.advance()
            other = self.extent_factor()
            if token.text == "*":
                product = product * other
            elif not isinstance(other, int) or other <= 0:
                raise cursor.error("an extent divides by a positive integer", token)
            else:
                product = product // other if token.text == "//" else product % other
        return product

    def extent_factor(self) -> Extent:
        cursor = self.cursor
        if cursor.accept("("):
            inner = self.extent()
            cursor.expect(")")
            return inner
        if cursor.accept("-"):
            return 0 - self.extent_factor()
        if cursor.token.kind == "integer":
            return int(cursor.advance().text)
        token = cursor.name("an extent: an integer or a size")
        if token.text not in self.dims:
            raise cursor.error(f"{token.text!r} is not a declared size", token)
        return self.dims[token.text]

    # ---- lines of the body

    def tensor(self, tensors: dict[str, KernelTensor], role: str) -> KernelTensor:
        token = self.cursor.name(role)
        if token.text not in tensors:
            known = ", ".join(tensors) or "none"
            raise self.cursor.error(f"{token.text!r} is not {role}; there are: {known}", token)
        return tensors[token.text]

    def store_line(self) -> None:
        cursor = self.cursor
        add = cursor.at("add") and cursor.following.kind == "name" and bool(cursor.advance())
        target = self.tensor(self.outputs, "an output")
        index = self.bracketed(self.expression)
        cursor.expect("=", " and the value to store")
        value = self.expression()
        pred = self.expression() if cursor.accept("if") else None
        self.statements.append(build.store(target, index, value, pred, add))

    def check_line(self) -> None:
        pred = self.term(self.expression())
        token = self.cursor.token
        if token.kind != "string":
            raise self.cursor.error(f'expected the "message" of the check, found {token}')
        self.cursor.advance()
        self.statements.append(build.check(pred, _unescaped(token.text[1:-1])))

    def definition(self) -> None:
        cursor = self.cursor
        token = cursor.token
        names = [self.declare("a value's name")]
        while cursor.accept(","):
            names.append(self.declare("a value's name"))
        cursor.expect("=", " and what the value is")
        terms = self.right_side()
        if len(terms) != len(names) or len(set(names)) != len(names):
            raise cursor.error(f"{len(terms)} results need as many different names", token)
        for name, term in zip(names, terms, strict=True):
            self.values[name] = term
            self.names.setdefault(term, name)

    def right_side(self) -> tuple[Term, ...]:
        cursor = self.cursor
        if cursor.accept("load"):
            return (self.load(),)
        if cursor.accept("contract"):
            return (self.contract(),)
        if cursor.accept("reduce"):
            return self.reduce()
        if cursor.accept("scan"):
            return self.scan()
        return (self.term(self.expression()),)

    def load(self) -> Term:
        tensor = self.tensor(self.inputs, "an input")
        index = self.bracketed(self.expression)
        pred = self.expression() if self.cursor.accept("if") else None
        fill = self.expression() if self.cursor.accept("else") else None
        return build.load(tensor, index, pred, fill)

    def reduce(self) -> tuple[Result, ...]:
        merge = self.cursor.accept("merge")
        monoid = self.monoid()
        args = self.arguments()
        over = self.over()
        where = self.expression() if self.cursor.accept("where") else None
        return build.reduce(monoid, args, over, where, merge)

    def contract(self) -> Term:
        a = self.expression()
        self.cursor.expect(",", " and the second operand")
        b = self.expression()
        over = self.over()
        where = self.expression() if self.cursor.accept("where") else None
        dtype = self.dtype() if self.cursor.accept("in") else None
        return build.contract(a, b, over, where, dtype)

    def scan(self) -> tuple[Result, ...]:
        monoid = self.monoid()
        args = self.arguments()
        self.cursor.expect("over", " and the axis")
        axis = self.axis_name()
        reverse = self.cursor.accept("reverse")
        return build.scan(monoid, args, axis, reverse, self.cursor.accept("exclusive"))

    def monoid(self) -> str:
        token = self.cursor.name("a monoid")
        if token.text not in MONOIDS:
            known = " ".join(MONOIDS)
            raise self.cursor.error(f"{token.text!r} is no monoid; one of {known}", token)
        return token.text

    def arguments(self) -> list[Operand]:
        args = [self.expression()]
        while self.cursor.accept(";") or self.cursor.accept(","):
            args.append(self.expression())
        return args

    def over(self) -> list[str]:
        self.cursor.expect("over", " and the axes")
        axes = [self.axis_name()]
        while self.cursor.accept(","):
            axes.append(self.axis_name())
        return axes

    def axis_name(self) -> str:
        token = self.cursor.name("an axis")
        if token.text not in self.axes:
            known = ", ".join(self.axes)
            raise self.cursor.error(f"{token.text!r} is not an axis; there are: {known}", token)
        return token.text

    # ---- expressions: Python numbers are literals that nothing has typed yet

    def term(self, operand: Operand) -> Term:
        return operand if isinstance(operand, Term) else build.const(operand)

    def expression(self, binding: int = OR) -> Operand:
        """An expression of operators that bind at least as tightly as ``binding``."""
        if binding == NOT:
            if self.cursor.accept("not"):
                return build.apply("not", self.expression(NOT))
            return self.comparison()
        if binding == UNARY:
            return self.unary()
        left = self.expression(binding + 1)
        while self.cursor.at(*_INFIX[binding]):
            op = _INFIX[binding][self.cursor.advance().text]
            left = build.apply(op, left, self.expression(binding + 1))
        return left

    def comparison(self) -> Operand:
        """``a < b <= c`` is ``a < b and b <= c``."""
        left = self.expression(COMPARISON + 1)
        joined: Operand | None = None
        while self.cursor.at(*_INFIX[COMPARISON]):
            op = _INFIX[COMPARISON][self.cursor.advance().text]
            right = self.expression(COMPARISON + 1)
            compared = build.apply(op, left, right)
            joined = compared if joined is None else build.apply("and", joined, compared)
            left = right
        return left if joined is None else joined

    def unary(self) -> Operand:
        if self.cursor.accept("-"):
            operand = self.unary()
            if not isinstance(operand, Term) and not isinstance(operand, bool):
                return -operand
            return build.apply("neg", operand)
        if self.cursor.accept("~"):
            return build.apply("~", self.unary())
        return self.atom()

    def atom(self) -> Operand:
        cursor = self.cursor
        token = cursor.token
        if token.kind == "integer":
            return int(cursor.advance().text)
        if token.kind == "float":
            return float(cursor.advance().text)
        if cursor.accept("("):
            inner = self.expression()
            cursor.expect(")")
            return inner
        if token.kind != "name" or (token.text in build.RESERVED and not self.is_word(token)):
            raise cursor.error(f"expected a value, found {token}")
        cursor.advance()
        if token.text in _NUMBERS:
            return _NUMBERS[token.text]
        return self.call(token) if cursor.at("(") else self.value(token)

    def is_word(self, token: Token) -> bool:
        return token.text in _NUMBERS or token.text == "where"

    def call(self, token: Token) -> Operand:
        cursor = self.cursor
        cursor.expect("(")
        if token.text == "size":
            extent = self.extent()
            cursor.expect(")")
            return build.size(extent)
        if token.text not in _CALLS:
            near = difflib.get_close_matches(token.text, _CALLS)
            hint = f"; do you mean {near[0]}?" if near else ""
            raise cursor.error(f"no scalar op named {token.text!r}{hint}", token)
        operands = [self.expression()]
        while cursor.accept(","):
            operands.append(self.expression())
        cursor.expect(")")
        return build.apply(token.text, *operands)

    def value(self, token: Token) -> Term:
        name = token.text
        if name in self.values:
            return self.values[name]
        if name in self.axes:
            return self.indices.setdefault(name, build.axis(name))
        if name in self.dims:
            return build.size(self.dims[name])
        if name in self.scalars:
            return build.scalar(self.scalars[name])
        near = difflib.get_close_matches(name, [*self.values, *self.axes, *self.dims])
        hint = f"; do you mean {near[0]}?" if near else ""
        raise self.cursor.error(f"unknown name {name!r}{hint}", token)


def _unescaped(text: str) -> str:
    pieces = text.split("\\\\")
    return "\\".join(p.replace("\\n", "\n").replace('\\"', '"') for p in pieces)


assert (AND, NOT, COMPARISON) == (OR + 1, OR + 2, OR + 3)  # what `expression` climbs
