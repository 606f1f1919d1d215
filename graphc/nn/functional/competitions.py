"""Activations in which the elements along an axis compete: softmax, softmin, maxout, gated units,
Gumbel's softmax. Names are PyTorch's where it has them.
"""

from __future__ import annotations

from graphc import ops, random
from graphc.dsl import stop_gradient
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.op import composite
from graphc.ops.lifting import lift_one, normalize_axis
from graphc.source import here
from graphc.types import int64

__all__ = ["glu", "gumbel_softmax", "log_softmax", "maxout", "softmax", "softmin"]


def softmax(x: object, dim: int = -1) -> Value:
    """exp(x) over its sum along ``dim``: ``gc.ops.softmax``, by PyTorch's name of the axis.

    >>> softmax([[1.0, 2.0]], dim=1).shape
    (1, 2)
    """
    return ops.softmax(x, dim)


def log_softmax(x: object, dim: int = -1) -> Value:
    """log(softmax(x)) along ``dim``: ``gc.ops.log_softmax``.

    >>> log_softmax([[1.0, 2.0]], dim=1).shape
    (1, 2)
    """
    return ops.log_softmax(x, dim)


@composite
def softmin(x: object, dim: int = -1) -> Value:
    """softmax(-x) along ``dim``.

    >>> softmin([[1.0, 2.0]]).shape
    (1, 2)
    """
    return ops.softmax(-lift_one("softmin", x), dim)


@composite
def glu(x: object, dim: int = -1) -> Value:
    """``a sigmoid(b)``, a and b being the halves of x along ``dim`` (Dauphin et al. 2017).

    >>> glu([[1.0, 2.0, 3.0, 4.0]]).shape
    (1, 2)
    """
    value = lift_one("glu", x)
    halves = _grouped("glu", value, dim, 2, first=True)
    return halves[0] * ops.sigmoid(halves[1])


@composite
def maxout(x: object, pieces: int, dim: int = -1) -> Value:
    """The largest of each ``pieces`` neighbours along ``dim``: [.., C, ..] -> [.., C / pieces, ..].

    After a linear layer a convex, piecewise linear function that is learned. Goodfellow et al.,
    "Maxout Networks", 2013.

    >>> maxout([[1.0, 2.0, 3.0, 4.0]], 2).shape
    (1, 2)
    """
    value = lift_one("maxout", x)
    return ops.max(_grouped("maxout", value, dim, pieces, first=False), 0)


@composite
def gumbel_softmax(logits: object, tau: float = 1.0, hard: bool = False, dim: int = -1) -> Value:
    """``softmax((logits + g) / tau)`` along ``dim`` with g drawn from Gumbel's distribution: a draw
    of a class that has a derivative (Jang, Gu, Poole 2017).

    With ``hard`` the value is one-hot, and the derivative that of the soft one. It draws in every
    mode, as in PyTorch: for prediction take the argmax of the logits.

    >>> gumbel_softmax([[1.0, 2.0]], hard=True).shape
    (1, 2)
    """
    value = lift_one("gumbel_softmax", logits)
    if not tau > 0.0:
        raise ValueError(f"gumbel_softmax: tau must be > 0, got {tau}")
    axis = normalize_axis("gumbel_softmax", dim, value.ndim)
    # uniform in (0, 1): the middles of 2^24 cells, so that neither logarithm is infinite
    unit = random.uniform(value.shape, dtype=value.dtype) * (1.0 - 2.0**-23) + 2.0**-24
    noise = -ops.log(-ops.log(unit))
    soft = ops.softmax((value + noise) / tau, axis)
    if not hard:
        return soft
    chosen = (_place(soft, axis) == ops.argmax(soft, axis, keepdims=True)).astype(soft.dtype)
    one_hot: Value = stop_gradient(chosen - soft) + soft
    return one_hot


def _place(value: Value, axis: int) -> Value:
    """int64, [.., extent, ..] with ones around: 0, 1, 2... along ``axis``."""
    numbers = ops.arange(value.shape[axis], dtype=int64)
    return ops.reshape(numbers, (-1, *(1,) * (value.ndim - 1 - axis)))


def _grouped(name: str, value: Value, dim: int, count: int, *, first: bool) -> Value:
    """[count, .., extent / count, ..]: ``count`` parts one after the other (``first``), or the
    neighbours of each run of ``count``.
    """
    axis = normalize_axis(name, dim, value.ndim)
    extent = value.shape[axis]
    if count < 1 or not isinstance(extent, int) or extent % count:
        raise ShapeError(
            f"{name}: axis {axis} of {value.type} does not fall into groups of {count}", here()
        )
    before, behind = value.shape[:axis], value.shape[axis + 1 :]
    pair = (count, extent // count) if first else (extent // count, count)
    grouped = ops.reshape(value, (*before, *pair, *behind))
    return ops.moveaxis(grouped, axis if first else axis + 1, 0)
