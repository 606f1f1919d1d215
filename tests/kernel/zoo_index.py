"""Kernels whose point is the index: gather, scatter, windows of an edge list, padding,
resampling.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.kernel.case import Case, cases, f64

INDEX: list[Case] = []

EMBEDDING = """
kernel embedding
  axes i:{I} d:{D}
  in table f32[{V},{D}], t i64[{I}]
  out y f32[{I},{D}]
  r = load t[i]
  check 0 <= r < {V} "embedding: index outside 0..{V-1}"
  e = load table[r, d]
  store y[i, d] = e
"""
EMBEDDING_BACKWARD = """
kernel embedding_backward
  axes i:{I} d:{D}
  in t i64[{I}], dy f32[{I},{D}]
  out dt f32[{V},{D}] init 0
  r = load t[i]
  check 0 <= r < {V} "embedding: index outside 0..{V-1}"
  g = load dy[i, d]
  store add dt[r, d] = g
"""
EMBEDDING_BACKWARD_SORTED = """
# the deterministic form: `sort` (a routine) gives order[] and start[]; the axis e is a window of
# the edge list
kernel embedding_backward_sorted
  axes r:{V} e:{I} d:{D}
  in order i64[{I}], start i64[{V+1}], dy f32[{I},{D}]
  out dt f32[{V},{D}]
  lo = load start[r]
  hi = load start[r + 1]
  i = load order[e]
  check 0 <= i < {I} "order leaves the rows"
  g = load dy[i, d]
  s = reduce sum g over e where lo <= e < hi
  store dt[r, d] = s
"""
EMBEDDED = ({"I": 50, "V": 20, "D": 8}, {"I": 13, "V": 7, "D": 5})


def embedding_backward(p: Any, t: Any, dy: Any) -> dict[str, Any]:
    dt = np.zeros((p.V, p.D))
    np.add.at(dt, t, f64(dy))
    return {"dt": dt}


def sorted_inputs(r: Any, p: Any) -> dict[str, Any]:
    t = r.integers(0, p.V, p.I)
    order = np.argsort(t, kind="stable")
    start = np.searchsorted(t[order], np.arange(p.V + 1))
    return {"order": order, "start": start, "dy": r.normal(p.I, p.D)}


def from_sorted(p: Any, order: Any, start: Any, dy: Any) -> dict[str, Any]:
    t = np.empty(p.I, np.int64)
    t[order] = np.repeat(np.arange(p.V), np.diff(start))
    return embedding_backward(p, t, dy)


INDEX += cases(
    "embedding",
    EMBEDDING,
    lambda r, p: {"table": r.normal(p.V, p.D), "t": r.integers(0, p.V, p.I)},
    lambda p, table, t: {"y": table[t]},
    *EMBEDDED,
)
INDEX += cases(
    "embedding_backward",
    EMBEDDING_BACKWARD,
    lambda r, p: {"t": r.integers(0, p.V, p.I), "dy": r.normal(p.I, p.D)},
    embedding_backward,
    *EMBEDDED,
)
INDEX += cases(
    "embedding_backward_sorted", EMBEDDING_BACKWARD_SORTED, sorted_inputs, from_sorted, *EMBEDDED
)

GAT = """
kernel gat_softmax_aggregate
  axes v:{V} e:{E} d:{D}
  in start i64[{V+1}], src i64[{E}], score f32[{E}], h f32[{V},{D}]
  out y f32[{V},{D}]
  lo = load start[v]
  hi = load start[v + 1]
  a = load score[e]
  u = load src[e]
  check 0 <= u < {V} "gat: a source is outside 0..{V-1}"
  hu = load h[u, d]
  m, l, o = reduce expsum a; 1.0, hu over e where lo <= e < hi
  store y[v, d] = where(l > 0.0, o / l, 0.0)
