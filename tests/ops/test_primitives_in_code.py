"""Every primitive on every sample of its own record, in machine code, with its derivatives.

One program an op: all samples side by side, their results, and for differentiable ones the
cotangents and tangents that the op's rules give.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.graph import Graph, Value, apply_all, source_value
from graphc.interpret import interpret
from graphc.op import OPS, Op, Sample
from tests.ops.sampling import arrays_of, assert_close
from tests.ops.test_samples import differentiable, has_value

#: samples a program: what is wrong in one of many is found by halving
_TOGETHER = 24


def _batches() -> list[Any]:
    found = []
    for op in OPS.values():
        samples = [s for s in op.samples if has_value(op, s)]
        for start in range(0, len(samples), _TOGETHER):
            chosen = samples[start : start + _TOGETHER]
            found.append(pytest.param(op, chosen, id=f"{op.name}-{start}"))
    return found


def _flows(op: Op, sample: Sample, inputs: list[Value], outputs: tuple[Value, ...]) -> list[Value]:
    """vjp of ones and jvp of ones."""
    if not differentiable(op, sample):
        return []
    smooth = [v for v in outputs if v.dtype.is_float]
    moving = [v for v in inputs if v.dtype.is_float]
    ones = [gc.ops.ones_like(v) for v in smooth]
    pulled = gc.vjp(smooth, moving, ones)
    pushed = gc.jvp(smooth, moving, [gc.ops.ones_like(v) for v in moving])
    return [*pulled, *pushed]


@pytest.mark.parametrize(("op", "samples"), _batches())
def test_samples_in_machine_code(op: Op, samples: list[Sample]) -> None:
    inputs, arrays, outputs = [], [], []
    for number, sample in enumerate(samples):
        own = [
            source_value("observed", t, f"s{number}x{i}") for i, t in enumerate(sample.types)
        ]
        results = apply_all(op.name, *own, **sample.attrs)
        inputs += own
        arrays += arrays_of(sample, sample.types)
        outputs += [*results, *_flows(op, sample, own, results)]
    program = gc.compile(inputs, outputs, unused="ignore")
    with np.errstate(all="ignore"):
        wanted, _ = interpret(Graph(tuple(inputs), tuple(outputs)), arrays)
    for got, expected, value in zip(program(*arrays), wanted, outputs, strict=True):
        assert got.dtype == expected.dtype
        assert_close(got, expected, value.dtype)
