"""Recurrent nets, their cells, and attention over their states."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.blocks.sample import Block, Input, array, normal, swept

STEPS, ROWS, IN, HIDDEN = 4, 3, 2, 3


def _states(name: str, *shapes: tuple[int, ...]) -> tuple[Input, ...]:
    """(h, c) of an LSTM, h of the others."""
    return tuple(normal(*shape) for shape in shapes[: 2 if "LSTM" in name else 1])


def _with_states(net: Any, x: Any, *hx: Any) -> Any:
    return net(x, hx if len(hx) == 2 else hx[0])


def _layer(name: str, given: bool = True, **options: Any) -> Block:
    """A net over a batch of sequences, its first states given or not."""
    first = options.get("batch_first", False)
    x = normal(ROWS, STEPS, IN) if first else normal(STEPS, ROWS, IN)
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    shapes = (count, ROWS, options.get("proj_size", HIDDEN)), (count, ROWS, HIDDEN)
    if not given:
        return Block(name, (IN, HIDDEN), options, (x,), within=1e-8)
    inputs = (x, *_states(name, *shapes))
    return Block(name, (IN, HIDDEN), options, inputs, call=_with_states, within=1e-8)


def _single(name: str) -> Block:
    """One sequence without a batch axis, both directions."""
    options = {"num_layers": 2, "bidirectional": True}
    inputs = (normal(STEPS, IN), *_states(name, (4, HIDDEN), (4, HIDDEN)))
    return Block(name, (IN, HIDDEN), options, inputs, call=_with_states, second=False,
                 how="of one sequence")  # fmt: skip


def _cell(name: str, *batch: int, **options: Any) -> Block:
    states = _states(name, (*batch, HIDDEN), (*batch, HIDDEN))
    inputs = (normal(*batch, IN), *states)
    return Block(name, (IN, HIDDEN), options, inputs, call=_with_states)


def _padded(net: Any, x: Any, lengths: Any, *hx: Any) -> Any:
    return net(x, hx if len(hx) == 2 else hx[0], lengths)


def _packed(net: Any, x: Any, lengths: Any, *hx: Any) -> Any:
    import torch  # the reference, where there is one

    rnn, first = torch.nn.utils.rnn, net.batch_first
    flow = rnn.pack_padded_sequence(x, lengths, first, enforce_sorted=False)
    out, final = net(flow, hx if len(hx) == 2 else hx[0])
    return rnn.pad_packed_sequence(out, first)[0], final


def _with_lengths(name: str, first: bool) -> Block:
    options = {"num_layers": 2, "bidirectional": True, "batch_first": first}
    counts = np.array([2, 4, 1, 3, 4])
    inside = np.arange(STEPS)[:, None, None] < counts[:, None]  # past a row's end nothing matters
    inside = inside.swapaxes(0, 1) if first else inside
    shape = (*inside.shape[:2], IN)
    x = Input(lambda rng: np.where(inside, rng.normal(size=shape), np.nan))
    lengths = array(counts, "int")
    inputs = (x, lengths, *_states(name, (4, 5, HIDDEN), (4, 5, HIDDEN)))
    return Block(name, (IN, HIDDEN), options, inputs, call=_padded, their_call=_packed,
                 second=name == "GRU" and first, within=1e-8,
                 how="with lengths, as packed sequences")  # fmt: skip


# ---- attention


def _weighed(torch: Any, scores: Any, keys: Any, mask: Any) -> Any:
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = torch.softmax(scores, -1)
    return torch.einsum("...s,...sk->...k", weights, keys), weights


def additive(torch: Any) -> Any:
    """Bahdanau's formula, plainly."""

    class Additive(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = torch.nn.Parameter(torch.randn(5))
            self.query = torch.nn.Linear(4, 5, bias=False)
            self.key = torch.nn.Linear(3, 5, bias=False)

        def forward(self, query: Any, keys: Any, mask: Any = None) -> Any:
            hidden = torch.tanh(self.query(query)[..., None, :] + self.key(keys))
            return _weighed(torch, hidden @ self.v, keys, mask)

    return Additive()


def multiplicative(torch: Any, score: str) -> Any:
    """Luong's three scores, plainly."""

    class Multiplicative(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if score != "dot":
                self.weight = torch.nn.Parameter(torch.randn(4, 3 if score == "general" else 7))
            if score == "concat":
                self.v = torch.nn.Parameter(torch.randn(4))

        def forward(self, query: Any, keys: Any, mask: Any = None) -> Any:
            if score == "dot":
                scores = torch.einsum("...q,...sq->...s", query, keys)
            elif score == "general":
                scores = torch.einsum("...q,qk,...sk->...s", query, self.weight, keys)
            else:
                each = query[..., None, :].expand(*keys.shape[:-1], -1)
                scores = torch.tanh(torch.cat([each, keys], -1) @ self.weight.T) @ self.v
            return _weighed(torch, scores, keys, mask)

    return Multiplicative()


_SEEN = array([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0]], "bool")


def _attention(score: str, *mask: Input) -> Block:
    if score == "additive":
        return Block("BahdanauAttention", (4, 3, 5), {}, (normal(2, 4), normal(2, 5, 3), *mask),
                     counterpart=additive, formula="the paper's formula",
                     how="masked" if mask else "")  # fmt: skip
    keys = 4 if score == "dot" else 3
    return Block("LuongAttention", (4, keys, score), {}, (normal(2, 4), normal(2, 5, keys), *mask),
                 counterpart=lambda torch: multiplicative(torch, score),
                 formula="the paper's formulas", how="masked" if mask else "")  # fmt: skip


RECURRENCE = [
    _layer("RNN"),
    _layer("RNN", nonlinearity="relu", num_layers=2, batch_first=True),
    _layer("RNN", bidirectional=True, bias=False),
    _layer("RNN", False),
    swept(_single("RNN")),
    swept(_with_lengths("RNN", False)),
    _layer("LSTM"),
    swept(_layer("LSTM", num_layers=2, bidirectional=True, batch_first=True)),
    _layer("LSTM", proj_size=2, bidirectional=True, num_layers=2),
    _layer("LSTM", False, batch_first=True),
    swept(_single("LSTM")),
    swept(_with_lengths("LSTM", False)),
    _layer("GRU", bias=False),
    swept(_layer("GRU", num_layers=2, bidirectional=True)),
    # all is dropped between the layers: what PyTorch draws does not matter
    swept(_layer("GRU", num_layers=2, dropout=1.0, batch_first=True)),
    _single("GRU"),
    swept(_with_lengths("GRU", False)),
    _with_lengths("GRU", True),
    _cell("RNNCell", ROWS),
    _cell("RNNCell", ROWS, nonlinearity="relu", bias=False),
    _cell("LSTMCell", ROWS),
    _cell("GRUCell", ROWS),
    _cell("GRUCell"),
    *(_attention(score, *mask) for score in ("additive", "dot", "general", "concat")
      for mask in ((), (_SEEN,))),
]  # fmt: skip
