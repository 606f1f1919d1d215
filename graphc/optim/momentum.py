"""Momentum in its textbook forms, and step sizes of each weight's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc import ops
from graphc.graph import Value
from graphc.optim.optimizer import Moment, Optimizer, Rule, descent
from graphc.optim.settings import Setting

_FORMS = ("classical", "averaged", "stochastic_heavy_ball")

__all__ = ["AdaptiveGains", "Momentum", "Rprop"]


class Momentum(Optimizer):
    """Gradient descent with momentum, in the three forms that textbooks give it.

    ::

        classical             v <- beta v - lr g                 p <- p + v
        averaged              v <- beta v + (1 - beta) g         p <- p - lr v
        stochastic_heavy_ball p <- p - lr g + beta (p - p of the step before)

    With a constant rate the first and the third are the same; ``averaged``, the older form, is
    either with a rate 1 - beta times as large. When the rate changes, they differ: ``classical``
    remembers steps, ``averaged`` gradients. ``nesterov`` looks ahead: the step is made with the
    buffer of the next one (``classical``: ``p + beta v - lr g``). Polyak 1964; Rumelhart, Hinton,
    Williams 1986; Sutskever et al. 2013.

    >>> import graphc as gc
    >>> w = gc.parameter((2,)).named("w")
    >>> list(Momentum(0.1, form="stochastic_heavy_ball").slots(w))
    ['previous']
    """

    options = ("beta", "form", "nesterov", "weight_decay")
    varying = ("beta",)

    def __init__(
        self,
        lr: Setting = 1e-2,
        *,
        beta: Setting = 0.9,
        form: str = "classical",
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            beta=beta,
            form=form,
            nesterov=nesterov,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        super()._check(options)
        if options["form"] not in _FORMS:
            known = ", ".join(_FORMS)
            raise ValueError(f"Momentum: form is one of {known}, not {options['form']!r}")
        if options["nesterov"] and options["form"] == "stochastic_heavy_ball":
            raise ValueError("Momentum: the stochastic heavy ball has no Nesterov form here")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("previous",) if options["form"] == "stochastic_heavy_ball" else ("velocity",)

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        g, beta, lr = descent(p, g, options), options["beta"], moment.lr
        if options["form"] == "stochastic_heavy_ball":
            before = ops.where(moment.first, p, slots["previous"])
            return Rule(p - lr * g + beta * (p - before), {"previous": p})
        if options["form"] == "averaged":
            v = beta * slots["velocity"] + (1.0 - beta) * g
            ahead = beta * v + (1.0 - beta) * g if options["nesterov"] else v
            return Rule(p - lr * ahead, {"velocity": v})
        v = beta * slots["velocity"] - lr * g
        ahead = beta * v - lr * g if options["nesterov"] else v
        return Rule(p + ahead, {"velocity": v})


class AdaptiveGains(Optimizer):
    """Gradient descent with a gain for each weight: up while its gradient keeps its sign.

    ::

        gain <- gain + up         where g and the gradient before have one sign
        gain <- gain * down       where they differ
        p    <- p - lr gain g     with every gain within the bounds

    Gains start at 1. For large batches, so that a change of sign means something. Jacobs 1988;
    Hinton's lecture 6d, with +0.05 and * 0.95.

    >>> import graphc as gc
    >>> w = gc.parameter((2,)).named("w")
    >>> list(AdaptiveGains(0.1).slots(w))
    ['gain', 'previous']
    """

    options = ("up", "down", "bounds", "weight_decay")

    def __init__(
        self,
        lr: Setting = 1e-2,
        *,
        up: float = 0.05,
        down: float = 0.95,
        bounds: tuple[float, float] = (0.1, 10.0),
        weight_decay: float = 0.0,
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            up=up,
            down=down,
            bounds=bounds,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        super()._check(options)
        low, high = options["bounds"]
        if options["up"] < 0 or not 0.0 < options["down"] <= 1.0 or not 0.0 < low <= 1.0 <= high:
            raise ValueError("AdaptiveGains: need up >= 0, 0 < down <= 1, 0 < low <= 1 <= high")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("gain", "previous")

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        g = descent(p, g, options)
        low, high = options["bounds"]
        gain, agreement = ops.where(moment.first, 1.0, slots["gain"]), g * slots["previous"]
        lowered = ops.where(agreement < 0, gain * options["down"], gain)
        gain = ops.clip(ops.where(agreement > 0, gain + options["up"], lowered), low, high)
        return Rule(p - moment.lr * (gain * g), {"gain": gain, "previous": g})


class Rprop(Optimizer):
    """Steps of each weight's own size, by the gradient's sign alone, as ``torch.optim.Rprop``.

    ::

        step <- step * 1.2 where the sign stays, * 0.5 where it changes, within ``step_sizes``
        p    <- p - sign(g) step          (none where the sign changed: that gradient is forgotten)

    ``lr`` is the first step; for full batches. Riedmiller, Braun, "A Direct Adaptive Method for
    Faster Backpropagation Learning", 1993.
    """

    options = ("etas", "step_sizes")

    def __init__(
        self,
        lr: Setting = 1e-2,
        *,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        maximize: bool = False,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            lr,
            groups,
            etas=etas,
            step_sizes=step_sizes,
            maximize=maximize,
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        super()._check(options)
        minus, plus = options["etas"]
        low, high = options["step_sizes"]
        if not 0.0 < minus < 1.0 < plus or not 0.0 < low <= high:
            raise ValueError("Rprop: need 0 < etas[0] < 1 < etas[1] and 0 < step_sizes[0] <= [1]")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("prev", "step_size")

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        g = -g if options["maximize"] else g
        minus, plus = options["etas"]
        low, high = options["step_sizes"]
        agreement = g * slots["prev"]
        before = ops.where(moment.first, moment.lr, slots["step_size"])
        shorter = ops.where(agreement < 0, before * minus, before)
        step = ops.clip(ops.where(agreement > 0, before * plus, shorter), low, high)
        kept = ops.where(agreement < 0, 0.0, g)
        return Rule(p - ops.sign(kept) * step, {"prev": kept, "step_size": step})
