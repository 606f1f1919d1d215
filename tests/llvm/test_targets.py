"""Machines that are not here: their code is generated and read."""

from __future__ import annotations

import re

import pytest

from graphc.backends.llvm import codegen
from graphc.backends.llvm.emit import emit_kernel
from graphc.backends.llvm.target import Target, host_target, named_target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.errors import BackendError
from graphc.kernel.parser import parse_kernel
from tests.kernel.zoo import ZOO

#: what vector code of a target is written in
REGISTERS = {"sse": r"%xmm\d+", "avx2": r"%ymm\d+", "avx512": r"%zmm\d+", "aarch64": r"\bv\d+\.4s"}
CALLS = {"aarch64": r"^\s+bl\s+(\w+)"}
GOLDEN = [c for c in ZOO if c.golden]


def assembly(text: str, target: Target) -> str:
    kernel = parse_kernel(text)
    ir = emit_kernel(kernel, choose_tiling(kernel, target), target)
    return codegen.assembly_of(ir, target.machine)


@pytest.mark.parametrize("name", ["avx512", "aarch64"])
@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_kernels_call_nothing(case, name: str) -> None:
    text = assembly(case.text, named_target(name))
    found = re.findall(CALLS.get(name, r"^\s+callq?\s+(.+)$"), text, re.M)
    assert all(f.startswith("memset") for f in found), f"{case.name} on {name} calls {found}"


@pytest.mark.parametrize("name", REGISTERS)
def test_products_run_in_the_widest_registers_without_spilling(name: str) -> None:
    target = named_target(name)
    text = assembly(
        """kernel product
  axes m:96 n:128 k:256
  in x f32[96,256], w f32[256,128]
  out y f32[96,128]
  a = load x[m, k]
  v = load w[k, n]
  c = contract a, v over k
  store y[m, n] = c""",
        target,
    )
    assert re.search(REGISTERS[name], text)
    fused = re.findall(r"vfmadd\w+|\bfmla\b", text)
    assert bool(fused) == target.has_fma
    blocks = re.split(r"^\.LBB\d+_\d+:", text, flags=re.M)
    loop = max(blocks, key=lambda part: len(re.findall("mul|fma|fmla", part)))
    last = re.search(r"^\s+(j\w+|b\.\w+)\s", loop, re.MULTILINE)
    assert last is not None
    loop = loop[: last.end()]
    assert not re.search(r"\(%rsp\)|\[sp\]", loop), f"the inner loop on {name} spills:\n{loop}"


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(BackendError, match=r"no CPU target 'vax'; one of sse, avx2"):
        named_target("vax")


def test_the_host_is_described() -> None:
    host = host_target()
    assert host.vector_bits in (128, 256, 512)
    assert host.lanes * 32 == host.vector_bits
    assert str(host.machine) in host.key
