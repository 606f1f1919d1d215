"""Arrays into batches: seeded shuffling, splits and folds, classes in turn, standardization,
whitening, batches of graphs, a thread that goes ahead. NumPy only.

>>> import numpy as np
>>> x, y = np.arange(10.0).reshape(5, 2), np.array([0, 1, 0, 1, 0])
>>> [rows.shape for rows, _ in batches(x, y, 2)]
[(2, 2), (2, 2), (1, 2)]
"""

from graphc.data.batching import Batches, batches
from graphc.data.folding import bootstrap, kfold
from graphc.data.graphs import batch_graphs
from graphc.data.preparing import Standardizer, split, standardizer
from graphc.data.sampling import Balanced, Prefetch, balanced, collate, prefetch
from graphc.data.whitening import Whitener, whitener

__all__ = [
    "Balanced",
    "Batches",
    "Prefetch",
    "Standardizer",
    "Whitener",
    "balanced",
    "batch_graphs",
    "batches",
    "bootstrap",
    "collate",
    "kfold",
    "prefetch",
    "split",
    "standardizer",
    "whitener",
]
