"""Arrays into batches: seeded shuffling, stratified splits, standardization. NumPy only.

>>> import numpy as np
>>> x, y = np.arange(10.0).reshape(5, 2), np.array([0, 1, 0, 1, 0])
>>> [rows.shape for rows, _ in batches(x, y, 2)]
[(2, 2), (2, 2), (1, 2)]
"""

from graphc.data.batching import Batches, batches
from graphc.data.graphs import batch_graphs
from graphc.data.preparing import Standardizer, split, standardizer

__all__ = ["Batches", "Standardizer", "batch_graphs", "batches", "split", "standardizer"]
