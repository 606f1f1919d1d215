"""How exact the functions are: one op as a loop over arrays against a wider reference.

``python -m graphc.backends.llvm.vecmath.measure`` prints the table. float is compared with NumPy's
double, double with mpmath at 40 digits where it is installed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.backends.llvm import codegen
from graphc.backends.llvm.ir import PTR, Function, LLVMType, Module, V, literal
from graphc.backends.llvm.target import Target, host_target, named_target
from graphc.backends.llvm.vecmath import (
    Features,
    apply,
    arithmetic,
    erf,
    exp,
    features_of,
    log,
    power,
    trig,
)
from graphc.backends.llvm.vecmath.casts import ELEMENTS
from graphc.kernel.scalar_ops import result_dtype
from graphc.records import dataclass
from graphc.types import DType, dtype_of, float32, float64

__all__ = [
    "MEASURED",
    "Measurement",
    "arguments",
    "compiled_map",
    "errors_in_ulp",
    "map_ir",
    "measure_ulp",
    "reference",
    "stated_bounds",
    "stratified",
    "worst",
]

Array = NDArray[Any]
Formula = Callable[[Function, Sequence[V]], V]

_OPERANDS = ["a", "b", "c"]


def map_ir(op: str, dtypes: Sequence[DType], lanes: int, features: Features = Features()) -> str:  # noqa: B008
    """LLVM IR of ``void map(i64 count, ptr out, ptr a, ..)``: the op, ``lanes`` at a time.

    The count is a multiple of lanes. bool travels as bytes.
    """
    result = result_dtype(op, dtypes)
    module = Module()
    names = _OPERANDS[: len(dtypes)]
    f = Function(module, "map", [("i64", "n"), ("ptr", "out"), *(("ptr", name) for name in names)])
    i64 = LLVMType("i64")
    with f.loop(literal(0, i64), V("%n", i64), lanes) as loop:
        args = [
            _load(f, f"%{name}", loop.index, dtype, lanes)
            for name, dtype in zip(names, dtypes, strict=True)
        ]
        value = apply(f, op, args, dtypes, result, features)
        _store(f, value, loop.index, result)
    module.add(f)
    return module.text()


def _load(f: Function, pointer: str, index: V, dtype: DType, lanes: int) -> V:
    element = "i8" if dtype.kind == "b" else ELEMENTS[dtype.short]
    value = f.load(LLVMType(element, lanes), f.offset(V(pointer, PTR), index, element), 1)
    return f.cast("trunc", value, "i1") if dtype.kind == "b" else value


def _store(f: Function, value: V, index: V, dtype: DType) -> None:
    if dtype.kind == "b":
        value = f.cast("zext", value, "i8")
    f.store(value, f.offset(V("%out", PTR), index, value.type.element), 1)


@functools.cache
def _compiled(op: str, dtypes: tuple[DType, ...], target: Target, lanes: int) -> tuple[Any, Any]:
    text = map_ir(op, dtypes, lanes, features_of(target))
    library = codegen.link([codegen.object_of(text, target.machine)], ["map"])
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * (len(dtypes) + 1))
    return kind(library.addresses["map"]), library


def compiled_map(op: str, *arrays: Array, target: Target | None = None, lanes: int = 8) -> Array:
    """``op`` of flat arrays of equal length, computed by the machine code for ``target``.

    >>> compiled_map("+", np.float32([1, 2]), np.float32([3, 4])).tolist()
    [4.0, 6.0]
    """
    dtypes = tuple(dtype_of(a.dtype) for a in arrays)
    result = result_dtype(op, dtypes)
    function, _ = _compiled(op, dtypes, target or host_target(), lanes)
    count = len(arrays[0])
    padded = -(-count // lanes) * lanes
    out = np.empty(padded, result.numpy)
    inputs = [_padded(a, padded) for a in arrays]
    function(padded, out.ctypes.data, *(a.ctypes.data for a in inputs))
    return out[:count]


def _padded(array: Array, count: int) -> Array:
    array = np.ascontiguousarray(array)
    if len(array) == count:
        return array
    return np.concatenate([array, np.repeat(array[-1:], count - len(array))])


# ---- ulp


@dataclass(frozen=True)
class Measurement:
    """The largest error and where it is.

    ``ulp`` is infinite where a NaN or a zero's sign is wrong.
    """

    op: str
    dtype: DType
    ulp: float
    at: tuple[float, ...]

    def __str__(self) -> str:
        where = ", ".join(repr(float(a)) for a in self.at)
        return f"{self.op:8} {self.dtype}  {self.ulp:6.3f} ulp at {where}"


def errors_in_ulp(got: Array, reference: Array, dtype: DType) -> Array:
    """|got - reference| in units of the last place of the reference in ``dtype``.

    The reference is of a wider type. An overflowed result counts as the next power of two.
    """
    wide = reference.dtype.type
    info = np.finfo(dtype.numpy)
    end = np.ldexp(wide(1), info.maxexp)
    inside = np.clip(np.where(np.isnan(reference), 0, reference), -end, end)
    value = np.clip(np.where(np.isnan(got), 0, got).astype(wide), -end, end)
    _, exponent = np.frexp(inside)
    exponent = np.maximum(exponent - 1, info.minexp)
    ulp = np.ldexp(np.ones((), wide), exponent - info.nmant)
    error = np.abs(value - inside) / ulp
    sign_lost = (inside == 0) & (value == 0) & (np.signbit(got) != np.signbit(reference))
    is_wrong = (np.isnan(got) != np.isnan(reference)) | (sign_lost & ~np.isnan(reference))
    return np.where(is_wrong, np.inf, error)


def stratified(dtype: DType, count: int, seed: int = 0) -> Array:
    """Every exponent and sign alike, random fractions; and the special values."""
    bits = dtype.itemsize * 8
    rng = np.random.default_rng(seed)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    info = np.finfo(dtype.numpy)
    patterns = rng.integers(0, 1 << (info.nmant + 1), count, dtype=np.uint64) >> np.uint64(1)
    top = (np.arange(count, dtype=np.uint64) % (1 << (bits - info.nmant))) << np.uint64(info.nmant)
    special = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -0.5, math.inf, -math.inf, math.nan]
    special += [info.tiny, -info.tiny, info.smallest_subnormal, -info.smallest_subnormal]
    special += [info.max, -info.max, 1 + info.eps, 1 - info.eps / 2]
    values = (patterns | top).astype(unsigned).view(dtype.numpy)
    return np.concatenate([values, np.array(special, dtype.numpy)])


def _interesting(dtype: DType, count: int, seed: int = 1) -> Array:
    """Arguments of everyday size: where the errors of most functions are largest."""
    rng = np.random.default_rng(seed)
    parts = [rng.uniform(-s, s, count // 5) for s in (1.5, 4, 12, 110 if dtype is float32 else 750)]
    near_one = 1 + rng.uniform(-0.4, 0.45, count // 5)
    return np.concatenate([*parts, near_one]).astype(dtype.numpy)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, small, np.ones((), x.dtype)) / (1 + small))


def _vectorized(function: Callable[[float], float]) -> Callable[[Array], Array]:
    return np.vectorize(function, otypes=[np.float64])


#: double references of float functions
_DOUBLE: dict[str, Callable[..., Array]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "atan": np.arctan,
    "sigmoid": _sigmoid,
    "erf": _vectorized(math.erf),
    "erfc": _vectorized(math.erfc),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "pow": np.power,
}
MEASURED = tuple(_DOUBLE)


def reference(op: str, *args: Array) -> Array:
    """The op in a wider type: double for float, long double by mpmath for double."""
    with np.errstate(all="ignore"):
        if args[0].dtype == np.float64:
            return _long_double(op, args)
        return np.asarray(_DOUBLE[op](*(a.astype(np.float64) for a in args)))


def _long_double(op: str, args: Sequence[Array]) -> Array:
    """By mpmath, which is installed for the tests only; rounded to long double."""
    mpmath = importlib.import_module("mpmath")
    with mpmath.workprec(200):
        rows = zip(*args, strict=True)
        exact = [_exact(mpmath, op, [float(v) for v in row]) for row in rows]
    return np.array(exact, np.longdouble)


def _exact(mpmath: Any, op: str, row: list[float]) -> np.longdouble:
    """One exact value; what mpmath has no opinion on (infinities, zeros, NaN) is NumPy's."""
    with np.errstate(all="ignore"):
        plain = float(_DOUBLE[op](*(np.float64(v) for v in row)))
    if any(not math.isfinite(v) or v == 0 for v in row) or math.isnan(plain):
        return np.longdouble(plain)
    if op == "pow" and (math.isinf(plain) or plain == 0):
        return np.longdouble(plain)
    value = _MPMATH[op](mpmath, *(mpmath.mpf(v) for v in row))
    if not mpmath.isfinite(value):
        return np.longdouble(float(value))
    fraction, exponent = mpmath.frexp(value)  # a denormal keeps its digits in long double
    high = float(fraction)
    wide = np.longdouble(high) + np.longdouble(float(fraction - high))
    return np.longdouble(np.ldexp(wide, int(exponent)))


