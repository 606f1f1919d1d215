"""Every public function of graphc.ops beside what it means in NumPy: the table that tests read.

A row's inputs are specs like ``f3,4``: a kind and a shape. Kinds: f normal floats, p positive,
u within -0.9..0.9, d distinct (no ties), i integers 0..3, b bools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import graphc as gc
from graphc import ops
from graphc.records import dataclass

Program = Callable[..., Any]

#: they make tensors from nothing, or are tested by what calls them (``x[..]``, ``x.at[..]``)
ELSEWHERE = {
    *("arange", "eye", "full", "linspace", "ones", "zeros", "getitem", "put"),
    *("convolution", "convolution_transpose", "avg_pool", "max_pool"),
}


@dataclass(frozen=True)
class Row:
    """A function as written for us and for NumPy; ``smooth``: differentiable at the inputs."""

    name: str
    ours: Program
    theirs: Program
    inputs: tuple[str, ...]
    smooth: bool = True

    def __str__(self) -> str:
        return f"{self.name}({'; '.join(self.inputs)})"


ROWS: list[Row] = []


def add(
    name: str,
    inputs: str,
    ours: Program | None = None,
    theirs: Program | None = None,
    *,
    smooth: bool = True,
) -> None:
    """One row for each ``|``-separated list of inputs; by default both sides are the namesakes."""
    mine = ours or getattr(ops, name)
    for specs in inputs.split("|"):
        listed = tuple(specs.split())
        ROWS.append(Row(name, mine, theirs or ours or getattr(np, name), listed, smooth))


def both(program: Callable[..., Any]) -> tuple[Program, Program]:
    """``program(module, *inputs)`` for both sides."""
    return lambda *xs: program(ops, *xs), lambda *xs: program(np, *xs)


def array_of(spec: str, generator: np.random.Generator) -> Any:
    """The array of a spec, in float64, int64 or bool."""
    kind, numbers = spec[0], spec[1:]
    shape = tuple(int(n) for n in numbers.split(",") if n)
    count = int(np.prod(shape))
    if kind == "b":
        return generator.random(shape) < 0.5
    if kind == "i":
        return generator.integers(0, 4, shape)
    if kind == "p":
        return generator.uniform(0.5, 3.0, shape)
    if kind == "u":
        return generator.uniform(-0.9, 0.9, shape)
    if kind == "d":
        return generator.permutation(count).reshape(shape) * 0.37 - 0.17 * count
    return generator.normal(size=shape)


def value_of(name: str, array: Any) -> gc.Value:
    kinds = {"f": gc.float64, "i": gc.int64, "b": gc.bool}
    return gc.observed(name, array.shape, kinds[array.dtype.kind])


# ---- elementwise

_ANY = "f3,5|f0,2|f1|f"
for _name in ("exp", "exp2", "expm1", "sin", "cos", "tanh", "square", "sinh", "cosh", "positive"):
    add(_name, _ANY)
for _name in ("abs", "negative"):
    add(_name, "f3,5|i4|f0")
add("sign", "f3,5|i4|f0", smooth=False)
for _name in ("floor", "ceil", "round", "trunc"):
    add(_name, "f3,5|i4|f0", smooth=False)
for _name in ("isnan", "isinf", "isfinite", "signbit"):
    add(_name, "f3,5|f0", smooth=False)
for _name in ("log", "log2", "log10", "log1p", "sqrt", "reciprocal"):
    add(_name, "p3,5|p|p0,1")
add("tan", "u3,5")
add("atan", _ANY, theirs=np.arctan)
add("arctan", "f3")
add("asin", "u3,5|u0", theirs=np.arcsin)
add("acos", "u3,5|u", theirs=np.arccos)
add("asinh", _ANY, theirs=np.arcsinh)
add("atanh", "u3,5", theirs=np.arctanh)
add("acosh", "p3,5", lambda x: ops.acosh(x + 1.0), lambda x: np.arccosh(x + 1.0))
add("rsqrt", "p3,5", theirs=lambda x: 1 / np.sqrt(x))
add("sigmoid", _ANY, theirs=lambda x: 1 / (1 + np.exp(-x)))
add("relu", _ANY, theirs=lambda x: np.maximum(x, 0))
_erf = np.vectorize(__import__("math").erf, otypes=[np.float64])
_erfc = np.vectorize(__import__("math").erfc, otypes=[np.float64])
add("erf", _ANY, theirs=_erf)
add("erfc", _ANY, theirs=_erfc)
add("nan_to_num", _ANY)
for _name in ("add", "subtract", "multiply", "maximum", "minimum", "logaddexp", "hypot"):
    add(_name, "f3,5 f3,5|f3,5 f5|f3,1 f2,1,5|f0,5 f5|f3 f")
add("atan2", "f3,5 f3,5|f3,1 f5", theirs=np.arctan2)
add("copysign", "f3,5 f3,5")
add("divide", "f3,5 p3,5|f3 p")
add("pow", "p3,5 f5|p3 f3", theirs=np.power)
add("floor_divide", "f3,5 p5|i4 p4", smooth=False)
add("remainder", "f3,5 p5")
for _name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"):
    add(_name, "f3,5 f5|i6 i6|b4 b4", smooth=False)
for _name in ("logical_and", "logical_or", "logical_xor"):
    add(_name, "b3,5 b5|i6 f6", smooth=False)
add("logical_not", "b3,5|f4", smooth=False)
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    add(_name, "i3,5 i5|b4 b4", smooth=False)
for _name in ("bitwise_left_shift", "bitwise_right_shift"):
    add(_name, "i3,5 i5", smooth=False)
add("bitwise_invert", "i3,5|b4", theirs=np.invert, smooth=False)
add("isclose", "f3,5 f5|i6 i6", smooth=False)
add("allclose", "f3,5 f5|i6 i6", smooth=False)
add("clip", "f3,5", *both(lambda m, x: m.clip(x, -0.5, 0.7)))
add("where", "b3,5 f3,5 f5|b1 f3 f3|b0 f0 f0")
add("astype", "f3,5", lambda x: x.astype("int32"), smooth=False)
add("stop_gradient", "f3", theirs=lambda x: x, smooth=False)

# ---- reductions

for _name in ("sum", "mean", "var", "std"):
    add(_name, "f3,5|f1,1|i4")
    add(_name, "f3,5,2", *both(lambda m, x, n=_name: getattr(m, n)(x, axis=(0, 2))))
    add(_name, "f3,5", *both(lambda m, x, n=_name: getattr(m, n)(x, axis=-1, keepdims=True)))
for _name in ("prod", "max", "min"):
    add(_name, "d3,5|d1,1|i4")
    add(_name, "d3,5,2", *both(lambda m, x, n=_name: getattr(m, n)(x, axis=(0, 2))))
add("sum", "f0,3", *both(lambda m, x: m.sum(x, axis=0)))
add("prod", "f0,3", *both(lambda m, x: m.prod(x, axis=0)))
for _name in ("argmax", "argmin"):
    add(_name, "d3,5|i3,4|f1", smooth=False)
    add(_name, "i3,5", *both(lambda m, x, n=_name: getattr(m, n)(x, axis=1)), smooth=False)
for _name in ("any", "all"):
    add(_name, "b3,5|b0", smooth=False)
    add(_name, "b3,5", *both(lambda m, x, n=_name: getattr(m, n)(x, axis=0)), smooth=False)
add("count_nonzero", "i3,5|b4|f0", smooth=False)
add("average", "f3,5")
add("average", "f3,5 p3,5", *both(lambda m, x, w: m.average(x, weights=w)))
add("average", "f3,5 p3", *both(lambda m, x, w: m.average(x, axis=0, weights=w)))
for _order in (2, 1, 3, np.inf, -np.inf):
    add(
        "norm",
        "d3,5",
        lambda x, o=_order: ops.norm(x, axis=1, ord=o),
        lambda x, o=_order: np.linalg.norm(x, axis=1, ord=o),
    )
add("norm", "i3,5", lambda x: ops.norm(x, ord=0), lambda x: float(np.count_nonzero(x)))


def _softmax(x: Any, axis: int = -1) -> Any:
    grown = np.exp(x - x.max(axis, keepdims=True))
    return grown / grown.sum(axis, keepdims=True)


def _logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.log(np.exp(x).sum(axis, keepdims=keepdims))


add("softmax", "f3,5|f1", theirs=_softmax)
add("log_softmax", "f3,5|f1", theirs=lambda x: np.log(_softmax(x)))
add("logsumexp", "f3,5|f1,1", theirs=_logsumexp)
add(
    "logsumexp",
    "f3,5,2",
    lambda x: ops.logsumexp(x, (0, 2), keepdims=True),
    lambda x: _logsumexp(x, (0, 2), True),
)
for _name in ("cumsum", "cumprod"):
    add(_name, "f3,5", *both(lambda m, x, n=_name: getattr(m, n)(x, 1)))
add("cumulative_sum", "f3,5|f1|f0", lambda x: ops.cumulative_sum(x), lambda x: np.cumsum(x, 0))
add(
    "cumulative_sum",
    "f3,5",
    lambda x: ops.cumulative_sum(x, 1, reverse=True, exclusive=True),
    lambda x: np.cumsum(x[:, ::-1], 1)[:, ::-1] - x,
)
add("cumulative_prod", "f3,5|f1", lambda x: ops.cumulative_prod(x), lambda x: np.cumprod(x, 0))
for _name, _ufunc in (
    ("cumulative_max", np.maximum),
    ("cumulative_min", np.minimum),
    ("cumulative_logsumexp", np.logaddexp),
):
    _ours = getattr(ops, _name)
    add(_name, "d3,5|d1|f0,2", lambda x, f=_ours: f(x), lambda x, u=_ufunc: u.accumulate(x, 0))
    add(
        _name,
        "d3,5",
        lambda x, f=_ours: f(x, 1, reverse=True),
        lambda x, u=_ufunc: u.accumulate(x[:, ::-1], 1)[:, ::-1],
    )
add("median", "d3,5|d4|d1")
add("median", "d3,6", *both(lambda m, x: m.median(x, axis=1, keepdims=True)))
add("quantile", "d3,5", *both(lambda m, x: m.quantile(x, 0.3, axis=0)))
add("quantile", "d3,5", *both(lambda m, x: m.quantile(x, 1.0)))
add("trace", "f4,5|f1,1")
add("diff", "f3,5|f1|i6", *both(lambda m, x: m.diff(x)))
add("diff", "f6,2", *both(lambda m, x: m.diff(x, 2, 0)))

# ---- movement

add("reshape", "f3,4", *both(lambda m, x: m.reshape(x, (6, -1))))
add("permute_dims", "f2,3,4", *both(lambda m, x: m.permute_dims(x, (2, 0, 1))))
add("matrix_transpose", "f2,3,4", theirs=lambda x: x.swapaxes(-1, -2))
add("swapaxes", "f2,3,4", *both(lambda m, x: m.swapaxes(x, 0, -1)))
add("moveaxis", "f2,3,4", *both(lambda m, x: m.moveaxis(x, (0, 1), (2, 0))))
add("expand_dims", "f2,3", *both(lambda m, x: m.expand_dims(x, (0, 2))))
add("squeeze", "f1,3,1|f1", *both(lambda m, x: m.squeeze(x)))
add("broadcast_to", "f3,1|f", *both(lambda m, x: m.broadcast_to(x, (2, 3, 4))))
add("broadcast_arrays", "f3,1 f4", *both(lambda m, x, y: sum(m.broadcast_arrays(x, y))))
add("flip", "f3,4|f0,2", *both(lambda m, x: m.flip(x, 0)))
add("roll", "f3,4", *both(lambda m, x: m.roll(x, 7, 1)))
add("roll", "f3,4|f0", *both(lambda m, x: m.roll(x, -2)))
add("tile", "f3,4|f", *both(lambda m, x: m.tile(x, (2, 1, 3))))
add("repeat", "f3,4", *both(lambda m, x: m.repeat(x, 3, 1)))
add("stack", "f3,4 f3,4", *both(lambda m, x, y: m.stack([x, y, x], 1)))
add("concat", "f3,4 f2,4|f0,4 f1,4", lambda *xs: ops.concat(xs), lambda *xs: np.concatenate(xs))
add("unstack", "f3,4", lambda x: ops.unstack(x, 1)[2], lambda x: x[:, 2])
add("split", "f6,2", *both(lambda m, x: m.split(x, 3)[1] + m.split(x, [1, 3])[1]))
add("tril", "f4,5|f2,3,3")
add("triu", "f4,5|f1,1", *both(lambda m, x: m.triu(x, -1)))
for _offset in (0, 2, -1, 9):
    add("diagonal", "f4,5", *both(lambda m, x, o=_offset: m.diagonal(x, o)))
add("diagonal", "f2,4,3", *both(lambda m, x: m.diagonal(x, 0, 2, 1)))
add("meshgrid", "f3 f2", *both(lambda m, x, y: m.meshgrid(x, y)[0] - 2.0 * m.meshgrid(x, y)[1]))
add("meshgrid", "f3 f2", *both(lambda m, x, y: m.meshgrid(x, y, indexing="ij")[1]))
add("pad", "f3,4", *both(lambda m, x: m.pad(x, ((1, 0), (0, 2)))))
for _ours_mode, _mode in (
    *(("edge", "edge"), ("replicate", "edge"), ("reflect", "reflect")),
    *(("symmetric", "symmetric"), ("wrap", "wrap"), ("circular", "wrap")),
):
    add(
        "pad",
        "f3,4|i3,5",
        lambda x, m=_ours_mode: ops.pad(x, ((2, 1), (0, 2)), mode=m),
        lambda x, m=_mode: np.pad(x, ((2, 1), (0, 2)), mode=m),
    )

# ---- indexing, segments, order

_AT = np.array([2, 0, 2, 1])
add("take", "f3,4", *both(lambda m, x: m.take(x, _AT, 1)))
add("take", "f3,4 i5", *both(lambda m, x, i: m.take(x, i - 3, 1)))
_COLUMN = np.array([[1], [0], [3]])
add("take_along_axis", "f3,4", *both(lambda m, x: m.take_along_axis(x, _COLUMN, 1)))
add("one_hot", "i5|i2,3|i0", lambda i: ops.one_hot(i, 4), lambda i: np.eye(4)[i], smooth=False)
add("dynamic_slice", "f5,4", lambda x: ops.dynamic_slice(x, (1, 2), (3, 2)), lambda x: x[1:4, 2:4])


def _updated(x: Any, new: Any) -> Any:
    out = x.copy()
    out[1:4, 2:4] = new
    return out


add("dynamic_update", "f5,4 f3,2", lambda x, new: ops.dynamic_update(x, new, (1, 2)), _updated)


def _segments(ufunc: Any, start: float) -> Program:
    def apply(x: Any, ids: Any) -> Any:
        out = np.full((4, *x.shape[1:]), start, x.dtype)
        ufunc.at(out, ids, x)
        return np.where(np.isinf(out), 0.0, out)

    return apply


def _finite(f: Program) -> Program:
    def apply(x: Any, ids: Any) -> Any:
        out = f(x, ids, 4)
        return ops.where(ops.isinf(out), 0.0, out)

    return apply


add("segment_sum", "f6,2 i6|f0,2 i0", _finite(ops.segment_sum), _segments(np.add, 0.0))
add("segment_max", "d6,2 i6", _finite(ops.segment_max), _segments(np.maximum, -np.inf))
add("segment_min", "d6,2 i6", _finite(ops.segment_min), _segments(np.minimum, np.inf))


def _segment_mean(x: Any, ids: Any) -> Any:
    counts = np.maximum(np.bincount(ids, minlength=4), 1)
    return _segments(np.add, 0.0)(x, ids) / counts[:, None]


add("segment_mean", "f6,2 i6", _finite(ops.segment_mean), _segment_mean)
add("bincount", "i9", lambda i: ops.bincount(i, 4), lambda i: np.bincount(i, minlength=4))
add(
    "bincount",
    "i9 f9",
    lambda i, w: ops.bincount(i, 4, w),
    lambda i, w: np.bincount(i, w, minlength=4),
)
add("sort", "d3,5|i9|d1|f0,3")
add("sort", "d3,5", lambda x: ops.sort(x, 0, descending=True), lambda x: -np.sort(-x, 0))
add("argsort", "d3,5|f0", smooth=False)
add("argsort", "i3,9", lambda x: ops.argsort(x, 1), lambda x: np.argsort(x, 1, kind="stable"))
add("top_k", "d3,5", lambda x: ops.top_k(x, 2)[0], lambda x: -np.sort(-x, -1)[:, :2])
for _side in ("left", "right"):
    add(
        "searchsorted",
        "i9 f3,2|i5 i7",
        lambda r, v, s=_side: ops.searchsorted(ops.sort(r), v, s),
        lambda r, v, s=_side: np.searchsorted(np.sort(r), v, s),
        smooth=False,
    )
for _name in ("zeros_like", "ones_like"):
    add(_name, "f3,4", smooth=False)
add("full_like", "f3,4", *both(lambda m, x: m.full_like(x, 2.5)), smooth=False)

# ---- products

add("matmul", "f3,4 f4,5|f2,3,4 f4,2|f4 f4|f0,4 f4,2|f3,0 f0,2")
add("dot", "f3,4 f4|f4 f4")
add("vecdot", "f3,4 f3,4", theirs=lambda a, b: (a * b).sum(-1))
add("outer", "f3 f4")
add("inner", "f3,4 f2,4")
add("tensordot", "f2,3,4 f4,3,2", *both(lambda m, a, b: m.tensordot(a, b, ([1, 2], [1, 0]))))
add("einsum", "f2,3,4 f4,5", *both(lambda m, a, b: m.einsum("bij,jk->bki", a, b)))
add(
    "windows",
    "f7,2",
    lambda x: ops.windows(x, 3, 2, axes=0),
    lambda x: np.lib.stride_tricks.sliding_window_view(x, 3, 0)[::2],
)
