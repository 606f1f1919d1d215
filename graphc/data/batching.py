"""Rows of arrays, some at a time.

The last batch holds what is left, so that no row is lost; means over batches must weight it by its
rows, as ``graphc.train.evaluate`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batches", "Transform", "batches", "row_count"]

#: augmentation: (generator, the batch's arrays) -> arrays
Transform = Callable[..., tuple[NDArray[Any], ...]]


class Batches:
    """An iterable of tuples of arrays, made by ``batches``; each iteration is the next epoch."""

    def __init__(
        self,
        arrays: tuple[NDArray[Any], ...],
        size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        transform: Transform | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"batches: a batch has at least one row, not {size}")
        self.arrays, self.size = arrays, size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.transform = transform
        self.rows = row_count("batches", arrays)
        self.epoch = 0  # of the next iteration; assign it to go on after a restart

    def __len__(self) -> int:
        """Batches in one epoch."""
        return self.rows // self.size if self.drop_last else -(-self.rows // self.size)

    def __iter__(self) -> Iterator[tuple[NDArray[Any], ...]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._batches(epoch)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The order of the rows in ``epoch``, a function of the seed and the epoch alone.

        >>> b = batches(np.arange(4), 2, shuffle=True, seed=1)
        >>> (b.order(0) == b.order(0)).all(), sorted(b.order(7).tolist())
        (np.True_, [0, 1, 2, 3])
        """
        if not self.shuffle:
            return np.arange(self.rows)
        return np.random.default_rng((self.seed, epoch)).permutation(self.rows)

    def _batches(self, epoch: int) -> Iterator[tuple[NDArray[Any], ...]]:
        order = self.order(epoch)
        generator = np.random.default_rng((self.seed, epoch, 1))
        for start in range(0, len(self) * self.size, self.size):
            stop = min(start + self.size, self.rows)
            # without shuffling a batch is a view: nothing is copied
            rows = order[start:stop] if self.shuffle else slice(start, stop)
            batch = tuple(array[rows] for array in self.arrays)
            yield self.transform(generator, *batch) if self.transform else batch


def batches(
    *arrays_then_size: NDArray[Any] | int,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    transform: Transform | None = None,
) -> Batches:
    """Batches of rows: ``batches(X, Y, 64)``; arrays share axis 0, the last one may be partial.

    ``shuffle=True`` draws a new order for each epoch from ``seed`` and the epoch's number.
    ``drop_last`` leaves a partial last batch out; where it is kept, a program whose ``Dim``
    specializes (the default) is compiled once more, for its size, and one with ``specialize=False``
    is not. ``transform(generator, *arrays) -> arrays``
    augments each batch; its generator too is drawn from the seed and the epoch. Raises ValueError
    when row counts differ.

    >>> x = np.arange(5)
    >>> [rows.tolist() for (rows,) in batches(x, 2)]
    [[0, 1], [2, 3], [4]]
    >>> [rows.tolist() for (rows,) in batches(x, 2, drop_last=True)]
    [[0, 1], [2, 3]]
    """
    *arrays, size = arrays_then_size
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError("batches: the last argument is the batch size: batches(X, Y, 64)")
    return Batches(
        tuple(np.asarray(a) for a in arrays),
        int(size),
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        transform=transform,
    )


def row_count(who: str, arrays: tuple[NDArray[Any], ...]) -> int:
    """The rows that all ``arrays`` have."""
    if not arrays:
        raise ValueError(f"{who}: no array given")
    if any(a.ndim == 0 for a in arrays):
        raise ValueError(f"{who}: a 0-d array has no rows")
    counts = [len(a) for a in arrays]
    if len(set(counts)) > 1:
        raise ValueError(f"{who}: arrays differ in rows (axis 0): {counts}")
    return counts[0]
