"""Shared terms and index arithmetic: every form equals plain Python integers at every point."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.kernel.terms import Apply, AxisIndex, Const, Term
from graphc.passes.term_table import Substitution, TermTable
from graphc.types import float32, int64
from tests.passes.levels import check_levels

EXTENTS = {"i": 6, "j": 4, "k": 3}


def _table() -> tuple[TermTable, dict[str, Term]]:
    table = TermTable()
    return table, {name: table.axis(name, extent) for name, extent in EXTENTS.items()}


def _value(term: Term, point: dict[str, int]) -> int:
    match term:
        case Const():
            return int(term.value)
        case AxisIndex():
            return point[term.axis]
        case Apply():
            args = [_value(a, point) for a in term.args]
            match term.op:
                case "+":
                    return args[0] + args[1]
                case "-":
                    return args[0] - args[1]
                case "*":
                    return args[0] * args[1]
                case "//":
                    return args[0] // args[1]
                case "%":
                    return args[0] % args[1]
    raise AssertionError(term)


@pytest.mark.parametrize("seed", range(200))
def test_random_index_arithmetic_is_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, axes = _table()
    terms: list[Term] = list(axes.values())
    plain: list[dict[tuple[int, ...], int]] = []
    points = list(itertools.product(*(range(e) for e in EXTENTS.values())))
    plain = [{p: p[n] for p in points} for n in range(3)]
    for _ in range(8):
        a, b = rng.integers(len(terms), size=2)
        by = int(rng.integers(1, 9))
        match rng.integers(5):
            case 0:
                new = table.apply("+", (terms[a], terms[b]), int64)
                values = {p: plain[a][p] + plain[b][p] for p in points}
            case 1:
                new = table.apply("-", (terms[a], terms[b]), int64)
                values = {p: plain[a][p] - plain[b][p] for p in points}
            case 2:
                new = table.apply("*", (terms[a], table.const(by - 3)), int64)
                values = {p: plain[a][p] * (by - 3) for p in points}
            case 3:
                new = table.apply("//", (terms[a], table.const(by)), int64)
                values = {p: plain[a][p] // by for p in points}
            case _:
                new = table.apply("%", (terms[a], table.const(by)), int64)
                values = {p: plain[a][p] % by for p in points}
        terms.append(new)
        plain.append(values)
        low, high = table.range_of(new)
        for p in points:
            got = _value(new, dict(zip(EXTENTS, p, strict=True)))
            assert got == values[p], f"seed {seed} at {p}: {new}"
            assert low is None or low <= got
            assert high is None or got <= high


def test_what_a_reshape_makes_folds() -> None:
    table, axes = _table()
    flat = table.apply("*", (axes["i"], table.const(4)), int64)
    flat = table.apply("+", (flat, axes["j"]), int64)
    assert table.apply("//", (flat, table.const(4)), int64) is axes["i"]
    assert table.apply("%", (flat, table.const(4)), int64) is axes["j"]
    whole = table.axis("n", 24)
    high = table.apply("//", (whole, table.const(4)), int64)
    low = table.apply("%", (whole, table.const(4)), int64)
    back = table.apply("+", (table.apply("*", (high, table.const(4)), int64), low), int64)
    assert back is whole


def test_equal_terms_are_one_object() -> None:
    table, axes = _table()
    first = table.load("x", (axes["i"], axes["j"]), float32)
    assert table.load("x", (axes["i"], axes["j"]), float32) is first
    assert table.load("x", (axes["j"], axes["i"]), float32) is not first
    assert table.const(0.0, float32) is not table.const(-0.0, float32)


def test_substitution_keeps_what_a_reduction_binds() -> None:
    table, axes = _table()
    load = table.load("x", (axes["i"], axes["k"]), float32)
    total = table.result(table.reduction("sum", (load,), ("k",), None, False, float32), 0, float32)
    both = table.apply("+", (total, table.load("y", (axes["k"],), float32)), float32)
    moved = table.substitute(both, Substitution({"k": table.const(2)}))
    assert isinstance(moved, Apply)
    assert moved.args[0] is total
    assert moved.args[1] is table.load("y", (table.const(2),), float32)


def test_data_that_may_have_wrapped_is_not_divided_out() -> None:
    """``x * 2 // 2`` is not x where x * 2 wraps."""
    big = np.int64([1, -(2**62) - 1, 2**62 + 5])
    x = gc.observed("x", (3,), gc.int64)
    check_levels([x], [x * 2 // 2, (x * 4 + 1) % 4, (x * (2**62)) % 3], arrays=[big])
    step = 6364136223846793005
    check_levels([], [(ops.arange(5) * step) % 1000, (ops.arange(5) * step + step) // 7])
