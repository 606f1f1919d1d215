"""Plots by matplotlib, where it is installed: ``pip install graphc[plots]``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

try:
    import matplotlib

    matplotlib.use("Agg")  # files, no windows
    from matplotlib import pyplot
except ModuleNotFoundError:
    pyplot = None


def subplots(count: int, title: str, columns: int = 6) -> tuple[Any, Any]:
    """A figure and ``count`` axes in a row after row; None and None without matplotlib."""
    if pyplot is None:
        return None, None
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(3 * columns, 2.6 * rows), squeeze=False)
    figure.suptitle(title)
    axes = grid.ravel()
    for unused in axes[count:]:
        unused.axis("off")
    return figure, axes[:count]


def save(figure: Any, path: Path) -> None:
    """Write the picture, or say what to install."""
    if figure is None:
        print("no picture: matplotlib is missing; pip install graphc[plots]")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    print(f"picture: {path}")
