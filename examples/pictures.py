"""Gray pictures as PNG files, by what Python ships with."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_grid(path: Path, images: NDArray[Any], columns: int = 10, scale: int = 6) -> Path:
    """Images [n, height, width] between 0 (black) and 1 (white) side by side."""
    count, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + 1), columns * (width + 1)))
    for place, image in enumerate(np.clip(images, 0.0, 1.0)):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    pixels = (sheet * 255).round().astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(pixels))
    return path


def _png(pixels: NDArray[np.uint8]) -> bytes:
    height, width = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
