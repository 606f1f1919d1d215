"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.graph import Value
from graphc.operators import call
from graphc.optim.optimizer import LearningRate, Moment, Optimizer, Rule

__all__ = ["SGD"]


class SGD(Optimizer):
    """Gradient descent with momentum, Nesterov's variant and weight decay, as ``torch.optim.SGD``.

    ::

        g <- g + weight_decay p
        b <- momentum b + (1 - dampening) g        (the first step: b <- g)
        p <- p - lr b                              (nesterov: p - lr (g + momentum b))

    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.

    >>> import graphc as gc
    >>> w = gc.parameter((2,)).named("w")
    >>> sorted(s.node.attrs["state"].name for s in SGD(0.1, momentum=0.9).minimize((w * w).sum()))
    ['steps', 'w', 'w.momentum_buffer']
    """

    options = ("momentum", "dampening", "weight_decay", "nesterov")

    def __init__(
        self,
        lr: LearningRate = 1e-3,
        *,
        momentum: float = 0.0,
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
        if options["momentum"] < 0 or options["weight_decay"] < 0:
            raise ValueError("SGD: momentum and weight_decay must be >= 0")
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError("SGD: nesterov needs momentum > 0 and dampening = 0")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if options["momentum"] else ()

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        if options["maximize"]:
            g = -g
        if options["weight_decay"]:
            g = g + options["weight_decay"] * p
        if not options["momentum"]:
            return Rule(p - moment.lr * g)
        momentum, dampening = options["momentum"], options["dampening"]
        buffer = momentum * slots["momentum_buffer"] + (1.0 - dampening) * g
        if dampening:
            buffer = call("where", moment.first, g, buffer)
        direction = g + momentum * buffer if options["nesterov"] else buffer
        return Rule(p - moment.lr * direction, {"momentum_buffer": buffer})
