"""Kernels whose point is the element type: contractions in each, scalar operations, random bits."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from tests.kernel.case import Case, cases, f64
from tests.kernel.zoo_rows import philox_words

TYPES: list[Case] = []

# ---- contractions

TRIANGULAR = """
kernel triangular
  axes i:{I} n:{N} k:{I}
  in x f32[{I},{I}], w f32[{I},{N}]
  out y f32[{I},{N}]
  a = load x[i, k]
  v = load w[k, n]
  s = contract max(a, 0.0), v over k where k <= i
  store y[i, n] = s
"""
TYPES += cases(
    "triangular",
    TRIANGULAR,
    lambda r, p: {"x": r.normal(p.I, p.I), "w": r.normal(p.I, p.N)},
    lambda p, x, w: {"y": np.tril(np.maximum(f64(x), 0)) @ f64(w)},
    {"I": 32, "N": 16},
    {"I": 13, "N": 5},
    tolerance=1e-4,
)

BATCHED_F64 = """
kernel batched_f64
  axes b:{B} m:{M} n:{N} k:{K}
  in x f64[{B},{M},{K}], w f64[{B},{K},{N}]
  out y f64[{B},{M},{N}]
  a = load x[b, m, k]
  v = load w[b, k, n]
  c = contract a, v over k
  store y[b, m, n] = c * 2.0
"""
TYPES += cases(
    "batched_f64",
    BATCHED_F64,
    lambda r, p: {
        "x": r.normal(p.B, p.M, p.K, dtype=np.float64),
        "w": r.normal(p.B, p.K, p.N, dtype=np.float64),
    },
    lambda p, x, w: {"y": 2 * (x @ w)},
    {"B": 3, "M": 16, "N": 24, "K": 32},
    {"B": 2, "M": 5, "N": 7, "K": 3},
    tolerance=1e-13,
)

INT8_MATMUL = """
kernel int8_matmul
  axes m:{M} n:{N} k:{K}
  in x i8[{M},{K}], w i8[{N},{K}]
  out y i32[{M},{N}]
  a = load x[m, k]
  v = load w[n, k]
  c = contract a, v over k
  store y[m, n] = c
"""
TYPES += cases(
    "int8_matmul",
    INT8_MATMUL,
    lambda r, p: {
        "x": r.integers(-128, 128, p.M, p.K, dtype=np.int8),
        "w": r.integers(-128, 128, p.N, p.K, dtype=np.int8),
    },
    lambda p, x, w: {"y": x.astype(np.int64) @ w.astype(np.int64).T},
    {"M": 16, "N": 24, "K": 64},
    {"M": 3, "N": 5, "K": 7},
)

HALF = """
kernel half_{T}
  axes m:{M} n:{N} k:{K}
  in x {T}[{M},{K}], w {T}[{N},{K}], b {T}[{N}]
  out y {T}[{M},{N}], s f32[{M}]
  a = load x[m, k]
  v = load w[n, k]
  c = contract a, v over k
  bias = load b[n]
  store y[m, n] = max({T}(c) + bias, 0.0)
  t = reduce sum a over k
  store s[m] = t
