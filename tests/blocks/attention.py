"""Attention, transformer layers, embeddings and bags of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.blocks.sample import Block, Input, array, integers, normal, swept

N, L, S, E = 2, 3, 4, 4
SEEN = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 0]], bool)
HIDDEN = ~SEEN
PADDED = np.array([[0, 0, 0, 1], [0, 0, 1, 1]], bool)
BY_HEAD = np.stack([HIDDEN, np.roll(HIDDEN, 1, 0), HIDDEN[::-1], np.zeros((L, S), bool)])
CAUSAL = np.triu(np.ones((L, L), bool), 1)
SHORT = np.array([[0, 0, 1], [0, 0, 0]], bool)


# ---- scaled dot products


def _products(*mask: Input, heads: tuple[int, int] = (2, 2), **options: Any) -> Block:
    q, k, v = normal(N, heads[0], L, E), normal(N, heads[1], S, E), normal(N, heads[1], S, 5)
    return Block("scaled_dot_product_attention", (), options, (q, k, v, *mask),
                 how="masked" if mask else "")  # fmt: skip


PRODUCTS = [
    _products(),
    _products(is_causal=True),
    _products(normal(L, S), scale=0.3),
    _products(array(SEEN, "bool")),
    _products(array(np.stack([SEEN, SEEN[::-1]])[:, None], "bool")),
    _products(array(np.where(SEEN, 0.0, -np.inf))),
    # a query that sees nothing reads 0
    _products(array(SEEN & (np.arange(3) != 1)[:, None], "bool")),
    *(_products(heads=(4, shared), enable_gqa=True, is_causal=True) for shared in (1, 2, 4)),
]


# ---- several heads


def _heads(masks: dict[str, Any] | None = None, how: str = "", **options: Any) -> Block:
    """Masks that are arrays are inputs, other options of the call go with it."""
    given = masks or {}
    arrays = {name: mask for name, mask in given.items() if isinstance(mask, np.ndarray)}
    rest = {name: value for name, value in given.items() if name not in arrays}

    def call(block: Any, q: Any, k: Any, v: Any, *found: Any) -> Any:
        return block(q, k, v, **dict(zip(arrays, found, strict=True)), **rest)

    widths = E, options.get("kdim", E), options.get("vdim", E)
    shapes = [(size, N, width) for size, width in zip((L, S, S), widths, strict=True)]
    if options.get("batch_first"):
        shapes = [(shape[1], shape[0], shape[2]) for shape in shapes]
    inputs = [normal(*shape) for shape in shapes]
    inputs += [array(m, "bool" if m.dtype == bool else "float") for m in arrays.values()]
    shown = how or (f"with {', '.join(given)}" if given else "")
    return Block("MultiheadAttention", (E, 2), options, tuple(inputs), call=call, lively=True,
                 how=shown, within=1e-8)  # fmt: skip


def _causal(block: Any, x: Any) -> Any:
    return block(x, x, x, is_causal=True)


def _causal_with_mask(block: Any, x: Any) -> Any:
    import torch

    mask = torch.nn.Transformer.generate_square_subsequent_mask(L, dtype=x.dtype)
    return block(x, x, x, attn_mask=mask, is_causal=True)


HEADS = [
    _heads(),
    swept(_heads({"attn_mask": HIDDEN}, batch_first=True)),
    swept(_heads({"average_attn_weights": False}, bias=False)),
    _heads({"key_padding_mask": PADDED}, kdim=3, vdim=5),
    _heads({"key_padding_mask": PADDED, "attn_mask": BY_HEAD}, batch_first=True),
    swept(_heads({"attn_mask": HIDDEN, "key_padding_mask": PADDED}, add_bias_kv=True)),
    _heads({"attn_mask": np.tril(np.ones((L, S)))}, add_zero_attn=True, add_bias_kv=True),
    _heads({"attn_mask": HIDDEN, "need_weights": False}),
    Block("MultiheadAttention", (E, 2), {}, (normal(L, E), normal(S, E), normal(S, E),
          array(PADDED[0], "bool")), lively=True, how="of one sequence"),
    swept(Block("MultiheadAttention", (E, 2), {}, (normal(L, N, E),), call=_causal, lively=True,
                their_call=_causal_with_mask, how="with is_causal alone")),
]  # fmt: skip


def turned(torch: Any, x: Any) -> Any:
    """x cos + rotate_half(x) sin, as LLaMA's code has it."""
    d, length = x.shape[-1], x.shape[-2]
    rates = 1.0 / (10000 ** (torch.arange(0, d, 2, dtype=torch.float64) / d))
    angles = torch.outer(torch.arange(length, dtype=torch.float64), rates)
    both = torch.cat([angles, angles], -1).to(x.dtype)
    half = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
    return x * both.cos() + half * both.sin()


