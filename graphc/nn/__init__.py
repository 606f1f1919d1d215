"""Layers, losses and what joins them; names, arguments and layouts are PyTorch's."""

from graphc.nn import functional, init
from graphc.nn.containers import Lambda, Parallel, Residual, Sequential
from graphc.nn.layers import (
    GELU,
    Dropout,
    LayerNorm,
    LeakyReLU,
    Linear,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from graphc.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from graphc.nn.module import Module, PortError

__all__ = [
    "GELU",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "Dropout",
    "Lambda",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MSELoss",
    "Module",
    "Parallel",
    "PortError",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "init",
]
