"""Random programs, written once for graphc and for NumPy: what is built depends on shapes alone.

    python -m tests.ops.random_programs SEED       prints the program of a seed and checks it

A program applies random functions to a pool of values that grows. The same choices are made for
both sides, so NumPy in float64 is the reference of every value, and of derivatives by differences.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphc as gc
from graphc import ops

Array = NDArray[Any]
Step = Callable[[Any, random.Random, list[Any]], Any]

#: no value has more elements
MOST = 120
STEP = 1e-6


# ---- the two sides


class Ours:
    """graphc's functions under the names that programs use."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ops, {"concatenate": "concat", "transpose": "permute_dims"}.get(name, name))

    @staticmethod
    def put(x: Any, ids: Any, new: Any, mode: str) -> Any:
        return getattr(x.at[ids], mode)(new)

    @staticmethod
    def as_floats(x: Any) -> Any:
        return x.astype("float64")

    @staticmethod
    def scanned(x: Any) -> Any:
        """h = tanh(0.5 h + row), for all rows."""

        def body(carry: Any, row: Any) -> tuple[Any, Any]:
            after = ops.tanh(carry * 0.5 + row)
            return after, after

        return gc.scan(body, ops.zeros_like(x[0]), x)[1]

    @staticmethod
    def chosen(x: Any) -> Any:
        """One of two branches, by the sign of a sum."""
        positive = x.sum() > 0.0
        return gc.cond(positive, lambda v: ops.sin(v) * 2.0, lambda v: v * v, x)