_MPMATH: dict[str, Callable[..., Any]] = {
    "exp": lambda mp, x: mp.exp(x) if abs(x) < 10000 else mp.mpf(2) ** (99999 * mp.sign(x)),
    "exp2": lambda mp, x: mp.mpf(2) ** max(min(x, 9999), -9999),
    "expm1": lambda mp, x: mp.expm1(min(x, 9999)),
    "log": lambda mp, x: mp.log(x),
    "log2": lambda mp, x: mp.log(x) / mp.ln2,
    "log1p": lambda mp, x: mp.log1p(x) if x > -1 else mp.ninf if x == -1 else mp.nan,
    "sin": lambda mp, x: mp.sin(x),
    "cos": lambda mp, x: mp.cos(x),
    "tan": lambda mp, x: mp.tan(x),
    "tanh": lambda mp, x: mp.tanh(x),
    "atan": lambda mp, x: mp.atan(x),
    "sigmoid": lambda mp, x: 1 / (1 + mp.exp(-x)) if abs(x) < 9999 else mp.mpf(x > 0),
    "erf": lambda mp, x: mp.erf(x) if abs(x) < 99 else mp.sign(x),
    "erfc": lambda mp, x: mp.erfc(x) if abs(x) < 99 else 1 - mp.sign(x),
    "sqrt": lambda mp, x: mp.sqrt(x) if x > 0 else mp.nan,
    "rsqrt": lambda mp, x: 1 / mp.sqrt(x) if x > 0 else mp.nan,
    "pow": lambda mp, x, y: mp.power(x, y),
}


