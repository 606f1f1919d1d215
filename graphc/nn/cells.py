"""Cells of recurrent nets: one step each, with PyTorch's names and parameters."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from graphc import ops
from graphc.dsl import parameter
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.functional.recurrence import check_nonlinearity
from graphc.nn.module import Module
from graphc.ops.lifting import lift_one
from graphc.source import here
from graphc.types import Extent, float32

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

#: a layer's state: (h,), of an LSTM (h, c)
State = tuple[Value, ...]


def uniform(hidden_size: int) -> Any:
    """The initializer of all of a recurrent net's parameters: within 1 / sqrt(hidden_size)."""
    bound = hidden_size**-0.5
    return functools.partial(init.uniform, low=-bound, high=bound)


def check_sizes(name: str, **sizes: int) -> None:
    """Raise ValueError where a size is not a positive int."""
    for size, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {size} is a positive int, not {value!r}")


class _Cell(Module):
    """What the three cells share: four parameters, a first state of zeros."""

    _gates: ClassVar[int] = 1
    _states: ClassVar[int] = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: object = float32
    ) -> None:
        check_sizes(type(self).__name__, input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        draw, rows = uniform(hidden_size), self._gates * hidden_size
        self.weight_ih = parameter((rows, input_size), dtype, init=draw)
        self.weight_hh = parameter((rows, hidden_size), dtype, init=draw)
        self.bias_ih = parameter((rows,), dtype, init=draw) if bias else None
        self.bias_hh = parameter((rows,), dtype, init=draw) if bias else None

    @property
    def _weights(self) -> tuple[Value, Value, Value | None, Value | None]:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def _start(self, x: Value, hx: Any) -> State:
        """The state before this step, checked; zeros where none is given."""
        name, shape = self._own_name, (*x.shape[:-1], self.hidden_size)
        if x.ndim not in (1, 2):
            raise ShapeError(f"{name}: x is {x.type}, it must be [batch, in] or [in]", here())
        if hx is None:
            return tuple(ops.zeros(shape, x.dtype) for _ in range(self._states))
        return broadcast_states(name, hx, self._states, [shape] * self._states, "hx")

    def _describe(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class RNNCell(_Cell):
    """One step: x [B, in] (or [in]) and h [B, hidden] to the new h; see ``functional.rnn_cell``.

    >>> import graphc as gc
    >>> RNNCell(3, 4)(gc.observed("x", (2, 3))).shape
    (2, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: object = float32,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        check_nonlinearity("RNNCell", nonlinearity)
        self.nonlinearity = nonlinearity

    def forward(self, x: Value, hx: Value | None = None) -> Value:
        """x [B, in], hx [B, hidden] -> [B, hidden]."""
        (h,) = self._start(x, hx)
        return functional.rnn_cell(x, h, *self._weights, self.nonlinearity)


class LSTMCell(_Cell):
    """One step: x [B, in] and (h, c), each [B, hidden], to the new (h, c).

    See ``functional.lstm_cell``.

    >>> import graphc as gc
    >>> h, c = LSTMCell(3, 4)(gc.observed("x", (2, 3)))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    _gates, _states = 4, 2

    def forward(
        self, x: Value, hx: tuple[Value, Value] | None = None
    ) -> tuple[Value, Value]:
        """x [B, in], hx two of [B, hidden] -> two of [B, hidden]."""
        h, c = self._start(x, hx)
        return functional.lstm_cell(x, (h, c), *self._weights)


class GRUCell(_Cell):
    """One step: x [B, in] and h [B, hidden] to the new h; see ``functional.gru_cell``.

    >>> import graphc as gc
    >>> GRUCell(3, 4)(gc.observed("x", (2, 3))).shape
    (2, 4)
    """

    _gates = 3

    def forward(self, x: Value, hx: Value | None = None) -> Value:
        """x [B, in], hx [B, hidden] -> [B, hidden]."""
        (h,) = self._start(x, hx)
        return functional.gru_cell(x, h, *self._weights)


# ---- pieces that the layers over sequences share


def broadcast_states(
    name: str, hx: Any, count: int, shapes: Sequence[tuple[Extent, ...]], what: str
) -> State:
    """``hx`` as a tuple of states in their full shapes; a batch axis of 1 is spread."""
    states = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
    if len(states) != count:
        wanted = "(h, c)" if count == 2 else "one state"
        raise ShapeError(f"{name}: {what} is {wanted}, got {len(states)} of them", here())
    found = []
    for state, shape in zip(states, shapes, strict=True):
        value = lift_one(name, state)
        spread = (*shape[:-2], 1, shape[-1]) if len(shape) > 1 else shape
        if value.shape not in (shape, spread):
            listed = ", ".join(map(str, shape))
            raise ShapeError(f"{name}: {what} is {value.type}, it must be [{listed}]", here())
        found.append(ops.broadcast_to(value, shape))
    return tuple(found)
