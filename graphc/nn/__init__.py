"""Layers, losses and what joins them; names, arguments and layouts are PyTorch's."""

from graphc.nn import (
    activations,
    containers,
    convolutions,
    functional,
    init,
    layers,
    losses,
    normalization,
    pooling,
    recurrence,
    seq2seq,
)
from graphc.nn.activations import *
from graphc.nn.containers import *
from graphc.nn.convolutions import *
from graphc.nn.layers import *
from graphc.nn.losses import *
from graphc.nn.module import Module, PortError
from graphc.nn.normalization import *
from graphc.nn.pooling import *
from graphc.nn.recurrence import *
from graphc.nn.seq2seq import *

__all__ = [
    "Module",
    "PortError",
    "functional",
    "init",
    *activations.__all__,
    *containers.__all__,
    *convolutions.__all__,
    *layers.__all__,
    *losses.__all__,
    *normalization.__all__,
    *pooling.__all__,
    *recurrence.__all__,
    *seq2seq.__all__,
]
