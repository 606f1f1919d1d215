"""Principal components: axes along which the data have no correlation and variance 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.records import dataclass

__all__ = ["Whitener", "whitener"]


@dataclass(frozen=True)
class Whitener:
    """Made by ``whitener``. ``components`` [k, d] are orthonormal, largest variance first."""

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variance: NDArray[np.float64]  # of each component, as fitted
    epsilon: float
    zca: bool

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """x [n, d] -> [n, k] with covariance 1; with ``zca`` turned back to [n, d]."""
        turned = (np.asarray(x, np.float64) - self.mean) @ self.components.T
        scaled = turned / np.sqrt(self.variance + self.epsilon)
        return np.asarray(scaled @ self.components if self.zca else scaled, dtype=np.float32)

    def inverse(self, z: ArrayLike) -> NDArray[np.float32]:
        """Back to [n, d]: x itself where no component was left out."""
        given = np.asarray(z, np.float64)
        scaled = given @ self.components.T if self.zca else given
        turned = scaled * np.sqrt(self.variance + self.epsilon)
        return np.asarray(turned @ self.components + self.mean, dtype=np.float32)


def whitener(
    x: ArrayLike, components: int | None = None, epsilon: float = 1e-8, zca: bool = False
) -> Whitener:
    """Fit principal components to the training rows x [n, d]: ``(x - mean) V / sqrt(var + eps)``.

    ``components`` keeps so many, those of largest variance; ``epsilon`` keeps directions without
    variance from growing; ``zca`` turns back to the axes of the data, so that images stay images
    (Bell, Sejnowski 1997). In float64.

    >>> rows = np.random.default_rng(0).normal(size=(500, 3)) @ np.diag([1.0, 5.0, 9.0])
    >>> np.cov(whitener(rows)(rows).T, bias=True).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    data = np.asarray(x, dtype=np.float64)
    if data.ndim != 2 or len(data) < 2:
        raise ValueError(f"whitener: takes rows [n, d], n >= 2, got shape {data.shape}")
    kept = data.shape[1] if components is None else components
    if not 1 <= kept <= data.shape[1]:
        raise ValueError(f"whitener: components is in 1..{data.shape[1]}, not {kept}")
    if epsilon < 0:
        raise ValueError(f"whitener: epsilon is at least 0, not {epsilon}")
    mean = data.mean(axis=0)
    variance, vectors = np.linalg.eigh(np.cov(data.T, bias=True).reshape(data.shape[1], -1))
    order = np.argsort(variance)[::-1][:kept]
    axes = vectors[:, order].T
    # the sign of an axis is free: its largest entry is positive
    axes = axes * np.sign(axes[np.arange(kept), np.abs(axes).argmax(axis=1)])[:, None]
    return Whitener(mean, axes, np.maximum(variance[order], 0.0), epsilon, zca)
