"""What outlives a call: cells of memory that executables share, and the updates that an executable
writes to them.

A ``StateCell`` is the storage behind a parameter or a state: a name, a tensor type, a rule for its
first value, and one ``StateBuffer`` that compiled code reads and writes in place. The first value
is drawn when somebody first needs it, so loading a checkpoint first draws nothing.

The lock is the buffer's (many readers or one writer).
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc.errors import DTypeError, ShapeError, StateError
from graphc.memory import StateBuffer
from graphc.philox import Key, draw_key, key_of_seed
from graphc.records import dataclass
from graphc.types import DType, SourceLoc, TensorType, dtype_of

__all__ = [
    "Initializer",
    "StateCell",
    "coerce_array",
    "prepare_cells",
    "seed_initial_values",
]

Initializer = Callable[[tuple[int, ...], DType, Key], NDArray[Any]]

#: the fourth counter word that keeps initial values apart from draws (0), loop iterations (1) and
#: lanes (2)
_INITIAL_VALUE_TAG = 3
_LANE_TAG = 2

_serials = itertools.count()

#: held while a buffer comes into being, so that two threads do not make two
_creation = threading.RLock()


@dataclass
class _InitialValues:
    """The key that initial values are drawn from, and the number of the next one."""

    key: Key
    numbers: itertools.count[int]


_initial_values = _InitialValues(key_of_seed(0), itertools.count())


def seed_initial_values(seed: int) -> None:
    """Restart the numbering of initial values; ``manual_seed`` calls it."""
    _initial_values.key, _initial_values.numbers = key_of_seed(seed), itertools.count()


def _initial_key(key: Key, number: int) -> Key:
    """The key of the ``number``-th initial value after a seed."""
    return draw_key(key, (number & 0xFFFFFFFF, number >> 32, 0, _INITIAL_VALUE_TAG))


class StateCell:
    """One named tensor that outlives a call.

    ``initial`` is an array (the first value itself), an initializer ``(shape, dtype, key) ->
    array`` that is run at first use, another cell (its value at first use: a shadow of a
    parameter), or None for zeros. ``trainable`` tells a parameter from a buffer; ``saved=False``
    keeps a buffer out of ``state_dict``.

    >>> cell = StateCell("h", TensorType(dtype_of("f32"), (2,)))
    >>> cell.set([1, 2]); cell.numpy(), cell.version
    (array([1., 2.], dtype=float32), 0)
    >>> cell.reset(); cell.numpy()
    array([0., 0.], dtype=float32)
    """

    __slots__ = (
        "_buffer",
        "_number",
        "batch_axes",
        "initial",
        "name",
        "saved",
        "serial",
        "shape",
        "source",
        "trainable",
        "type",
    )

    def __init__(
        self,
        name: str,
        type: TensorType,
        initial: NDArray[Any] | Initializer | StateCell | None = None,
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
        self._number: tuple[Key, int] | None = None
        if callable(initial):
            self._number = _initial_values.key, next(_initial_values.numbers)
        self._buffer: StateBuffer | None = None

    @property
    def device(self) -> str:
        """Where its newest value is: "cpu", or "cuda" after a program there has written it."""
        return "cuda" if self._buffer is not None and self._buffer.remote is not None else "cpu"

    @property
    def initialized(self) -> bool:
        """Whether it holds a value already: nothing is drawn before somebody needs it."""
        return self._buffer is not None

    @property
    def buffer(self) -> StateBuffer:
        """Its bytes and their lock, with the first value drawn; they never move."""
        if self._buffer is None:
            self._materialize(None)
        return self._buffer  # type: ignore[return-value]

    @property
    def version(self) -> int:
        """Counts the writes, those of compiled code included."""
        return 0 if self._buffer is None else self._buffer.version

    def numpy(self) -> NDArray[Any]:
        """A copy of its value."""
        return self.buffer.numpy()

    def set(self, value: ArrayLike) -> None:
        """Overwrite its value; shape and type must fit (Python numbers, and narrower types of one
        kind, widen).
        """
        array = coerce_array(value, self.type, f"{self.kind} {self.name!r}", self.source)
        if not self._materialize(array):
            self.buffer.set(array)

    def reset(self) -> None:
        """Back to the first value; a drawn one is the same numbers again."""
        if self._buffer is not None:
            self._buffer.set(self._first_value())

    def _materialize(self, value: NDArray[Any] | None) -> bool:
        """Make the buffer if there is none, holding ``value`` or the first value; False if there
        was.
        """
        with _creation:
            if self._buffer is not None:
                return False
            first = self._first_value() if value is None else value
            self._buffer = StateBuffer(self.type, first)
            return True

    @property
    def kind(self) -> str:
        """``"parameter"`` or ``"state"``: the name of the source op that reads it."""
        return "parameter" if self.trainable else "state"

    def _first_value(self) -> NDArray[Any]:
        if self.initial is None:
            return np.zeros(self.shape, self.type.dtype.numpy)
        if isinstance(self.initial, StateCell):
            return self.initial.numpy()
        if not callable(self.initial):
            return self.initial
        if self._number is None:
            raise StateError(
                f"{self.kind} {self.name!r} has an initializer and no key", self.source
            )
        return self._draw(self.initial, _initial_key(*self._number))

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
        return drawn.astype(self.type.dtype.numpy, copy=False)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name or '?'}: {self.type}>"


def prepare_cells(
    who: str, cells: Mapping[str, StateCell], d: Mapping[str, Any], *, partial: bool = False
) -> Callable[[], None]:
    """Check that ``d`` has a fitting value for each of ``cells``, and set none: the call that does.

    With ``partial`` it may have others too.
    """
    missing = [name for name in cells if name not in d]
    others = [] if partial else [name for name in d if name not in cells]
    if missing or others:
        what = [f"missing: {', '.join(missing)}"] if missing else []
        what += [f"unexpected: {', '.join(others)}"] if others else []
        raise StateError(f"{who}: the names do not match; {'; '.join(what)}")
    arrays = {
        name: coerce_array(np.asarray(d[name]), cell.type, f"{who}: {name!r}", cell.source)
        for name, cell in cells.items()
    }

    def commit() -> None:
        for name, cell in cells.items():
            cell.set(arrays[name])

    return commit


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
