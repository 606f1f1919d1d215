"""Proofs of indices: what must be proved, what must not be, and soundness by brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.kernel import build
from graphc.kernel.bounds import interval, proves, unproved
from graphc.kernel.interpret import interpret
from graphc.kernel.linear import at_least_zero, floor_quotient, numeric_bounds
from graphc.kernel.terms import Kernel, KernelTensor, Load, Term
from graphc.kernel.text import parse_kernel
from graphc.types import Dim, TensorType, float32, int64


def kernel_of(index: str, extent: str, pred: str = "", head: str = "", body: str = "") -> Kernel:
    """A kernel that loads x[index], x being of ``extent``, over i:8, j:5 and run-time sizes."""
    clause = f" if {pred}" if pred else ""
    return parse_kernel(
        f"""kernel k
  size B 1..
  size N 2..64 by 2
  scalar pos i64 0..63
  scalar any_ i64
  scalar step i64 0..B-1
  {head}
  axes i:8 j:5 b:B n:N c:2*B+1 h:B*N w:(B+15)//16 q:16
  in x f32[{extent}], t i64[8], u u8[8], f f32[8]
  out y f32[8]
  r = load t[i]
  s = load u[i]
  g = load f[i]
  {body}
  a = load x[{index}]{clause}
  store y[i] = a if j == 0 and b == 0 and n == 0 and c == 0 and h == 0 and w == 0 and q == 0"""
    )


def proved(*args: str, **kwargs: str) -> bool:
    kernel = kernel_of(*args, **kwargs)
    (load,) = (t for t in kernel.terms if isinstance(t, Load) and t.tensor == "x")
    return not unproved(kernel, "x", load.index, load.pred)


@pytest.mark.parametrize(
    ("index", "extent", "pred"),
    [
        ("i", "8", ""),
        ("7 - i", "8", ""),
        ("2*i + 1", "16", ""),
        ("5*i + j", "40", ""),
        ("i // 2", "4", ""),
        ("i % 3", "3", ""),
        ("(i - 4) % 3", "3", ""),
        ("(i - 8) // 2 + 4", "4", ""),
        ("i - 3", "5", "i >= 3"),
        ("i - 3", "2", "3 <= i < 5"),
        ("i - 3", "2", "not (i < 3 or i > 4)"),
        ("i", "2", "i == 1"),
        ("i + j", "6", "i + j < 6"),
        ("i - j", "8", "j <= i"),
        ("abs(i - 4)", "5", ""),
        ("7 - abs(7 - abs(j - 3))", "8", ""),
        ("min(i, 3)", "4", ""),
        ("max(i - 3, 0)", "5", ""),
        ("max(min(r, 7), 0)", "8", ""),
        ("where(i < 4, i, 7 - i)", "4", ""),
        ("where(r < 0, 0, min(r, 3))", "4", ""),
        ("r", "8", "0 <= r < 8"),
        ("r", "8", "r >= 0 and not r >= 8"),
        ("r + 1", "9", "0 <= r < 8"),
        ("r - 2*i", "4", "2*i <= r and r < 2*i + 4 and 0 <= r < 99"),
        ("r % 8", "8", ""),
        ("i64(s)", "256", ""),
        ("s", "256", ""),
        ("i64(s) // 2 + 1", "129", ""),
        ("i64(u8(i) + u8(j))", "13", ""),
        ("2 * r", "20", "0 <= 2 * r < 20"),
        ("abs(r)", "8", "abs(r) < 8 and -99 < r"),
        ("(i << 2) >> 1", "15", ""),
        ("r & 7", "8", ""),
        ("r ^ r", "1", "r ^ r == 0"),
        ("i64(floor(f32(i) * 0.5))", "4", ""),
        ("i64(max(f32(i) - 2.5, 0.0))", "5", ""),
        ("i64(g)", "8", "0 <= i64(g) < 8"),
        ("b", "B", ""),
        ("2*b", "2*B", ""),
        ("2*b + 1", "2*B", ""),
        ("c - 1", "2*B", "c > 0"),
        ("c // 2", "B+1", ""),
        ("B - 1 - b", "B", ""),
        ("b * N + n", "B*N", ""),
        ("h // N", "B", ""),
        ("h % N", "N", ""),
        ("N * (h // N) + h % N", "B*N", ""),
        ("16*w + q", "B", "16*w + q < B"),
        ("16*w + q", "B+15", ""),
        ("n // 2", "(N+1)//2", ""),
        ("2 * (n // 2) + 1", "N+1", ""),
        ("n", "64", ""),
        ("min(b, N - 1)", "N", ""),
        ("pos", "64", ""),
        ("63 - pos", "64", ""),
        ("step", "B", ""),
        ("B - 1 - step", "B", ""),
        ("any_", "B", "0 <= any_ and any_ < B"),
        ("b + any_", "2*B", "0 <= any_ < B"),
        ("abs(b - B + 1)", "B", ""),
    ],
)
def test_proved(index: str, extent: str, pred: str) -> None:
    assert proved(index, extent, pred)


@pytest.mark.parametrize(
    ("index", "extent", "pred"),
    [
        ("i", "7", ""),
        ("i - 1", "8", ""),
        ("i", "4", "i < 5"),
        ("i", "4", "i < 4 or j == 0"),
        ("r", "8", ""),
        ("r", "8", "r < 8"),
        ("r", "8", "r != -1"),
        ("i64(g)", "8", "g < 8.0"),
        ("b", "B-1", ""),
        ("step", "B-1", ""),
        ("step + 1", "B", ""),
        ("n", "62", ""),
        ("2*b + 2", "2*B", ""),
        ("h // N", "N", ""),
        ("16*w + q", "B", ""),
        ("any_", "B", "any_ < B"),
        ("where(i < 4, i, 8 - i)", "4", ""),
        ("min(r, 7)", "8", ""),
        ("i64(s) - 1", "256", ""),
        ("i64(u8(i) * u8(64))", "255", ""),
        ("i64(floor(f32(i) * 0.51))", "3", ""),
        # r + 5 may wrap: r near the largest integer passes the predicate
        ("r + 5", "20", "0 <= r and r + 5 < 20"),
        ("r + i", "20", "0 <= r and r + 5 <= 20"),
        ("r", "10", "0 <= 2 * r < 20"),
        # abs of the least integer is itself
        ("abs(r)", "8", "abs(r) < 8"),
        ("r + 8", "17", "abs(r) < 8"),
    ],
)
def test_not_proved(index: str, extent: str, pred: str) -> None:
    assert not proved(index, extent, pred)


def test_checks_prove_later_accesses() -> None:
    body = 'check 0 <= r < 8 "outside"'
    assert proved("r", "8", body=body)
    assert proved("where(r < 0, r + 8, r)", "8", body='check -8 <= r < 8 "outside"')
    assert not proved("r", "8", body='check r < 8 "outside"')
    either = 'check not g > 0.0 or 0 <= r < 8 "outside"'
    assert not proved("r", "8", body=either)
    label = 'check not r != -100 or 0 <= r < 8 "outside"'
    assert proved("r", "8", "r != -100", body=label)


def test_dimensions_are_told_apart() -> None:
    kernel = parse_kernel(
        "kernel k\n axes i:8 j:4\n in x f32[8,4]\n out y f32[8,4]\n"
        " a = load x[i + 1, j] else 0.0\n store y[i, j] = a"
    )
    (load,) = (t for t in kernel.terms if isinstance(t, Load))
    assert unproved(kernel, "x", load.index) == [0]
    assert unproved(kernel, "x", (load.index[0], build.axis("i"))) == [0, 1]


def test_intervals() -> None:
    kernel = parse_kernel(
        "kernel k\n size B 1..\n axes b:B i:8\n in x f32[B]\n out y f32[B]\n"
        " a = load x[b]\n store y[b] = a if i == 0"
    )
    b, i = build.axis("b"), build.axis("i")
    dim = kernel.axes[0][1]
    assert interval(kernel, build.apply("+", build.apply("*", 3, b), i)) == (0, 3 * dim + 4)
    assert interval(kernel, build.apply("-", 3, i)) == (-4, 3)
    assert interval(kernel, i, build.apply("<", i, 3)) == (0, 2)


def test_proves() -> None:
    kernel = parse_kernel(
        "kernel k\n axes i:8 j:8\n in x f32[8]\n out y f32[8]\n a = load x[i]\n"
        " store y[i] = a if j == 0"
    )
    i, j = build.axis("i"), build.axis("j")
    assert proves(kernel, build.apply("<=", i, 7))
    assert not proves(kernel, build.apply("<", i, 7))
    both = build.apply("and", build.apply("<", i, j), build.apply("<", j, 5))
    assert proves(kernel, build.apply("<", i, 4), both)
    assert not proves(kernel, build.apply("<", i, 3), both)
    assert proves(kernel, build.apply("!=", i, j), both)
    assert not proves(kernel, build.apply("==", i, j), both)


# ---- extents


def test_extents_at_least_zero() -> None:
    b, n, m = Dim("B"), Dim("N", min=2, max=64), Dim("M", min=0)
    yes = [b - 1, b * n - 2 * b, 64 - n, m, b * m, (b + 15) // 16 - 1, 16 * ((b + 15) // 16) - b]
    yes += [b - 8 * (b // 8), b + 7 - 8 * ((b + 7) // 8), 7 - b % 8, b * n - n * (b // 1)]
    no = [b - 2, 63 - n, m - 1, b - n, b * m - 1, 16 * ((b + 15) // 16) - b - 1, b // 2 - 1]
    assert [e for e in yes if not at_least_zero(e)] == []
    assert [e for e in no if at_least_zero(e)] == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=4))
def test_extents_are_sound(parts: list[tuple[int, int]]) -> None:
    b, n = Dim("B", max=9), Dim("N", min=2, max=7)
    shapes = [b, n, b * n, (b + 3) // 4, (2 * n + b) % 5]
    total: Any = sum((c * shapes[s] for c, s in parts), 0)
    values = [
        total if isinstance(total, int) else total.evaluate({b: x, n: y})
        for x, y in itertools.product(range(1, 10), range(2, 8))
    ]
    low, high = numeric_bounds(total)
    assert low <= min(values)
    assert max(values) <= high
    if at_least_zero(total):
        assert min(values) >= 0
    divided = floor_quotient(total, n)
    if divided is not None and not isinstance(total, int):
        for x, y in itertools.product(range(1, 10), range(2, 8)):
            sizes = {b: x, n: y}
            got = divided if isinstance(divided, int) else divided.evaluate(sizes)
            assert got == total.evaluate(sizes) // y


# ---- soundness: random indices over i:6, j:4 and data, against every point

_T = KernelTensor("t", TensorType(int64, (6,)))
_DATA = np.array([0, 5, -3, 2, 2**62, -(2**63)], np.int64)
_AXES = [("i", 6), ("j", 4)]


def _index(rng: np.random.Generator, depth: int) -> Term:
    i = build.axis("i")
    kind = rng.integers(0, 10) if depth else rng.integers(0, 4)
    if kind < 4:
        leaves = [i, build.axis("j"), build.load(_T, (i,)), build.const(int(rng.integers(-7, 10)))]
        return leaves[kind]
    a = _index(rng, depth - 1)
    if kind < 7:
        op = str(rng.choice(["+", "-", "*", "max", "min"]))
        return build.apply(op, a, _index(rng, depth - 1))
    if kind == 7:
        return build.apply(str(rng.choice(["//", "%"])), a, int(rng.integers(1, 7)))
    if kind == 8:
        return build.apply("abs", a)
    return build.apply("where", _pred(rng, 1, depth - 1), a, _index(rng, depth - 1))


def _pred(rng: np.random.Generator, joins: int, depth: int) -> Term:
    kind = rng.integers(0, 5) if joins else 0
    if kind in (1, 2):
        op = ("and", "or")[kind - 1]
        return build.apply(op, _pred(rng, joins - 1, depth), _pred(rng, joins - 1, depth))
    if kind == 3:
        return build.apply("not", _pred(rng, joins - 1, depth))
    op = str(rng.choice(["<", "<=", ">", ">=", "==", "!="]))
    return build.apply(op, _index(rng, depth), _index(rng, max(depth - 1, 0)))


def _facts_about(rng: np.random.Generator, index: Term) -> Term:
    """A predicate that often says something about the index."""
    pred = _pred(rng, 2, 2)
    low = build.apply("<=", int(rng.integers(-2, 4)), index)
    high = build.apply("<", index, int(rng.integers(1, 30)))
    about = [pred, build.apply("and", low, high), build.apply("and", pred, high)]
    return about[rng.integers(0, 3)]


@pytest.mark.parametrize("first_seed", range(0, 1000, 250))
def test_what_is_proved_is_inside(first_seed: int) -> None:
    proofs = 0
    for seed in range(first_seed, first_seed + 250):
        rng = np.random.default_rng(seed)
        index = _index(rng, 3)
        pred, extent = _facts_about(rng, index), int(rng.integers(1, 30))
        x = KernelTensor("x", TensorType(float32, (extent,)))
        y, z = (KernelTensor(n, TensorType(int64, (6, 4))) for n in ("y", "z"))
        at = (build.axis("i"), build.axis("j"))
        stores = [build.store(y, at, index), build.store(z, at, build.cast(pred, int64))]
        kernel = build.kernel("random", _AXES, [_T, x], [y, z], stores)
        values = interpret(kernel, {"t": _DATA, "x": np.zeros(extent, np.float32)})
        kept = values["y"][values["z"] != 0]
        if not unproved(kernel, "x", [index], pred):
            proofs += 1
            assert ((kept >= 0) & (kept < extent)).all(), f"seed {seed}"
        low, high = interval(kernel, index, pred)
        if kept.size:
            assert numeric_bounds(low)[0] <= kept.min(), f"seed {seed}"
            assert kept.max() <= numeric_bounds(high)[1], f"seed {seed}"
    assert proofs > 30
