"""Kernels with run-time scalars, run-time sizes and checks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.kernel.case import Case, cases, f64
from tests.kernel.zoo_rows import softmax

SIZES: list[Case] = []

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
SIZES += cases(
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


SIZES += cases(
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
SIZES += cases(
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
SIZES += cases(
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
SIZES += cases(
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
