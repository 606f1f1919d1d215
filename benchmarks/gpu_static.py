"""Training steps compiled for GPUs that are not there: ``python -m benchmarks gpu-static``.

Each row is a program on a target: kernels, products, how many of the large ones (64 rows and 16
terms, or more) run on matrix units, the most registers and shared memory of a kernel, how many keep
anything on a stack, how many load vectors, and how many rules of ``misses`` are broken. Nothing is
run: these are facts of the machine code.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import graphc as gc
from graphc import nn, optim
from graphc.backends.triton.access import flat_offset
from graphc.backends.triton.backend import TritonBackend
from graphc.backends.triton.compiler import CompiledKernel, compile_kernels
from graphc.backends.triton.jobs import jobs_of
from graphc.backends.triton.prepare import prepare
from graphc.backends.triton.tiling import matrix_products
from graphc.backends.triton.toolchain import TARGETS, resources_of
from graphc.closing import close
from graphc.kernel.terms import Kernel, Load
from graphc.passes.pipeline import compile_graph
from graphc.schedule import Schedule

__all__ = ["BUILDS", "PROGRAMS", "misses", "schedule_of", "static_row", "static_table"]

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


def unet(depth: int = 2) -> tuple[Any, ...]:
    """Down and up again, with the pictures of the way down beside those of the way up."""
    x, y = gc.observed("x", (8, 3, 64, 64)), gc.observed("y", (8, 1, 64, 64))
    widths = [32 << n for n in range(depth + 1)]

    def pair(into: int, out: int) -> Any:
        first = nn.Conv2d(into, out, 3, padding=1) >> nn.BatchNorm2d(out) >> nn.ReLU()
        return first >> nn.Conv2d(out, out, 3, padding=1) >> nn.BatchNorm2d(out) >> nn.ReLU()

    way = [pair(3, 32)(x)]
    for narrow, wide in itertools.pairwise(widths):
        way.append(pair(narrow, wide)(nn.MaxPool2d(2)(way[-1])))
    high = way.pop()
    for narrow, wide in itertools.pairwise(reversed(widths)):
        grown = nn.ConvTranspose2d(narrow, wide, 2, stride=2)(high)
        high = pair(narrow, wide)(gc.ops.concat([way.pop(), grown], 1))
    loss = nn.BCEWithLogitsLoss()(nn.Conv2d(32, 1, 1)(high), y)
    return [x, y], loss, optim.SGD(lr=0.1, momentum=0.9).minimize(loss)


PROGRAMS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "mlp": mlp, "cnn": cnn, "transformer": transformer, "lstm": lstm, "unet": unet,
    "small unet": lambda: unet(1),
}  # fmt: skip
#: how products of float32 run: exactly, on matrix units, or rounded to bfloat16 by autocast
BUILDS = ("ieee", "tf32", "bf16")


def schedule_of(name: str, build: str = "ieee") -> Schedule:
    """The schedule of a program's training step for this backend; nothing is compiled."""
    gc.manual_seed(0)
    inputs, loss, updates = PROGRAMS[name]()
    results = {"loss": loss, "new": dict(updates)}
    if build == "bf16":
        results = gc.autocast(results, gc.bfloat16)
    graph = close([results["loss"]], results["new"], inputs, mode="train")
    backend = TritonBackend(precision_of(build))
    compiled = compile_graph(graph, name, rewrite=backend.refine, blocks=backend.blocks)
    return compiled.scheduled.schedule


def precision_of(build: str) -> str:
    """What the backend is told of the products of float32 that are left in a build."""
    return "tf32" if build == "tf32" else "ieee"


def compiled_kernels(name: str, target: str, build: str) -> list[tuple[Kernel, CompiledKernel]]:
    """A program's kernels and their machine code."""
    jobs = jobs_of(schedule_of(name, build), precision_of(build))
    made = compile_kernels(jobs.values(), TARGETS[target])
    return [(prepare(job.kernel), code) for job, code in zip(jobs.values(), made, strict=True)]


def static_row(name: str, target: str, build: str) -> dict[str, object]:
    """What the machine code of a program's kernels holds."""
    kernels = compiled_kernels(name, target, build)
    row: dict[str, object] = {
        "program": name, "target": target, "f32 products": build, "kernels": len(kernels),
    }
    large = [code for kernel, code in kernels if is_large_product(kernel)]
    return row | {
        "products": sum("tl.dot(" in code.emitted.text for _, code in kernels),
        "large": len(large),
        "on matrix units": sum(on_matrix_units(code, target) for code in large),
        **_resources([code for _, code in kernels], target),
        "misses": len([text for pair in kernels for text in misses(*pair, target, build)]),
    }


