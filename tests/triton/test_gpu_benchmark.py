"""``benchmarks.gpu`` rehearsed: each part runs without a device, and its results are right."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")
pytest.importorskip("torch", reason="needs PyTorch")

from benchmarks import gpu
from benchmarks.gpu_place import Rehearsal

LEAST = {
    "rows_of_numbers": ("softmax", "layer norm"),
    "products": ("GEMM 32 ieee", "GEMM 32 tf32 x w.T", "GEMM 32 bf16"),
    "attention": ("causal attention 1x2x20x16 bf16",),
    "steps": ("CNN", "a call from Python"),
}


@pytest.mark.parametrize(
    "part", [pytest.param(p, marks=[pytest.mark.slow] if p == "steps" else []) for p in gpu.PARTS]
)
def test_a_part_runs(part: str, device: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("GRAPHC_BACKEND", "triton")
    rows = {row["name"]: row for row in gpu.measure(Rehearsal(), (part,))}
    for name in LEAST[part]:
        assert any(found.startswith(name) for found in rows), name
    timed = {name: row for name, row in rows.items() if "error" in row}
    for name, row in timed.items():
        assert row["error"] < (1e-2 if "bf16" in name else 1e-4), name
        assert row["torch_us"] > 0
        assert "graphc of memory" in row or any(f"graphc of {k}" in row for k in gpu.KINDS)
    assert set(LEAST) == set(gpu.PARTS)


def test_a_peer_that_cannot_run_is_named() -> None:
    bench, place = gpu.Bench(Rehearsal()), Rehearsal()

    def broken() -> Any:
        raise RuntimeError("no such library")

    place.ours = lambda program, repeats: 1.0  # type: ignore[method-assign]
    bench.place = place
    bench.row("one", None, {"other": broken})
    assert "no such library" in bench.rows[0]["left out"]["other"]
