"""Pooling over one, two and three axes: ``gc.ops.max_pool`` and ``gc.ops.avg_pool`` by PyTorch's
names. x is [..., *space]; ``stride`` defaults to the window's size.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc import ops
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.ops.lifting import lift_one
from graphc.source import here

__all__ = ["avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"]

#: an int for all axes, or one for each
PerAxis = int | Sequence[int]


def max_pool1d(
    x: object,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> Value:
    """The largest of each window over the last axis."""
    size = _sizes("max_pool1d", 1, x, kernel_size)
    return ops.max_pool(x, size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: object,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> Value:
    """The largest of each window over the last two axes.

    >>> import graphc as gc
    >>> max_pool2d(gc.observed("x", (8, 3, 9, 9)), 3, stride=2, padding=1).shape
    (8, 3, 5, 5)
    """
    size = _sizes("max_pool2d", 2, x, kernel_size)
    return ops.max_pool(x, size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    x: object,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> Value:
    """The largest of each window over the last three axes."""
    size = _sizes("max_pool3d", 3, x, kernel_size)
    return ops.max_pool(x, size, stride, padding, dilation, ceil_mode)


def avg_pool1d(
    x: object,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    """The mean of each window over the last axis."""
    size = _sizes("avg_pool1d", 1, x, kernel_size)
    return ops.avg_pool(x, size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    x: object,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The mean of each window over the last two axes; ``divisor_override`` replaces its count."""
    size = _sizes("avg_pool2d", 2, x, kernel_size)
    options = ceil_mode, count_include_pad, divisor_override
    return ops.avg_pool(x, size, stride, padding, *options)


def avg_pool3d(
    x: object,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The mean of each window over the last three axes; see ``avg_pool2d``."""
    size = _sizes("avg_pool3d", 3, x, kernel_size)
    options = ceil_mode, count_include_pad, divisor_override
    return ops.avg_pool(x, size, stride, padding, *options)


def _sizes(name: str, rank: int, x: object, kernel_size: PerAxis) -> tuple[int, ...]:
    """The window's size along each pooled axis. x has channels, and perhaps a batch, before."""
    value = lift_one(name, x)
    if value.ndim not in (rank + 1, rank + 2):
        raise ShapeError(
            f"{name}: x is {value.type}, it must have {rank + 2} axes, or of one sample {rank + 1}",
            here(),
        )
    sizes = (kernel_size,) * rank if isinstance(kernel_size, int) else tuple(kernel_size)
    if len(sizes) != rank:
        raise ShapeError(f"{name}: kernel_size is an int or {rank} ints, got {kernel_size}", here())
    return sizes
