"""Costs to go down, in graphc, in PyTorch and as parameters to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphc as gc


@dataclass(frozen=True)
class Problem:
    """``cost(parameters, noise)`` works on Values and on tensors; ``noise`` is new in each step."""

    name: str
    start: tuple[Any, ...]
    cost: Callable[..., Any]

    def __str__(self) -> str:
        return self.name

    def parameters(self, dtype: str) -> list[gc.Value]:
        """Fresh ones."""
        arrays = [np.asarray(a, dtype) for a in self.start]
        return [gc.parameter(a, dtype).named(f"p{i}") for i, a in enumerate(arrays)]

    def noise(self, step: int) -> Any:
        """[2, 3], of every step its own."""
        return np.random.default_rng(step).normal(size=(2, 3))


def _bowl(p: Any, noise: Any) -> Any:
    """Badly conditioned: curvatures 1 and 50."""
    (w,) = p
    return 0.5 * (w[0] * w[0] + 50.0 * (w[1] - 1.0) * (w[1] - 1.0))


def _rosenbrock(p: Any, noise: Any) -> Any:
    x, y = p
    return ((1.0 - x) ** 2 + 100.0 * (y - x * x) ** 2).sum()


def _noisy_net(p: Any, noise: Any) -> Any:
    """A small network on inputs that change."""
    first, second, bias = p
    hidden = noise @ first + bias
    out = (hidden * hidden / (1.0 + hidden * hidden)) @ second
    return ((out - noise[:, :1]) ** 2).mean()


_DRAWN = np.random.default_rng(0)
PROBLEMS = [
    Problem("bowl", ([3.0, -2.0],), _bowl),
    Problem("Rosenbrock", ([-1.2, 0.5], [1.0, 0.0]), _rosenbrock),
    Problem(
        "net",
        (_DRAWN.normal(size=(3, 4)), _DRAWN.normal(size=(4, 1)), _DRAWN.normal(size=4)),
        _noisy_net,
    ),
]
