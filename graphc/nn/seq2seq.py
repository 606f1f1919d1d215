"""Sequence to sequence: attention over the states of an encoder, and ways to run a decoder.

A decoder is a function ``step(x, carry) -> (output, carry)``: ``nn.LSTM(...).step`` is one, and so
is what joins it with an embedding, attention and a head. It is run

::

    teacher_forcing      on a given sequence                          training
    free_running         on what it said itself                       use
    scheduled_sampling   on either, a coin deciding at each step      between the two
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc import ops, random, tree
from graphc.control import scan
from graphc.dsl import parameter
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.cells import check_sizes, uniform
from graphc.nn.layers import Linear
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import Extent, float32

__all__ = [
    "BahdanauAttention",
    "LuongAttention",
    "free_running",
    "scheduled_sampling",
    "teacher_forcing",
]

Step = Callable[[Any, Any], tuple[Any, Any]]


# ---- attention


class BahdanauAttention(Module):
    """Additive attention: how much a query looks at each of S keys::

        score_s = v . tanh(W query + U key_s)        weights = softmax(score)
        context = sum_s weights_s key_s

    Parameters ``query.weight`` [hidden, query_size], ``key.weight`` [hidden, key_size] and ``v``
    [hidden]. Bahdanau, Cho, Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate", 2015.

    >>> import graphc as gc
    >>> attention = BahdanauAttention(6, 4, hidden_size=5)
    >>> query, keys = gc.observed("query", (2, 6)), gc.observed("keys", (2, 7, 4))
    >>> [v.shape for v in attention(query, keys)]
    [(2, 4), (2, 7)]
    """

    def __init__(
        self, query_size: int, key_size: int, hidden_size: int, *, dtype: object = float32
    ) -> None:
        sizes = {"query_size": query_size, "key_size": key_size, "hidden_size": hidden_size}
        check_sizes("BahdanauAttention", **sizes)
        self.query = Linear(query_size, hidden_size, bias=False, dtype=dtype)
        self.key = Linear(key_size, hidden_size, bias=False, dtype=dtype)
        self.v = parameter((hidden_size,), dtype, init=uniform(hidden_size))

    def forward(
        self, query: Value, keys: Value, mask: Value | None = None
    ) -> tuple[Value, Value]:
        """query [..., Q], keys [..., S, K], mask bool [..., S] (True: looked at) -> context
        [..., K], weights [..., S].
        """
        _check_keys(self._own_name, query, keys)
        hidden = ops.tanh(ops.expand_dims(self.query(query), -2) + self.key(keys))
        return functional.attend(hidden @ self.v, keys, mask)


class LuongAttention(Module):
    """Multiplicative attention: how much a query looks at each of S keys, by ``score``::

        "dot"       query . key_s                    key_size is query_size
        "general"   query . W key_s                  weight [query_size, key_size]
        "concat"    v . tanh(W [query; key_s])       weight [query_size, query_size + key_size]

    Weights and context as in BahdanauAttention. Luong, Pham, Manning, "Effective Approaches to
    Attention-based Neural Machine Translation", 2015.

    >>> import graphc as gc
    >>> attention = LuongAttention(6, 4)
    >>> query, keys = gc.observed("query", (2, 6)), gc.observed("keys", (2, 7, 4))
    >>> [v.shape for v in attention(query, keys)]
    [(2, 4), (2, 7)]
    """

    def __init__(
        self,
        query_size: int,
        key_size: int | None = None,
        score: str = "general",
        *,
        dtype: object = float32,
    ) -> None:
        keys = query_size if key_size is None else key_size
        check_sizes("LuongAttention", query_size=query_size, key_size=keys)
        if score not in ("dot", "general", "concat"):
            raise ValueError(
                f"LuongAttention: score is 'dot', 'general' or 'concat', not {score!r}"
            )
        if score == "dot" and keys != query_size:
            raise ValueError(f"LuongAttention: 'dot' of sizes {query_size} and {keys}")
        self.score = score
        draw = uniform(query_size)
        columns = keys if score == "general" else query_size + keys
        shape = (query_size, columns)
        self.weight = None if score == "dot" else parameter(shape, dtype, init=draw)
        self.v = parameter((query_size,), dtype, init=draw) if score == "concat" else None

    def forward(
        self, query: Value, keys: Value, mask: Value | None = None
    ) -> tuple[Value, Value]:
        """query [..., Q], keys [..., S, K], mask bool [..., S] (True: looked at) -> context
        [..., K], weights [..., S].
        """
        _check_keys(self._own_name, query, keys)
        return functional.attend(self._scores(query, keys), keys, mask)

    def _scores(self, query: Value, keys: Value) -> Value:
        if self.v is not None and self.weight is not None:
            size = query.shape[-1]
            from_query = ops.expand_dims(query @ self.weight[:, :size].T, -2)
            return ops.tanh(from_query + keys @ self.weight[:, size:].T) @ self.v
        turned = query if self.weight is None else query @ self.weight
        return ops.squeeze(keys @ ops.expand_dims(turned, -1), -1)

    def _describe(self) -> str:
        return f"score={self.score!r}"


def _check_keys(name: str, query: Value, keys: Value) -> None:
    if keys.ndim != query.ndim + 1 or keys.shape[:-2] != query.shape[:-1]:
        raise ShapeError(
            f"{name}: query [..., Q] and keys [..., S, K] share their leading axes; got "
            f"{query.type} and {keys.type}",
            here(),
        )


# ---- ways to run a decoder


def teacher_forcing(step: Step, inputs: Any, carry: Any) -> tuple[Any, Any]:
    """``step`` on each of ``inputs`` [T, ...]: the outputs [T, ...] and the last carry.

    >>> import graphc as gc
    >>> rnn = gc.nn.GRU(3, 4)
    >>> out, h = teacher_forcing(rnn.step, gc.observed("x", (7, 2, 3)), gc.ops.zeros((1, 2, 4)))
    >>> out.shape, h.shape
    ((7, 2, 4), (1, 2, 4))
    """

    def body(state: Any, x: Any) -> tuple[Any, Any]:
        output, state = step(x, state)
        return state, output

    carry, outputs = scan(body, carry, inputs, name="teacher_forcing")
    return outputs, carry


def free_running(
    step: Step, first: Any, carry: Any, length: Extent, feedback: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """``step`` on ``first``, then on ``feedback(output)``, ``length`` times.

    ``feedback`` turns an output into the next input: ``gc.random.categorical`` samples from logits,
    an argmax takes the most probable. The outputs [length, ...] and the last carry.

    >>> import graphc as gc
    >>> cell = gc.nn.GRUCell(4, 4)
    >>> def step(x, h): h = cell(x, h); return h, h
    >>> zero = gc.ops.zeros((2, 4))
    >>> out, h = free_running(step, zero, zero, 5, lambda output: output)
    >>> out.shape
    (5, 2, 4)
    """

    def body(state: Any, _: None) -> tuple[Any, Any]:
        x, inner = state
        output, inner = step(x, inner)
        return (feedback(output), inner), output

    (_, carry), outputs = scan(body, (first, carry), length=length, name="free_running")
    return outputs, carry


def scheduled_sampling(
    step: Step, inputs: Any, carry: Any, p: float | Value, feedback: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """``step`` on ``inputs`` [T, ...], of which each but the first is replaced, with probability
    ``p``, by ``feedback`` of the output before it.

    One coin falls for a whole step. ``p`` 0 is teacher forcing, 1 free running; a Value can grow
    during training without a recompilation. Bengio et al., "Scheduled Sampling for Sequence
    Prediction with Recurrent Neural Networks", 2015.
    """
    if not isinstance(p, Value) and not 0.0 <= p <= 1.0:
        raise ValueError(f"scheduled_sampling: p is a probability in [0, 1], not {p}")
    first = tree.map(lambda v: v[0], inputs)
    coins = random.uniform(tree.leaves(inputs)[0].shape[:1]) < p

    def body(state: Any, given: Any) -> tuple[Any, Any]:
        own, inner, start = state
        x, own_turn = given
        chosen = tree.map(lambda a, b: ops.where(own_turn & ~start, a, b), own, x)
        output, inner = step(chosen, inner)
        return (feedback(output), inner, False), output

    begin = (first, carry, True)
    (_, carry, _), outputs = scan(body, begin, (inputs, coins), name="scheduled_sampling")
    return outputs, carry
