"""Run one kernel as a program of one launch, on whatever driver the backend has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from graphc.backends.triton import driver as cuda
from graphc.backends.triton.backend import device_target
from graphc.backends.triton.program import Program
from graphc.backends.triton.tiling import GpuTiling
from graphc.kernel.terms import Kernel, KernelTensor
from graphc.schedule import Buffer, CheckInfo, Launch, Schedule, evaluate_type
from graphc.types import TensorType


def program_of(
    kernel: Kernel, sizes: Mapping[str, int] | None = None, precision: str = "ieee",
    tiling: GpuTiling | None = None,
) -> Program:
    """A program whose arguments are the kernel's inputs and scalars."""
    kernel = replace(kernel, name="k_" + kernel.name)
    bound = dict(sizes or {})

    def buffer(tensor: KernelTensor, kind: str) -> Buffer:
        return Buffer(f"{kind}_{tensor.name}", kind, evaluate_type(tensor.type, bound))

    inputs = [buffer(t, "argument") for t in kernel.inputs]
    outputs = [buffer(t, "output") for t in kernel.outputs]
    scalars = [Buffer(f"scalar_{s.name}", "argument", TensorType(s.dtype, ())) for s in
               kernel.scalars]
    launch = Launch(
        kernel.name, tuple(b.name for b in inputs), tuple(b.name for b in outputs),
        tuple(bound[s.name] for s in kernel.sizes), tuple(b.name for b in scalars),
    )
    checks = tuple(CheckInfo(c.message) for c in kernel.checks)
    schedule = Schedule(
        "one", (*inputs, *scalars, *outputs), (kernel,), (launch,), checks
    )
    device = cuda.driver()
    return Program(
        schedule, states={}, constants={}, driver=device,
        target=device_target(device.capability), precision=precision,
        tilings={} if tiling is None else {kernel.name: tiling},
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
