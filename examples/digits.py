"""What the digits examples share: the data and its split, one run, the report, the command line.

A run draws its own stratified split from its seed: 20% of scikit-learn's 1,797 scans of 8x8 pixels
are the test set and nothing else. Early stopping looks at a tenth of the other 80%, which is not
trained on. Half of the training images are shifted by up to one pixel, anew each time they are
seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import graphc as gc
from graphc import data, nn, optim, train

BATCH = 32
PATIENCE = 10  # epochs without a smaller validation loss
LEVELS = ("diagram", "graph", "kernels", "schedule", "executable")

Array = NDArray[Any]


@dataclass(frozen=True)
class Program:
    """The network's executables; they share its parameters."""

    net: nn.Module
    opt: optim.Optimizer
    loss: Any  # the Value that is drawn
    step: Any  # (x, y) -> loss, and updates the parameters
    test: Any  # (x, y) -> {"loss", "accuracy"}
    predict: Any  # x -> logits


@dataclass(frozen=True)
class Result:
    """What one seed gave."""

    accuracy: float  # on the test images
    epochs: int
    compile_seconds: float  # of the step, for the full batch
    step_seconds: float
    program: Program
    images: Array  # of the test set
    labels: Array


def load_images() -> tuple[Array, Array]:
    """Images [1797, 64] as float32 between 0 and 1, labels [1797] as int64."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels.astype(np.int64)


def shift_half(generator: np.random.Generator, x: Array, y: Array) -> tuple[Array, Array]:
    """Half of the images moved by up to one pixel each way, zeros moving in."""
    rows = len(x)
    padded = np.pad(x.reshape(rows, 8, 8), ((0, 0), (1, 1), (1, 1)))
    # an offset of 1 is the image where it was
    down, right = np.where(generator.random(rows) < 0.5, generator.integers(0, 3, (2, rows)), 1)
    i = (down[:, None] + np.arange(8))[:, :, None]
    j = (right[:, None] + np.arange(8))[:, None, :]
    return padded[np.arange(rows)[:, None, None], i, j].reshape(rows, 64), y


def run_seed(
    build: Build,
    seed: int,
    epochs: int,
    rows: int | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Result:
    """Split, train with early stopping, test. ``rows`` caps the images, for a quick run.

    After each epoch all that the run needs to go on is written to the file ``checkpoint``; with
    ``resume`` it goes on from there, where the file exists.
    """
    images, labels = load_images()
    images, labels = images[:rows], labels[:rows]
    (x_rest, y_rest), (x_test, y_test) = data.split(images, labels, stratify=labels, seed=seed)
    (x_train, y_train), (x_valid, y_valid) = data.split(
        x_rest, y_rest, fractions=(0.9, 0.1), stratify=y_rest, seed=seed
    )
    program = build(seed)
    start = time.perf_counter()
    _warm_up(program, x_train[:BATCH], y_train[:BATCH])
    compile_seconds = time.perf_counter() - start
    saved = None
    if checkpoint is not None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        saved = train.Checkpoint(checkpoint, net=program.net, opt=program.opt)
    history = train.fit(
        program.step,
        data.batches(x_train, y_train, BATCH, shuffle=True, seed=seed, transform=shift_half),
        epochs=epochs,
        evaluate=(program.test, data.batches(x_valid, y_valid, 256)),
        monitor="loss",
        patience=PATIENCE,
        keep_best=[program.net],
        checkpoint=saved,
        resume=resume,
    )
    measures = train.evaluate(program.test, data.batches(x_test, y_test, 256))
    return Result(
        measures["accuracy"],
        history.epochs[-1].number if history.epochs else epochs,  # complete when it was resumed
        compile_seconds,
        history.seconds_per_step,
        program,
        x_test,
        y_test,
    )


def _warm_up(program: Program, x: Array, y: Array) -> None:
    """Compile the step for this batch size by calling it, and put everything back."""
    net, opt, random = program.net.state_dict(), program.opt.state_dict(), gc.random.default.state()
    program.step(x, y)
    program.net.load_state_dict(net)
    program.opt.load_state_dict(opt)
    gc.random.default.load_state(random)


def show_predictions(result: Result, count: int = 4) -> None:
    """The first test images as text, and the most probable digit of each."""
    logits = np.asarray(result.program.predict(result.images[:count]), np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    guesses, sure = logits.argmax(axis=1), odds.max(axis=1) / odds.sum(axis=1)
    shades = np.array(list(" .:-=+*#%@"))
    grids = shades[(result.images[:count] * 9).round().astype(int)].reshape(-1, 8, 8)
    for line in range(8):
        click.echo("   ".join("".join(c * 2 for c in grid[line]) for grid in grids))
    for guess, label, p in zip(guesses, result.labels, sure, strict=False):
        verdict = "right" if guess == label else f"wrong: the label says {label}"
        click.echo(f"   {guess} ({p:.1%} sure): {verdict}")


def draw_levels(result: Result, directory: Path) -> list[Path]:
    """The training step at all five levels, as pictures; the last one with measured times."""
    directory.mkdir(parents=True, exist_ok=True)
    program = result.program
    program.step.profile(result.images[:BATCH], result.labels[:BATCH])
    written = []
    for number, level in enumerate(LEVELS, 1):
        path = directory / f"{number}-{level}.svg"
        what = program.loss if level == "diagram" else program.step
        written.append(gc.draw(what, path, level=level))
    return written


def report(results: Sequence[Result]) -> float:
    """Print what the seeds gave; the median accuracy."""
    for seed, result in enumerate(results):
        click.echo(f"seed {seed}: {result.accuracy:.2%} after {result.epochs} epochs")
    median = float(np.median([r.accuracy for r in results]))
    click.echo(f"test accuracy, median of {len(results)} seeds: {median:.2%}")
    click.echo(f"compile time of the training step: {results[0].compile_seconds:.2f} s")
    steps = float(np.median([r.step_seconds for r in results]))
    time_taken = "not measured" if np.isnan(steps) else f"{steps * 1e6:.0f} us"
    click.echo(f"time of a training step, batch {BATCH}: {time_taken}")
    return median


#: a network and its executables from a seed
Build = Callable[[int], Program]


def demo(
    build: Build,
    seeds: int,
    epochs: int,
    out: Path,
    quick: bool,
    checkpoint: Path | None,
    resume: bool,
) -> None:
    """Train once for each seed, show some predictions, draw all five levels."""
    if resume and checkpoint is None:
        raise click.UsageError("--resume goes on from what --checkpoint DIR holds; give it too")
    rows = None
    if quick:
        seeds, epochs, rows = 1, 3, 400
    results = []
    for seed in range(seeds):
        click.echo(f"seed {seed}")
        path = None if checkpoint is None else checkpoint / f"seed-{seed}.safetensors"
        results.append(run_seed(build, seed, epochs, rows, path, resume))
    report(results)
    show_predictions(results[0])
    for path in draw_levels(results[0], out):
        click.echo(f"wrote {path}")


def options(epochs: int, out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of ``demo`` for a command, with its defaults."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option("--resume", is_flag=True, help="Go on from what --checkpoint holds."),
            click.option("--checkpoint", type=click.Path(path_type=Path), metavar="DIR",
                         help="Write there, after each epoch, what a run needs to go on."),
            click.option("--quick", is_flag=True, help="One seed, few epochs, few images."),
            click.option("--out", type=click.Path(path_type=Path), default=Path(out),
                         show_default=True, help="Where the pictures go."),
            click.option("--epochs", default=epochs, show_default=True, help="At most, each run."),
            click.option("--seeds", default=5, show_default=True, help="How many runs."),
        ):
            command = option(command)
        return command

    return add
