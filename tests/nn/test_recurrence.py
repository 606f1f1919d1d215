"""RNN, LSTM, GRU, their cells, attention over their states, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops
from tests.evaluating import evaluate, step
from tests.nn.against import Case, agree, agree_natively, load

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
rng = np.random.default_rng(7)

T, B, IN, H = 4, 3, 2, 3


def pair(kind: str, *args: Any, dtype: str = "float64", **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(*args, **options).to(getattr(torch, dtype))
    ours = getattr(nn, kind)(*args, dtype=dtype, **options)
    load(ours, theirs)
    return ours, theirs


def states(kind: str, *shapes: tuple[int, ...]) -> list[Any]:
    return [rng.normal(size=shape) for shape in shapes[: 2 if "LSTM" in kind else 1]]


def call(module: Any, x: Any, *hx: Any) -> Any:
    return module(x, hx if len(hx) == 2 else hx[0] if hx else None)


LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "batch_first": True}),
    ("RNN", {"bidirectional": True, "bias": False}),
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"proj_size": 2, "bidirectional": True, "num_layers": 2}),
    ("GRU", {"bias": False}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    # all is dropped between the layers: what torch draws does not matter
    ("GRU", {"num_layers": 2, "dropout": 1.0, "batch_first": True}),
]


def layer_case(kind: str, options: dict[str, Any], given: bool, dtype: str = "float64") -> Case:
    ours, theirs = pair(kind, IN, H, dtype=dtype, **options)
    x = rng.normal(size=(B, T, IN) if options.get("batch_first") else (T, B, IN))
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    shapes = (count, B, options.get("proj_size", H)), (count, B, H)
    return Case(ours, theirs, [x, *(states(kind, *shapes) if given else [])], call)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_layers(kind: str, options: dict[str, Any], given: bool) -> None:
    case = layer_case(kind, options, given)
    case.second = given  # derivatives of derivatives once for each
    agree(case)


def test_dropout_between_layers_is_off_in_mode_eval() -> None:
    agree(layer_case("LSTM", {"num_layers": 3, "dropout": 0.5}, True), "eval")
    ours, _ = pair("GRU", IN, H, num_layers=2, dropout=0.5)
    x = gc.observed("x", (T, B, IN), "float64")
    at = rng.normal(size=(T, B, IN))
    out = ours(x)[0]
    assert np.abs(evaluate(out, {x: at}) - evaluate(out, {x: at}, "eval")).max() > 0.01


CELLS: list[tuple[str, dict[str, Any]]] = [
    ("RNNCell", {}),
    ("RNNCell", {"nonlinearity": "relu", "bias": False}),
    ("LSTMCell", {}),
    ("GRUCell", {}),
]


@pytest.mark.parametrize(("kind", "options"), CELLS)
def test_cells(kind: str, options: dict[str, Any]) -> None:
    ours, theirs = pair(kind, IN, H, **options)
    agree(Case(ours, theirs, [rng.normal(size=(B, IN)), *states(kind, (B, H), (B, H))], call))
    agree(Case(ours, theirs, [rng.normal(size=(B, IN))], call, second=False))
    agree(Case(ours, theirs, [rng.normal(size=IN), *states(kind, (H,), (H,))], call, second=False))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_one_sequence_without_a_batch(kind: str) -> None:
    ours, theirs = pair(kind, IN, H, num_layers=2, bidirectional=True)
    values = [rng.normal(size=(T, IN)), *states(kind, (4, H), (4, H))]
    agree(Case(ours, theirs, values, call, second=False))
    agree(Case(ours, theirs, values[:1], call, second=False))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths(kind: str, batch_first: bool) -> None:
    """As PyTorch's packed sequences, in any order of lengths."""
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    ours, theirs = pair(kind, IN, H, **options)
    x = rng.normal(size=(5, T, IN) if batch_first else (T, 5, IN))
    lengths = np.array([2, 4, 1, 3, 4])

    def padded(module: Any, x: Any, *rest: Any) -> Any:
        *hx, lengths = rest
        return module(x, hx if len(hx) == 2 else hx[0], lengths)

    def packed(module: Any, x: Any, *rest: Any) -> Any:
        *hx, lengths = rest
        rnn = torch.nn.utils.rnn
        flow = rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
        out, final = module(flow, tuple(hx) if len(hx) == 2 else hx[0])
        return rnn.pad_packed_sequence(out, batch_first)[0], final

    values = [x, *states(kind, (4, 5, H), (4, 5, H)), lengths]
    agree(Case(ours, theirs, values, padded, packed, second=kind == "GRU"))


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


