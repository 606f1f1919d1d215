"""Learning rates and momenta as functions of the step: ``schedule(step) -> rate``.

``step`` is an int64 scalar Value, the number of steps already made, so the first call sees 0; the
rate is a float64 scalar. What an optimizer takes as ``lr`` it takes as ``momentum`` (SGD, RMSprop),
``beta`` (Momentum) and in ``betas`` (Adam and its relatives) too. Where
``torch.optim.lr_scheduler`` has the schedule, the rates are its.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphc import ops
from graphc.graph import Value
from graphc.types import float64

__all__ = [
    "Schedule",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "cyclic_momentum",
    "exponential",
    "inverse_time",
    "linear",
    "multi_step",
    "one_cycle",
    "one_cycle_momentum",
    "step",
    "warmup_cosine",
]

Schedule = Callable[[Value], Value]


def step(lr: float, step_size: int, gamma: float = 0.1) -> Schedule:
    """``lr * gamma^(t // step_size)``."""
    _positive(step_size=step_size)
    return lambda t: lr * _power(gamma, (t // step_size).astype(float64))


def multi_step(lr: float, milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """``lr`` times ``gamma`` for every milestone reached."""

    def schedule(t: Value) -> Value:
        return lr * _power(gamma, _count_reached(t, milestones))

    return schedule


def exponential(lr: float, gamma: float) -> Schedule:
    """``lr * gamma^t``."""
    return lambda t: lr * _power(gamma, t.astype(float64))


def inverse_time(lr: float, decay: float, decay_steps: int = 1) -> Schedule:
    """``lr / (1 + decay t / decay_steps)``."""
    _positive(decay_steps=decay_steps)
    return lambda t: lr / (1.0 + t.astype(float64) * (decay / decay_steps))


def linear(
    lr: float, start_factor: float = 1.0 / 3.0, end_factor: float = 1.0, total_iters: int = 5
) -> Schedule:
    """``lr`` times a factor that runs from the first to the second in ``total_iters`` steps."""
    _positive(total_iters=total_iters)

    def schedule(t: Value) -> Value:
        return lr * _line_between(start_factor, end_factor, _progress(t, 0, total_iters))

    return schedule


def cosine(lr: float, t_max: int, eta_min: float = 0.0) -> Schedule:
    """Half a cosine from ``lr`` down to ``eta_min`` in ``t_max`` steps, then constant.

    Loshchilov, Hutter, "SGDR", 2017, without restarts.
    """
    _positive(t_max=t_max)
    return lambda t: _cosine_between(lr, eta_min, _progress(t, 0, t_max))


def cosine_restarts(lr: float, t_0: int, t_mult: int = 1, eta_min: float = 0.0) -> Schedule:
    """Cosines from ``lr`` to ``eta_min``, the first ``t_0`` steps long, each ``t_mult`` times
    longer.

    Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.
    """
    _positive(t_0=t_0, t_mult=t_mult)

    def schedule(t: Value) -> Value:
        if t_mult == 1:
            return _cosine_between(lr, eta_min, (t % t_0).astype(float64) / float(t_0))
        begin, span = ops.zeros_like(t), ops.full_like(t, t_0)
        at, length = t_0, t_0 * t_mult
        while at < 2**40:
            begin, span = ops.where(t >= at, at, begin), ops.where(t >= at, length, span)
            at, length = at + length, length * t_mult
        return _cosine_between(lr, eta_min, (t - begin).astype(float64) / span.astype(float64))

    return schedule


def one_cycle(
    max_lr: float,
    total_steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal_strategy: str = "cos",
    three_phase: bool = False,
) -> Schedule:
    """Up from ``max_lr / div_factor`` to ``max_lr``, then down to 1 / final_div_factor of the
    start; with ``three_phase`` down to the start as fast as it came up, and on from there.

    Along cosines or, with ``anneal_strategy="linear"``, lines. Smith, Topin, "Super-Convergence",
    2018; torch's OneCycleLR, whose momentum is ``one_cycle_momentum``.
    """
    ends = _phases(total_steps, pct_start, three_phase)
    first = max_lr / div_factor
    heights = [first, max_lr, *([first] if three_phase else []), first / final_div_factor]
    return lambda t: _through(t, ends, heights, anneal_strategy)


def one_cycle_momentum(
    total_steps: int,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    three_phase: bool = False,
) -> Schedule:
    """The momentum of a ``one_cycle``: lowest where the rate is highest.

    >>> from graphc import optim
    >>> momentum = one_cycle_momentum(100)
    >>> sgd = optim.SGD(one_cycle(0.1, 100), momentum=momentum)
    >>> adam = optim.Adam(one_cycle(0.1, 100), betas=(momentum, 0.999))
    """
    ends = _phases(total_steps, pct_start, three_phase)
    heights = [max_momentum, base_momentum, *[max_momentum] * (len(ends) - 2)]
    return lambda t: _through(t, ends, heights, anneal_strategy)


def cyclic(
    base_lr: float,
    max_lr: float,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> Schedule:
    """``base + (max - base) wave(t) scale``: a triangle wave between two rates, torch's CyclicLR.

    ``wave`` rises from 0 to 1 in ``step_size_up`` steps and falls in ``step_size_down`` (as many,
    unless said). ``scale`` is 1 ("triangular"), halves with every cycle ("triangular2") or is
    ``gamma^t`` ("exp_range"). Smith, "Cyclical Learning Rates for Training Neural Networks", 2017.

    >>> import graphc as gc
    >>> t = gc.observed("t", (), gc.int64)
    >>> rate = gc.compile([t], cyclic(0.0, 1.0, 2, mode="triangular2")(t))
    >>> [float(rate(i)) for i in range(8)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]
    """
    down = step_size_up if step_size_down is None else step_size_down
    _positive(step_size_up=step_size_up, step_size_down=down)
    if mode not in ("triangular", "triangular2", "exp_range"):
        raise ValueError(
            f"cyclic: mode is 'triangular', 'triangular2' or 'exp_range', not {mode!r}"
        )
    length = step_size_up + down

    def schedule(t: Value) -> Value:
        at = (t % length).astype(float64)
        height = (max_lr - base_lr) * ops.minimum(
            at / float(step_size_up), (float(length) - at) / float(down)
        )
        if mode == "triangular2":
            height = height * _power(0.5, (t // length).astype(float64))
        if mode == "exp_range":
            height = height * _power(gamma, t.astype(float64))
        return base_lr + height

    return schedule


def cyclic_momentum(
    base_momentum: float = 0.8,
    max_momentum: float = 0.9,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> Schedule:
    """The momentum of a ``cyclic`` rate: it falls from the greater while the rate rises."""
    return cyclic(max_momentum, base_momentum, step_size_up, step_size_down, mode, gamma)


def warmup_cosine(lr: float, warmup_steps: int, total_steps: int, eta_min: float = 0.0) -> Schedule:
    """From 0 up to ``lr`` along a line, then down to ``eta_min`` along a cosine, then constant.

    The first step has ``lr / warmup_steps``, so that it is not lost.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError("warmup_cosine: need 0 <= warmup_steps < total_steps")

    def schedule(t: Value) -> Value:
        down = _cosine_between(lr, eta_min, _progress(t, warmup_steps, total_steps))
        if warmup_steps == 0:
            return down
        return ops.where(t < warmup_steps, lr * ((t + 1).astype(float64) / warmup_steps), down)

    return schedule


# ---- pieces


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _progress(t: Value, begin: float, end: float) -> Value:
    """0 until ``begin``, 1 from ``end`` on, a line between (without any where they are one)."""
    if begin == end:
        return (t.astype(float64) >= end).astype(float64)
    return ops.clip((t.astype(float64) - begin) / (end - begin), 0.0, 1.0)


def _cosine_between(start: float, end: float, progress: Value) -> Value:
    return end + (start - end) * (0.5 + 0.5 * ops.cos(progress * math.pi))


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[float]:
    """Where the phases of a cycle end, 0 before them."""
    _positive(total_steps=total_steps)
    if not 0.0 <= pct_start <= 1.0:
        raise ValueError(f"one_cycle: pct_start is a share in [0, 1], not {pct_start}")
    top = pct_start * total_steps
    return [0.0, top - 1.0, *([2.0 * top - 2.0] if three_phase else []), total_steps - 1.0]


def _through(t: Value, ends: Sequence[float], heights: Sequence[float], strategy: str) -> Value:
    """From each height to the next, which is reached at its end."""
    if strategy not in ("cos", "linear"):
        raise ValueError(f"one_cycle: anneal_strategy is 'cos' or 'linear', not {strategy!r}")
    between = _cosine_between if strategy == "cos" else _line_between
    *earlier, last = [
        (end, between(h, next_h, _progress(t, begin, end)))
        for begin, end, h, next_h in zip(ends, ends[1:], heights, heights[1:], strict=False)
    ]
    found = last[1]
    for end, value in reversed(earlier):
        found = ops.where(t.astype(float64) <= end, value, found)
    return found


def _line_between(start: float, end: float, progress: Value) -> Value:
    return start + (end - start) * progress


def _power(base: float, exponent: Value) -> Value:
    """base^exponent of a constant base > 0."""
    if base <= 0.0:
        raise ValueError(f"gamma must be positive, got {base}")
    return ops.exp(exponent * math.log(base))


def _count_reached(t: Value, milestones: Sequence[int]) -> Value:
    count = ops.zeros((), float64)
    for milestone in milestones:
        count = count + (t >= milestone).astype(float64)
    return count
