"""Logs that others read; confusion matrices, F1, ensembles."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import data, train
from graphc.train.logs import crc32c
from tests.evaluating import evaluate


def run(epochs: int, *callbacks: Any) -> None:
    values = iter([{"loss": 0.5, "accuracy": 0.25}] * epochs)
    train.fit(lambda x: x.sum(), [np.ones(2)], epochs=epochs, callbacks=callbacks, progress=False,
              evaluate=(lambda x: next(values), [np.ones(2)]), monitor="loss")  # fmt: skip


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    run(2, train.CSVLog(path))
    run(1, train.CSVLog(path))  # a resumed run goes on
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert lines[0] == ["epoch", "seconds", "train", "test.loss", "test.accuracy"]
    assert [line[0] for line in lines[1:]] == ["1", "2", "1"]
    assert lines[1][2:] == ["2.0", "0.5", "0.25"]
    with pytest.raises(ValueError, match=r"has the columns .* this run gives"):
        train.fit(lambda x: 0.0, [np.ones(2)], epochs=1, callbacks=[train.CSVLog(path)],
                  progress=False)  # fmt: skip
    run(1, train.CSVLog(path, append=False))
    assert len(path.read_text().splitlines()) == 2


def test_a_resumed_run_has_each_epoch_once(tmp_path: Path) -> None:
    """Epochs after the last checkpoint are done again, and their rows with them."""
    path, weight = tmp_path / "log.csv", gc.parameter(np.zeros(1))

    def step(x: Any) -> float:
        weight.set(weight.numpy() + 1)
        return float(weight.numpy()[0])

    def trained(epochs: int, **options: Any) -> list[str]:
        point = train.Checkpoint(tmp_path / "point", every=2, weight=weight)
        train.fit(step, [np.ones(1)], epochs=epochs, callbacks=[train.CSVLog(path)],
                  checkpoint=point, progress=False, **options)  # fmt: skip
        rows = [line.split(",") for line in path.read_text().splitlines()]
        assert rows[0] == ["epoch", "seconds", "train"]
        return [f"{row[0]}:{float(row[2]):g}" for row in rows[1:]]

    assert trained(3) == ["1:1", "2:2", "3:3"]
    weight.set([9.0])  # lost when it goes on from epoch 2
    with path.open("a") as file:
        file.write("4,0.0")  # the machine stopped here
    assert trained(4, resume=True) == ["1:1", "2:2", "3:3", "4:4"]
    assert trained(5, resume=True) == ["1:1", "2:2", "3:3", "4:4", "5:5"]
    # another run, from the start, leaves the first one's rows
    again = trained(3)
    assert again[:5] == ["1:1", "2:2", "3:3", "4:4", "5:5"]
    assert [row[0] for row in again[5:]] == ["1", "2", "3"]
    resumed = trained(3, resume=True)
    assert resumed[:7] == again[:7]
    assert [row[0] for row in resumed[5:]] == ["1", "2", "3"]


def records(path: Path) -> list[bytes]:
    """The events of a file, both checksums of each verified."""
    raw, found = path.read_bytes(), []

    def verify(data: bytes, stored: bytes) -> None:
        crc = crc32c(data)
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        assert struct.unpack("<I", stored)[0] == masked

    while raw:
        (length,) = struct.unpack("<Q", raw[:8])
        verify(raw[:8], raw[8:12])
        verify(raw[12 : 12 + length], raw[12 + length : 16 + length])
        found.append(raw[12 : 12 + length])
        raw = raw[16 + length :]
    return found


def fields(message: bytes) -> list[tuple[int, Any]]:
    """A protocol buffer's (number, value) pairs."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        kind, value = tag & 7, None
        if kind == 0:
            value = varint()
        elif kind == 2:
            length = varint()
            value, at = message[at : at + length], at + length
        else:
            size = 8 if kind == 1 else 4
            value = struct.unpack("<d" if kind == 1 else "<f", message[at : at + size])[0]
            at += size
        found.append((tag >> 3, value))
    return found


