"""Random programs of elementwise, reducing, moving and contracting ops, written value by value."""

from __future__ import annotations

import numpy as np

import graphc as gc
from graphc import ops
from graphc.graph import ancestors

_UNARY = ("exp", "tanh", "abs", "neg", "sigmoid", "square")
_BINARY = ("+", "-", "*", "max", "min", "where")


class Writer:
    """Grows a program value by value; every step picks among what exists."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        sizes = [1, 2, 3, 4, 6, 8, 12]
        self.inputs = [
            gc.observed(f"x{n}", tuple(int(e) for e in self.rng.choice(sizes, self.pick(1, 4))))
            for n in range(2)
        ]
        self.values: list[gc.Value] = list(self.inputs)

    def pick(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high))

    def any(self) -> gc.Value:
        recent = self.pick(0, 3)
        first = max(0, len(self.values) - 5) if recent else 0
        return self.values[self.pick(first, len(self.values))]

    def step(self) -> None:
        rules = [self.unary, self.binary, self.binary, self.reduce, self.move, self.move]
        rules += [self.contract, self.spread]
        made = rules[self.pick(0, len(rules))](self.any())
        elements = made.size
        if isinstance(elements, int) and 0 < elements <= 4096 and made.ndim <= 4:
            self.values.append(made)

    def unary(self, x: gc.Value) -> gc.Value:
        match _UNARY[self.pick(0, len(_UNARY))]:
            case "exp":
                return ops.exp(ops.tanh(x))
            case "tanh":
                return ops.tanh(x)
            case "abs":
                return ops.abs(x)
            case "neg":
                return -x
            case "sigmoid":
                return ops.sigmoid(x)
            case _:
                return ops.tanh(x * x)

    def binary(self, x: gc.Value) -> gc.Value:
        same = [v for v in self.values if v.shape == x.shape]
        y = same[self.pick(0, len(same))]
        match _BINARY[self.pick(0, len(_BINARY))]:
            case "+":
                return x + y
            case "-":
                return x - y
            case "*":
                return ops.tanh(x) * y
            case "max":
                return ops.maximum(x, y)
            case "min":
                return ops.minimum(x, y)
            case _:
                return ops.where(x < y, x, 0.5 * y)

    def reduce(self, x: gc.Value) -> gc.Value:
        if not x.ndim:
            return x * 0.5
        axis, kept = self.pick(0, x.ndim), bool(self.pick(0, 2))
        match self.pick(0, 4):
            case 0:
                return x.max(axis=axis, keepdims=kept)
            case 1:
                return x.mean(axis=axis, keepdims=kept)
            case 2:
                return x.mean()
            case _:
                return x.sum(axis=axis, keepdims=kept) * 0.3

    def move(self, x: gc.Value) -> gc.Value:
        if not x.ndim:
            return x + 1.0
        axis = self.pick(0, x.ndim)
        match self.pick(0, 6):
            case 0:
                order = tuple(int(i) for i in self.rng.permutation(x.ndim))
                return ops.permute_dims(x, order)
            case 1:
                return x.reshape(-1)
            case 2:
                return ops.flip(x, axis=axis)
            case 3:
                cut = [slice(None)] * x.ndim
                first = self.pick(0, 2) if x.shape[axis] != 1 else 0
                cut[axis] = slice(first, None, self.pick(1, 3))
                return x[tuple(cut)]
            case 4:
                return ops.concat([x, ops.tanh(x)], axis=axis)
            case _:
                return ops.pad(x, [(self.pick(0, 2), self.pick(0, 3))] * x.ndim)

    def contract(self, x: gc.Value) -> gc.Value:
        if x.ndim != 2:
            return ops.tanh(x)
        fitting = [v for v in self.values if v.ndim == 2 and v.shape[0] == x.shape[1]]
        y = fitting[self.pick(0, len(fitting))] if fitting else x.T
        return (x @ y) * 0.2

    def spread(self, x: gc.Value) -> gc.Value:
        """Broadcast along a new or a kept axis."""
        wide = [v for v in self.values if v.ndim > x.ndim and v.shape[v.ndim - x.ndim :] == x.shape]
        return wide[self.pick(0, len(wide))] - x if wide else ops.tanh(x)


def program(seed: int, low: int = 4, high: int = 18) -> tuple[list[gc.Value], list[gc.Value]]:
    """The inputs and three outputs of a random program."""
    writer = Writer(seed)
    for _ in range(writer.pick(low, high)):
        writer.step()
    outputs = [writer.values[-1], writer.any(), writer.any()]
    return needed(outputs), outputs


def needed(values: list[gc.Value]) -> list[gc.Value]:
    """The observed values that ``values`` need."""
    return [n.outputs[0] for n in ancestors(values) if n.op == "observed"]
