"""Every example runs, small, as a user starts it."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))

#: what a quick run prints before its result, and the range that the result must lie in
MORE = {
    "activations.py": ("saturate: ", 23.0, 23.0),
    "char_lstm.py": ("test: ", 0.0, 4.9),  # bits a character; 5.9 without learning
    "convolution.py": ("agree: ", 4.0, 4.0),
    "ddpm.py": ("reads ", 0.0, 100.0),
    "gat_karate.py": ("median of 1 seeds: ", 24.0, 34.0),
    "gpt.py": ("test: ", 0.0, 5.3),
    "initialization.py": ("kept: ", 0.1, 10.0),  # wrong ones: below 1e-9 or above 1e9
    "losses.py": ("turned: ", 2.0, 6.0),
    "moe_digits.py": ("sparse: ", 60.0, 100.0),
    "normalization.py": ("gained: ", 0.8, 3.0),
    "optimizers.py": ("arrived: ", 26.0, 30.0),  # of 48, in 100 steps
    "vae.py": ("test: ", 0.0, 33.0),  # nats an image; 44 where pixels are taken for coins
}

PLOTS = (
    *("activations.py", "convolution.py", "initialization.py", "losses.py", "normalization.py"),
    "optimizers.py",
)


def run(name: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_every_example_has_its_test() -> None:
    shared = ["digits.py", "pictures.py", "planetoid.py", "plots.py", "text.py"]
    tested = ["digits_cnn.py", "digits_mlp.py", *MORE]
    assert sorted(EXAMPLES) == sorted([*shared, *tested])


@pytest.mark.parametrize("name", ["digits_mlp.py", "digits_cnn.py"])
def test_digits_learns_and_draws_five_levels(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    out = run(name, "--quick", "--out", str(tmp_path / "pictures"))
    accuracy = float(out.partition("median of 1 seeds: ")[2].partition("%")[0])
    assert accuracy > 50, out  # ten classes, three epochs on 288 images
    assert "us" in out.partition("time of a training step")[2].splitlines()[0]
    (pictures,) = tmp_path.iterdir()
    levels = {path.stem for path in pictures.iterdir() if path.is_file()}
    assert levels == {"1-diagram", "2-graph", "3-kernels", "4-schedule", "5-executable"}
    assert all(path.stat().st_size > 200 for path in pictures.iterdir())


def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    digits, mlp = (importlib.import_module(name) for name in ("digits", "digits_mlp"))
    whole = digits.run_seed(mlp.build, 0, 4, 400)

    def stopped(seed: int) -> Any:
        """The same program; its 26th step, in the third epoch, is interrupted."""
        program = mlp.build(seed)
        calls = iter(range(26))

        def step(*batch: Any) -> Any:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return program.step(*batch)

        return replace(program, step=step)

    with pytest.raises(KeyboardInterrupt):
        digits.run_seed(stopped, 0, 4, 400, tmp_path / "runs" / "seed-0.safetensors")
    path = tmp_path / "runs" / "seed-0.safetensors"
    rest = digits.run_seed(mlp.build, 0, 4, 400, path, resume=True)
    assert rest.epochs == whole.epochs == 4
    assert rest.accuracy == whole.accuracy
    for thing in ("net", "opt"):
        wanted = getattr(whole.program, thing).state_dict()
        for name, array in getattr(rest.program, thing).state_dict().items():
            np.testing.assert_array_equal(array, wanted[name], err_msg=name)
    again = digits.run_seed(mlp.build, 0, 4, 400, path, resume=True)
    assert (again.accuracy, again.epochs) == (whole.accuracy, 4), "complete: nothing left to do"


@pytest.mark.parametrize("name", MORE)
def test_other_examples_learn_and_draw(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    if name in PLOTS:
        pytest.importorskip("matplotlib", reason="their pictures are made by matplotlib")
    out = run(name, "--quick", "--out", str(tmp_path))
    before, low, high = MORE[name]
    number = re.match(r"[0-9.]+", out.partition(before)[2])
    assert number, out
    assert low <= float(number[0]) <= high, out
    pictures = [path for path in tmp_path.iterdir() if path.suffix in (".svg", ".dot", ".png")]
    assert pictures
    assert all(path.stat().st_size > 200 for path in pictures)


def cora() -> Path:
    """Planetoid's Cora, or the test is skipped: it is nobody's to ship."""
    given = os.environ.get("GRAPHC_DATA")
    places = [Path(given)] if given else [ROOT / "shared/data", ROOT.parent / "shared/data"]
    for place in places:
        if (place / "cora" / "ind.cora.graph").is_file():
            return place / "cora"
    pytest.skip("no Cora: set GRAPHC_DATA to a folder with cora/ind.cora.*")


def test_papers_are_classified_where_cora_is(tmp_path: Path) -> None:
    options = ["--quick", "--out", str(tmp_path), "--cora", str(cora()), "--cora-epochs", "40"]
    out = run("gat_karate.py", *options)
    accuracy = float(out.partition("Cora, seed 0: ")[2].partition("%")[0])
    assert accuracy > 70, out  # 82.9% in the median of whole runs; 31.9% are of one class
    assert "over 1 seeds" in out


def test_planetoid_files_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy", reason="Planetoid's matrices are scipy's")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    planetoid = importlib.import_module("planetoid")
    names = planetoid.missing(tmp_path)
    assert len(names) == 6
    for name in names:
        (tmp_path / name).write_bytes(pickle.dumps(os.getcwd, protocol=2))
    assert planetoid.missing(tmp_path) == []
    with pytest.raises(pickle.UnpicklingError, match=r"do not name posix\.getcwd"):
        planetoid.cora(tmp_path)
