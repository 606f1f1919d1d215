"""Normalization layers. Names, arguments and buffers are PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.dsl import parameter, state
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import float32, int64

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
]


class LayerNorm(Module):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axes (Ba et al. 2016)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: object = float32,
    ) -> None:
        single = isinstance(normalized_shape, int)
        self.normalized_shape: tuple[int, ...] = (
            (normalized_shape,) if single else tuple(normalized_shape)  # type: ignore
        )
        self.eps = eps
        affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = parameter(shape, dtype, init=init.ones) if affine else None
        self.bias = parameter(shape, dtype) if affine and bias else None

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def _describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axes (Zhang, Sennrich 2019)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: object = float32,
    ) -> None:
        single = isinstance(normalized_shape, int)
        self.normalized_shape: tuple[int, ...] = (
            (normalized_shape,) if single else tuple(normalized_shape)  # type: ignore
        )
        self.eps = eps
        shape = self.normalized_shape
        self.weight = parameter(shape, dtype, init=init.ones) if elementwise_affine else None

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def _describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class LocalResponseNorm(Module):
    """x divided by a power of the mean square over ``size`` neighbouring channels."""

    def __init__(
        self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        if size < 1:
            raise ValueError(f"LocalResponseNorm: size must be at least 1, got {size}")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Value) -> Value:
        """[N, C, *space], the same shape."""
        return functional.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def _describe(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class GroupNorm(Module):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over each sample's groups of channels.

    x is [N, C, *space], ``weight`` and ``bias`` [C] (Wu, He 2018).

    >>> import graphc as gc
    >>> GroupNorm(2, 6)(gc.observed("x", (4, 6, 5, 5))).shape
    (4, 6, 5, 5)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: object = float32,
    ) -> None:
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_groups} groups do not divide {num_channels}")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = parameter((num_channels,), dtype, init=init.ones) if affine else None
        self.bias = parameter((num_channels,), dtype) if affine and bias else None

    def forward(self, x: Value) -> Value:
        """The same shape."""
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(
                f"GroupNorm: x is {x.type}, its axis 1 must be {self.num_channels} channels", here()
            )
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def _describe(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


class _BatchNorm(Module):
    """What the three share; a subclass says which numbers of axes it takes."""

    _ranks: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: object = float32,
    ) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        shape, tracks = (num_features,), track_running_stats
        self.weight = parameter(shape, dtype, init=init.ones) if affine else None
        self.bias = parameter(shape, dtype) if affine and bias else None
        self.running_mean = state(shape, dtype) if tracks else None
        self.running_var = state(shape, dtype, init=init.ones) if tracks else None
        self.num_batches_tracked = state((), int64) if tracks else None

    def forward(self, x: Value) -> Value:
        """The same shape."""
        if x.ndim not in self._ranks or x.shape[1] != self.num_features:
            ranks = " or ".join(map(str, self._ranks))
            raise ShapeError(
                f"{self._own_name}: x is {x.type}, it must have {ranks} axes, axis 1 being "
                f"{self.num_features} channels",
                here(),
            )
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.momentum,
            self.eps,
            self.num_batches_tracked,
        )

    def _describe(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_BatchNorm):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` for each channel of [N, C] or [N, C, L].

    In mode train mean and variance are the batch's, and ``running_mean`` and ``running_var`` move
    towards them by ``momentum`` (None: they are the plain means of all batches). In mode eval those
    take their place. Without ``affine`` it has no weight and no bias, without ``bias`` no bias. See
    ``functional.batch_norm``. Ioffe, Szegedy 2015.

    A batch of one value a channel has variance 0 (PyTorch refuses it).
    """

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """As BatchNorm1d, of images [N, C, H, W].

    >>> import graphc as gc
    >>> sorted(BatchNorm2d(3).state_dict())
    ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
    """

    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """As BatchNorm1d, of volumes [N, C, D, H, W]."""

    _ranks = (5,)


class _InstanceNorm(Module):
    """What the three share; a subclass says how many axes it takes."""

    _rank = 0

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        dtype: object = float32,
    ) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        shape, tracks = (num_features,), track_running_stats
        self.weight = parameter(shape, dtype, init=init.ones) if affine else None
        self.bias = parameter(shape, dtype) if affine and bias else None
        self.running_mean = state(shape, dtype) if tracks else None
        self.running_var = state(shape, dtype, init=init.ones) if tracks else None
        self.num_batches_tracked = state((), int64) if tracks else None

    def forward(self, x: Value) -> Value:
        """The same shape."""
        single = x.ndim == self._rank - 1
        batch = x[None] if single else x
        if batch.ndim != self._rank or batch.shape[1] != self.num_features:
            raise ShapeError(
                f"{self._own_name}: x is {x.type}, it must have {self._rank} axes, axis 1 being "
                f"{self.num_features} channels (or of one sample {self._rank - 1}, axis 0)",
                here(),
            )
        out = functional.instance_norm(
            batch,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.momentum,
            self.eps,
        )
        return out[0] if single else out

    def _describe(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class InstanceNorm1d(_InstanceNorm):
    """``(x - mean) / sqrt(var + eps)`` over each channel of each sample of [N, C, L] (or [C, L]).

    Without ``affine`` it has no weight and bias; with ``track_running_stats`` mode eval takes
    running statistics. See ``functional.instance_norm``. Ulyanov, Vedaldi, Lempitsky 2016.

    >>> import graphc as gc
    >>> InstanceNorm1d(3)(gc.observed("x", (4, 3, 8))).shape
    (4, 3, 8)
    """

    _rank = 3


class InstanceNorm2d(_InstanceNorm):
    """As InstanceNorm1d, of images [N, C, H, W]."""

    _rank = 4


class InstanceNorm3d(_InstanceNorm):
    """As InstanceNorm1d, of volumes [N, C, D, H, W]."""

    _rank = 5
