"""Layers, losses and what joins them; names, arguments and layouts are PyTorch's."""

from graphc.nn import (
    activations,
    adaptive,
    adaptive_pooling,
    attention,
    cells,
    cloning,
    combinations,
    containers,
    convolutions,
    embeddings,
    functional,
    graph_attention,
    graphs,
    init,
    layers,
    losses,
    noise,
    normalization,
    pooling,
    recurrence,
    sampling,
    seq2seq,
    similarity,
    transformers,
    utils,
)
from graphc.nn.activations import *
from graphc.nn.adaptive import *
from graphc.nn.adaptive_pooling import *
from graphc.nn.attention import *
from graphc.nn.cells import *
from graphc.nn.cloning import *
from graphc.nn.combinations import *
from graphc.nn.containers import *
from graphc.nn.convolutions import *
from graphc.nn.embeddings import *
from graphc.nn.graph_attention import *
from graphc.nn.graphs import *
from graphc.nn.layers import *
from graphc.nn.losses import *
from graphc.nn.module import Module, PortError
from graphc.nn.noise import *
from graphc.nn.normalization import *
from graphc.nn.pooling import *
from graphc.nn.recurrence import *
from graphc.nn.sampling import *
from graphc.nn.seq2seq import *
from graphc.nn.similarity import *
from graphc.nn.transformers import *

__all__ = [
    "Module",
    "PortError",
    "functional",
    "init",
    "utils",
    *activations.__all__,
    *adaptive.__all__,
    *adaptive_pooling.__all__,
    *attention.__all__,
    *cells.__all__,
    *cloning.__all__,
    *combinations.__all__,
    *containers.__all__,
    *convolutions.__all__,
    *embeddings.__all__,
    *graph_attention.__all__,
    *graphs.__all__,
    *layers.__all__,
    *losses.__all__,
    *noise.__all__,
    *normalization.__all__,
    *pooling.__all__,
    *recurrence.__all__,
    *sampling.__all__,
    *seq2seq.__all__,
    *similarity.__all__,
    *transformers.__all__,
]
