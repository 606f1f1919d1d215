"""Distances, similarities and their losses as modules. Names and arguments are PyTorch's; the
formulas and their sources stand in ``nn.functional``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from graphc import ops
from graphc.dsl import parameter
from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.functional.pieces import known_reduction
from graphc.nn.module import Module
from graphc.types import float32

__all__ = [
    "CLIPLoss",
    "CosineEmbeddingLoss",
    "CosineSimilarity",
    "HingeEmbeddingLoss",
    "InfoNCELoss",
    "MarginRankingLoss",
    "PairwiseDistance",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]


class _Loss(Module):
    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = known_reduction(reduction)

    def _describe(self) -> str:
        return f"reduction={self.reduction!r}"


# ---- distances


class PairwiseDistance(Module):
    """The p-norm of ``x1 - x2 + eps`` along the last axis."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        self.norm, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Value, x2: Value) -> Value:
        """[N, D] and [N, D] to [N]."""
        return functional.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)


class CosineSimilarity(Module):
    """The cosine of the angle between vectors along ``dim``."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        self.dim, self.eps = dim, eps

    def forward(self, x1: Value, x2: Value) -> Value:
        """[.., D, ..] and [.., D, ..] to [.., ..]."""
        return functional.cosine_similarity(x1, x2, self.dim, self.eps)


# ---- pairs


class HingeEmbeddingLoss(_Loss):
    """A distance where the target is 1, what it lacks to ``margin`` where it is -1."""

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input: Value, target: Value) -> Value:
        """Two tensors of one shape to a scalar (unless ``reduction="none"``)."""
        return functional.hinge_embedding_loss(input, target, self.margin, self.reduction)


class MarginRankingLoss(_Loss):
    """input1 should be larger by ``margin`` where the target is 1, smaller where it is -1."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input1: Value, input2: Value, target: Value) -> Value:
        """Three tensors of one shape to a scalar (unless ``reduction="none"``)."""
        options = self.margin, self.reduction
        return functional.margin_ranking_loss(input1, input2, target, *options)


class CosineEmbeddingLoss(_Loss):
    """Vectors should point the same way where the target is 1, apart where it is -1."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input1: Value, input2: Value, target: Value) -> Value:
        """[N, D], [N, D] and [N] to a scalar (unless ``reduction="none"``)."""
        options = self.margin, self.reduction
        return functional.cosine_embedding_loss(input1, input2, target, *options)


# ---- triplets


class TripletMarginLoss(_Loss):
    """The anchor should be nearer to the positive than to the negative by ``margin``."""

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        if not margin > 0.0:
            raise ValueError(f"TripletMarginLoss: margin must be > 0, got {margin}")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor: Value, positive: Value, negative: Value) -> Value:
        """Three tensors [N, D] to a scalar (unless ``reduction="none"``)."""
        options = self.margin, self.p, self.eps, self.swap, self.reduction
        return functional.triplet_margin_loss(anchor, positive, negative, *options)


class TripletMarginWithDistanceLoss(_Loss):
    """As TripletMarginLoss, with any distance of two Values."""

    def __init__(
        self,
        *,
        distance_function: Callable[[Value, Value], Value] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        if not margin > 0.0:
            raise ValueError(f"TripletMarginWithDistanceLoss: margin must be > 0, got {margin}")
        self.distance_function, self.margin, self.swap = distance_function, margin, swap

    def forward(self, anchor: Value, positive: Value, negative: Value) -> Value:
        """Three tensors [N, D] to a scalar (unless ``reduction="none"``)."""
        return functional.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )


# ---- contrast


class InfoNCELoss(_Loss):
    """Each query should find its own key among the batch's; see ``functional.info_nce_loss``."""

    def __init__(
        self, temperature: float = 0.07, symmetric: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        if not temperature > 0.0:
            raise ValueError(f"InfoNCELoss: temperature must be > 0, got {temperature}")
        self.temperature, self.symmetric = temperature, symmetric

    def forward(self, query: Value, key: Value) -> Value:
        """[N, D] and [N, D] to a scalar (unless ``reduction="none"``)."""
        options = self.temperature, self.symmetric, self.reduction
        return functional.info_nce_loss(query, key, *options)


class CLIPLoss(Module):
    """``info_nce_loss`` both ways with a learned temperature exp(-logit_scale).

    ``logit_scale`` starts at log(1 / 0.07) and counts as at most log 100 (Radford et al. 2021).

    >>> import graphc as gc
    >>> CLIPLoss()(gc.observed("image", (8, 16)), gc.observed("text", (8, 16))).shape
    ()
    """

    def __init__(self, *, dtype: object = float32) -> None:
        self.logit_scale = parameter(np.asarray(math.log(1.0 / 0.07)), dtype)

    def forward(self, image: Value, text: Value) -> Value:
        """[N, D] and [N, D] to a scalar."""
        scale = ops.minimum(self.logit_scale, math.log(100.0))
        return functional.info_nce_loss(image, text, ops.exp(-scale), symmetric=True)
