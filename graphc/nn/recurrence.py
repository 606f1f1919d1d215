"""Recurrent nets: RNN, LSTM, GRU as scans over a sequence.

Names, arguments, parameters and layouts are PyTorch's. Two things are said otherwise:

- **Lengths.** Where PyTorch packs sequences, ``forward(x, hx, lengths)`` takes the padded batch and
  each row's length. The results are those of ``pad_packed_sequence``: outputs past a row's end
  are 0, final states are those of its last step, the backward direction starts there. What x holds
  past a row's end never matters, be it NaN.
- **A learned first state** is a parameter as ``hx`` whose batch axis is 1::

      self.h0 = gc.parameter((layers, 1, hidden));  out, h = self.rnn(x, self.h0)

**Truncated backpropagation through time** needs no more than states. Reading one is a constant to
derivatives, so a step reaches back to the start of its chunk and no further::

      h = gc.state((layers, batch, hidden))
      out, new = rnn(x, h)
      step = gc.compile([x, y], loss, optimizer.minimize(loss) | {h: new})
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, ClassVar

from graphc import ops
from graphc.control import scan
from graphc.dsl import parameter
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply
from graphc.nn import functional
from graphc.nn.cells import State, broadcast_states, check_sizes, uniform
from graphc.nn.functional.recurrence import check_nonlinearity
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import Extent, float32, int64

__all__ = ["GRU", "LSTM", "RNN"]

# ---- layers


class _Recurrent(Module):
    """Layers of one kind of cell over a sequence; a subclass gives the cell."""

    _gates: ClassVar[int] = 1
    _states: ClassVar[int] = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        dtype: object = float32,
    ) -> None:
        name = type(self).__name__
        check_sizes(name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"{name}: dropout is a probability in [0, 1], not {dropout}")
        if dropout and num_layers == 1:
            warnings.warn(f"{name}: dropout stands between layers; there is only one", stacklevel=3)
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"{name}: proj_size {proj_size} is not in 0..{hidden_size - 1}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional, self.proj_size = bidirectional, proj_size
        draw, rows = uniform(hidden_size), self._gates * hidden_size
        directions = len(self._suffixes)
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else self.output_size * directions
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (rows, inputs),
                "weight_hh": (rows, self.output_size),
            }
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            if proj_size:
                shapes |= {"weight_hr": (proj_size, hidden_size)}
            for suffix in self._suffixes:
                for kind, shape in shapes.items():
                    setattr(self, f"{kind}_l{layer}{suffix}", parameter(shape, dtype, init=draw))

    @property
    def output_size(self) -> int:
        """What one direction puts out: hidden_size, or proj_size where that is given."""
        return self.proj_size or self.hidden_size

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def _cell(self, x: Value, state: State, weights: dict[str, Any]) -> State:
        """One step of a layer and direction: x [B, in] and the state before it to the next one."""
        raise TypeError(f"{type(self).__name__} does not say its cell")

    def _weights(self, layer: int, suffix: str) -> dict[str, Any]:
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        names = {kind: f"{kind}_l{layer}{suffix}" for kind in kinds}
        return {kind: getattr(self, name) for kind, name in names.items() if hasattr(self, name)}

    def forward(self, x: Value, hx: Any = None, lengths: Value | None = None) -> tuple[Value, Any]:
        """x [T, B, in] (``batch_first``: [B, T, in]; one sequence: [T, in]) to outputs and states.

        Outputs are [T, B, directions * output_size], laid out as x; states, also ``hx``, are
        [num_layers * directions, B, size]. ``lengths`` [B], integers in 0..T, says how long each
        row is.
        """
        self._check_input(x, lengths)
        single = x.ndim == 2
        if single:
            x = ops.expand_dims(x, 1)
            hx = _each(hx, lambda v: ops.expand_dims(v, 1))
        elif self.batch_first:
            x = ops.swapaxes(x, 0, 1)
        valid = None
        if lengths is not None:
            valid = _valid(lengths, x.shape[0])
            x = ops.where(valid, x, 0.0)  # a NaN there would reach the weights' derivatives
        flow, final = self._layers(x, self._start(x, hx), valid)
        if single:
            return ops.squeeze(flow, 1), self._as_given(ops.squeeze(v, 1) for v in final)
        if self.batch_first:
            flow = ops.swapaxes(flow, 0, 1)
        return flow, self._as_given(final)

    def _layers(self, flow: Value, start: State, valid: Value | None) -> tuple[Value, State]:
        """All layers over [T, B, in]; the final states are stacked like the first ones."""
        finals: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            if layer and self.dropout:
                flow = functional.dropout(flow, self.dropout)
            for suffix in self._suffixes:
                before = tuple(v[len(finals)] for v in start)
                final, out = self._direction(flow, before, layer, suffix, valid)
                finals.append(final)
                outputs.append(out)
            flow = ops.concat(outputs, -1) if len(outputs) > 1 else outputs[0]
        return flow, tuple(ops.stack(kind) for kind in zip(*finals, strict=True))

    def _direction(
        self, flow: Value, start: State, layer: int, suffix: str, valid: Value | None
    ) -> tuple[State, Value]:
        """One scan. Past a row's end the state stays, and the output is 0."""
        weights = self._weights(layer, suffix)

        def body(state: State, step: Any) -> tuple[State, Value]:
            x, inside = step
            new = self._cell(x, state, weights)
            if inside is None:
                return new, new[0]
            new = tuple(ops.where(inside, a, b) for a, b in zip(new, state, strict=True))
            return new, ops.where(inside, new[0], 0.0)

        name = f"layer{layer}{suffix}"
        return scan(body, start, (flow, valid), reverse=bool(suffix), name=name)

    def step(self, x: Value, hx: Any = None) -> tuple[Value, Any]:
        """One step of all layers, for loops of one's own: x [B, in] to [B, output_size].

        ``hx`` and the states that come back are those of ``forward``. It makes
        ``forward`` of a sequence of length 1; a bidirectional net has no step.

        >>> import graphc as gc
        >>> out, (h, c) = LSTM(3, 4, num_layers=2).step(gc.observed("x", (5, 3)))
        >>> out.shape, h.shape
        ((5, 4), (2, 5, 4))
        """
        name = self._own_name
        if self.bidirectional:
            raise ShapeError(f"{name}.step: the other direction needs the whole sequence", here())
        if x.ndim != 2:
            raise ShapeError(f"{name}.step: x is {x.type}, it must be [batch, in]", here())
        start = self._start(ops.expand_dims(x, 0), hx)
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = functional.dropout(x, self.dropout)
            before = tuple(v[layer] for v in start)
            finals.append(self._cell(x, before, self._weights(layer, "")))
            x = finals[-1][0]
        return x, self._as_given(ops.stack(kind) for kind in zip(*finals, strict=True))

    def _as_given(self, states: Any) -> Any:
        found = tuple(states)
        return found if self._states > 1 else found[0]

    def _start(self, x: Value, hx: Any) -> State:
        """The states before the first step, [layers, B, size]; zeros where none are given."""
        count, batch = self.num_layers * len(self._suffixes), x.shape[1]
        sizes = (self.output_size, self.hidden_size)[: self._states]
        shapes = [(count, batch, size) for size in sizes]
        if hx is None:
            return tuple(ops.zeros(shape, x.dtype) for shape in shapes)
        return broadcast_states(self._own_name, hx, self._states, shapes, "hx")

    def _check_input(self, x: Value, lengths: Value | None) -> None:
        name, order = self._own_name, "B, T" if self.batch_first else "T, B"
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{name}: x is {x.type}, it must be [{order}, {self.input_size}], or of one "
                f"sequence [T, {self.input_size}]",
                here(),
            )
        if lengths is None:
            return
        rows = x.shape[0 if self.batch_first else 1]
        if x.ndim == 2 or lengths.shape != (rows,):
            raise ShapeError(
                f"{name}: lengths is {lengths.type}, one for each row of x {x.type}", here()
            )
        if lengths.dtype.kind not in "iu":
            raise DTypeError(f"{name}: lengths are integers, got {lengths.type}", here())

    def _describe(self) -> str:
        said = {
            "num_layers": self.num_layers > 1, "batch_first": self.batch_first,
            "dropout": bool(self.dropout), "bidirectional": self.bidirectional,
            "proj_size": bool(self.proj_size),
        }  # fmt: skip
        more = "".join(f", {name}={getattr(self, name)}" for name, shown in said.items() if shown)
        return f"{self.input_size}, {self.hidden_size}{more}"


