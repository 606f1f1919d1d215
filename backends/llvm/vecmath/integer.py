"""Integer arithmetic, all exact and total: nothing traps, nothing is undefined.

Sums and products wrap. ``//`` and ``%`` round towards minus infinity, and by zero give 0; the most
negative number by -1 wraps. Vectors of up to 32 bits divide in double (exact: the quotient's
distance from an integer is at least 2**-31 of it), by a constant without division; 64-bit vectors
divide lane by lane. A shift by a count outside 0..bits-1 shifts everything out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from graphc.backends.llvm.ir import BITS, Function, LLVMType, V
from graphc.backends.llvm.vecmath.lanes import Lanes

__all__ = ["constant_of", "floor_divide", "power", "remainder", "shift", "sign"]


def constant_of(x: V) -> int | None:
    """The value of an integer constant, None for anything else."""
    match = re.fullmatch(r"(?:splat \(i\d+ )?(-?\d+)\)?", x.text)
    return int(match[1]) if match else None


def floor_divide(m: Lanes, args: Sequence[V], signed: bool) -> V:
    """``floor(a / b)``; 0 where b is 0."""
    return _divide(m, args[0], args[1], signed)[0]


def remainder(m: Lanes, args: Sequence[V], signed: bool) -> V:
    """``a - (a // b) * b``, of b's sign; 0 where b is 0."""
    a, b = args
    quotient, by_constant = _divide(m, a, b, signed)
    if by_constant is not None and by_constant > 0 and by_constant & (by_constant - 1) == 0:
        return m.integer("and", a, by_constant - 1)
    rest = m.integer("sub", a, m.integer("mul", quotient, b))
    if by_constant is not None:
        return rest if by_constant else m.number(0, a)
    zero = m.number(0, a)
    return m.function.select(m.function.compare("eq", b, zero), zero, rest)


def sign(m: Lanes, args: Sequence[V], signed: bool) -> V:
    """-1, 0 or 1."""
    (a,) = args
    zero = m.number(0, a)
    positive = m.function.cast("zext", _compare(m, "ugt", "sgt", a, zero, signed), a.type.element)
    if not signed:
        return positive
    return m.integer("or", m.integer("ashr", a, BITS[a.type.element] - 1), positive)


def shift(m: Lanes, op: str, a: V, count: V) -> V:
    """``shl``, ``lshr`` or ``ashr`` by any count; the count is of any integer type."""
    bits = BITS[a.type.element]
    inside = m.function.compare(
        "ult", count, m.number(min(bits, 2 ** BITS[count.type.element] - 1), count)
    )
    known = constant_of(count)
    outside = bits - 1 if op == "ashr" else 0
    if known is not None:
        if not 0 <= known < bits:
            return m.integer(op, a, outside) if op == "ashr" else m.number(0, a)
        return m.integer(op, a, known)
    safe = m.function.select(inside, count, m.number(outside, count))
    shifted = m.integer(op, a, resized(m, safe, a.type.element))
    return shifted if op == "ashr" else m.function.select(inside, shifted, m.number(0, a))


def resized(m: Lanes, x: V, element: str) -> V:
    """An unsigned integer in another width."""
    before, after = BITS[x.type.element], BITS[element]
    if before == after:
        return x
    return m.function.cast("zext" if after > before else "trunc", x, element)


def _compare(m: Lanes, unsigned: str, signed_: str, a: V, b: V, signed: bool) -> V:
    return m.function.compare(signed_ if signed else unsigned, a, b)


# ---- division


def _divide(m: Lanes, a: V, b: V, signed: bool) -> tuple[V, int | None]:
    """The floor of the quotient, and b if it is a constant."""
    known = constant_of(b)
    if known is not None:
        return _divide_by(m, a, known, signed), known
    if a.type.lanes > 1 and BITS[a.type.element] <= 32:
        return _divide_in_double(m, a, b, signed), None
    zero, one = m.number(0, a), m.number(1, a)
    is_zero = m.function.compare("eq", b, zero)
    if not signed:
        quotient = m.integer("udiv", a, m.function.select(is_zero, one, b))
        return m.function.select(is_zero, zero, quotient), None
    is_minus_one = m.function.compare("eq", b, m.number(-1, a))
    safe = m.function.select(m.either(is_zero, is_minus_one), one, b)
    quotient = m.integer("sdiv", a, safe)
    rest = m.integer("sub", a, m.integer("mul", quotient, safe))
    differs = m.function.compare("slt", m.integer("xor", rest, safe), zero)
    is_down = m.both(differs, m.function.compare("ne", rest, zero))
    quotient = m.integer("sub", quotient, m.function.cast("zext", is_down, a.type.element))
    quotient = m.function.select(is_minus_one, m.integer("sub", zero, a), quotient)
    return m.function.select(is_zero, zero, quotient), None


def _divide_by(m: Lanes, a: V, divisor: int, signed: bool) -> V:
    """Floor division by a constant: shifts, or a multiplication that LLVM finds."""
    zero = m.number(0, a)
    if divisor in (0, 1):
        return a if divisor else zero
    if divisor == -1:
        return m.integer("sub", zero, a)
    if divisor > 0 and divisor & (divisor - 1) == 0:
        return m.integer("ashr" if signed else "lshr", a, divisor.bit_length() - 1)
    if not signed:
        return m.integer("udiv", a, divisor)
    if (
        divisor < 0
    ):  # floor(a / -d) = -1 - floor((a - 1) / d) for a > 0, and the exact quotient below
        truncated = m.integer("sdiv", a, divisor)
        rest = m.integer("sub", a, m.integer("mul", truncated, divisor))
        is_down = m.function.compare("sgt", rest, zero)
        return m.integer("sub", truncated, m.function.cast("zext", is_down, a.type.element))
    # of a negative a: floor(a / d) = ~(~a / d)
    mask = m.integer("ashr", a, BITS[a.type.element] - 1)
    return m.integer("xor", m.integer("sdiv", m.integer("xor", a, mask), divisor), mask)


def _divide_in_double(m: Lanes, a: V, b: V, signed: bool) -> V:
    f, element = m.function, a.type.element
    to_float, to_wide = ("sitofp", "sext") if signed else ("uitofp", "zext")
    wide_a, wide_b = (f.cast(to_wide, x, "i32") if BITS[element] < 32 else x for x in (a, b))
    zero = m.number(0, wide_b)
    is_zero = f.compare("eq", wide_b, zero)
    safe = f.select(is_zero, m.number(1, wide_b), wide_b)
    quotient = m.div(f.cast(to_float, wide_a, "double"), f.cast(to_float, safe, "double"))
    quotient = f.intrinsic("floor", quotient)
    if signed:  # only the most negative number by -1 is outside: it wraps to itself
        quotient = m.select(m.compare("oge", quotient, 2.0**31), -(2.0**31), quotient)
    whole = f.cast("fptosi" if signed else "fptoui", quotient, "i32")
    return resized(m, f.select(is_zero, zero, whole), element)


# ---- power


def power(m: Lanes, base: V, exponent: V, signed: bool) -> V:
    """``base ** exponent`` modulo 2**bits.

    A negative exponent rounds ``1 / base**n`` towards zero, and base 0 gives 0.
    """
    known = constant_of(exponent)
    if known is not None and 0 <= known <= 64:
        return _constant_power(m, base, known)
    kind = "s" if signed else "u"
    name = f"graphc.power.{kind}.{base.type.suffix}"
    if not m.function.module.defines(name):
        _define_power(m, name, base.type, signed)
    return m.function.let(f"call {base.type} @{name}({base}, {exponent})", base.type)


def _constant_power(m: Lanes, base: V, exponent: int) -> V:
    result = None
    while exponent:
        if exponent & 1:
            result = base if result is None else m.integer("mul", result, base)
        exponent >>= 1
        if exponent:
            base = m.integer("mul", base, base)
    return m.number(1, base) if result is None else result


def _define_power(outer: Lanes, name: str, type_: LLVMType, signed: bool) -> None:
    """Squaring while any lane's exponent has bits left: a function, because it needs a loop."""
    parameters = [(str(type_), "base"), (str(type_), "exponent")]
    f = Function(outer.function.module, name, parameters, result=str(type_), linkage="internal")
    m = Lanes(f, outer.features)
    base, exponent = V("%base", type_), V("%exponent", type_)
    zero, one = m.number(0, base), m.number(1, base)
    is_negative = f.compare("slt", exponent, zero)
    left = f.select(is_negative, m.integer("sub", zero, exponent), exponent) if signed else exponent
    f.jump("head")
    f.label("head")
    states = {"square": (base, "%square2"), "left": (left, "%left2"), "result": (one, "%result2")}
    for state, (first, later) in states.items():
        f.line(f"%{state} = phi {type_} [ {first.text}, %entry ], [ {later}, %step ]")
    square, rest, result = (V(f"%{state}", type_) for state in states)
    is_open = f.compare("ne", rest, zero)
    any_open = is_open
    if type_.lanes > 1:
        any_open = f.intrinsic("vector.reduce.or", is_open, result=LLVMType("i1"))
    f.branch(any_open, "step", "done")
    f.label("step")
    is_odd = f.compare("ne", m.integer("and", rest, 1), zero)
    f.line(f"%result2 = select {is_odd}, {m.integer('mul', result, square)}, {result}")
    f.line(f"%square2 = mul {type_} %square, %square")
    f.line(f"%left2 = lshr {type_} %left, {m.number(1, base).text}")
    f.jump("head")
    f.label("done")
    if signed:
        is_unit = m.either(f.compare("eq", base, one), f.compare("eq", base, m.number(-1, base)))
        vanishes = m.both(
            is_negative, f.binary("xor", is_unit, m.function.const(True, is_unit.type))
        )
        result = f.select(vanishes, zero, result)
    outer.function.module.add(f, f"ret {result}")
