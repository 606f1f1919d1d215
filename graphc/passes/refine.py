"""Kernels -> what a backend runs well: a kernel may become copies and a kernel that reads them.

::

    contract a, b   ->   packed = pack b;  contract a, packed

What to copy is the backend's to know; equal copies of the same tensors are made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from graphc.kernel.terms import Kernel, KernelTensor
from graphc.kernel.text import print_kernel
from graphc.passes.compose import KernelCall
from graphc.passes.pieces import Slot

__all__ = ["Refine", "refine"]

#: a kernel -> kernels in order, the last of which computes what the first one did
Refine = Callable[[Kernel], Sequence[Kernel]]


def refine(calls: Iterable[KernelCall], rewrite: Refine) -> list[KernelCall]:
    """The calls with each kernel replaced by what ``rewrite`` makes of it."""
    made: dict[tuple[str, ...], tuple[Slot, ...]] = {}
    out: list[KernelCall] = []
    for call in calls:
        kernels = rewrite(call.kernel)
        slots = dict(zip(_names(call.kernel), (*call.inputs, *call.outputs), strict=True))
        for kernel in kernels[:-1]:
            inputs = tuple(slots[t.name] for t in kernel.inputs)
            key = (print_kernel(kernel).split("\n", 1)[1], *(s.key for s in inputs))
            if key not in made:
                made[key] = tuple(_slot(call, t) for t in kernel.outputs)
                out.append(
                    replace(call, kernel=kernel, inputs=inputs, outputs=made[key], check_sources=())
                )
            slots |= {t.name: s for t, s in zip(kernel.outputs, made[key], strict=True)}
        last = kernels[-1]
        out.append(replace(call, kernel=last, inputs=tuple(slots[t.name] for t in last.inputs)))
    return out


def _names(kernel: Kernel) -> list[str]:
    return [t.name for t in (*kernel.inputs, *kernel.outputs)]


def _slot(call: KernelCall, tensor: KernelTensor) -> Slot:
    return Slot(f"{call.outputs[0].key}.{tensor.name}", tensor.name, tensor.type, "computed")
