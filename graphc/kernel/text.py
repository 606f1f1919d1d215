r"""Kernels as text: ``print_kernel`` and ``parse_kernel``, each other's inverse.

The whole grammar (`#` begins a comment; [..] is optional, {..} repeated, blanks separate nothing)::

    kernel NAME
      {size NAME [min]..[max] [by multiple]}            a run-time extent
      {scalar NAME dtype [[min]..[extent]]}             a run-time scalar; bounds inclusive
      axes {NAME:extent}                                may repeat, as `in` and `out` may
      [parallel {NAME}]                                 derived; printed always, compared when read
      in  [NAME dtype[extent,..] {, ..}]
      out [NAME dtype[extent,..] [init number] {, ..}]
      {line}
    line    := value = expr
             | value = load TENSOR[expr,..] [if expr] [else expr]
             | value, .. = reduce MONOID expr; expr,.. over AXIS,.. [where expr]
             | value, .. = reduce merge MONOID expr,.. over AXIS,.. [where expr]
             | value = contract expr, expr over AXIS,.. [where expr] [in dtype]
             | value, .. = scan MONOID expr; expr,.. over AXIS [reverse] [exclusive]
             | store [add] TENSOR[expr,..] = expr [if expr]
             | check expr "message"
    expr    := Python's operators with Python's binding, loosest first:
               or  and  not  < <= > >= == != (may chain)  |  ^  &  << >>  + -  * / // %  - ~
               NAME(expr,..) with a scalar op or a dtype (a cast); (expr); value; AXIS; SIZE; SCALAR
               size(extent); numbers; true false inf nan
    extent  := integers and sizes with + - * // %, parentheses
    dtype   := bool i8 u8 i32 u32 i64 f16 bf16 f32 f64
    MONOID  := sum prod max min any all argmax argmin welford expsum linear

A number takes the dtype of what it is combined with if it is of its kind (2 of integers, 2.0 of
floats), else it is i64 or f32; ``f64(2.0)`` is explicit. Tensors have names of their own; values,
axes, sizes and scalars share theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import field, replace

import numpy as np

from graphc.errors import KernelError
from graphc.kernel.build import argument_dtype, contract_dtype
from graphc.kernel.parser import parse_kernel
from graphc.kernel.scalar_ops import (
    COMPARISON,
    OR,
    SCALAR_OPS,
    UNARY,
    default_dtype,
    literal_dtype,
)
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Check,
    Const,
    Contract,
    Kernel,
    KernelTensor,
    Load,
    Reduction,
    Result,
    Scalar,
    ScalarValue,
    Scan,
    SizeSymbol,
    SizeValue,
    Statement,
    Store,
    Term,
)
from graphc.records import dataclass
from graphc.types import Dim, DType

__all__ = ["equal", "parse_kernel", "print_kernel", "print_statement", "print_term"]

_WIDTH = 96


def print_kernel(kernel: Kernel) -> str:
    """The text of ``kernel``; ``parse_kernel`` of it prints the same again.

    >>> text = "kernel double; axes i:8; in x f32[8]; out y f32[8]; a = load x[i]; "
    >>> text += "store y[i] = (2.0*a)"
    >>> print(print_kernel(parse_kernel(text.replace("; ", chr(10)))))
    kernel double
      axes i:8
      parallel i
      in x f32[8]
      out y f32[8]
      a = load x[i]
      store y[i] = 2.0 * a
    """
    printer = _Printer(kernel)
    lines = [*_header(kernel), *(printer.body())]
    return "\n  ".join([f"kernel {kernel.name}", *lines])


def print_term(kernel: Kernel, term: Term) -> str:
    """``term`` as the right side of a line of ``kernel``'s text."""
    return _Printer(kernel).right_side(term)


def print_statement(kernel: Kernel, statement: Statement) -> str:
    """The line of ``statement`` in ``kernel``'s text."""
    return _Printer(kernel).statement(statement)


def equal(first: Kernel, second: Kernel) -> bool:
    """Whether two kernels are the same but for their own names."""
    return print_kernel(replace(first, name="_")) == print_kernel(replace(second, name="_"))


# ---- the lines before the body


def _header(kernel: Kernel) -> Iterator[str]:
    for symbol in kernel.sizes:
        yield _size_line(symbol)
    for scalar in kernel.scalars:
        yield _scalar_line(scalar)
    yield " ".join(["axes", *(f"{name}:{extent}" for name, extent in kernel.axes)])
    yield " ".join(["parallel", *kernel.parallel])
    yield from _tensor_lines("in", kernel.inputs)
    yield from _tensor_lines("out", kernel.outputs)


def _size_line(symbol: SizeSymbol) -> str:
    limit = "" if symbol.max is None else str(symbol.max)
    by = "" if symbol.multiple_of == 1 else f" by {symbol.multiple_of}"
    return f"size {symbol.name} {symbol.min}..{limit}{by}"


