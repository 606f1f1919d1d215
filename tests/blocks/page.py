"""docs/BLOCKS.md: what equals what, from the tables that the tests run."""

from __future__ import annotations

from pathlib import Path

from tests.blocks.checking import checks
from tests.blocks.families import FAMILIES
from tests.blocks.sample import Block

PAGE = Path(__file__).resolve().parents[2] / "docs" / "BLOCKS.md"

HEAD = """\
# Blocks and what they equal

Made from the tables of `tests/blocks` by `pytest tests/blocks --update-golden`; each line is what
the tests of that folder ran. A block is compared with the PyTorch class or function of its name,
or with what stands in brackets: in float64 by the plain interpreter to 1e-9 (all that the last
column names), in float32 as machine code (values and gradients; of dear blocks that are alike one
in every run, the others with `-m slow`, which adds float64 and second derivatives). Arguments are
named as in PyTorch; `array` stands for weights. Where no second derivative is named, PyTorch has
none.
"""


def page() -> str:
    """The whole text."""
    parts = [HEAD]
    for family, blocks in FAMILIES.items():
        rows = [f"\n## {family}\n", "| block | arguments tried | compared |", "| --- | --- | --- |"]
        groups: dict[tuple[str, str], list[Block]] = {}
        for block in blocks:
            groups.setdefault((_name(block), ", ".join(checks(block))), []).append(block)
        for (name, compared), group in groups.items():
            tried = dict.fromkeys(f"`({block.arguments})` {block.how}".strip() for block in group)
            rows.append(f"| {name} | {' '.join(tried)} | {compared} |")
        parts.append("\n".join(rows) + "\n")
    return "".join(parts)


def _name(block: Block) -> str:
    home = "functional." if block.is_function else ""
    formula = f" [{block.formula}]" if block.formula else ""
    return f"`{home}{block.name}`{formula}"
