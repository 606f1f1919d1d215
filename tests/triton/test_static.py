"""The table of machine code: one training step on one target; the rest is a slow sweep."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

from benchmarks.gpu_static import PROGRAMS, static_row, static_table
from graphc.backends.triton.toolchain import TARGETS


def check(row) -> None:
    assert row["with a stack"] == 0
    assert row["with vector loads"] >= row["kernels"] // 2
    if row["f32 products"] == "ieee" and row["target"] != "gfx942":
        assert row["on matrix units"] == 0


def test_a_training_step_spills_nothing() -> None:
    check(static_row("lstm", "sm_90", "ieee"))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_training_steps_on_every_target(name, target) -> None:
    check(static_row(name, target, "ieee"))
    if TARGETS[target].kind == "cuda":
        row = static_row(name, target, "tf32")
        assert row["on matrix units"] > 0


def test_the_table_is_markdown() -> None:
    lines = static_table(["lstm"], ["sm_90"], ["ieee"]).split("\n")
    assert len(lines) == 3
    assert lines[1].startswith("| --- |")
