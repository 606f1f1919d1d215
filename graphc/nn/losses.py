"""Losses as modules: what compares a prediction with a target, drawn as a square."""

from __future__ import annotations

from typing import Any

from graphc.dsl import state
from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.module import Module

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "MSELoss"]


class CrossEntropyLoss(Module):
    """Cross-entropy of logits [N, C] with labels [N]; see ``functional.cross_entropy``.

    >>> import graphc as gc
    >>> x, y = gc.observed("x", (8, 10)), gc.observed("y", (8,), gc.int64)
    >>> CrossEntropyLoss()(x, y).shape
    ()
    """

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        self.weight = weight if weight is None or isinstance(weight, Value) else state(weight)
        self.ignore_index = ignore_index
        self.reduction, self.label_smoothing = reduction, label_smoothing

    def forward(self, input: Value, target: Value) -> Value:
        """Logits and labels to a scalar (unless ``reduction="none"``)."""
        return functional.cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class MSELoss(Module):
    """The mean of ``(input - target)^2``."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.mse_loss(input, target, self.reduction)


class BCEWithLogitsLoss(Module):
    """Binary cross-entropy of logits, without overflow."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.binary_cross_entropy_with_logits(input, target, self.reduction)
