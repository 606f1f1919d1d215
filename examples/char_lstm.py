"""A character model: an LSTM reads Python's help texts and goes on writing.

Gradients go back through one chunk of 64 characters; the LSTM's states live on from call to call
(truncated backpropagation through time). Sampling is a loop inside of one native call.

    python examples/char_lstm.py --out demo-output/char_lstm

With the default options, some 3 minutes on two cores, the test text costs 2.0 bits a character; the
frequencies of letters alone give 4.7.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import numpy as np
from text import Corpus, load_corpus

import graphc as gc
from graphc import nn, ops, optim

ROWS, STEPS = 32, 64


class Writer(nn.Module):
    """Characters to logits of the next one."""

    def __init__(self, letters: int, hidden: int) -> None:
        self.embed = nn.Embedding(letters, 64)
        self.lstm = nn.LSTM(64, hidden)
        self.head = nn.Linear(hidden, letters)

    def forward(self, x: gc.Value, hx: Any) -> Any:
        """x [T, B] and (h, c) to logits [T, B, letters] and the new (h, c)."""
        out, hx = self.lstm(self.embed(x), hx)
        return self.head(out), hx

    def step(self, token: gc.Value, hx: Any) -> Any:
        """One character for each row, [B], to logits [B, letters]."""
        out, hx = self.lstm.step(self.embed(token), hx)
        return self.head(out), hx


class Training:
    """One step on a chunk, with states that stay; the same without learning; sampling."""

    def __init__(self, corpus: Corpus, hidden: int) -> None:
        gc.manual_seed(0)
        self.corpus = corpus
        self.net = Writer(corpus.size, hidden)
        shape = (1, ROWS, hidden)
        self.h, self.c = gc.state(shape), gc.state(shape)
        x, y = gc.observed("x", (STEPS, ROWS), gc.int64), gc.observed("y", (STEPS, ROWS), gc.int64)
        logits, (h, c) = self.net(x, (self.h, self.c))
        flat = ops.reshape(logits, (STEPS * ROWS, -1))
        self.loss = nn.CrossEntropyLoss()(flat, ops.reshape(y, (-1,)))
        grads = optim.clip_by_global_norm(gc.grad(self.loss, self.net.parameters()), 1.0)
        self.opt = optim.Adam(lr=3e-3)
        learn = self.opt.updates(self.net.parameters(), grads)
        stay = {self.h: h, self.c: c}
        self.step = gc.compile([x, y], self.loss, learn | stay)
        self.test = gc.compile([x, y], self.loss, stay, mode="eval")

    def epoch(self, call: Any, numbers: Any, chunks: int | None = None) -> float:
        """The mean loss over the text, read by ``ROWS`` readers side by side."""
        self.h.reset()
        self.c.reset()
        streams = numbers[: len(numbers) // ROWS * ROWS].reshape(ROWS, -1).T
        starts = range(0, len(streams) - STEPS, STEPS)[:chunks]
        return float(np.mean([
            call(streams[i : i + STEPS].copy(), streams[i + 1 : i + STEPS + 1].copy())
            for i in starts
        ]))  # fmt: skip

    def writer(self, length: int) -> Any:
        """(first character [1], temperature) -> ``length`` characters, as one native call."""
        first, heat = gc.observed("first", (1,), gc.int64), gc.observed("temperature", ())
        zero = ops.zeros((1, 1, self.net.lstm.hidden_size))

        def step(token: gc.Value, hx: Any) -> Any:
            logits, hx = self.net.step(token, hx)
            return gc.random.categorical(logits / heat), hx

        tokens, _ = nn.free_running(step, first, (zero, zero), length, lambda token: token)
        return gc.compile([first, heat], tokens[:, 0], mode="eval")


@click.command()
@click.option("--quick", is_flag=True, help="A few chunks.")
@click.option("--epochs", default=3, show_default=True)
@click.option("--hidden", default=192, show_default=True)
@click.option("--text", type=click.Path(path_type=Path, exists=True), help="Another text.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output/char_lstm"))
def main(quick: bool, epochs: int, hidden: int, text: Path | None, out: Path) -> None:
    """Train, test, write."""
    corpus = load_corpus(text, 60_000 if quick else None)
    training = Training(corpus, 32 if quick else hidden)
    click.echo(f"{len(corpus.training):,} characters of {corpus.size} kinds")
    for epoch in range(1 if quick else epochs):
        nats = training.epoch(training.step, corpus.training)
        click.echo(f"epoch {epoch + 1}: {nats / math.log(2):.3f} bits a character")
    bits = training.epoch(training.test, corpus.testing) / math.log(2)
    click.echo(f"letters alone: {corpus.unigram_bits():.3f} bits a character")
    click.echo(f"test: {bits:.3f} bits a character")
    write = training.writer(100 if quick else 400)
    first = corpus.numbers("T")
    for heat in (0.5, 0.9):
        click.echo(f"--- temperature {heat}")
        click.echo("T" + corpus.text(write(first, np.float32(heat))))
    out.mkdir(parents=True, exist_ok=True)
    click.echo(f"wrote {gc.draw(training.loss, out / 'char_lstm.svg', depth=2)}")


if __name__ == "__main__":
    main()
