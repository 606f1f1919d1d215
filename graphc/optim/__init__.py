"""Optimizers: formulas from gradients to updates. Names and formulas are ``torch.optim``'s."""

from graphc.optim import schedules
from graphc.optim.adam import Adam, AdamW
from graphc.optim.adam_family import Adamax, Lion, NAdam, RAdam
from graphc.optim.averaged import ASGD
from graphc.optim.curvature import ConjugateGradient, HessianFree, Newton
from graphc.optim.ema import EMA, SWA
from graphc.optim.gradients import (
    Accumulate,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
    penalty,
)
from graphc.optim.lbfgs import LBFGS
from graphc.optim.loss_scale import LossScale
from graphc.optim.momentum import AdaptiveGains, Momentum, Rprop
from graphc.optim.optimizer import Optimizer
from graphc.optim.plateau import ReduceOnPlateau
from graphc.optim.scaled import Adadelta, Adagrad, RMSprop
from graphc.optim.sgd import SGD
from graphc.updates import Updates

__all__ = [
    "ASGD",
    "EMA",
    "LBFGS",
    "SGD",
    "SWA",
    "Accumulate",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "AdaptiveGains",
    "ConjugateGradient",
    "HessianFree",
    "Lion",
    "LossScale",
    "Momentum",
    "NAdam",
    "Newton",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "ReduceOnPlateau",
    "Rprop",
    "Updates",
    "clip_by_global_norm",
    "clip_by_value",
    "global_norm",
    "penalty",
    "schedules",
]
