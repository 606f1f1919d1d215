"""Arrays as attributes of nodes: immutable, equal by content."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["ArrayData"]


class ArrayData:
    """An immutable array as a node's attribute: equal by content."""

    __slots__ = ("__dict__", "array")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array.copy()
        self.array.flags.writeable = False

    @cached_property
    def digest(self) -> str:
        """Content hash: dtype, shape and bytes."""
        head = f"{self.array.dtype}{self.array.shape}".encode()
        body = np.ascontiguousarray(self.array).tobytes()
        return hashlib.blake2s(head + body, digest_size=8).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArrayData) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"@{self.digest}"
