"""Kernels for the rest of the grammar: checks, merges, recurrences, sizes, scalars, dtypes, edge
values.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from tests.kernel.case import Case, cases, f64
from tests.kernel.zoo_rows import philox_words, softmax

MORE: list[Case] = []

# ---- checks, scalars and sizes

CHECKED_WINDOW = """
kernel checked_window
  axes i:{I} j:{J}
  in x f32[{N},{J}], start i64[]
  out y f32[{I},{J}]
  s = load start[]
  check 0 <= s and s <= {N-I} "window: the start is outside 0..{N-I}"
  a = load x[s + i, j]
  store y[i, j] = a
"""
MORE += cases(
    "checked_window",
    CHECKED_WINDOW,
    lambda r, p: {"x": r.normal(p.N, p.J), "start": np.int64(p.N - p.I)},
    lambda p, x, start: {"y": x[start : start + p.I]},
    {"N": 20, "I": 5, "J": 8},
    {"N": 7, "I": 7, "J": 3},
)

DECODE_ATTENTION = """
kernel decode_attention
  scalar pos i64 0..{T-1}
  axes h:{H} j:{T} c:{C} d:{C}
  in q f32[{H},{C}], k f32[{H},{T},{C}], v f32[{H},{T},{C}], new f32[{H},{C}]
  out y f32[{H},{C}], cache f32[{H},{T},{C}] init 0
  qa = load q[h, c]
  ka = load k[h, j, c]
  va = load v[h, j, d]
  dots = contract qa, ka over c
  m, l, o = reduce expsum dots; 1.0, va over j where j <= pos
  store y[h, d] = o / l
  row = load new[h, d]
  store cache[h, pos, d] = row
"""


def decode_attention(p: Any, q: Any, k: Any, v: Any, new: Any) -> dict[str, Any]:
    seen = slice(0, p.pos + 1)
    scores = np.einsum("hc,hjc->hj", f64(q), f64(k)[:, seen])
    cache = np.zeros((p.H, p.T, p.C))
    cache[:, p.pos] = new
    return {"y": np.einsum("hj,hjd->hd", softmax(scores), f64(v)[:, seen]), "cache": cache}


MORE += cases(
    "decode_attention",
    DECODE_ATTENTION,
    lambda r, p: {
        "q": r.normal(p.H, p.C),
        "k": r.normal(p.H, p.T, p.C),
        "v": r.normal(p.H, p.T, p.C),
        "new": r.normal(p.H, p.C),
    },
    decode_attention,
    {"H": 2, "T": 64, "C": 16, "pos": 37},
    {"H": 3, "T": 11, "C": 5, "pos": 0},
    {"H": 3, "T": 11, "C": 5, "pos": 10},
    tolerance=1e-4,
    scalars=lambda p: {"pos": p.pos},
)

SOFTMAX_SIZE = """
kernel softmax_size
  size B 1..4096 by 8
  size N 1..
  axes i:B j:N
  in x f32[B,N]
  out y f32[B,N]
  a = load x[i, j]
  m, s = reduce expsum a; 1.0 over j
  store y[i, j] = exp(a - m) / s
"""
MORE += cases(
    "softmax_size",
    SOFTMAX_SIZE,
    lambda r, p: {"x": r.normal(p.B, p.N)},
    lambda p, x: {"y": softmax(f64(x))},
    {"B": 8, "N": 33},
    {"B": 24, "N": 1},
    {"B": 16, "N": 200},
    run_time=("B", "N"),
)

INTERLEAVE_SIZE = """
kernel interleave_size
  size B 1..1000
  axes b:B s:2
  in x f32[B], y f32[B]
  out z f32[2*B+1]
  u = load x[b]
  v = load y[b]
  store z[0] = f32(B)
  store z[2*b + s + 1] = where(s == 0, u, v)
"""
MORE += cases(
    "interleave_size",
    INTERLEAVE_SIZE,
    lambda r, p: {"x": r.normal(p.B), "y": r.normal(p.B)},
    lambda p, x, y: {"z": np.concatenate([[p.B], np.stack([x, y], 1).ravel()])},
    {"B": 9},
    {"B": 1},
    {"B": 64},
    run_time=("B",),
)

MATMUL_SIZE = """
kernel matmul_size
  size M 1..
  size N 1..
  size K 1..
  axes m:M n:N k:K
  in x f32[M,K], w f32[K,N]
  out y f32[M,N]
  a = load x[m, k]
  v = load w[k, n]
  c = contract a, v over k
  store y[m, n] = tanh(c)
