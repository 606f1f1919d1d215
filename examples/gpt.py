"""A small GPT on Python's help texts: GPT-2's blocks, tied embeddings, sampling with a cache.

Training sees windows of 64 characters; sampling keeps keys and values of what was written, so that
each character costs one position, and the whole text is one native call.

    python examples/gpt.py --out demo-output/gpt

With the default options, some 8 minutes on two cores, the test text costs 1.8 bits a character;
the frequencies of letters alone give 4.7.
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

CONTEXT, ROWS = 64, 24


class Attention(nn.Module):
    """Causal self-attention, by GPT-2's names."""

    def __init__(self, width: int, heads: int) -> None:
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def split(self, x: gc.Value) -> list[gc.Value]:
        """Queries, keys and values [B, heads, T, d]."""
        parts = ops.split(self.c_attn(x), 3, axis=-1)
        shape = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        return [ops.swapaxes(ops.reshape(part, shape), 1, 2) for part in parts]

    def join(self, mixed: gc.Value) -> gc.Value:
        """[B, heads, T, d] back to [B, T, width]."""
        flat = ops.swapaxes(mixed, 1, 2)
        return self.c_proj(ops.reshape(flat, (*flat.shape[:2], -1)))

    def forward(self, x: gc.Value) -> gc.Value:
        """The same shape."""
        q, k, v = self.split(x)
        return self.join(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))

    def decode(self, x: gc.Value, at: gc.Value, cache: gc.Value) -> tuple[gc.Value, gc.Value]:
        """One position x [B, 1, width]; cache [2, B, heads, CONTEXT, d] holds those before it."""
        q, k, v = self.split(x)
        cache = cache.at[0, :, :, at].set(k[:, :, 0]).at[1, :, :, at].set(v[:, :, 0])
        seen = ops.reshape(ops.arange(CONTEXT) <= at, (1, CONTEXT))
        mixed = nn.functional.scaled_dot_product_attention(q, cache[0], cache[1], seen)
        return self.join(mixed), cache


