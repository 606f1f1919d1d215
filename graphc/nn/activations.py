"""Activations as modules. Names and arguments are PyTorch's; the formulas and their sources stand
in ``nn.functional``.

``inplace`` is taken for the sake of PyTorch's programs and changes nothing: where results lie is
the compiler's choice.
"""

from __future__ import annotations

import functools

from graphc.dsl import parameter
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional
from graphc.nn.init import constant
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import float32

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "GumbelSoftmax",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Maxout",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


# ---- without options


class _Plain(Module):
    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace


class ReLU(_Plain):
    """max(x, 0)."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.relu(x)


class ReLU6(_Plain):
    """min(max(x, 0), 6)."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.relu6(x)


class SELU(_Plain):
    """The exponential linear unit whose layers normalize themselves."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.selu(x)


class SiLU(_Plain):
    """x times sigmoid(x)."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.silu(x)


class Mish(_Plain):
    """x times tanh(softplus(x))."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.mish(x)


class Hardswish(_Plain):
    """x times relu6(x + 3) / 6."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.hardswish(x)


class Hardsigmoid(_Plain):
    """relu6(x + 3) / 6."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.hardsigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.sigmoid(x)


class LogSigmoid(Module):
    """log(sigmoid(x)), without overflow."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.logsigmoid(x)


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.softsign(x)


class Tanhshrink(Module):
    """x - tanh(x)."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.tanhshrink(x)


# ---- with options


class LeakyReLU(Module):
    """x where positive, else ``negative_slope * x``."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.leaky_relu(x, self.negative_slope)

    def _describe(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """x where positive, else ``weight x``; ``weight`` [num_parameters] is learned, from ``init``.

    One slope for all, or one for each channel (axis 1).

    >>> import graphc as gc
    >>> PReLU(3)(gc.observed("x", (4, 3, 8))).shape, list(PReLU().state_dict())
    ((4, 3, 8), ['weight'])
    """

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, *, dtype: object = float32
    ) -> None:
        if num_parameters < 1:
            raise ValueError(f"PReLU: num_parameters must be at least 1, got {num_parameters}")
        self.num_parameters = num_parameters
        first = functools.partial(constant, value=init)
        self.weight = parameter((num_parameters,), dtype, init=first)

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.prelu(x, self.weight)

    def _describe(self) -> str:
        return f"num_parameters={self.num_parameters}"


class RReLU(Module):
    """x where positive, else a x: a is drawn in mode train, and the mean slope in mode eval."""

    def __init__(
        self, lower: float = 1.0 / 8.0, upper: float = 1.0 / 3.0, inplace: bool = False
    ) -> None:
        if not 0.0 <= lower <= upper <= 1.0:
            raise ValueError(f"RReLU: need 0 <= lower <= upper <= 1, got {lower} and {upper}")
        self.lower, self.upper, self.inplace = lower, upper, inplace

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.rrelu(x, self.lower, self.upper)

    def _describe(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"


class ELU(Module):
    """x where positive, else ``alpha (exp(x) - 1)``."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha, self.inplace = alpha, inplace

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.elu(x, self.alpha)

    def _describe(self) -> str:
        return f"alpha={self.alpha}"


class CELU(Module):
    """x where positive, else ``alpha (exp(x / alpha) - 1)``."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha, self.inplace = alpha, inplace

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.celu(x, self.alpha)

    def _describe(self) -> str:
        return f"alpha={self.alpha}"


class GELU(Module):
    """x times the normal distribution function at x; ``approximate`` "none" or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.gelu(x, self.approximate)

    def _describe(self) -> str:
        return f"approximate={self.approximate!r}"


class Softplus(Module):
    """``log(1 + exp(beta x)) / beta``, linear where ``beta x > threshold``."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.softplus(x, self.beta, self.threshold)

    def _describe(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Hardtanh(Module):
    """x, kept within ``min_val`` and ``max_val``."""

    def __init__(
        self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
    ) -> None:
        if not min_val < max_val:
            raise ValueError(f"Hardtanh: need min_val < max_val, got {min_val} and {max_val}")
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.hardtanh(x, self.min_val, self.max_val)

    def _describe(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class Threshold(Module):
    """x where above ``threshold``, else ``value``."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        self.threshold, self.value, self.inplace = threshold, value, inplace

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.threshold(x, self.threshold, self.value)

    def _describe(self) -> str:
        return f"threshold={self.threshold}, value={self.value}"


class Softshrink(Module):
    """x moved towards 0 by ``lambd``."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.softshrink(x, self.lambd)

    def _describe(self) -> str:
        return f"{self.lambd}"


class Hardshrink(Module):
    """x where |x| > ``lambd``, else 0."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.hardshrink(x, self.lambd)

    def _describe(self) -> str:
        return f"{self.lambd}"


# ---- along an axis


class _Along(Module):
    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def _describe(self) -> str:
        return f"dim={self.dim}"


class Softmax(_Along):
    """exp(x) normalized to sum 1 along ``dim``."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.softmax(x, self.dim)


class LogSoftmax(_Along):
    """log(softmax(x)) along ``dim``."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.log_softmax(x, self.dim)


class Softmin(_Along):
    """softmax(-x) along ``dim``."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        return functional.softmin(x, self.dim)


class GLU(_Along):
    """a sigmoid(b), the halves of x along ``dim``."""

    def forward(self, x: Value) -> Value:
        """[.., 2 C, ..] -> [.., C, ..]."""
        return functional.glu(x, self.dim)


class Softmax2d(Module):
    """softmax over the channels at every place of [N, C, H, W] or [C, H, W]."""

    def forward(self, x: Value) -> Value:
        """The same shape."""
        if x.ndim not in (3, 4):
            raise ShapeError(f"Softmax2d: x is {x.type}, not [N, C, H, W] or [C, H, W]", here())
        return functional.softmax(x, -3)


class Maxout(Module):
    """The largest of each ``pieces`` neighbours along ``dim``.

    >>> import graphc as gc
    >>> hidden = gc.nn.Linear(3, 8) >> Maxout(2)
    >>> hidden(gc.observed("x", (5, 3))).shape
    (5, 4)
    """

    def __init__(self, pieces: int, dim: int = -1) -> None:
        if pieces < 1:
            raise ValueError(f"Maxout: pieces must be at least 1, got {pieces}")
        self.pieces, self.dim = pieces, dim

    def forward(self, x: Value) -> Value:
        """[.., C, ..] -> [.., C / pieces, ..]."""
        return functional.maxout(x, self.pieces, self.dim)

    def _describe(self) -> str:
        return f"pieces={self.pieces}, dim={self.dim}"


class GumbelSoftmax(Module):
    """A draw of a class along ``dim`` that has a derivative; see ``functional.gumbel_softmax``."""

    def __init__(self, tau: float = 1.0, hard: bool = False, dim: int = -1) -> None:
        if not tau > 0.0:
            raise ValueError(f"GumbelSoftmax: tau must be > 0, got {tau}")
        self.tau, self.hard, self.dim = tau, hard, dim

    def forward(self, logits: Value) -> Value:
        """The same shape."""
        return functional.gumbel_softmax(logits, self.tau, self.hard, self.dim)

    def _describe(self) -> str:
        return f"tau={self.tau}, hard={self.hard}, dim={self.dim}"
