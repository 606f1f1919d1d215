"""Parts of the rows again and again: cross-validation, bootstrap samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.data.batching import row_count
from graphc.data.preparing import split_rows

__all__ = ["bootstrap", "kfold"]

Rows = tuple[NDArray[Any], ...]


def kfold(
    *arrays: NDArray[Any], k: int = 5, stratify: ArrayLike | None = None, seed: int = 0
) -> Iterator[tuple[Rows, Rows]]:
    """``k`` times (the other parts, one part) of the rows: to train on, and to test on.

    The parts are disjoint, of equal size to within one row, and with ``stratify`` (class labels)
    have the same mix of classes. The draw is a function of ``seed``. Raises ValueError where there
    are fewer rows (or of a class fewer) than parts.

    >>> x = np.arange(6)
    >>> [(len(a), len(b)) for (a,), (b,) in kfold(x, k=3)]
    [(4, 2), (4, 2), (4, 2)]
    """
    arrays = tuple(np.asarray(a) for a in arrays)
    rows = row_count("kfold", arrays)
    if not 2 <= k <= rows:
        raise ValueError(f"kfold: k is in 2..{rows} (the rows), not {k}")
    classes = np.zeros(rows, np.int64) if stratify is None else np.asarray(stratify)
    if classes.shape != (rows,):
        raise ValueError(f"kfold: stratify has shape {classes.shape}, expected ({rows},)")
    generator = np.random.default_rng(seed)
    parts = split_rows(classes, np.full(k, 1 / k), generator)
    parts = [generator.permutation(part) for part in parts]

    def folds() -> Iterator[tuple[Rows, Rows]]:
        for place, part in enumerate(parts):
            rest = np.concatenate([p for i, p in enumerate(parts) if i != place])
            yield tuple(a[rest] for a in arrays), tuple(a[part] for a in arrays)

    return folds()


def bootstrap(*arrays: NDArray[Any], seed: int = 0) -> tuple[Rows, Rows]:
    """As many rows drawn with replacement, and the rows that were not drawn (about 37%).

    A bag of an ensemble is trained on the first and tested on the second. Breiman, "Bagging
    Predictors", 1996.

    >>> (drawn,), (rest,) = bootstrap(np.arange(1000), seed=1)
    >>> len(drawn), 330 < len(rest) < 410, len(set(drawn) & set(rest))
    (1000, True, 0)
    """
    arrays = tuple(np.asarray(a) for a in arrays)
    rows = row_count("bootstrap", arrays)
    if not rows:
        raise ValueError("bootstrap: there are no rows")
    drawn = np.random.default_rng(seed).integers(0, rows, rows)
    rest = np.setdiff1d(np.arange(rows), drawn)
    return tuple(a[drawn] for a in arrays), tuple(a[rest] for a in arrays)
