"""Operands in the order of the arithmetic: copied where they lie the other way, else not."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.triton.layout import ordered_operands
from graphc.kernel.interpret import interpret
from graphc.kernel.parser import parse_kernel
from graphc.kernel.verify import verify
from tests.kernel.zoo import ZOO, assert_agrees

TEXT = """kernel product
  axes m:48 n:40 k:64
  in x f32[{x}], w f32[{w}]
  out y f32[48,40]
  a = load x[{a}]
  v = load w[{v}]
  c = contract a, v over k
  store y[m, n] = max(c, 0.0)"""
LEFT = {"k": {"x": "48,64", "a": "m, k"}, "m": {"x": "64,48", "a": "k, m"}}
RIGHT = {"n": {"w": "64,40", "v": "k, n"}, "k": {"w": "40,64", "v": "n, k"}}


@pytest.mark.parametrize(
    ("left", "right", "precision", "copies"),
    [
        ("k", "n", "ieee", 0), ("m", "n", "ieee", 0), ("k", "k", "ieee", 1), ("m", "k", "ieee", 1),
        ("k", "k", "tf32", 0), ("k", "n", "tf32", 1), ("m", "k", "tf32", 1), ("m", "n", "tf32", 2),
    ],
)  # fmt: skip
def test_what_lies_the_other_way_is_copied(left, right, precision, copies) -> None:
    kernel = parse_kernel(TEXT.format(**LEFT[left], **RIGHT[right]))
    kernels = ordered_operands(kernel, precision)
    assert len(kernels) == copies + 1
    generator = np.random.default_rng(0)
    arrays = {
        t.name: generator.standard_normal(t.type.shape).astype(np.float32) for t in kernel.inputs
    }
    wanted = interpret(kernel, arrays)["y"]
    for one in kernels:
        verify(one)
        arrays |= interpret(one, {t.name: arrays[t.name] for t in one.inputs})
    np.testing.assert_array_equal(arrays["y"], wanted)


def test_half_precision_and_few_rows_are_left_alone() -> None:
    half = parse_kernel(TEXT.format(**LEFT["k"], **RIGHT["k"]).replace("f32", "bf16").replace(
        "max(c, 0.0)", "bf16(c)"))
    assert len(ordered_operands(half, "tf32")) == 1
    few = TEXT.format(**LEFT["k"], **RIGHT["k"]).replace("m:48", "m:8").replace("48,", "8,")
    assert len(ordered_operands(parse_kernel(few), "ieee")) == 1


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_kernels_of_the_zoo_mean_the_same(precision) -> None:
    copied = set()
    for case in ZOO:
        kernels = ordered_operands(parse_kernel(case.text), precision)
        if len(kernels) == 1:
            continue
        copied.add(case.name.split("[")[0])
        arrays = dict(case.make_inputs(np.random.default_rng(0)))
        wanted = case.reference(dict(arrays))
        for one in kernels:
            verify(one)
            given = {t.name: arrays[t.name] for t in one.inputs}
            arrays |= interpret(one, given, case.sizes, case.scalars)
        assert_agrees(case, arrays, wanted, 0)
    assert ("attention" in copied) == (precision == "ieee")
