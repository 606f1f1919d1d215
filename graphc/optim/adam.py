"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from graphc.graph import Value
from graphc.operators import call
from graphc.optim.optimizer import Moment, Optimizer, Rule, decayed
from graphc.optim.settings import Setting

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam (Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2015), as
    ``torch.optim.Adam``.

    ::

        g <- g + weight_decay p
        m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g^2
        p <- p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    ``amsgrad`` divides by the largest v so far (Reddi, Kale, Kumar 2018). ``lr`` and each of
    ``betas`` may be functions of the step (``optim.schedules``) or scalar Values.

    >>> import graphc as gc
    >>> w = gc.parameter((2,)).named("w")
    >>> opt = Adam(lr=0.1); list(opt.slots(w)), opt.lr
    (['exp_avg', 'exp_avg_sq'], 0.1)
    """

    options = ("betas", "eps", "weight_decay", "amsgrad")
    varying = ("betas",)
    _decoupled = False

    def __init__(
        self,
        lr: Setting = 1e-3,
        *,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
        )

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if options["amsgrad"] else []))

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        beta1, beta2 = options["betas"]
        p, g = decayed(p, g, moment, options, decoupled=self._decoupled)
        m = slots["exp_avg"] + (1.0 - beta1) * (g - slots["exp_avg"])
        v = beta2 * slots["exp_avg_sq"] + (1.0 - beta2) * (g * g)
        new = {"exp_avg": m, "exp_avg_sq": v}
        largest = v
        if options["amsgrad"]:
            largest = new["max_exp_avg_sq"] = call("maximum", slots["max_exp_avg_sq"], v)
        step_size = moment.lr / correction(beta1, moment.t)
        scale = call("rsqrt", correction(beta2, moment.t))  # once a step: elements multiply
        denominator = call("sqrt", largest) * scale + options["eps"]
        return Rule(p - step_size * (m / denominator), new)


class AdamW(Adam):
    """Adam with decoupled weight decay: ``p <- p (1 - lr weight_decay)`` before the step.

    Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019; as ``torch.optim.AdamW``.
    """

    _decoupled = True

    def __init__(
        self,
        lr: Setting = 1e-3,
        *,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            groups=groups,
        )


def correction(beta: Any, t: Value) -> Value:
    """1 - beta^t, accurate at the first steps too (1 - 0.999 loses four digits in float32)."""
    if isinstance(beta, Value):
        return -call("expm1", t * call("log", beta))
    if beta == 0.0:
        return t * 0.0 + 1.0
    return -call("expm1", t * math.log(beta))
