"""Dropout, stacks, positions, bags, run-time sizes. Equality with PyTorch: tests/blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.nn import functional
from tests.blocks.attention import turned
from tests.evaluating import evaluate

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
rng = np.random.default_rng(11)
_START = rng.bit_generator.state


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order() -> None:
    rng.bit_generator.state = _START
    gc.manual_seed(11)

N, L, S, E = 2, 3, 4, 4
WIDE = {"dim_feedforward": 6, "dropout": 0.0}


def pair(kind: str, *args: Any, dtype: str = "float64", **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(*args, **options).to(getattr(torch, dtype))
    ours = getattr(nn, kind)(*args, dtype=dtype, **options)
    with torch.no_grad():
        for tensor in theirs.parameters():  # zeros and ones would hide a mistake
            tensor.add_(0.3 * torch.randn_like(tensor))
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    return ours, theirs


def normal(*shape: int) -> Any:
    return rng.normal(size=shape)


def test_dropped_weights() -> None:
    """All dropped in mode train, none in mode eval."""
    q = gc.observed("q", (L, E))
    out = functional.scaled_dot_product_attention(q, q, q, dropout_p=1.0)
    at = normal(L, E).astype(np.float32)
    assert not evaluate(out, {q: at}).any()
    plain = functional.scaled_dot_product_attention(q, q, q)
    np.testing.assert_array_equal(evaluate(out, {q: at}, "eval"), evaluate(plain, {q: at}))


def test_shown_weights_are_those_that_acted() -> None:
    """As PyTorch's: in mode train those that were dropped are 0, the others larger."""
    x, layer = gc.observed("x", (L, N, E)), nn.MultiheadAttention(E, 2, dropout=1.0)
    at = normal(L, N, E).astype(np.float32)
    _, weights = layer(x, x, x)
    assert not evaluate(weights, {x: at}).any()
    np.testing.assert_allclose(evaluate(weights, {x: at}, "eval").sum(-1), 1.0, rtol=1e-6)


def test_dropout_in_transformer_layers() -> None:
    """In mode eval none; in mode train, with probability 1, the residual sums alone are left."""
    for kind in ("TransformerEncoderLayer", "TransformerDecoderLayer"):
        for p, mode in ((0.3, "eval"), (1.0, "train")):
            ours, theirs = pair(kind, E, 2, dim_feedforward=6, dropout=p)
            agree(ours, theirs.train(mode == "train"), kind, mode)


def agree(ours: Any, theirs: Any, kind: str, mode: str = "train") -> None:
    """The same numbers out of a stack or layer."""
    ends = [normal(L, N, E), normal(S, N, E)][: 2 if "Decoder" in kind else 1]
    inputs = [gc.observed(f"x{i}", a.shape, "float64") for i, a in enumerate(ends)]
    got = evaluate(ours(*inputs), dict(zip(inputs, ends, strict=True)), mode)
    wanted = theirs(*map(torch.tensor, ends)).detach().numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["Encoder", "Decoder"])
def test_stacks(kind: str) -> None:
    f64 = {"dtype": "float64"}
    theirs_layer = getattr(torch.nn, f"Transformer{kind}Layer")(E, 2, **WIDE, **f64_torch())
    ours_layer = getattr(nn, f"Transformer{kind}Layer")(E, 2, **WIDE, **f64)
    theirs = getattr(torch.nn, f"Transformer{kind}")(
        theirs_layer, 2, torch.nn.LayerNorm(E, **f64_torch())
    )
    ours = getattr(nn, f"Transformer{kind}")(ours_layer, 2, nn.LayerNorm(E, **f64))
    drawn = [layer.linear1.weight.numpy() for layer in ours.layers]
    assert (drawn[0] != drawn[1]).all()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    agree(ours, theirs, kind)


def f64_torch() -> dict[str, Any]:
    return {"dtype": torch.float64}


