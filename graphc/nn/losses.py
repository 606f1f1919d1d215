"""Losses as modules, drawn as squares: what compares a prediction with a target.

Names and arguments are PyTorch's; the formulas and their sources stand in ``nn.functional``.
``reduction`` is "mean", "sum" or "none" (the elements). A weight is an array, kept as a buffer, or
a Value.
"""

from __future__ import annotations

from typing import Any

from graphc.dsl import state
from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.functional.pieces import known_reduction
from graphc.nn.module import Module

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
]


class _Loss(Module):
    """What all have: the reduction, checked where it is written."""

    _reductions: tuple[str, ...] = ()

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = known_reduction(reduction, more=self._reductions)

    def _describe(self) -> str:
        return f"reduction={self.reduction!r}"


def _buffer(weight: Any) -> Any:
    return weight if weight is None or isinstance(weight, Value) else state(weight)


# ---- distances


class MSELoss(_Loss):
    """The mean of ``(input - target)^2``."""

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.mse_loss(input, target, self.reduction)


class L1Loss(_Loss):
    """The mean of ``|input - target|``."""

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.l1_loss(input, target, self.reduction)


class SmoothL1Loss(_Loss):
    """Quadratic where ``|input - target| < beta``, linear with slope 1 elsewhere."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.smooth_l1_loss(input, target, self.reduction, self.beta)


class HuberLoss(_Loss):
    """Quadratic where ``|input - target| <= delta``, linear with slope ``delta`` elsewhere."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.huber_loss(input, target, self.reduction, self.delta)


# ---- distributions


class BCELoss(_Loss):
    """Binary cross-entropy of probabilities, times ``weight``."""

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = _buffer(weight)

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.binary_cross_entropy(input, target, self.weight, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of logits, without overflow; ``pos_weight`` weighs positive targets."""

    def __init__(
        self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
    ) -> None:
        super().__init__(reduction)
        self.weight, self.pos_weight = _buffer(weight), _buffer(pos_weight)

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.binary_cross_entropy_with_logits(
            input, target, self.weight, self.reduction, self.pos_weight
        )


class SoftMarginLoss(_Loss):
    """``log(1 + exp(-target input))`` of targets -1 or 1."""

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.soft_margin_loss(input, target, self.reduction)


class KLDivLoss(_Loss):
    """``target (log target - input)`` of log-probabilities; "batchmean" divides by the batch."""

    _reductions = ("batchmean",)

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.kl_div(input, target, self.reduction, self.log_target)


class GaussianNLLLoss(_Loss):
    """Negative log-likelihood of targets under normal distributions of given mean and variance."""

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.full, self.eps = full, eps

    def forward(self, input: Value, target: Value, var: Value) -> Value:
        """Mean, target and variance to a scalar (unless ``reduction="none"``)."""
        options = self.full, self.eps, self.reduction
        return functional.gaussian_nll_loss(input, target, var, *options)


class PoissonNLLLoss(_Loss):
    """Negative log-likelihood of counts under Poisson distributions of given (log-)expectation."""

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        eps: float = 1e-8,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.log_input, self.full, self.eps = log_input, full, eps

    def forward(self, log_input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        options = self.log_input, self.full, self.eps, self.reduction
        return functional.poisson_nll_loss(log_input, target, *options)


# ---- classes


class CrossEntropyLoss(_Loss):
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
        super().__init__(reduction)
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        self.weight, self.ignore_index = _buffer(weight), ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Value, target: Value) -> Value:
        """Logits and labels to a scalar (unless ``reduction="none"``)."""
        return functional.cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(_Loss):
    """``-input[label]`` of log-probabilities [N, C]; see ``functional.nll_loss``."""

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.weight, self.ignore_index = _buffer(weight), ignore_index

    def forward(self, input: Value, target: Value) -> Value:
        """Log-probabilities and labels to a scalar (unless ``reduction="none"``)."""
        options = self.weight, self.ignore_index, self.reduction
        return functional.nll_loss(input, target, *options)


class MultiMarginLoss(_Loss):
    """The label's score should be the largest by ``margin``; ``p`` is 1 or 2."""

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        if p not in (1, 2):
            raise ValueError(f"MultiMarginLoss: p is 1 or 2, got {p}")
        self.p, self.margin, self.weight = p, margin, _buffer(weight)

    def forward(self, input: Value, target: Value) -> Value:
        """Scores [N, C] and labels [N] to a scalar (unless ``reduction="none"``)."""
        options = self.p, self.margin, self.weight, self.reduction
        return functional.multi_margin_loss(input, target, *options)


class MultiLabelMarginLoss(_Loss):
    """Every label's score should be larger by 1 than those of all other classes."""

    def forward(self, input: Value, target: Value) -> Value:
        """Scores [N, C] and labels [N, C], ended by -1, to a scalar."""
        return functional.multilabel_margin_loss(input, target, self.reduction)


class MultiLabelSoftMarginLoss(_Loss):
    """Binary cross-entropy of each class's logit, the mean over the classes."""

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = _buffer(weight)

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors [N, C] to a scalar (unless ``reduction="none"``)."""
        return functional.multilabel_soft_margin_loss(input, target, self.weight, self.reduction)