class Block(nn.Module):
    """``x + attn(ln_1(x))``, then ``x + mlp(ln_2(x))``."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = nn.Linear(width, 4 * width) >> nn.GELU("tanh") >> nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: gc.Value) -> gc.Value:
        """The same shape."""
        x = x + self.drop(self.attn(self.ln_1(x)))
        return x + self.drop(self.mlp(self.ln_2(x)))

    def decode(self, x: gc.Value, at: gc.Value, cache: gc.Value) -> tuple[gc.Value, gc.Value]:
        """One position, and the cache with it."""
        mixed, cache = self.attn.decode(self.ln_1(x), at, cache)
        x = x + mixed
        return x + self.mlp(self.ln_2(x)), cache


class GPT(nn.Module):
    """Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, small."""

    def __init__(self, letters: int, width: int, heads: int, layers: int, dropout: float) -> None:
        normal = {"init": lambda *args: nn.init.normal(*args, std=0.02)}
        self.wte, self.wpe = nn.Embedding(letters, width), nn.Embedding(CONTEXT, width)
        self.wte.weight = gc.parameter((letters, width), **normal)
        self.wpe.weight = gc.parameter((CONTEXT, width), **normal)
        self.h = [Block(width, heads, dropout) for _ in range(layers)]
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, letters, bias=False)
        self.lm_head.weight = self.wte.weight  # tied
        self.cache_shape = (layers, 2, 1, heads, CONTEXT, width // heads)

    def forward(self, ids: gc.Value) -> gc.Value:
        """ids [B, T] to logits [B, T, letters]."""
        x = self.wte(ids) + self.wpe(ops.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))

    def decode(self, token: gc.Value, at: gc.Value, cache: gc.Value) -> tuple[gc.Value, gc.Value]:
        """token [1] at place ``at`` to logits [1, letters], and the cache with it."""
        x = ops.expand_dims(self.wte(token) + self.wpe(ops.reshape(at, (1,))), 1)
        kept = []
        for number, block in enumerate(self.h):
            x, layer = block.decode(x, at, cache[number])
            kept.append(layer)
        return self.lm_head(self.ln_f(x))[:, 0], ops.stack(kept)


class Training:
    """A step on windows, the same without learning, and a writer."""

    def __init__(self, corpus: Corpus, width: int, layers: int, steps: int) -> None:
        gc.manual_seed(0)
        self.corpus = corpus
        self.net = GPT(corpus.size, width, 4, layers, 0.0)
        ids = gc.observed("ids", (ROWS, CONTEXT), gc.int64)
        wanted = gc.observed("wanted", (ROWS, CONTEXT), gc.int64)
        logits = ops.reshape(self.net(ids), (ROWS * CONTEXT, -1))
        self.loss = nn.CrossEntropyLoss()(logits, ops.reshape(wanted, (-1,)))
        parameters = self.net.parameters()
        grads = optim.clip_by_global_norm(gc.grad(self.loss, parameters), 1.0)
        rate = optim.schedules.warmup_cosine(3e-3, steps // 20 + 1, steps)
        opt = optim.AdamW(lr=rate, betas=(0.9, 0.99), groups={"*.bias": {"weight_decay": 0.0}})
        self.step = gc.compile([ids, wanted], self.loss, opt.updates(parameters, grads))
        self.test = gc.compile([ids, wanted], self.loss)

    def windows(self, numbers: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        """A batch of random places."""
        starts = generator.integers(0, len(numbers) - CONTEXT - 1, ROWS)
        places = starts[:, None] + np.arange(CONTEXT)
        return numbers[places], numbers[places + 1]

    def measure(self, numbers: Any, batches: int) -> float:
        """Bits a character over windows that lie side by side."""
        span = ROWS * CONTEXT
        losses = []
        for number in range(min(batches, (len(numbers) - 1) // span)):
            part = numbers[number * span : (number + 1) * span + 1]
            x, y = part[:-1].reshape(ROWS, CONTEXT), part[1:].reshape(ROWS, CONTEXT)
            losses.append(self.test(x, y))
        return float(np.mean(losses)) / math.log(2)

    def writer(self) -> Any:
        """(first character [1], temperature) -> CONTEXT characters, as one native call."""
        first, heat = gc.observed("first", (1,), gc.int64), gc.observed("temperature", ())

        def body(state: Any, at: gc.Value) -> Any:
            token, cache = state
            logits, cache = self.net.decode(token, at, cache)
            token = gc.random.categorical(logits / heat)
            return (token, cache), token

        start = first, ops.zeros(self.net.cache_shape)
        _, tokens = gc.scan(body, start, ops.arange(CONTEXT))
        return gc.compile([first, heat], tokens[:, 0], mode="eval")


@click.command()
@click.option("--quick", is_flag=True, help="Very small, a few steps.")
@click.option("--steps", default=1500, show_default=True)
@click.option("--text", type=click.Path(path_type=Path, exists=True), help="Another text.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output/gpt"))
def main(quick: bool, steps: int, text: Path | None, out: Path) -> None:
    """Train, test, write."""
    corpus = load_corpus(text, 60_000 if quick else None)
    steps = 30 if quick else steps
    training = Training(corpus, 32 if quick else 128, 2 if quick else 3, steps)
    count = sum(int(np.prod(p.shape)) for p in training.net.parameters())
    click.echo(f"{len(corpus.training):,} characters of {corpus.size} kinds, {count:,} parameters")
    generator = np.random.default_rng(0)
    for number in range(1, steps + 1):
        nats = float(training.step(*training.windows(corpus.training, generator)))
        if number % max(steps // 10, 1) == 0:
            click.echo(f"step {number}: {nats / math.log(2):.3f} bits a character")
    bits = training.measure(corpus.testing, 3 if quick else 10**6)
    click.echo(f"letters alone: {corpus.unigram_bits():.3f} bits a character")
    click.echo(f"test: {bits:.3f} bits a character")
    write = training.writer()
    for heat in (0.5, 0.9):
        click.echo(f"--- temperature {heat}")
        for letter in "TIA":
            click.echo(letter + corpus.text(write(corpus.numbers(letter), np.float32(heat))))
    out.mkdir(parents=True, exist_ok=True)
    click.echo(f"wrote {gc.draw(training.loss, out / 'gpt.svg', depth=2)}")


if __name__ == "__main__":
    main()
