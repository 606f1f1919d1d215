"""Optimizers: formulas from gradients to updates. Names and formulas are ``torch.optim``'s."""

from graphc.optim import schedules
from graphc.optim.adam import Adam, AdamW
from graphc.optim.ema import EMA
from graphc.optim.gradients import Accumulate, clip_by_global_norm, clip_by_value, global_norm
from graphc.optim.loss_scale import LossScale
from graphc.optim.optimizer import Optimizer
from graphc.optim.plateau import ReduceOnPlateau
from graphc.optim.sgd import SGD
from graphc.updates import Updates

__all__ = [
    "EMA",
    "SGD",
    "Accumulate",
    "Adam",
    "AdamW",
    "LossScale",
    "Optimizer",
    "ReduceOnPlateau",
    "Updates",
    "clip_by_global_norm",
    "clip_by_value",
    "global_norm",
    "schedules",
]
