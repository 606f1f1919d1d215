"""Training loops on compiled executables: fit with early stopping, evaluate, accuracy."""

from graphc.train.fitting import Epoch, History, fit
from graphc.train.measuring import accuracy, evaluate

__all__ = ["Epoch", "History", "accuracy", "evaluate", "fit"]
