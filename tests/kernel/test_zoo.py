"""The zoo through text, verifier and interpreter; the goldens, which ``--update-golden`` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphc.kernel.interpret import interpret
from graphc.kernel.text import equal, parse_kernel, print_kernel
from graphc.kernel.verify import verify
from tests.kernel.case import Case
from tests.kernel.zoo import ZOO, assert_agrees

GOLDENS = Path(__file__).parent / "goldens"
SEED = 20240607


@pytest.mark.parametrize("case", ZOO, ids=str)
def test_interpreter_agrees_with_reference(case: Case) -> None:
    kernel = verify(parse_kernel(case.text))
    inputs = case.make_inputs(np.random.default_rng(SEED))
    kept = {k: np.copy(v) for k, v in inputs.items()}
    got = interpret(kernel, inputs, case.sizes, case.scalars)
    assert list(got) == [t.name for t in kernel.outputs]
    assert_agrees(case, got, case.reference(inputs), SEED)
    for name, before in kept.items():
        assert np.array_equal(before, inputs[name], equal_nan=before.dtype.kind == "f"), name


@pytest.mark.parametrize("case", ZOO, ids=str)
def test_text_is_a_fixed_point(case: Case) -> None:
    kernel = parse_kernel(case.text)
    text = print_kernel(kernel)
    again = parse_kernel(text)
    assert print_kernel(again) == text
    assert equal(kernel, again)


@pytest.mark.parametrize("case", [c for c in ZOO if c.golden], ids=str)
def test_golden(case: Case, request: pytest.FixtureRequest) -> None:
    comments = [line for line in case.text.splitlines() if line.startswith("#")]
    text = "\n".join([*comments, print_kernel(parse_kernel(case.text))]) + "\n"
    path = GOLDENS / f"{case.name}.kernel"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert path.read_text() == text, "rerun with --update-golden if this is meant"


def test_every_golden_is_of_the_zoo() -> None:
    named = {f"{c.name}.kernel" for c in ZOO if c.golden}
    assert {p.name for p in GOLDENS.iterdir()} == named


def test_goldens_hold_the_kernels_of_the_design() -> None:
    assert len([c for c in ZOO if c.golden]) >= 31
    assert len({c.name for c in ZOO}) == len(ZOO)
