"""Kernels along rows: softmax, norms, losses, scans, element-wise updates."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.kernel.case import Case, cases, f64

ROWS: list[Case] = []


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


SOFTMAX = """
kernel softmax
  axes i:{I} j:{J}
  in x f32[{I},{J}]
  out y f32[{I},{J}]
  a = load x[i, j]
  m = reduce max a over j
  e = exp(a - m)
  s = reduce sum e over j
  store y[i, j] = e / s
"""
SOFTMAX_ONLINE = """
kernel softmax_online
  axes i:{I} j:{J}
  in x f32[{I},{J}]
  out y f32[{I},{J}]
  a = load x[i, j]
  m, s = reduce expsum a; 1.0 over j
  store y[i, j] = exp(a - m) / s
"""
for name, template in (("softmax", SOFTMAX), ("softmax_online", SOFTMAX_ONLINE)):
    ROWS += cases(
        name,
        template,
        lambda r, p: {"x": r.normal(p.I, p.J)},
        lambda p, x: {"y": softmax(f64(x))},
        {"I": 64, "J": 200},
        {"I": 5, "J": 17},
        {"I": 1, "J": 1},
        {"I": 3, "J": 1001},
    )


LAYER_NORM = """
kernel layer_norm
  axes i:{I} j:{J}
  in x f32[{I},{J}], g f32[{J}], b f32[{J}]
  out y f32[{I},{J}], mean f32[{I}], rstd f32[{I}]
  a = load x[i, j]
  gamma = load g[j]
  beta = load b[j]
  n, mu, m2 = reduce welford a over j
  r = rsqrt(m2 / {float(J)} + 1e-5)
  store y[i, j] = (a - mu) * r * gamma + beta
  store mean[i] = mu
  store rstd[i] = r
"""


def layer_norm(p: Any, x: Any, g: Any, b: Any) -> dict[str, Any]:
    x, g, b = f64(x, g, b)
    mean, rstd = x.mean(1), (x.var(1) + 1e-5) ** -0.5
    return {"y": (x - mean[:, None]) * rstd[:, None] * g + b, "mean": mean, "rstd": rstd}


ROWS += cases(
    "layer_norm",
    LAYER_NORM,
    lambda r, p: {"x": 3 + r.normal(p.I, p.J), "g": r.normal(p.J), "b": r.normal(p.J)},
    layer_norm,
    {"I": 64, "J": 200},
    {"I": 7, "J": 33},
    {"I": 2, "J": 3},
)

LAYER_NORM_BACKWARD = """
# dx reduces over j, dgamma and dbeta over i: the row axis is split i = {K}*ib + ii, `ib` is the
# grid, and the partials have one row a program
kernel layer_norm_backward
  axes ib:{G} ii:{K} j:{J}
  in x f32[{G*K},{J}], dy f32[{G*K},{J}], g f32[{J}], mean f32[{G*K}], rstd f32[{G*K}]
  out dx f32[{G*K},{J}], pg f32[{G},{J}], pb f32[{G},{J}]
  a = load x[{K}*ib + ii, j]
  d = load dy[{K}*ib + ii, j]
  gamma = load g[j]
  mu = load mean[{K}*ib + ii]
  r = load rstd[{K}*ib + ii]
  h = (a - mu) * r
  w = d * gamma
  c1 = reduce sum w over j
  wh = w * h
  c2 = reduce sum wh over j
  store dx[{K}*ib + ii, j] = r * (w - (c1 + h * c2) / {float(J)})
  dh = d * h
  tg = reduce sum dh over ii
  tb = reduce sum d over ii
  store pg[ib, j] = tg
  store pb[ib, j] = tb
