"""Tests made from the tables: every block in the interpreter, and as machine code.

The interpreter (float64) compares values, first and second derivatives, buffers and names, in both
modes. Machine code (float32) compares values and gradients, many blocks in one program; the sweep
(``-m slow``) adds float64 and second derivatives.
"""

from __future__ import annotations

import pytest

from tests.blocks.checking import compiled, interpreted
from tests.blocks.families import FAMILIES
from tests.blocks.page import PAGE, page
from tests.blocks.sample import Block

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

BLOCKS = [block for family in FAMILIES.values() for block in family]
#: how many blocks share a program
TOGETHER = 16
PARTS = [
    pytest.param(family[i : i + TOGETHER], id=f"{name}-{i}")
    for name, family in FAMILIES.items()
    for i in range(0, len(family), TOGETHER)
]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_interpreted(block: Block) -> None:
    interpreted(torch, block)


@pytest.mark.parametrize("blocks", PARTS)
def test_compiled(blocks: list[Block]) -> None:
    compiled(torch, blocks)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", PARTS)
def test_compiled_in_float64_with_second_derivatives(blocks: list[Block]) -> None:
    compiled(torch, blocks, "float64", second=True)


def test_the_page_is_what_ran(request: pytest.FixtureRequest) -> None:
    """``--update-golden`` renews docs/BLOCKS.md."""
    if request.config.getoption("--update-golden"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "pytest tests/blocks --update-golden"
