"""Row programs read at other places than their own: shifted, gathered, transposed, rolled.

A kernel that computes a row's sum where it is used may not take the place for the sum's own axis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.closing import close
from graphc.interpret import interpret

SIZE = 9


def _row(x: gc.Value) -> gc.Value:
    e = ops.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _column(x: gc.Value) -> gc.Value:
    return _row(x.T).T


MOVED: dict[str, Callable[[gc.Value, gc.Value], gc.Value]] = {
    "gathered along the row": lambda x, i: ops.take(_row(x), i, axis=1),
    "gathered rows": lambda x, i: ops.take(_row(x), i, axis=0),
    "one of each row": lambda x, i: ops.take_along_axis(_row(x), i.reshape(-1, 1), axis=1),
    "differences along the row": lambda x, i: _row(x)[:, 1:] - _row(x)[:, :-1],
    "differences of rows": lambda x, i: _row(x)[1:] - _row(x)[:-1],
    "with its transpose": lambda x, i: _row(x) + _row(x).T,
    "rows with columns": lambda x, i: _row(x) * _column(x),
    "flipped": lambda x, i: _row(x) - ops.flip(_row(x), axis=1),
    "rolled": lambda x, i: ops.roll(_row(x), 1, axis=1),
    "rolled both ways": lambda x, i: ops.roll(ops.roll(_row(x), 2, axis=0), 1, axis=1) + x,
    "padded": lambda x, i: ops.pad(_row(x), ((1, 2), (2, 1))),
    "every second": lambda x, i: _row(x)[::2, ::-1][:, ::2],
    "reshaped": lambda x, i: _row(x).reshape(3, SIZE * 3) * 2.0,
    "sums against sums": lambda x, i: x.sum(axis=1).reshape(-1, 1) - x.sum(axis=1),
    "maxima against minima": lambda x, i: x.max(axis=1).reshape(-1, 1) * x.min(axis=0),
    "its diagonal": lambda x, i: ops.take_along_axis(
        _row(x), ops.arange(SIZE).reshape(-1, 1), axis=1
    ),
    "a row program of a row program": lambda x, i: _row(_row(x)[:, 1:])[:, :-1] + x[:, 2:],
    "of a gathered one": lambda x, i: _row(ops.take(_row(x), i, axis=1)),
}


@pytest.mark.parametrize("name", MOVED)
def test_a_moved_row_program_gives_the_oracles_numbers(name: str) -> None:
    x, i = gc.observed("x", (SIZE, SIZE)), gc.observed("i", (SIZE,), gc.int64)
    y = MOVED[name](x, i)
    cost = (y * y).sum()
    outputs = [y, gc.grad(cost, x)]
    rng = np.random.default_rng(1)
    at, places = rng.standard_normal((SIZE, SIZE)).astype(np.float32), rng.integers(0, SIZE, SIZE)
    expected, _ = interpret(close(outputs, {}, [x, i]), [at, places])
    got = gc.compile([x, i], outputs, unused="ignore")(at, places)
    for one, right in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, right, rtol=1e-4, atol=1e-5)
    alone = gc.compile([x, i], y, unused="ignore")(at, places)
    np.testing.assert_allclose(alone, expected[0], rtol=1e-4, atol=1e-5)
