"""Recurrent nets: lengths, first states, truncation, decoders; tests/blocks compares the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from tests.evaluating import evaluate, step

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
rng = np.random.default_rng(7)
_START = rng.bit_generator.state


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order() -> None:
    rng.bit_generator.state = _START
    gc.manual_seed(7)

T, B, IN, H = 4, 3, 2, 3


def pair(kind: str, *args: Any, dtype: str = "float64", **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(*args, **options).to(getattr(torch, dtype))
    ours = getattr(nn, kind)(*args, dtype=dtype, **options)
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    return ours, theirs


def test_dropout_between_layers_is_off_in_mode_eval() -> None:
    ours, theirs = pair("LSTM", IN, H, num_layers=3, dropout=0.5)
    x = gc.observed("x", (T, B, IN), "float64")
    at = rng.normal(size=(T, B, IN))
    out = ours(x)[0]
    wanted = theirs.eval()(torch.tensor(at))[0].detach().numpy()
    np.testing.assert_allclose(evaluate(out, {x: at}, "eval"), wanted, rtol=1e-10)
    assert np.abs(evaluate(out, {x: at}) - wanted).max() > 0.001


def test_lengths_are_checked() -> None:
    net, at = nn.GRU(IN, H), np.zeros((T, B, IN))
    x, lengths = gc.observed("x", (T, B, IN)), gc.observed("n", (B,), gc.int64)
    out, h = net(x, None, lengths)
    got, final = evaluate((out, h), {x: at, lengths: [0, 4, 2]})
    assert not got[:, 0].any()
    assert not final[:, 0].any()
    for wrong in (-1, T + 1):
        with pytest.raises(gc.RuntimeCheckError, match=r"outside 0\.\.4"):
            evaluate(out, {x: at, lengths: [0, 4, wrong]})
    with pytest.raises(gc.ShapeError, match="one for each row"):
        net(x, None, gc.observed("n", (T,), gc.int64))
    with pytest.raises(gc.DTypeError, match="lengths are integers"):
        net(x, None, gc.observed("n", (B,)))


def test_run_time_sizes() -> None:
    """One program for all batches and lengths of time."""
    steps, rows = gc.Dim("T"), gc.Dim("B")
    ours, theirs = pair("GRU", IN, H, dtype="float32")
    x, lengths = gc.observed("x", (steps, rows, IN)), gc.observed("n", (rows,), gc.int64)
    run = gc.compile([x, lengths], list(ours(x, None, lengths)))
    for count, batch in ((3, 2), (1, 4)):
        at = rng.normal(size=(count, batch, IN)).astype(np.float32)
        out, h = run(at, np.full(batch, count))
        wanted = theirs(torch.tensor(at))
        np.testing.assert_allclose(out, wanted[0].detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(h, wanted[1].detach().numpy(), atol=1e-5)


def test_a_learned_first_state() -> None:
    """A parameter whose batch axis is 1: its derivative is the sum over the rows."""
    ours, theirs = pair("LSTM", IN, H, num_layers=2)
    x = gc.observed("x", (T, B, IN), "float64")
    first = [gc.parameter((2, 1, H), "float64", init=nn.init.normal) for _ in range(2)]
    out, _ = ours(x, tuple(first))
    at = rng.normal(size=(T, B, IN))
    got, slopes = evaluate((out, gc.grad((out * out).sum(), first)), {x: at})
    start = [torch.tensor(p.numpy(), requires_grad=True) for p in first]
    wanted, _ = theirs(torch.tensor(at), tuple(p.expand(2, B, H).contiguous() for p in start))
    (wanted * wanted).sum().backward()
    np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-9)
    for slope, p in zip(slopes, start, strict=True):
        np.testing.assert_allclose(slope, p.grad.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_step_is_a_sequence_of_one(kind: str) -> None:
    options = {"num_layers": 2, "dtype": "float64"} | ({"proj_size": 2} if kind == "LSTM" else {})
    net = getattr(nn, kind)(IN, H, **options)
    x = gc.observed("x", (T, B, IN), "float64")
    out, final = net(x)
    made, hx = [], None
    for t in range(T):
        o, hx = net.step(x[t], hx)
        made.append(o)
    at = rng.normal(size=(T, B, IN))
    got, wanted = evaluate(((ops.stack(made), hx), (out, final)), {x: at})
    for a, b in zip(gc.tree.leaves(got), gc.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_truncated_backpropagation_through_time() -> None:
    """States carry over chunks and cut derivatives, as detach() does in PyTorch."""
    ours, theirs = pair("LSTM", IN, H)
    h, c = gc.state((1, B, H), "float64"), gc.state((1, B, H), "float64")
    x = gc.observed("x", (T, B, IN), "float64")
    out, (h1, c1) = ours(x, (h, c))
    slopes = gc.grad((out * out).sum(), ours.parameters())
    carry = None
    for _ in range(3):
        at = rng.normal(size=(T, B, IN))
        got = step({h: h1, c: c1}, slopes, {x: at})
        wanted, carry = theirs(torch.tensor(at), carry)
        carry = tuple(part.detach() for part in carry)
        theirs.zero_grad()
        (wanted * wanted).sum().backward()
        for slope, p in zip(got, theirs.parameters(), strict=True):
            np.testing.assert_allclose(slope, p.grad.numpy(), rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(h.numpy(), carry[0].numpy(), rtol=1e-9)


def test_initial_values_are_distributed_as_pytorch_s() -> None:
    gc.manual_seed(0)
    for kind in ("RNN", "LSTM", "GRU", "LSTMCell"):
        theirs = getattr(torch.nn, kind)(40, 64).state_dict()
        for name, array in getattr(nn, kind)(40, 64).state_dict().items():
            assert np.abs(array).max() == pytest.approx(np.abs(theirs[name].numpy()).max(), rel=0.1)
            assert array.std() == pytest.approx(theirs[name].numpy().std(), rel=0.1)


# ---- ways to run a decoder


def test_teacher_forcing_and_free_running() -> None:
    cell, head = nn.GRUCell(2, 3, dtype="float64"), nn.Linear(3, 2, dtype="float64")

    def decoder(x: Any, h: Any) -> Any:
        h = cell(x, h)
        return head(h), h

    x = gc.observed("x", (T, B, 2), "float64")
    zero = ops.zeros((B, 3), "float64")
    forced, last = nn.teacher_forcing(decoder, x, zero)
    free, end = nn.free_running(decoder, x[0], zero, T, ops.tanh)
    by_hand, h = [], zero
    for t in range(T):
        o, h = decoder(x[t], h)
        by_hand.append(o)
    own, g, given = [], zero, x[0]
    for _ in range(T):
        o, g = decoder(given, g)
        own.append(o)
        given = ops.tanh(o)
    at = rng.normal(size=(T, B, 2))
    got = evaluate([forced, last, free, end], {x: at})
    wanted = evaluate([ops.stack(by_hand), h, ops.stack(own), g], {x: at})
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    # the ends of scheduled sampling are the two; between them steps are of either kind
    p = gc.observed("p", ())
    mixed, _ = nn.scheduled_sampling(decoder, x, zero, p, ops.tanh)
    np.testing.assert_allclose(evaluate(mixed, {x: at, p: np.float32(0)}), got[0], rtol=1e-12)
    np.testing.assert_allclose(evaluate(mixed, {x: at, p: np.float32(1)}), got[2], rtol=1e-12)
    slope = gc.grad((free * free).sum(), head.weight)
    assert np.abs(evaluate(slope, {x: at})).min() > 0  # errors flow back through the feedback


def test_refusals() -> None:
    x = gc.observed("x", (T, B, IN))
    with pytest.raises(gc.ShapeError, match=r"LSTM: x is f32\[4,3,2\], it must be \[T, B, 5\]"):
        nn.LSTM(5, H)(x)
    with pytest.raises(gc.ShapeError, match=r"\[B, T, 5\]"):
        nn.GRU(5, H, batch_first=True)(x)
    with pytest.raises(gc.ShapeError, match=r"hx is \(h, c\), got 1"):
        nn.LSTM(IN, H)(x, ops.zeros((1, B, H)))
    with pytest.raises(gc.ShapeError, match=r"hx is f32\[1,3,4\], it must be \[1, 3, 3\]"):
        nn.GRU(IN, H)(x, ops.zeros((1, B, 4)))
    with pytest.raises(ValueError, match="hidden_size is a positive int, not 0"):
        nn.RNN(IN, 0)
    with pytest.raises(ValueError, match="input_size is a positive int, not -1"):
        nn.LSTMCell(-1, 2)
    with pytest.raises(ValueError, match=r"probability in \[0, 1\], not 1\.5"):
        nn.GRU(IN, H, 2, dropout=1.5)
    with pytest.warns(UserWarning, match="there is only one"):
        nn.GRU(IN, H, dropout=0.5)
    with pytest.raises(ValueError, match=r"proj_size 3 is not in 0\.\.2"):
        nn.LSTM(IN, H, proj_size=3)
    for kind in (nn.RNN, nn.RNNCell):
        with pytest.raises(ValueError, match="'tanh' or 'relu', not 'sine'"):
            kind(IN, H, nonlinearity="sine")
    with pytest.raises(ValueError, match="not 'sine'"):
        nn.functional.rnn_cell(x, x, ops.zeros((2, 2)), ops.zeros((2, 2)), nonlinearity="sine")
    with pytest.raises(gc.ShapeError, match=r"must be \[batch, in\] or \[in\]"):
        nn.GRUCell(IN, H)(x)
    with pytest.raises(gc.ShapeError, match="whole sequence"):
        nn.GRU(IN, H, bidirectional=True).step(x[0])
    with pytest.raises(gc.ShapeError, match=r"must be \[batch, in\]"):
        nn.GRU(IN, H).step(x)
    with pytest.raises(ValueError, match="'dot', 'general' or 'concat'"):
        nn.LuongAttention(2, 3, "cosine")
    with pytest.raises(ValueError, match="'dot' of sizes 2 and 3"):
        nn.LuongAttention(2, 3, "dot")
    with pytest.raises(gc.ShapeError, match="share their leading axes"):
        nn.LuongAttention(2)(x, x)
    with pytest.raises(gc.DTypeError, match="mask is f32"):
        nn.LuongAttention(2)(x[0], x.swapaxes(0, 1), ops.zeros((B, T)))
    assert repr(nn.LSTM(2, 3, 2, bidirectional=True)) == (
        "LSTM(2, 3, num_layers=2, bidirectional=True)"
    )
    assert repr(nn.GRUCell(2, 3)) == "GRUCell(2, 3)"
    assert repr(nn.LuongAttention(2)) == "LuongAttention(score='general')"