def test_clones() -> None:
    """Tied stays tied; arrays start as they are; nothing is shared with the first."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            self.embed, self.head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
            self.head.weight = self.embed.weight
            self.parts = {"scale": [gc.parameter(np.full(2, 5.0))], "norm": nn.BatchNorm1d(2)}

        def forward(self, ids: gc.Value) -> gc.Value:
            return self.head(self.parts["norm"](self.embed(ids)) * self.parts["scale"][0])

    first = Tied()
    second = nn.clone(first)
    assert second.head.weight is second.embed.weight is not first.embed.weight
    assert list(second.state_dict()) == list(first.state_dict())
    assert second.parts["scale"][0].numpy().tolist() == [5, 5]
    assert (second.embed.weight.numpy() != first.embed.weight.numpy()).all()
    ids = gc.observed("ids", (4,), gc.int64)
    second.load_state_dict(first.state_dict())
    at = {ids: np.array([0, 1, 2, 1])}
    np.testing.assert_array_equal(*(evaluate(net(ids), at) for net in (first, second)))


def test_bags_check_offsets_and_ids() -> None:
    ids, offsets = gc.observed("ids", (4,), gc.int64), gc.observed("offsets", (2,), gc.int64)
    out = nn.EmbeddingBag(5, 2)(ids, offsets)
    assert evaluate(out, {ids: [0, 1, 2, 4], offsets: [0, 4]})[1].tolist() == [0, 0]
    for wrong in ([1, 2], [0, 5], [-1, 2]):
        with pytest.raises(gc.RuntimeCheckError, match="outside"):
            evaluate(out, {ids: [0, 1, 2, 4], offsets: wrong})
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        evaluate(out, {ids: [0, 1, 2, 5], offsets: [0, 2]})


# ---- positions


def test_sinusoidal_positions() -> None:
    p, i = np.arange(7)[:, None], np.arange(4)
    angles = p / 10000.0 ** (2 * i / 8)
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(7, 8)
    got = evaluate(functional.sinusoidal_positions(gc.constant(np.arange(7)), 8, dtype="float64"))
    np.testing.assert_allclose(got, table, rtol=1e-12, atol=1e-12)
    at = normal(2, 4, 8)
    x = gc.observed("x", at.shape, "float64")
    start = gc.observed("start", (), gc.int64)
    layer = nn.SinusoidalPositions()
    np.testing.assert_allclose(evaluate(layer(x), {x: at}), at + table[:4], rtol=1e-12)
    later = evaluate(layer(x, start), {x: at, start: np.int64(3)})
    np.testing.assert_allclose(later, at + table[3:], rtol=1e-12)
    first = evaluate(nn.SinusoidalPositions(axis=0)(x), {x: at})
    np.testing.assert_allclose(first, at + table[:2, None], rtol=1e-12)


def test_learned_positions() -> None:
    layer = nn.LearnedPositions(6, 8)
    table, at = layer.weight.numpy(), normal(2, 4, 8).astype(np.float32)
    x, start = gc.observed("x", at.shape), gc.observed("start", (), gc.int64)
    np.testing.assert_array_equal(evaluate(layer(x, 2), {x: at}), at + table[2:])
    dynamic = layer(x, start)
    got = evaluate(dynamic, {x: at, start: np.int64(1)})
    np.testing.assert_array_equal(got, at + table[1:5])
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        evaluate(dynamic, {x: at, start: np.int64(3)})
    with pytest.raises(gc.ShapeError, match=r"positions 3 to 6 of .* there are 6"):
        layer(x, 3)
    assert 0.01 < nn.LearnedPositions(100, 50).weight.numpy().std() < 0.03


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_positions(interleaved: bool) -> None:
    """A complex number a + ib a pair, times exp(i p / base^(2i/d)); only distances matter."""
    at = normal(2, 5, 6)
    rates = 10000.0 ** (-np.arange(3) / 3)
    a, b = (at[..., 0::2], at[..., 1::2]) if interleaved else (at[..., :3], at[..., 3:])
    numbers = a + 1j * b
    spun = numbers * np.exp(1j * np.arange(5)[:, None] * rates)
    if interleaved:
        wanted = np.stack([spun.real, spun.imag], -1).reshape(at.shape)
    else:
        wanted = np.concatenate([spun.real, spun.imag], -1)
    x = gc.observed("x", at.shape, "float64")
    layer = nn.RotaryPositions(interleaved=interleaved)
    near, far = layer(x), layer(x, 100)
    scores = [turn @ gc.ops.swapaxes(turn, -1, -2) for turn in (near, far)]
    got, *by_distance = evaluate((near, *scores), {x: at})
    np.testing.assert_allclose(got, wanted, rtol=1e-10)
    np.testing.assert_allclose(*by_distance, rtol=1e-9, atol=1e-11)
    if not interleaved:
        np.testing.assert_allclose(turned(torch, torch.tensor(at)).numpy(), wanted, rtol=1e-9)


def test_run_time_sizes() -> None:
    """One layer for all batches and lengths, padding included."""
    rows, steps = gc.Dim("N"), gc.Dim("L")
    ours, theirs = pair("TransformerEncoderLayer", E, 2, dtype="float32", batch_first=True, **WIDE)
    x, padding = gc.observed("x", (rows, steps, E)), gc.observed("padding", (rows, steps), gc.bool)
    run = gc.compile([x, padding], ours(x, None, padding, is_causal=True), mode="train")
    for shape in ((2, 3), (1, 5)):
        at, hidden = normal(*shape, E).astype(np.float32), np.zeros(shape, bool)
        hidden[:, -1] = True
        mask = torch.triu(torch.ones(shape[1], shape[1], dtype=torch.bool), 1)
        wanted = theirs(torch.tensor(at), mask, torch.tensor(hidden)).detach().numpy()
        np.testing.assert_allclose(run(at, hidden), wanted, rtol=1e-4, atol=1e-5)


def test_initial_values_are_distributed_as_pytorch_s() -> None:
    gc.manual_seed(0)
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(48, 4, add_bias_kv=True).state_dict()
    for name, array in nn.MultiheadAttention(48, 4, add_bias_kv=True).state_dict().items():
        assert array.std() == pytest.approx(theirs[name].numpy().std(), rel=0.25, abs=1e-8), name
        assert np.abs(array).max() == pytest.approx(np.abs(theirs[name].numpy()).max(), rel=0.5)


def test_refusals() -> None:
    x, y = gc.observed("x", (L, N, E)), gc.observed("y", (L, E))
    layer = nn.MultiheadAttention(E, 2)
    with pytest.raises(ValueError, match="3 heads do not divide embed_dim 4"):
        nn.MultiheadAttention(4, 3)
    with pytest.raises(ValueError, match=r"probability in \[0, 1\], not -1"):
        nn.MultiheadAttention(4, 2, dropout=-1)
    with pytest.raises(gc.ShapeError, match="three axes each, or two"):
        layer(x, y, y)
    with pytest.raises(gc.ShapeError, match=r"attn_mask is .*L = 3"):
        layer(x, x, x, attn_mask=gc.ops.zeros((4, 3), gc.bool))
    with pytest.raises(gc.ShapeError, match=r"key_padding_mask is .* it must be \[N, S\]"):
        layer(x, x, x, gc.ops.zeros((3, 3), gc.bool))
    with pytest.raises(gc.DTypeError, match="bool or floating"):
        layer(x, x, x, attn_mask=gc.ops.zeros((3, 3), gc.int64))
    with pytest.raises(gc.DTypeError, match="bool or floating"):
        functional.scaled_dot_product_attention(y, y, y, gc.ops.zeros((3, 3), gc.int64))
    with pytest.raises(gc.ShapeError, match="mask and scores"):
        functional.scaled_dot_product_attention(y, y, y, gc.ops.zeros((2, 2), gc.bool))
    with pytest.raises(gc.ShapeError, match="differ in their last axis"):
        functional.scaled_dot_product_attention(y, y[:, :2], y)
    with pytest.raises(gc.ShapeError, match="differ in length"):
        functional.scaled_dot_product_attention(y, y, y[:2])
    with pytest.raises(gc.ShapeError, match="two axes or more"):
        functional.scaled_dot_product_attention(y, y[0], y)
    with pytest.raises(gc.ShapeError, match="2 key heads do not divide 3 query heads"):
        functional.scaled_dot_product_attention(x, x[:2], x[:2], enable_gqa=True)
    with pytest.raises(gc.ShapeError, match="have no heads"):
        functional.scaled_dot_product_attention(y, y, y, enable_gqa=True)
    with pytest.raises(ValueError, match="3 key heads do not divide 4"):
        nn.GroupedQueryAttention(8, 4, 3)
    with pytest.raises(gc.ShapeError, match=r"it must be \[N, L, E\]"):
        nn.GroupedQueryAttention(4, 2)(y)
    with pytest.raises(ValueError, match="'relu', 'gelu' or a function, not 'silu'"):
        nn.TransformerEncoderLayer(4, 2, activation="silu")
    with pytest.raises(ValueError, match="num_layers is a positive int, not 0"):
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2), 0)
    ids = gc.observed("ids", (5,), gc.int64)
    with pytest.raises(ValueError, match="not 'median'"):
        nn.EmbeddingBag(4, 2, mode="median")
    with pytest.raises(ValueError, match="not 'median'"):
        functional.embedding_bag(ids, gc.ops.zeros((4, 2)), mode="median")
    bag = nn.EmbeddingBag(4, 2)
    with pytest.raises(gc.ShapeError, match=r"with offsets .bags.; got i64.5., offsets none"):
        bag(ids)
    with pytest.raises(gc.ShapeError, match="takes no offsets"):
        bag(gc.observed("two", (2, 3), gc.int64), ids)
    with pytest.raises(gc.DTypeError, match="offsets are integers"):
        bag(ids, y[0])
    with pytest.raises(ValueError, match="per_sample_weights go with mode 'sum'"):
        bag(ids, ids, y[0])
    with pytest.raises(gc.ShapeError, match="per_sample_weights is"):
        nn.EmbeddingBag(4, 2, mode="sum")(ids, ids, y[0])
    with pytest.raises(gc.ShapeError, match="come in pairs, 3 of them"):
        functional.sinusoidal_positions(ids, 3)
    with pytest.raises(gc.ShapeError, match=r"it must be .*T, d"):
        functional.rotary_positions(y[0])
    with pytest.raises(gc.ShapeError, match="has no axis -2"):
        nn.SinusoidalPositions()(y[0])
    some = gc.observed("some", (3, gc.Dim("D")))
    for layer in (nn.SinusoidalPositions(), nn.RotaryPositions()):
        with pytest.raises(gc.ShapeError, match=r"last axis of .* must be known"):
            layer(some)
    assert repr(bag) == "EmbeddingBag(4, 2, mode='mean')"
    assert repr(nn.LearnedPositions(3, 2)) == "LearnedPositions(3, 2)"