class RNN(_Recurrent):
    """Elman's net over a sequence; its cell is ``functional.rnn_cell``.

    x [T, B, in] to (outputs [T, B, hidden], final h [layers, B, hidden]); see ``forward``.

    >>> import graphc as gc
    >>> out, h = RNN(3, 4, bidirectional=True)(gc.observed("x", (7, 2, 3)))
    >>> out.shape, h.shape
    ((7, 2, 8), (2, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: object = float32,
    ) -> None:
        check_nonlinearity("RNN", nonlinearity)
        super().__init__(
            *(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional),
            dtype=dtype,
        )
        self.nonlinearity = nonlinearity

    def _cell(self, x: Value, state: State, weights: dict[str, Any]) -> State:
        (h,) = state
        cell = functools.partial(functional.rnn_cell, nonlinearity=self.nonlinearity)
        return (cell(x, h, **weights),)


class LSTM(_Recurrent):
    """Long short-term memory over a sequence; its cell is ``functional.lstm_cell``.

    x [T, B, in] to (outputs [T, B, hidden], (h, c)), with ``proj_size`` outputs and h of that size.

    >>> import graphc as gc
    >>> out, (h, c) = LSTM(3, 4, batch_first=True)(gc.observed("x", (2, 7, 3)))
    >>> out.shape, h.shape, c.shape
    ((2, 7, 4), (1, 2, 4), (1, 2, 4))
    """

    _gates, _states = 4, 2

    def _cell(self, x: Value, state: State, weights: dict[str, Any]) -> State:
        h, c = state
        return functional.lstm_cell(x, (h, c), **weights)


class GRU(_Recurrent):
    """Gated recurrent units over a sequence; the cell is ``functional.gru_cell``.

    >>> import graphc as gc
    >>> out, h = GRU(3, 4, num_layers=2)(gc.observed("x", (7, 2, 3)))
    >>> out.shape, h.shape
    ((7, 2, 4), (2, 2, 4))
    """

    _gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: object = float32,
    ) -> None:
        super().__init__(
            *(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional),
            dtype=dtype,
        )

    def _cell(self, x: Value, state: State, weights: dict[str, Any]) -> State:
        (h,) = state
        return (functional.gru_cell(x, h, **weights),)


# ---- pieces


def _each(hx: Any, f: Any) -> Any:
    if hx is None:
        return None
    return tuple(f(v) for v in hx) if isinstance(hx, (tuple, list)) else f(hx)


def _valid(lengths: Value, steps: Extent) -> Value:
    """bool [T, B, 1]: whether a step lies inside of its row. Checks that lengths are in 0..T."""
    known = apply("gather", ops.arange(steps + 1), lengths.astype(int64), axis=0, batch_dims=0)
    return ops.expand_dims(ops.expand_dims(ops.arange(steps), -1) < known, -1)
