"""A learning rate that falls when a metric stops improving: decided on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.errors import StateError
from graphc.optim.optimizer import Optimizer
from graphc.optim.whole_cost import WholeCostOptimizer

__all__ = ["ReduceOnPlateau"]


class ReduceOnPlateau:
    """Multiplies an optimizer's rates, those of its groups too, after ``patience`` calls without
    improvement.

    As ``torch.optim.lr_scheduler.ReduceLROnPlateau``: an improvement is one by more than
    ``threshold``, a share of the best metric (``threshold_mode`` "rel") or a number ("abs");
    ``mode`` "min" wants the metric small, "max" large. A rate that would fall by no more than
    ``eps`` stays.

    >>> import graphc as gc
    >>> opt = gc.optim.SGD(lr=1.0)
    >>> plateau = ReduceOnPlateau(opt, factor=0.5, patience=0)
    >>> [plateau.step(metric) for metric in (1.0, 1.0, 0.5)]
    [1.0, 0.5, 0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer | WholeCostOptimizer,
        *,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode is 'min' or 'max', not {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode is 'rel' or 'abs', not {threshold_mode!r}")
        if not 0.0 < factor < 1.0:
            raise ValueError(f"factor must be in (0, 1), got {factor}")
        self.optimizer, self.mode, self.factor = optimizer, mode, factor
        self.patience, self.threshold, self.threshold_mode = patience, threshold, threshold_mode
        self.cooldown, self.min_lr, self.eps = cooldown, min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self._bad, self._resting = 0, 0

    def step(self, metric: float) -> float:
        """Tell the metric of another epoch; the learning rate from here on comes back."""
        if self._improves(float(metric)):
            self.best, self._bad = float(metric), 0
        else:
            self._bad += 1
        if self._resting:
            self._resting, self._bad = self._resting - 1, 0
        if self._bad > self.patience:
            for rate in self.optimizer.rates():
                before = float(rate.numpy())
                after = max(before * self.factor, self.min_lr)
                if before - after > self.eps:
                    rate.set(after)
            self._bad, self._resting = 0, self.cooldown
        return self.optimizer.lr

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The best metric, the epochs without a better one, and those left to rest."""
        return {
            "best": np.asarray(self.best, np.float64),
            "bad": np.asarray(self._bad, np.int64),
            "resting": np.asarray(self._resting, np.int64),
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave, all or, on an error, nothing."""
        self.prepare_loading(d)()

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        """Check ``d`` and load nothing yet: the call that does."""
        if set(d) != set(self.state_dict()) or any(np.ndim(value) for value in d.values()):
            raise StateError(f"ReduceOnPlateau: expected the scalars best, bad, resting, got {d}")
        best, bad, resting = float(d["best"]), int(d["bad"]), int(d["resting"])

        def commit() -> None:
            self.best, self._bad, self._resting = best, bad, resting

        return commit

    def _improves(self, metric: float) -> bool:
        sign = 1.0 if self.mode == "min" else -1.0
        if self.threshold_mode == "abs":
            return sign * metric < sign * self.best - self.threshold
        return sign * metric < sign * self.best * (1.0 - sign * self.threshold)