"""


def layer_norm_backward(p: Any, x: Any, dy: Any, g: Any, mean: Any, rstd: Any) -> dict[str, Any]:
    x, dy, g, mean, rstd = f64(x, dy, g, mean, rstd)
    h = (x - mean[:, None]) * rstd[:, None]
    w = dy * g
    inner = w.mean(1, keepdims=True) + h * (w * h).mean(1, keepdims=True)
    blocks = (p.G, p.K, p.J)
    return {
        "dx": rstd[:, None] * (w - inner),
        "pg": (dy * h).reshape(blocks).sum(1),
        "pb": dy.reshape(blocks).sum(1),
    }


ROWS += cases(
    "layer_norm_backward",
    LAYER_NORM_BACKWARD,
    lambda r, p: {
        "x": r.normal(p.G * p.K, p.J),
        "dy": r.normal(p.G * p.K, p.J),
        "g": r.normal(p.J),
        "mean": r.normal(p.G * p.K),
        "rstd": r.positive(p.G * p.K),
    },
    layer_norm_backward,
    {"G": 4, "K": 16, "J": 200},
    {"G": 3, "K": 5, "J": 37},
)

CROSS_ENTROPY = """
kernel cross_entropy
  axes i:{I} j:{J}
  in x f32[{I},{J}], t i64[{I}], count f32[]
  out loss f32[{I}], dx f32[{I},{J}]
  a = load x[i, j]
  label = load t[i]
  n = load count[]
  m, s = reduce expsum a; 1.0 over j
  keep = label != -100
  check not keep or 0 <= label < {J} "cross_entropy: a label is outside 0..{J-1}"
  picked = load x[i, label] if keep else 0.0
  store loss[i] = where(keep, log(s) + m - picked, 0.0)
  p = exp(a - m) / s
  store dx[i, j] = where(keep, (p - f32(j == label)) / n, 0.0)
"""


def cross_entropy(p: Any, x: Any, t: Any, count: Any) -> dict[str, Any]:
    probability, keep = softmax(f64(x)), t != -100
    rows = np.arange(p.I)
    label = np.where(keep, t, 0)
    hot = np.zeros((p.I, p.J))
    hot[rows, label] = 1
    loss = -np.log(probability[rows, label])
    return {
        "loss": np.where(keep, loss, 0),
        "dx": np.where(keep[:, None], (probability - hot) / count, 0),
    }


def labels(r: Any, p: Any) -> dict[str, Any]:
    t = r.integers(0, p.J, p.I)
    t[::5] = -100
    return {"x": r.normal(p.I, p.J), "t": t, "count": np.float32((t >= 0).sum() + 1)}


ROWS += cases(
    "cross_entropy", CROSS_ENTROPY, labels, cross_entropy, {"I": 64, "J": 200}, {"I": 11, "J": 13}
)

CUMSUM_REVERSE = """
kernel cumsum_reverse
  axes i:{I} j:{J}
  in x f32[{I},{J}]
  out y f32[{I},{J}]
  a = load x[i, j]
  s = scan sum a over j reverse
  store y[i, j] = s
"""
ROWS += cases(
    "cumsum_reverse",
    CUMSUM_REVERSE,
    lambda r, p: {"x": r.normal(p.I, p.J)},
    lambda p, x: {"y": f64(x)[:, ::-1].cumsum(1)[:, ::-1]},
    {"I": 4, "J": 30},
    {"I": 3, "J": 1},
    {"I": 5, "J": 67},
)

BATCH_NORM_PARTIALS = """
kernel batch_norm_partials
  axes n:{N} c:{C} y:{Y} x:{X}
  in im f32[{N},{C},{Y},{X}]
  out cnt f32[{N},{C}], mean f32[{N},{C}], m2 f32[{N},{C}]
  a = load im[n, c, y, x]
  k, mu, s = reduce welford a over y, x
  store cnt[n, c] = k
  store mean[n, c] = mu
  store m2[n, c] = s
