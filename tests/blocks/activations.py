"""Activations. Kinks stand among the points: the derivative there is PyTorch's too."""

from __future__ import annotations

from typing import Any

from tests.blocks.sample import Block, normal

_POINTS = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0, 30.0, -30.0, 200.0, -200.0)
_LINE = (normal(5, 8, scale=3.0, points=_POINTS),)
_SMALL = (normal(3, 4, 5),)


def _plain(name: str, *args: Any, **options: Any) -> Block:
    return Block(name, args, options, _LINE)


def _maxout(torch: Any, x: Any) -> Any:
    return x.reshape(3, 2, 2, 5).amax(2)


ACTIVATIONS = [
    _plain("ReLU"),
    _plain("LeakyReLU"),
    _plain("LeakyReLU", 0.2, inplace=False),
    Block("RReLU", (), {}, _LINE, random=True),
    Block("RReLU", (0.1, 0.3), {}, _LINE, random=True),
    Block("PReLU", (), {}, (normal(5, 8),)),  # at 0 itself PyTorch's second derivative is none
    Block("PReLU", (4,), {"init": 0.1}, _SMALL),
    Block("PReLU", (8,), {}, (normal(5, 8),), lively=True),
    _plain("ELU"),
    _plain("ELU", alpha=0.5),
    _plain("CELU"),
    _plain("CELU", alpha=2.0),
    _plain("SELU"),
    _plain("ReLU6"),
    _plain("Threshold", 0.5, -2.0),
    _plain("GELU"),
    _plain("GELU", approximate="tanh"),
    _plain("SiLU"),
    _plain("Mish"),
    _plain("Hardswish"),
    # PyTorch rounds the slope 1/6 to float32
    Block("Hardsigmoid", (), {}, _LINE, second=False, within=1e-7),
    _plain("Hardtanh"),
    _plain("Hardtanh", -0.5, 3.0),
    _plain("Softsign"),
    _plain("Softplus"),
    _plain("Softplus", beta=2.0, threshold=5.0),
    _plain("LogSigmoid"),
    _plain("Sigmoid"),
    _plain("Tanh"),
    _plain("Tanhshrink"),
    _plain("Softshrink"),
    _plain("Softshrink", 1.0),
    _plain("Hardshrink"),
    _plain("Hardshrink", 1.0),
    _plain("Softmax", dim=-1),
    _plain("LogSoftmax", dim=0),
    _plain("Softmin", dim=1),
    Block("Softmax2d", (), {}, (normal(2, 3, 4, 2),)),
    Block("Softmax2d", (), {}, (normal(3, 4, 2),)),
    _plain("GLU"),
    Block("GLU", (1,), {}, _SMALL),
    Block("Maxout", (2,), {"dim": 1}, _SMALL, _maxout, "the maximum over pairs of neighbours"),
]
