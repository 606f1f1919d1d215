"""Normalization: over the last axes, over groups of channels, over the batch."""

from __future__ import annotations

from collections.abc import Sequence

from graphc import ops
from graphc.dsl import attach_updates, by_mode, chosen_mode
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.op import composite
from graphc.ops.lifting import lift_one, narrowed, widened
from graphc.ops.reductions import count_of
from graphc.ops.sizes import product
from graphc.source import here
from graphc.types import DType, Extent

__all__ = [
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "rms_norm",
]

#: the distance from 1 to the next number
_NEXT_TO_ONE = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@composite
def layer_norm(
    x: object,
    normalized_shape: int | Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axes.

    Ba, Kiros, Hinton, "Layer Normalization", 2016. The variance is the biased one.
    """
    value = lift_one("layer_norm", x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if value.ndim < len(shape) or value.shape[value.ndim - len(shape) :] != shape:
        raise ShapeError(f"layer_norm: x is {value.type}, its last axes must be {shape}", here())
    _check_scales("layer_norm", shape, weight, bias)
    axes = tuple(range(-len(shape), 0))
    wide = widened(value)
    centered = wide - ops.mean(wide, axes, keepdims=True)
    variance = ops.mean(centered * centered, axes, keepdims=True)
    out = centered * ops.rsqrt(variance + eps)
    if weight is not None:
        out = out * weight
    return narrowed(out if bias is None else out + bias, value, weight, bias)


@composite
def rms_norm(
    x: object,
    normalized_shape: int | Sequence[int],
    weight: Value | None = None,
    eps: float | None = None,
) -> Value:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axes.

    ``eps`` is by default the distance from 1 to the next number of x's type. Zhang, Sennrich, "Root
    Mean Square Layer Normalization", 2019.

    >>> rms_norm([[3.0, 4.0]], 2).shape
    (1, 2)
    """
    value = lift_one("rms_norm", x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if value.ndim < len(shape) or value.shape[value.ndim - len(shape) :] != shape:
        raise ShapeError(f"rms_norm: x is {value.type}, its last axes must be {shape}", here())
    _check_scales("rms_norm", shape, weight)
    added = _NEXT_TO_ONE[value.dtype.name] if eps is None else eps
    wide = widened(value)
    square = ops.mean(wide * wide, tuple(range(-len(shape), 0)), keepdims=True)
    out = wide * ops.rsqrt(square + added)
    return narrowed(out if weight is None else out * weight, value, weight)


@composite
def local_response_norm(
    x: object, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Value:
    """``x / (k + alpha m)^beta``, m the mean of x^2 over ``size`` neighbouring channels (axis 1).

    Beyond the first and the last channel there are zeros, which count. Krizhevsky, Sutskever,
    Hinton 2012.

    >>> local_response_norm([[1.0, 2.0, 3.0]], 2).shape
    (1, 3)
    """
    value = lift_one("local_response_norm", x)
    if value.ndim < 2:
        raise ShapeError(f"local_response_norm: x is {value.type}, not [N, C, *space]", here())
    if size < 1:
        raise ValueError(f"local_response_norm: size must be at least 1, got {size}")
    wide = widened(value)
    last = ops.moveaxis(wide * wide, 1, -1)
    framed = ops.pad(last, [(0, 0)] * (value.ndim - 1) + [(size // 2, (size - 1) // 2)])
    mean = ops.moveaxis(ops.mean(ops.windows(framed, size, 1), -1), -1, 1)
    return narrowed(wide / (k + alpha * mean) ** beta, value)


@composite
def instance_norm(
    x: object,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the places of each channel and sample.

    x is [N, C, *space], everything else [C]. With running statistics (states), mode train moves
    them towards the batch's means of mean and variance without bias, as ``batch_norm`` does, and
    mode eval takes them instead. A single place has no variance: it is refused, but for running
    statistics in mode eval. Ulyanov, Vedaldi, Lempitsky, "Instance Normalization", 2016.

    >>> import graphc as gc
    >>> instance_norm(gc.observed("x", (4, 3, 5, 5))).shape
    (4, 3, 5, 5)
    """
    value = lift_one("instance_norm", x)
    _check_channels(value, (weight, bias, running_mean, running_var), "instance_norm")
    if value.ndim < 3:
        raise ShapeError(f"instance_norm: x is {value.type}, it needs places: [N, C, L]", here())
    tracks = running_mean is not None and running_var is not None
    if product(value.shape[2:]) == 1 and not (tracks and chosen_mode() == "eval"):
        otherwise = " (pinned to mode eval it takes running statistics)" if tracks else ""
        raise ShapeError(
            f"instance_norm: x is {value.type}, it needs more than one place to normalize "
            f"over{otherwise}",
            here(),
        )
    axes = tuple(range(2, value.ndim))
    wide = widened(value)
    mean = ops.mean(wide, axes, keepdims=True)
    centered = wide - mean
    variance = ops.mean(centered * centered, axes, keepdims=True)
    out = centered * ops.rsqrt(variance + eps)
    if running_mean is None or running_var is None:
        return _scaled(out, weight, bias, value)
    unbiased = variance * _bessel([wide.shape[a] for a in axes], wide.dtype)
    moved: dict[Value, Value] = {}
    for running, of_each in ((running_mean, mean), (running_var, unbiased)):
        of_batch = ops.reshape(ops.mean(of_each, 0), (-1,))
        moved[running] = _towards(running, of_batch, momentum)
    still = _by_known(wide, running_mean, running_var, eps)
    return _scaled(by_mode(train=attach_updates(out, moved), eval=still), weight, bias, value)


@composite
def group_norm(
    x: object,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over each sample's groups of channels.

    x is [N, C, *space]; mean and (biased) variance are of the C / num_groups channels of a group
    at all places; ``weight`` and ``bias`` are [C]. Wu, He, "Group Normalization", 2018.
    """
    value = lift_one("group_norm", x)
    if num_groups < 1:
        raise ValueError(f"group_norm: num_groups is at least 1, not {num_groups}")
    if value.ndim < 2 or not isinstance(value.shape[1], int) or value.shape[1] % num_groups:
        raise ShapeError(
            f"group_norm: x is {value.type}, its axis 1 must be channels in {num_groups} equal "
            "groups",
            here(),
        )
    _check_channels(value, (weight, bias), "group_norm")
    batch, channels, *space = value.shape
    grouped = ops.reshape(widened(value), (batch, num_groups, channels // num_groups, *space))
    axes = tuple(range(2, grouped.ndim))
    centered = grouped - ops.mean(grouped, axes, keepdims=True)
    variance = ops.mean(centered * centered, axes, keepdims=True)
    out = ops.reshape(centered * ops.rsqrt(variance + eps), value.shape)
    return _scaled(out, weight, bias, value)


@composite
def batch_norm(
    x: object,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    num_batches_tracked: Value | None = None,
) -> Value:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` for each channel, over batch and space.

    x is [N, C, *space] (or [N, C]), everything else [C]. In mode train mean and biased variance
    are the batch's, and the running ones, where given (states), move towards it, the variance
    without bias::

        running <- running + momentum (of the batch - running)

    In mode eval the running ones take their place. Several calls in one step move them in program
    order. ``num_batches_tracked`` (an integer state) counts the calls in mode train; with it
    ``momentum`` may be None: 1 / count, so that the running ones are plain means. The variance
    without bias of a single value counts as 0.

    Ioffe, Szegedy, "Batch Normalization", 2015.
    """
    value = lift_one("batch_norm", x)
    _check_channels(value, (weight, bias, running_mean, running_var))
    axes = tuple(i for i in range(value.ndim) if i != 1)
    wide = widened(value)
    mean = ops.mean(wide, axes)
    centered = wide - _by_channel(mean, wide)
    variance = ops.mean(centered * centered, axes)
    out = centered * _by_channel(ops.rsqrt(variance + eps), wide)
    if running_mean is None or running_var is None:
        return _scaled(out, weight, bias, value)
    moved: dict[Value, Value] = {}
    share: float | Value | None = momentum
    if num_batches_tracked is not None:
        count = moved[num_batches_tracked] = num_batches_tracked + 1
        share = 1.0 / count.astype(wide.dtype) if momentum is None else momentum
    if share is None:
        raise ValueError("batch_norm: momentum=None needs num_batches_tracked, to count the calls")
    unbiased = variance * _bessel([wide.shape[a] for a in axes], wide.dtype)
    for running, of_batch in ((running_mean, mean), (running_var, unbiased)):
        moved[running] = _towards(running, of_batch, share)
    out = attach_updates(out, moved)
    still = _by_known(wide, running_mean, running_var, eps)
    return _scaled(by_mode(train=out, eval=still), weight, bias, value)


def _towards(running: Value, of_batch: Value, share: float | Value) -> Value:
    """A running statistic after a step towards the batch's."""
    before = widened(running)
    return narrowed(before + share * (of_batch - before), running)


def _by_known(x: Value, running_mean: Value, running_var: Value, eps: float) -> Value:
    """x normalized by running statistics."""
    known = _by_channel(ops.rsqrt(widened(running_var) + eps), x)
    return (x - _by_channel(widened(running_mean), x)) * known


def _check_scales(name: str, shape: Sequence[Extent], *scales: Value | None) -> None:
    """Refuse a weight or bias that would be broadcast."""
    for given in scales:
        if given is not None and given.shape != tuple(shape):
            raise ShapeError(
                f"{name}: a weight or bias is {given.type}, one for each of {tuple(shape)}", here()
            )


def _check_channels(
    x: Value, vectors: Sequence[Value | None], name: str = "batch_norm"
) -> None:
    """Refuse an x whose axis 1 does not go with what there is one of for each channel."""
    known = [v for v in vectors if v is not None]
    if x.ndim < 2 or any(v.shape != x.shape[1:2] for v in known):
        of = f", as many as of {known[0].type}" if known else ""
        raise ShapeError(f"{name}: x is {x.type}, its axis 1 must be channels{of}", here())


def _bessel(extents: Sequence[Extent], dtype: DType) -> float | Value:
    """n / (n - 1): what takes the bias from a variance of n values."""
    count = count_of(extents, dtype)
    if isinstance(count, int):
        return count / max(count - 1, 1)
    return count / ops.maximum(count - 1.0, 1.0)


def _by_channel(vector: Value, x: Value) -> Value:
    """[C] as [C, 1, ...], to go with axis 1 of x."""
    return ops.reshape(vector, (-1, *(1,) * (x.ndim - 2)))


def _scaled(out: Value, weight: Value | None, bias: Value | None, x: Value) -> Value:
    """``out * weight + bias`` in the type in which x, weight and bias meet."""
    if weight is not None:
        out = out * _by_channel(weight, out)
    return narrowed(out if bias is None else out + _by_channel(bias, out), x, weight, bias)
