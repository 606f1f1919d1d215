"""Other ways through data: classes in turn, samples of an iterator, a thread that goes ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.data.batching import row_count

__all__ = ["Balanced", "Prefetch", "balanced", "collate", "prefetch"]


class Balanced:
    """An iterable of batches with all classes alike, made by ``balanced``."""

    def __init__(
        self, arrays: tuple[NDArray[Any], ...], labels: NDArray[Any], size: int, seed: int
    ) -> None:
        self.arrays, self.size, self.seed, self.epoch = arrays, size, seed, 0
        self.members = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def __len__(self) -> int:
        """Batches in one epoch: the largest class passes once."""
        longest = max(map(len, self.members))
        return -(-longest * len(self.members) // self.size)

    def __iter__(self) -> Iterator[tuple[NDArray[Any], ...]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._batches(np.random.default_rng((self.seed, epoch)))

    def _batches(self, generator: np.random.Generator) -> Iterator[tuple[NDArray[Any], ...]]:
        buffers = [_circular(rows, generator) for rows in self.members]
        place = 0
        for _ in range(len(self)):
            # classes go on in turn over the border of batches, so that none is favoured
            rows = [next(buffers[(place + i) % len(buffers)]) for i in range(self.size)]
            place = (place + self.size) % len(buffers)
            yield tuple(array[rows] for array in self.arrays)


def _circular(rows: NDArray[np.int64], generator: np.random.Generator) -> Iterator[int]:
    """The rows round and round, in a new order each time."""
    while True:
        yield from generator.permutation(rows).tolist()


def balanced(*arrays_then_size: NDArray[Any] | int, labels: ArrayLike, seed: int = 0) -> Balanced:
    """Batches in which classes take turns: ``balanced(X, Y, 64, labels=Y)``.

    Each class has a circular buffer of its rows, in random order, and goes round as often as the
    largest class needs: no row of a rare class is left out, none of a frequent one favoured. An
    epoch's order is a function of ``seed`` and its number (LeCun, Bottou, Orr, Müller, "Efficient
    BackProp", 1998).

    >>> y = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    >>> [rows.tolist() for (rows,) in balanced(y, 4, labels=y)]
    [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1]]
    """
    *arrays, size = arrays_then_size
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise ValueError("balanced: the last argument is the batch size, at least 1")
    held = tuple(np.asarray(a) for a in arrays)
    given = np.asarray(labels)
    if given.shape != (row_count("balanced", held),):
        raise ValueError(f"balanced: labels have shape {given.shape}, one for each row is needed")
    if not given.size:
        raise ValueError("balanced: there are no rows")
    return Balanced(held, given, int(size), seed)


def collate(samples: Iterable[Any], size: int, drop_last: bool = False) -> Iterator[Any]:
    """Samples of any iterator, ``size`` at a time, as batches: tuples of arrays with rows.

    A sample is an array or number, or a tuple of them; the last batch may be partial.

    >>> [a.tolist() for a, b in collate(((i, -i) for i in range(5)), 2)]
    [[0, 1], [2, 3], [4]]
    """
    if size < 1:
        raise ValueError(f"collate: a batch has at least one row, not {size}")
    held: list[tuple[Any, ...]] = []
    for sample in samples:
        held.append(sample if isinstance(sample, tuple) else (sample,))
        if len(held) == size:
            yield _stacked(held)
            held = []
    if held and not drop_last:
        yield _stacked(held)


def _stacked(samples: list[tuple[Any, ...]]) -> tuple[NDArray[Any], ...]:
    if len({len(sample) for sample in samples}) > 1:
        raise ValueError("collate: samples differ in how many parts they have")
    return tuple(np.stack([np.asarray(part) for part in parts]) for parts in zip(*samples))  # noqa: B905


class Prefetch:
    """An iterable whose next items a thread makes ahead; made by ``prefetch``."""

    def __init__(self, batches: Iterable[Any], depth: int) -> None:
        self.batches, self.depth = batches, depth

    @property
    def epoch(self) -> Any:
        """That of the iterable, None where it counts none."""
        return getattr(self.batches, "epoch", None)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.batches.epoch = value  # type: ignore[attr-defined]

    def __len__(self) -> int:
        """As many as the iterable says it has."""
        if not isinstance(self.batches, Sized):
            raise TypeError(f"prefetch: {type(self.batches).__name__} has no length")
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        made: queue.Queue[tuple[str, Any]] = queue.Queue(self.depth)
        stopped = threading.Event()
        iterator = iter(self.batches)

        def put(item: tuple[str, Any]) -> bool:
            while not stopped.is_set():
                try:
                    made.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return True
            return False

        def work() -> None:
            try:
                for item in iterator:
                    if not put(("item", item)):
                        return
            except BaseException as error:
                put(("error", error))
                return
            put(("end", None))

        thread = threading.Thread(target=work, name="graphc prefetch", daemon=True)
        thread.start()
        try:
            while True:
                kind, item = made.get()
                if kind == "error":
                    raise item
                if kind == "end":
                    return
                yield item
        finally:  # also where the loop around it breaks
            stopped.set()
            thread.join()


def prefetch(batches: Iterable[Any], depth: int = 2) -> Prefetch:
    """The same batches in the same order, up to ``depth`` of them made ahead on a thread.

    Worth it where making a batch takes long (reading, augmentation): steps run without the GIL.
    What the iterable raises comes out where its item would have; leaving the loop ends the thread.

    >>> list(prefetch([1, 2, 3]))
    [1, 2, 3]
    """
    if depth < 1:
        raise ValueError(f"prefetch: depth is at least 1, not {depth}")
    return Prefetch(batches, depth)
