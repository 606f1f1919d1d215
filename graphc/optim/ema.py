"""Averages of parameters: exponential moving ones, and plain means of late steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from graphc import ops, tree
from graphc.dsl import StateValue, state_value_of, substitute
from graphc.errors import StateError
from graphc.graph import Value
from graphc.optim.optimizer import distinct
from graphc.source import here
from graphc.state import StateCell, prepare_cells
from graphc.types import TensorType, int64
from graphc.updates import Updates

__all__ = ["EMA", "SWA"]


class EMA:
    """``shadow <- decay shadow + (1 - decay) parameter`` (Polyak, Juditsky 1992).

    A shadow starts as what its parameter holds when it is first needed.

    >>> import graphc as gc
    >>> layer = gc.nn.Linear(2, 2)
    >>> ema = EMA(layer, 0.99)
    >>> len(ema.after(gc.Updates()))
    2
    """

    def __init__(self, parameters: Any, decay: float) -> None:
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"EMA: decay must be in [0, 1], got {decay}")
        self.decay = decay
        self._shadows: dict[Value, StateValue] = {}
        names: set[str] = set()
        for value in dict.fromkeys(tree.leaves(parameters)):
            if not isinstance(value, StateValue):
                raise StateError(f"EMA: {value!r} is no parameter", here())
            name = distinct(value.cell.name or "parameter", names)
            cell = StateCell(f"{name}.shadow", value.type, value.cell, source=here())
            self._shadows[value] = state_value_of(cell)

    def after(self, updates: Mapping[Value, Value]) -> Updates:
        """The shadows' updates, towards the values that ``updates`` will write."""
        new = {
            shadow: self.decay * shadow + (1.0 - self.decay) * updates.get(value, value)
            for value, shadow in self._shadows.items()
        }
        return Updates(new, trains=True)

    def apply(self, structure: Any) -> Any:
        """The same program on the shadows."""
        return substitute(structure, self._shadows)

    def shadow(self, parameter: Value) -> StateValue:
        """The average of a parameter."""
        if parameter not in self._shadows:
            raise StateError(f"{type(self).__name__}.shadow: it averages no {parameter!r}", here())
        return self._shadows[parameter]

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of the shadows by their parameters' names."""
        return {s.cell.name: s.numpy() for s in self._shadows.values()}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave, all or, on an error, nothing."""
        self.prepare_loading(d)()

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        """Check ``d`` and load nothing yet: the call that does."""
        cells = {s.cell.name: s.cell for s in self._shadows.values()}
        return prepare_cells("EMA.load_state_dict", cells, d)


class SWA(EMA):
    """The plain mean of the parameters after each step since it began (Izmailov et al. 2018).

    ``shadow <- shadow + (parameter - shadow) / (n + 1)``, n being the steps averaged so far; the
    first is a copy. As ``torch.optim.swa_utils.AveragedModel``. Average every k-th step, or late
    ones only, by ``swa.after(updates).only_if(condition)``. BatchNorm's statistics are no part of
    it: run some batches through ``swa.apply(...)`` in mode train.

    >>> import graphc as gc
    >>> swa = SWA(gc.nn.Linear(2, 2)); len(swa.after(gc.Updates())), swa.n_averaged
    (3, 0)
    """

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, 0.0)
        cell = StateCell("n_averaged", TensorType(int64, ()), source=here())
        self._count = state_value_of(cell)

    @property
    def n_averaged(self) -> int:
        """How many steps the mean is of."""
        return int(self._count.numpy())

    def after(self, updates: Mapping[Value, Value]) -> Updates:
        """The shadows' updates, towards the values that ``updates`` will write."""
        new: dict[Value, Value] = {self._count: self._count + 1}
        for value, shadow in self._shadows.items():
            share = 1.0 / (self._count + 1).astype(value.dtype)
            moved = shadow + share * (updates.get(value, value) - shadow)
            new[shadow] = ops.where(self._count == 0, updates.get(value, value), moved)
        return Updates(new, trains=True)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of the shadows by their parameters' names, and the number of steps."""
        return super().state_dict() | {"n_averaged": self._count.numpy()}

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        """Check ``d`` and load nothing yet: the call that does."""
        cells = {s.cell.name: s.cell for s in (*self._shadows.values(), self._count)}
        return prepare_cells("SWA.load_state_dict", cells, d)
