"""Losses with parameters or structure of their own: CTC, and a softmax for very many classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graphc import ops
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.cells import check_sizes
from graphc.nn.containers import Sequential
from graphc.nn.functional.pieces import known_reduction
from graphc.nn.layers import Linear
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import float32

__all__ = ["ASMoutput", "AdaptiveLogSoftmaxWithLoss", "CTCLoss"]


class CTCLoss(Module):
    """Labels whose places in a sequence are not known; see ``functional.ctc_loss``."""

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ) -> None:
        self.reduction = known_reduction(reduction)
        self.blank, self.zero_infinity = blank, zero_infinity

    def forward(
        self, log_probs: Value, targets: Value, input_lengths: Value, target_lengths: Value
    ) -> Value:
        """[T, N, C], [N, S], [N], [N] to a scalar (unless ``reduction="none"``)."""
        options = self.blank, self.reduction, self.zero_infinity
        return functional.ctc_loss(log_probs, targets, input_lengths, target_lengths, *options)


class ASMoutput(NamedTuple):
    """The log-probability of each target [N], and minus their mean."""

    output: Value
    loss: Value


class AdaptiveLogSoftmaxWithLoss(Module):
    """A softmax over classes in order of frequency, rare ones behind narrower layers.

    ``cutoffs`` cut 0..n_classes into a head of frequent classes and clusters i = 0, 1, ...; the
    head scores its classes and the clusters, cluster i its classes from in_features /
    div_value^(i + 1) features::

        log p(c) = head[c]                            c in the head
        log p(c) = head[cluster i] + tail i[c]        else

    Grave et al., "Efficient softmax approximation for GPUs", 2017. Shapes are static here, so every
    row goes through every cluster: parameters are saved, time is not.

    >>> import graphc as gc
    >>> layer = AdaptiveLogSoftmaxWithLoss(16, 100, [10, 30])
    >>> out = layer(gc.observed("x", (8, 16)), gc.observed("y", (8,), gc.int64))
    >>> out.output.shape, out.loss.shape
    ((8,), ())
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        *,
        dtype: object = float32,
    ) -> None:
        cuts, name = list(cutoffs), "AdaptiveLogSoftmaxWithLoss"
        check_sizes(name, in_features=in_features, n_classes=n_classes)
        whole = all(isinstance(cut, int) and not isinstance(cut, bool) for cut in cuts)
        increasing = whole and cuts == sorted(set(cuts))
        if not cuts or not increasing or cuts[0] <= 0 or cuts[-1] > n_classes - 1:
            raise ValueError(
                f"{name}: cutoffs are increasing ints between 1 and "
                f"n_classes - 1 = {n_classes - 1}, got {cuts}"
            )
        self.in_features, self.n_classes, self.cutoffs = in_features, n_classes, [*cuts, n_classes]
        self.div_value = div_value
        self.head = Linear(in_features, cuts[0] + len(cuts), head_bias, dtype=dtype)
        self.tail = []
        for i, (low, high) in enumerate(zip(cuts, self.cutoffs[1:], strict=True)):
            narrow = int(in_features // div_value ** (i + 1))
            if narrow < 1:
                raise ValueError(
                    f"{name}: cluster {i} would have {in_features} // "
                    f"{div_value}^{i + 1} = 0 features; fewer cutoffs or a smaller div_value"
                )
            first = Linear(in_features, narrow, bias=False, dtype=dtype)
            self.tail.append(Sequential(first, Linear(narrow, high - low, bias=False, dtype=dtype)))

    def forward(self, input: Value, target: Value) -> ASMoutput:
        """[N, in_features] and labels [N] (or one sample's, without N) to ASMoutput."""
        if input.ndim not in (1, 2) or target.shape != input.shape[:-1]:
            raise ShapeError(
                f"AdaptiveLogSoftmaxWithLoss: input is [N, in_features] and target [N], got "
                f"{input.type} and {target.type}",
                here(),
            )
        each = -functional.nll_loss(self.log_prob(input), target, reduction="none")
        return ASMoutput(each, -ops.mean(each))

    def log_prob(self, input: Value) -> Value:
        """[N, in_features] -> log-probabilities of all classes, [N, n_classes]."""
        head = functional.log_softmax(self.head(input), -1)
        first = self.cutoffs[0]
        parts = [head[..., :first]]
        for i, cluster in enumerate(self.tail):
            inside = functional.log_softmax(cluster(input), -1)
            parts.append(inside + head[..., first + i : first + i + 1])
        return ops.concat(parts, -1)

    def predict(self, input: Value) -> Value:
        """The most probable class: [N, in_features] -> [N]."""
        return ops.argmax(self.log_prob(input), -1)

    def _describe(self) -> str:
        return f"{self.in_features}, {self.n_classes}, cutoffs={self.cutoffs[:-1]}"
