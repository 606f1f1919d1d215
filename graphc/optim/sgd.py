"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.graph import Value
from graphc.operators import call
from graphc.optim.optimizer import Moment, Optimizer, Rule, descent
from graphc.optim.settings import Setting, used

__all__ = ["SGD"]


class SGD(Optimizer):
    """Gradient descent with momentum, Nesterov's variant and weight decay, as ``torch.optim.SGD``.

    ::

        g <- g + weight_decay p
        b <- momentum b + (1 - dampening) g        (the first step: b <- g)
        p <- p - lr b                              (nesterov: p - lr (g + momentum b))

    ``lr`` and ``momentum`` may be functions of the step (``optim.schedules``) or scalar Values.
    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.

    >>> import graphc as gc
    >>> w = gc.parameter((2,)).named("w")
    >>> sorted(s.node.attrs["state"].name for s in SGD(0.1, momentum=0.9).minimize((w * w).sum()))
    ['steps', 'w', 'w.momentum_buffer']
    """

    options = ("momentum", "dampening", "weight_decay", "nesterov")
    varying = ("momentum",)

    def __init__(
        self,
        lr: Setting = 1e-3,
        *,
        momentum: Setting = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        super()._check(options)
        if options["nesterov"] and (not used(options["momentum"]) or options["dampening"] != 0):
            raise ValueError("SGD: nesterov needs momentum > 0 and dampening = 0")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if used(options["momentum"]) else ()

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        g = descent(p, g, options)
        if not used(options["momentum"]):
            return Rule(p - moment.lr * g)
        momentum, dampening = options["momentum"], options["dampening"]
        buffer = momentum * slots["momentum_buffer"] + (1.0 - dampening) * g
        if dampening:
            buffer = call("where", moment.first, g, buffer)
        direction = g + momentum * buffer if options["nesterov"] else buffer
        return Rule(p - moment.lr * direction, {"momentum_buffer": buffer})
