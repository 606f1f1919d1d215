"""Convolutions and their transposes over one, two and three axes, given their weights.

::

    conv            y[n, o, i] = sum over c, p of x[n, c, stride i + dilation p - padding] w[o, c, p]
    conv_transpose  y[n, o, j] = sum over c, i, p of x[n, c, i] w[c, o, p]
                                 where j = stride i + dilation p - padding

with ``bias[o]`` added. With g groups the channels are cut into g parts that do not see each other.
x is [batch, channels, *space] or, of one sample, [channels, *space].
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc import ops
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.op import composite
from graphc.ops.lifting import lift_one
from graphc.source import here

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]

#: an int for all axes, or one for each
PerAxis = int | Sequence[int]


@composite
def conv1d(
    x: object,
    weight: Value,
    bias: Value | None = None,
    stride: PerAxis = 1,
    padding: PerAxis | str = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Value:
    """Over one axis: x [N, C, L], weight [O, C / groups, K] to [N, O, L'].

    ``padding`` is "valid" (none), "same" (L' = L; of an odd total one more at the end) or a width.
    """
    return _convolve("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


@composite
def conv2d(
    x: object,
    weight: Value,
    bias: Value | None = None,
    stride: PerAxis = 1,
    padding: PerAxis | str = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Value:
    """Over two axes: x [N, C, H, W], weight [O, C / groups, K, K] to [N, O, H', W'].

    >>> import graphc as gc
    >>> conv2d(gc.observed("x", (8, 3, 9, 9)), gc.parameter((5, 3, 3, 3)), stride=2).shape
    (8, 5, 4, 4)
    """
    return _convolve("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


@composite
def conv3d(
    x: object,
    weight: Value,
    bias: Value | None = None,
    stride: PerAxis = 1,
    padding: PerAxis | str = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Value:
    """Over three axes: x [N, C, D, H, W], weight [O, C / groups, K, K, K]."""
    return _convolve("conv3d", 3, x, weight, bias, stride, padding, dilation, groups)


@composite
def conv_transpose1d(
    x: object,
    weight: Value,
    bias: Value | None = None,
    stride: PerAxis = 1,
    padding: PerAxis = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
) -> Value:
    """Over one axis: x [N, C, L], weight [C, O / groups, K] to [N, O, L'].

    L' is (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1.
    """
    given = (stride, padding, output_padding, groups, dilation)
    return _convolve_transposed("conv_transpose1d", 1, x, weight, bias, *given)


@composite
def conv_transpose2d(
    x: object,
    weight: Value,
    bias: Value | None = None,
    stride: PerAxis = 1,
    padding: PerAxis = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
) -> Value:
    """Over two axes: x [N, C, H, W], weight [C, O / groups, K, K] to [N, O, H', W'].

    >>> import graphc as gc
    >>> x, w = gc.observed("x", (8, 5, 4, 4)), gc.parameter((5, 3, 3, 3))
    >>> conv_transpose2d(x, w, stride=2).shape
    (8, 3, 9, 9)
    """
    given = (stride, padding, output_padding, groups, dilation)
    return _convolve_transposed("conv_transpose2d", 2, x, weight, bias, *given)


@composite
def conv_transpose3d(
    x: object,
    weight: Value,
    bias: Value | None = None,
    stride: PerAxis = 1,
    padding: PerAxis = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
) -> Value:
    """Over three axes: x [N, C, D, H, W], weight [C, O / groups, K, K, K]."""
    given = (stride, padding, output_padding, groups, dilation)
    return _convolve_transposed("conv_transpose3d", 3, x, weight, bias, *given)


def _convolve(
    name: str,
    rank: int,
    x: object,
    weight: Value,
    bias: Value | None,
    stride: PerAxis,
    padding: PerAxis | str,
    dilation: PerAxis,
    groups: int,
) -> Value:
    value = _batched(name, rank, x, weight)
    rims = rims_of(name, padding, weight.shape[2:], stride, dilation)
    out = ops.convolution(value, weight, stride, rims, dilation, groups)
    return _finished(name, out, bias, x)


def _convolve_transposed(
    name: str,
    rank: int,
    x: object,
    weight: Value,
    bias: Value | None,
    stride: PerAxis,
    padding: PerAxis,
    output_padding: PerAxis,
    groups: int,
    dilation: PerAxis,
) -> Value:
    value = _batched(name, rank, x, weight)
    out = ops.convolution_transpose(
        value, weight, stride, padding, output_padding, dilation, groups
    )
    return _finished(name, out, bias, x)


def _batched(name: str, rank: int, x: object, weight: Value) -> Value:
    """x as [batch, channels, *space]."""
    value = lift_one(name, x)
    if value.ndim not in (rank + 1, rank + 2) or weight.ndim != rank + 2:
        space = ", ".join("DHW"[-rank:]) if rank > 1 else "L"
        raise ShapeError(
            f"{name}: x is {value.type}, it must be [batch, channels, {space}] or, of one sample, "
            f"[channels, {space}] (weight {weight.type})",
            here(),
        )
    return value if value.ndim == rank + 2 else ops.expand_dims(value, 0)


def _finished(name: str, out: Value, bias: Value | None, x: object) -> Value:
    """With the bias, and without the batch axis that x had not."""
    if bias is not None:
        if bias.shape != out.shape[1:2]:
            raise ShapeError(
                f"{name}: bias is {bias.type}, it must be [{out.shape[1]}], one number for each "
                "filter",
                here(),
            )
        out = out + ops.reshape(bias, (-1, *(1,) * (out.ndim - 2)))
    return out if lift_one("conv", x).ndim == out.ndim else out[0]


def rims_of(
    name: str, padding: PerAxis | str, sizes: Sequence[Any], stride: PerAxis, dilation: PerAxis
) -> list[tuple[Any, Any]]:
    """Padding as a (low, high) pair for each axis."""
    if padding == "valid":
        return [(0, 0)] * len(sizes)
    if not isinstance(padding, str):
        widths = _repeated(padding, len(sizes))
        if len(widths) != len(sizes):
            raise ShapeError(
                f"{name}: padding is an int or {len(sizes)} ints, got {padding}", here()
            )
        return [(width, width) for width in widths]
    if padding != "same":
        raise ValueError(f"{name}: padding is 'valid', 'same' or ints, not {padding!r}")
    if any(step != 1 for step in _repeated(stride, len(sizes))):
        raise ValueError(f"{name}: padding='same' needs stride 1, got {stride}")
    spans = [d * (k - 1) for d, k in zip(_repeated(dilation, len(sizes)), sizes, strict=True)]
    return [(span // 2, span - span // 2) for span in spans]


def _repeated(given: PerAxis, rank: int) -> Sequence[int]:
    return (given,) * rank if isinstance(given, int) else given
