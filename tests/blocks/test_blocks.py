"""Tests made from the tables: every block in the interpreter, and as machine code.

The interpreter (float64) compares values, first and second derivatives, buffers and names, in both
modes. Machine code (float32) compares values and gradients, many blocks in one program; the sweep
(``-m slow``) adds float64, second derivatives, and dear blocks whose like is compiled anyhow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.blocks.checking import compiled, interpreted
from tests.blocks.families import FAMILIES
from tests.blocks.graphs import GRAPHS
from tests.blocks.page import PAGE, page
from tests.blocks.sample import Block

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

BLOCKS = [block for family in FAMILIES.values() for block in family]
#: how many blocks share a program
TOGETHER = 16


def _parts(chosen: Callable[[Block], bool]) -> list[Any]:
    """The chosen blocks of each family, some at a time."""
    found = []
    for name, family in FAMILIES.items():
        blocks = [block for block in family if chosen(block)]
        starts = range(0, len(blocks), TOGETHER)
        found += [pytest.param(blocks[i : i + TOGETHER], id=f"{name}-{i}") for i in starts]
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_interpreted(block: Block) -> None:
    interpreted(torch, block)


@pytest.mark.parametrize("blocks", _parts(lambda block: not block.swept))
def test_compiled(blocks: list[Block]) -> None:
    compiled(torch, blocks)


def test_second_derivatives_compiled() -> None:
    """Scores of edges, twice differentiated: loops over rows that other loops read again."""
    chosen = [b for b in GRAPHS if b.name == "GATConv" and "with edge_attr" in str(b)]
    compiled(torch, chosen[:2], "float64", second=True)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", _parts(lambda block: block.swept))
def test_the_others_compiled(blocks: list[Block]) -> None:
    compiled(torch, blocks)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", _parts(lambda block: True))
def test_compiled_in_float64_with_second_derivatives(blocks: list[Block]) -> None:
    compiled(torch, blocks, "float64", second=True)


def test_the_page_is_what_ran(request: pytest.FixtureRequest) -> None:
    """``--update-golden`` renews docs/BLOCKS.md."""
    if request.config.getoption("--update-golden"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "pytest tests/blocks --update-golden"
