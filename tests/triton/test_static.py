"""Rules of machine code: a few training steps; all of them on all targets are a slow sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

from benchmarks.gpu_static import (
    BUILDS,
    PROGRAMS,
    compiled_kernels,
    is_large_product,
    misses,
    static_table,
    streams,
)
from graphc.backends.cache import Cache
from graphc.backends.triton.candidates import relieved, variants
from graphc.backends.triton.compiler import Job, compile_kernel
from graphc.backends.triton.prepare import prepare
from graphc.backends.triton.tiling import GpuTiling
from graphc.backends.triton.toolchain import TARGETS, Target
from graphc.errors import BackendError
from graphc.kernel.parser import parse_kernel
from graphc.nest import Tiling
from tests.triton.test_compile import PRODUCT


def check(name: str, target: str, build: str, large: int) -> None:
    kernels = compiled_kernels(name, target, build)
    assert [text for pair in kernels for text in misses(*pair, target, build)] == []
    assert sum(is_large_product(kernel) for kernel, _ in kernels) >= large
    assert any(streams(kernel) for kernel, _ in kernels) or name == "lstm"


@pytest.mark.parametrize(
    ("name", "target", "build", "large"),
    [
        ("mlp", "sm_80", "tf32", 6), ("mlp", "sm_90", "bf16", 6), ("mlp", "sm_100", "bf16", 6),
        ("mlp", "gfx942", "bf16", 6), ("lstm", "sm_90", "ieee", 2), ("cnn", "sm_80", "bf16", 4),
        ("transformer", "sm_90", "bf16", 16), ("small unet", "sm_90", "bf16", 12),
    ],
)  # fmt: skip
def test_training_steps_keep_the_rules(name: str, target: str, build: str, large: int) -> None:
    check(name, target, build, large)


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_training_steps_on_every_target(name: str, target: str, build: str) -> None:
    if build == "tf32" and TARGETS[target].kind == "hip":
        pytest.skip("tf32 is NVIDIA's")
    check(name, target, build, 2 if name == "lstm" else 3)


def test_rules_that_are_broken_are_told() -> None:
    """Each rule, on a kernel whose code is changed so that it breaks it."""
    kernel = parse_kernel(PRODUCT.format("bf16"))
    made = compile_kernel(Job(kernel), TARGETS["sm_90"], Cache(None))
    assert misses(kernel, made, "sm_90", "bf16") == []

    def found(**changes: Any) -> str:
        (text,) = misses(kernel, replace(made, code=replace(made.code, **changes)), "sm_90", "bf16")
        return text

    ptx = made.code.texts["ptx"]
    assert "is not wgmma" in found(texts={"ptx": ptx.replace("wgmma", "none")})
    assert "bytes of shared memory" in found(shared=300_000)
    assert "a launch passes" in found(texts={"ptx": ptx.replace(".param .u64", ".param .u32", 1)})
    assert "no fma.rn.f32" in misses(kernel, made, "sm_90", "ieee")[0]
    assert "is not tcgen05" in misses(kernel, made, "sm_100", "bf16")[0]
    softmax = parse_kernel("""kernel rows
  axes i:256 j:512
  in x f32[256,512]
  out y f32[256,512]
  a = load x[i, j]
  store y[i, j] = a * 2.0""")
    streaming = compile_kernel(Job(softmax), TARGETS["sm_90"], Cache(None))
    assert misses(softmax, streaming, "sm_90", "ieee") == []
    scalar = streaming.code.texts["ptx"].replace(".v4", "").replace(".v2", "")
    changed = replace(streaming, code=replace(streaming.code, texts={"ptx": scalar}))
    assert "without vector loads" in misses(softmax, changed, "sm_90", "ieee")[0]


def test_the_table_is_markdown() -> None:
    lines = static_table(["lstm"], ["sm_90"], ["ieee"]).split("\n")
    assert len(lines) == 3
    assert lines[1].startswith("| --- |")
    assert lines[2].endswith("| 0 |"), "no rule is broken"


# ---- what does not fit gets another tiling


def test_a_tile_too_large_for_its_target_is_made_smaller() -> None:
    kernel = parse_kernel(PRODUCT.format("bf16"))
    usual = compile_kernel(Job(kernel), TARGETS["sm_90"], Cache(None))
    assert usual.code.shared > 20_000
    small = Target("small", "cuda", 90, 32, 20_000)
    made = compile_kernel(Job(kernel), small, Cache(None))
    assert made.code.shared <= 20_000
    assert str(made.tiling) != str(usual.tiling)
    assert made.tiling.stages < usual.tiling.stages
    tiny = Target("tiny", "cuda", 90, 32, 256)
    with pytest.raises(BackendError, match="bytes of shared memory, tiny has 256 a block"):
        compile_kernel(Job(kernel), tiny, Cache(None))


def test_a_tile_that_spills_is_worked_on_by_more_warps() -> None:
    kernel = prepare(parse_kernel(PRODUCT.format("f32")))
    wide = GpuTiling(Tiling({"m": 128, "n": 64}, {"m": 128, "n": 64, "k": 16}), 1, 1)
    made = compile_kernel(Job(kernel, tiling=wide), TARGETS["sm_90"], Cache(None))
    assert made.code.spilled == 0
    assert made.tiling.warps > wide.warps
    assert str(made.tiling) != str(wide)


def test_steps_of_relief_end() -> None:
    tiling = GpuTiling(Tiling({"m": 128, "n": 64}, {"m": 128, "n": 64, "k": 32}), 4, 4)
    for spills in (True, False):
        seen = []
        other: GpuTiling | None = tiling
        while other is not None:
            seen.append(str(other))
            other = relieved(other, spills=spills)
        assert len(set(seen)) == len(seen) <= 10
        assert "k:32" in seen[-1], "what is summed together stays"
    assert len({str(v) for v in variants(tiling)}) == len(variants(tiling)) == 5
