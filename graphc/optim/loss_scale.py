"""Loss scaling: gradients in float16 kept away from zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc import ops, tree
from graphc.autodiff import grad
from graphc.dsl import StateValue, state_value_of
from graphc.graph import Value
from graphc.optim.optimizer import Optimizer, slopes_of
from graphc.source import here
from graphc.state import StateCell, prepare_cells
from graphc.types import TensorType, float32, int64
from graphc.updates import Updates

__all__ = ["LossScale"]


class LossScale:
    """The dynamic loss scale of mixed precision training (Micikevicius et al. 2018); the rule and
    its numbers are those of ``torch.amp.GradScaler``.

    The cost is multiplied by ``scale`` before it is differentiated, and the gradients are divided
    by it. A step whose gradients are not all finite changes no parameter, slot or counter of the
    optimizer, and the scale shrinks by ``backoff``; after ``interval`` finite steps in a row it
    grows by ``growth``.

    >>> import graphc as gc
    >>> layer, x = gc.nn.Linear(2, 2), gc.observed("x", (3, 2))
    >>> cost = gc.autocast((layer(x) ** 2).mean(), gc.float16)
    >>> scale = gc.optim.LossScale()
    >>> step = gc.compile([x], cost, scale.minimize(gc.optim.SGD(lr=0.1), cost))
    >>> float(scale.scale.numpy())
    65536.0
    """

    def __init__(
        self,
        init: float = 65536.0,
        *,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
    ) -> None:
        if not (init > 0.0 and growth >= 1.0 and 0.0 < backoff <= 1.0 and interval >= 1):
            raise ValueError(
                "LossScale: init > 0, growth >= 1, 0 < backoff <= 1 and interval >= 1 are needed; "
                f"got {init}, {growth}, {backoff}, {interval}"
            )
        self.growth, self.backoff, self.interval = growth, backoff, interval
        first = np.asarray(init, np.float32)
        cell = StateCell("scale", TensorType(float32, ()), first, source=here())
        #: what the cost is multiplied by
        self.scale: StateValue = state_value_of(cell)
        #: finite steps since the scale last changed
        self.good_steps: StateValue = state_value_of(
            StateCell("good_steps", TensorType(int64, ()), source=here())
        )

    def minimize(self, optimizer: Optimizer, cost: Value, wrt: Any = None) -> Updates:
        """A step of ``optimizer`` down the gradient of ``cost``, and the scale's own update.

        ``wrt`` as in ``Optimizer.minimize``.
        """
        parameters, scaled = slopes_of("LossScale", self._scaled(cost), wrt)
        gradients, finite = self._unscaled(scaled)
        return optimizer.updates(parameters, gradients).only_if(finite) | self.after(finite)

    def gradients(self, cost: Value, wrt: Any) -> tuple[Any, Value]:
        """The gradients of ``cost``, unscaled, like ``wrt``, and whether all of them are finite.

        For clipping and the like between them and the optimizer: ``updates(...).only_if(finite)``
        merged with ``after(finite)``.
        """
        return self._unscaled(grad(self._scaled(cost), wrt))

    def _scaled(self, cost: Value) -> Value:
        return cost * self.scale.astype(cost.dtype)

    def _unscaled(self, scaled: Any) -> tuple[Any, Value]:
        found = tree.map(lambda g: g / self.scale.astype(g.dtype), scaled)
        finite = [ops.all(ops.isfinite(g)) for g in tree.leaves(scaled)]
        return found, reduce(ops.logical_and, finite)

    def after(self, finite: Value) -> Updates:
        """What the scale becomes after a step whose gradients were finite, or were not."""
        scale, steps = self.scale, self.good_steps + 1
        full = steps >= self.interval
        grown = ops.where(full, scale * self.growth, scale)
        grown = ops.where(ops.isfinite(grown), grown, scale)
        new_scale = ops.where(finite, grown, scale * self.backoff)
        new_steps = ops.where(ops.logical_and(finite, ops.logical_not(full)), steps, 0)
        return Updates({self.scale: new_scale, self.good_steps: new_steps}, trains=True)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of the scale and of the count of finite steps."""
        return {name: cell.numpy() for name, cell in self._cells().items()}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave, all or, on an error, nothing."""
        self.prepare_loading(d)()

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        """Check ``d`` and load nothing yet: the call that does."""
        return prepare_cells("LossScale.load_state_dict", self._cells(), d)

    def _cells(self) -> dict[str, StateCell]:
        return {held.cell.name: held.cell for held in (self.scale, self.good_steps)}
