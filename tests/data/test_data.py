"""Batches keep every row, shuffles repeat, splits are disjoint and stratified."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.data import batches, split, standardizer


@given(rows=st.integers(0, 50), size=st.integers(1, 20), shuffle=st.booleans())
def test_batches_hold_every_row_once(rows: int, size: int, shuffle: bool) -> None:
    x = np.arange(rows)
    b = batches(x, x * 2, size, shuffle=shuffle, seed=5)
    parts = list(b)
    assert len(parts) == len(b)
    assert all(len(p[0]) == size for p in parts[:-1])
    joined = np.concatenate([p[0] for p in parts]) if parts else x
    assert sorted(joined.tolist()) == list(range(rows))
    assert all((second == 2 * first).all() for first, second in parts)


def test_partial_batch_is_kept_unless_dropped() -> None:
    x = np.zeros((5, 3), np.float32)
    assert [p[0].shape for p in batches(x, 2)] == [(2, 3), (2, 3), (1, 3)]
    assert [p[0].shape for p in batches(x, 2, drop_last=True)] == [(2, 3), (2, 3)]


def test_shuffle_differs_by_epoch_and_repeats_by_seed() -> None:
    x = np.arange(100)
    one, two = (batches(x, 100, shuffle=True, seed=7) for _ in range(2))
    first, second = next(iter(one))[0], next(iter(one))[0]
    assert (first != second).any()
    assert (first == next(iter(two))[0]).all()
    assert (second == next(iter(two))[0]).all()
    assert (next(iter(batches(x, 100, shuffle=True, seed=8)))[0] != first).any()


def test_resuming_at_an_epoch() -> None:
    x = np.arange(50)
    whole = batches(x, 50, shuffle=True)
    orders = [next(iter(whole))[0].tolist() for _ in range(3)]
    resumed = batches(x, 50, shuffle=True)
    resumed.epoch = 2
    assert next(iter(resumed))[0].tolist() == orders[2]


def test_transform_sees_each_batch_and_repeats() -> None:
    def noisy(generator: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple:
        return x + generator.normal(size=x.shape), y

    x, y = np.zeros(10), np.arange(10)
    one, two = (batches(x, y, 4, seed=3, transform=noisy) for _ in range(2))
    first, again, second = list(one), list(two), list(one)
    assert [len(b[0]) for b in first] == [4, 4, 2]
    assert all((a[0] == b[0]).all() for a, b in zip(first, again, strict=True))
    assert (first[0][0] != first[1][0]).all()
    assert (first[0][0] != second[0][0]).all()
    assert np.concatenate([b[1] for b in first]).tolist() == y.tolist()


def test_unshuffled_batches_are_views_of_any_dtype() -> None:
    x = np.arange(6, dtype=np.uint8)
    (batch,) = next(iter(batches(x, 3)))
    assert batch.base is x
    assert batch.dtype == np.uint8


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros(3), np.zeros(4), 2), ValueError, r"differ in rows \(axis 0\): \[3, 4\]"),
        ((np.zeros(3), 0), ValueError, "at least one row"),
        ((np.zeros(3), np.zeros(3)), TypeError, "last argument is the batch size"),
        ((4,), ValueError, "no array"),
        ((np.float32(1), 4), ValueError, "0-d"),
    ],
)
def test_bad_batches(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        batches(*arguments)


@given(
    counts=st.lists(st.integers(3, 40), min_size=1, max_size=6),
    fractions=st.sampled_from([(0.8, 0.2), (0.5, 0.5), (0.7, 0.2, 0.1), (1.0,)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_a_stratified_partition(
    counts: list[int], fractions: tuple[float, ...], seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(labels))
    parts = split(rows, labels, fractions=fractions, stratify=labels, seed=seed)
    assert sorted(np.concatenate([p[0] for p in parts]).tolist()) == rows.tolist()
    for (indices, classes), fraction in zip(parts, fractions, strict=True):
        assert (labels[indices] == classes).all()
        got = np.bincount(classes, minlength=len(counts))
        allowed = 1 if len(fractions) <= 2 else 2
        assert (abs(got - fraction * np.array(counts)) <= allowed + 1e-9).all()


def test_split_sizes_seed_and_order() -> None:
    x = np.arange(1797)
    y = x % 10
    (train, _), (held, _) = split(x, y, stratify=y, seed=0)
    assert (len(train), len(held)) == (1438, 359)
    again = split(x, y, stratify=y, seed=0)
    assert (again[0][0] == train).all()
    assert set(split(x, y, stratify=y, seed=1)[1][0]) != set(held)
    assert (np.diff(train) < 0).any(), "rows come in random order, not class by class"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.5, 0.4)}, "add up to 1"),
        ({"fractions": (1.2, -0.2)}, "positive"),
        ({"stratify": [0, 0, 0, 0, 1]}, "class 1 has 1 rows, too few for 2 parts"),
        ({"stratify": [0, 0]}, r"expected \(5,\)"),
    ],
)
def test_bad_split(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(np.arange(5), **options)


def test_standardizer() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 5, (200, 4))
    x[:, 2] = 1e6 + 0.1  # constant and large
    fitted = standardizer(x)
    z = fitted(x)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0)[[0, 1, 3]], 1, atol=1e-5)
    assert (z[:, 2] == z[0, 2]).all()
    assert abs(z[0, 2]) < 1
    np.testing.assert_allclose(fitted.inverse(z), x, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="at least one row"):
        standardizer(np.zeros((0, 3)))
