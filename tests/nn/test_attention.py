"""Attention, transformer layers, bags of embeddings and positions, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.nn import functional
from tests.evaluating import evaluate
from tests.nn.against import Case, agree, agree_natively, functional_case, load

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
rng = np.random.default_rng(11)

N, L, S, E = 2, 3, 4, 4


def pair(kind: str, *args: Any, dtype: str = "float64", **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(*args, **options).to(getattr(torch, dtype))
    ours = getattr(nn, kind)(*args, dtype=dtype, **options)
    with torch.no_grad():
        for tensor in theirs.parameters():  # zeros and ones would hide a mistake
            tensor.add_(0.3 * torch.randn_like(tensor))
    load(ours, theirs)
    return ours, theirs


def normal(*shape: int) -> Any:
    return rng.normal(size=shape)


# ---- scaled dot products

SEEN = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 0]], bool)
PRODUCTS: list[tuple[dict[str, Any], list[Any]]] = [
    ({}, []),
    ({"is_causal": True}, []),
    ({"scale": 0.3}, [normal(L, S)]),
    ({}, [SEEN]),
    ({}, [np.stack([SEEN, SEEN[::-1]])[:, None]]),
    ({}, [np.where(SEEN, 0.0, -np.inf)]),
    ({}, [SEEN & (np.arange(3) != 1)[:, None]]),  # a query that sees nothing reads 0
]


@pytest.mark.parametrize(("options", "mask"), PRODUCTS)
def test_scaled_dot_products(options: dict[str, Any], mask: list[Any]) -> None:
    values = [normal(N, 2, L, E), normal(N, 2, S, E), normal(N, 2, S, 5), *mask]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    # PyTorch derives by a mask too, which with infinities in it is no number
    if mask and mask[0].dtype.kind == "f" and np.isinf(mask[0]).any():
        fixed = values.pop()
        ours = lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, gc.constant(fixed, q.dtype))  # noqa: E501, E731
        theirs = lambda q, k, v: sdpa(q, k, v, torch.tensor(fixed, dtype=q.dtype))  # noqa: E731
        agree(functional_case(ours, theirs, values, **options))
        return
    agree(functional_case(functional.scaled_dot_product_attention, sdpa, values, **options))


@pytest.mark.parametrize("shared", [1, 2, 4])
def test_grouped_queries(shared: int) -> None:
    values = [normal(N, 4, L, E), normal(N, shared, S, E), normal(N, shared, S, 3)]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    ours = functional.scaled_dot_product_attention
    agree(functional_case(ours, sdpa, values, enable_gqa=True, is_causal=True))


def test_dropped_weights() -> None:
    """All dropped in mode train, none in mode eval."""
    q = gc.observed("q", (L, E))
    out = functional.scaled_dot_product_attention(q, q, q, dropout_p=1.0)
    at = normal(L, E).astype(np.float32)
    assert not evaluate(out, {q: at}).any()
    plain = functional.scaled_dot_product_attention(q, q, q)
    np.testing.assert_array_equal(evaluate(out, {q: at}, "eval"), evaluate(plain, {q: at}))


# ---- several heads

HIDDEN = ~SEEN
PADDED = np.array([[0, 0, 0, 1], [0, 0, 1, 1]], bool)
BY_HEAD = np.stack([HIDDEN, np.roll(HIDDEN, 1, 0), HIDDEN[::-1], np.zeros((L, S), bool)])
HEADS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"batch_first": True}, {"attn_mask": HIDDEN}),
    ({"bias": False}, {"average_attn_weights": False}),
    ({"kdim": 3, "vdim": 5}, {"key_padding_mask": PADDED}),
    ({"batch_first": True}, {"key_padding_mask": PADDED, "attn_mask": BY_HEAD}),
    ({"add_bias_kv": True}, {"attn_mask": HIDDEN, "key_padding_mask": PADDED}),
    ({"add_zero_attn": True, "add_bias_kv": True}, {"attn_mask": np.tril(np.ones((L, S)))}),
    ({}, {"attn_mask": normal(L, S), "key_padding_mask": PADDED}),
]


def heads_case(
    options: dict[str, Any], masks: dict[str, Any], dtype: str = "float64", weights: bool = True
) -> Case:
    ours, theirs = pair("MultiheadAttention", E, 2, dtype=dtype, **options)
    k, v = options.get("kdim", E), options.get("vdim", E)
    values = [normal(L, N, E), normal(S, N, k), normal(S, N, v)]
    if options.get("batch_first"):
        values = [array.swapaxes(0, 1).copy() for array in values]
    arrays = {n: m for n, m in masks.items() if isinstance(m, np.ndarray)}
    rest = {n: m for n, m in masks.items() if n not in arrays}

    def call(module: Any, q: Any, k: Any, v: Any, *masks: Any) -> Any:
        named = dict(zip(arrays, masks, strict=True))
        if isinstance(module, torch.nn.Module) and "key_padding_mask" in named:
            # PyTorch would have both masks of one type, and says so
            attn = named.get("attn_mask")
            if attn is not None and attn.is_floating_point():
                bad = named["key_padding_mask"]
                named["key_padding_mask"] = torch.zeros(bad.shape, dtype=attn.dtype).masked_fill(
                    bad, -torch.inf
                )
        out, shown = module(q, k, v, **named, **rest, need_weights=weights)
        return (out, shown) if weights else (out, None)

    def their_call(module: Any, *inputs: Any) -> Any:
        return [x for x in call(module, *inputs) if x is not None]

    return Case(ours, theirs, [*values, *arrays.values()], call, their_call, label=f"{options}")


@pytest.mark.parametrize(("options", "masks"), HEADS)
def test_heads(options: dict[str, Any], masks: dict[str, Any]) -> None:
    agree(heads_case(options, masks))


def test_heads_without_weights_and_batches() -> None:
    agree(heads_case({"dropout": 0.4}, {"attn_mask": HIDDEN}, weights=False), "eval")
    ours, theirs = pair("MultiheadAttention", E, 2)
    agree(Case(ours, theirs, [normal(L, E), normal(S, E), normal(S, E)]))
    agree(Case(ours, theirs, [normal(L, E), normal(S, E), normal(S, E), PADDED[0]]))


def test_causal_heads() -> None:
    """``is_causal`` suffices; PyTorch wants the mask beside it."""
    ours, theirs = pair("MultiheadAttention", E, 2)

    def call(module: Any, x: Any) -> Any:
        return module(x, x, x, is_causal=True)

    def their_call(module: Any, x: Any) -> Any:
        mask = torch.nn.Transformer.generate_square_subsequent_mask(L, dtype=x.dtype)
        return module(x, x, x, attn_mask=mask, is_causal=True)

    agree(Case(ours, theirs, [normal(L, N, E)], call, their_call))


class Grouped(torch.nn.Module):
    """Grouped queries by PyTorch's functions, weights from ours; LLaMA's rotation."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.heads, self.rotates = (ours.num_heads, ours.num_kv_heads), ours.rotary is not None
        for name, value in ours.named_parameters():
            linear = torch.nn.Linear(value.shape[1], value.shape[0], bias=False)
            linear.weight = torch.nn.Parameter(torch.tensor(value.numpy()))
            setattr(self, name.partition(".")[0], linear)

    def forward(self, x: Any) -> Any:
        n, length, size = x.shape
        split = lambda y, h: y.reshape(n, length, h, -1).transpose(1, 2)  # noqa: E731
        q, k = split(self.q_proj(x), self.heads[0]), split(self.k_proj(x), self.heads[1])
        if self.rotates:
            q, k = turned(q), turned(k)
        v = split(self.v_proj(x), self.heads[1])
        sdpa = torch.nn.functional.scaled_dot_product_attention
        out = sdpa(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(n, length, size))


