"""Arithmetic on the lanes of a function: what the formulas of this package are written in.

Operands are values or Python numbers; a number takes the type of the first value beside it.
Everything is inline and without fast-math flags. ``fma`` becomes a product and a sum where the
target has no fused one, because ``llvm.fma`` would be a call of ``fmaf`` there; formulas that need
an exact product ask for ``two_product``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.backends.llvm.ir import BITS, Function, V, literal
from graphc.records import dataclass

__all__ = ["DOUBLE", "FLOAT", "Features", "Format", "Lanes", "format_of", "is_number"]

Operand = V | float


@dataclass(frozen=True)
class Features:
    """What the code may count on beyond the baseline: x86-64-v2 (SSE4.1), or any aarch64.

    ``fma``: fused multiply-add. ``half``: conversions between half and float (F16C). Both come with
    AVX2 machines.
    """

    fma: bool = True
    half: bool = True


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: its element types and the widths of its fields."""

    element: str
    integer: str
    fraction: int  # bits of the stored significand
    bias: int

    @property
    def shifter(self) -> float:
        """1.5 * 2**fraction: adding it rounds, and leaves the integer in the low bits."""
        return 1.5 * 2.0**self.fraction

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return float(2.0 ** (1 - self.bias))

    @property
    def split(self) -> float:
        """2**ceil(p/2) + 1, the constant of Veltkamp's splitting."""
        return float(2 ** ((self.fraction + 2) // 2) + 1)


FLOAT = Format("float", "i32", 23, 127)
DOUBLE = Format("double", "i64", 52, 1023)


def format_of(x: V) -> Format:
    """The format of a float or double value."""
    return FLOAT if x.type.element == "float" else DOUBLE


@dataclass(frozen=True)
class Lanes:
    """The function that is written to, and what its target can do."""

    function: Function
    features: Features = Features()

    # -- floating point
    def add(self, a: Operand, b: Operand) -> V:
        return self._float("fadd", a, b)

    def sub(self, a: Operand, b: Operand) -> V:
        return self._float("fsub", a, b)

    def mul(self, a: Operand, b: Operand) -> V:
        return self._float("fmul", a, b)

    def div(self, a: Operand, b: Operand) -> V:
        return self._float("fdiv", a, b)

    def neg(self, a: V) -> V:
        return self.function.fneg(a)

    def abs(self, a: V) -> V:
        return self.function.intrinsic("fabs", a)

    def copysign(self, magnitude: Operand, sign: V) -> V:
        """By patterns: LLVM 22 fails on the intrinsic where the sign comes from half or bfloat."""
        a = self.bits(like(magnitude, sign))
        top = 1 << (BITS[sign.type.element] - 1)
        signs = self.integer("and", self.bits(sign), -top)
        kept = self.integer("and", a, top - 1)
        return self.function.bitcast(self.integer("or", kept, signs), sign.type.element)

    def fma(self, a: Operand, b: Operand, c: Operand) -> V:
        """``a * b + c``, rounded once where the target can, else twice."""
        model = _model(a, b, c)
        if not self.features.fma:
            return self.add(self.mul(like(a, model), like(b, model)), like(c, model))
        return self.function.fma(like(a, model), like(b, model), like(c, model))

    def polynomial(self, x: V, coefficients: Sequence[float], start: V | None = None) -> V:
        """Horner's scheme, the highest power first; ``start`` comes before the coefficients."""
        result: Operand = coefficients[0] if start is None else start
        for coefficient in coefficients[1:] if start is None else coefficients:
            result = self.fma(result, x, coefficient)
        return like(result, x)

    def signed(self, magnitude: V, sign: V) -> V:
        """A value that is not negative, with another's sign: two instructions."""
        top = self.integer("and", self.bits(sign), -(1 << (BITS[sign.type.element] - 1)))
        return self.float_of(self.integer("or", self.bits(magnitude), top))

    def nearest(self, a: V) -> V:
        """Rounded to an integer, halves to even."""
        return self.function.intrinsic("roundeven", a)

    def at_least(self, low: Operand, x: V) -> V:
        """``max(low, x)`` that keeps a NaN of ``x``: one ``maxps``."""
        return self.select(self.compare("ogt", like(low, x), x), low, x)

    def at_most(self, high: Operand, x: V) -> V:
        """``min(high, x)`` that keeps a NaN of ``x``: one ``minps``."""
        return self.select(self.compare("olt", like(high, x), x), high, x)

    # -- error-free transformations
    def two_sum(self, a: V, b: V) -> tuple[V, V]:
        """``a + b`` as rounded sum and exact error (Knuth)."""
        total = self.add(a, b)
        other = self.sub(total, a)
        error = self.add(self.sub(a, self.sub(total, other)), self.sub(b, other))
        return total, error

    def fast_two_sum(self, a: Operand, b: V) -> tuple[V, V]:
        """The same for ``|a| >= |b|`` (Dekker)."""
        total = self.add(a, b)
        return total, self.sub(b, self.sub(total, a))

    def two_product(self, a: V, b: Operand) -> tuple[V, V]:
        """``a * b`` as rounded product and exact error: one fma, or Dekker's product."""
        other = like(b, a)
        product = self.mul(a, other)
        if self.features.fma:
            return product, self.fma(a, other, self.neg(product))
        high, low = self._halves(a)
        other_high, other_low = self._halves(other)
        error = self.sub(self.mul(high, other_high), product)
        error = self.add(error, self.mul(high, other_low))
        error = self.add(error, self.mul(low, other_high))
        return product, self.add(error, self.mul(low, other_low))

    def _halves(self, a: V) -> tuple[V, V]:
        spread = self.mul(a, format_of(a).split)
        high = self.sub(spread, self.sub(spread, a))
        return high, self.sub(a, high)

    # -- integers and bits
    def integer(self, op: str, a: V, b: V | int) -> V:
        """LLVM's ``add sub mul and or xor shl lshr ashr``."""
        return self.function.binary(op, a, b if isinstance(b, V) else literal(b, a.type))

    def bits(self, x: V) -> V:
        """The pattern of a float."""
        return self.function.bitcast(x, f"i{BITS[x.type.element]}")

    def float_of(self, pattern: V) -> V:
        """The float (or double) of a pattern."""
        return self.function.bitcast(
            pattern, "float" if pattern.type.element == "i32" else "double"
        )

    # -- choice
    def compare(self, predicate: str, a: V, b: Operand) -> V:
        return self.function.compare(predicate, a, like(b, a))

    def select(self, condition: V, yes: Operand, no: Operand) -> V:
        model = _model(yes, no)
        return self.function.select(condition, like(yes, model), like(no, model))

    def both(self, a: V, b: V) -> V:
        return self.function.binary("and", a, b)

    def either(self, a: V, b: V) -> V:
        return self.function.binary("or", a, b)

    # -- other lane types
    def convert(self, x: V, element: str) -> V:
        """Between float and double."""
        if x.type.element == element:
            return x
        wider = BITS[element] > BITS[x.type.element]
        return self.function.cast("fpext" if wider else "fptrunc", x, element)

    def number(self, value: float, model: V) -> V:
        return literal(value, model.type)

    def _float(self, op: str, a: Operand, b: Operand) -> V:
        model = _model(a, b)
        return self.function.binary(op, like(a, model), like(b, model))


def like(a: Operand, model: V) -> V:
    """A number as a constant of the model's type; a value as it is."""
    return a if isinstance(a, V) else literal(a, model.type)


def _model(*operands: Operand) -> V:
    for operand in operands:
        if isinstance(operand, V):
            return operand
    raise TypeError("one operand at least must be a value, not a number")


def is_number(x: V) -> bool:
    """Whether a floating value is a constant and not NaN."""
    return not x.text.startswith("%") and x.text != literal(math.nan, x.type).text