class Theirs:
    """The same in NumPy."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def put(x: Array, ids: Array, new: Array, mode: str) -> Array:
        out = x.copy()
        if mode == "set":
            for place, row in zip(ids, new, strict=True):
                out[place] = row
        else:
            {"add": np.add, "max": np.maximum, "min": np.minimum}[mode].at(out, ids, new)
        return out

    @staticmethod
    def as_floats(x: Array) -> Array:
        return x.astype(np.float64)

    @staticmethod
    def scanned(x: Array) -> Array:
        rows, carry = [], np.zeros_like(x[0])
        for row in x:
            carry = np.tanh(carry * 0.5 + row)
            rows.append(carry)
        return np.stack(rows)

    @staticmethod
    def chosen(x: Array) -> Array:
        return np.sin(x) * 2.0 if x.sum() > 0.0 else x * x

    @staticmethod
    def sigmoid(x: Array) -> Array:
        return 1 / (1 + np.exp(-x))

    @staticmethod
    def relu(x: Array) -> Array:
        return np.maximum(x, 0)

    @staticmethod
    def softmax(x: Array, axis: int) -> Array:
        grown = np.exp(x - x.max(axis, keepdims=True))
        return grown / grown.sum(axis, keepdims=True)

    @staticmethod
    def logsumexp(x: Array, axis: int, keepdims: bool) -> Array:
        return np.logaddexp.reduce(x, axis, keepdims=keepdims)

    @staticmethod
    def norm(x: Array, axis: int, keepdims: bool) -> Array:
        return np.linalg.norm(x, axis=axis, keepdims=keepdims)

    @staticmethod
    def cumulative_max(x: Array, axis: int) -> Array:
        return np.maximum.accumulate(x, axis)

    @staticmethod
    def cumulative_logsumexp(x: Array, axis: int) -> Array:
        return np.logaddexp.accumulate(x, axis)

    @staticmethod
    def segment_sum(x: Array, ids: Array, count: int) -> Array:
        out = np.zeros((count, *x.shape[1:]))
        np.add.at(out, ids, x)
        return out

    @staticmethod
    def top_k(x: Array, k: int) -> tuple[Array, Array]:
        order = np.argsort(-x, -1, kind="stable")[..., :k]
        return np.take_along_axis(x, order, -1), order

    @staticmethod
    def argsort(x: Array, axis: int) -> Array:
        return np.argsort(x, axis, kind="stable")


# ---- steps: (module, choices, pool) -> a value, or None where none fits


def _pick(r: random.Random, pool: Sequence[Any], least: int = 0) -> Any:
    """A value with at least so many axes, late ones more often."""
    fitting = [v for v in pool if v.ndim >= least]
    if not fitting:
        return None
    return fitting[max(r.randrange(len(fitting)), r.randrange(len(fitting)))]


def _axis(r: random.Random, x: Any) -> int:
    return r.randrange(x.ndim)


def unary(m: Any, r: random.Random, pool: list[Any]) -> Any:
    name = r.choice(["tanh", "sin", "cos", "sigmoid", "arctan", "abs", "relu", "square", "arcsinh"])
    x = _pick(r, pool)
    if name == "arcsinh" and m is OURS:
        return ops.asinh(x)
    return getattr(m, name)(x)


def bounded(m: Any, r: random.Random, pool: list[Any]) -> Any:
    """Functions with a narrow domain, of what fits."""
    x = _pick(r, pool)
    kind = r.randrange(5)
    positive = x * x + 0.5
    if kind == 0:
        return m.log(positive)
    if kind == 1:
        return m.sqrt(positive)
    if kind == 2:
        return m.exp(-positive)
    if kind == 3:
        return 1.0 / positive
    return m.clip(x, -0.7, 0.9)


def binary(m: Any, r: random.Random, pool: list[Any]) -> Any:
    x = _pick(r, pool)
    y = _beside(r, pool, x)
    kind = r.randrange(8)
    if kind == 0:
        return x + y
    if kind == 1:
        return x - y * 1.5
    if kind == 2:
        return m.tanh(x * y)
    if kind == 3:
        return m.maximum(x, y)
    if kind == 4:
        return m.where(x > y, x * 0.5, y)
    if kind == 5:
        return x / (1.0 + y * y)
    if kind == 6:
        return m.hypot(x, y + 0.3)
    return m.minimum(x, y) + m.as_floats(x == y)


def _beside(r: random.Random, pool: Sequence[Any], x: Any) -> Any:
    """A value that broadcasts with x without making it larger than allowed."""

    def fits(y: Any) -> bool:
        try:
            shape = np.broadcast_shapes(tuple(x.shape), tuple(y.shape))
        except ValueError:
            return False
        return int(np.prod(shape)) <= MOST

    return r.choice([y for y in pool if fits(y)])


def reduction(m: Any, r: random.Random, pool: list[Any]) -> Any:
    x = _pick(r, pool, 1)
    if x is None:
        return None
    name = r.choice(["sum", "mean", "max", "min", "var", "prod", "logsumexp", "norm"])
    if name == "norm":
        x = x + 2.0  # away from the kink at 0
    if name == "prod":
        x = m.tanh(x)
    return getattr(m, name)(x, axis=_axis(r, x), keepdims=r.random() < 0.5)


def scan(m: Any, r: random.Random, pool: list[Any]) -> Any:
    x = _pick(r, pool, 1)
    if x is None:
        return None
    kind = r.randrange(4)
    if kind == 0:
        return m.cumsum(x, _axis(r, x)) * 0.5
    if kind == 1:
        return m.cumulative_max(x, _axis(r, x))
    if kind == 2:
        return m.cumulative_logsumexp(x, _axis(r, x))
    return m.scanned(x)


def movement(m: Any, r: random.Random, pool: list[Any]) -> Any:
    x = _pick(r, pool, 1)
    return None if x is None else moved(m, r, x)


def moved(m: Any, r: random.Random, x: Any) -> Any:
    """x moved at random: also a link of a chain of movements."""
    axis = _axis(r, x)
    extent, count = int(x.shape[axis]), int(np.prod([int(e) for e in x.shape]))
    kind = r.randrange(13)
    if kind == 0:
        order = list(range(x.ndim))
        r.shuffle(order)
        return m.transpose(x, tuple(order))
    if kind == 1:
        return m.reshape(x, _factors(r, count))
    if kind == 2:
        return m.flip(x, axis)
    if kind == 3:
        return m.roll(x, r.randrange(-3, 4), axis)
    if kind == 4:
        return x[(*(slice(None),) * axis, _slice(r, extent))]
    if kind == 5 and count * 3 <= MOST:
        return m.concatenate([x, m.flip(x, axis) * 0.5], axis)
    if kind == 6 and count * 2 <= MOST:
        return m.stack([x, -x], r.randrange(x.ndim + 1))
    if kind == 7 and count * 2 <= MOST:
        return m.tile(x, (2, *(1,) * (x.ndim - 1)))
    if kind == 8 and count * 2 <= MOST:
        return m.repeat(x, 2, axis)
    if kind == 9 and count * 4 <= MOST:
        return _padded(m, r, x, axis, extent)
    if kind == 10:
        return m.expand_dims(x, r.randrange(x.ndim + 1)) if x.ndim < 4 else m.squeeze(x)
    if kind == 11:
        ids = np.array([r.randrange(extent) for _ in range(r.randint(1, 4))])
        return m.take(x, ids, axis)
    if x.ndim >= 2:
        return m.diagonal(x, 0, 0, 1)
    return m.tril(m.broadcast_to(x, (2, extent)))


def _padded(m: Any, r: random.Random, x: Any, axis: int, extent: int) -> Any:
    mode = r.choice(["constant", "edge", "reflect", "symmetric", "wrap"])
    most = min(2, extent - 1) if mode == "reflect" else min(2, extent)
    pairs = [(0, 0)] * x.ndim
    pairs[axis] = (r.randint(0, most), r.randint(0, most))
    return m.pad(x, pairs, mode=mode)


def _factors(r: random.Random, count: int) -> tuple[int, ...]:
    found: list[int] = []
    while count > 1 and len(found) < 3:
        by = r.choice([d for d in range(1, count + 1) if count % d == 0])
        found.append(by)
        count //= by
    return (*found, count)


def _slice(r: random.Random, extent: int) -> slice:
    step = r.choice([1, 1, 2, 3, -1, -2])
    places = sorted((r.randrange(extent), r.randrange(extent)))
    if step > 0:
        return slice(places[0], places[1] + 1, step)
    return slice(places[1], places[0] - 1 if places[0] else None, step)


def product(m: Any, r: random.Random, pool: list[Any]) -> Any:
    x = _pick(r, pool, 1)
    others = [y for y in pool if x is not None and y.ndim and y.shape[0] == x.shape[-1]]
    if not others:
        return None
    y = r.choice(others)
    if int(np.prod([*x.shape[:-1], *y.shape[1:]])) > MOST:
        return None
    return m.tanh(m.tensordot(x, y, 1) * 0.5)


def index(m: Any, r: random.Random, pool: list[Any]) -> Any:
    x = _pick(r, pool, 1)
    if x is None:
        return None
    extent, kind = int(x.shape[0]), r.randrange(5)
    ids = np.array([r.randrange(extent) for _ in range(r.randint(1, 30 if kind == 0 else 5))])
    if kind == 0 and len(ids) * int(np.prod(x.shape[1:])) <= 4 * MOST:
        return m.segment_sum(m.take(x, ids, 0) * 0.3, np.sort(ids)[::-1].copy() % 7, 7)
    if kind <= 2:
        mode = r.choice(["set", "add", "max", "min"])
        return m.put(x, ids, m.take(x, ids[::-1].copy(), 0) * 0.7, mode)
    places = m.argsort(x, -1)
    return m.take_along_axis(m.sin(x), places, -1) if kind == 3 else m.as_floats(places) * 0.1


def order(m: Any, r: random.Random, pool: list[Any]) -> Any:
    x = _pick(r, pool, 1)
    if x is None:
        return None
    if r.random() < 0.5:
        return m.sort(x, _axis(r, x))
    return m.top_k(x, r.randint(1, int(x.shape[-1])))[0]


def whole(m: Any, r: random.Random, pool: list[Any]) -> Any:
    """Softmax, centring, a branch."""
    x = _pick(r, pool, 1)
    if x is None:
        return None
    kind, axis = r.randrange(3), _axis(r, x)
    if kind == 0:
        return m.softmax(x, axis)
    if kind == 1:
        return x - m.mean(x, axis=axis, keepdims=True)
    return m.chosen(x)


STEPS: list[tuple[Step, int]] = [
    *((unary, 3), (bounded, 2), (binary, 4), (reduction, 2), (scan, 1), (movement, 4)),
    *((product, 1), (index, 2), (order, 1), (whole, 1)),
]
OURS, THEIRS = Ours(), Theirs()


# ---- a program of a seed


def shapes_of(seed: int) -> list[tuple[int, ...]]:
    """The inputs' shapes: size 1, odd sizes, and pairs that broadcast."""
    r = random.Random(seed)
    first = tuple(r.choice([1, 2, 3, 5, 7]) for _ in range(r.choice([1, 2, 2, 3])))
    first = first if int(np.prod(first)) <= 60 else first[:2]
    second = tuple(e if r.random() < 0.7 else 1 for e in first)[r.randint(0, 1) :]
    return [first, second]


