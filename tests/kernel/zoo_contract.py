"""Kernels around contractions: linear layers, convolution and its gradients, pooling, attention,
LSTM.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.kernel.case import Case, cases, f64

CONTRACT: list[Case] = []

MATMUL = """
kernel matmul_bias_relu
  axes m:{M} n:{N} k:{K}
  in x f32[{M},{K}], w f32[{N},{K}], b f32[{N}]
  out y f32[{M},{N}]
  a = load x[m, k]
  v = load w[n, k]
  c = contract a, v over k
  bias = load b[n]
  store y[m, n] = max(c + bias, 0.0)
"""
CONTRACT += cases(
    "matmul_bias_relu",
    MATMUL,
    lambda r, p: {"x": r.normal(p.M, p.K), "w": r.normal(p.N, p.K), "b": r.normal(p.N)},
    lambda p, x, w, b: {"y": np.maximum(f64(x) @ f64(w).T + f64(b), 0)},
    {"M": 64, "N": 96, "K": 80},
    {"M": 13, "N": 37, "K": 19},
    {"M": 1, "N": 1, "K": 1},
    {"M": 65, "N": 50, "K": 300},
    tolerance=1e-4,
)

LINEAR_GELU = """
kernel linear_gelu_residual
  axes m:{M} n:{N} k:{K}
  in x f32[{M},{K}], w f32[{N},{K}], b f32[{N}], r f32[{M},{N}]
  out y f32[{M},{N}]
  a = load x[m, k]
  v = load w[n, k]
  c = contract a, v over k
  bias = load b[n]
  h = c + bias
  res = load r[m, n]
  store y[m, n] = 0.5 * h * (1.0 + erf(h * 0.7071067811865476)) + res
"""


def linear_gelu(p: Any, x: Any, w: Any, b: Any, r: Any) -> dict[str, Any]:
    h = f64(x) @ f64(w).T + f64(b)
    return {"y": 0.5 * h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) + f64(r)}


CONTRACT += cases(
    "linear_gelu_residual",
    LINEAR_GELU,
    lambda r, p: {
        "x": r.normal(p.M, p.K),
        "w": r.normal(p.N, p.K),
        "b": r.normal(p.N),
        "r": r.normal(p.M, p.N),
    },
    linear_gelu,
    {"M": 64, "N": 96, "K": 80},
    {"M": 9, "N": 33, "K": 7},
    tolerance=1e-4,
)

INT8_LINEAR = """
kernel int8_linear
  axes m:{M} n:{N} g:{G} k:{K}
  in x f32[{M},{G*K}], w i8[{N},{G*K}], scale f32[{N},{G}]
  out y f32[{M},{N}]
  a = load x[m, {K}*g + k]
  q = load w[n, {K}*g + k]
  s = load scale[n, g]
  v = f32(q) * s
  c = contract a, v over g, k
  store y[m, n] = c