"""
MORE += cases(
    "matmul_size",
    MATMUL_SIZE,
    lambda r, p: {"x": r.normal(p.M, p.K), "w": r.normal(p.K, p.N)},
    lambda p, x, w: {"y": np.tanh(f64(x) @ f64(w))},
    {"M": 32, "N": 48, "K": 64},
    {"M": 1, "N": 17, "K": 5},
    {"M": 29, "N": 1, "K": 1},
    run_time=("M", "N", "K"),
    tolerance=1e-4,
)

# ---- partial states, recurrences, scans

WELFORD_MERGE = """
kernel welford_merge
  axes p:{P} c:{C}
  in cnt f32[{P},{C}], mean f32[{P},{C}], m2 f32[{P},{C}]
  out mu f32[{C}], var f32[{C}]
  n0 = load cnt[p, c]
  m0 = load mean[p, c]
  s0 = load m2[p, c]
  n1, m1, s1 = reduce merge welford n0, m0, s0 over p
  store mu[c] = m1
  store var[c] = s1 / n1
"""


def welford_parts(r: Any, p: Any) -> dict[str, Any]:
    """Some parts are empty."""
    count = r.integers(0, 9, p.P, p.C)
    count[0] = 3
    return {
        "cnt": count.astype(np.float32),
        "mean": np.where(count == 0, 0, r.normal(p.P, p.C)).astype(np.float32),
        "m2": np.where(count == 0, 0, r.positive(p.P, p.C)).astype(np.float32),
    }


def welford_merge(p: Any, cnt: Any, mean: Any, m2: Any) -> dict[str, Any]:
    cnt, mean, m2 = f64(cnt, mean, m2)
    mu = (cnt * mean).sum(0) / cnt.sum(0)
    return {"mu": mu, "var": (m2 + cnt * (mean - mu) ** 2).sum(0) / cnt.sum(0)}


MORE += cases(
    "welford_merge",
    WELFORD_MERGE,
    welford_parts,
    welford_merge,
    {"P": 6, "C": 5},
    {"P": 3, "C": 19},
)

EXPSUM_MERGE = """
kernel expsum_merge
  axes i:{I} p:{P} d:{D}
  in pm f32[{P},{I}], pl f32[{P},{I}], po f32[{P},{I},{D}]
  out y f32[{I},{D}], lse f32[{I}]
  m0 = load pm[p, i]
  l0 = load pl[p, i]
  o0 = load po[p, i, d]
  m, l, o = reduce merge expsum m0, l0, o0 over p
  store y[i, d] = o / l
  store lse[i] = m + log(l)
"""


def expsum_parts(r: Any, p: Any) -> dict[str, Any]:
    """The last part saw nothing: -inf and 0."""
    m, sums, o = r.normal(p.P, p.I), r.positive(p.P, p.I), r.normal(p.P, p.I, p.D)
    m[-1], sums[-1], o[-1] = -np.inf, 0, 0
    return {"pm": m, "pl": sums, "po": o}


def expsum_merge(p: Any, pm: Any, pl: Any, po: Any) -> dict[str, Any]:
    w = np.exp(f64(pm) - pm.max(0))
    total = (w * pl).sum(0)
    y = (w[..., None] * po).sum(0) / total[:, None]
    return {"y": y, "lse": pm.max(0) + np.log(total)}


MORE += cases(
    "expsum_merge",
    EXPSUM_MERGE,
    expsum_parts,
    expsum_merge,
    {"I": 16, "P": 4, "D": 8},
    {"I": 3, "P": 2, "D": 5},
)

LINEAR_SCAN = """
kernel linear_scan
  axes i:{I} t:{T}
  in a f32[{I},{T}], b f32[{I},{T}], h0 f32[{I}]
  out h f32[{I},{T}], last f32[{I}]
  x = load a[i, t]
  y = load b[i, t]
  s = load h0[i]
  decay, state = scan linear x; y over t
  store h[i, t] = decay * s + state
  total, final = reduce linear x; y over t
  store last[i] = total * s + final
