"""Random numbers: functions of (key, call counter, site, loop iteration, element), so of the
program.

::

    draw key  = words 0, 1 of Philox(Rng key, (call lo, call hi, site, 0))
    in a loop = words 0, 1 of Philox(that, (index lo, index hi, 1, 0)), in a vmap's lane
                (index lo, index hi, 2, 0); outermost first
    site      = first 32 bits of BLAKE2s(the draw's block path as the closed graph renders it)

Fusion, recomputation, threads and unrelated edits change no number. A generator is a state of two
cells; it advances by one in each call of an executable that draws from it, however often it draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.control import places
from graphc.dsl import StateValue, attach_updates, state_value_of
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply, block
from graphc.ops import argmax, argsort, log, take
from graphc.ops.arithmetic import where
from graphc.ops.lifting import broadcast_to, lift_one
from graphc.ops.random import derive_key, normal_from, random_bits, uniform_from
from graphc.philox import key_of_seed
from graphc.source import here
from graphc.state import StateCell, prepare_cells, seed_initial_values
from graphc.types import DType, Extent, Shape, Size, TensorType, dtype_of, float32, int64

__all__ = [
    "Rng",
    "bernoulli",
    "categorical",
    "default",
    "manual_seed",
    "normal",
    "permutation",
    "randint",
    "uniform",
]

_KEY = TensorType(int64, ())


class Rng:
    """A generator of its own: a key and a counter of calls, both states.

    >>> import graphc as gc
    >>> rng = Rng(seed=1)
    >>> gc.random.normal((2, 3), rng=rng).type, rng.state()["calls"]
    (f32[2,3], array(0))
    """

    def __init__(self, seed: int = 0, name: str = "rng") -> None:
        self._key = _cell(f"{name}.key", _as_int64(seed))
        self._calls = _cell(f"{name}.calls", 0)
        self._now = apply("read", self._key), apply("read", self._calls)
        self._next = self._now[1] + 1

    def seed(self, seed: int) -> None:
        """Start again, from another key."""
        self._key.set(np.asarray(_as_int64(seed)))
        self._calls.set(np.asarray(0))

    def state(self) -> dict[str, Any]:
        """What it would need to go on from here: save it with a checkpoint."""
        return {"key": self._key.numpy(), "calls": self._calls.numpy()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.prepare_loading(state)()

    def state_dict(self) -> dict[str, Any]:
        """``state`` by the name that modules and optimizers use."""
        return self.state()

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        """Check ``d`` and load nothing yet: the call that does."""
        return prepare_cells("Rng", {"key": self._key.cell, "calls": self._calls.cell}, d)

    def draw_key(self) -> Value:
        """A fresh key of the current place in the program, an int64 scalar."""
        key, calls = self._now
        drawn = derive_key(key, calls, apply("site"))
        drawn = attach_updates(drawn, {self._calls: self._next})
        for index, kind in places.get():
            drawn = derive_key(drawn, index, kind)
        return drawn


def _cell(name: str, value: int) -> StateValue:
    return state_value_of(StateCell(name, _KEY, np.asarray(value, np.int64), source=here()))


def _as_int64(seed: int) -> int:
    low, high = key_of_seed(int(seed))
    return int(np.asarray(low | (high << 32), np.uint64).astype(np.int64))


#: the generator that is used where none is named
default = Rng(0, "random")


def manual_seed(seed: int) -> None:
    """Restart all randomness: draws of the default generator, and initial values by creation."""
    seed_initial_values(int(seed))
    default.seed(seed)


# ---- distributions


def uniform(
    shape: Any,
    low: float | Value = 0.0,
    high: float | Value = 1.0,
    *,
    dtype: object = float32,
    rng: Rng | None = None,
) -> Value:
    """Uniform in [low, high)."""
    with block("uniform"):
        unit = uniform_from(_key(rng), _shape(shape), _float("uniform", dtype))
        plain = isinstance(low, float) and isinstance(high, float) and (low, high) == (0.0, 1.0)
        return unit if plain else low + (high - low) * unit


def normal(
    shape: Any,
    mean: float | Value = 0.0,
    std: float | Value = 1.0,
    *,
    dtype: object = float32,
    rng: Rng | None = None,
) -> Value:
    """Normal with the given mean and standard deviation (Box, Muller 1958)."""
    with block("normal"):
        drawn = normal_from(_key(rng), _shape(shape), _float("normal", dtype))
        plain = isinstance(mean, float) and isinstance(std, float) and (mean, std) == (0.0, 1.0)
        return drawn if plain else mean + std * drawn


def bernoulli(p: Any, shape: Any = None, *, rng: Rng | None = None) -> Value:
    """bool, true with probability ``p`` (a number or a Value; its shape unless one is given)."""
    with block("bernoulli"):
        chance = lift_one("bernoulli", p)
        wanted = chance.shape if shape is None else _shape(shape)
        unit = uniform_from(_key(rng), wanted, float32)
        return unit < broadcast_to(chance.astype(float32), wanted)


def randint(low: int, high: int, shape: Any, *, rng: Rng | None = None) -> Value:
    """int64, uniform in low, ..., high - 1 (the bias is below span / 2^32)."""
    span = high - low
    if not 0 < span <= 2**31:
        raise ShapeError(f"randint: need low < high <= low + 2^31, got {low} and {high}", here())
    with block("randint"):
        bits = random_bits(_key(rng), _shape(shape)).astype(int64)
        return ((bits * span) >> 32) + low


def categorical(logits: Any, axis: int = -1, *, rng: Rng | None = None) -> Value:
    """int64 classes drawn with probability softmax(logits) along ``axis`` (Gumbel's maximum)."""
    with block("categorical"):
        scores = lift_one("categorical", logits)
        if not scores.dtype.is_float:
            raise DTypeError(f"categorical: logits are floating, got {scores.type}", here())
        unit = uniform_from(_key(rng), scores.shape, float32)
        never = unit == 0.0
        gumbel = -log(-log(where(never, 0.5, unit)))
        noise = where(never, -math.inf, gumbel).astype(scores.dtype)
        return argmax(scores + noise, axis=axis)


def permutation(x: Any, *, rng: Rng | None = None) -> Value:
    """0, ..., x - 1 in random order for an int x, else x shuffled along axis 0."""
    with block("permutation"):
        count = x if isinstance(x, (int, Size)) else lift_one("permutation", x).shape[0]
        order = argsort(random_bits(_key(rng), (count,)).astype(int64))
        return order if isinstance(x, (int, Size)) else take(lift_one("permutation", x), order, 0)


def _key(rng: Rng | None) -> Value:
    return (default if rng is None else rng).draw_key()


def _shape(shape: Any) -> Shape:
    given: Sequence[Extent] = (shape,) if isinstance(shape, (int, Size)) else tuple(shape)
    return tuple(given)


def _float(name: str, dtype: object) -> DType:
    chosen = dtype_of(dtype)
    if not chosen.is_float:
        raise DTypeError(f"{name}: {chosen.name} is no floating type", here())
    return chosen
