"""What optimizers share that look at the cost itself: at several places in a step, or at its
curvature.

They see all parameters as one vector x; their memory belongs to one set of parameters. A step is
one graph like any other: loops and line searches run inside of the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from graphc import ops, tree
from graphc.autodiff import hvp
from graphc.control import while_loop
from graphc.dsl import StateValue, state_value_of, substitute
from graphc.errors import StateError
from graphc.graph import Value
from graphc.optim.optimizer import slopes_of
from graphc.source import here
from graphc.state import StateCell, prepare_cells
from graphc.types import DType, TensorType, float64, int64
from graphc.updates import Updates

__all__ = ["Landscape", "WholeCostOptimizer", "backtracked"]


class Landscape:
    """A cost as a function of one vector: all its parameters in a row."""

    def __init__(
        self, cost: Value, parameters: Sequence[StateValue], slopes: Sequence[Value]
    ) -> None:
        self.cost, self.parameters = cost, list(parameters)
        self.x, self.unravel = tree.ravel(self.parameters)
        self._slopes = list(slopes)
        self.gradient: Value = tree.ravel(self._slopes)[0]

    @property
    def dtype(self) -> DType:
        """The element type of all of them."""
        return self.parameters[0].dtype

    def _moved(self, x: Value) -> dict[Value, Value]:
        return dict(zip(self.parameters, self.unravel(x), strict=True))

    def value(self, x: Value) -> Value:
        """The cost at x, a scalar."""
        moved: Value = substitute(self.cost, self._moved(x))
        return moved

    def value_and_gradient(self, x: Value) -> tuple[Value, Value]:
        """Both at x: a scalar and [n]."""
        cost, slopes = substitute((self.cost, self._slopes), self._moved(x))
        return cost, tree.ravel(slopes)[0]

    def curvature(self, v: Value) -> Value:
        """The Hessian at the parameters times v, [n]: no Hessian is ever made."""
        along = hvp(self.cost, self.parameters, self.unravel(v))
        product: Value = tree.ravel(along)[0]
        return product


class WholeCostOptimizer:
    """Base: ``minimize`` only, since gradients alone do not tell what they need."""

    def __init__(self, lr: float) -> None:
        self._check_rate(lr)
        self._rate = state_value_of(
            StateCell("lr", TensorType(float64, ()), np.asarray(float(lr)), source=here())
        )
        self._steps = state_value_of(StateCell("steps", TensorType(int64, ()), source=here()))
        self._parameters: list[StateValue] | None = None
        self._memory: dict[str, StateValue] = {}

    def _step(self, land: Landscape) -> tuple[Value, dict[str, Value]]:
        """The new x, and new values of its memory by name."""
        raise TypeError(f"{type(self).__name__} does not say its step")

    def minimize(self, cost: Value, wrt: Any = None) -> Updates:
        """One step down ``cost``, of parameters of one element type.

        ``wrt`` is a parameter, a structure of them or a Module; by default every parameter that a
        differentiable path joins to the cost. A second call is for the same parameters.
        """
        targets, slopes = slopes_of(self._name, cost, wrt)
        kinds = {p.dtype.name for p in targets}
        if len(kinds) > 1:
            raise StateError(
                f"{self._name}: its parameters have types {', '.join(sorted(kinds))}; they form "
                "one vector and need one type",
                here(),
            )
        known = self._parameters
        if known is not None and [*map(id, known)] != [*map(id, targets)]:
            raise StateError(
                f"{self._name}: its memory belongs to other parameters; make an optimizer for each "
                "set",
                here(),
            )
        self._parameters, land = targets, Landscape(cost, targets, slopes)
        x, memory = self._step(land)
        new: dict[Value, Value] = {self._memory[name]: value for name, value in memory.items()}
        new.update(zip(land.parameters, land.unravel(x), strict=True))
        return Updates({**new, self._steps: self._steps + 1}, trains=True)

    def updates(self, parameters: Any, gradients: Any) -> NoReturn:
        """Not for these optimizers: a StateError says why."""
        raise StateError(
            f"{self._name}.updates: it looks at the cost at other places too, gradients do not "
            "tell enough; say minimize(cost)",
            here(),
        )

    def _held(self, name: str, shape: tuple[Any, ...], dtype: DType, first: float = 0.0) -> Value:
        """A piece of memory, made at first use."""
        if name not in self._memory:
            array = np.full(shape, first, dtype.numpy)
            cell = StateCell(name, TensorType(dtype, shape), array, source=here())
            self._memory[name] = state_value_of(cell)
        return self._memory[name]

    # ---- what a person sees

    @property
    def lr(self) -> float:
        """The step's factor. Assigning it changes the next call, with no new code."""
        return float(self._rate.numpy())

    @lr.setter
    def lr(self, value: float) -> None:
        self._check_rate(value)
        self._rate.set(float(value))

    def rates(self) -> list[StateValue]:
        """The state that holds its ``lr``."""
        return [self._rate]

    def _check_rate(self, lr: float) -> None:
        if not 0.0 < lr < math.inf:
            raise ValueError(f"{self._name}: lr must be > 0 and finite, got {lr}")

    @property
    def steps(self) -> int:
        """How many steps it has made."""
        return int(self._steps.numpy())

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of all it remembers."""
        return {name: cell.numpy() for name, cell in self._cells().items()}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave, all or, on an error, nothing; after ``minimize``."""
        self.prepare_loading(d)()

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        """Check ``d`` and load nothing yet: the call that does."""
        return prepare_cells(f"{self._name}.load_state_dict", self._cells(), d)

    def _cells(self) -> dict[str, StateCell]:
        held = (self._rate, self._steps, *self._memory.values())
        return {value.cell.name: value.cell for value in held}

    @property
    def _name(self) -> str:
        return type(self).__name__


def backtracked(
    land: Landscape, direction: Value, slope: Value, first: Value, *, most: int = 30
) -> Value:
    """The first of ``first``, first / 2, first / 4... that lowers the cost by 1e-4 of what its
    slope promises (Armijo 1966); 0 where ``most`` halvings do not.
    """

    def too_long(carry: tuple[Value, Value]) -> Value:
        size, tried = carry
        wanted = land.cost + 1e-4 * size * slope
        reached = land.value(land.x + size * direction) <= wanted  # false for NaN
        return ops.logical_not(reached) & (tried < most)

    start = first, ops.zeros((), int64)
    size, tried = while_loop(too_long, lambda c: (c[0] * 0.5, c[1] + 1), start, name="search")
    return ops.where(tried < most, size, 0.0)
