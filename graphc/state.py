"""What outlives a call: cells of memory that executables share, and the updates that an executable
writes to them.

A ``StateCell`` is the storage behind a parameter or a state: a name, a tensor type, a rule for its
first value, and one aligned buffer that compiled code reads and writes in place. The first value
is drawn when somebody first needs it, so loading a checkpoint first draws nothing.

Locking: whoever reads or writes the buffer holds ``lock``; several cells are locked in order of
``serial``.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.errors import DTypeError, ShapeError, StateError
from graphc.philox import Key, draw_key, key_of_seed
from graphc.types import DType, SourceLoc, TensorType, dtype_of

__all__ = ["Initializer", "StateCell", "aligned_empty", "coerce_array", "seed_initial_values"]

Initializer = Callable[[tuple[int, ...], DType, Key], NDArray[Any]]

#: bytes; a cache line and the widest vector register
ALIGNMENT = 64

#: the fourth counter word that keeps initial values apart from draws (0), loop iterations (1) and
#: lanes (2)
_INITIAL_VALUE_TAG = 3
_LANE_TAG = 2

_serials = itertools.count()


@dataclass
class _InitialValues:
    """The key that initial values are drawn from, and the number of the next one."""

    key: Key
    numbers: itertools.count[int]


_initial_values = _InitialValues(key_of_seed(0), itertools.count())


def seed_initial_values(seed: int) -> None:
    """Restart the numbering of initial values; ``manual_seed`` calls it."""
    _initial_values.key, _initial_values.numbers = key_of_seed(seed), itertools.count()


def _next_initial_key() -> Key:
    number = next(_initial_values.numbers)
    low, high = number & 0xFFFFFFFF, number >> 32
    return draw_key(_initial_values.key, (low, high, 0, _INITIAL_VALUE_TAG))


class StateCell:
    """One named tensor that outlives a call.

    ``initial`` is an array (the first value itself), an initializer ``(shape, dtype, key) ->
    array`` that is run at first use, or None for zeros. ``trainable`` tells a parameter from a
    buffer; ``saved=False`` keeps a buffer out of ``state_dict``.

    >>> cell = StateCell("h", TensorType(dtype_of("f32"), (2,)))
    >>> cell.set([1, 2]); cell.numpy(), cell.version
    (array([1., 2.], dtype=float32), 1)
    >>> cell.reset(); cell.numpy()
    array([0., 0.], dtype=float32)
    """

    __slots__ = (
        "_buffer",
        "_key",
        "batch_axes",
        "initial",
        "lock",
        "name",
        "saved",
        "serial",
        "shape",
        "source",
        "trainable",
        "type",
        "version",
    )

    def __init__(
        self,
        name: str,
        type: TensorType,
        initial: NDArray[Any] | Initializer | None = None,
        *,
        trainable: bool = False,
        saved: bool = True,
        batch_axes: tuple[int, ...] = (),
        source: SourceLoc | None = None,
    ) -> None:
        symbolic = [extent for extent in type.shape if not isinstance(extent, int)]
        if symbolic:
            raise ShapeError(
                f"state {name or '?'}: {type} depends on {symbolic[0]}; "
                "a state has one fixed shape: give ints",
                source,
            )
        self.name, self.type, self.initial, self.source = name, type, initial, source
        self.shape: tuple[int, ...] = tuple(
            extent for extent in type.shape if isinstance(extent, int)
        )
        self.trainable, self.saved, self.batch_axes = trainable, saved, batch_axes
        self.serial = next(_serials)
        self.version = 0
        self.lock = threading.RLock()
        self._key = _next_initial_key() if callable(initial) else None
        self._buffer: NDArray[Any] | None = None

    @property
    def device(self) -> str:
        """Where its bytes live."""
        return "cpu"

    @property
    def initialized(self) -> bool:
        """Whether it holds a value already: nothing is drawn before somebody needs it."""
        return self._buffer is not None

    @property
    def buffer(self) -> NDArray[Any]:
        """Its bytes themselves: C-contiguous, 64-byte aligned, never moved. Hold ``lock``; count
        writes by ``touch``.
        """
        with self.lock:
            if self._buffer is None:
                self._buffer = self._aligned(self._first_value())
            return self._buffer

    def numpy(self) -> NDArray[Any]:
        """A copy of its value."""
        with self.lock:
            return self.buffer.copy()

    def set(self, value: ArrayLike) -> None:
        """Overwrite its value; shape and type must fit (Python numbers, and narrower types of one
        kind, widen).
        """
        array = coerce_array(value, self.type, f"{self.kind} {self.name!r}", self.source)
        with self.lock:
            if self._buffer is None:
                self._buffer = self._aligned(array)
            else:
                np.copyto(self._buffer, array)
            self.version += 1

    def reset(self) -> None:
        """Back to the first value; a drawn one is the same numbers again."""
        with self.lock:
            if self._buffer is not None:
                np.copyto(self._buffer, self._first_value())
                self.version += 1

    def touch(self) -> None:
        """Note that compiled code wrote the buffer: packed copies of the old value are stale."""
        self.version += 1

    @property
    def kind(self) -> str:
        """``"parameter"`` or ``"state"``: the name of the source op that reads it."""
        return "parameter" if self.trainable else "state"

    def _first_value(self) -> NDArray[Any]:
        if self.initial is None:
            return np.zeros(self.shape, self.type.dtype.numpy)
        if not callable(self.initial):
            return self.initial
        if self._key is None:
            raise StateError(
                f"{self.kind} {self.name!r} has an initializer and no key", self.source
            )
        return self._draw(self.initial, self._key)

    def _draw(self, initialize: Initializer, key: Key) -> NDArray[Any]:
        """The initializer's array; with batch axes it runs once per batch element, each its key."""
        batch = [self.shape[axis] for axis in self.batch_axes]
        rest = tuple(n for axis, n in enumerate(self.shape) if axis not in self.batch_axes)
        if not batch:
            return self._drawn(initialize, rest, key)
        count = math.prod(batch)
        keys = [draw_key(key, (i, 0, 0, _LANE_TAG)) for i in range(count)]
        lanes = [self._drawn(initialize, rest, key) for key in keys]
        stacked = np.asarray(lanes, self.type.dtype.numpy).reshape(*batch, *rest)
        return np.moveaxis(stacked, range(len(batch)), self.batch_axes)

    def _drawn(self, initialize: Initializer, shape: tuple[int, ...], key: Key) -> NDArray[Any]:
        drawn = np.asarray(initialize(shape, self.type.dtype, key))
        if drawn.shape != shape:
            raise ShapeError(
                f"{self.kind} {self.name!r}: its initializer gave shape {drawn.shape}, "
                f"expected {shape}",
                self.source,
            )
        return drawn.astype(self.type.dtype.numpy)

    def _aligned(self, value: NDArray[Any]) -> NDArray[Any]:
        buffer = aligned_empty(self.shape, self.type.dtype)
        np.copyto(buffer, value)
        return buffer

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name or '?'}: {self.type}>"


