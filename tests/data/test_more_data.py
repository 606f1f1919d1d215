"""Folds, bags, classes in turn, iterators, whitening, prefetching, batches of graphs."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from graphc import data

rng = np.random.default_rng(3)


def test_folds_are_a_stratified_partition() -> None:
    rows, labels = np.arange(23), np.repeat([0, 1, 2], [12, 6, 5])
    parts = list(data.kfold(rows, labels, k=4, stratify=labels, seed=1))
    assert len(parts) == 4
    tested = np.concatenate([test for _, (test, _) in parts])
    assert sorted(tested) == rows.tolist()
    for (train, _), (test, test_labels) in parts:
        assert sorted([*train, *test]) == rows.tolist()
        assert len(test) in (5, 6)
        assert np.bincount(test_labels, minlength=3)[0] in (2, 3, 4)
    again = list(data.kfold(rows, k=4, stratify=labels, seed=1))
    np.testing.assert_array_equal(again[0][1][0], parts[0][1][0])
    with pytest.raises(ValueError, match=r"k is in 2\.\.23"):
        data.kfold(rows, k=1)
    with pytest.raises(ValueError, match="stratify has shape"):
        data.kfold(rows, k=2, stratify=[0, 1])


def test_bags() -> None:
    x, y = np.arange(200), -np.arange(200)
    (drawn, drawn_y), (rest, _) = data.bootstrap(x, y, seed=4)
    assert len(drawn) == 200
    assert (drawn == -drawn_y).all()
    assert sorted({*drawn, *rest}) == x.tolist()
    assert (data.bootstrap(x, seed=4)[0][0] == drawn).all()
    assert (data.bootstrap(x, seed=5)[0][0] != drawn).any()


def test_classes_in_turn() -> None:
    y = np.repeat([3, 7, 9], [20, 4, 1])
    x = np.arange(25)
    batches = data.balanced(x, y, 8, labels=y, seed=2)
    assert len(batches) == 8
    epochs = [list(batches) for _ in range(2)]
    for epoch in epochs:
        rows = np.concatenate([b[0] for b in epoch])
        labels = np.concatenate([b[1] for b in epoch])
        assert np.ptp(np.bincount(labels)[[3, 7, 9]]) <= 1
        assert (y[rows] == labels).all()
        assert set(rows[labels == 3]) == set(range(20))  # the largest class, all of it
        for part in np.split(rows[labels == 7][:20], 5):  # the buffer goes round and round
            assert sorted(part) == [20, 21, 22, 23]
    assert (epochs[0][0][0] != epochs[1][0][0]).any()
    again = data.balanced(x, y, 8, labels=y, seed=2)
    again.epoch = 1
    np.testing.assert_array_equal(list(again)[3][0], epochs[1][3][0])
    with pytest.raises(ValueError, match="batch size, at least 1"):
        data.balanced(x, 0, labels=y)
    with pytest.raises(ValueError, match="one for each row"):
        data.balanced(x, 4, labels=y[:3])


def test_samples_of_an_iterator() -> None:
    made = list(data.collate(((np.full(2, i), i) for i in range(5)), 2))
    assert [b[0].shape for b in made] == [(2, 2), (2, 2), (1, 2)]
    assert made[2][1].tolist() == [4]
    assert len(list(data.collate(range(5), 2, drop_last=True))) == 2
    with pytest.raises(ValueError, match="at least one row"):
        list(data.collate(range(5), 0))
    with pytest.raises(ValueError, match="differ in how many parts"):
        list(data.collate([(1, 2), (1,)], 2))


def test_whitening() -> None:
    x = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 3.0
    white = data.whitener(x)
    z = white(x)
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.eye(5), atol=1e-4)
    np.testing.assert_allclose(white.inverse(z), x, rtol=1e-4, atol=1e-4)
    pca = pytest.importorskip("sklearn.decomposition", reason="the reference of PCA")
    theirs = pca.PCA(2, whiten=True).fit(x)
    few = data.whitener(x, 2)
    scale = np.sqrt(400 / 399)  # theirs divides by n - 1
    np.testing.assert_allclose(np.abs(few(x)), np.abs(theirs.transform(x)) * scale, rtol=1e-4,
                               atol=1e-5)  # fmt: skip
    alike = data.whitener(x, zca=True)
    np.testing.assert_allclose(np.cov(alike(x).T, bias=True), np.eye(5), atol=1e-4)
    np.testing.assert_allclose(alike.inverse(alike(x)), x, rtol=1e-4, atol=1e-4)
    root = np.linalg.cholesky(np.linalg.inv(np.cov(x.T, bias=True)))
    assert root.shape == (5, 5)
    # of all whitenings the one that is nearest to the data: the map is symmetric
    matrix = alike(np.eye(5) + alike.mean)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-4)
    flat = np.concatenate([x, x[:, :1]], 1)  # a direction without variance does not explode
    assert np.abs(data.whitener(flat, epsilon=1e-3)(flat)).max() < 10
    with pytest.raises(ValueError, match=r"takes rows \[n, d\]"):
        data.whitener(x[0])
    with pytest.raises(ValueError, match=r"components is in 1\.\.5, not 6"):
        data.whitener(x, 6)
    with pytest.raises(ValueError, match="epsilon is at least 0"):
        data.whitener(x, epsilon=-1)


def test_a_thread_goes_ahead() -> None:
    made: list[int] = []

    def slow() -> Any:
        for i in range(6):
            made.append(i)
            yield i

    taken = []
    for item in data.prefetch(slow(), depth=2):
        time.sleep(0.02)
        assert len(made) <= item + 4  # two wait, one is in hand, one being made
        taken.append(item)
    assert taken == list(range(6))
    assert len(data.prefetch([1, 2])) == 2
    with pytest.raises(TypeError, match="has no length"):
        len(data.prefetch(slow()))
    with pytest.raises(ValueError, match="depth is at least 1"):
        data.prefetch([1], depth=0)
    shuffled = data.prefetch(data.batches(np.arange(8), 4, shuffle=True))
    first = [b[0].tolist() for b in shuffled]
    assert shuffled.epoch == 1
    shuffled.epoch = 0
    assert [b[0].tolist() for b in shuffled] == first


def test_errors_come_through_and_threads_end() -> None:
    def broken() -> Any:
        yield 1
        raise OSError("the disk")

    iterator = iter(data.prefetch(broken()))
    assert next(iterator) == 1
    with pytest.raises(OSError, match="the disk"):
        next(iterator)
    before = threading.active_count()
    for item in data.prefetch(iter(range(10**9)), depth=1):
        if item == 3:
            break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_batches_of_graphs() -> None:
    graphs = [
        {"x": np.ones((2, 3)), "edge_index": [[0, 1], [1, 1]], "w": [1.0, 2.0], "y": [5]},
        {"x": np.zeros((1, 3)), "edge_index": [], "w": [], "y": [6]},
        {"x": np.ones((3, 3)), "edge_index": [[2], [0]], "w": [3.0], "y": [7]},
    ]
    joined = data.batch_graphs(graphs)
    assert joined["edge_index"].tolist() == [[0, 1, 5], [1, 1, 3]]
    assert joined["batch"].tolist() == [0, 0, 1, 2, 2, 2]
    assert (joined["w"].tolist(), joined["y"].tolist()) == ([1, 2, 3], [5, 6, 7])
    assert joined["x"].shape == (6, 3)
    with pytest.raises(ValueError, match="there is no graph"):
        data.batch_graphs([])
    with pytest.raises(ValueError, match=r"an edge of graph 0 ends outside of 0\.\.0"):
        data.batch_graphs([{"x": np.ones((1, 3)), "edge_index": [[0], [1]]}])
    with pytest.raises(ValueError, match="must be integers"):
        data.batch_graphs([{"x": np.ones((1, 3)), "edge_index": [[0.5], [0]]}])
    with pytest.raises(ValueError, match="graph 1 has x"):
        data.batch_graphs([graphs[0], {"x": np.ones((1, 3))}])
