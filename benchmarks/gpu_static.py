"""Training steps compiled for GPUs that are not there: ``python -m benchmarks gpu-static``.

Each row is a program on a target: kernels, the most registers and shared memory of one, how many
keep anything on a stack, how many load vectors, how many products run on matrix units. Nothing is
run: these are facts of the machine code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import graphc as gc
from graphc import nn, optim
from graphc.backends.triton.backend import TritonBackend
from graphc.backends.triton.compiler import CompiledKernel, compile_kernels
from graphc.backends.triton.jobs import jobs_of
from graphc.backends.triton.toolchain import TARGETS, resources_of
from graphc.closing import close
from graphc.passes.pipeline import compile_graph
from graphc.schedule import Schedule

__all__ = ["PROGRAMS", "schedule_of", "static_row", "static_table"]

#: what a product on matrix units looks like, by target
MATRIX = {
    "sm_80": "mma.sync", "sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma", "gfx942": "v_mfma",
}  # fmt: skip


def mlp() -> tuple[Any, ...]:
    x, y = gc.observed("x", (128, 784)), gc.observed("y", (128,), gc.int64)
    net = nn.Linear(784, 512) >> nn.ReLU() >> nn.Linear(512, 512) >> nn.ReLU()
    loss = nn.CrossEntropyLoss()((net >> nn.Linear(512, 10))(x), y)
    return [x, y], loss, optim.Adam(lr=1e-3).minimize(loss)


def cnn() -> tuple[Any, ...]:
    x, y = gc.observed("x", (64, 1, 28, 28)), gc.observed("y", (64,), gc.int64)
    net = nn.Conv2d(1, 32, 3, padding=1) >> nn.ReLU() >> nn.MaxPool2d(2)
    net = net >> nn.Conv2d(32, 64, 3, padding=1) >> nn.ReLU() >> nn.MaxPool2d(2)
    loss = nn.CrossEntropyLoss()((net >> nn.Flatten() >> nn.Linear(3136, 10))(x), y)
    return [x, y], loss, optim.SGD(lr=0.1, momentum=0.9).minimize(loss)


def transformer() -> tuple[Any, ...]:
    """A layer with causal attention, written out, and its gradients."""
    batch, length, width, heads = 4, 128, 256, 4
    x = gc.observed("x", (batch, length, width))
    make = {name: nn.Linear(width, width) for name in "qkvo"}

    def split(v: gc.Value) -> gc.Value:
        return v.reshape(batch, length, heads, width // heads).permute(0, 2, 1, 3)

    normal = nn.LayerNorm(width)(x)
    q, k, v = (split(make[n](normal)) for n in "qkv")
    place = gc.ops.arange(length)
    scores = (q @ k.permute(0, 1, 3, 2)) * (width // heads) ** -0.5
    masked = gc.ops.where(place[:, None] >= place[None, :], scores, -np.inf)
    mixed = (gc.ops.softmax(masked, -1) @ v).permute(0, 2, 1, 3).reshape(batch, length, width)
    hidden = x + make["o"](mixed)
    wide = nn.Linear(width, 4 * width) >> nn.GELU() >> nn.Linear(4 * width, width)
    out = hidden + wide(nn.LayerNorm(width)(hidden))
    loss = (out * out).mean()
    return [x], loss, optim.SGD(lr=0.1).minimize(loss)


def lstm() -> tuple[Any, ...]:
    steps, batch, width = 16, 32, 64
    x = gc.observed("x", (steps, batch, width))
    into, back = nn.Linear(width, 4 * width), nn.Linear(width, 4 * width)

    def cell(carry: Any, given: gc.Value) -> Any:
        h, c = carry
        gates = into(given) + back(h)
        i, f, g, o = (gates[:, n * width : (n + 1) * width] for n in range(4))
        c = gc.ops.sigmoid(f) * c + gc.ops.sigmoid(i) * gc.ops.tanh(g)
        h = gc.ops.sigmoid(o) * gc.ops.tanh(c)
        return (h, c), h

    zero = gc.ops.zeros((batch, width))
    _, hidden = gc.scan(cell, (zero, zero), x)
    loss = (hidden * hidden).mean()
    return [x], loss, optim.SGD(lr=0.1).minimize(loss)


PROGRAMS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "mlp": mlp, "cnn": cnn, "transformer": transformer, "lstm": lstm,
}  # fmt: skip


def schedule_of(name: str, precision: str = "ieee") -> Schedule:
    """The schedule of a program's training step for this backend; nothing is compiled."""
    gc.manual_seed(0)
    inputs, loss, updates = PROGRAMS[name]()
    graph = close([loss], updates, inputs, mode="train")
    backend = TritonBackend(precision)
    compiled = compile_graph(graph, name, rewrite=backend.refine, blocks=backend.blocks)
    return compiled.scheduled.schedule


def static_row(name: str, target: str, precision: str) -> dict[str, object]:
    """What the machine code of a program's kernels holds."""
    jobs = jobs_of(schedule_of(name, precision), precision)
    made = compile_kernels(jobs.values(), TARGETS[target])
    row: dict[str, object] = {
        "program": name, "target": target, "f32 products": precision, "kernels": len(made),
    }
    return row | _resources(made, target)


def _resources(made: Sequence[CompiledKernel], target: str) -> dict[str, object]:
    products = [k for k in made if "tl.dot(" in k.emitted.text]
    matrix = sum(MATRIX[target] in "".join(k.code.texts.values()) for k in products)
    shared = max(k.code.shared for k in made)
    limit = TARGETS[target].shared
    found: dict[str, object] = {
        "products": len(products), "on matrix units": matrix, "shared": f"{shared:,} of {limit:,}",
    }
    if TARGETS[target].kind == "cuda":
        usage = [resources_of(k.code) for k in made]
        vectors = sum(
            bool(re.search(r"(ld\.global[\w.:]*\.v[24]|cp\.async)", k.code.texts["ptx"]))
            for k in made
        )
        found |= {
            "most registers": max(u["registers"] for u in usage),
            "with a stack": sum(u["stack"] > 0 for u in usage), "with vector loads": vectors,
        }
    else:
        counts = [re.findall(r"vgpr_spill_count:\s*(\d+)", k.code.texts["amdgcn"]) for k in made]
        found |= {
            "most registers": "", "with a stack": sum(int(c[0]) > 0 for c in counts if c),
            "with vector loads": sum(
                "global_load_dwordx" in k.code.texts["amdgcn"]
                or "buffer_load_dwordx" in k.code.texts["amdgcn"]
                for k in made
            ),
        }
    return found


def static_table(
    programs: Sequence[str] = tuple(PROGRAMS),
    targets: Sequence[str] = tuple(TARGETS),
    precisions: Sequence[str] = ("ieee", "tf32"),
) -> str:
    """The table, in Markdown; ``tf32`` rows for the targets that have it."""
    rows: list[Mapping[str, object]] = []
    for name in programs:
        for target in targets:
            for precision in precisions:
                if precision == "ieee" or TARGETS[target].kind == "cuda":
                    rows.append(static_row(name, target, precision))
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(row[h]) for h in head) + " |" for row in rows]
    return "\n".join(lines)