"""


def gat_inputs(r: Any, p: Any) -> dict[str, Any]:
    """The last node has no edge."""
    target = np.sort(r.integers(0, p.V - 1, p.E))
    return {
        "start": np.searchsorted(target, np.arange(p.V + 1)),
        "src": r.integers(0, p.V, p.E),
        "score": r.normal(p.E),
        "h": r.normal(p.V, p.D),
    }


def gat(p: Any, start: Any, src: Any, score: Any, h: Any) -> dict[str, Any]:
    y = np.zeros((p.V, p.D))
    for v in range(p.V):
        edges = slice(start[v], start[v + 1])
        if start[v] < start[v + 1]:
            e = np.exp(f64(score[edges]) - score[edges].max())
            y[v] = e @ f64(h)[src[edges]] / e.sum()
    return {"y": y}


INDEX += cases(
    "gat_softmax_aggregate",
    GAT,
    gat_inputs,
    gat,
    {"V": 10, "E": 40, "D": 8},
    {"V": 5, "E": 23, "D": 3},
)

CONCAT_RELU = """
kernel concat_relu
  axes i:{M+N} j:{J}
  in x f32[{M},{J}], y f32[{N},{J}]
  out z f32[{M+N},{J}]
  a = load x[i, j] if i < {M} else 0.0
  b = load y[i - {M}, j] if i >= {M} else 0.0
  store z[i, j] = max(where(i < {M}, a, b), 0.0)
"""
INDEX += cases(
    "concat_relu",
    CONCAT_RELU,
    lambda r, p: {"x": r.normal(p.M, p.J), "y": r.normal(p.N, p.J)},
    lambda p, x, y: {"z": np.maximum(np.concatenate([x, y]), 0)},
    {"M": 8, "N": 4, "J": 5},
    {"M": 3, "N": 11, "J": 19},
)

PADS = """
kernel pad_reflect_circular
  axes i:{N+2*P}
  in x f32[{N}]
  out r f32[{N+2*P}], c f32[{N+2*P}]
  k = abs(i - {P})
  a = load x[{N-1} - abs({N-1} - k)]
  b = load x[(i - {P} + {N}) % {N}]
  store r[i] = a
  store c[i] = b
"""
INDEX += cases(
    "pad_reflect_circular",
    PADS,
    lambda r, p: {"x": r.normal(p.N)},
    lambda p, x: {"r": np.pad(x, p.P, "reflect"), "c": np.pad(x, p.P, "wrap")},
    {"N": 8, "P": 3},
    {"N": 19, "P": 5},
)

BILINEAR = """
kernel bilinear
  axes n:{N} y:{T} x:{T}
  in im f32[{N},{S},{S}]
  out r f32[{N},{T},{T}]
  fy = max((f32(y) + 0.5) * {S/T} - 0.5, 0.0)
  fx = max((f32(x) + 0.5) * {S/T} - 0.5, 0.0)
  y0 = i64(floor(fy))
  x0 = i64(floor(fx))
  y1 = min(y0 + 1, {S-1})
  x1 = min(x0 + 1, {S-1})
  a = load im[n, y0, x0]
  b = load im[n, y0, x1]
  c = load im[n, y1, x0]
  d = load im[n, y1, x1]
  u = fx - f32(x0)
  w = fy - f32(y0)
  store r[n, y, x] = (a * (1.0 - u) + b * u) * (1.0 - w) + (c * (1.0 - u) + d * u) * w
"""


def bilinear(p: Any, im: Any) -> dict[str, Any]:
    at = np.maximum((np.arange(p.T) + 0.5) * (p.S / p.T) - 0.5, 0)
    spread = np.zeros((p.T, p.S))  # rows: the two weights of each output position
    low = np.floor(at).astype(int)
    for t in range(p.T):
        spread[t, low[t]] += 1 - (at[t] - low[t])
        spread[t, min(low[t] + 1, p.S - 1)] += at[t] - low[t]
    return {"r": np.einsum("ys,xt,nst->nyx", spread, spread, f64(im))}


INDEX += cases(
    "bilinear",
    BILINEAR,
    lambda r, p: {"im": r.normal(p.N, p.S, p.S)},
    bilinear,
    {"N": 2, "S": 5, "T": 9},
    {"N": 1, "S": 7, "T": 11},
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
INDEX += cases(
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
