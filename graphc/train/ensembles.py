"""Several models as one: mixtures, products, boosting. Bags are drawn by ``graphc.data.bootstrap``.

::

    mixture    arithmetic mean of probabilities: says what one of the models might
    product    geometric mean, renormalized: says what all of them can agree on
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc import ops
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.source import here

__all__ = ["Boosting", "mixture", "product"]


def mixture(logits: Sequence[Value], weights: Sequence[float] | None = None) -> Value:
    """``sum_m w_m softmax(logits_m)``: probabilities [..., C]; weights are scaled to sum 1.

    >>> import graphc as gc
    >>> mixture([gc.observed("a", (2, 3)), gc.observed("b", (2, 3))]).shape
    (2, 3)
    """
    shares = _shares("mixture", logits, weights)
    odds = [share * ops.softmax(z, -1) for share, z in zip(shares, logits, strict=True)]
    return _total(odds)


def product(logits: Sequence[Value], weights: Sequence[float] | None = None) -> Value:
    """``softmax(sum_m w_m log softmax(logits_m))``: probabilities [..., C] (Hinton 2002).

    >>> import graphc as gc
    >>> product([gc.observed("a", (2, 3)), gc.observed("b", (2, 3))]).shape
    (2, 3)
    """
    shares = _shares("product", logits, weights)
    logs = [share * ops.log_softmax(z, -1) for share, z in zip(shares, logits, strict=True)]
    return ops.softmax(_total(logs), -1)


def _total(values: list[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _shares(who: str, logits: Sequence[Value], weights: Sequence[float] | None) -> list[float]:
    if not logits:
        raise ValueError(f"{who}: there is no model")
    if any(z.type != logits[0].type for z in logits):
        listed = ", ".join(str(z.type) for z in logits)
        raise ShapeError(f"{who}: the logits differ in type: {listed}", here())
    given = np.ones(len(logits)) if weights is None else np.asarray(weights, np.float64)
    if given.shape != (len(logits),) or (given < 0).any() or given.sum() <= 0:
        raise ValueError(f"{who}: weights are positive, one for each of {len(logits)} models")
    return [float(share) for share in given / given.sum()]


class Boosting:
    """AdaBoost for several classes (SAMME): models one after the other, each trained where those
    before it were wrong.

    ::

        err    = sum of weights of the rows that are wrong
        alpha  = log((1 - err) / err) + log(classes - 1)
        weights of the wrong rows times exp(alpha), renormalized

    Train a model with the rows' ``weights``, ``add`` its predictions, and so on; ``vote`` weighs
    the models by alpha. Zhu, Zou, Rosset, Hastie, "Multi-class AdaBoost", 2009.

    >>> y = np.array([0, 0, 1, 1])
    >>> boosting = Boosting(y)
    >>> alpha = boosting.add([0, 0, 1, 0])
    >>> boosting.weights.round(3).tolist()
    [0.167, 0.167, 0.167, 0.5]
    """

    def __init__(self, labels: ArrayLike) -> None:
        self.labels = np.asarray(labels)
        if self.labels.ndim != 1 or self.labels.dtype.kind not in "iu" or not len(self.labels):
            raise ValueError(f"Boosting: labels are integers [n], got {self.labels.dtype}")
        if self.labels.min() < 0:
            raise ValueError("Boosting: labels are classes from 0 on, one of them is negative")
        self.classes = int(self.labels.max()) + 1
        self.weights: NDArray[np.float64] = np.full(len(self.labels), 1 / len(self.labels))
        self.alphas: list[float] = []

    def add(self, predictions: ArrayLike) -> float:
        """Count a model's predictions [n]: its alpha, 0 where it is no better than chance."""
        wrong = self._known(predictions) != self.labels
        error = float(np.clip((self.weights * wrong).sum(), 1e-10, 1 - 1e-10))
        alpha = max(0.0, math.log((1 - error) / error) + math.log(max(self.classes - 1, 1)))
        self.weights = self.weights * np.exp(alpha * wrong)
        self.weights = self.weights / self.weights.sum()
        self.alphas.append(alpha)
        return alpha

    def vote(self, predictions: Sequence[ArrayLike]) -> NDArray[np.int64]:
        """The class that has most alpha, for predictions [n] of each model."""
        if len(predictions) != len(self.alphas):
            raise ValueError(f"Boosting: {len(self.alphas)} models, {len(predictions)} predictions")
        votes: Any = 0.0
        for alpha, given in zip(self.alphas, predictions, strict=True):
            chosen = np.asarray(given)
            if chosen.size and not 0 <= chosen.min() <= chosen.max() < self.classes:
                raise ValueError(f"Boosting: predictions are not all in 0..{self.classes - 1}")
            votes = votes + alpha * np.eye(self.classes)[chosen]
        best: NDArray[np.int64] = np.asarray(votes).argmax(axis=1)
        return best

    def _known(self, predictions: ArrayLike) -> NDArray[Any]:
        given = np.asarray(predictions)
        if given.shape != self.labels.shape:
            raise ValueError(
                f"Boosting: predictions have shape {given.shape}, labels {self.labels.shape}"
            )
        return given


