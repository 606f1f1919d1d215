"""Machine code without calls: on every target each op is written out, or is a loop of our own."""

from __future__ import annotations

import re

import pytest

from graphc.backends.llvm import codegen
from graphc.backends.llvm.target import Target, named_target
from graphc.backends.llvm.vecmath import features_of
from graphc.backends.llvm.vecmath.measure import map_ir
from graphc.kernel.scalar_ops import SCALAR_OPS
from graphc.types import DType
from tests.vecmath.test_ops import combinations

NAMES = ["sse", "avx2", "avx512", "aarch64"]
#: these may call, and only functions of their own module
LOOPS = {"//", "%", "pow"}


def calls(op: str, dtypes: tuple[DType, ...], lanes: int, target: Target) -> list[str]:
    """What the code calls; an address in a register is that of a function of the module."""
    ir = map_ir(op, dtypes, lanes, features_of(target))
    text = codegen.assembly_of(ir, target.machine)
    found = re.findall(r"^\s+(?:callq?|bl|blr)\s+(\S+)", text, re.MULTILINE)
    defined = set(re.findall(r"^define .*@([\w.]+)\(", ir, re.MULTILINE))
    undefined = set(re.findall(r"^declare .*@([\w.]+)\(", ir, re.MULTILINE))
    assert all(name.startswith("llvm.") for name in undefined)
    inside = {f'"{name}"' for name in defined} | defined
    own = op in LOOPS and len(defined) > 1
    return [name for name in found if not (own and (name in inside or name.startswith("*")))]


def check(op: str, target: Target, every: bool) -> None:
    lanes = target.vector_bits // 32
    for dtypes in combinations(op):
        plain = len(set(dtypes)) == 1 or op == "where" or SCALAR_OPS[op].cast
        for count in (1, lanes) if every else (lanes,) if plain else ():
            found = calls(op, dtypes, count, target)
            listed = ", ".join(map(str, dtypes))
            assert not found, f"{op}({listed}) x {count} for {target.name} calls {found}"


@pytest.mark.parametrize("name", NAMES)
def test_no_op_calls_a_library(name: str) -> None:
    for op in SCALAR_OPS:
        check(op, named_target(name), every=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_op_calls_a_library_in_any_form(name: str) -> None:
    for op in SCALAR_OPS:
        check(op, named_target(name), every=True)


def test_exp_and_tanh_are_short() -> None:
    """Few enough vector instructions to run at memory's speed; copies of registers not counted."""
    target = named_target("avx2")
    for op, most in (("exp", 17), ("tanh", 26), ("sigmoid", 20), ("erf", 27), ("max", 3)):
        (dtypes,) = [d for d in combinations(op) if {t.short for t in d} == {"f32"}]
        ir = map_ir(op, dtypes, 8, features_of(target))
        text = codegen.assembly_of(ir, target.machine)
        blocks = re.split(r"^\.LBB\d+_\d+:.*$", text, flags=re.MULTILINE)
        body = next(b for b in blocks if "vmovups\t%ymm" in b)
        instructions = re.findall(r"^\s+(v(?!mov|zero)\w+)", body, re.MULTILINE)
        assert len(instructions) <= most, f"{op}: {instructions}"