"""


def linear_scan(p: Any, a: Any, b: Any, h0: Any) -> dict[str, Any]:
    state, rows = f64(h0), []
    for t in range(p.T):
        state = f64(a)[:, t] * state + f64(b)[:, t]
        rows.append(state)
    return {"h": np.stack(rows, 1), "last": state}


MORE += cases(
    "linear_scan",
    LINEAR_SCAN,
    lambda r, p: {
        "a": r.positive(p.I, p.T) - np.float32(0.4),
        "b": r.normal(p.I, p.T),
        "h0": r.normal(p.I),
    },
    linear_scan,
    {"I": 8, "T": 32},
    {"I": 3, "T": 19},
)

SCANS = """
kernel scans
  axes i:{I} j:{J}
  in x f32[{I},{J}]
  out before f32[{I},{J}], top f32[{I},{J}], at i64[{I},{J}], product f32[{I},{J}]
  a = load x[i, j]
  s = scan sum a over j exclusive
  store before[i, j] = s
  m, k = scan argmax a; j over j
  store top[i, j] = m
  store at[i, j] = k
  p = scan prod a over j reverse exclusive
  store product[i, j] = p
"""


def scans(p: Any, x: Any) -> dict[str, Any]:
    wide = f64(x)
    top = np.maximum.accumulate(x, 1)
    first = [[int(np.argmax(row[: j + 1])) for j in range(p.J)] for row in x]
    after = np.concatenate([wide[:, 1:], np.ones((p.I, 1))], 1)
    return {
        "before": np.concatenate([np.zeros((p.I, 1)), wide.cumsum(1)[:, :-1]], 1),
        "top": top,
        "at": np.array(first),
        "product": after[:, ::-1].cumprod(1)[:, ::-1],
    }


MORE += cases(
    "scans",
    SCANS,
    lambda r, p: {"x": r.integers(-2, 3, p.I, p.J, dtype=np.float32)},
    scans,
    {"I": 4, "J": 16},
    {"I": 1, "J": 7},
)

# ---- reductions: monoids, edge values, masks, axes

EDGE_VALUES = """
kernel edge_values
  axes i:{I} j:{J}
  in x f32[{I},{J}]
  out top f32[{I}], low f32[{I}], at i64[{I}], nadir i64[{I}], big bool[{I}], every bool[{I}]
  out m f32[{I}], l f32[{I}]
  a = load x[i, j]
  hi = reduce max a over j
  lo = reduce min a over j
  va, ia = reduce argmax a; j over j
  vb, ib = reduce argmin a; j over j
  some = reduce any a > 1.0 over j
  each = reduce all a > -1.0 over j
  em, el = reduce expsum a; 1.0 over j
  store top[i] = hi
  store low[i] = lo
  store at[i] = ia
  store nadir[i] = ib
  store big[i] = some
  store every[i] = each
  store m[i] = em
  store l[i] = el
"""


def edge_inputs(r: Any, p: Any) -> dict[str, Any]:
    """Rows of ties, with a NaN, of -inf only, with +inf."""
    x = r.integers(-3, 4, p.I, p.J, dtype=np.float32)
    x[1, p.J // 2 :: 3] = np.nan
    x[2] = -np.inf
    x[3, ::4] = np.inf
    x[4] = 0.5
    return {"x": x}


def edge_values(p: Any, x: Any) -> dict[str, Any]:
    top = x.max(1)
    sums = np.zeros(p.I)
    for i, row in enumerate(f64(x)):
        if np.isnan(top[i]):
            sums[i] = np.nan
        elif top[i] == np.inf:  # each of the infinities weighs 1
            sums[i] = (row == np.inf).sum()
        elif top[i] > -np.inf:
            sums[i] = np.exp(row - top[i]).sum()
    return {
        "top": top,
        "low": x.min(1),
        "at": x.argmax(1),
        "nadir": x.argmin(1),
        "big": (x > 1).any(1),
        "every": (x > -1).all(1),
        "m": top,
        "l": sums,
    }


MORE += cases(
    "edge_values", EDGE_VALUES, edge_inputs, edge_values, {"I": 8, "J": 40}, {"I": 5, "J": 13}
)

MASKED_MOMENTS = """
kernel masked_moments
  axes i:{I} j:{J}
  in x f32[{I},{J}], length i64[{I}]
  out mean f32[{I}], var f32[{I}], count i64[{I}], product f64[{I}]
  a = load x[i, j]
  n = load length[i]
  k, mu, m2 = reduce welford a over j where j < n
  store mean[i] = mu
  store var[i] = m2 / max(k, 1.0)
  c = reduce sum a > 0.0 over j where j < n
  store count[i] = c
  p = reduce prod f64(a) over j where j < n
  store product[i] = p
