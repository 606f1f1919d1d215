"""Monoids: every way to combine elements gives the same states; edge values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.errors import DTypeError
from graphc.kernel.interpret import NumpyTile
from graphc.kernel.monoids import MONOIDS, Monoid, accumulator, fitted, masked_step, state_dtypes
from graphc.types import DTYPES, DType, bool_, dtype_of, float32, float64, int64

States = tuple[Any, ...]
LANES = NumpyTile((), None)


def arguments(monoid: Monoid, count: int, rng: np.random.Generator) -> States:
    if monoid.name in ("any", "all"):
        return (rng.integers(0, 2, count).astype(bool),)
    values = rng.integers(-4, 5, count).astype(np.float64)
    if monoid.name in ("argmax", "argmin"):
        return values, np.arange(count)
    if monoid.name == "linear":
        return values / 4, rng.standard_normal(count)
    if monoid.name == "expsum":
        return values, np.ones(count), rng.standard_normal(count)
    return (values,)


def start(monoid: Monoid, dtypes: tuple[DType, ...]) -> States:
    identity = monoid.identity(dtypes)
    return tuple(
        np.full((1,), fitted(v, d), d.numpy) for v, d in zip(identity, dtypes, strict=True)
    )


def stepped(monoid: Monoid, args: States, valid: Any = None) -> States:
    state = start(monoid, state_dtypes(monoid.name, [dtype_of(a.dtype) for a in args]))
    for n in range(len(args[0])):
        element = tuple(a[n : n + 1] for a in args)
        if valid is None:
            state = lift_step(monoid, state, element)
        else:
            state = masked_step(monoid, LANES, state, element, valid[n : n + 1])
    return state


def lift_step(monoid: Monoid, state: States, element: States) -> States:
    return monoid.step(LANES, state, element)


def close(one: States, other: States) -> bool:
    return all(
        np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("name", MONOIDS)
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_step_merge_and_fold_agree(name: str, count: int) -> None:
    monoid, rng = MONOIDS[name], np.random.default_rng(count)
    args = arguments(monoid, count, rng)
    whole = stepped(monoid, args)
    state = start(monoid, state_dtypes(name, [dtype_of(a.dtype) for a in args]))
    assert close(monoid.fold(NumpyTile((0,), None), state, args), whole)
    for cut in {0, 1, count // 2, count}:
        parts = [
            stepped(monoid, tuple(a[p] for a in args)) for p in (slice(0, cut), slice(cut, None))
        ]
        assert close(monoid.merge(LANES, *parts), whole)
        first = tuple(a[:cut] for a in args)
        rest = tuple(a[cut:] for a in args)
        if cut not in (0, count):
            folded = monoid.fold(NumpyTile((0,), None), state, first)
            assert close(monoid.fold(NumpyTile((0,), None), folded, rest), whole)
    if monoid.commutative:
        order = rng.permutation(count)
        assert close(stepped(monoid, tuple(a[order] for a in args)), whole)


@pytest.mark.parametrize("name", MONOIDS)
def test_masked_elements_do_not_count(name: str) -> None:
    monoid, rng = MONOIDS[name], np.random.default_rng(3)
    args = arguments(monoid, 12, rng)
    if args[0].dtype.kind == "f":
        args[0][5] = np.nan
    for valid in (rng.integers(0, 2, 12).astype(bool), np.zeros(12, bool)):
        valid[5] = False
        want = stepped(monoid, tuple(a[valid] for a in args))
        assert close(stepped(monoid, args, valid), want)
        state = start(monoid, state_dtypes(name, [dtype_of(a.dtype) for a in args]))
        tile = NumpyTile((0,), valid)
        clean = tuple(np.where(valid, a, 0).astype(a.dtype) for a in args)
        assert close(monoid.fold(tile, state, clean), want)


@pytest.mark.parametrize("name", MONOIDS)
def test_identity_changes_nothing(name: str) -> None:
    monoid = MONOIDS[name]
    args = arguments(monoid, 9, np.random.default_rng(9))
    nothing = start(monoid, state_dtypes(name, [dtype_of(a.dtype) for a in args]))
    state = stepped(monoid, args)
    assert close(monoid.merge(LANES, nothing, state), state)
    assert close(monoid.merge(LANES, state, nothing), state)
    assert close(monoid.merge(LANES, nothing, nothing), nothing)


def expsum(values: list[float], weights: list[float] | None = None) -> tuple[float, float]:
    a = np.array(values, np.float32)
    w = np.ones_like(a) if weights is None else np.array(weights, np.float32)
    monoid = MONOIDS["expsum"]
    with np.errstate(all="ignore"):
        one = stepped(monoid, (a, w))
        state = start(monoid, (float32, float32))
        other = monoid.fold(NumpyTile((0,), None), state, (a, w))
        halves = [stepped(monoid, (a[p], w[p])) for p in (slice(0, 1), slice(1, None))]
        merged = monoid.merge(LANES, *halves)
    assert close(one, other), (one, other)
    assert close(one, merged), (one, merged)
    return float(one[0][0]), float(one[1][0])


def test_expsum_of_infinities_and_nan() -> None:
    inf, nan = np.inf, np.nan
    assert expsum([-inf, -inf]) == (-inf, 0)
    assert expsum([-inf, 2, -inf]) == (2, 1)
    assert expsum([inf, 2, -inf]) == (inf, 1)
    assert expsum([inf, 5, inf]) == (inf, 2)
    assert expsum([0, 0, -inf, 0]) == (0, 3)
    m, s = expsum([1, nan, 3])
    assert np.isnan(m)
    assert np.isnan(s)
    assert expsum([2.0**100, -(2.0**100)]) == (2.0**100, 1)
    assert expsum([-inf, -inf], [5, 7]) == (-inf, 0)


@pytest.mark.parametrize(("name", "reference"), [("argmax", np.argmax), ("argmin", np.argmin)])
def test_arguments_of_ties_and_nan_are_numpys(name: str, reference: Any) -> None:
    rng = np.random.default_rng(0)
    for row in rng.choice(
        [-np.inf, -1, 0, 1, np.inf, np.nan], (200, 6), p=[0.1, 0.2, 0.2, 0.2, 0.1, 0.2]
    ):
        args = (row, np.arange(6))
        value, index = stepped(MONOIDS[name], args)
        assert index[0] == reference(row)
        state = start(MONOIDS[name], (float64, int64))
        folded = MONOIDS[name].fold(NumpyTile((0,), None), state, args)
        assert folded[1][0] == reference(row)
        assert np.array_equal(value, folded[0], equal_nan=True)


def test_an_empty_argmax_has_the_largest_index() -> None:
    dtypes = (float32, int64)
    assert MONOIDS["argmax"].identity(dtypes) == (-np.inf, 2**63 - 1)
    assert MONOIDS["argmin"].identity((int64, int64)) == (2**63 - 1, 2**63 - 1)


def test_linear_is_ordered() -> None:
    monoid = MONOIDS["linear"]
    a, b = np.array([0.5, 2.0, -1.0]), np.array([1.0, 0.0, 3.0])
    decay, h = stepped(monoid, (a, b))
    assert (decay[0], h[0]) == (-1.0, (1 * 2 + 0) * -1 + 3)
    assert not monoid.commutative
    assert not close(stepped(monoid, (a[::-1], b[::-1])), (decay, h))


def test_dtypes_of_states() -> None:
    i32 = DTYPES["i32"]
    assert accumulator(i32) == int64
    assert state_dtypes("argmax", [float32, i32]) == (float32, i32)
    assert state_dtypes("welford", [float32]) == (float32,) * 3
    assert MONOIDS["welford"].results(1) == 3
    assert MONOIDS["expsum"].results(4) == 4
    for name, wrong in (
        ("any", [float32]),
        ("argmax", [float32, float32]),
        ("welford", [int64]),
        ("expsum", [float32, float64]),
        ("linear", [float32]),
        ("sum", [float32, float32]),
        ("expsum", []),
    ):
        with pytest.raises(DTypeError):
            state_dtypes(name, wrong)
    assert fitted(-np.inf, bool_) is False
