"""The scalar ops of the Kernel IR as instructions, for scalars and vectors alike.

``apply`` writes one op into a function. Everything is inline: polynomials with range reduction, no
calls of a maths library, no fast-math flags, so the bits depend on the target only through its
having fma. ``//`` and ``%`` on floats and ``pow`` on integers need a loop: they are internal
functions of the same module.

The code needs x86-64-v2 (SSE4.1: rounding instructions) or aarch64; ``Features`` says what may be
used beyond. bool is i1 in registers; f16 and bf16 are computed in float and rounded after each op;
signedness is the dtype's. Every function's error is in the table of its module, measured by
``tests/vecmath``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.backends.llvm.ir import Function, V
from graphc.backends.llvm.target import Target
from graphc.backends.llvm.vecmath import (
    arithmetic,
    casts,
    erf,
    exp,
    integer,
    log,
    philox,
    power,
    trig,
)
from graphc.backends.llvm.vecmath.lanes import Features, Lanes
from graphc.errors import KernelError
from graphc.types import DTYPES, DType, float64

__all__ = ["OPS", "Features", "apply", "features_of"]

Emitter = Callable[[Lanes, Sequence[V], Sequence[DType], DType], V]


def features_of(target: Target) -> Features:
    """What the code for a target may use. F16C came with FMA."""
    return Features(fma=target.has_fma, half=target.has_fma)


def apply(
    function: Function,
    op: str,
    args: Sequence[V],
    dtypes: Sequence[DType],
    result: DType,
    features: Features = Features(),  # noqa: B008
) -> V:
    """Write scalar op ``op`` of ``args`` and return its value.

    ``dtypes`` are the operands', ``result`` the result's, as ``graphc.kernel.scalar_ops`` derives
    it. Operands have equal lanes; a scalar beside vectors is spread. KernelError for an unknown op.

    >>> from graphc.backends.llvm.ir import LLVMType, Module
    >>> from graphc.types import float32
    >>> f = Function(Module(), "f", [("float", "x")])
    >>> x = V("%x", LLVMType("float"))
    >>> str(apply(f, "neg", [x], [float32], float32)), f.lines
    ('float %v1', ['  %v1 = fneg float %x'])
    """
    emitter = OPS.get(op)
    if emitter is None:
        raise KernelError(f"no scalar op named {op!r}")
    lanes = max(a.type.lanes for a in args)
    spread = [function.splat(a, lanes) for a in args]
    return emitter(Lanes(function, features), spread, dtypes, result)


# ---- how an op is chosen by dtype

_FloatFormula = Callable[..., V]
_IntegerFormula = Callable[[Lanes, Sequence[V], bool], V]


def _float(formula: _FloatFormula) -> Emitter:
    """A formula on float or double; halves are computed in float and rounded back."""

    def emit(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
        value = formula(m, *(casts.widen(m, a) for a in args))
        return value if result.kind == "b" else casts.narrow(m, value, result)

    return emit


def _number(floats: _FloatFormula, integers: _IntegerFormula) -> Emitter:
    """One formula for floats, one for integers and bools, which is told whether they are signed."""
    float_emitter = _float(floats)

    def emit(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
        dtype = dtypes[0]
        if dtype.is_float:
            return float_emitter(m, args, dtypes, result)
        return integers(m, args, dtype.kind == "i")

    return emit


def _integer(formula: _IntegerFormula) -> Emitter:
    return lambda m, args, dtypes, result: formula(m, args, dtypes[0].kind == "i")


def _plain(floats: str, integers: str) -> Emitter:
    """LLVM instructions of the same meaning for both signs."""
    return _number(
        lambda m, a, b: m.function.binary(floats, a, b),
        lambda m, args, signed: m.function.binary(integers, args[0], args[1]),
    )


def _intrinsic(name: str) -> Emitter:
    return _float(lambda m, x: m.function.intrinsic(name, x))


def _comparison(floats: str, integers: str) -> Emitter:
    def compare(m: Lanes, args: Sequence[V], signed: bool) -> V:
        prefix = "" if integers in ("eq", "ne") else "s" if signed else "u"
        return m.function.compare(prefix + integers, args[0], args[1])

    return _number(lambda m, a, b: m.function.compare(floats, a, b), compare)


def _extremum(name: str, floats: _FloatFormula) -> Emitter:
    def pick(m: Lanes, args: Sequence[V], signed: bool) -> V:
        if args[0].type.element == "i1":
            return m.function.binary("or" if name == "max" else "and", args[0], args[1])
        return m.function.intrinsic(f"{'s' if signed else 'u'}{name}", *args)

    return _number(floats, pick)


# ---- ops that work on patterns, so that halves need no rounding


def _negate(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    (x,) = args
    if result.is_float:
        return m.function.fneg(x) if result.itemsize > 2 else _on_pattern(m, "xor", x, 0x8000)
    return m.integer("sub", m.number(0, x), x)


def _absolute(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    (x,) = args
    if result.is_float:
        return m.abs(x) if result.itemsize > 2 else _on_pattern(m, "and", x, 0x7FFF)
    if result.kind == "u":
        return x
    negative = m.function.compare("slt", x, m.number(0, x))
    return m.function.select(negative, m.integer("sub", m.number(0, x), x), x)


def _on_pattern(m: Lanes, op: str, x: V, mask: int) -> V:
    return m.function.bitcast(m.integer(op, m.bits(x), mask), x.type.element)


def _copysign(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    magnitude, sign = args
    if result.itemsize > 2:
        return m.copysign(magnitude, sign)
    # not by masks: LLVM 22 makes them one node that it cannot compile for bfloat
    bits = m.bits(magnitude)
    negative = m.compare("slt", m.bits(sign), 0)
    minus, plus = m.integer("or", bits, -0x8000), m.integer("and", bits, 0x7FFF)
    return m.function.bitcast(m.function.select(negative, minus, plus), magnitude.type.element)


def _where(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    condition, yes, no = args
    if result.is_float and result.itemsize == 2:
        chosen = m.function.select(condition, m.bits(yes), m.bits(no))
        return m.function.bitcast(chosen, yes.type.element)
    return m.function.select(condition, yes, no)


def _fma(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    a, b, c = (casts.widen(m, x) for x in args)
    formula = arithmetic.fused if result.itemsize > 2 else arithmetic.fused_odd
    return casts.narrow(m, formula(m, a, b, c), result)


# ---- ops with operands of several dtypes


def _divide(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    """Integers are converted to float first."""
    a, b = (casts.convert(m, x, d, result) for x, d in zip(args, dtypes, strict=True))
    return casts.narrow(m, m.div(casts.widen(m, a), casts.widen(m, b)), result)


def _power(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    """Floats take an integer exponent as a double."""
    base, exponent = args
    if not result.is_float:
        return integer.power(m, base, exponent, result.kind == "i")
    base = casts.widen(m, base)
    known = integer.constant_of(exponent) if dtypes[1].is_integer else None
    if known is not None:
        exponent = m.number(known, base)
    elif dtypes[1].is_integer:
        exponent = casts.convert(m, exponent, dtypes[1], float64)
    else:
        exponent = casts.widen(m, exponent)
    return casts.narrow(m, power.power(m, base, exponent), result)


def _shift_right(m: Lanes, args: Sequence[V], signed: bool) -> V:
    return integer.shift(m, "ashr" if signed else "lshr", *args)


def _cast(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    return casts.convert(m, args[0], dtypes[0], result)


def _bits(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    return philox.bits(m, *_wide(m, args, dtypes))


def _derive(m: Lanes, args: Sequence[V], dtypes: Sequence[DType], result: DType) -> V:
    return philox.derive(m, *_wide(m, args, dtypes))


def _wide(m: Lanes, args: Sequence[V], dtypes: Sequence[DType]) -> list[V]:
    return [casts.convert(m, x, d, DTYPES["i64"]) for x, d in zip(args, dtypes, strict=True)]


#: every scalar op of ``graphc.kernel.scalar_ops`` by name
OPS: dict[str, Emitter] = {
    "+": _plain("fadd", "add"),
    "-": _plain("fsub", "sub"),
    "*": _plain("fmul", "mul"),
    "/": _divide,
    "//": _number(arithmetic.floor_divide, integer.floor_divide),
    "%": _number(arithmetic.remainder, integer.remainder),
    "neg": _negate,
    "abs": _absolute,
    "sign": _number(arithmetic.sign, integer.sign),
    "max": _extremum("max", arithmetic.maximum),
    "min": _extremum("min", arithmetic.minimum),
    "exp": _float(exp.exp),
    "exp2": _float(exp.exp2),
    "expm1": _float(exp.expm1),
    "log": _float(log.log),
    "log2": _float(log.log2),
    "log1p": _float(log.log1p),
    "pow": _power,
    "sin": _float(trig.sin),
    "cos": _float(trig.cos),
    "tan": _float(trig.tan),
    "atan": _float(trig.atan),
    "tanh": _float(exp.tanh),
    "sigmoid": _float(exp.sigmoid),
    "erf": _float(erf.erf),
    "erfc": _float(erf.erfc),
    "sqrt": _intrinsic("sqrt"),
    "rsqrt": _float(arithmetic.rsqrt),
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "round": _intrinsic("roundeven"),
    "trunc": _intrinsic("trunc"),
    "<": _comparison("olt", "lt"),
    "<=": _comparison("ole", "le"),
    ">": _comparison("ogt", "gt"),
    ">=": _comparison("oge", "ge"),
    "==": _comparison("oeq", "eq"),
    "!=": _comparison("une", "ne"),
    "and": _integer(lambda m, a, s: m.function.binary("and", a[0], a[1])),
    "or": _integer(lambda m, a, s: m.function.binary("or", a[0], a[1])),
    "not": _integer(lambda m, a, s: m.integer("xor", a[0], m.number(True, a[0]))),
    "&": _integer(lambda m, a, s: m.function.binary("and", a[0], a[1])),
    "|": _integer(lambda m, a, s: m.function.binary("or", a[0], a[1])),
    "^": _integer(lambda m, a, s: m.function.binary("xor", a[0], a[1])),
    "~": _integer(lambda m, a, s: m.integer("xor", a[0], m.number(-1, a[0]))),
    "<<": _integer(lambda m, a, s: integer.shift(m, "shl", *a)),
    ">>": _integer(_shift_right),
    "where": _where,
    "fma": _fma,
    "isnan": _float(lambda m, x: m.compare("uno", x, x)),
    "isinf": _float(lambda m, x: m.compare("oeq", m.abs(x), float("inf"))),
    "copysign": _copysign,
    "bits": _bits,
    "derive": _derive,
    **dict.fromkeys(DTYPES, _cast),
}
