"""The generated sources of the zoo's kernels, to read and compare: ``--update-golden`` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphc.backends.triton.compiler import Job, emit
from graphc.kernel.parser import parse_kernel
from tests.kernel.case import Case
from tests.kernel.zoo import ZOO

GOLDENS = Path(__file__).parent / "goldens"
KERNELS = [c for c in ZOO if c.golden]


@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_golden(case: Case, request: pytest.FixtureRequest) -> None:
    emitted, tiling = emit(Job(parse_kernel(case.text)))
    text = f"# {tiling}; grid {emitted.grid}\n{emitted.text}"
    path = GOLDENS / f"{case.name}.triton"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert path.read_text() == text, "rerun with --update-golden if this is meant"


def test_every_golden_is_of_the_zoo() -> None:
    assert {p.name for p in GOLDENS.iterdir()} == {f"{c.name}.triton" for c in KERNELS}
