"""Program 5: a character model. States carry over calls; sampling is a loop inside of one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim

ROOT = Path(__file__).resolve().parents[2]
ROWS, STEPS, HIDDEN = 4, 12, 24


class LSTM(nn.Module):
    """One layer over [T, B, in], by torch.nn.LSTM's names and layouts; a plain scan.

    i, f, g, o = W_ih x + b_ih + W_hh h + b_hh
    c <- sigmoid(f) c + sigmoid(i) tanh(g),  h <- sigmoid(o) tanh(c)
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        bound = hidden**-0.5

        def draw(shape: Any, dtype: Any, key: Any) -> Any:
            return nn.init.uniform(shape, dtype, key, low=-bound, high=bound)

        self.weight_ih_l0 = gc.parameter((4 * hidden, inputs), init=draw)
        self.weight_hh_l0 = gc.parameter((4 * hidden, hidden), init=draw)
        self.bias_ih_l0 = gc.parameter((4 * hidden,), init=draw)
        self.bias_hh_l0 = gc.parameter((4 * hidden,), init=draw)

    def step(self, x: gc.Value, carry: Any) -> Any:
        h, c = carry
        linear = nn.functional.linear
        gates = linear(x, self.weight_ih_l0, self.bias_ih_l0)
        gates = gates + linear(h, self.weight_hh_l0, self.bias_hh_l0)
        i, f, g, o = ops.split(gates, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        return ops.sigmoid(o) * ops.tanh(c), c

    def forward(self, x: gc.Value, carry: Any) -> Any:
        def body(carry: Any, x: gc.Value) -> Any:
            h, c = self.step(x, carry)
            return (h, c), h

        carry, out = gc.scan(body, carry, x)
        return out, carry


class Model:
    """Text as numbers, the network, and one training step with truncated backpropagation."""

    def __init__(self) -> None:
        gc.manual_seed(2)
        text = (ROOT / "LICENSE").read_text()[:3000]
        self.letters = sorted(set(text))
        numbers = np.array([self.letters.index(letter) for letter in text])
        # ROWS streams side by side: [time, row]
        self.data = numbers[: len(numbers) // ROWS * ROWS].reshape(ROWS, -1).T.copy()
        self.embed = nn.Embedding(len(self.letters), 16)
        self.lstm = LSTM(16, HIDDEN)
        self.head = nn.Linear(HIDDEN, len(self.letters))
        x = gc.observed("x", (STEPS, ROWS), gc.int64)
        y = gc.observed("y", (STEPS, ROWS), gc.int64)
        self.h, self.c = gc.state((ROWS, HIDDEN)), gc.state((ROWS, HIDDEN))
        out, (h1, c1) = self.lstm(self.embed(x), (self.h, self.c))
        logits = self.head(out).reshape(STEPS * ROWS, -1)
        loss = nn.CrossEntropyLoss()(logits, y.reshape(-1))
        updates = optim.Adam(lr=1e-2).minimize(loss)
        self.step = gc.compile([x, y], loss, updates | {self.h: h1, self.c: c1})

    def chunks(self) -> Any:
        for start in range(0, len(self.data) - STEPS, STEPS):
            yield self.data[start : start + STEPS], self.data[start + 1 : start + STEPS + 1]

    def reset(self) -> None:
        self.h.reset()
        self.c.reset()


@pytest.mark.torch
def test_steps_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    model = Model()
    parts = {
        "embed": torch.nn.Embedding(len(model.letters), 16),
        "lstm": torch.nn.LSTM(16, HIDDEN),
        "head": torch.nn.Linear(HIDDEN, len(model.letters)),
    }
    for name, part in parts.items():
        state = getattr(model, name).state_dict()
        part.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    optimizer = torch.optim.Adam([p for part in parts.values() for p in part.parameters()], lr=1e-2)
    carry = None
    for count, (x, y) in enumerate(model.chunks()):
        if count == 5:
            break
        out, carry = parts["lstm"](parts["embed"](torch.from_numpy(x)), carry)
        carry = tuple(part.detach() for part in carry)
        logits = parts["head"](out).reshape(STEPS * ROWS, -1)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y).reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(model.step(x, y), loss.item(), rtol=1e-4)
    np.testing.assert_allclose(model.h.numpy(), carry[0][0].numpy(), rtol=1e-2, atol=1e-3)
    model.reset()
    assert not model.h.numpy().any()


def test_it_learns_and_samples_in_one_call() -> None:
    model = Model()
    losses = []
    for _ in range(6):
        model.reset()
        losses.append(np.mean([model.step(x, y) for x, y in model.chunks()]))
    assert losses[-1] < 0.65 * losses[0]

    length = 60
    start, temperature = gc.observed("start", (1,), gc.int64), gc.observed("temperature", ())
    stop = model.letters.index("\n")

    def body(s: Any) -> Any:
        token, i, h, c, out = s
        h, c = model.lstm.step(model.embed(token), (h, c))
        token = gc.random.categorical(model.head(h) / temperature)
        return token, i + 1, h, c, out.at[:, i].set(token)

    def unfinished(s: Any) -> gc.Value:
        return (s[1] < length) & (s[0][0] != stop)

    zero = ops.zeros((1, HIDDEN))
    first = (start, 0, zero, zero, ops.zeros((1, length), gc.int64))
    _, count, _, _, tokens = gc.while_loop(unfinished, body, first)
    sample = gc.compile([start, temperature], [tokens, count])
    begin = np.array([model.letters.index(" ")])
    gc.manual_seed(0)
    texts = [sample(begin, np.float32(0.8)) for _ in range(4)]
    assert len({tokens.tobytes() for tokens, _ in texts}) > 1, "each call draws anew"
    gc.manual_seed(0)
    np.testing.assert_array_equal(sample(begin, np.float32(0.8))[0], texts[0][0])
    for tokens, count in texts:
        made = tokens[0, : int(count)].tolist()
        assert stop not in made[:-1]
        assert made[-1] == stop or count == length
        assert not tokens[0, int(count) :].any()
    cold, _ = sample(begin, np.float32(1e-4))
    np.testing.assert_array_equal(cold, sample(begin, np.float32(1e-4))[0])
