"""Layers, losses and what joins them; names, arguments and layouts are PyTorch's."""

from graphc.nn import functional, init
from graphc.nn.containers import Lambda, Parallel, Residual, Sequential
from graphc.nn.convolutions import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from graphc.nn.layers import (
    GELU,
    Dropout,
    Embedding,
    Flatten,
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
from graphc.nn.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm
from graphc.nn.pooling import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d
from graphc.nn.recurrence import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from graphc.nn.seq2seq import (
    BahdanauAttention,
    LuongAttention,
    free_running,
    scheduled_sampling,
    teacher_forcing,
)

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BCEWithLogitsLoss",
    "BahdanauAttention",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GroupNorm",
    "LSTMCell",
    "Lambda",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LuongAttention",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Module",
    "Parallel",
    "PortError",
    "RNNCell",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "free_running",
    "functional",
    "init",
    "scheduled_sampling",
    "teacher_forcing",
]
