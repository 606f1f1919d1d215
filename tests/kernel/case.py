"""What a kernel of the zoo is: its text, inputs drawn from a seeded generator, and an independent
reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A kernel, how to draw its inputs, and what it must give.

    ``tolerance`` is on floats, absolute, relative to max(1, largest magnitude of the reference);
    integers and bools are exact. ``sizes`` and ``scalars`` are the run-time ones.
    """

    name: str
    text: str
    make_inputs: Callable[[np.random.Generator], Arrays]
    reference: Callable[[Arrays], Arrays]
    tolerance: float = 2e-5
    sizes: Mapping[str, int] = field(default_factory=dict)
    scalars: Mapping[str, Any] = field(default_factory=dict)
    golden: bool = False

    def __str__(self) -> str:
        return self.name


class Draw:
    """Random arrays of a case: a shorter way to write them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def normal(self, *shape: int, dtype: Any = np.float32) -> Any:
        return np.asarray(self.rng.standard_normal(shape)).astype(dtype)

    def positive(self, *shape: int) -> Any:
        return np.asarray(self.rng.uniform(0.5, 1.5, shape)).astype(np.float32)

    def integers(self, low: int, high: int, *shape: int, dtype: Any = np.int64) -> Any:
        return np.asarray(self.rng.integers(low, high, shape)).astype(dtype)


def render(template: str, sizes: Mapping[str, int]) -> str:
    """``{..}`` in a template is a Python expression of the sizes."""
    text = re.sub(r"\{([^}]*)\}", lambda m: str(eval(m[1], {}, dict(sizes))), template)
    return text.strip("\n")


def cases(
    name: str,
    template: str,
    inputs: Callable[[Draw, Any], Arrays],
    want: Callable[..., Arrays],
    *variants: Mapping[str, int],
    tolerance: float = 2e-5,
    run_time: Sequence[str] = (),
    scalars: Callable[[Any], Mapping[str, Any]] = lambda p: {},
) -> list[Case]:
    """A case for each variant of sizes; the first is the golden. ``want(p, **inputs)`` is the
    reference.

    The sizes named in ``run_time`` are those of `size` lines: the text is the same for all of their
    values.
    """
    made = []
    for number, sizes in enumerate(variants or ({},)):
        p = SimpleNamespace(**sizes)
        label = ",".join(f"{k}={v}" for k, v in sizes.items())
        made.append(
            Case(
                name if number == 0 else f"{name}[{label}]",
                render(template, sizes),
                partial(_drawn, inputs, p),
                partial(_wanted, want, p),
                tolerance,
                {k: v for k, v in sizes.items() if k in run_time},
                scalars(p),
                number == 0,
            )
        )
    return made


def _drawn(inputs: Callable[[Draw, Any], Arrays], p: Any, rng: np.random.Generator) -> Arrays:
    return inputs(Draw(rng), p)


def _wanted(want: Callable[..., Arrays], p: Any, given: Arrays) -> Arrays:
    return want(p, **given)


def f64(*arrays: Any) -> Any:
    """The arrays in f64, so that a reference has no rounding of its own to speak of."""
    wide = tuple(np.asarray(a).astype(np.float64) for a in arrays)
    return wide[0] if len(wide) == 1 else wide
