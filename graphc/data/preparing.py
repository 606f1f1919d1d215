"""Splitting rows into parts with the same mix of classes, and bringing columns to one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.data.batching import row_count
from graphc.records import dataclass

__all__ = ["Standardizer", "split", "standardizer"]


def split(
    *arrays: NDArray[Any],
    fractions: Sequence[float] = (0.8, 0.2),
    stratify: ArrayLike | None = None,
    seed: int = 0,
) -> list[tuple[NDArray[Any], ...]]:
    """Random disjoint parts of the rows, one tuple of arrays for each of ``fractions``.

    ``stratify`` (class labels, one a row) gives every part the mix of classes of the whole, to
    within one row a class (two for a part in the middle). The draw is a function of ``seed``
    alone. Raises ValueError where fractions do not add up to 1 or a class has fewer rows than
    there are parts.

    >>> x, y = np.arange(20), np.repeat([0, 1], 10)
    >>> (a, ya), (b, yb) = split(x, y, stratify=y, seed=3)
    >>> np.bincount(ya).tolist(), np.bincount(yb).tolist(), len(set(a) | set(b))
    ([8, 8], [2, 2], 20)
    """
    arrays = tuple(np.asarray(a) for a in arrays)
    rows = row_count("split", arrays)
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.ndim != 1 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-9:
        raise ValueError(f"split: fractions are positive and add up to 1, not {tuple(fractions)}")
    if not rows:
        raise ValueError("split: there are no rows")
    classes = np.zeros(rows, np.int64) if stratify is None else np.asarray(stratify)
    if classes.shape != (rows,):
        raise ValueError(f"split: stratify has shape {classes.shape}, expected ({rows},)")

    generator = np.random.default_rng(seed)
    # class by class so far; in random order again
    parts = [generator.permutation(part) for part in split_rows(classes, shares, generator)]
    return [tuple(array[part] for array in arrays) for part in parts]


def split_rows(
    classes: NDArray[Any], shares: NDArray[np.float64], generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Row numbers of each part, class by class.

    Cuts of a class are the rounded cuts of all rows up to it, less those before it: what rounding
    takes from one class it gives to the next, so that parts have their exact size too.
    """
    taken: list[list[NDArray[np.int64]]] = [[] for _ in shares]
    cumulative = np.cumsum(shares)
    cumulative[-1] = 1.0
    seen = 0
    for label in np.unique(classes):
        members = generator.permutation(np.flatnonzero(classes == label))
        if len(members) < len(shares):
            raise ValueError(
                f"split: class {label} has {len(members)} rows, too few for {len(shares)} parts"
            )
        before = np.rint(cumulative * seen)
        seen += len(members)
        cuts = np.maximum.accumulate(np.rint(cumulative * seen) - before).astype(np.int64)
        for part, chunk in zip(taken, np.split(members, cuts[:-1]), strict=True):
            part.append(chunk)
    return [np.concatenate(chunks) for chunks in taken]


@dataclass(frozen=True)
class Standardizer:
    """Subtracts ``mean`` and divides by ``scale``, column by column; made by ``standardizer``."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """``x`` in units of the data it was fitted on, as float32."""
        return np.asarray((np.asarray(x) - self.mean) / self.scale, dtype=np.float32)

    def inverse(self, z: ArrayLike) -> NDArray[np.float32]:
        """Back to the units of the data."""
        return np.asarray(np.asarray(z) * self.scale + self.mean, dtype=np.float32)


def standardizer(x: ArrayLike) -> Standardizer:
    """Fit on the training rows only: mean 0 and standard deviation 1 for each column of ``x``.

    A constant column keeps the scale 1, so that it becomes 0 and not NaN. Sums are in float64.

    >>> scale = standardizer([[1.0, 5.0], [3.0, 5.0]])
    >>> scale([[1.0, 5.0], [5.0, 6.0]]).tolist()
    [[-1.0, 0.0], [3.0, 1.0]]
    """
    data = np.asarray(x, dtype=np.float64)
    if data.ndim == 0 or len(data) == 0:
        raise ValueError("standardizer: needs at least one row")
    deviation = data.std(axis=0)
    # rounding leaves a constant column a deviation of some ulps of its mean
    constant = deviation <= 1e-7 * np.abs(data.mean(axis=0))
    scale = np.where(constant | (deviation == 0), 1.0, deviation)
    return Standardizer(data.mean(axis=0), np.asarray(scale))
