"""Every op, on every sample of its own record, as a program on the interpreter's device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc.interpret import interpret
from graphc.op import Op, Sample
from tests.ops.sampling import arrays_of, assert_close, cases, graph_of
from tests.ops.test_samples import has_value


def chosen() -> list[Any]:
    """Each op's first sample and a third of the others; all of them with ``-m slow``."""
    found, seen = [], set()
    for number, case in enumerate(cases(has_value)):
        op = case.values[0].name
        if op in seen and number % 3:
            case = pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)
        seen.add(op)
        found.append(case)
    return found


@pytest.mark.parametrize(("op", "sample"), chosen())
def test_sample_equals_the_reference(op: Op, sample: Sample, device: Any) -> None:
    graph = graph_of(op, sample)
    arrays = arrays_of(sample, sample.types)
    with np.errstate(all="ignore"):
        wanted, _ = interpret(graph, arrays)
    program = gc.compile(
        list(graph.inputs), list(graph.outputs), backend="triton", unused="ignore"
    )
    results = program(*arrays)
    for got, expected, value in zip(results, wanted, graph.outputs, strict=True):
        assert_close(np.asarray(got), expected, value.dtype)
