"""Half floats: kept as bits between blocks, so that no machine calls a library to narrow them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from graphc.backends.llvm import codegen
from graphc.backends.llvm.emit import emit_kernel
from graphc.backends.llvm.target import Target, host_target, named_target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.kernel.interpret import interpret
from graphc.kernel.parser import parse_kernel
from graphc.nest import Tiling
from graphc.types import dtype_of
from tests.llvm.run_kernel import run_kernel

SEED = 21
NAMES = ("sse", "avx2", "avx512", "aarch64")
RUNNABLE = [host_target()] + [
    t for t in map(named_target, NAMES[:3]) if t.vector_bits < host_target().vector_bits
]
#: what carries a half from one block into another: results of loops, constants, scratch, additions
KERNELS = {
    "sum": """kernel sum
  axes i:5 j:19
  in x {0}[5,19]
  out y {0}[], m {0}[5]
  a = load x[i, j]
  s = reduce sum a over i, j
  m = reduce max a over j
  store y[] = {0}(s)
  store m[i] = m * 0.5""",
    "softmax": """kernel softmax
  axes i:5 j:19
  in x {0}[5,19]
  out y {0}[5,19]
  a = load x[i, j]
  m = reduce max a over j
  e = exp(a - m)
  s = reduce sum e over j
  store y[i, j] = e / {0}(s)""",
    "window": """kernel window
  axes i:19
  in x {0}[19]
  out y {0}[19]
  a = load x[i - 3] if i >= 3 else -1.5
  store y[i] = a + 1.0""",
    "add": """kernel add
  axes i:4 j:19
  in x {0}[4,19]
  out y {0}[19] init -1.0
  a = load x[i, j]
  store add y[j] = a""",
    "scan": """kernel scan
  axes j:19
  in x {0}[19]
  out y {0}[19]
  a = load x[j]
  c = scan sum a over j
  store y[j] = {0}(c)""",
    "product": """kernel product
  axes m:4 n:19 k:3
  in x {0}[4,3], w {0}[3,19]
  out y {0}[4,19]
  a = load x[m, k]
  v = load w[k, n]
  c = contract a, v over k
  store y[m, n] = {0}(c)""",
}


@pytest.mark.parametrize("plain", [False, True], ids=["tiled", "plain"])
@pytest.mark.parametrize("target", RUNNABLE, ids=lambda t: t.name)
@pytest.mark.parametrize("short", ["f16", "bf16"])
@pytest.mark.parametrize("name", KERNELS)
def test_halves_equal_the_interpreter(name: str, short: str, target: Target, plain: bool) -> None:
    kernel = parse_kernel(KERNELS[name].format(short))
    generator = np.random.default_rng(SEED)
    # multiples of an eighth, so that their sums are exact in half floats
    inputs = {
        t.name: (generator.integers(-4, 5, t.type.shape) / 8).astype(dtype_of(short).numpy)
        for t in kernel.inputs
    }
    tiling = Tiling() if plain else None
    outputs, failed = run_kernel(kernel, inputs, {}, {}, tiling=tiling, target=target)
    assert failed == 0
    expected = interpret(kernel, inputs)
    tolerance = 2.0**-7 if name == "softmax" else 0.0
    for key, array in expected.items():
        np.testing.assert_allclose(
            outputs[key].astype(np.float64), array.astype(np.float64), rtol=tolerance, err_msg=key
        )


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("short", ["f16", "bf16"])
@pytest.mark.parametrize("name", KERNELS)
def test_halves_call_nothing(name: str, short: str, target: str) -> None:
    kernel, machine = parse_kernel(KERNELS[name].format(short)), named_target(target)
    ir = emit_kernel(kernel, choose_tiling(kernel, machine), machine)
    text = codegen.assembly_of(ir, machine.machine)
    calls = re.findall(r"^\s+(?:callq?|bl)\s+(\S+)$", text, re.M)
    assert not calls, f"{name} of {short} on {target} calls {calls}"
