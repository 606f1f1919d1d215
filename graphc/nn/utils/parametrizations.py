"""Weight norm and spectral norm. Names, arguments and ``state_dict`` are those of
``torch.nn.utils.parametrizations``.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc import ops
from graphc.dsl import attach_updates, by_mode, state, stop_gradient
from graphc.errors import ShapeError, StateError
from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.convolutions import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from graphc.nn.init import normal
from graphc.nn.module import Module
from graphc.nn.utils.parametrize import register_parametrization
from graphc.ops.lifting import normalize_axis
from graphc.philox import Key
from graphc.source import here
from graphc.types import DType

__all__ = ["spectral_norm", "weight_norm"]


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """``weight = g v / |v|``: length and direction are trained apart; the module.

    |v| is taken over all axes but ``dim`` (None: over all). ``original0`` is g, ``original1`` v.
    Salimans, Kingma, "Weight Normalization", 2016.

    >>> import graphc as gc
    >>> layer = weight_norm(gc.nn.Linear(4, 3))
    >>> [(name, p.shape) for name, p in layer.named_parameters("*original*")]
    [('parametrizations.weight.original0', (3, 1)), ('parametrizations.weight.original1', (3, 4))]
    """
    return register_parametrization(module, name, _WeightNorm(dim))


class _WeightNorm(Module):
    def __init__(self, dim: int | None) -> None:
        self.dim = dim

    def forward(self, length: Value, direction: Value) -> Value:
        """g and v to g v / |v|."""
        return direction * (length / self._norm(direction))

    def right_inverse(self, weight: Value) -> tuple[Value, Value]:
        """The weight's own norm, and itself."""
        return self._norm(weight), weight

    def _norm(self, v: Value) -> Value:
        if self.dim is None:
            return ops.sqrt(ops.sum(v * v))
        kept = normalize_axis("weight_norm", self.dim, v.ndim)
        axes = tuple(i for i in range(v.ndim) if i != kept)
        return ops.sqrt(ops.sum(v * v, axes, keepdims=True) if axes else v * v)


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """``weight = W / s``, s its largest singular value, so that the layer stretches nothing; the
    module.

    W is seen as a matrix of ``dim`` by the rest (0; 1 for transposed convolutions). Every call in
    mode train makes ``n_power_iterations`` of::

        u <- W v / |W v|        v <- W' u / |W' u|        s = u' W v

    whose results, the buffers ``_u`` and ``_v``, are constants to derivatives; they start behind 15
    iterations. Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018.

    >>> import graphc as gc
    >>> list(spectral_norm(gc.nn.Linear(4, 3, bias=False)).state_dict())[1:]
    ['parametrizations.weight.0._u', 'parametrizations.weight.0._v']
    """
    if n_power_iterations < 1:
        raise ValueError(f"spectral_norm: need n_power_iterations >= 1, got {n_power_iterations}")
    held = vars(module).get(name)
    if not isinstance(held, Value):
        raise StateError(f"spectral_norm: {module._own_name} has no parameter {name!r}", here())
    if dim is None:
        transposed = isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d))
        dim = int(transposed)
    return register_parametrization(module, name, _SpectralNorm(held, n_power_iterations, eps, dim))


class _SpectralNorm(Module):
    def __init__(self, weight: Any, n_power_iterations: int, eps: float, dim: int) -> None:
        if weight.ndim < 2:
            raise ShapeError(
                f"spectral_norm: {weight.type} is no matrix; weight_norm takes vectors", here()
            )
        self.eps, self.n_power_iterations = eps, n_power_iterations
        self.dim = normalize_axis("spectral_norm", dim, weight.ndim)
        rows = weight.shape[self.dim]
        columns = int(np.prod(weight.shape)) // max(rows, 1)
        first_u = functools.partial(_first_u, weight, self.dim, eps)
        self._u = state((rows,), weight.dtype, init=first_u)
        first_v = functools.partial(_first_v, weight, self._u, self.dim, eps)
        self._v = state((columns,), weight.dtype, init=first_v)

    def forward(self, weight: Value) -> Value:
        """W / s."""
        matrix = ops.reshape(ops.moveaxis(weight, self.dim, 0), (self._u.shape[0], -1))
        fixed, u, v = stop_gradient(matrix), self._u * 1.0, self._v * 1.0
        still = weight / (u @ (matrix @ v))
        for _ in range(self.n_power_iterations):
            u = functional.normalize(fixed @ v, dim=0, eps=self.eps)
            v = functional.normalize(fixed.T @ u, dim=0, eps=self.eps)
        u, v = stop_gradient(u), stop_gradient(v)
        moved = attach_updates(weight / (u @ (matrix @ v)), {self._u: u, self._v: v})
        normed: Value = by_mode(train=moved, eval=still)
        return normed


def _first_u(
    weight: Any, dim: int, eps: float, shape: tuple[int, ...], dtype: DType, key: Key
) -> NDArray[Any]:
    w = _matrix(weight, dim)
    v = normal((w.shape[1],), dtype, key).astype(np.float64)
    for _ in range(15):
        u = _unit(w @ _unit(v, eps), eps)
        v = w.T @ u
    return u.astype(dtype.numpy)


def _first_v(
    weight: Any, u: Any, dim: int, eps: float, shape: tuple[int, ...], dtype: DType, key: Key
) -> NDArray[Any]:
    at = _matrix(weight, dim).T @ u.numpy().astype(np.float64)
    return _unit(at, eps).astype(dtype.numpy)


def _matrix(weight: Any, dim: int) -> NDArray[Any]:
    """A weight's numbers in float64, [its axis ``dim``, all the rest]."""
    first: NDArray[Any] = np.moveaxis(weight.numpy().astype(np.float64), dim, 0)
    return first.reshape(first.shape[0], -1)


def _unit(v: NDArray[Any], eps: float) -> NDArray[Any]:
    unit: NDArray[Any] = v / max(float(np.linalg.norm(v)), eps)
    return unit
