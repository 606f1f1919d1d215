"""Gradient descent that averages what it went through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc import ops
from graphc.graph import Value
from graphc.optim.optimizer import Moment, Optimizer, Rule, descent
from graphc.optim.settings import Setting
from graphc.types import TensorType

__all__ = ["ASGD"]


class ASGD(Optimizer):
    """Averaged stochastic gradient descent, as ``torch.optim.ASGD``.

    ::

        p   <- p (1 - lambd eta) - eta g
        ax  <- ax + (p - ax) / max(1, t - 1 - t0)           (the first steps: ax <- p)
        eta <- lr / (1 + lambd lr t)^alpha

    eta starts as lr. The average is the slot ``ax``: ``opt.slots(p)["ax"]``. Polyak, Juditsky,
    "Acceleration of stochastic approximation by averaging", 1992.

    >>> import graphc as gc
    >>> w = gc.parameter((2,)).named("w")
    >>> list(ASGD(0.1).slots(w))
    ['ax', 'eta']
    """

    options = ("lambd", "alpha", "t0", "weight_decay")

    def __init__(
        self,
        lr: Setting = 1e-2,
        *,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        super()._check({name: value for name, value in options.items() if name != "alpha"})
        if not (options["lambd"] >= 0.0 and options["alpha"] >= 0.0 and options["t0"] >= 0.0):
            raise ValueError("ASGD: lambd, alpha and t0 must be >= 0")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("ax", "eta")

    def _slot_type(self, name: str, of: TensorType) -> TensorType:
        return TensorType(of.dtype, ()) if name == "eta" else of

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        g, lambd = descent(p, g, options), options["lambd"]
        eta = ops.where(moment.first, moment.lr, slots["eta"])
        new = p * (1.0 - lambd * eta) - eta * g
        count = ops.maximum(moment.t - 1.0 - options["t0"], 1.0)
        average = ops.where(count == 1.0, new, slots["ax"] + (new - slots["ax"]) / count)
        later = moment.lr / (1.0 + lambd * moment.lr * moment.t) ** options["alpha"]
        return Rule(new, {"ax": average, "eta": later})