def test_tensorboard(tmp_path: Path) -> None:
    log = train.TensorBoardLog(tmp_path / "runs")
    run(2, log)
    first, *events = records(log.path)
    assert fields(first)[1] == (3, b"brain.Event:2")
    for number, event in enumerate(events, 1):
        by_number = dict(fields(event))
        assert by_number[2] == number
        values = [dict(fields(value)) for _, value in fields(by_number[5])]
        scalars = {value[1].decode(): value[2] for value in values}
        assert set(scalars) == {"seconds", "train", "test/loss", "test/accuracy"}
        assert (scalars["train"], scalars["test/loss"]) == (2.0, 0.5)
    assert ".tfevents." in log.path.name


def test_confusion_and_f1() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the reference of F1")
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 4, 50), rng.normal(size=(50, 5))
    batches = data.batches(logits, labels, 16)
    counts = train.confusion_matrix(lambda z: z, batches, 5)
    chosen = logits.argmax(1)
    wanted = metrics.confusion_matrix(labels, chosen, labels=np.arange(5))
    np.testing.assert_array_equal(counts, wanted)
    again = train.confusion_matrix(lambda z: z.argmax(1), batches, 5)
    np.testing.assert_array_equal(again, counts)
    for average in ("macro", "micro", "weighted", None):
        theirs = metrics.f1_score(
            labels, chosen, labels=np.arange(5), average=average, zero_division=0
        )
        np.testing.assert_allclose(train.f1_score(counts, average), theirs, rtol=1e-12)
    with pytest.raises(ValueError, match=r"labels are not all in 0\.\.2"):
        train.confusion_matrix(lambda z: z[:, :3], batches, 3)
    with pytest.raises(ValueError, match=r"predictions are not all in 0\.\.3"):
        train.confusion_matrix(lambda z: z, batches, 4)
    with pytest.raises(ValueError, match="is square"):
        train.f1_score(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="not 'median'"):
        train.f1_score(counts, "median")


def test_mixtures_and_products() -> None:
    rng = np.random.default_rng(1)
    values = [gc.observed(f"z{i}", (4, 3), "float64") for i in range(2)]
    feeds = {v: rng.normal(size=(4, 3)) for v in values}
    odds = [np.exp(a) / np.exp(a).sum(1, keepdims=True) for a in feeds.values()]
    got = evaluate([train.mixture(values), train.mixture(values, [3, 1]), train.product(values)],
                   feeds)  # fmt: skip
    np.testing.assert_allclose(got[0], (odds[0] + odds[1]) / 2, rtol=1e-10)
    np.testing.assert_allclose(got[1], 0.75 * odds[0] + 0.25 * odds[1], rtol=1e-10)
    both = np.sqrt(odds[0] * odds[1])
    np.testing.assert_allclose(got[2], both / both.sum(1, keepdims=True), rtol=1e-10)
    with pytest.raises(ValueError, match="there is no model"):
        train.mixture([])
    with pytest.raises(gc.ShapeError, match="differ in type"):
        train.product([values[0], values[1][:2]])
    with pytest.raises(ValueError, match="one for each of 2 models"):
        train.mixture(values, [1.0])


def test_boosting_equals_scikit_learn() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble", reason="the reference of boosting")
    tree = pytest.importorskip("sklearn.tree", reason="the reference of boosting")
    datasets = pytest.importorskip("sklearn.datasets", reason="the reference of boosting")
    x, y = datasets.load_iris(return_X_y=True)
    stump = tree.DecisionTreeClassifier(max_depth=1, random_state=0)
    theirs = ensemble.AdaBoostClassifier(stump, n_estimators=8, random_state=0).fit(x, y)
    ours, said = train.Boosting(y), []
    for model in theirs.estimators_:
        said.append(model.predict(x))
        ours.add(said[-1])
    np.testing.assert_allclose(ours.alphas, theirs.estimator_weights_, rtol=1e-9)
    assert (ours.vote(said) == theirs.predict(x)).all()
    with pytest.raises(ValueError, match="8 models, 1 predictions"):
        ours.vote(said[:1])
    with pytest.raises(ValueError, match="predictions have shape"):
        ours.add(said[0][:3])
    with pytest.raises(ValueError, match="labels are integers"):
        train.Boosting(x[:, 0])