def _scalar_line(scalar: Scalar) -> str:
    if scalar.min is None and scalar.max is None:
        return f"scalar {scalar.name} {scalar.dtype}"
    low = "" if scalar.min is None else str(scalar.min)
    high = "" if scalar.max is None else str(scalar.max)
    return f"scalar {scalar.name} {scalar.dtype} {low}..{high}"


def _tensor_lines(word: str, tensors: Sequence[KernelTensor]) -> Iterator[str]:
    parts = [_tensor(t) for t in tensors]
    line = f"{word} {', '.join(parts)}".rstrip()
    if len(line) <= _WIDTH:
        yield line
    else:
        yield from (f"{word} {part}" for part in parts)


def _tensor(tensor: KernelTensor) -> str:
    init = ""
    if tensor.init is not None:
        whole = np.isfinite(tensor.init) and tensor.init == int(tensor.init)
        value = str(int(tensor.init)) if whole else literal_text(tensor.init, tensor.type.dtype)
        init = f" init {value}"
    return f"{tensor.name} {tensor.type}{init}"


# ---- numbers


def literal_text(value: bool | int | float, dtype: DType) -> str:
    """The shortest text that reads back as ``value`` in ``dtype``.

    >>> from graphc.types import bfloat16, float32
    >>> literal_text(0.10000000149011612, float32), literal_text(-np.inf, bfloat16)
    ('0.1', '-inf')
    """
    if dtype.kind == "b":
        return "true" if value else "false"
    if not dtype.is_float:
        return str(int(value))
    if not np.isfinite(value):
        return "nan" if np.isnan(value) else "inf" if value > 0 else "-inf"
    for digits in range(1, 18):
        text = f"{value:.{digits}g}"
        if float(np.asarray(float(text)).astype(dtype.numpy)) == value:
            break
    return re.sub(r"e([+-])0+", r"e\1", repr(float(text)))


# ---- the body