def turned(x: Any) -> Any:
    """x cos + rotate_half(x) sin, as LLaMA's code has it."""
    d, length = x.shape[-1], x.shape[-2]
    rates = 1.0 / (10000 ** (torch.arange(0, d, 2, dtype=torch.float64) / d))
    angles = torch.outer(torch.arange(length, dtype=torch.float64), rates)
    both = torch.cat([angles, angles], -1).to(x.dtype)
    half = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
    return x * both.cos() + half * both.sin()


@pytest.mark.parametrize(("shared", "rotary"), [(1, False), (2, True), (4, True)])
def test_grouped_query_attention(shared: int, rotary: bool) -> None:
    turn = nn.RotaryPositions() if rotary else None
    ours = nn.GroupedQueryAttention(16, 4, shared, rotary=turn, dtype="float64")
    agree(Case(ours, Grouped(ours), [normal(N, L, 16)], lambda m, x: m(x, is_causal=True),
               lambda m, x: m(x)))  # fmt: skip


# ---- transformer layers

WIDE = {"dim_feedforward": 6, "dropout": 0.0}
ENCODERS: list[dict[str, Any]] = [
    {},
    {"norm_first": True, "activation": "gelu", "batch_first": True},
    {"bias": False, "layer_norm_eps": 1e-3},
]


