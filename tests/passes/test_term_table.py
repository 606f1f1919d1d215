"""Shared terms and index arithmetic: every form equals plain Python integers at every point."""

from __future__ import annotations

import itertools
import operator

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.kernel.terms import Apply, AxisIndex, Const, Load, Term
from graphc.passes.term_table import Substitution, TermTable
from graphc.types import bool_, float32, int64
from tests.passes.levels import check_levels

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
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
                case "and":
                    return args[0] and args[1]
                case "where":
                    return args[1] if args[0] else args[2]
                case comparison:
                    return COMPARISONS[comparison](*args)
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


def _comparison(table: TermTable, rng: np.random.Generator) -> Term:
    axes = [table.axis(name) for name in rng.choice(list(EXTENTS), 2)]
    left, right = axes[0], table.const(int(rng.integers(-2, 8)))
    if rng.integers(2):
        left = table.apply("-", axes, int64)
    if rng.integers(2):
        left, right = right, left
    return table.apply(str(rng.choice(list(COMPARISONS))), (left, right), bool_)


@pytest.mark.parametrize("seed", range(100))
def test_random_choices_choose_the_same(seed: int) -> None:
    """Nested ``where`` of comparisons: the value at every point is what the choices written out
    give, and what is decided is so at every point.
    """
    rng = np.random.default_rng(seed)
    table, _ = _table()
    points = [dict(zip(EXTENTS, p, strict=True))
              for p in itertools.product(*(range(e) for e in EXTENTS.values()))]  # fmt: skip
    terms = [table.const(n) for n in range(4)]
    plain = [[n] * len(points) for n in range(4)]
    for _ in range(8):
        pred = _comparison(table, rng)
        holds = [bool(_value(pred, p)) for p in points]
        if rng.integers(2):
            more = _comparison(table, rng)
            holds = [h and bool(_value(more, p)) for h, p in zip(holds, points, strict=True)]
            pred = table.apply("and", (pred, more), bool_)
        assert not (table.never(pred) and any(holds))
        yes, no = rng.integers(len(terms), size=2)
        terms.append(table.apply("where", (pred, terms[yes], terms[no]), int64))
        chosen = zip(holds, plain[yes], plain[no], strict=True)
        plain.append([a if h else b for h, a, b in chosen])
        assert [_value(terms[-1], p) for p in points] == plain[-1]
        other = _comparison(table, rng)
        known = table.decided(pred, other)
        there = {bool(_value(other, p)) for p, h in zip(points, holds, strict=True) if h}
        assert known is None or there <= {known}


def test_what_no_point_reads_is_no_load() -> None:
    table, axes = _table()
    below = table.apply("<", (axes["i"], table.const(4)), bool_)
    above = table.apply(">=", (axes["i"], table.const(4)), bool_)
    load = table.load("x", (axes["i"],), float32, below, table.const(0, float32))
    assert table.substitute(load, Substitution(guard=above)) is table.const(0, float32)
    assert isinstance(table.substitute(load, Substitution(guard=below)), Load)


def test_nested_joins_read_each_part_once() -> None:
    x, y, z = (gc.observed(n, (8, 4)) for n in "xyz")
    first = ops.concat([x[:4], y[4:]], 0) * 2.0
    second = ops.concat([first[:6], z[6:]], 0)
    third = ops.concat([second[:4], first[4:]], 0)
    program = gc.compile([x, y, z], third, backend="llvm")  # z: no element of it is needed
    (kernel,) = program.schedule.kernels
    assert sorted(t.tensor for t in kernel.terms if isinstance(t, Load)) == ["x", "y"]
    given = [np.random.default_rng(n).standard_normal((8, 4), np.float32) for n in range(3)]
    np.testing.assert_array_equal(
        program(*given), 2 * np.concatenate([given[0][:4], given[1][4:]])
    )
