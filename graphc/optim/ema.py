"""Exponential moving averages of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from graphc import tree
from graphc.dsl import StateValue, state_value_of, substitute
from graphc.errors import StateError
from graphc.graph import Value
from graphc.source import here
from graphc.state import StateCell, prepare_cells
from graphc.updates import Updates

__all__ = ["EMA"]


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
            name = _new_name(value.cell.name or "parameter", names)
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


def _new_name(wanted: str, taken: set[str]) -> str:
    """``wanted``, told apart from another parameter's of the same name."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}#{number}"
    taken.add(name)
    return name
