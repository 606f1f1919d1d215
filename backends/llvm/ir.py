"""LLVM IR as text, function by function: typed SSA values, straight-line instructions and
structured loops.

A function body is a tree of buffers: a loop's body is a buffer inside its parent's. While an inner
loop is being written, its parent can still be appended to, and what is appended there comes before
the loop: that is how the emitter hoists. Text costs a thirtieth of llvmlite's builder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Union

from graphc.records import dataclass

__all__ = ["BITS", "PTR", "Function", "LLVMType", "Loop", "Module", "V", "literal"]

#: bits of each LLVM element type
BITS = {
    "i1": 1,
    "i8": 8,
    "i16": 16,
    "i32": 32,
    "i64": 64,
    "half": 16,
    "bfloat": 16,
    "float": 32,
    "double": 64,
}
_INTEGER_OF = {8: "i8", 16: "i16", 32: "i32", 64: "i64"}
_FLOATS = ("half", "bfloat", "float", "double")


class LLVMType(NamedTuple):
    """An element type and a number of lanes; one lane is a scalar."""

    element: str
    lanes: int = 1

    @property
    def is_float(self) -> bool:
        return self.element in _FLOATS

    @property
    def suffix(self) -> str:
        """As intrinsics are overloaded: ``v8f32``, ``i64``."""
        kind = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}
        element = kind.get(self.element, self.element)
        return element if self.lanes == 1 else f"v{self.lanes}{element}"

    def of(self, element: str) -> LLVMType:
        """The same number of lanes of another element type."""
        return LLVMType(element, self.lanes)

    def __str__(self) -> str:
        return self.element if self.lanes == 1 else f"<{self.lanes} x {self.element}>"


PTR = LLVMType("ptr")


class V(NamedTuple):
    """An SSA value or a constant: its text and its type."""

    text: str
    type: LLVMType

    def __str__(self) -> str:
        return f"{self.type} {self.text}"


def literal(value: bool | int | float, type_: LLVMType) -> V:
    """A constant, the same in every lane."""
    element = type_.element
    if element in _FLOATS:
        text = _float_text(float(value), element)
    elif element == "i1":
        text = "true" if value else "false"
    else:
        text = str(int(value))
    return V(text if type_.lanes == 1 else f"splat ({element} {text})", type_)


def _float_text(value: float, element: str) -> str:
    if element == "half":
        return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
    if element == "bfloat":
        bits = struct.unpack("<I", struct.pack("<f", value))[0]
        rounded = bits if value != value else bits + 0x7FFF + ((bits >> 16) & 1)
        return f"0xR{(rounded >> 16) & 0xFFFF:04X}"
    if element == "float":  # printed as the pattern of the double that it equals
        try:
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            value = float("inf") if value > 0 else float("-inf")
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


Buffer = list[Union[str, "Buffer"]]


@dataclass
class Loop:
    """An open loop: ``index`` and ``carried`` inside it; set ``next`` before it closes; ``results``
    after it.
    """

    index: V
    carried: list[V]
    next: list[V]
    results: list[V]


class Function:
    """One function under construction. ``lines`` is the buffer that instructions go to now."""

    def __init__(
        self,
        module: Module,
        name: str,
        parameters: Sequence[tuple[str, str]],
        *,
        result: str = "void",
        linkage: str = "",
        attributes: str = "",
    ) -> None:
        self.module = module
        self.name = name
        self._head = (
            f"define {linkage + ' ' if linkage else ''}{result} @{name}("
            f"{', '.join(f'{kind} %{p}' for kind, p in parameters)}) nounwind {attributes} {{"
        )
        self.entry: Buffer = []  # allocas go here
        self.body: Buffer = []
        self.lines: Buffer = self.body
        self._count = 0
        self._block = "entry"

    # -- plumbing
    def fresh(self, prefix: str = "v") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def let(self, expression: str, type_: LLVMType) -> V:
        name = "%" + self.fresh()
        self.lines.append(f"  {name} = {expression}")
        return V(name, type_)

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")
        self._block = name

    @property
    def block(self) -> str:
        """The label of the basic block being written."""
        return self._block

    def branch(self, condition: V, yes: str, no: str) -> None:
        self.line(f"br {condition}, label %{yes}, label %{no}")

    def jump(self, target: str) -> None:
        self.line(f"br label %{target}")

    def alloca(self, type_: LLVMType, count: int, align: int = 64) -> V:
        name = "%" + self.fresh("buffer")
        self.entry.append(f"  {name} = alloca {type_}, i64 {count}, align {align}")
        return V(name, PTR)

    # -- instructions; scalars and vectors alike
    def const(self, value: bool | int | float, type_: LLVMType) -> V:
        return literal(value, type_)

    def binary(self, op: str, a: V, b: V, flags: str = "") -> V:
        """``op`` is LLVM's: fadd, fsub, fmul, fdiv, add, sub, mul, and, or, xor, shl, lshr, ashr,
        sdiv, srem...
        """
        return self.let(f"{op} {flags + ' ' if flags else ''}{a.type} {a.text}, {b.text}", a.type)

    def fneg(self, a: V) -> V:
        return self.let(f"fneg {a}", a.type)

    def compare(self, predicate: str, a: V, b: V) -> V:
        """``olt``, ``oeq``, ``une``... on floats; ``slt``, ``eq``, ``ult``... on integers."""
        op = "fcmp" if a.type.is_float else "icmp"
        return self.let(f"{op} {predicate} {a.type} {a.text}, {b.text}", a.type.of("i1"))

    def select(self, condition: V, yes: V, no: V) -> V:
        return self.let(f"select {condition}, {yes}, {no}", yes.type)

    def cast(self, op: str, a: V, element: str) -> V:
        """``sitofp uitofp fptosi fptoui sext zext trunc fpext fptrunc bitcast``."""
        type_ = a.type.of(element)
        return self.let(f"{op} {a} to {type_}", type_)

    def bitcast(self, a: V, element: str) -> V:
        return self.cast("bitcast", a, element)

    def intrinsic(self, name: str, *args: V, result: LLVMType | None = None) -> V:
        """``llvm.NAME.SUFFIX`` overloaded on the first argument's type: fma, rint, floor, fabs,
        copysign, sqrt...
        """
        full = f"llvm.{name}.{args[0].type.suffix}"
        return self.call(full, *args, result=result or args[0].type)

    def call(self, name: str, *args: V, result: LLVMType) -> V:
        self.module.declare(name, result, [a.type for a in args])
        return self.let(f"call {result} @{name}({', '.join(map(str, args))})", result)

    def call_void(self, name: str, *args: V) -> None:
        self.module.declare(name, None, [a.type for a in args])
        self.line(f"call void @{name}({', '.join(map(str, args))})")

    def fma(self, a: V, b: V, c: V) -> V:
        return self.intrinsic("fma", a, b, c)

    def shuffle(self, a: V, b: V, lanes: Sequence[int]) -> V:
        """Lanes picked from ``a`` and, counted on, from ``b``."""
        mask = ", ".join(f"i32 {n}" for n in lanes)
        type_ = a.type._replace(lanes=len(lanes))
        return self.let(f"shufflevector {a}, {b}, <{len(lanes)} x i32> <{mask}>", type_)

    def splat(self, a: V, lanes: int) -> V:
        """A scalar in every lane (constants fold)."""
        if lanes == 1 or a.type.lanes == lanes:
            return a
        type_ = LLVMType(a.type.element, lanes)
        if not a.text.startswith("%"):
            return V(f"splat ({a.type.element} {a.text})", type_)
        first = self.let(f"insertelement {type_} poison, {a}, i64 0", type_)
        return self.let(
            f"shufflevector {type_} {first.text}, {type_} poison, <{lanes} x i32> zeroinitializer",
            type_,
        )

    def offset(self, pointer: V, index: V | int, element: str) -> V:
        """Pointer plus index elements."""
        if isinstance(index, int):
            if index == 0:
                return pointer
            index = literal(index, LLVMType("i64"))
        return self.let(f"getelementptr {element}, {pointer}, {index}", PTR)

    def load(self, type_: LLVMType, pointer: V, align: int) -> V:
        return self.let(f"load {type_}, {pointer}, align {align}", type_)

    def store(self, value: V, pointer: V, align: int, *, nontemporal: bool = False) -> None:
        self.line(
            f"store {value}, {pointer}, align {align}"
            + (", !nontemporal !0" if nontemporal else "")
        )

    # -- structure
    @contextmanager
    def loop(
        self, start: V, stop: V, step: int, carried: Iterable[V] = (), *, nonempty: bool = False
    ) -> Iterator[Loop]:
        """``for index in range(start, stop, step)`` (i64) with loop-carried values.

        Set ``loop.next`` inside; ``loop.results`` holds the final values afterwards. ``nonempty``
        promises at least one pass, which saves the guard.
        """
        initial = list(carried)
        parent = self.lines
        head, done = self.fresh("loop"), self.fresh("done")
        before = self._block
        body: Buffer = []
        index = V("%" + self.fresh("i"), start.type)
        values = [V("%" + self.fresh("c"), v.type) for v in initial]
        loop = Loop(index, values, list(values), [])
        self.lines = body
        self._block = head
        yield loop
        following = self.binary("add", index, literal(step, index.type), "nuw nsw")
        again = self.compare("slt", following, stop)
        back = self._block
        self.branch(again, head, done)
        self.lines = parent
        # the way in is written last, so that what was hoisted meanwhile comes before it
        if nonempty:
            self.jump(head)
        else:
            self.branch(self.compare("slt", start, stop), head, done)
        self.lines.append(f"{head}:")
        phis = [(index, start, following), *zip(values, initial, loop.next, strict=True)]
        for value, first, later in phis:
            self.lines.append(
                f"  {value.text} = phi {value.type} "
                f"[ {first.text}, %{before} ], [ {later.text}, %{back} ]"
            )
        self.lines.append(body)
        self.label(done)
        if nonempty:
            loop.results = list(loop.next)
        else:
            for first, later in zip(initial, loop.next, strict=True):
                loop.results.append(
                    self.let(
                        f"phi {first.type} [ {first.text}, %{before} ], [ {later.text}, %{back} ]",
                        first.type,
                    )
                )

    @contextmanager
    def when(self, condition: V) -> Iterator[None]:
        """Run the body where a scalar i1 holds."""
        yes, end = self.fresh("then"), self.fresh("end")
        parent, body = self.lines, list[Union[str, "Buffer"]]()
        self.lines = body
        self.label(yes)
        yield
        self.jump(end)
        self.lines = parent
        self.branch(condition, yes, end)
        self.lines.append(body)
        self.label(end)

    def text(self, terminator: str = "ret void") -> str:
        out = [self._head, "entry:"]
        _flatten(self.entry, out)
        _flatten(self.body, out)
        out.append("  " + terminator)
        out.append("}")
        return "\n".join(out)


class Module:
    """Functions and the declarations that they call."""

    def __init__(self) -> None:
        self.functions: list[str] = []
        self._defined: set[str] = set()
        self._declared: dict[str, str] = {}

    def declare(self, name: str, result: LLVMType | None, parameters: Sequence[LLVMType]) -> None:
        if name not in self._defined:
            kind = "void" if result is None else str(result)
            self._declared[name] = f"declare {kind} @{name}({', '.join(map(str, parameters))})"

    def declare_text(self, name: str, text: str) -> None:
        """A declaration that ``declare`` cannot spell."""
        if name not in self._defined:
            self._declared[name] = text

    def defines(self, name: str) -> bool:
        """Whether a function of that name was added."""
        return name in self._defined

    def add(self, function: Function, terminator: str = "ret void") -> None:
        self._defined.add(function.name)
        self._declared.pop(function.name, None)
        self.functions.append(function.text(terminator))

    def text(self) -> str:
        declarations = [d for n, d in self._declared.items() if n not in self._defined]
        return "\n".join([*declarations, *self.functions, "!0 = !{i32 1}", ""])


def _flatten(buffer: Buffer, out: list[str]) -> None:
    for item in buffer:
        if isinstance(item, str):
            out.append(item)
        else:
            _flatten(item, out)