def layer_case(kind: str, options: dict[str, Any], dtype: str = "float64") -> Case:
    ours, theirs = pair(kind, E, 2, dtype=dtype, **WIDE, **options)
    ends = [normal(L, N, E), normal(S, N, E)][: 2 if "Decoder" in kind else 1]
    if options.get("batch_first"):
        ends = [x.swapaxes(0, 1).copy() for x in ends]
    return Case(ours, theirs, ends)


@pytest.mark.parametrize("kind", ["TransformerEncoderLayer", "TransformerDecoderLayer"])
@pytest.mark.parametrize("options", ENCODERS)
def test_transformer_layers(kind: str, options: dict[str, Any]) -> None:
    agree(layer_case(kind, options))


def test_masked_transformer_layers() -> None:
    causal = np.triu(np.ones((L, L), bool), 1)
    padded = np.array([[0, 0, 1], [0, 0, 0]], bool)
    case = layer_case("TransformerEncoderLayer", {"norm_first": True})
    case.values = [*case.values, causal, padded]
    agree(case)
    case = layer_case("TransformerDecoderLayer", {})
    case.values = [*case.values, causal, HIDDEN, padded, PADDED]
    agree(case)


def test_dropout_in_transformer_layers() -> None:
    """In mode eval none; in mode train, with probability 1, the residual sums alone are left."""
    for kind in ("TransformerEncoderLayer", "TransformerDecoderLayer"):
        for p, mode in ((0.3, "eval"), (1.0, "train")):
            ours, theirs = pair(kind, E, 2, dim_feedforward=6, dropout=p)
            ends = [normal(L, N, E), normal(S, N, E)][: 2 if "Decoder" in kind else 1]
            agree(Case(ours, theirs, ends, second=False), mode)


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
    load(ours, theirs)
    ends = [normal(L, N, E), normal(S, N, E)][: 2 if kind == "Decoder" else 1]
    agree(Case(ours, theirs, ends, second=False))


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


# ---- bags

FLAT = np.array([1, 5, 2, 2, 0, 6, 3])
BAGS: list[tuple[dict[str, Any], list[Any]]] = [
    ({}, [np.array([[0, 2, 2], [6, 1, 2]])]),
    ({"mode": "sum"}, [FLAT, np.array([0, 3, 3, 5])]),  # the second is empty
    ({"mode": "mean", "padding_idx": 2}, [FLAT, np.array([0, 2, 4, 7])]),  # two are of padding
    ({"mode": "max"}, [FLAT, np.array([0, 3, 3, 5])]),
    ({"mode": "max", "padding_idx": -2}, [np.array([[0, 2, 2], [5, 5, 5]])]),
    ({"mode": "sum", "include_last_offset": True}, [FLAT, np.array([0, 4, 7])]),
]


@pytest.mark.parametrize(("options", "values"), BAGS)
def test_bags(options: dict[str, Any], values: list[Any]) -> None:
    ours, theirs = pair("EmbeddingBag", 7, 3, **options)
    agree(Case(ours, theirs, values, second=False))


def test_weighted_bags() -> None:
    ours, theirs = pair("EmbeddingBag", 7, 3, mode="sum")

    def call(module: Any, ids: Any, offsets: Any, weights: Any) -> Any:
        return module(ids, offsets, weights)

    agree(Case(ours, theirs, [FLAT, np.array([0, 3, 5]), normal(7)], call, second=False))


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
        np.testing.assert_allclose(turned(torch.tensor(at)).numpy(), wanted, rtol=1e-9)


# ---- machine code


def test_compiled() -> None:
    """Each block as machine code, all in one program."""
    grouped = nn.GroupedQueryAttention(8, 4, 2, rotary=nn.RotaryPositions())
    bag = pair("EmbeddingBag", 7, 3, dtype="float32", mode="mean")
    most = pair("EmbeddingBag", 7, 3, dtype="float32", mode="max")
    masked = heads_case({"batch_first": True}, {"attn_mask": HIDDEN}, "float32")
    cases = [
        masked,
        Case(grouped, Grouped(grouped), [normal(N, L, 8)], lambda m, x: m(x, is_causal=True),
             lambda m, x: m(x)),
        layer_case("TransformerEncoderLayer", ENCODERS[1], "float32"),
        layer_case("TransformerDecoderLayer", {}, "float32"),
        Case(*bag, [FLAT, np.array([0, 3, 3, 5])]),
        Case(*most, [FLAT, np.array([0, 3, 3, 5])]),
    ]  # fmt: skip
    for case in cases[1:]:
        case.second = False
    agree_natively(cases)


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
