"""Cora as Planetoid publishes it (Yang, Cohen, Salakhutdinov 2016): ``ind.cora.*`` in a folder.

Its files are pickles of Python 2. A pickle may name any function to call, so the reader here knows
the few names that arrays and lists need, and refuses every other one.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

Array = NDArray[Any]
PARTS = ("allx", "ally", "tx", "ty", "graph")

SAFE = {
    ("scipy.sparse.csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): np.array(0).__reduce__()[0],
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "list"): list,
}


class _Arrays(pickle.Unpickler):
    """Makes arrays, lists and dictionaries, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in SAFE:
            raise pickle.UnpicklingError(f"Planetoid's files do not name {module}.{name}")
        return SAFE[module, name]


@dataclass(frozen=True)
class Papers:
    """Nodes with words and a class, citations, and which nodes are for what."""

    words: Array  # [N, W] float32, each row scaled to sum 1
    edges: Array  # [2, E], both directions of each citation once, no loops
    classes: Array  # [N]
    train: Array  # node numbers: 20 of each class
    valid: Array  # 500
    test: Array  # 1000


def missing(folder: Path) -> Sequence[str]:
    """The files of Cora that are not in ``folder``."""
    names = [f"ind.cora.{part}" for part in (*PARTS, "test.index")]
    return [name for name in names if not (folder / name).is_file()]


def cora(folder: Path) -> Papers:
    """2708 papers, 1433 words, 7 classes, with the split that papers report results on."""
    allx, ally, tx, ty, graph = (_read(folder / f"ind.cora.{part}") for part in PARTS)
    test = np.loadtxt(folder / "ind.cora.test.index", dtype=np.int64)
    count = len(ally) + len(ty)
    # the test papers come in the order of their index file, which is not sorted
    words, classes = np.zeros((count, allx.shape[1]), np.float32), np.zeros(count, np.int64)
    words[: len(ally)], words[test] = allx.toarray(), tx.toarray()
    classes[: len(ally)], classes[test] = ally.argmax(1), ty.argmax(1)
    pairs = np.array([(a, b) for a, cited in graph.items() for b in cited if a != b]).T
    edges = np.unique(np.concatenate([pairs, pairs[::-1]], 1), axis=1)
    words /= words.sum(1, keepdims=True).clip(1)
    return Papers(words, edges, classes, np.arange(140), np.arange(140, 640), test)


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        return _Arrays(file, encoding="latin1").load()
