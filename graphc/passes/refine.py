"""Kernels -> what a backend runs well: a kernel may become copies and a kernel that reads them.

::

    contract a, b   ->   packed = pack b;  contract a, packed

What to copy is the backend's to know; equal copies of the same tensors are made once. Copies of
what a loop does not change are made before it (``leave_loop``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from graphc.kernel.terms import Kernel, KernelTensor
from graphc.kernel.text import print_kernel
from graphc.passes.compose import Block, Call, ControlCall, KernelCall
from graphc.passes.pieces import Control, Slot

__all__ = ["Refine", "leave_loop", "refine"]

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


def leave_loop(control: Control, body: Block) -> tuple[list[KernelCall], ControlCall]:
    """The copies that are the same in all iterations, and the loop without them, which reads them.

    ::

        loop { p = turn w;  d = contract d, p }   ->   p = turn w;  loop { d = contract d, p }
    """
    changed = {s.key for call in body.calls for s in call.outputs}
    changed |= {s.key for s in control.results}
    leaving = [call for call in body.calls if _is_copy(call) and not _depends(call, changed)]
    if not leaving:
        return [], ControlCall(control, (body,))
    copies = [call for call in leaving if isinstance(call, KernelCall)]
    left = tuple(call for call in body.calls if call not in leaving)
    made = tuple(slot for call in copies for slot in call.outputs)
    reading = replace(control, reads=(*control.reads, *made))
    return copies, ControlCall(reading, (replace(body, calls=left),))


def _is_copy(call: Call) -> bool:
    """Whether a kernel only lays out what another one made, and cannot fail."""
    if not isinstance(call, KernelCall) or call.kernel.checks:
        return False
    made = {p.slot for p in call.region.pieces}
    return not any(s in made for s in call.outputs)


def _depends(call: Call, changed: set[str]) -> bool:
    """Whether a call reads what an iteration writes, or the number of the iteration."""
    assert isinstance(call, KernelCall)
    return bool(call.scalars) or any(s.key in changed for s in call.inputs)


def _names(kernel: Kernel) -> list[str]:
    return [t.name for t in (*kernel.inputs, *kernel.outputs)]


def _slot(call: KernelCall, tensor: KernelTensor) -> Slot:
    return Slot(f"{call.outputs[0].key}.{tensor.name}", tensor.name, tensor.type, "computed")
