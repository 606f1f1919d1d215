"""One step of recurrent nets, given their weights, and attention over a sequence of states.

Gates lie side by side in a weight's rows, in PyTorch's order.
"""

from __future__ import annotations

import math

from graphc import ops
from graphc.errors import DTypeError
from graphc.graph import Value
from graphc.nn.functional.layers import linear
from graphc.op import composite
from graphc.source import here

__all__ = ["attend", "gru_cell", "lstm_cell", "rnn_cell"]


def check_nonlinearity(name: str, nonlinearity: str) -> None:
    """Raise ValueError where it is none of those that there are."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{name}: nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}")


@composite
def rnn_cell(
    x: Value,
    h: Value,
    weight_ih: Value,
    weight_hh: Value,
    bias_ih: Value | None = None,
    bias_hh: Value | None = None,
    nonlinearity: str = "tanh",
) -> Value:
    """``tanh(W_ih x + b_ih + W_hh h + b_hh)``: x [..., in], h [..., hidden] to the new h.

    ``nonlinearity`` is "tanh" or "relu" (Elman, "Finding Structure in Time", 1990).
    """
    check_nonlinearity("rnn_cell", nonlinearity)
    total = linear(x, weight_ih, bias_ih) + linear(h, weight_hh, bias_hh)
    return ops.tanh(total) if nonlinearity == "tanh" else ops.relu(total)


@composite
def lstm_cell(
    x: Value,
    hx: tuple[Value, Value],
    weight_ih: Value,
    weight_hh: Value,
    bias_ih: Value | None = None,
    bias_hh: Value | None = None,
    weight_hr: Value | None = None,
) -> tuple[Value, Value]:
    """One step of long short-term memory: x [..., in] and (h, c) to the new (h, c)::

        i, f, g, o = W_ih x + b_ih + W_hh h + b_hh
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')          with weight_hr: its product with that

    Hochreiter, Schmidhuber 1997, with the forget gate of Gers et al. 2000; the projection is that
    of Sak et al. 2014.
    """
    h, c = hx
    gates = linear(x, weight_ih, bias_ih) + linear(h, weight_hh, bias_hh)
    i, f, g, o = ops.split(gates, 4, axis=-1)
    new_c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    new_h = ops.sigmoid(o) * ops.tanh(new_c)
    return (new_h if weight_hr is None else linear(new_h, weight_hr)), new_c


@composite
def gru_cell(
    x: Value,
    h: Value,
    weight_ih: Value,
    weight_hh: Value,
    bias_ih: Value | None = None,
    bias_hh: Value | None = None,
) -> Value:
    """One step of a gated recurrent unit: x [..., in], h [..., hidden] to the new h::

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r (W_hn h + b_hn))
        h' = (1 - z) n + z h

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014; the reset gate
    acts behind the product, as in cuDNN and PyTorch.
    """
    from_x = ops.split(linear(x, weight_ih, bias_ih), 3, axis=-1)
    from_h = ops.split(linear(h, weight_hh, bias_hh), 3, axis=-1)
    r = ops.sigmoid(from_x[0] + from_h[0])
    z = ops.sigmoid(from_x[1] + from_h[1])
    n = ops.tanh(from_x[2] + r * from_h[2])
    return (1.0 - z) * n + z * h


@composite
def attend(scores: Value, values: Value, mask: Value | None = None) -> tuple[Value, Value]:
    """``softmax(scores) @ values`` and the weights, softmax(scores).

    scores [..., S], values [..., S, V] to [..., V] and [..., S]. Where ``mask`` (bool, as scores or
    broadcast to them) is False the weight is 0; a row without a True is NaN, as PyTorch's.
    """
    if mask is not None:
        if mask.dtype.kind != "b":
            raise DTypeError(f"attend: mask is {mask.type}, it must be bool: True is seen", here())
        scores = ops.where(mask, scores, -math.inf)
    weights = ops.softmax(scores, axis=-1)
    context = ops.squeeze(ops.expand_dims(weights, -2) @ values, -2)
    return context, weights
