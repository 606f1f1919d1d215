"""save and restore: a run goes on as if it had not stopped, and a bad file changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc as gc
from graphc import data, nn, optim, train
from graphc.files import read_file, write_file

rng = np.random.default_rng(2)


class Run:
    """A network with dropout, its optimizer, average and generator, and one training step."""

    def __init__(self, seed: int) -> None:
        gc.manual_seed(seed)
        self.rng = gc.Rng(seed)
        x, y = gc.observed("x", (8, 4)), gc.observed("y", (8, 3))
        self.net = nn.Linear(4, 6) >> nn.BatchNorm1d(6) >> nn.Linear(6, 3)
        noise = gc.random.normal((8, 4), rng=self.rng)
        loss = nn.MSELoss()(self.net(x + 0.1 * noise), y)
        self.opt = optim.Adam(lr=1e-2)
        self.ema = optim.EMA(self.net, 0.9)
        updates = self.opt.minimize(loss)
        self.call = gc.compile([x, y], loss, updates | self.ema.after(updates))

    @property
    def roots(self) -> dict[str, Any]:
        return {"net": self.net, "opt": self.opt, "ema": self.ema, "rng": self.rng}

    def held(self) -> dict[str, Any]:
        every = {name: root.state_dict() for name, root in self.roots.items()}
        return {f"{n}.{k}": v for n, d in every.items() for k, v in d.items()}


BATCHES = [(rng.normal(size=(8, 4)).astype("f"), rng.normal(size=(8, 3)).astype("f"))] * 6


def test_a_restored_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    first = Run(1)
    for batch in BATCHES[:3]:
        first.call(*batch)
    meta = {"epoch": 3, "note": "\u00fc", "best": float("inf")}
    gc.save(tmp_path / "run", meta=meta, **first.roots)
    wanted = [first.call(*batch) for batch in BATCHES[3:]]
    second = Run(2)
    second.call(*BATCHES[0])
    assert gc.restore(tmp_path / "run", **second.roots) == meta
    assert [second.call(*batch) for batch in BATCHES[3:]] == wanted
    for name, array in second.held().items():
        np.testing.assert_array_equal(array, first.held()[name], err_msg=name)
    assert second.opt.steps == 6


def test_names_in_the_file(tmp_path: Path) -> None:
    """Two networks with equal names are kept apart by their roots; other tools can read it."""
    d, g = nn.Linear(2, 2), nn.Linear(2, 2)
    gc.save(tmp_path / "gan", D=d, G=g)
    assert set(gc.load_arrays(tmp_path / "gan")) == {"D.weight", "D.bias", "G.weight", "G.bias"}
    description = json.loads(read_file(tmp_path / "gan")[1]["graphc"])
    assert description == {"version": 1, "roots": {"D": "Linear", "G": "Linear"}, "meta": None}
    before = d.state_dict()
    d.weight.set(np.zeros((2, 2), np.float32))
    assert gc.restore(tmp_path / "gan", D=d) is None
    np.testing.assert_array_equal(d.weight.numpy(), before["weight"])


class Pair(NamedTuple):
    h: Any
    c: Any


def test_structures(tmp_path: Path) -> None:
    h, c = gc.state(np.ones(3)), gc.state(np.full(2, 2.0))
    layer, table = nn.Linear(2, 2), gc.state((2, 2), gc.bfloat16)
    table.set(np.ones((2, 2), gc.bfloat16.numpy))
    acc = optim.Accumulate([h])
    root = {"memory": Pair(h, [c, None]), "layers": (layer,), "table": table}
    gc.save(tmp_path / "s", all=root, h=h, acc=acc)
    assert set(gc.load_arrays(tmp_path / "s")) == {
        "all.memory.h", "all.memory.c.0", "all.layers.0.weight", "all.layers.0.bias", "all.table",
        "h", "acc.sum0", "acc.count",
    }  # fmt: skip
    for state in (h, c, layer.weight, table):
        state.set(np.zeros(state.shape, state.dtype.numpy))
    gc.restore(tmp_path / "s", all=root, acc=acc)
    assert h.numpy().tolist() == [1, 1, 1]
    assert c.numpy().tolist() == [2, 2]
    assert table.numpy().astype(float).tolist() == [[1, 1], [1, 1]]
    assert layer.weight.numpy().any()


def test_an_optimizer_that_has_seen_no_parameter_yet_waits(tmp_path: Path) -> None:
    first = Run(1)
    first.call(*BATCHES[0])
    gc.save(tmp_path / "run", opt=first.opt)
    fresh = optim.Adam(lr=5.0)
    gc.restore(tmp_path / "run", opt=fresh)
    assert fresh.lr == 1e-2
    fresh.minimize(nn.MSELoss()(first.net(gc.observed("x", (8, 4))), gc.observed("y", (8, 3))))
    assert fresh.steps == 1


def test_a_bad_restore_changes_nothing(tmp_path: Path) -> None:
    run, other = Run(1), Run(2)
    gc.save(tmp_path / "run", **run.roots)
    arrays, metadata = read_file(tmp_path / "run")
    before = other.held()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"net.0.weight": np.ones((6, 5), np.float32)}, r"expected shape[\s\S]*restoring 'net'"),
        ({"net.0.weight": None}, "missing: 0.weight"),
        ({"net.extra": np.ones(1)}, "unexpected: extra"),
        ({"net": np.ones(1)}, "no place for net"),
        ({"opt.steps": np.ones(())}, "'steps': expected int64"),
        ({"opt.lr": None}, "missing: lr"),
        ({"ema.0.weight.shadow": np.ones(3, np.float32)}, "expected shape"),
        ({"rng.calls": None}, "missing: calls"),
        ({"rng.more": np.ones(1)}, "unexpected: more"),
    ]
    for changes, message in wrong:
        changed = {n: a for n, a in (arrays | changes).items() if a is not None}
        write_file(tmp_path / "bad", changed, metadata)
        with pytest.raises(gc.GraphcError, match=message):
            gc.restore(tmp_path / "bad", **other.roots)
        for name, array in other.held().items():
            np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_descriptions_that_are_wrong(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    gc.save_arrays(tmp_path / "plain", net.state_dict())
    with pytest.raises(gc.CacheError, match=r"not written by gc\.save; read it with gc\.load_arr"):
        gc.restore(tmp_path / "plain", net=net)
    gc.save(tmp_path / "good", net=net)
    with pytest.raises(gc.StateError, match="has no root other; it has net"):
        gc.restore(tmp_path / "good", other=net)
    arrays, _ = read_file(tmp_path / "good")
    for text, message in {
        "{": "cannot be read",
        "[" * 100_000: "cannot be read",
        '{"version": 9, "roots": {}, "meta": 1}': "version",
        "[1]": "version",
        '{"version": 1, "roots": ["net"], "meta": 1}': "names no roots",
        '{"version": 1, "roots": {}}': "has no meta",
    }.items():
        write_file(tmp_path / "bad", arrays, {"graphc": text})
        with pytest.raises(gc.CacheError, match=message):
            gc.restore(tmp_path / "bad", net=net)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    x = gc.observed("x", (2,))
    for root, message in (
        (3, "n is a int, which holds no states"),
        ({"a": [np.ones(2)]}, r"n\.a\.0 is a ndarray"),
        (x, "n is a Value"),
        ({"a.b": gc.state(2), "a": {"b": gc.state(2)}}, "two arrays of 'n' .*called 'n.a.b'"),
    ):
        with pytest.raises(gc.StateError, match=message):
            gc.save(tmp_path / "no", n=root)
    with pytest.raises(gc.StateError, match="no identifier"):
        gc.save(tmp_path / "no", **{"../n": gc.state(2)})
    with pytest.raises(gc.StateError, match="what JSON can say"):
        gc.save(tmp_path / "no", meta=x, n=gc.state(2))
    assert not (tmp_path / "no").exists()


def test_a_plateau_goes_on(tmp_path: Path) -> None:
    """The patience that is used up, and the rate that the optimizer holds."""
    metrics = [1.0, 0.5, 0.6, 0.6, 0.6, 0.6, 0.4, 0.6, 0.6, 0.6]
    for cut in range(1, len(metrics)):
        whole, first = (optim.ReduceOnPlateau(optim.SGD(1.0), patience=1, cooldown=1) for _ in "ab")
        wanted = [whole.step(metric) for metric in metrics]
        for metric in metrics[:cut]:
            first.step(metric)
        gc.save(tmp_path / "p", plateau=first, opt=first.optimizer)
        second = optim.ReduceOnPlateau(optim.SGD(1.0), patience=1, cooldown=1)
        gc.restore(tmp_path / "p", plateau=second, opt=second.optimizer)
        assert [second.step(metric) for metric in metrics[cut:]] == wanted[cut:]
    with pytest.raises(gc.StateError, match="expected the scalars"):
        second.load_state_dict({"best": np.ones(2), "bad": 1, "resting": 0})


def test_fit_saves_the_best_epoch(tmp_path: Path) -> None:
    run = Run(3)
    losses = iter([3.0, 1.0, 2.0, 2.0])
    seen: list[Any] = []
    batches = data.batches(*(np.concatenate(a) for a in zip(*BATCHES, strict=True)), 8)
    train.fit(
        run.call,
        batches,
        epochs=4,
        evaluate=(lambda rows: next(losses), [np.zeros((2, 1))]),
        save={"path": tmp_path / "best", "net": run.net, "opt": run.opt},
        callbacks=[lambda epoch: seen.append(run.net.state_dict())],
        progress=False,
    )
    assert gc.restore(tmp_path / "best", net=run.net, opt=run.opt) == {"epoch": 2}
    assert run.opt.steps == 12
    for name, array in run.net.state_dict().items():
        np.testing.assert_array_equal(array, seen[1][name])
    train.fit(run.call, batches, epochs=2, save={"path": tmp_path / "last", "net": run.net},
              progress=False)  # fmt: skip
    assert gc.restore(tmp_path / "last", net=run.net) == {"epoch": 2}
    for bad in ({"net": run.net}, {"path": "x"}):
        with pytest.raises(ValueError, match="save names a file and what to write"):
            train.fit(run.call, batches, epochs=1, save=bad)
