"""Run one kernel as a program of one launch, on whatever driver the backend has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from graphc.backends.triton import driver as cuda
from graphc.backends.triton.backend import device_target
from graphc.backends.triton.layout import ordered_operands
from graphc.backends.triton.program import Program
from graphc.backends.triton.tiling import GpuTiling
from graphc.kernel.terms import Kernel, KernelTensor
from graphc.schedule import Barrier, Buffer, CheckInfo, Launch, Schedule, evaluate_type
from graphc.types import TensorType


def program_of(
    kernel: Kernel, sizes: Mapping[str, int] | None = None, precision: str = "ieee",
    tiling: GpuTiling | None = None,
) -> Program:
    """A program whose arguments are the kernel's inputs and scalars; operands are ordered first, as
    the backend does, unless a tiling is given.
    """
    bound = dict(sizes or {})
    steps = (kernel,) if tiling is not None else ordered_operands(kernel, precision)
    steps = tuple(replace(k, name=f"k{n}_{k.name}") for n, k in enumerate(steps))
    buffers: dict[str, Buffer] = {}
    for tensor in kernel.inputs:
        buffers[tensor.name] = _buffer(tensor, "argument", bound)
    scalars = [
        Buffer(f"scalar_{s.name}", "argument", TensorType(s.dtype, ())) for s in kernel.scalars
    ]
    offset = 0
    for copy in steps[:-1]:
        for tensor in copy.outputs:
            made = _buffer(tensor, "arena", bound)
            buffers[tensor.name] = replace(made, offset=offset)
            assert isinstance(made.type.nbytes, int)
            offset += (made.type.nbytes + 255) // 256 * 256
    for tensor in kernel.outputs:
        buffers[tensor.name] = _buffer(tensor, "output", bound)
    body: list[Launch | Barrier] = []
    for step in steps:
        body += [_launch(step, buffers, bound, scalars if step is steps[-1] else []), Barrier()]
    checks = tuple(CheckInfo(c.message) for c in kernel.checks)
    schedule = Schedule("one", (*buffers.values(), *scalars), steps, tuple(body), checks)
    device = cuda.driver()
    return Program(
        schedule, states={}, constants={}, driver=device,
        target=device_target(device.capability), precision=precision,
        tilings={} if tiling is None else {steps[-1].name: tiling},
    )


def _buffer(tensor: KernelTensor, kind: str, sizes: Mapping[str, int]) -> Buffer:
    return Buffer(f"{kind}_{tensor.name}", kind, evaluate_type(tensor.type, sizes))


def _launch(
    kernel: Kernel, buffers: Mapping[str, Buffer], sizes: Mapping[str, int], scalars: list[Buffer]
) -> Launch:
    return Launch(
        kernel.name,
        tuple(buffers[t.name].name for t in kernel.inputs),
        tuple(buffers[t.name].name for t in kernel.outputs),
        tuple(sizes[s.name] for s in kernel.sizes),
        tuple(b.name for b in scalars),
    )


def run_on_device(
    kernel: Kernel,
    inputs: Mapping[str, Any],
    sizes: Mapping[str, int] | None = None,
    scalars: Mapping[str, Any] | None = None,
    precision: str = "ieee",
) -> dict[str, Any]:
    """The kernel's outputs by name."""
    program = program_of(kernel, sizes, precision)
    given = [np.array(inputs[t.name], t.type.dtype.numpy, order="C") for t in kernel.inputs]
    given += [np.array((scalars or {})[s.name], s.dtype.numpy) for s in kernel.scalars]
    made = program.call(*given)
    results = made if isinstance(made, tuple) else (made,)
    return {t.name: np.asarray(r) for t, r in zip(kernel.outputs, results, strict=True)}
