"""Program 1: validation, early stopping, the best epoch in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphc as gc
from graphc import data, nn, optim, train

rng = np.random.default_rng(8)


def test_fit_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    gc.manual_seed(0)
    centers = rng.normal(size=(4, 10))
    labels = rng.integers(0, 4, 325)
    images = (centers[labels] + 0.9 * rng.normal(size=(325, 10))).astype(np.float32)
    (x_train, y_train), (x_valid, y_valid) = data.split(images, labels, stratify=labels, seed=1)
    batch = gc.Dim("B")
    x, y = gc.observed("x", (batch, 10)), gc.observed("y", (batch,), gc.int64)
    net = nn.Linear(10, 32) >> nn.ReLU() >> nn.Linear(32, 4)
    logits = net(x)
    loss = nn.CrossEntropyLoss()(logits, y)
    opt = optim.Adam(lr=3e-2)
    step = gc.compile([x, y], loss, opt.minimize(loss))
    test = gc.compile([x, y], {"loss": loss, "accuracy": train.accuracy(logits, y)})
    run = train.fit(
        step,
        data.batches(x_train, y_train, 64, shuffle=True),
        epochs=50,
        evaluate=(test, data.batches(x_valid, y_valid, 60)),  # 65 rows: the last batch has 5
        monitor="loss",
        patience=5,
        save={"path": tmp_path / "best", "net": net, "opt": opt},
        progress=False,
    )
    assert run.stopped_early
    best = run.best
    assert len(run.epochs) == best.number + 5
    assert best.measures["accuracy"] > 0.8
    whole = test(x_valid, y_valid)
    assert whole["loss"] != pytest.approx(best.measures["loss"], rel=1e-6)
    assert gc.restore(tmp_path / "best", net=net, opt=opt) == {"epoch": best.number}
    whole = test(x_valid, y_valid)
    assert whole["loss"] == pytest.approx(best.measures["loss"], rel=1e-5), "weighted by rows"
    assert opt.steps == best.number * 5


def test_a_float64_array_is_refused_with_what_to_say() -> None:
    x = gc.observed("x", (gc.Dim("B"), 3))
    call = gc.compile([x], nn.Linear(3, 2)(x))
    with pytest.raises(gc.GraphcError, match=r"expected f32.*got f64.*x\.astype"):
        call(np.zeros((2, 3)))