def grouped(torch: Any, heads: int, shared: int) -> Any:
    """Grouped queries by PyTorch's functions, LLaMA's rotation."""

    class Grouped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = torch.nn.Linear(16, 16, bias=False)
            self.k_proj = torch.nn.Linear(16, 4 * shared, bias=False)
            self.v_proj = torch.nn.Linear(16, 4 * shared, bias=False)
            self.o_proj = torch.nn.Linear(16, 16, bias=False)

        def forward(self, x: Any) -> Any:
            n, length, size = x.shape

            def split(y: Any) -> Any:
                return y.reshape(n, length, -1, 4).transpose(1, 2)

            q, k = (turned(torch, split(p(x))) for p in (self.q_proj, self.k_proj))
            sdpa = torch.nn.functional.scaled_dot_product_attention
            out = sdpa(q, k, split(self.v_proj(x)), is_causal=True, enable_gqa=True)
            return self.o_proj(out.transpose(1, 2).reshape(n, length, size))

    return Grouped()


def _grouped(shared: int) -> Block:
    from graphc import nn

    return Block("GroupedQueryAttention", (16, 4, shared), {"rotary": nn.RotaryPositions()},
                 (normal(N, L, 16),), call=lambda block, x: block(x, is_causal=True),
                 their_call=lambda block, x: block(x), how="causal", within=1e-8,
                 counterpart=lambda torch: grouped(torch, 4, shared),
                 formula="LLaMA's rotation, PyTorch's grouped products")  # fmt: skip


# ---- transformer layers


def _layer(kind: str, *masks: Any, **options: Any) -> Block:
    name = f"Transformer{kind}Layer"
    shapes = [(L, N, E), (S, N, E)][: 2 if kind == "Decoder" else 1]
    if options.get("batch_first"):
        shapes = [(n, length, e) for length, n, e in shapes]
    inputs = [*(normal(*shape) for shape in shapes), *(array(m, "bool") for m in masks)]
    wide = {"dim_feedforward": 6, "dropout": 0.0}
    return Block(name, (E, 2), wide | options, tuple(inputs), lively=True, within=1e-7,
                 how="masked" if masks else "")  # fmt: skip


LAYERS = [
    _layer(kind, *masks, **options) if masks or "norm_first" in options
    else swept(_layer(kind, *masks, **options))
    for kind, all_masks in (
        ("Encoder", (CAUSAL, SHORT)),
        ("Decoder", (CAUSAL, HIDDEN, SHORT, PADDED)),
    )
    for masks, options in (
        ((), {"norm_first": True, "activation": "gelu", "batch_first": True}),
        ((), {"bias": False, "layer_norm_eps": 1e-3}),
        (all_masks, {}),
    )
]


# ---- bags

FLAT = array([1, 5, 2, 2, 0, 6, 3], "int")
_HALVES = array([0, 3, 3, 5], "int")  # the second is empty


def _bag(*inputs: Input, **options: Any) -> Block:
    return Block("EmbeddingBag", (7, 3), options, inputs, second=False)


BAGS = [
    _bag(integers(3, 4, below=7)),
    _bag(FLAT, _HALVES, mode="sum"),
    _bag(FLAT, array([0, 2, 4], "int"), mode="mean", padding_idx=2),  # one is of padding
    _bag(FLAT, _HALVES, mode="max"),
    _bag(array([[0, 2, 2], [5, 5, 5]], "int"), mode="max", padding_idx=-2),
    _bag(FLAT, array([0, 4, 7], "int"), mode="sum", include_last_offset=True),
    Block("EmbeddingBag", (7, 3), {"mode": "sum"}, (FLAT, _HALVES, normal(7)), second=False,
          how="with per_sample_weights"),
    _bag(FLAT, _HALVES, max_norm=1.0),
    _bag(FLAT, _HALVES, max_norm=0.8, norm_type=1.0, mode="max"),
    # PyTorch counts a wrong id in bags on CPUs; here every id comes twice
    _bag(array([4, 0, 3, 3, 4, 0], "int"), array([0, 4], "int"), scale_grad_by_freq=True,
         mode="sum"),
    _bag(array([4, 0, 3, 3, 4, 0], "int"), array([0, 4], "int"), max_norm=0.5,
         scale_grad_by_freq=True, padding_idx=3),
]  # fmt: skip

_IDS = array([[0, 2, 2, 6, 1], [6, 6, 6, 0, 2]], "int")
TABLES = [
    Block("Embedding", (7, 3), options, (_IDS,), second=False)
    for options in (
        {"padding_idx": 2},
        {"max_norm": 1.0},
        {"max_norm": 0.5, "norm_type": math.inf, "padding_idx": -1},
        {"max_norm": 1.5, "norm_type": 0.5},
        {"max_norm": 0.3, "norm_type": 3},
        {"scale_grad_by_freq": True, "padding_idx": 2},
        {"scale_grad_by_freq": True, "max_norm": 1.5, "norm_type": 1.0},
    )
]
TABLES.append(
    Block("embedding", (), {"max_norm": 1.0, "scale_grad_by_freq": True}, (_IDS, normal(7, 3)),
          second=False)
)  # fmt: skip

SHARED = [swept(_grouped(1)), _grouped(2), swept(_grouped(4))]
ATTENTION = [*PRODUCTS, *HEADS, *SHARED, *LAYERS, *BAGS, *TABLES]
