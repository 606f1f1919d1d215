"""Functions of layers and losses by the names of ``torch.nn.functional``; states come as arguments.

Each is a composite: made of primitive ops, and drawn, printed and exported as one block.
"""

from graphc.nn.functional import (
    activations,
    adaptive,
    attention,
    classification,
    competitions,
    convolutions,
    ctc,
    embeddings,
    graphs,
    layers,
    losses,
    noise,
    normalization,
    pooling,
    recurrence,
    sampling,
    similarity,
)
from graphc.nn.functional.activations import *
from graphc.nn.functional.adaptive import *
from graphc.nn.functional.attention import *
from graphc.nn.functional.classification import *
from graphc.nn.functional.competitions import *
from graphc.nn.functional.convolutions import *
from graphc.nn.functional.ctc import *
from graphc.nn.functional.embeddings import *
from graphc.nn.functional.graphs import *
from graphc.nn.functional.layers import *
from graphc.nn.functional.losses import *
from graphc.nn.functional.noise import *
from graphc.nn.functional.normalization import *
from graphc.nn.functional.pooling import *
from graphc.nn.functional.recurrence import *
from graphc.nn.functional.sampling import *
from graphc.nn.functional.similarity import *
from graphc.ops import relu, sigmoid, tanh

__all__ = [
    "relu",
    "sigmoid",
    "tanh",
    *activations.__all__,
    *adaptive.__all__,
    *attention.__all__,
    *classification.__all__,
    *competitions.__all__,
    *convolutions.__all__,
    *ctc.__all__,
    *embeddings.__all__,
    *graphs.__all__,
    *layers.__all__,
    *losses.__all__,
    *noise.__all__,
    *normalization.__all__,
    *pooling.__all__,
    *recurrence.__all__,
    *sampling.__all__,
    *similarity.__all__,
]
