"""Functions of layers and losses by the names of ``torch.nn.functional``; states come as arguments.

Each is a composite: made of primitive ops, and drawn, printed and exported as one block.
"""

from graphc.nn.functional.activations import gelu, leaky_relu, silu, softplus
from graphc.nn.functional.convolutions import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from graphc.nn.functional.layers import dropout, embedding, linear
from graphc.nn.functional.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
)
from graphc.nn.functional.normalization import batch_norm, group_norm, layer_norm
from graphc.nn.functional.pooling import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from graphc.nn.functional.recurrence import attend, gru_cell, lstm_cell, rnn_cell
from graphc.ops import log_softmax, relu, sigmoid, softmax, tanh

__all__ = [
    "attend",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "group_norm",
    "gru_cell",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "lstm_cell",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mse_loss",
    "relu",
    "rnn_cell",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]
