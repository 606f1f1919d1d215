"""Transformer layers and stacks of them; names, arguments and layouts are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.attention import MultiheadAttention
from graphc.nn.cells import check_sizes
from graphc.nn.cloning import clone
from graphc.nn.layers import Dropout, Linear
from graphc.nn.module import Module
from graphc.nn.normalization import LayerNorm
from graphc.types import float32

__all__ = [
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

Activation = str | Callable[[Value], Value]
_ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
}


def _activation(name: str, given: Activation) -> Callable[[Value], Value]:
    if callable(given):
        return given
    if given not in _ACTIVATIONS:
        raise ValueError(f"{name}: activation is 'relu', 'gelu' or a function, not {given!r}")
    return _ACTIVATIONS[given]


class _Layer(Module):
    """What both layers have: a feed-forward block, norms, and the order of norm and block."""

    norm_first: bool
    linear1: Linear
    linear2: Linear
    dropout: Dropout
    activation: Callable[[Value], Value]

    def _around(
        self, x: Value, norm: Module, drop: Module, block: Callable[[Value], Value]
    ) -> Value:
        """``x + drop(block(norm(x)))``, or with the norm last ``norm(x + drop(block(x)))``."""
        if self.norm_first:
            return x + drop(block(norm(x)))  # type: ignore[no-any-return]
        return norm(x + drop(block(x)))  # type: ignore[no-any-return]

    def _feed_forward(self, x: Value) -> Value:
        hidden = self.activation(self.linear1(x))
        return self.linear2(self.dropout(hidden))  # type: ignore[no-any-return]


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward net, each with a residual sum and a layer norm::

        x = norm1(x + dropout1(self_attn(x)))
        x = norm2(x + dropout2(linear2(dropout(activation(linear1 x)))))

    or with ``norm_first`` x + dropout1(self_attn(norm1 x)) and likewise. src [S, N, d_model]
    (``batch_first``: [N, S, d_model]) to the same shape. Masks are those of ``MultiheadAttention``.
    Vaswani et al. 2017; norms first: Xiong et al., "On Layer Normalization in the Transformer
    Architecture", 2020.

    >>> import graphc as gc
    >>> layer = TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(gc.observed("x", (3, 5, 8))).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: object = float32,
    ) -> None:
        attention: dict[str, Any] = {"dropout": dropout, "bias": bias, "batch_first": batch_first}
        norm: dict[str, Any] = {"eps": layer_norm_eps, "bias": bias, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, **attention, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.norm_first = norm_first
        self.norm1, self.norm2 = LayerNorm(d_model, **norm), LayerNorm(d_model, **norm)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.activation = _activation("TransformerEncoderLayer", activation)

    def forward(
        self,
        src: Value,
        src_mask: Value | None = None,
        src_key_padding_mask: Value | None = None,
        is_causal: bool = False,
    ) -> Value:
        """The shape of ``src``."""

        def attend(x: Value) -> Value:
            return _attended(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal)

        x = self._around(src, self.norm1, self.dropout1, attend)
        return self._around(x, self.norm2, self.dropout2, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to ``memory`` (what an encoder made), and a feed-forward net::

        x = norm1(x + dropout1(self_attn(x)))
        x = norm2(x + dropout2(multihead_attn(x, memory)))
        x = norm3(x + dropout3(linear2(dropout(activation(linear1 x)))))

    or with the norms first; tgt [T, N, d_model], memory [S, N, d_model] to tgt's shape.

    >>> import graphc as gc
    >>> layer = TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(gc.observed("tgt", (3, 4, 8)), gc.observed("memory", (3, 5, 8))).shape
    (3, 4, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: object = float32,
    ) -> None:
        attention: dict[str, Any] = {"dropout": dropout, "bias": bias, "batch_first": batch_first}
        norm: dict[str, Any] = {"eps": layer_norm_eps, "bias": bias, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, **attention, dtype=dtype)
        self.multihead_attn = MultiheadAttention(d_model, nhead, **attention, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.norm_first = norm_first
        self.norm1, self.norm2 = LayerNorm(d_model, **norm), LayerNorm(d_model, **norm)
        self.norm3 = LayerNorm(d_model, **norm)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.activation = _activation("TransformerDecoderLayer", activation)

    def forward(
        self,
        tgt: Value,
        memory: Value,
        tgt_mask: Value | None = None,
        memory_mask: Value | None = None,
        tgt_key_padding_mask: Value | None = None,
        memory_key_padding_mask: Value | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Value:
        """The shape of ``tgt``."""

        def attend(x: Value) -> Value:
            return _attended(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)

        def look(x: Value) -> Value:
            masks = memory_mask, memory_key_padding_mask, memory_is_causal
            return _attended(self.multihead_attn, x, memory, *masks)

        x = self._around(tgt, self.norm1, self.dropout1, attend)
        x = self._around(x, self.norm2, self.dropout2, look)
        return self._around(x, self.norm3, self.dropout3, self._feed_forward)


def _attended(
    attention: MultiheadAttention,
    x: Value,
    memory: Value,
    mask: Value | None,
    padding: Value | None,
    is_causal: bool,
) -> Value:
    out: Value = attention(
        x, memory, memory, padding, need_weights=False, attn_mask=mask, is_causal=is_causal
    )[0]
    return out


class TransformerEncoder(Module):
    """``num_layers`` layers like ``encoder_layer``, one after the other, and then ``norm``.

    Each has parameters of its own. PyTorch's copies start alike; ours are drawn each for itself.

    >>> import graphc as gc
    >>> layer = TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> TransformerEncoder(layer, 2)(gc.observed("x", (3, 5, 8))).shape
    (3, 5, 8)
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        self.layers = _copies("TransformerEncoder", encoder_layer, num_layers)
        self.norm = norm

    def forward(
        self,
        src: Value,
        mask: Value | None = None,
        src_key_padding_mask: Value | None = None,
        is_causal: bool = False,
    ) -> Value:
        """The shape of ``src``."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """``num_layers`` layers like ``decoder_layer``, all of which see ``memory``, then ``norm``.

    >>> import graphc as gc
    >>> layer = TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> decoder = TransformerDecoder(layer, 2)
    >>> decoder(gc.observed("tgt", (3, 4, 8)), gc.observed("memory", (3, 5, 8))).shape
    (3, 4, 8)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        self.layers = _copies("TransformerDecoder", decoder_layer, num_layers)
        self.norm = norm

    def forward(self, tgt: Value, memory: Value, *masks: Any, **named: Any) -> Value:
        """The shape of ``tgt``; masks are those of a layer."""
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, **named)
        return tgt if self.norm is None else self.norm(tgt)


def _copies(name: str, layer: Module, count: int) -> list[Module]:
    check_sizes(name, num_layers=count)
    return [clone(layer) for _ in range(count)]