def run(m: Any, seed: int, inputs: Sequence[Any], log: list[str] | None = None) -> list[Any]:
    """Two values of the program of ``seed`` on one side."""
    r = random.Random(seed * 7919 + 1)
    pool = list(inputs)
    names, weights = zip(*STEPS, strict=True)
    for _ in range(r.randint(2, 7)):
        step = r.choices(names, weights)[0]
        made = step(m, r, pool)
        if made is None:
            continue
        pool.append(made)
        if log is not None:
            log.append(f"{step.__name__}: {tuple(made.shape)}")
    return [pool[-1], pool[-2]]


def check(seed: int) -> bool:
    """Values and derivatives of a seed's program in machine code against NumPy's.

    False where the function has a kink at its inputs, so that only the values could be checked.
    """
    generator = np.random.default_rng(seed)
    arrays = [generator.normal(size=s) for s in shapes_of(seed)]
    directions = [generator.normal(size=a.shape) for a in arrays]
    with np.errstate(all="ignore"):
        wanted = run(THEIRS, seed, arrays)
    weights = [generator.normal(size=np.shape(w)) for w in wanted]
    inputs = [gc.observed(f"x{n}", a.shape, gc.float64) for n, a in enumerate(arrays)]
    outputs = run(OURS, seed, inputs)
    costs = [(v * gc.constant(w, gc.float64)).sum() for v, w in zip(outputs, weights, strict=True)]
    gradients = gc.grad(costs[0] + costs[1], inputs, unused="zero")
    program = gc.compile(inputs, [*outputs, *gradients], unused="ignore")
    got = program(*arrays)
    for value, reference in zip(got[:2], wanted, strict=True):
        assert value.shape == reference.shape
        np.testing.assert_allclose(value, reference, rtol=1e-7, atol=1e-9)

    def cost(step: float) -> float:
        moved = [a + step * d for a, d in zip(arrays, directions, strict=True)]
        values = run(THEIRS, seed, moved)
        return float(sum((v * w).sum() for v, w in zip(values, weights, strict=True)))

    middle, high, low = cost(0.0), cost(STEP), cost(-STEP)
    ahead, behind = (high - middle) / STEP, (middle - low) / STEP
    if abs(ahead - behind) > 1e-3 * (1 + abs(ahead)):
        return False
    slope = (high - low) / (2 * STEP)
    found = sum(float((g * d).sum()) for g, d in zip(got[2:], directions, strict=True))
    assert abs(found - slope) <= 2e-5 * (1 + abs(slope)), f"slope {found}, by differences {slope}"
    return True


def describe(seed: int) -> str:
    """The program of a seed, and how to run it alone."""
    log: list[str] = []
    shapes = shapes_of(seed)
    with np.errstate(all="ignore"):
        run(THEIRS, seed, [np.ones(s) for s in shapes], log)
    lines = "\n  ".join(log)
    rerun = f"python -m tests.ops.random_programs {seed}"
    return f"seed {seed} on {shapes}; run it again with: {rerun}\n  {lines}"


if __name__ == "__main__":
    number = int(sys.argv[1])
    print(describe(number))
    print("differentiable" if check(number) else "values only: a kink", "- as NumPy")