def test_compiled() -> None:
    """All kinds as machine code, in one program; sizes and options mixed."""
    chosen = [
        ("RNN", {"nonlinearity": "relu", "batch_first": True}),
        ("LSTM", {"bidirectional": True}),
        ("LSTM", {"proj_size": 2}),
        ("GRU", {"num_layers": 2}),
    ]
    cases = [layer_case(kind, options, True, "float32") for kind, options in chosen]
    for kind, options in CELLS[1:]:
        ours, theirs = pair(kind, IN, H, dtype="float32", **options)
        values = [rng.normal(size=(B, IN)), *states(kind, (B, H), (B, H))]
        cases.append(Case(ours, theirs, values, call))
    for case in cases:
        case.second = False
    cases[3].second = True
    agree_natively(cases)


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


# ---- attention


class Additive(torch.nn.Module):
    """Bahdanau's formula, plainly."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        state = {n: torch.tensor(a) for n, a in ours.state_dict().items()}
        self.v = torch.nn.Parameter(state["v"])
        self.w = torch.nn.Parameter(state["query.weight"])
        self.u = torch.nn.Parameter(state["key.weight"])

    def forward(self, query: Any, keys: Any, mask: Any = None) -> Any:
        hidden = torch.tanh((query @ self.w.T)[..., None, :] + keys @ self.u.T)
        return weighed(hidden @ self.v, keys, mask)


class Multiplicative(torch.nn.Module):
    """Luong's three scores, plainly."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.score = ours.score
        if ours.weight is not None:
            self.weight = torch.nn.Parameter(torch.tensor(ours.weight.numpy()))
        if ours.v is not None:
            self.v = torch.nn.Parameter(torch.tensor(ours.v.numpy()))

    def forward(self, query: Any, keys: Any, mask: Any = None) -> Any:
        if self.score == "dot":
            scores = torch.einsum("...q,...sq->...s", query, keys)
        elif self.score == "general":
            scores = torch.einsum("...q,qk,...sk->...s", query, self.weight, keys)
        else:
            both = torch.cat([query[..., None, :].expand(*keys.shape[:-1], -1), keys], -1)
            scores = torch.tanh(both @ self.weight.T) @ self.v
        return weighed(scores, keys, mask)


def weighed(scores: Any, keys: Any, mask: Any) -> Any:
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = torch.softmax(scores, -1)
    return torch.einsum("...s,...sk->...k", weights, keys), weights


def attention_case(score: str, masked: bool, dtype: str = "float64") -> Case:
    keys = 4 if score == "dot" else 3
    if score == "additive":
        ours: Any = nn.BahdanauAttention(4, 3, 5, dtype=dtype)
    else:
        ours = nn.LuongAttention(4, keys, score, dtype=dtype)
    theirs = (Additive if score == "additive" else Multiplicative)(ours)
    values = [rng.normal(size=(2, 4)), rng.normal(size=(2, 5, keys))]
    if masked:
        values.append(np.array([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0]], bool))
    return Case(ours, theirs, values, label=score)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("score", ["additive", "dot", "general", "concat"])
def test_attention(score: str, masked: bool) -> None:
    case = attention_case(score, masked)
    if score == "additive":  # its parameters come in another order there: v first in both
        assert [n for n, _ in case.ours.named_parameters()] == ["v", "query.weight", "key.weight"]
    agree(case)


def test_attention_compiled() -> None:
    scores = ["additive", "dot", "general", "concat"]
    agree_natively([attention_case(score, True, "float32") for score in scores])


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
