"""Optimizers: formulas from gradients to updates. Names and formulas are ``torch.optim``'s."""

from graphc.optim.adam import Adam, AdamW
from graphc.optim.optimizer import Optimizer
from graphc.optim.sgd import SGD
from graphc.updates import Updates

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "Updates"]