def measure_ulp(
    op: str, dtype: DType = float32, target: Target | None = None, count: int = 1 << 20
) -> Measurement:
    """The largest error of ``op`` over ``count`` arguments of all exponents, and as many of
    everyday size. The doubles need mpmath.
    """
    args = arguments(op, dtype, count)
    return worst(op, args, compiled_map(op, *args, target=target), reference(op, *args))


def arguments(op: str, dtype: DType, count: int) -> tuple[Array, ...]:
    """What ``op`` is measured on."""
    x = np.concatenate([stratified(dtype, count), _interesting(dtype, count)])
    if op != "pow":
        return (x,)
    rng = np.random.default_rng(2)
    y = rng.permutation(x)
    base = np.exp2(rng.uniform(-20, 20, len(x))).astype(dtype.numpy)
    limit = 1100 if dtype is float64 else 150
    with np.errstate(all="ignore"):
        fitting = (rng.uniform(-limit, limit, len(x)) / np.log2(base)).astype(dtype.numpy)
    return np.concatenate([x, base]), np.concatenate([y, fitting])


def worst(op: str, args: Sequence[Array], got: Array, exact: Array) -> Measurement:
    """Where the results differ most from the reference's."""
    dtype = dtype_of(args[0].dtype)
    errors = errors_in_ulp(got, exact, dtype)
    i = int(np.argmax(errors))
    return Measurement(op, dtype, float(errors[i]), tuple(float(a[i]) for a in args))


def stated_bounds() -> dict[str, dict[tuple[str, bool], float]]:
    """What the tables of the modules promise: ``[op][dtype, has fma]`` in ulp.

    >>> stated_bounds()["exp"]["f32", True]
    0.87
    """
    columns = [("f32", True), ("f32", False), ("f64", True), ("f64", False)]
    row = re.compile(r"^(\w+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +\d", re.MULTILINE)
    bounds: dict[str, dict[tuple[str, bool], float]] = {}
    for module in (arithmetic, erf, exp, log, power, trig):
        for name, *numbers in row.findall(module.__doc__ or ""):
            bounds[name] = dict(zip(columns, map(float, numbers), strict=True))
    return bounds


def main() -> None:
    """Print measured and stated errors, for the host and for x86-64-v2."""
    stated = stated_bounds()
    for target in (host_target(), named_target("sse")):
        for op in MEASURED:
            for dtype, count in ((float32, 1 << 20), (float64, 2048)):
                bound = stated[op][dtype.short, target.has_fma]
                print(f"{target.name:8} {measure_ulp(op, dtype, target, count)}; stated {bound}")


if __name__ == "__main__":
    main()
