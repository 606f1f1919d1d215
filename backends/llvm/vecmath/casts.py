"""Conversions between all element types.

Floats go to integers by truncation, saturating at the ends, NaN to 0. Integers go to integers
modulo 2**bits, and to floats by rounding to nearest even; wide integers reach f16 and bf16 through
float. f16 and bf16 are rounded to nearest even and keep NaN; a double is first rounded to odd in
float, so that the second rounding is the only one that counts (Boldo and Melquiond, "When double
rounding is odd", 2004). bf16 and, where the machine has no F16C, f16 are converted with integer
arithmetic: LLVM would call its run-time library. The half conversions follow F. Giesen's
float_to_half_fast3_rtne and half_to_float (public domain).
"""

from __future__ import annotations

from graphc.backends.llvm.ir import BITS, V
from graphc.backends.llvm.vecmath.lanes import Lanes
from graphc.types import DType, float32, float64

__all__ = ["ELEMENTS", "convert", "narrow", "widen"]

#: the LLVM element type that holds a value of each dtype in a register
ELEMENTS = {
    "bool": "i1",
    "i8": "i8",
    "u8": "i8",
    "i32": "i32",
    "u32": "i32",
    "i64": "i64",
    "f16": "half",
    "bf16": "bfloat",
    "f32": "float",
    "f64": "double",
}


def convert(m: Lanes, x: V, source: DType, target: DType) -> V:
    """``x`` of dtype ``source`` as ``target``."""
    if source == target:
        return x
    if source.kind == "b":
        return _from_bool(m, x, target)
    if source.is_float:
        return _from_float(m, widen(m, x), target)
    return _from_integer(m, x, source, target)


def widen(m: Lanes, x: V) -> V:
    """half and bfloat as float; everything else as it is."""
    if x.type.element == "bfloat":
        wide = m.function.cast("zext", m.bits(x), "i32")
        return m.float_of(m.integer("shl", wide, 16))
    if x.type.element == "half":
        return m.function.cast("fpext", x, "float") if m.features.half else _half_to_float(m, x)
    return x


def narrow(m: Lanes, x: V, target: DType) -> V:
    """A float or double as a floating dtype, rounded to nearest even."""
    element = ELEMENTS[target.short]
    if element in ("float", "double"):
        return m.convert(x, element)
    if x.type.element == "double":
        x = _to_odd_float(m, x)
    if element == "bfloat":
        return _float_to_bfloat(m, x)
    return m.function.cast("fptrunc", x, "half") if m.features.half else _float_to_half(m, x)


def _from_bool(m: Lanes, x: V, target: DType) -> V:
    type_ = x.type.of(ELEMENTS[target.short])
    if not target.is_float:
        return m.function.cast("zext", x, type_.element)
    if target.itemsize == 2:
        return narrow(m, _from_bool(m, x, float32), target)
    return m.function.select(x, m.function.const(1, type_), m.function.const(0, type_))


def _from_float(m: Lanes, x: V, target: DType) -> V:
    if target.is_float:
        return narrow(m, x, target)
    if target.kind == "b":
        return m.compare("une", x, 0.0)
    result = x.type.of(ELEMENTS[target.short])
    sign = "si" if target.kind == "i" else "ui"
    name = f"llvm.fpto{sign}.sat.{result.suffix}.{x.type.suffix}"
    return m.function.call(name, x, result=result)


def _from_integer(m: Lanes, x: V, source: DType, target: DType) -> V:
    if target.kind == "b":
        return m.function.compare("ne", x, m.function.const(0, x.type))
    if target.is_float:
        wide = float64 if target == float64 else float32
        op = "sitofp" if source.kind == "i" else "uitofp"
        return narrow(m, m.function.cast(op, x, ELEMENTS[wide.short]), target)
    element = ELEMENTS[target.short]
    before, after = BITS[x.type.element], BITS[element]
    if before == after:
        return x
    extend = "sext" if source.kind == "i" else "zext"
    return m.function.cast(extend if after > before else "trunc", x, element)


def _to_odd_float(m: Lanes, x: V) -> V:
    """A double as float, rounded to odd: an inexact result has its last bit set."""
    near = m.convert(x, "float")
    back = m.convert(near, "double")
    is_away = m.compare("ogt", m.abs(back), m.abs(x))
    bits = m.bits(near)
    minus_one, zero = m.number(-1, bits), m.number(0, bits)
    truncated = m.integer("add", bits, m.function.select(is_away, minus_one, zero))
    inexact = m.compare("one", back, x)
    sticky = m.function.cast("zext", inexact, "i32")
    return m.float_of(m.integer("or", truncated, sticky))


def _float_to_bfloat(m: Lanes, x: V) -> V:
    bits = m.bits(x)
    high = m.integer("lshr", bits, 16)
    rounded = m.integer("add", bits, m.integer("add", m.integer("and", high, 1), 0x7FFF))
    quiet = m.integer("or", high, 0x40)
    is_nan = m.compare("uno", x, x)
    chosen = m.function.select(is_nan, quiet, m.integer("lshr", rounded, 16))
    return m.function.bitcast(m.function.cast("trunc", chosen, "i16"), "bfloat")


def _half_to_float(m: Lanes, x: V) -> V:
    bits = m.function.cast("zext", m.bits(x), "i32")
    magnitude = m.integer("shl", m.integer("and", bits, 0x7FFF), 13)
    finite = m.bits(m.mul(m.float_of(magnitude), 2.0**112))
    special = m.integer("or", magnitude, 0x7F800000)
    is_special = m.compare("ugt", magnitude, 0x0F7FFFFF)
    sign = m.integer("shl", m.integer("and", bits, 0x8000), 16)
    return m.float_of(m.integer("or", m.function.select(is_special, special, finite), sign))


def _float_to_half(m: Lanes, x: V) -> V:
    bits = m.bits(x)
    magnitude = m.integer("and", bits, 0x7FFFFFFF)
    odd = m.integer("and", m.integer("lshr", magnitude, 13), 1)
    biased = m.integer("add", m.integer("add", magnitude, odd), 0xFFF - (112 << 23))
    normal = m.integer("lshr", biased, 13)
    half = m.bits(m.add(m.float_of(magnitude), 0.5))  # the addition rounds a denormal result
    denormal = m.integer("sub", half, 0x3F000000)
    is_nan = m.compare("ugt", magnitude, 0x7F800000)
    special = m.function.select(is_nan, m.number(0x7E00, bits), m.number(0x7C00, bits))
    small = m.function.select(m.compare("ult", magnitude, 0x38800000), denormal, normal)
    chosen = m.function.select(m.compare("ugt", magnitude, 0x477FFFFF), special, small)
    sign = m.integer("lshr", m.integer("and", bits, 0x80000000), 16)
    result = m.function.cast("trunc", m.integer("or", chosen, sign), "i16")
    return m.function.bitcast(result, "half")