"""
ROWS += cases(
    "batch_norm_partials",
    BATCH_NORM_PARTIALS,
    lambda r, p: {"im": r.normal(p.N, p.C, p.Y, p.X)},
    lambda p, im: {
        "cnt": np.full((p.N, p.C), p.Y * p.X),
        "mean": f64(im).mean((2, 3)),
        "m2": f64(im).var((2, 3)) * p.Y * p.X,
    },
    {"N": 6, "C": 5, "Y": 7, "X": 7},
    {"N": 1, "C": 3, "Y": 5, "X": 11},
)

ADAM = """
kernel adam
  axes n:{N}
  in p f32[{N}], g f32[{N}], m f32[{N}], v f32[{N}], lr f32[], c1 f32[], c2 f32[]
  out p1 f32[{N}], m1 f32[{N}], v1 f32[{N}]
  w = load p[n]
  d = load g[n]
  a = load m[n]
  b = load v[n]
  rate = load lr[]
  u1 = load c1[]
  u2 = load c2[]
  an = 0.9 * a + 0.1 * d
  bn = 0.999 * b + 0.001 * d * d
  store m1[n] = an
  store v1[n] = bn
  store p1[n] = w - rate * (an / u1) / (sqrt(bn / u2) + 1e-8)
"""


def adam(_sizes: Any, /, **inputs: Any) -> dict[str, Any]:
    w, g, m, v, lr, c1, c2 = (f64(inputs[k]) for k in ("p", "g", "m", "v", "lr", "c1", "c2"))
    m1, v1 = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return {"m1": m1, "v1": v1, "p1": w - lr * (m1 / c1) / (np.sqrt(v1 / c2) + 1e-8)}


def adam_inputs(r: Any, p: Any) -> dict[str, Any]:
    arrays = {k: r.normal(p.N) for k in ("p", "g", "m")} | {"v": r.positive(p.N)}
    scalars = {"lr": 0.1, "c1": 0.3, "c2": 0.01}
    return arrays | {k: np.float32(v) for k, v in scalars.items()}


ROWS += cases("adam", ADAM, adam_inputs, adam, {"N": 100}, {"N": 37}, {"N": 1})

DROPOUT_RELU = """
kernel dropout_relu
  axes i:{I} j:{J}
  in x f32[{I},{J}], key i64[]
  out y f32[{I},{J}]
  a = load x[i, j]
  k = load key[]
  r = bits(k, {J}*i + j)
  keep = r >= 429496729
  store y[i, j] = where(keep, max(a, 0.0) * 1.1111111, 0.0)
"""


def philox_words(key: int, blocks: int) -> Any:
    """The words of the first blocks of Philox4x32-10, in plain Python integers."""
    mask, words = 2**32 - 1, []
    for block in range(blocks):
        c, k = [block & mask, block >> 32, 0, 0], [key & mask, key >> 32 & mask]
        for _ in range(10):
            p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(q >> 32) ^ c[1] ^ k[0], q & mask, (p >> 32) ^ c[3] ^ k[1], p & mask]
            k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
        words += c
    return np.array(words, np.uint32)


def dropout_relu(p: Any, x: Any, key: Any) -> dict[str, Any]:
    words = philox_words(int(key), -(-p.I * p.J // 4))[: p.I * p.J].reshape(p.I, p.J)
    return {"y": np.where(words >= 429496729, np.maximum(f64(x), 0) / 0.9, 0)}


ROWS += cases(
    "dropout_relu",
    DROPOUT_RELU,
    lambda r, p: {"x": r.normal(p.I, p.J), "key": np.int64(-1234567890123)},
    dropout_relu,
    {"I": 8, "J": 32},
    {"I": 5, "J": 7},
)

TOP2 = """
kernel top2
  axes i:{I} j:{J}
  in x f32[{I},{J}]
  out v f32[{I},2], at i64[{I},2]
  a = load x[i, j]
  m0, i0 = reduce argmax a; j over j
  a1 = where(j == i0, -inf, a)
  m1, i1 = reduce argmax a1; j over j
  store v[i, 0] = m0
  store v[i, 1] = m1
  store at[i, 0] = i0
  store at[i, 1] = i1
"""


def top2(p: Any, x: Any) -> dict[str, Any]:
    at = np.argsort(-x, axis=1, kind="stable")[:, :2]
    return {"v": np.take_along_axis(x, at, 1), "at": at}


ROWS += cases(
    "top2",
    TOP2,
    lambda r, p: {"x": r.integers(-9, 9, p.I, p.J, dtype=np.float32)},
    top2,
    {"I": 6, "J": 20},
    {"I": 3, "J": 41},
)