"""


def half_inputs(kind: Any) -> Any:
    return lambda r, p: {
        "x": r.normal(p.M, p.K, dtype=kind),
        "w": r.normal(p.N, p.K, dtype=kind),
        "b": r.normal(p.N, dtype=kind),
    }


for half, kind, unit in (("f16", np.float16, 2e-3), ("bf16", ml_dtypes.bfloat16, 1.6e-2)):
    TYPES += cases(
        f"half_{half}",
        HALF.replace("{T}", half),
        half_inputs(kind),
        lambda p, x, w, b: {"y": np.maximum(f64(x) @ f64(w).T + f64(b), 0), "s": f64(x).sum(1)},
        {"M": 16, "N": 24, "K": 32},
        {"M": 3, "N": 5, "K": 7},
        tolerance=unit,
    )

# ---- scalar operations

FLOAT_OPS = [
    *("abs", "neg", "sign", "exp", "exp2", "expm1", "log", "log2", "log1p", "sin", "cos"),
    *("tan", "tanh", "atan", "sqrt", "rsqrt", "erf", "erfc", "sigmoid", "floor", "ceil"),
    *("round", "trunc"),
]
_REFERENCES: dict[str, Any] = {
    "neg": np.negative,
    "atan": np.arctan,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": np.vectorize(math.erf),
    "erfc": np.vectorize(math.erfc),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "round": np.rint,
}
_LINES = "\n".join(f"  store y_{op}[i] = {'-a' if op == 'neg' else f'{op}(a)'}" for op in FLOAT_OPS)
_OUTS = "\n".join(f"  out y_{op} f32[{{I}}]" for op in FLOAT_OPS)
MATHS = f"kernel maths\n  axes i:{{I}}\n  in x f32[{{I}}]\n{_OUTS}\n  a = load x[i]\n{_LINES}\n"


def maths(p: Any, x: Any) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        return {
            f"y_{op}": np.asarray((_REFERENCES.get(op) or getattr(np, op))(f64(x)))
            for op in FLOAT_OPS
        }


TYPES += cases(
    "maths",
    MATHS,
    lambda r, p: {"x": np.abs(r.normal(p.I)) + np.float32(0.01)},
    maths,
    {"I": 64},
    {"I": 5},
)

INTEGERS = """
kernel integers
  axes i:{I}
  in x i64[{I}], y i64[{I}], u u32[{I}], f f32[{I}]
  out quotient i64[{I}], rest i64[{I}], mixed i64[{I}], shifted u32[{I}], wrapped u8[{I}]
  out whole i32[{I}], ratio f32[{I}], close bool[{I}], power i64[{I}]
  a = load x[i]
  b = load y[i]
  c = load u[i]
  d = load f[i]
  store quotient[i] = a // b
  store rest[i] = a % b
  store mixed[i] = (a & 255 | b << 3) ^ ~a >> 2
  store shifted[i] = c << 5 ^ c >> 7
  store wrapped[i] = u8(a) + u8(c)
  store whole[i] = i32(d)
  store ratio[i] = a / max(abs(b), 1)
  store close[i] = -3 <= a < 3 or not (a != b) and true
  store power[i] = pow(a, 2) - sign(b)
"""


def integer_inputs(r: Any, p: Any) -> dict[str, Any]:
    x, y = r.integers(-20, 20, p.I), r.integers(-6, 6, p.I)
    f = (r.normal(p.I) * 1e9).astype(np.float32)
    f[:5] = [np.nan, np.inf, -np.inf, 3e9, -1.5]
    x[0], y[0] = -(2**63), -1
    return {"x": x, "y": y, "u": r.integers(0, 2**32, p.I, dtype=np.uint32), "f": f}


def integers(p: Any, x: Any, y: Any, u: Any, f: Any) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        limits = np.clip(np.nan_to_num(f64(f), posinf=3e9, neginf=-3e9), -(2.0**31), 2.0**31 - 1)
        divisor = np.where(y == 0, 1, y)
        safe = (y != 0) & ~((y == -1) & (x == -(2**63)))
        return {
            "quotient": np.where(safe, x // divisor, np.where(y == 0, 0, x)),
            "rest": np.where(safe, x % divisor, 0),
            "mixed": ((x & 255) | (y << 3)) ^ ((~x) >> 2),
            "shifted": (u << np.uint32(5)) ^ (u >> np.uint32(7)),
            "wrapped": ((x.astype(np.uint64) + u) % 256).astype(np.uint8),
            "whole": np.trunc(limits).astype(np.int32),
            "ratio": x.astype(np.float32) / np.maximum(np.abs(y), 1).astype(np.float32),
            "close": ((x >= -3) & (x < 3)) | (x == y),
            "power": x * x - np.sign(y),
        }


TYPES += cases("integers", INTEGERS, integer_inputs, integers, {"I": 64}, {"I": 7})

RANDOM_KEYS = """
kernel random_keys
  axes i:{I} j:{J}
  in key i64[], call i64[]
  out words u32[{I},{J}], keys i64[{I}], uniform f32[{I},{J}]
  k = load key[]
  n = load call[]
  lane = derive(k, n + i, 7)
  w = bits(lane, j)
  store words[i, j] = w
  store keys[i] = lane
  store uniform[i, j] = f32(w >> 8) * 5.9604645e-8
"""


def random_keys(p: Any, key: Any, call: Any) -> dict[str, Any]:
    mask, keys = 2**32 - 1, []
    for i in range(p.I):
        c = [(int(call) + i) & mask, (int(call) + i) >> 32 & mask, 7, 0]
        k = [int(key) & mask, int(key) >> 32 & mask]
        for _ in range(10):
            a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
        keys.append(c[0] | c[1] << 32)
    words = np.stack([philox_words(k, -(-p.J // 4))[: p.J] for k in keys])
    signed = np.array(keys, np.uint64).astype(np.int64)
    return {"words": words, "keys": signed, "uniform": (words >> 8) * 2.0**-24}


TYPES += cases(
    "random_keys",
    RANDOM_KEYS,
    lambda r, p: {"key": np.int64(-(2**62) - 12345), "call": np.int64(2**33 - 2)},
    random_keys,
    {"I": 8, "J": 16},
    {"I": 3, "J": 5},
)