"""


def masked_moments(p: Any, x: Any, length: Any) -> dict[str, Any]:
    rows = [f64(x[i, : length[i]]) for i in range(p.I)]
    return {
        "mean": [r.mean() if r.size else 0 for r in rows],
        "var": [r.var() if r.size else 0 for r in rows],
        "count": np.array([(r > 0).sum() for r in rows]),
        "product": [r.prod() for r in rows],
    }


MORE += cases(
    "masked_moments",
    MASKED_MOMENTS,
    lambda r, p: {
        "x": r.normal(p.I, p.J),
        "length": np.append(r.integers(1, p.J + 1, p.I - 1), 0),
    },
    masked_moments,
    {"I": 8, "J": 24},
    {"I": 5, "J": 3},
)

ROW_AND_COLUMN_SUMS = """
# no axis is in every store: nothing is parallel
kernel row_and_column_sums
  axes i:{I} j:{J}
  in x f32[{I},{J}]
  out rows f32[{I}], columns f32[{J}], all_ f64[]
  a = load x[i, j]
  r = reduce sum a over j
  store rows[i] = r
  c = reduce sum a over i
  store columns[j] = c
  t = reduce sum f64(a) over i, j
  store all_[] = t
"""
MORE += cases(
    "row_and_column_sums",
    ROW_AND_COLUMN_SUMS,
    lambda r, p: {"x": r.normal(p.I, p.J)},
    lambda p, x: {"rows": f64(x).sum(1), "columns": f64(x).sum(0), "all_": f64(x).sum()},
    {"I": 24, "J": 32},
    {"I": 3, "J": 17},
)

MIDDLE_SUM = """
kernel middle_sum
  axes a:{A} b:{B} c:{C} d:{D}
  in x f32[{A},{B},{C},{D}]
  out y f32[{D},{B}]
  v = load x[a, b, c, d]
  s = reduce sum v * v over a, c
  store y[d, b] = sqrt(s)
"""
MORE += cases(
    "middle_sum",
    MIDDLE_SUM,
    lambda r, p: {"x": r.normal(p.A, p.B, p.C, p.D)},
    lambda p, x: {"y": np.sqrt((f64(x) ** 2).sum((0, 2))).T},
    {"A": 4, "B": 6, "C": 5, "D": 16},
    {"A": 2, "B": 3, "C": 7, "D": 1},
)

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
MORE += cases(
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
MORE += cases(
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
MORE += cases(
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
    MORE += cases(
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


MORE += cases(
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


MORE += cases("integers", INTEGERS, integer_inputs, integers, {"I": 64}, {"I": 7})

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


MORE += cases(
    "random_keys",
    RANDOM_KEYS,
    lambda r, p: {"key": np.int64(-(2**62) - 12345), "call": np.int64(2**33 - 2)},
    random_keys,
    {"I": 8, "J": 16},
    {"I": 3, "J": 5},
)

# ---- movement

MOVEMENT = """
kernel movement
  axes i:{I} j:{J}
  in x f32[{I},{J}]
  out turned f32[{J},{I}], flat f32[{I*J}], rolled f32[{I},{J}], flipped f32[{I},{J}]
  out half f32[{(I+1)//2},{J}], unflat f32[{J},{I}]
  a = load x[i, j]
  store turned[j, i] = a
  store flat[{J}*i + j] = a
  b = load x[(i + 1) % {I}, j]
  store rolled[i, j] = b
  c = load x[{I-1} - i, j]
  store flipped[i, j] = c
  store half[i // 2, j] = a if i % 2 == 0
  d = load x[({I}*j + i) // {J}, ({I}*j + i) % {J}]
  store unflat[j, i] = d
"""
MORE += cases(
    "movement",
    MOVEMENT,
    lambda r, p: {"x": r.normal(p.I, p.J)},
    lambda p, x: {
        "turned": x.T,
        "flat": x.ravel(),
        "rolled": np.roll(x, -1, 0),
        "flipped": x[::-1],
        "half": x[::2],
        "unflat": x.reshape(p.J, p.I),
    },
    {"I": 12, "J": 16},
    {"I": 5, "J": 7},
)
