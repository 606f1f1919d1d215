"""The tables by family: what the tests run and docs/BLOCKS.md lists."""

from __future__ import annotations

from tests.blocks.activations import ACTIVATIONS
from tests.blocks.attention import ATTENTION
from tests.blocks.combinations import COMBINATIONS
from tests.blocks.graphs import GRAPHS
from tests.blocks.images import CONVOLUTIONS, IMAGES, POOLING
from tests.blocks.losses import LOSSES
from tests.blocks.normalization import NORMALIZATION
from tests.blocks.recurrence import RECURRENCE
from tests.blocks.sample import Block

FAMILIES: dict[str, list[Block]] = {
    "Activations": ACTIVATIONS,
    "Losses and similarities": LOSSES,
    "Normalization": NORMALIZATION,
    "Convolution and borders": CONVOLUTIONS,
    "Pooling": POOLING,
    "Images of other sizes": IMAGES,
    "Recurrence": RECURRENCE,
    "Attention and embeddings": ATTENTION,
    "Combinations and noise": COMBINATIONS,
    "Graphs": GRAPHS,
}