@dataclass
class _Printer:
    kernel: Kernel
    names: dict[Term | tuple[Term, int], str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = {_key(term): name for name, term in self.kernel.definitions}

    def body(self) -> Iterator[str]:
        """Each statement after the definitions that it needs first."""
        needed: list[list[tuple[str, Term]]] = [[] for _ in self.kernel.statements]
        first_use = _first_uses(self.kernel)
        seen: set[Term] = set()
        for name, term in self.kernel.definitions:
            group = term.of if isinstance(term, Result) else term
            if group not in seen and group in first_use:
                seen.add(group)
                needed[first_use[group]].append((name, group))
        for statement, definitions in zip(self.kernel.statements, needed, strict=True):
            for name, term in definitions:
                yield f"{self._left_side(name, term)} = {self.right_side(term)}"
            yield self.statement(statement)

    def _left_side(self, name: str, term: Term) -> str:
        if not isinstance(term, (Reduction, Scan)):
            return name
        names: list[str] = []
        while (term, len(names)) in self.names:
            names.append(self.names[term, len(names)])
        return ", ".join(names)

    def statement(self, statement: Statement) -> str:
        if isinstance(statement, Check):
            escaped = statement.message.replace("\\", "\\\\").replace('"', '\\"')
            escaped = escaped.replace("\n", "\\n")
            return f'check {self.expression(statement.pred)} "{escaped}"'
        word = "store add" if statement.add else "store"
        value = statement.value
        shown = self._literal(value) if self._inline(value) else self.expression(value)
        target = f"{word} {statement.tensor}[{self._index(statement)}] = {shown}"
        return target + self._clause("if", statement.pred)

    def right_side(self, term: Term) -> str:
        if isinstance(term, Load):
            return self._load(term)
        if isinstance(term, Result):
            return self.right_side(term.of)
        if isinstance(term, Reduction):
            word = "reduce merge" if term.merge else "reduce"
            args = self._arguments(term, "," if term.merge else ";")
            return (
                f"{word} {term.monoid} {args} over {', '.join(term.over)}"
                f"{self._clause('where', term.where)}"
            )
        if isinstance(term, Scan):
            flags = " reverse" * term.reverse + " exclusive" * term.exclusive
            return f"scan {term.monoid} {self._arguments(term, ';')} over {term.over}{flags}"
        if isinstance(term, Contract):
            return self._contract(term)
        if isinstance(term, Const):
            return self._constant(term, default_dtype(term.value))
        return self._operation(term, OR)

    def _load(self, term: Load) -> str:
        fill = ""
        if term.fill is not None:
            inline = self._inline(term.fill)
            fill = " else " + (self._literal(term.fill) if inline else self.expression(term.fill))
        return f"load {term.tensor}[{self._index(term)}]{self._clause('if', term.pred)}{fill}"

    def _index(self, access: Load | Store) -> str:
        return ", ".join(self.expression(t) for t in access.index)

    def _clause(self, word: str, pred: Term | None) -> str:
        return "" if pred is None else f" {word} {self.expression(pred)}"

    def _arguments(self, term: Reduction | Scan, separator: str) -> str:
        known = [a.dtype for a in term.args if not self._inline(a)]
        parts = []
        for arg in term.args:
            expected = None
            if isinstance(arg, Const):
                expected = argument_dtype(term.monoid, arg.value, known)
            parts.append(self.expression(arg, literal=expected))
        return f"{separator} ".join([parts[0], ", ".join(parts[1:])]) if parts[1:] else parts[0]

    def _contract(self, term: Contract) -> str:
        known = [t.dtype for t in (term.a, term.b) if not self._inline(t)]
        a, b = (self.expression(t, literal=known[0] if known else None) for t in (term.a, term.b))
        return (
            f"contract {a}, {b} over {', '.join(term.over)}{self._clause('where', term.where)}"
            f"{self._accumulation(term)}"
        )

    def _accumulation(self, term: Contract) -> str:
        return "" if term.dtype == contract_dtype(term.a.dtype) else f" in {term.dtype}"

    # ---- expressions

    def _inline(self, term: Term) -> bool:
        return isinstance(term, Const) and term not in self.names

    def _literal(self, term: Term) -> str:
        assert isinstance(term, Const)
        return literal_text(term.value, term.dtype)

    def _constant(self, term: Const, expected: DType) -> str:
        shown = literal_text(term.value, term.dtype)
        return shown if term.dtype == expected else f"{term.dtype}({shown})"

    def expression(self, term: Term, outer: int = OR, literal: DType | None = None) -> str:
        """``term`` inside an expression that binds as tightly as ``outer``."""
        name = self.names.get(_key(term))
        if name is not None:
            return name
        if isinstance(term, Const):
            shown = self._constant(term, default_dtype(term.value) if literal is None else literal)
            return f"({shown})" if shown.startswith("-") and outer > UNARY else shown
        return self._operation(term, outer)

    def _operation(self, term: Term, outer: int) -> str:
        if isinstance(term, AxisIndex):
            return term.axis
        if isinstance(term, ScalarValue):
            return term.name
        if isinstance(term, SizeValue):
            single = isinstance(term.extent, Dim)
            return str(term.extent) if single else f"size({term.extent})"
        if not isinstance(term, Apply):
            raise KernelError(f"{self.kernel.name}: a {type(term).__name__} needs a definition")
        op = SCALAR_OPS[term.op]
        if self._chained(term):
            shown = self._chain(term)
            return f"({shown})" if outer > COMPARISON else shown
        if op.infix:
            left = op.precedence + (op.precedence == COMPARISON)
            a, b = self._operands(term, (left, op.precedence + 1))
            tight = term.op == "*" and term.dtype.is_integer and a.isalnum() and b.isalnum()
            shown = f"{a}*{b}" if tight else f"{a} {op.symbol} {b}"
        elif op.prefix:
            (a,) = self._operands(term, (op.precedence,))
            shown = f"{op.symbol} {a}" if op.symbol.isalpha() else f"{op.symbol}{a}"
        else:
            return f"{op.symbol}({', '.join(self._operands(term, (OR,) * op.arity))})"
        return f"({shown})" if op.precedence < outer else shown

    def _chained(self, term: Apply) -> bool:
        """Whether the text writes ``a < b and b < c`` as ``a < b < c``."""
        if term.op != "and":
            return False
        left, right = term.args
        for side in (left, right):
            compares = isinstance(side, Apply) and SCALAR_OPS[side.op].precedence == COMPARISON
            if not compares or side in self.names:
                return False
        middle, again = left.operands[1], right.operands[0]
        if isinstance(middle, AxisIndex) and isinstance(again, AxisIndex):
            return middle.axis == again.axis
        return _key(middle) == _key(again) and _key(middle) in self.names

    def _chain(self, term: Apply) -> str:
        left, right = (side for side in term.args if isinstance(side, Apply))
        _, last = self._operands(right, (COMPARISON + 1,) * 2)
        return f"{self._operation(left, COMPARISON)} {right.op} {last}"

    def _operands(self, term: Apply, outer: Sequence[int]) -> list[str]:
        known = [None if self._inline(a) else a.dtype for a in term.args]
        shown = []
        for n, (arg, binding) in enumerate(zip(term.args, outer, strict=True)):
            expected = None
            if isinstance(arg, Const):
                expected = literal_dtype(term.op, n, arg.value, known)
            shown.append(self.expression(arg, binding, expected))
        return shown


def _key(term: Term) -> Term | tuple[Term, int]:
    return (term.of, term.index) if isinstance(term, Result) else term


def _first_uses(kernel: Kernel) -> dict[Term, int]:
    """The number of the first statement that needs each term."""
    first: dict[Term, int] = {}
    for number, statement in enumerate(kernel.statements):
        stack: list[Term] = list(statement.operands)
        while stack:
            term = stack.pop()
            if term not in first:
                first[term] = number
                stack.extend(term.operands)
    return first