def aligned_empty(shape: tuple[int, ...], dtype: DType) -> NDArray[Any]:
    """An uninitialized C-contiguous array whose data starts on a cache line."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype.numpy).reshape(shape)


def coerce_array(
    value: ArrayLike, type: TensorType, who: str, source: SourceLoc | None = None
) -> NDArray[Any]:
    """``value`` as an array of exactly ``type``, or an error that says what to do.

    Python numbers and lists of them are weak: they take the type. A NumPy array must have the type
    already, or a narrower one of the same kind (int32 to int64, bfloat16 to float32): nothing is
    narrowed silently.
    """
    array = np.asarray(value)
    if array.shape != type.shape:
        raise ShapeError(f"{who}: expected shape {type.shape}, got {array.shape}", source)
    weak = not hasattr(value, "dtype")
    if array.dtype != type.dtype.numpy and not _may_convert(array, type.dtype, weak):
        raise DTypeError(
            f"{who}: expected {type.dtype.name}, got {array.dtype}; "
            f"say value.astype({type.dtype.name!r}) if the loss of range or precision is meant",
            source,
        )
    return array.astype(type.dtype.numpy, copy=False)


def _may_convert(array: NDArray[Any], to: DType, weak: bool) -> bool:
    rank = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}
    source_kind = "f" if array.dtype.kind == "V" else array.dtype.kind
    if source_kind not in "buif":
        return False
    if weak:
        return rank[source_kind] <= rank[to.kind]
    if source_kind != to.kind:
        return False
    if to.kind == "f":
        return dtype_of(array.dtype).itemsize < to.itemsize
    return bool(np.can_cast(array.dtype, to.numpy, "safe"))
