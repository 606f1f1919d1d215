"""Random programs over square matrices: with all axes equally long, an axis taken for another one
gives wrong numbers and not an error.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.closing import close
from graphc.interpret import interpret

SIZE = 6

Step = Callable[[Random, list[gc.Value], gc.Value], gc.Value]


def _rows(x: gc.Value, monoid: str, axis: int) -> gc.Value:
    return getattr(x, monoid)(axis=axis, keepdims=True)


def _monoid(random: Random) -> str:
    return random.choice(["sum", "max", "min", "mean"])


STEPS: dict[str, Step] = {
    "map": lambda r, v, i: getattr(ops, r.choice(["tanh", "abs", "sigmoid"]))(r.choice(v)),
    "join": lambda r, v, i: r.choice([ops.add, ops.multiply, ops.maximum])(
        r.choice(v), r.choice(v)
    ),
    "less its row": lambda r, v, i: (lambda x: x - _rows(x, _monoid(r), r.choice([0, 1])))(
        r.choice(v)
    ),
    "row of another": lambda r, v, i: (
        r.choice(v) * _rows(r.choice(v), _monoid(r), r.choice([0, 1]))
    ),
    "rows for columns": lambda r, v, i: r.choice(v) + _rows(r.choice(v), _monoid(r), 1).T,
    "transpose": lambda r, v, i: r.choice(v).T,
    "flip": lambda r, v, i: ops.flip(r.choice(v), axis=r.choice([0, 1])),
    "roll": lambda r, v, i: ops.roll(r.choice(v), r.randint(1, 3), axis=r.choice([0, 1])),
    "shift": lambda r, v, i: ops.pad(r.choice(v)[1:, :-2], ((0, 1), (2, 0))),
    "take": lambda r, v, i: ops.take(r.choice(v), i, axis=r.choice([0, 1])),
    "one of each row": lambda r, v, i: (
        ops.take_along_axis(r.choice(v), i.reshape(-1, 1), axis=1) * r.choice(v)
    ),
    "add rows": lambda r, v, i: r.choice(v).at[i].add(r.choice(v)),
    "product": lambda r, v, i: r.choice(v) @ r.choice(v) * 0.25,
    "mask": lambda r, v, i: ops.where(
        ops.arange(SIZE) <= ops.arange(SIZE).reshape(-1, 1), r.choice(v), 0.5
    ),
    "running sum": lambda r, v, i: ops.cumulative_sum(r.choice(v), axis=r.choice([0, 1])) * 0.25,
    "reshape": lambda r, v, i: (
        r.choice(v).reshape(2, SIZE // 2, SIZE).permute(1, 0, 2).reshape(SIZE, SIZE)
    ),
}


def program(seed: int) -> tuple[list[gc.Value], list[gc.Value]]:
    """Inputs, and three of the last values with a gradient."""
    random = Random(seed)
    x, y = gc.observed("x", (SIZE, SIZE)), gc.observed("y", (SIZE, SIZE))
    i = gc.observed("i", (SIZE,), gc.int64)
    values = [x, y, ops.tanh(x + y)]
    for _ in range(random.randint(3, 9)):
        made = STEPS[random.choice(list(STEPS))](random, values[-4:], i)
        values.append(ops.tanh(made))
    outputs = [values[-1], *random.sample(values[2:], 2)]
    cost = sum((v * v).sum() for v in outputs)
    return [x, y, i], [*outputs, *gc.grad(cost, [x, y], unused="zero")]


def check(seed: int) -> None:
    inputs, outputs = program(seed)
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((SIZE, SIZE)).astype(np.float32) for _ in range(2)]
    arrays.append(rng.integers(0, SIZE, SIZE))
    expected, _ = interpret(close(outputs, {}, inputs), arrays)
    got = gc.compile(inputs, outputs, unused="ignore")(*arrays)
    for one, right in zip(got, expected, strict=True):
        scale = float(np.abs(right).max(initial=1.0))
        np.testing.assert_allclose(one, right, rtol=2e-4, atol=2e-4 * scale, err_msg=f"seed {seed}")


#: two of them once met a held value before it was whole
@pytest.mark.parametrize("seed", [*range(10), 1330, 1536])
def test_a_random_square_program_gives_the_oracles_numbers(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 1200, 20))
def test_many_random_square_programs(start: int) -> None:
    for seed in range(start, start + 20):
        check(seed)
