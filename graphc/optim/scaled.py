"""Gradients divided by what each weight's have been: Adagrad, Adadelta, RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc import ops
from graphc.graph import Value
from graphc.optim.optimizer import Moment, Optimizer, Rule, descent
from graphc.optim.settings import Setting, used

__all__ = ["Adadelta", "Adagrad", "RMSprop"]


class Adagrad(Optimizer):
    """Divide by the root of all squared gradients so far, as ``torch.optim.Adagrad``.

    ::

        s <- s + g^2          p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)

    Duchi, Hazan, Singer, "Adaptive Subgradient Methods", 2011.
    """

    options = ("lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def __init__(
        self,
        lr: Setting = 1e-2,
        *,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        super()._check(options)
        if options["initial_accumulator_value"] < 0:
            raise ValueError("Adagrad: initial_accumulator_value must be >= 0")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("sum",)

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        g = descent(p, g, options)
        first = options["initial_accumulator_value"]
        before = ops.where(moment.first, first, slots["sum"]) if first else slots["sum"]
        total = before + g * g
        rate = moment.lr / (1.0 + (moment.t - 1.0) * options["lr_decay"])
        return Rule(p - rate * (g / (ops.sqrt(total) + options["eps"])), {"sum": total})


class Adadelta(Optimizer):
    """Steps in the units of the weights, without a rate to choose, as ``torch.optim.Adadelta``.

    ::

        s <- rho s + (1 - rho) g^2          d = sqrt(a + eps) / sqrt(s + eps) g
        a <- rho a + (1 - rho) d^2          p <- p - lr d

    Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012.
    """

    options = ("rho", "eps", "weight_decay")

    def __init__(
        self,
        lr: Setting = 1.0,
        *,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            rho=rho,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        g, rho, eps = descent(p, g, options), options["rho"], options["eps"]
        square = rho * slots["square_avg"] + (1.0 - rho) * (g * g)
        delta = ops.sqrt(slots["acc_delta"] + eps) / ops.sqrt(square + eps) * g
        size = rho * slots["acc_delta"] + (1.0 - rho) * (delta * delta)
        return Rule(p - moment.lr * delta, {"square_avg": square, "acc_delta": size})


class RMSprop(Optimizer):
    """Divide by the root of a moving mean of squared gradients, as ``torch.optim.RMSprop``.

    ::

        s <- alpha s + (1 - alpha) g^2          d = g / (sqrt(s) + eps)
        b <- momentum b + d                     p <- p - lr b     (nesterov: d + momentum b)

    ``centered`` subtracts the square of a moving mean of g from s: the variance. ``nesterov`` is
    not PyTorch's. Tieleman, Hinton, lecture 6e, 2012; Graves 2013.
    """

    options = ("alpha", "eps", "weight_decay", "momentum", "centered", "nesterov")
    varying = ("momentum",)

    def __init__(
        self,
        lr: Setting = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: Setting = 0.0,
        centered: bool = False,
        nesterov: bool = False,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            nesterov=nesterov,
            maximize=maximize,
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        super()._check(options)
        if options["nesterov"] and not used(options["momentum"]):
            raise ValueError("RMSprop: nesterov needs momentum > 0")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return (
            "square_avg",
            *(["grad_avg"] if options["centered"] else []),
            *(["momentum_buffer"] if used(options["momentum"]) else []),
        )

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        g, alpha, momentum = descent(p, g, options), options["alpha"], options["momentum"]
        square = alpha * slots["square_avg"] + (1.0 - alpha) * (g * g)
        new, spread = {"square_avg": square}, square
        if options["centered"]:
            mean = slots["grad_avg"] + (1.0 - alpha) * (g - slots["grad_avg"])
            # a variance, which rounding may leave below 0 where gradients hardly change
            new["grad_avg"], spread = mean, ops.maximum(square - mean * mean, 0.0)
        step = g / (ops.sqrt(spread) + options["eps"])
        if used(momentum):
            buffer = new["momentum_buffer"] = momentum * slots["momentum_buffer"] + step
            step = step + momentum * buffer if options["nesterov"] else buffer
        return Rule(p - moment.lr * step, new)
