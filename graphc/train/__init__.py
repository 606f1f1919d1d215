"""Training on compiled executables: fit with early stopping, checkpoints and logs; measures;
ensembles.
"""

from graphc.train.ensembles import Boosting, mixture, product
from graphc.train.fitting import Epoch, History, fit
from graphc.train.logs import CSVLog, TensorBoardLog
from graphc.train.measuring import accuracy, confusion_matrix, evaluate, f1_score
from graphc.train.resuming import Checkpoint

__all__ = [
    "Boosting",
    "CSVLog",
    "Checkpoint",
    "Epoch",
    "History",
    "TensorBoardLog",
    "accuracy",
    "confusion_matrix",
    "evaluate",
    "f1_score",
    "fit",
    "mixture",
    "product",
]