def is_large_product(kernel: Kernel) -> bool:
    """Whether it multiplies matrices of 64 rows and sums 16 terms, or more."""
    place = [axis for axis, _ in kernel.axes]
    return any(
        _extent(kernel, min(p.m, p.n, key=place.index)) >= 64 and _extent(kernel, p.k) >= 16
        for p in matrix_products(kernel)
    )


def _extent(kernel: Kernel, axis: str) -> int:
    extent = kernel.extents[axis]
    return extent if isinstance(extent, int) else 0


def on_matrix_units(code: CompiledKernel, target: str) -> bool:
    """Whether it holds the target's own instruction for products."""
    return MATRIX[target] in "".join(code.code.texts.values())


def streams(kernel: Kernel) -> bool:
    """Whether it reads a large dense input along its rows, and multiplies nothing."""
    if matrix_products(kernel):
        return False
    for term in kernel.terms:
        if isinstance(term, Load) and term.pred is None:
            tensor = kernel.tensors[term.tensor]
            flat = flat_offset(tensor, term.index)
            steps = [s for a, s in flat.axes.items() if isinstance(s, int)]
            even = all(s % 4 == 0 for s in steps if s != 1) and not flat.atoms
            longest = max((_extent(kernel, a) for a, s in flat.axes.items() if s == 1), default=0)
            if 1 in steps and even and longest % 4 == 0 and longest >= 128 and (
                tensor.type.dtype.itemsize >= 4 and int(tensor.type.elements) >= 1 << 16
            ):
                return True
    return False


def misses(kernel: Kernel, code: CompiledKernel, target: str, build: str) -> list[str]:
    """What a kernel's machine code should be and is not."""
    amd = TARGETS[target].kind == "hip"
    texts, found = code.code.texts, []
    used = resources_of(code.code, TARGETS[target])
    if used["stack"] or used.get("spilled", 0):
        found.append(f"{kernel.name}: keeps {used['stack']} bytes on a stack")
    if code.code.shared > TARGETS[target].shared:
        found.append(f"{kernel.name}: {code.code.shared} bytes of shared memory")
    if build != "ieee" and is_large_product(kernel) and not on_matrix_units(code, target):
        found.append(f"{kernel.name}: its product is not {MATRIX[target]}")
    if not amd and build == "ieee" and "tl.dot(" in code.emitted.text and not _is_exact(texts):
        found.append(f"{kernel.name}: its exact product is no fma.rn.f32")
    if streams(kernel) and not _loads_vectors(texts):
        found.append(f"{kernel.name}: streams without vector loads")
    passed = (8,) * (len(code.emitted.arguments) + 2)
    if not amd and code.code.parameters != passed:
        found.append(f"{kernel.name}: takes {code.code.parameters}, a launch passes {passed}")
    return found


def _is_exact(texts: Mapping[str, str]) -> bool:
    ptx = texts["ptx"]
    return "fma.rn.f32" in ptx and not any(word in ptx for word in ("mma.sync", "wgmma", "tcgen05"))


def _loads_vectors(texts: Mapping[str, str]) -> bool:
    if "ptx" in texts:
        return bool(re.search(r"(ld\.global[\w.:]*\.v[248]|cp\.async)", texts["ptx"]))
    return bool(re.search(r"(global|buffer)_load_dwordx", texts["amdgcn"]))


def _resources(made: Sequence[CompiledKernel], target: str) -> dict[str, object]:
    usage = [resources_of(k.code, TARGETS[target]) for k in made]
    shared = max(k.code.shared for k in made)
    return {
        "shared": f"{shared:,} of {TARGETS[target].shared:,}",
        "most registers": max(u["registers"] for u in usage),
        "with a stack": sum(u["stack"] > 0 or u.get("spilled", 0) > 0 for u in usage),
        "with vector loads": sum(_loads_vectors(k.code.texts) for k in made),
    }


def static_table(
    programs: Sequence[str] = tuple(PROGRAMS),
    targets: Sequence[str] = tuple(TARGETS),
    builds: Sequence[str] = BUILDS,
) -> str:
    """The table, in Markdown; ``tf32`` rows for the targets that have it."""
    rows: list[Mapping[str, object]] = []
    for name in programs:
        for target in targets:
            for build in builds:
                if build != "tf32" or TARGETS[target].kind == "cuda":
                    rows.append(static_row(name, target, build))
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(row[h]) for h in head) + " |" for row in rows]
    return "\n".join(lines)
