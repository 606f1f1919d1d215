"""Relatives of Adam: Adamax, NAdam, RAdam, Lion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from graphc import ops
from graphc.graph import Value
from graphc.optim.adam import correction
from graphc.optim.optimizer import Moment, Optimizer, Rule, decayed, descent
from graphc.optim.settings import Setting, varies
from graphc.types import TensorType

__all__ = ["Adamax", "Lion", "NAdam", "RAdam"]


class Adamax(Optimizer):
    """Adam with the largest decayed gradient instead of a root mean square, as
    ``torch.optim.Adamax``.

    ::

        m <- beta1 m + (1 - beta1) g          u <- max(beta2 u, |g| + eps)
        p <- p - lr / (1 - beta1^t) m / u

    Kingma, Ba 2015, section 7.1.
    """

    options = ("betas", "eps", "weight_decay")
    varying = ("betas",)

    def __init__(
        self,
        lr: Setting = 2e-3,
        *,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_inf")

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        g, (beta1, beta2) = descent(p, g, options), options["betas"]
        m = slots["exp_avg"] + (1.0 - beta1) * (g - slots["exp_avg"])
        u = ops.maximum(beta2 * slots["exp_inf"], ops.abs(g) + options["eps"])
        step = moment.lr / correction(beta1, moment.t)
        return Rule(p - step * (m / u), {"exp_avg": m, "exp_inf": u})


class NAdam(Optimizer):
    """Adam with Nesterov's momentum, whose weight grows, as ``torch.optim.NAdam``.

    ::

        mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)          P <- P mu_t
        p <- p - lr (m mu_{t+1} / (1 - P mu_{t+1}) + g (1 - mu_t) / (1 - P)) / (sqrt(v') + eps)

    with Adam's m and bias-free v'. Dozat, "Incorporating Nesterov Momentum into Adam", 2016.
    """

    options = ("betas", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay")
    varying = ("betas",)

    def __init__(
        self,
        lr: Setting = 2e-3,
        *,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "mu_product")

    def _slot_type(self, name: str, of: TensorType) -> TensorType:
        return TensorType(of.dtype, ()) if name == "mu_product" else of

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        p, g = decayed(p, g, moment, options, decoupled=options["decoupled_weight_decay"])
        beta1, beta2 = options["betas"]
        m = slots["exp_avg"] + (1.0 - beta1) * (g - slots["exp_avg"])
        v = beta2 * slots["exp_avg_sq"] + (1.0 - beta2) * (g * g)
        fall = math.log(0.96) * options["momentum_decay"]
        mu = beta1 * (1.0 - 0.5 * ops.exp(fall * moment.t))
        mu_next = beta1 * (1.0 - 0.5 * ops.exp(fall * (moment.t + 1.0)))
        product = ops.where(moment.first, 1.0, slots["mu_product"]) * mu
        of_g, of_m = (1.0 - mu) / (1.0 - product), mu_next / (1.0 - product * mu_next)
        root = ops.sqrt(v / correction(beta2, moment.t)) + options["eps"]
        new = {"exp_avg": m, "exp_avg_sq": v, "mu_product": product}
        return Rule(p - moment.lr * ((of_m * m + of_g * g) / root), new)


class RAdam(Optimizer):
    """Adam that waits until the variance of its denominator is known, as ``torch.optim.RAdam``.

    ::

        r_inf = 2 / (1 - beta2) - 1          r = r_inf - 2 t beta2^t / (1 - beta2^t)
        p <- p - lr m' c          c = 1 until r > 5, then
        c = sqrt((r - 4) (r - 2) r_inf / ((r_inf - 4) (r_inf - 2) r))
            sqrt(1 - beta2^t) / (sqrt(v) + eps)

    with Adam's m', bias-free, and v. Liu et al., "On the Variance of the Adaptive Learning Rate and
    Beyond", 2020.
    """

    options = ("betas", "eps", "weight_decay", "decoupled_weight_decay")
    varying = ("betas",)

    def __init__(
        self,
        lr: Setting = 1e-3,
        *,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        super()._check(options)
        if varies(options["betas"][1]):
            raise ValueError("RAdam: betas[1] must be a number, its first beta may vary")
        if 2.0 / (1.0 - options["betas"][1]) - 1.0 <= 4.0:
            raise ValueError(f"RAdam: betas[1] must be above 0.6, got {options['betas']}")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        p, g = decayed(p, g, moment, options, decoupled=options["decoupled_weight_decay"])
        beta1, beta2 = options["betas"]
        m = slots["exp_avg"] + (1.0 - beta1) * (g - slots["exp_avg"])
        v = beta2 * slots["exp_avg_sq"] + (1.0 - beta2) * (g * g)
        longest, unbias = 2.0 / (1.0 - beta2) - 1.0, correction(beta2, moment.t)
        length = longest - 2.0 * moment.t * (1.0 - unbias) / unbias
        known = length > 5.0
        safe = ops.where(known, length, 6.0)
        rectified = ops.sqrt(
            (safe - 4.0) * (safe - 2.0) * (longest / ((longest - 4.0) * (longest - 2.0))) / safe
        )
        adapted = rectified * ops.sqrt(unbias) / (ops.sqrt(v) + options["eps"])
        direction = m / correction(beta1, moment.t) * ops.where(known, adapted, 1.0)
        return Rule(p - moment.lr * direction, {"exp_avg": m, "exp_avg_sq": v})


class Lion(Optimizer):
    """The sign of an interpolated momentum, with decoupled weight decay.

    ::

        p <- p (1 - lr weight_decay) - lr sign(beta1 m + (1 - beta1) g)
        m <- beta2 m + (1 - beta2) g

    Every step has the same size, so rates are some 3 to 10 times smaller than Adam's. Chen et al.,
    "Symbolic Discovery of Optimization Algorithms", 2023 (PyTorch has none).
    """

    options = ("betas", "weight_decay")
    varying = ("betas",)

    def __init__(
        self,
        lr: Setting = 1e-4,
        *,
        betas: tuple[Setting, Setting] = (0.9, 0.99),
        weight_decay: float = 0.0,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            betas=betas,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg",)

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        p, g = decayed(p, g, moment, options, decoupled=True)
        beta1, beta2 = options["betas"]
        direction = ops.sign(beta1 * slots["exp_avg"] + (1.0 - beta1) * g)
        m = beta2 * slots["exp_avg"] + (1.0 - beta2) * g
        return Rule(p - moment.lr * direction, {"exp_avg": m})