"""
CONTRACT += cases(
    "int8_linear",
    INT8_LINEAR,
    lambda r, p: {
        "x": r.normal(p.M, p.G * p.K),
        "w": r.integers(-128, 128, p.N, p.G * p.K, dtype=np.int8),
        "scale": r.normal(p.N, p.G),
    },
    lambda p, x, w, scale: {"y": f64(x) @ (w * np.repeat(f64(scale), p.K, 1)).T},
    {"M": 32, "N": 48, "G": 5, "K": 16},
    {"M": 5, "N": 17, "G": 3, "K": 7},
    tolerance=1e-4,
)

# ---- convolution


def convolve(im: Any, w: Any, stride: int, pad: int, dilation: int = 1, groups: int = 1) -> Any:
    """NCHW convolution, a loop over the taps."""
    im, w = f64(im, w)
    n, _, height, width = im.shape
    out, _, kh, kw = w.shape
    padded = np.pad(im, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    ys = (height + 2 * pad - dilation * (kh - 1) - 1) // stride + 1
    xs = (width + 2 * pad - dilation * (kw - 1) - 1) // stride + 1
    result = np.zeros((n, out, ys, xs))
    grouped = padded.reshape(n, groups, -1, *padded.shape[2:])
    kernels = w.reshape(groups, -1, *w.shape[1:])
    for p in range(kh):
        for q in range(kw):
            y, x = p * dilation, q * dilation
            window = grouped[..., y : y + stride * ys : stride, x : x + stride * xs : stride]
            taps = np.einsum("ngcyx,goc->ngoyx", window, kernels[..., p, q])
            result += taps.reshape(result.shape)
    return result


def convolve_backward(im: Any, w: Any, dr: Any, stride: int, pad: int) -> tuple[Any, Any]:
    """The gradients of the image and of the weights."""
    im, w, dr = f64(im, w, dr)
    padded = np.pad(im, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    dim, dw = np.zeros_like(padded), np.zeros_like(w)
    ys, xs = dr.shape[2:]
    for p in range(w.shape[2]):
        for q in range(w.shape[3]):
            rows, columns = slice(p, p + stride * ys, stride), slice(q, q + stride * xs, stride)
            dim[..., rows, columns] += np.einsum("noyx,oc->ncyx", dr, w[..., p, q])
            dw[..., p, q] = np.einsum("noyx,ncyx->oc", dr, padded[..., rows, columns])
    return dim[..., pad : pad + im.shape[2], pad : pad + im.shape[3]], dw


CONV2D = """
kernel conv2d
  axes n:{N} o:{O} y:{(H-1)//2+1} x:{(W-1)//2+1} c:{C} p:3 q:3
  in im f32[{N},{C},{H},{W}], w f32[{O},{C},3,3], b f32[{O}]
  out r f32[{N},{O},{(H-1)//2+1},{(W-1)//2+1}]
  a = load im[n, c, 2*y + p - 1, 2*x + q - 1] else 0.0
  v = load w[o, c, p, q]
  s = contract a, v over c, p, q
  bias = load b[o]
  store r[n, o, y, x] = max(s + bias, 0.0)
"""
CONTRACT += cases(
    "conv2d",
    CONV2D,
    lambda r, p: {
        "im": r.normal(p.N, p.C, p.H, p.W),
        "w": r.normal(p.O, p.C, 3, 3),
        "b": r.normal(p.O),
    },
    lambda p, im, w, b: {"r": np.maximum(convolve(im, w, 2, 1) + f64(b)[:, None, None], 0)},
    {"N": 2, "O": 16, "C": 16, "H": 16, "W": 16},
    {"N": 1, "O": 5, "C": 3, "H": 9, "W": 7},
    tolerance=1e-4,
)

CONV2D_GROUPS = """
# stride 2, padding 2, dilation 2, groups {G}; output channel = {O}*g + o
kernel conv2d_groups
  axes n:{N} g:{G} o:{O} y:{(H-1)//2+1} x:{(W-1)//2+1} c:{C} p:3 q:3
  in im f32[{N},{G*C},{H},{W}], w f32[{G*O},{C},3,3]
  out r f32[{N},{G*O},{(H-1)//2+1},{(W-1)//2+1}]
  a = load im[n, {C}*g + c, 2*y + 2*p - 2, 2*x + 2*q - 2] else 0.0
  v = load w[{O}*g + o, c, p, q]
  s = contract a, v over c, p, q
  store r[n, {O}*g + o, y, x] = s
"""
CONTRACT += cases(
    "conv2d_groups",
    CONV2D_GROUPS,
    lambda r, p: {
        "im": r.normal(p.N, p.G * p.C, p.H, p.W),
        "w": r.normal(p.G * p.O, p.C, 3, 3),
    },
    lambda p, im, w: {"r": convolve(im, w, 2, 2, 2, p.G)},
    {"N": 2, "G": 2, "O": 3, "C": 2, "H": 13, "W": 13},
    {"N": 1, "G": 3, "O": 1, "C": 3, "H": 8, "W": 11},
    tolerance=1e-4,
)

DGRAD = """
# data gradient, form A: a divisibility predicate (any stride and dilation; wastes 1 - 1/s^2 of the
# work)
kernel conv2d_dgrad
  axes n:{N} c:{C} iy:{H} ix:{W} o:{O} p:3 q:3
  in dr f32[{N},{O},{(H-1)//2+1},{(W-1)//2+1}], w f32[{O},{C},3,3]
  out dim f32[{N},{C},{H},{W}]
  a = load dr[n, o, (iy + 1 - p) // 2, (ix + 1 - q) // 2] \
if (iy + 1 - p) % 2 == 0 and (ix + 1 - q) % 2 == 0 else 0.0
  v = load w[o, c, p, q]
  s = contract a, v over o, p, q
  store dim[n, c, iy, ix] = s
"""
DGRAD_PHASES = """
# form B: phases. iy = 2*ty + ry, p = 2*tp + (ry + 1) % 2, so that (iy + 1 - p)/2 is
# ty - tp + (ry + 1 - (ry + 1) % 2)/2: no waste, and affine once the phase axes ry, rx are unrolled
kernel conv2d_dgrad_phases
  axes ry:2 rx:2 n:{N} c:{C} ty:{(H+1)//2} tx:{(W+1)//2} o:{O} tp:2 tq:2
  in dr f32[{N},{O},{(H-1)//2+1},{(W-1)//2+1}], w f32[{O},{C},3,3]
  out dim f32[{N},{C},{H},{W}]
  a = load dr[n, o, ty - tp + (ry + 1) // 2, tx - tq + (rx + 1) // 2] else 0.0
  v = load w[o, c, 2*tp + (ry + 1) % 2, 2*tq + (rx + 1) % 2] else 0.0
  s = contract a, v over o, tp, tq
  store dim[n, c, 2*ty + ry, 2*tx + rx] = s if 2*ty + ry < {H} and 2*tx + rx < {W}
"""
for name, template in (("conv2d_dgrad", DGRAD), ("conv2d_dgrad_phases", DGRAD_PHASES)):
    CONTRACT += cases(
        name,
        template,
        lambda r, p: {
            "dr": r.normal(p.N, p.O, (p.H - 1) // 2 + 1, (p.W - 1) // 2 + 1),
            "w": r.normal(p.O, p.C, 3, 3),
        },
        lambda p, dr, w: {"dim": convolve_backward(np.zeros((p.N, p.C, p.H, p.W)), w, dr, 2, 1)[0]},
        {"N": 2, "C": 4, "O": 6, "H": 13, "W": 13},
        {"N": 1, "C": 3, "O": 2, "H": 8, "W": 5},
        tolerance=1e-4,
    )

WGRAD = """
kernel conv2d_wgrad
  axes o:{O} c:{C} p:3 q:3 n:{N} y:{(H-1)//2+1} x:{(W-1)//2+1}
  in im f32[{N},{C},{H},{W}], dr f32[{N},{O},{(H-1)//2+1},{(W-1)//2+1}]
  out dw f32[{O},{C},3,3]
  a = load im[n, c, 2*y + p - 1, 2*x + q - 1] else 0.0
  d = load dr[n, o, y, x]
  s = contract d, a over n, y, x
  store dw[o, c, p, q] = s
"""
CONTRACT += cases(
    "conv2d_wgrad",
    WGRAD,
    lambda r, p: {
        "im": r.normal(p.N, p.C, p.H, p.W),
        "dr": r.normal(p.N, p.O, (p.H - 1) // 2 + 1, (p.W - 1) // 2 + 1),
    },
    lambda p, im, dr: {"dw": convolve_backward(im, np.zeros((p.O, p.C, 3, 3)), dr, 2, 1)[1]},
    {"N": 2, "C": 4, "O": 6, "H": 13, "W": 13},
    {"N": 3, "C": 1, "O": 5, "H": 6, "W": 9},
    tolerance=1e-4,
)

# ---- pooling

MAX_POOL = """
kernel max_pool
  axes n:{N} c:{C} y:{H//2} x:{W//2} p:3 q:3
  in im f32[{N},{C},{H},{W}]
  out r f32[{N},{C},{H//2},{W//2}], at i64[{N},{C},{H//2},{W//2}]
  a = load im[n, c, 2*y + p - 1, 2*x + q - 1] else -inf
  where_ = {W} * (2*y + p - 1) + 2*x + q - 1
  m, i = reduce argmax a; where_ over p, q
  store r[n, c, y, x] = m
  store at[n, c, y, x] = i
"""


def max_pool(p: Any, im: Any) -> dict[str, Any]:
    shape = (p.N, p.C, p.H // 2, p.W // 2)
    best, at = np.full(shape, -np.inf), np.zeros(shape, np.int64)
    for n, c, y, x in np.ndindex(*shape):
        for row in range(max(2 * y - 1, 0), min(2 * y + 2, p.H)):
            for column in range(max(2 * x - 1, 0), min(2 * x + 2, p.W)):
                if im[n, c, row, column] > best[n, c, y, x]:
                    best[n, c, y, x], at[n, c, y, x] = im[n, c, row, column], p.W * row + column
    return {"r": best, "at": at}


POOLED = ({"N": 2, "C": 3, "H": 12, "W": 12}, {"N": 1, "C": 2, "H": 6, "W": 10})
CONTRACT += cases(
    "max_pool", MAX_POOL, lambda r, p: {"im": r.normal(p.N, p.C, p.H, p.W)}, max_pool, *POOLED
)

MAX_POOL_BACKWARD = """
# gather form: an input pixel sums over the windows that hold it (p, q run over window positions):
# no scatter, no atomics
kernel max_pool_backward
  axes n:{N} c:{C} iy:{H} ix:{W} p:3 q:3
  in dr f32[{N},{C},{H//2},{W//2}], at i64[{N},{C},{H//2},{W//2}]
  out dim f32[{N},{C},{H},{W}]
  mine = (iy + 1 - p) % 2 == 0 and (ix + 1 - q) % 2 == 0
  i = load at[n, c, (iy + 1 - p) // 2, (ix + 1 - q) // 2] if mine else -1
  d = load dr[n, c, (iy + 1 - p) // 2, (ix + 1 - q) // 2] if mine else 0.0
  g = where(i == {W}*iy + ix, d, 0.0)
  s = reduce sum g over p, q
  store dim[n, c, iy, ix] = s
"""


def max_pool_backward_inputs(r: Any, p: Any) -> dict[str, Any]:
    at = max_pool(p, r.normal(p.N, p.C, p.H, p.W))["at"]
    return {"dr": r.normal(p.N, p.C, p.H // 2, p.W // 2), "at": at}


def max_pool_backward(p: Any, dr: Any, at: Any) -> dict[str, Any]:
    dim = np.zeros((p.N, p.C, p.H * p.W))
    for n, c in np.ndindex(p.N, p.C):
        np.add.at(dim[n, c], at[n, c].ravel(), dr[n, c].ravel())
    return {"dim": dim.reshape(p.N, p.C, p.H, p.W)}


CONTRACT += cases(
    "max_pool_backward", MAX_POOL_BACKWARD, max_pool_backward_inputs, max_pool_backward, *POOLED
)

# a reduction inside of reductions, kept for a later loop: two axes could run in lanes
POOLED_NORM = """
kernel pooled_norm
  axes i:{N} j:{C} k:{H-1} l:{W-1} p:2 q:2
  in im f32[{N},{C},{H},{W}]
  out r f32[{N},{C},{H-1},{W-1}]
  a = load im[i, j, k + p, l + q]
  s = reduce sum a over p, q
  v = s / 4.0
  total = reduce sum v over j, k, l
  centred = v - total / {C*(H-1)*(W-1)}.0
  square = reduce sum centred * centred over j, k, l
  store r[i, j, k, l] = centred * rsqrt(square / {C*(H-1)*(W-1)}.0 + 1e-5)
"""


def pooled_norm(p: Any, im: Any) -> dict[str, Any]:
    im = f64(im)
    v = (im[..., :-1, :-1] + im[..., 1:, :-1] + im[..., :-1, 1:] + im[..., 1:, 1:]) / 4
    axes = (1, 2, 3)
    centred = v - v.mean(axes, keepdims=True)
    return {"r": centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)}


CONTRACT += cases(
    "pooled_norm",
    POOLED_NORM,
    lambda r, p: {"im": r.normal(p.N, p.C, p.H, p.W)},
    pooled_norm,
    {"N": 3, "C": 2, "H": 8, "W": 8},
    {"N": 1, "C": 3, "H": 4, "W": 11},
)

# how many elements of an image lie in each window, in lanes that do not differ
WINDOW_COUNTS = """
kernel window_counts
  axes y:{Y} x:{X} p:3 q:2
  out r f32[{Y},{X}]
  s = reduce sum where(2*y + p < {2*Y}, 1.0, 0.0) over p, q
  store r[y, x] = s
"""


def window_counts(p: Any) -> dict[str, Any]:
    rows = np.array([sum(2 * y + i < 2 * p.Y for i in range(3)) for y in range(p.Y)])
    return {"r": np.repeat(2.0 * rows[:, None], p.X, 1)}


COUNTED = ({"Y": 3, "X": 4}, {"Y": 5, "X": 9})
CONTRACT += cases("window_counts", WINDOW_COUNTS, lambda r, p: {}, window_counts, *COUNTED)

# ---- attention

ATTENTION = """
kernel attention
  axes b:{B} h:{H} i:{I} j:{I} c:{C} d:{D}
  in q f32[{B},{H},{I},{C}], k f32[{B},{H},{I},{C}], v f32[{B},{H},{I},{D}]
  out y f32[{B},{H},{I},{D}], lse f32[{B},{H},{I}]
  qa = load q[b, h, i, c]
  ka = load k[b, h, j, c]
  va = load v[b, h, j, d]
  dots = contract qa, ka over c
  a = dots * {C**-0.5}
  m, l, o = reduce expsum a; 1.0, va over j where j <= i
  store y[b, h, i, d] = o / l
  store lse[b, h, i] = m + log(l)
"""
BACKWARD_HEAD = """
  axes b:{B} h:{H} %s c:{C} d:{D}
  in q f32[{B},{H},{I},{C}], k f32[{B},{H},{I},{C}], v f32[{B},{H},{I},{D}]
  in dy f32[{B},{H},{I},{D}], lse f32[{B},{H},{I}], delta f32[{B},{H},{I}]
"""
ATTENTION_BACKWARD_KV = (
    "kernel attention_backward_kv"
    + BACKWARD_HEAD % "j:{I} i:{I}"
    + """  out dk f32[{B},{H},{I},{C}], dv f32[{B},{H},{I},{D}]
  qa = load q[b, h, i, c]
  ka = load k[b, h, j, c]
  va = load v[b, h, j, d]
  g = load dy[b, h, i, d]
  dots = contract qa, ka over c
  lm = load lse[b, h, i]
  p = exp(dots * {C**-0.5} - lm)
  ov = contract p, g over i where j <= i
  store dv[b, h, j, d] = ov
  dp = contract g, va over d
  dl = load delta[b, h, i]
  ds = p * (dp - dl) * {C**-0.5}
  ok = contract ds, qa over i where j <= i
  store dk[b, h, j, c] = ok
"""
)
ATTENTION_BACKWARD_Q = (
    "kernel attention_backward_q"
    + BACKWARD_HEAD % "i:{I} j:{I}"
    + """  out dq f32[{B},{H},{I},{C}]
  qa = load q[b, h, i, c]
  ka = load k[b, h, j, c]
  va = load v[b, h, j, d]
  g = load dy[b, h, i, d]
  dots = contract qa, ka over c
  lm = load lse[b, h, i]
  p = exp(dots * {C**-0.5} - lm)
  dp = contract g, va over d
  dl = load delta[b, h, i]
  ds = p * (dp - dl) * {C**-0.5}
  oq = contract ds, ka over j where j <= i
  store dq[b, h, i, c] = oq
"""
)


def weights(p: Any, q: Any, k: Any) -> tuple[Any, Any]:
    """The causal attention weights, and the logarithm of the sum they were divided by."""
    scores = np.einsum("bhic,bhjc->bhij", f64(q), f64(k)) * p.C**-0.5
    scores = np.where(np.tril(np.ones((p.I, p.I), bool)), scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    e = np.exp(scores - top)
    return e / e.sum(-1, keepdims=True), (top + np.log(e.sum(-1, keepdims=True)))[..., 0]


def attention(p: Any, q: Any, k: Any, v: Any) -> dict[str, Any]:
    w, lse = weights(p, q, k)
    return {"y": np.einsum("bhij,bhjd->bhid", w, f64(v)), "lse": lse}


def attention_backward(p: Any, q: Any, k: Any, v: Any, dy: Any, **_: Any) -> dict[str, Any]:
    w, _lse = weights(p, q, k)
    q, k, v, dy = f64(q, k, v, dy)
    dw = np.einsum("bhid,bhjd->bhij", dy, v)
    ds = w * (dw - (w * dw).sum(-1, keepdims=True)) * p.C**-0.5
    return {
        "dq": np.einsum("bhij,bhjc->bhic", ds, k),
        "dk": np.einsum("bhij,bhic->bhjc", ds, q),
        "dv": np.einsum("bhij,bhid->bhjd", w, dy),
    }


def attention_inputs(r: Any, p: Any) -> dict[str, Any]:
    q, k = r.normal(p.B, p.H, p.I, p.C), r.normal(p.B, p.H, p.I, p.C)
    return {"q": q, "k": k, "v": r.normal(p.B, p.H, p.I, p.D)}


def backward_inputs(r: Any, p: Any) -> dict[str, Any]:
    given = attention_inputs(r, p)
    forward = attention(p, **given)
    dy = r.normal(p.B, p.H, p.I, p.D)
    delta = (forward["y"] * dy).sum(-1).astype(np.float32)
    return {**given, "dy": dy, "lse": forward["lse"].astype(np.float32), "delta": delta}


ATTENDED = (
    {"B": 2, "H": 2, "I": 64, "C": 16, "D": 16},
    {"B": 1, "H": 3, "I": 19, "C": 7, "D": 5},
)
CONTRACT += cases("attention", ATTENTION, attention_inputs, attention, *ATTENDED, tolerance=1e-4)
CONTRACT += cases(
    "attention_backward_kv",
    ATTENTION_BACKWARD_KV,
    backward_inputs,
    lambda p, **given: {k: v for k, v in attention_backward(p, **given).items() if k != "dq"},
    *ATTENDED,
    tolerance=1e-4,
)
CONTRACT += cases(
    "attention_backward_q",
    ATTENTION_BACKWARD_Q,
    backward_inputs,
    lambda p, **given: {"dq": attention_backward(p, **given)["dq"]},
    *ATTENDED,
    tolerance=1e-4,
)

LSTM_CELL = """
kernel lstm_cell
  axes b:{B} h:{H} k:{H}
  in hx f32[{B},{H}], cx f32[{B},{H}], gx f32[{B},{4*H}], w f32[{4*H},{H}]
  out hy f32[{B},{H}], cy f32[{B},{H}]
  s = load hx[b, k]
  wi = load w[h, k]
  wf = load w[h + {H}, k]
  wg = load w[h + {2*H}, k]
  wo = load w[h + {3*H}, k]
  ri = contract s, wi over k
  rf = contract s, wf over k
  rg = contract s, wg over k
  ro = contract s, wo over k
  xi = load gx[b, h]
  xf = load gx[b, h + {H}]
  xg = load gx[b, h + {2*H}]
  xo = load gx[b, h + {3*H}]
  c0 = load cx[b, h]
  c = sigmoid(rf + xf) * c0 + sigmoid(ri + xi) * tanh(rg + xg)
  store cy[b, h] = c
  store hy[b, h] = sigmoid(ro + xo) * tanh(c)
"""


def lstm_cell(p: Any, hx: Any, cx: Any, gx: Any, w: Any) -> dict[str, Any]:
    gates = f64(gx) + f64(hx) @ f64(w).T
    i, f, g, o = np.split(gates, 4, 1)
    i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
    c = f * f64(cx) + i * np.tanh(g)
    return {"cy": c, "hy": o * np.tanh(c)}


CONTRACT += cases(
    "lstm_cell",
    LSTM_CELL,
    lambda r, p: {
        "hx": r.normal(p.B, p.H),
        "cx": r.normal(p.B, p.H),
        "gx": r.normal(p.B, 4 * p.H),
        "w": r.normal(4 * p.H, p.H),
    },
    lstm_cell,
    {"B": 4, "H": 8},
    {"B": 3, "H": 21},
)
