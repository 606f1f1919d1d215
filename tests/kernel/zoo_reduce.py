"""Kernels whose point is the reduction: partial states, recurrences, scans, edge values, masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.kernel.case import Case, cases, f64

REDUCE: list[Case] = []

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


REDUCE += cases(
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


REDUCE += cases(
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


REDUCE += cases(
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


REDUCE += cases(
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


REDUCE += cases(
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


REDUCE += cases(
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
REDUCE += cases(
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
REDUCE += cases(
    "middle_sum",
    MIDDLE_SUM,
    lambda r, p: {"x": r.normal(p.A, p.B, p.C, p.D)},
    lambda p, x: {"y": np.sqrt((f64(x) ** 2).sum((0, 2))).T},
    {"A": 4, "B": 6, "C": 5, "D": 16},
    {"A": 2, "B": 3, "C": 7, "D": 1},
)
