"""Blocks of ``graphc.nn`` on the device made of host memory: values and gradients in float32,
beside the graph's interpreter. The lines are those of ``tests/blocks``: the first of each name runs
here, less those of ``LEFT_OUT``; ``-m slow`` runs every line.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from tests.blocks import checking
from tests.blocks.families import FAMILIES
from tests.blocks.sample import Block

#: what the form for images has, in one dimension or three
_OTHER = "the form for images runs, by the same kernels with another number of axes"
LEFT_OUT = {
    **{
        f"{name}{n}d": _OTHER
        for n in "13"
        for name in ("Conv", "ConvTranspose", "BatchNorm", "InstanceNorm", "MaxPool", "AvgPool",
                     "LPPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "MaxUnpool", "Dropout",
                     "ReflectionPad", "ReplicationPad", "CircularPad", "ZeroPad", "ConstantPad")
    },
    "TransformerEncoderLayer": "its parts run: MultiheadAttention, LayerNorm, Dropout, GELU",
    "TransformerDecoderLayer": "its parts run: MultiheadAttention, LayerNorm, Dropout, GELU",
    "GroupedQueryAttention": "scaled_dot_product_attention runs, which shares keys in the same way",
    "GATv2Conv": "GATConv runs, by the same gathers and sums of segments",
    "GRUCell": "GRU runs, whose step it is",
    "LSTMCell": "LSTM runs, whose step it is",
    "RNNCell": "RNN runs, whose step it is",
    "UpsamplingNearest2d": "interpolate runs, whose name it is",
    "UpsamplingBilinear2d": "interpolate runs, whose name it is",
    "FeatureAlphaDropout": "AlphaDropout runs; in mode eval neither does anything",
}  # fmt: skip


def blocks() -> list[Any]:
    """Every line of the tables; those that do not run each time are marked as slow."""
    found, seen = [], set()
    for family in FAMILIES.values():
        for block in family:
            here = block.name not in seen and block.name not in LEFT_OUT
            seen.add(block.name)
            marks = [] if here else [pytest.mark.slow]
            found.append(pytest.param(block, id=str(block), marks=marks))
    return found


@pytest.mark.parametrize("block", blocks())
def test_a_block_equals_the_interpreter(device: Any, block: Block) -> None:
    gc.manual_seed(block.seed)
    ours = checking.program(block, None, "float32", second=False)
    arrays, mode = block.arrays("float32"), "eval" if block.random else "train"
    wanted, _ = checking._interpret(ours, mode, arrays)
    outputs = [*ours.outs, *ours.slopes]
    run = gc.compile(ours.inputs, outputs, mode=mode, unused="ignore", backend="triton")
    got = [np.asarray(array) for array in run(*arrays)]
    count = len(ours.outs)
    near = checking.tolerance_of(block, "float32")
    checking.compare(block, got, (wanted[:count], wanted[count:], []), near)


def test_every_family_runs_and_what_is_left_out_is_there() -> None:
    names = {name: {b.name for b in family} for name, family in FAMILIES.items()}
    assert all(those - LEFT_OUT.keys() for those in names.values())
    assert LEFT_OUT.keys() <= set().union(*names.values())
