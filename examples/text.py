"""What the examples on text share: the help texts that ship with Python, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Corpus:
    """Characters as numbers; the last tenth is for testing and nothing else."""

    letters: str
    training: NDArray[np.int64]
    testing: NDArray[np.int64]

    @property
    def size(self) -> int:
        """How many different characters there are."""
        return len(self.letters)

    def numbers(self, text: str) -> NDArray[np.int64]:
        """A text as numbers."""
        return np.array([self.letters.index(letter) for letter in text])

    def text(self, numbers: Sequence[int] | NDArray[Any]) -> str:
        """Numbers as a text."""
        return "".join(self.letters[int(n)] for n in numbers)

    def unigram_bits(self) -> float:
        """Bits a character of the test text, by the training text's frequencies alone."""
        counts = np.bincount(self.training, minlength=self.size) + 1.0
        return float(-np.log2(counts / counts.sum())[self.testing].mean())


def load_corpus(path: Path | None, limit: int | None = None) -> Corpus:
    """The text of ``path``, or the topics of Python's help; rare characters become blanks."""
    text = path.read_text() if path else "\n".join(topics.topics.values())
    text = text[:limit]
    kept = {letter for letter in set(text) if text.count(letter) > 20 or letter == " "}
    text = "".join(letter if letter in kept else " " for letter in text)
    letters = "".join(sorted(kept))
    place = {letter: number for number, letter in enumerate(letters)}
    numbers = np.array([place[letter] for letter in text])
    cut = len(numbers) * 9 // 10
    return Corpus(letters, numbers[:cut], numbers[cut:])
